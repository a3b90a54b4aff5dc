//! A shard: its committed log, what is proposed and not committed yet, and who leads it.

use std::collections::{BTreeMap, VecDeque};

use jangada_transactions::{Answer, Command, Config, Image, Leader, Now, Pending, Rejection, Reply, Step};

/// A command that is under way, and who waits for it.
#[derive(Debug)]
struct Proposed<C> {
    command: Command,
    waits: Option<(Pending, C)>,
}

/// A request's answer, and who asked.
pub type Answered<C> = (C, Result<Answer, Rejection>);

#[derive(Debug)]
pub struct Shard<C> {
    pub image: Image,
    pub leader: Option<Leader>,
    pub config: Config,
    index: u64,
    inflight: VecDeque<Proposed<C>>,
    /// How often each kind of command, and each outcome of a transaction, took effect.
    pub effects: BTreeMap<&'static str, u64>,
}

pub fn now(ms: u64) -> Now {
    Now {
        monotonic_ms: ms,
        wall_ms: 1_700_000_000_000 + ms,
        steady_since_ms: 0,
    }
}

impl<C> Shard<C> {
    pub fn new(image: Image, config: Config) -> Self {
        let index = image.version();
        let leader = Leader::new(config.clone(), &image, now(0));
        Self {
            image,
            leader: Some(leader),
            config,
            index,
            inflight: VecDeque::new(),
            effects: BTreeMap::new(),
        }
    }

    /// Decides a request, or drops it where nobody leads.
    pub fn ask(
        &mut self,
        caller: C,
        ms: u64,
        decide: impl FnOnce(&mut Leader, &Image, Now) -> Step,
    ) -> Option<Answered<C>> {
        let step = decide(self.leader.as_mut()?, &self.image, now(ms));
        self.go_on(step, caller)
    }

    fn go_on(&mut self, step: Step, caller: C) -> Option<Answered<C>> {
        match step {
            Step::Done(answer) => Some((caller, answer)),
            Step::Propose { command, pending } => {
                let waits = Some((pending, caller));
                self.inflight.push_back(Proposed { command, waits });
                None
            }
            other => panic!("this leader reads no rows: {other:?}"),
        }
    }

    pub fn tick(&mut self, ms: u64) {
        let Some(leader) = &mut self.leader else { return };
        for command in leader.tick(&self.image, now(ms)) {
            self.inflight.push_back(Proposed { command, waits: None });
        }
        leader.take_events();
    }

    pub fn has_inflight(&self) -> bool {
        !self.inflight.is_empty()
    }

    /// The last command that is under way, for the bug that answers before it is committed.
    pub fn last_proposed(&self) -> Option<&Command> {
        self.inflight.back().map(|proposed| &proposed.command)
    }

    /// Commits the first command that is under way.
    pub fn commit(&mut self, ms: u64) -> Option<Answered<C>> {
        let Proposed { command, waits } = self.inflight.pop_front()?;
        let reply = self.apply(&command, ms);
        let (pending, caller) = waits?;
        let step = self.leader.as_mut()?.resume(&self.image, pending, reply, now(ms));
        self.go_on(step, caller)
    }

    /// Commits all, for tests in which nothing comes between.
    pub fn settle(&mut self, ms: u64) -> Vec<Answered<C>> {
        let mut answered = Vec::new();
        while self.has_inflight() {
            answered.extend(self.commit(ms));
        }
        answered
    }

    fn apply(&mut self, command: &Command, ms: u64) -> Reply {
        let command = Command::decode(&command.encode()).expect("what was encoded can be decoded");
        self.index += 1;
        let before = cfg!(debug_assertions).then(|| self.image.clone());
        let reply = self.image.apply(self.index, &command);
        if let (Some(before), Reply::Rejected(_)) = (before, &reply) {
            assert!(
                before.ids().eq(self.image.ids()),
                "a refused command changes nothing: {command:?}"
            );
        }
        if let Reply::Applied { count: 1.. } = reply {
            let what = match &command {
                Command::End { outcome, .. } => outcome.as_str(),
                Command::Init { from: None, .. } => "Create",
                other => other.kind().as_str(),
            };
            *self.effects.entry(what).or_default() += 1;
        }
        if let Some(leader) = &mut self.leader {
            leader.applied(&self.image, &command, now(ms));
        }
        reply
    }

    /// The leader is gone. The first `kept` of what is under way are in the log of the next one, the others are lost; nobody is answered.
    /// Gives the leader that was there, with the state that it saw last.
    pub fn lose_leader(&mut self, kept: usize, ms: u64) -> Option<(Image, Leader)> {
        let before = self.leader.take().map(|leader| (self.image.clone(), leader));
        for at in 0..self.inflight.len() {
            let proposed = self.inflight.pop_front().expect("it was counted");
            if at < kept {
                self.apply(&proposed.command, ms);
            }
        }
        before
    }

    /// Loses what is under way, as when a quorum does not answer in time.
    pub fn drop_inflight(&mut self) -> usize {
        let lost = self.inflight.len();
        self.inflight.clear();
        lost
    }

    pub fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// The next leader begins, from the state as a snapshot gives it.
    pub fn elect(&mut self, ms: u64) {
        self.image.check().expect("the state is sound");
        let restored = Image::restore(&self.image.snapshot()).expect("a snapshot can be read");
        assert_eq!(restored, self.image);
        self.image = restored;
        self.leader = Some(Leader::new(self.config.clone(), &self.image, now(ms)));
    }
}
