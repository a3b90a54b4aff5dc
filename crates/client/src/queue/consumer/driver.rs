//! The task of a consumer: it keeps a stream with each broker that leads partitions of the queue, hands messages out, settles them, and
//! extends their leases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jangada_proto::v1;
use jangada_proto::v1::consume_request::Message as Request;
use jangada_proto::v1::consume_response::Message as Response;
use jangada_types::{BrokerId, Reason};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::Code;

use super::QueueDelivery;
use super::config::QueueConsumerConfig;
use super::full::InFlightFull;
use super::held::{AllHeld, Came};
use super::link::{Link, LinkEvent, LinkId};
use super::said::{Command, Said};
use crate::attempts::CallFailed;
use crate::backoff::Backoff;
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::notice::{Next, Trouble};
use crate::queue::calls::{Queue, QueueLayout, item, lease_ms, queue_error, unreadable};
use crate::queue::message::{ReceivedMessage, Settled, Settlement, Token};
use crate::wire_error::{Disposition, Failure};

/// Messages that one request settles at most.
const SETTLE_ITEMS_MAX: usize = 10_000;
/// How long a consumer that ends waits for each broker to take leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A message to settle that is tried.
struct Asked {
    command: Command,
    until: Instant,
    /// An attempt before was not answered.
    in_doubt: bool,
}

impl Asked {
    fn is_extension(&self) -> bool {
        matches!(self.command.settlement, Settlement::Extend { .. })
    }
}

enum Event {
    Said(Option<Said>),
    Link(LinkId, LinkEvent),
    Found(Result<QueueLayout, ClientError>),
    /// A time has come.
    Due,
}

type Finding = BoxFuture<'static, Result<QueueLayout, ClientError>>;

pub(super) struct Driver {
    cluster: Arc<Cluster>,
    queue: Arc<str>,
    config: QueueConsumerConfig,
    session: u64,
    layout: QueueLayout,
    /// For the handles of messages.
    commands: mpsc::WeakUnboundedSender<Said>,
    inbox: mpsc::UnboundedSender<Result<QueueDelivery, ClientError>>,
    held: AllHeld,
    links: BTreeMap<BrokerId, Link>,
    generation: u64,
    events: mpsc::UnboundedSender<(LinkId, LinkEvent)>,
    /// Settlements that wait for a stream.
    waiting: Vec<Asked>,
    /// Settlements that were sent, by the request's number.
    sent: BTreeMap<u64, (LinkId, Vec<Asked>)>,
    correlation: u64,
    backoff: Backoff,
    /// Nothing is opened or settled again before this time.
    not_before: Option<Instant>,
    find_at: Instant,
    trouble: Option<Trouble>,
    full: InFlightFull,
}

