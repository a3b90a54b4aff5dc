//! A consumer's stream: messages of all partitions of a queue that this broker leads, for as long as it leads them.
//!
//! ```text
//!   desk of each partition ──► deliveries ──► ready ──► records read ──► a place to send ──► the client
//!        ▲                                                                                     │
//!        └──────── shares of the credit, settlements ◄─────────────────────────────────────────┘
//! ```
//!
//! What waits here is bounded: deliveries by the credit, records by one response that is being sent and one that waits, answers to
//! settlements by [`ANSWERS_MAX`], beyond which nothing more is read from the client.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use jangada_queue::SessionId;
use jangada_queue::engine::{Delivered, Settlement};
use jangada_types::{BrokerId, PartitionIndex, Reason};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::damaged::{self, Damaged};
use super::queue_ref::QueueRef;
use super::reading::{Read, read, received};
use super::settle;
use super::shares::Shares;
use super::token::Token;
use super::unseen::{Order, Unseen};
use crate::api::call::queues::{ReceivedMessage, SettleOutcomes};
use crate::api::context::RequestContext;
use crate::error::RequestError;
use crate::node::Node;
use crate::partition::Partition;
use crate::queues::{Attached, AttachedEvent};
use crate::quota::Holding;
use crate::replica::LEADER_RETRY;

/// Requests of one stream to settle messages that are under way, or whose answer was not taken.
const ANSWERS_MAX: usize = 64;
/// How often a stream looks for partitions that have come to be led here.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Events of the partitions of a stream that were not looked at.
const EVENTS_MAX: usize = 16;
/// How often a partition is asked whether consumers have as many messages as they may.
const FULL_LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a stream waits for a partition to be led here.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it looks meanwhile.
const OPEN_RETRY: Duration = Duration::from_millis(25);
/// How long a response may wait to be taken before its stream ends.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// After this time a consumer whose stream ended for that should open another.
const STALLED_RETRY: Duration = Duration::from_secs(1);
/// How long a consumer that takes leave waits for what it settled.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a stream begins.
#[derive(Clone, Debug)]
pub(crate) struct ConsumeStart {
    pub session: SessionId,
    /// None: as long as the queue's settings say.
    pub lease_ms: Option<u64>,
    pub credit: u32,
    /// Of one response, but at least one message.
    pub max_bytes: usize,
    /// The messages that the consumer has from before.
    pub holds: Vec<Token>,
}

/// What a client says on a stream.
pub(crate) enum ConsumerSays {
    /// It may get so many messages more.
    Credit(u32),
    /// What became of messages.
    Settle {
        correlation_id: u64,
        items: Vec<(Token, Settlement)>,
    },
    /// What cannot be settled, for the reason that it is told.
    Refused {
        correlation_id: u64,
        outcomes: SettleOutcomes,
    },
}

/// What a client is told on a stream.
pub(crate) enum ConsumerHears {
    Started {
        partitions: Vec<PartitionIndex>,
    },
    Messages {
        messages: Vec<ReceivedMessage>,
        /// The same messages: to be [seen](Unseen::seen) when they go to the client.
        unseen: Unseen,
        room: Holding,
    },
    Settled {
        correlation_id: u64,
        outcomes: SettleOutcomes,
    },
    Moved {
        partition: PartitionIndex,
        leader: Option<BrokerId>,
    },
    /// So many messages consumers have in the partition, as many as they may; 0: no longer.
    InFlightFull {
        partition: PartitionIndex,
        most: u64,
    },
}

/// What happened at a partition's desk.
enum Happened {
    /// It knows the stream, and sends what its session had before.
    Begun(Unseen),
    Delivered(Unseen),
    /// Consumers have as many messages as they may, so many; 0: no longer.
    InFlightFull(u64),
    /// It does not serve the stream any more.
    Lost,
}

/// What happened, and at which partition's desk.
type Event = (PartitionIndex, Happened);

