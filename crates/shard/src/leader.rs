//! The leader's side of a shard: that of the consumer groups and that of the transactional ids, side by side.

use std::sync::Arc;

use jangada_coordinator as coordinator;
use jangada_machine::{self as machine, Due, DueOf, Leader, Now};
use jangada_transactions as transactions;

use crate::machine::{Command, Reply, Shard};

/// The volatile side of a shard.
#[derive(Debug)]
pub struct ShardLeader {
    groups: coordinator::Leader,
    transactions: transactions::Leader,
}

/// The inputs of a shard's leader that are not in the shard.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Those of the consumer groups.
    pub groups: Arc<coordinator::Surroundings>,
    /// The settings of transactions.
    pub transactions: Arc<transactions::Config>,
}

/// A request whose command is under way.
#[derive(Debug)]
pub enum Pending {
    /// A request about a consumer group.
    Group(coordinator::Pending),
    /// A request about a transactional id.
    Transaction(transactions::Pending),
}

/// The successful answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// That to a request about a consumer group.
    Group(coordinator::Answer),
    /// That to a request about a transactional id.
    Transaction(transactions::Answer),
}

/// Something that people may ask about later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It happened to a consumer group.
    Group(coordinator::Event),
    /// It happened to a transactional id.
    Transaction(transactions::Event),
}

/// The host's next action for a request.
pub type Step = machine::Step<Command, Pending, Answer>;

impl ShardLeader {
    /// Decides a request about a consumer group.
    pub fn groups(
        &mut self,
        shard: &Shard,
        now: Now,
        decide: impl FnOnce(&mut coordinator::Leader, &coordinator::Image, Now) -> coordinator::Step,
    ) -> Step {
        of_group(decide(&mut self.groups, &shard.groups, now))
    }

    /// Decides a request about a transactional id.
    pub fn transactions(
        &mut self,
        shard: &Shard,
        now: Now,
        decide: impl FnOnce(&mut transactions::Leader, &transactions::Image, Now) -> transactions::Step,
    ) -> Step {
        of_transaction(decide(&mut self.transactions, &shard.transactions, now))
    }

    /// The leader of the transactional ids, whose markers the host sends.
    pub fn outbox(&mut self) -> &mut transactions::Leader {
        &mut self.transactions
    }
}

fn of_group(step: coordinator::Step) -> Step {
    step.map(Command::Group, Pending::Group, Answer::Group)
}

fn of_transaction(step: transactions::Step) -> Step {
    step.map(Command::Transaction, Pending::Transaction, Answer::Transaction)
}

impl Leader for ShardLeader {
    type Machine = Shard;
    type Pending = Pending;
    type Answer = Answer;
    type Event = Event;
    type Surroundings = Surroundings;

    fn begin(shard: &Shard, surroundings: &Arc<Surroundings>, now: Now) -> Self {
        Self {
            groups: Leader::begin(&shard.groups, &surroundings.groups, now),
            transactions: Leader::begin(&shard.transactions, &surroundings.transactions, now),
        }
    }

    fn surroundings_changed(&mut self, shard: &Shard, surroundings: &Arc<Surroundings>, now: Now) {
        Leader::surroundings_changed(&mut self.groups, &shard.groups, &surroundings.groups, now);
        let config = &surroundings.transactions;
        Leader::surroundings_changed(&mut self.transactions, &shard.transactions, config, now);
    }

    fn applied(&mut self, shard: &Shard, command: &Command, reply: &Reply, now: &dyn Fn() -> Now) {
        match (command, reply) {
            (Command::Group(command), Reply::Group(reply)) => {
                Leader::applied(&mut self.groups, &shard.groups, command, reply, now);
            }
            (Command::Transaction(command), Reply::Transaction(reply)) => {
                Leader::applied(&mut self.transactions, &shard.transactions, command, reply, now);
            }
            _ => unreachable!("a command is replied to by the side that it is of"),
        }
    }

    fn resume(&mut self, shard: &Shard, pending: Pending, reply: Reply, now: Now) -> Step {
        match (pending, reply) {
            (Pending::Group(pending), Reply::Group(reply)) => {
                of_group(self.groups.resume(&shard.groups, pending, reply, now))
            }
            (Pending::Transaction(pending), Reply::Transaction(reply)) => {
                of_transaction(self.transactions.resume(&shard.transactions, pending, reply, now))
            }
            _ => unreachable!("a request's command is replied to by the side that it is of"),
        }
    }

    fn tick(&mut self, shard: &Shard, now: Now) -> Vec<DueOf<Self>> {
        let groups = self.groups.tick(&shard.groups, now).into_iter().map(Command::Group);
        let transactions = self.transactions.tick(&shard.transactions, now);
        let transactions = transactions.into_iter().map(Command::Transaction);
        groups.chain(transactions).map(Due::Propose).collect()
    }

    fn next_deadline(&self) -> Option<u64> {
        let deadlines = [self.groups.next_deadline(), self.transactions.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    fn take_events(&mut self) -> Vec<Event> {
        let groups = self.groups.take_events().into_iter().map(Event::Group);
        let transactions = self.transactions.take_events().into_iter().map(Event::Transaction);
        groups.chain(transactions).collect()
    }

    fn events_of(shard: &Shard, command: &Command) -> Vec<Event> {
        match command {
            Command::Group(command) => {
                let events = coordinator::Event::of(&shard.groups, command);
                events.into_iter().map(Event::Group).collect()
            }
            Command::Transaction(command) => {
                let events = transactions::Event::of(&shard.transactions, command);
                events.into_iter().map(Event::Transaction).collect()
            }
        }
    }

    fn had_effect(reply: &Reply) -> bool {
        match reply {
            Reply::Group(reply) => <coordinator::Leader as Leader>::had_effect(reply),
            Reply::Transaction(reply) => <transactions::Leader as Leader>::had_effect(reply),
        }
    }
}