impl Driver {
    pub fn new(
        cluster: Arc<Cluster>,
        queue: Arc<str>,
        config: QueueConsumerConfig,
        layout: QueueLayout,
        commands: mpsc::WeakUnboundedSender<Said>,
        inbox: mpsc::UnboundedSender<Result<QueueDelivery, ClientError>>,
        full: InFlightFull,
    ) -> (Self, mpsc::UnboundedReceiver<(LinkId, LinkEvent)>) {
        #[allow(
            clippy::disallowed_methods,
            reason = "messages come only for credit, answers only for requests"
        )]
        let (events, receiver) = mpsc::unbounded_channel();
        let driver = Self {
            session: cluster.env.random.number().max(1),
            backoff: Backoff::new(&cluster.env.random),
            find_at: Instant::now() + cluster.config.metadata_max_age,
            cluster,
            queue,
            config,
            layout,
            commands,
            inbox,
            held: AllHeld::default(),
            links: BTreeMap::new(),
            generation: 0,
            events,
            waiting: Vec::new(),
            sent: BTreeMap::new(),
            correlation: 0,
            not_before: None,
            trouble: None,
            full,
        };
        (driver, receiver)
    }

    pub async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Said>,
        mut events: mpsc::UnboundedReceiver<(LinkId, LinkEvent)>,
    ) {
        let mut finding: Option<Finding> = None;
        // Until the consumer and all handles are gone, and what they said is settled.
        let mut open = true;
        while open || !self.waiting.is_empty() || !self.sent.is_empty() {
            if open || !self.waiting.is_empty() {
                self.open_links(open);
            }
            self.settle_waiting();
            self.send_credit();
            if finding.is_none() && self.find_at <= Instant::now() {
                finding = Some(self.find());
            }
            let due = self.next_due(finding.is_none());
            let event = tokio::select! {
                biased;
                said = commands.recv(), if open => Event::Said(said),
                Some((link, event)) = events.recv() => Event::Link(link, event),
                found = async { finding.as_mut().expect("it is asked before").await }, if finding.is_some() => Event::Found(found),
                () = async { sleep_until(due.expect("it is asked before")).await }, if due.is_some() => Event::Due,
            };
            match event {
                Event::Said(None) => open = false,
                Event::Said(Some(said)) => {
                    self.hear(said);
                    while let Ok(more) = commands.try_recv() {
                        self.hear(more);
                    }
                }
                Event::Link(link, LinkEvent::Response(response)) => self.respond(link, response),
                Event::Link(link, LinkEvent::Ended(failure)) => {
                    if let Err(error) = self.ended(link, failure) {
                        return self.fail(error);
                    }
                }
                Event::Found(found) => {
                    finding = None;
                    if let Err(error) = self.found(found) {
                        return self.fail(error);
                    }
                }
                Event::Due => self.due(),
            }
        }
        let links = std::mem::take(&mut self.links).into_values();
        futures::future::join_all(links.map(|link| link.close(CLOSE_TIMEOUT))).await;
    }

    /// Ends the consumer, after an error that no retry mends.
    fn fail(mut self, error: ClientError) {
        for (_, (_, asked)) in std::mem::take(&mut self.sent) {
            self.waiting.extend(asked);
        }
        for asked in self.waiting.drain(..) {
            tell(asked, Err(error.clone()));
        }
        // The consumer may be gone.
        let _ = self.inbox.send(Err(error));
    }

    fn context(&self) -> String {
        format!("consume from queue {}", self.queue)
    }

    fn find(&self) -> Finding {
        let queue = Queue::new(self.cluster.clone(), self.queue.clone());
        Box::pin(async move { queue.find().await })
    }

    fn found(&mut self, found: Result<QueueLayout, ClientError>) -> Result<(), ClientError> {
        let now = Instant::now();
        self.find_at = now + self.cluster.config.metadata_max_age;
        match found {
            Ok(layout) => {
                self.layout = layout.newer(&self.layout);
                if self.is_partition_missed() {
                    self.find_at = now + self.backoff.next(None);
                }
                Ok(())
            }
            Err(error) if error.is_retryable() => {
                self.find_at = now + self.backoff.next(error.retry_delay());
                // The consumer may be gone.
                let _ = self.inbox.send(Err(error));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a partition has no leader that is known, or one that does not serve it: the layout is older than the stream, or the leader
    /// is about to begin.
    fn is_partition_missed(&self) -> bool {
        let mut partitions = (0..).zip(&self.layout.partitions);
        partitions.any(|(index, partition)| {
            let leader = partition.leader.as_ref().map(|(leader, _)| leader);
            let link = leader.map(|leader| self.links.get(leader));
            // A stream that is being opened says what it serves when it begins.
            let may_serve = link.is_some_and(|link| link.is_none_or(|link| !link.is_started() || link.serves(index)));
            !may_serve && !self.links.values().any(|link| link.serves(index))
        })
    }

    fn next_due(&self, may_find: bool) -> Option<Instant> {
        let gives_up = self.waiting.iter().map(|asked| asked.until).min();
        let finds = may_find.then_some(self.find_at);
        let times = [self.not_before, self.held.next_due(), gives_up, finds];
        times.into_iter().flatten().min()
    }

    /// Opens a stream with each broker that leads partitions and has none.
    fn open_links(&mut self, takes_more: bool) {
        if self.not_before.is_some() {
            return;
        }
        let leaders: BTreeMap<BrokerId, Arc<str>> = self
            .layout
            .partitions
            .iter()
            .filter_map(|partition| partition.leader.clone())
            .collect();
        for (broker, address) in leaders {
            if self.links.contains_key(&broker) {
                continue;
            }
            self.generation += 1;
            let id = LinkId {
                broker,
                generation: self.generation,
            };
            let orphans = self.held.orphans();
            let reserved = u32::try_from(orphans.len())
                .unwrap_or(u32::MAX)
                .min(self.config.prefetch);
            let start = v1::ConsumeStart {
                queue: self.queue.to_string(),
                queue_id: self.layout.queue_id.clone(),
                session: self.session,
                lease_ms: lease_ms(self.config.lease),
                credit: if takes_more { self.config.prefetch - reserved } else { 0 },
                max_bytes: self.config.response_bytes,
                holds: orphans
                    .into_iter()
                    .take(SETTLE_ITEMS_MAX)
                    .map(|token| token.0)
                    .collect(),
            };
            let link = Link::open(
                self.cluster.clone(),
                (id, address),
                start,
                reserved,
                self.events.clone(),
            );
            self.links.insert(broker, link);
        }
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Settle(command) => self.take(command),
            Said::InTransaction(token) => self.forget(&token),
        }
    }

    fn take(&mut self, command: Command) {
        match command.settlement {
            Settlement::Extend { .. } => self.held.extends(&command.token),
            _ => self.held.settles(&command.token),
        }
        self.waiting.push(Asked {
            command,
            until: Instant::now() + self.cluster.config.retry_timeout,
            in_doubt: false,
        });
    }

    /// Sends the settlements that wait: to the broker that serves their partition, or to any other one, which passes them on.
    fn settle_waiting(&mut self) {
        if self.waiting.is_empty() || self.not_before.is_some() {
            return;
        }
        let Some(any) = self
            .links
            .values()
            .find(|link| link.is_started())
            .map(|link| link.id.broker)
        else {
            return;
        };
        let mut by_link: BTreeMap<BrokerId, Vec<Asked>> = BTreeMap::new();
        for asked in self.waiting.drain(..) {
            let partition = asked.command.partition;
            let serving = self.links.values().find(|link| link.serves(partition));
            let broker = serving.map_or(any, |link| link.id.broker);
            by_link.entry(broker).or_default().push(asked);
        }
        for (broker, mut asked) in by_link {
            let Some(link) = self.links.get(&broker) else { continue };
            while !asked.is_empty() {
                let rest = asked.split_off(asked.len().min(SETTLE_ITEMS_MAX));
                self.correlation += 1;
                let items = asked.iter();
                link.send(Request::Settle(v1::ConsumeSettle {
                    correlation_id: self.correlation,
                    items: items
                        .map(|asked| item(&asked.command.token, &asked.command.settlement))
                        .collect(),
                }));
                self.sent.insert(self.correlation, (link.id, asked));
                asked = rest;
            }
        }
    }

    fn send_credit(&mut self) {
        for link in self
            .links
            .values_mut()
            .filter(|link| link.is_started() && link.owed > 0)
        {
            let owed = std::mem::take(&mut link.owed);
            link.send(Request::Credit(owed));
        }
    }

    fn respond(&mut self, id: LinkId, response: Response) {
        if self.links.get(&id.broker).is_none_or(|link| link.id != id) {
            return;
        }
        match response {
            Response::Started(started) => self.started(id, started.partitions),
            Response::Messages(messages) => {
                let now = Instant::now();
                for message in messages.messages {
                    self.hand_out(id, ReceivedMessage::from_wire(message), now);
                }
            }
            Response::Settled(settled) => self.settled(settled),
            Response::Moved(moved) => {
                if let Some(served) = self.links.get_mut(&id.broker).and_then(|link| link.partitions.as_mut()) {
                    served.retain(|partition| *partition != moved.partition);
                }
                self.held.moved(moved.partition);
                self.full.tell(moved.partition, None);
                self.find_at = Instant::now();
            }
            Response::InFlightFull(full) => self.full.tell(full.partition, Some((id, full.in_flight_full))),
        }
    }

    /// A stream begins, or serves more than before.
    fn started(&mut self, id: LinkId, partitions: Vec<u32>) {
        let Some(link) = self.links.get_mut(&id.broker) else {
            return;
        };
        match link.partitions.replace(partitions) {
            None => {
                let adopted = self.held.adopt(id, link.partitions.as_deref().unwrap_or_default());
                // What was kept free for messages that another stream has taken.
                link.owed += link.reserved.saturating_sub(adopted);
                self.backoff.reset();
                if let Some(mut trouble) = self.trouble.take() {
                    trouble.works();
                }
            }
            // A leader that did not hear what the consumer holds sends it again.
            Some(before) => {
                let served = link.partitions.iter().flatten();
                let new = served.filter(|partition| !before.contains(partition));
                new.for_each(|partition| self.held.moved(*partition));
            }
        }
        if self.is_partition_missed() {
            self.find_at = self.find_at.min(Instant::now() + self.backoff.next(None));
        }
    }

    fn hand_out(&mut self, id: LinkId, message: ReceivedMessage, now: Instant) {
        let partition = message.place.partition;
        if let Some(served) = self.links.get_mut(&id.broker).and_then(|link| link.partitions.as_mut())
            && !served.contains(&partition)
        {
            served.push(partition);
            self.held.moved(partition);
        }
        let extends = !self.config.extend_for.is_zero();
        let lost = match self.held.take(&message, id, extends, now) {
            Came::New(lost) => lost,
            // It took credit of this stream, which stands for it from now on, in place of the one before.
            Came::Known(before) => return self.owe(before),
            Came::Settled => return self.owe(Some(id)),
        };
        // Without a sender the consumer and all handles are gone: the stream is about to end, and gives the message back.
        let Some(commands) = self.commands.upgrade() else {
            return;
        };
        // If the consumer is gone the message comes back as a command, and is released.
        let _ = self
            .inbox
            .send(Ok(QueueDelivery::new(self.queue.clone(), message, lost, commands)));
    }

    fn settled(&mut self, settled: v1::ConsumeSettled) {
        use v1::settle_result::Result as Outcome;
        let Some((_, asked)) = self.sent.remove(&settled.correlation_id) else {
            return;
        };
        let mut results = settled.results.into_iter();
        for asked in asked {
            let outcome = results.next().and_then(|result| result.result);
            match outcome {
                Some(Outcome::Settled(outcome)) => match Settled::from_wire(outcome) {
                    Some(outcome) => self.is_settled(asked, outcome),
                    None => {
                        let error = unreadable(&self.context());
                        self.give_up(asked, error);
                    }
                },
                Some(Outcome::Error(error)) => self.not_settled(asked, error.into()),
                None => self.not_settled(
                    asked,
                    Failure::local(Code::Internal, "the broker's answer lacks a message", false),
                ),
            }
        }
    }

    fn is_settled(&mut self, asked: Asked, outcome: Settled) {
        let token = &asked.command.token;
        match (asked.is_extension(), outcome) {
            (true, Settled::Done) => {}
            (true, Settled::Already | Settled::LeaseLost) => self.held.lost(token),
            (false, _) => self.forget(token),
        }
        tell(asked, Ok(outcome));
    }

    /// A message is not this consumer's any more: another one may come.
    fn forget(&mut self, token: &Token) {
        let link = self.held.remove(token, Instant::now());
        self.owe(link);
    }

    /// A stream may send one message more, if it is there still.
    fn owe(&mut self, link: Option<LinkId>) {
        if let Some(id) = link
            && let Some(link) = self.links.get_mut(&id.broker).filter(|link| link.id == id)
        {
            link.owed += 1;
        }
    }

    fn give_up(&mut self, asked: Asked, error: ClientError) {
        if !asked.is_extension() {
            self.forget(&asked.command.token);
        }
        tell(asked, Err(error));
    }

    fn not_settled(&mut self, mut asked: Asked, failure: Failure) {
        // Settling is repeated without harm: what is settled already is a success.
        let again = failure.disposition() != Disposition::Refuse;
        asked.in_doubt |= failure.disposition() == Disposition::Unknown;
        if again && Instant::now() < asked.until {
            let delay = self.backoff.next(failure.retry_delay);
            self.wait(delay);
            self.waiting.push(asked);
            return;
        }
        let in_doubt = asked.in_doubt;
        let error = queue_error(CallFailed { failure, in_doubt }, &self.queue, &self.context());
        self.give_up(asked, error);
    }

    fn wait(&mut self, delay: Duration) {
        let at = Instant::now() + delay;
        self.not_before = Some(self.not_before.map_or(at, |known| known.min(at)));
    }

    /// A stream has ended. An error: no other one will fare better.
    fn ended(&mut self, id: LinkId, failure: Failure) -> Result<(), ClientError> {
        if self.links.get(&id.broker).is_none_or(|link| link.id != id) {
            return Ok(());
        }
        self.links.remove(&id.broker);
        self.held.orphan(id);
        self.full.ended(id);
        let numbers: BTreeSet<u64> = self
            .sent
            .iter()
            .filter(|(_, (link, _))| *link == id)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            let Some((_, asked)) = self.sent.remove(&number) else {
                continue;
            };
            // Extensions are asked for again in their time.
            self.waiting.extend(
                asked
                    .into_iter()
                    .filter(|asked| !asked.is_extension() || asked.command.done.is_some())
                    .map(|asked| Asked {
                        in_doubt: true,
                        ..asked
                    }),
            );
        }
        let is_gone = failure.reason == Some(Reason::UnknownQueue);
        if !is_gone && failure.disposition() == Disposition::Refuse {
            return Err(failure.into_error(&self.context()));
        }
        // Whether a queue is gone, and who leads its partitions now, is what the next look-up says.
        self.find_at = Instant::now();
        let delay = self.backoff.next(failure.retry_delay);
        self.wait(delay);
        let what = self.context();
        let trouble = self
            .trouble
            .get_or_insert_with(|| self.cluster.notices.trouble(what.into(), None));
        let next = Next {
            next_try: delay,
            ..Next::default()
        };
        trouble.failed(&failure, next);
        Ok(())
    }

    /// Does what is due: extends leases, tells of those that are over, and gives up what was tried for too long.
    fn due(&mut self) {
        let now = Instant::now();
        self.not_before.take_if(|at| *at <= now);
        self.held.run_out(now);
        for (token, partition) in self.held.due(self.config.extend_for, self.config.lease, now) {
            let command = Command {
                token,
                partition,
                settlement: Settlement::Extend {
                    lease: self.config.lease,
                },
                done: None,
            };
            self.take(command);
        }
        let late: Vec<Asked> = self.waiting.extract_if(.., |asked| asked.until <= now).collect();
        for asked in late {
            let message = "no broker took it in time; the message may be handed out again";
            let failure = Failure::from_brokers(Reason::LeaderNotAvailable, message);
            let in_doubt = asked.in_doubt;
            let error = CallFailed { failure, in_doubt }.into_error(&self.context());
            self.give_up(asked, error);
        }
    }
}

fn tell(asked: Asked, outcome: Result<Settled, ClientError>) {
    if let Some(done) = asked.command.done {
        // Whoever asked may not wait any more.
        let _ = done.send(outcome);
    }
}