/// A partition that serves the stream.
struct Served {
    partition: Arc<Partition>,
    orders: mpsc::UnboundedSender<Order>,
}

/// The stream of one consumer.
pub(crate) struct Consuming {
    node: Arc<Node>,
    context: Arc<RequestContext>,
    queue: QueueRef,
    start: ConsumeStart,
    shares: Shares,
    served: BTreeMap<PartitionIndex, Served>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    /// Deliveries whose records are still to be read.
    ready: VecDeque<(PartitionIndex, Unseen)>,
    answers: VecDeque<ConsumerHears>,
    settling: FuturesUnordered<BoxFuture<'static, (u64, SettleOutcomes)>>,
}

/// Deliveries whose records were read.
type ReadOut = (PartitionIndex, Unseen, Result<Read, RequestError>);

impl Consuming {
    /// Opens a stream, after a moment of waiting for an election.
    ///
    /// # Errors
    /// NOT_LEADER: this broker leads no partition of the queue.
    pub async fn open(
        node: &Arc<Node>,
        context: &RequestContext,
        queue: QueueRef,
        start: ConsumeStart,
    ) -> Result<Self, RequestError> {
        let mut consuming = Self {
            node: node.clone(),
            context: Arc::new(context.clone()),
            shares: Shares::default(),
            served: BTreeMap::new(),
            events: mpsc::channel(EVENTS_MAX),
            ready: VecDeque::new(),
            answers: VecDeque::new(),
            settling: FuturesUnordered::new(),
            queue,
            start,
        };
        consuming.shares.add(consuming.start.credit);
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let refused = loop {
            let refused = consuming.look();
            // A replica here may be about to lead, or the queue was just made.
            let may_come = refused.is_some() || !consuming.is_led_elsewhere();
            if !consuming.served.is_empty() || !may_come || Instant::now() >= deadline {
                break refused;
            }
            tokio::select! {
                () = tokio::time::sleep(OPEN_RETRY) => {}
                refused = node.stopping.begun() => return Err(refused),
            }
        };
        if consuming.served.is_empty() {
            return Err(refused.unwrap_or_else(|| consuming.not_led()));
        }
        consuming.tell_served();
        // What comes to be led here later is another leader's, which sends again what the consumer may not have.
        consuming.start.holds = Vec::new();
        Ok(consuming)
    }

    fn tell_served(&mut self) {
        let partitions = self.served.keys().copied().collect();
        self.answers.push_back(ConsumerHears::Started { partitions });
    }

    fn not_led(&self) -> RequestError {
        let message = format!("this broker leads no partition of queue {:?}", self.queue.name());
        RequestError::new(Reason::NotLeader, message).retry_after(LEADER_RETRY)
    }

    /// Whether other brokers lead all partitions.
    fn is_led_elsewhere(&self) -> bool {
        let here = self.node.broker();
        let mut partitions = self.queue.partitions();
        partitions
            .all(|index| super::leader_of(&self.node, &self.queue, index).is_some_and(|(leader, _)| leader != here))
    }

    /// Looks for partitions that are led here and do not serve the stream yet. Returns why one of them cannot.
    fn look(&mut self) -> Option<RequestError> {
        let mut refused = None;
        for index in self.queue.partitions() {
            if self.served.contains_key(&index) {
                continue;
            }
            let target = self.queue.target(index).ok();
            let Some(partition) = target.and_then(|target| self.node.replicas.ready::<Partition>(target.group)) else {
                continue;
            };
            if let Err(error) = self.join(index, partition) {
                refused = Some(error);
            }
        }
        self.lend();
        refused
    }

    fn join(&mut self, index: PartitionIndex, partition: Arc<Partition>) -> Result<(), RequestError> {
        let holds = self.start.holds.iter().filter(|token| token.partition == index);
        let holds = holds.map(|token| (token.offset, token.lease)).collect();
        let lease_ms = self.start.lease_ms.unwrap_or_else(|| self.queue.lease_ms());
        let attached = partition
            .desk()?
            .attach(self.queue.id(), self.start.session, lease_ms, holds)?;
        #[allow(
            clippy::disallowed_methods,
            reason = "each order follows from a message of the client or of the desk"
        )]
        let (orders, receiver) = mpsc::unbounded_channel();
        let attending = (orders.downgrade(), receiver);
        tokio::spawn(attend(index, attached, attending, self.events.0.clone()));
        self.served.insert(index, Served { partition, orders });
        Ok(())
    }

    fn lend(&mut self) {
        for (index, credit) in self.shares.lend() {
            if let Some(served) = self.served.get(&index) {
                // If its task has ended, that is on its way as an event.
                let _ = served.orders.send(Order::Credit(credit));
            }
        }
    }

    /// Serves the stream until the client takes leave, or it breaks. `says`: what the client says, or why that cannot be read; an error
    /// without a reason: the connection is gone.
    ///
    /// # Errors
    /// The stream ends with it.
    pub async fn run<S>(mut self, mut says: S, tells: mpsc::Sender<ConsumerHears>) -> Result<(), RequestError>
    where
        S: Stream<Item = Result<ConsumerSays, Option<RequestError>>> + Send + Unpin,
    {
        let node = self.node.clone();
        let stopping = node.stopping.begun();
        tokio::pin!(stopping);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reading: Option<BoxFuture<'static, ReadOut>> = None;
        let mut messages: Option<ConsumerHears> = None;
        let mut take_by: Option<Instant> = None;
        loop {
            if reading.is_none() && messages.is_none() {
                reading = self
                    .ready
                    .pop_front()
                    .and_then(|(index, delivered)| self.read(index, delivered));
            }
            let has_news = messages.is_some() || !self.answers.is_empty();
            take_by = match has_news {
                true => Some(take_by.unwrap_or_else(|| Instant::now() + TAKEN_TIMEOUT)),
                false => None,
            };
            let listens = self.settling.len() + self.answers.len() < ANSWERS_MAX;
            tokio::select! {
                biased;
                place = tells.reserve(), if has_news => {
                    let Ok(place) = place else { return Ok(()) };
                    take_by = None;
                    if let Some(news) = self.answers.pop_front().or_else(|| messages.take()) {
                        place.send(news);
                    }
                }
                said = says.next(), if listens => match said {
                    Some(Ok(said)) => self.hear(said),
                    Some(Err(None)) => return Ok(()),
                    Some(Err(Some(error))) => return Err(error),
                    None => {
                        // Nobody sees it any more.
                        drop((reading, messages));
                        return self.leave().await;
                    }
                },
                Some((correlation_id, outcomes)) = self.settling.next(), if !self.settling.is_empty() => {
                    self.answers.push_back(ConsumerHears::Settled { correlation_id, outcomes });
                }
                read = async { reading.as_mut().expect("it is asked before").await }, if reading.is_some() => {
                    reading = None;
                    messages = self.take_read(read)?;
                }
                Some((index, happened)) = self.events.1.recv() => self.take_event(index, happened)?,
                _ = look.tick() => {
                    let before = self.served.len();
                    // Why a partition cannot serve yet is told when it is looked at again.
                    let _ = self.look();
                    if self.served.len() > before {
                        self.tell_served();
                    }
                }
                refused = &mut stopping => return Err(refused),
                () = async { tokio::time::sleep_until(take_by.expect("it is asked before")).await }, if take_by.is_some() => {
                    return Err(self.stalled());
                }
            }
        }
    }

    fn stalled(&self) -> RequestError {
        let message = format!(
            "queue {:?}: the stream ends, for {TAKEN_TIMEOUT:?} its response was not taken; open another one",
            self.queue.name()
        );
        RequestError::new(Reason::BrokerBusy, message).retry_after(STALLED_RETRY)
    }

    fn hear(&mut self, said: ConsumerSays) {
        match said {
            ConsumerSays::Credit(credit) => {
                self.shares.add(credit);
                self.lend();
            }
            ConsumerSays::Settle { correlation_id, items } => {
                let (node, context, queue) = (self.node.clone(), self.context.clone(), self.queue.clone());
                self.settling.push(Box::pin(async move {
                    let outcomes = settle::settle(&node, &context, &queue, items).await;
                    (correlation_id, outcomes)
                }));
            }
            ConsumerSays::Refused {
                correlation_id,
                outcomes,
            } => self.answers.push_back(ConsumerHears::Settled {
                correlation_id,
                outcomes,
            }),
        }
    }

    /// The client takes leave: what it has said is done, and what it has goes back at once.
    async fn leave(mut self) -> Result<(), RequestError> {
        let settled = async { while self.settling.next().await.is_some() {} };
        // What takes longer is given back by the desk all the same, after it was settled.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, settled).await;
        self.ready.clear();
        for served in self.served.values() {
            // If its task has ended, there is nothing to give back.
            let _ = served.orders.send(Order::Leave);
        }
        Ok(())
    }

    fn take_event(&mut self, index: PartitionIndex, happened: Happened) -> Result<(), RequestError> {
        if !self.served.contains_key(&index) {
            return Ok(());
        }
        let unseen = match happened {
            Happened::Lost => return self.lose(index),
            Happened::InFlightFull(most) => {
                self.answers
                    .push_back(ConsumerHears::InFlightFull { partition: index, most });
                return Ok(());
            }
            Happened::Begun(again) => {
                self.shares.join(index, again.len());
                again
            }
            Happened::Delivered(mut unseen) => {
                let taken = self.shares.deliver(index, unseen.len());
                drop(unseen.split_off(taken));
                unseen
            }
        };
        if !unseen.is_empty() {
            self.ready.push_back((index, unseen));
        }
        self.lend();
        Ok(())
    }

    /// A partition does not serve the stream any more.
    fn lose(&mut self, index: PartitionIndex) -> Result<(), RequestError> {
        if self.served.remove(&index).is_none() {
            return Ok(());
        }
        self.shares.leave(index);
        let waited = self.ready.iter().filter(|(of, _)| *of == index);
        let waited = waited.map(|(_, unseen)| unseen.len()).sum();
        self.ready.retain(|(of, _)| *of != index);
        self.shares.lost(waited);
        if self.node.metadata.image().queue(self.queue.id()).is_none() {
            let message = format!("queue {:?} was deleted", self.queue.name());
            return Err(RequestError::new(Reason::UnknownQueue, message));
        }
        if self.served.is_empty() {
            return Err(self.not_led());
        }
        let here = self.node.broker();
        let leader = super::leader_of(&self.node, &self.queue, index).map(|(leader, _)| leader);
        self.answers.push_back(ConsumerHears::Moved {
            partition: index,
            leader: leader.filter(|leader| *leader != here),
        });
        self.lend();
        Ok(())
    }

    /// Begins to read the records of deliveries; none: their partition does not serve the stream any more.
    fn read(&self, index: PartitionIndex, unseen: Unseen) -> Option<BoxFuture<'static, ReadOut>> {
        let partition = self.served.get(&index)?.partition.clone();
        let (node, context, max_bytes) = (self.node.clone(), self.context.clone(), self.start.max_bytes);
        Some(Box::pin(async move {
            let mut offsets: Vec<u64> = unseen.messages().iter().map(|message| message.offset).collect();
            offsets.sort_unstable();
            let read = read(&node, &context, &partition, &offsets, max_bytes).await;
            (index, unseen, read)
        }))
    }

    /// Takes what was read, in the order in which it goes out. What was beyond the bytes of one response is read next.
    fn take_read(&mut self, (index, mut unseen, read): ReadOut) -> Result<Option<ConsumerHears>, RequestError> {
        let read = match read {
            Ok(read) => read,
            // The client has not lost what was granted: its session gets it again.
            Err(error)
                if !self.served.contains_key(&index)
                    || matches!(error.reason, Reason::NotLeader | Reason::LeaderNotAvailable) =>
            {
                self.shares.lost(unseen.len());
                self.lend();
                return Ok(None);
            }
            Err(error) if error.reason == Reason::BrokerBusy => {
                self.ready.push_front((index, unseen));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let later = unseen.take(|message| message.offset >= read.looked_to);
        let mut bodies: BTreeMap<u64, _> = read.bodies.into_iter().map(|body| (body.offset, body)).collect();
        let there = unseen.take(|message| bodies.contains_key(&message.offset));
        self.shares.lost(unseen.len());
        self.not_handed_out(index, unseen.seen(), (&read.damaged, &read.voids));
        if !later.is_empty() {
            self.ready.push_front((index, later));
        }
        let mut messages = Vec::with_capacity(bodies.len());
        for delivered in there.messages() {
            // What is there twice was sent again, and asked for once.
            if let Some(body) = bodies.remove(&delivered.offset) {
                messages.push(received(self.queue.id(), index, delivered, body));
            }
        }
        self.lend();
        Ok((!messages.is_empty()).then_some(ConsumerHears::Messages {
            messages,
            unseen: there,
            room: read.room,
        }))
    }

    /// Messages whose records are damaged have failed, and those that are none are done. Others are gone from the log.
    fn not_handed_out(&self, index: PartitionIndex, messages: Vec<Delivered>, why: (&[Damaged], &[u64])) {
        let Some(served) = self.served.get(&index).filter(|_| !messages.is_empty()) else {
            return;
        };
        // Without a desk it is not led here, and the session gets them again elsewhere.
        let Ok(desk) = served.partition.desk() else { return };
        let (left, _) = damaged::settle(&self.node, (&self.queue, index), desk, messages, why);
        for gone in left {
            let queue = self.queue.name();
            tracing::warn!(queue, partition = %index, offset = gone.offset, "a message is not there any more");
        }
    }
}

/// Passes events of a partition's desk on to its stream, and the stream's orders to the desk.
async fn attend(
    index: PartitionIndex,
    mut attached: Attached,
    (back, mut orders): (mpsc::WeakUnboundedSender<Order>, mpsc::UnboundedReceiver<Order>),
    events: mpsc::Sender<Event>,
) {
    let mut look = tokio::time::interval(FULL_LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut full = 0;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Credit(credit)) => attached.credit(credit),
                Some(Order::Undelivered(messages)) => attached.undelivered(messages),
                Some(Order::Leave) => return attached.detach(true),
                // The stream broke, or its task was dropped, and what it had not sent was given back.
                None => return attached.detach(false),
            },
            event = attached.next() => {
                let happened = match event {
                    AttachedEvent::Begun(messages) => Happened::Begun(Unseen::new(messages, None)),
                    AttachedEvent::Deliveries(messages) => match back.upgrade() {
                        Some(orders) => Happened::Delivered(Unseen::new(messages, Some(orders))),
                        None => {
                            attached.undelivered(messages.iter().map(|message| (message.offset, message.lease)).collect());
                            continue;
                        }
                    },
                    AttachedEvent::Moved | AttachedEvent::Ended => Happened::Lost,
                };
                let is_over = matches!(happened, Happened::Lost);
                // Without a stream what it was to get is given back by an order.
                let _ = events.send((index, happened)).await;
                if is_over {
                    return attached.detach(false);
                }
            }
            _ = look.tick() => {
                let is_full = attached.in_flight_full();
                if std::mem::replace(&mut full, is_full) != is_full {
                    // Without a stream nobody needs to know.
                    let _ = events.send((index, Happened::InFlightFull(is_full))).await;
                }
            }
        }
    }
}
