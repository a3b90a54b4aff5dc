//! The queues of one partition that is led here, for one term: what the services call, and the engine that they share with the
//! task and with whoever applies commands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jangada_log::{Leader, PartitionState};
use jangada_queue::engine::{Answer, ConsumerId, Input, RequestId, SettleItem, Settled, SlotCounts, Waiter};
use jangada_queue::{AttemptId, CallId, Engine, LeaseId, QueueId, SessionId, SlotId};
use jangada_types::Reason;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::attached::{Attached, AttachedEvent};
use super::handed::Handed;
use super::holds::Holds;
use super::lost::{LostBefore, lost_so_far};
use super::refusals::Refusals;
use super::repetitions::Repetitions;
use super::shown::{Counted, OldestTimes};
use super::spec::QueueSpec;
use super::succession::{Succession, Successor};
use super::ways::Ways;
use crate::error::RequestError;
use crate::replica::{Driver, Hosted, LEADER_RETRY, Timers};

/// Requests that wait for one desk at once: more are told to come again.
const REQUESTS_MAX: usize = 10_000;
/// Streams of one desk at once.
const STREAMS_MAX: usize = 10_000;
/// Events that a stream has not taken yet. Each has as many messages as the stream had credit for; beyond it they are given back.
pub(super) const EVENTS_MAX: usize = 1_024;
/// Inputs that the task has not taken yet. What gives something back is taken beyond it, too.
const INPUTS_MAX: usize = 65_536;
/// When whoever found no place should try again.
pub(super) const BUSY_RETRY: Duration = Duration::from_millis(100);

/// A receive, as its client asks for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveArgs {
    pub session: SessionId,
    pub attempt: AttemptId,
    /// Which call of it this is.
    pub call: CallId,
    /// At most so many.
    pub messages: u32,
    /// How long it has them, milliseconds.
    pub lease_ms: u64,
    /// How long it waits for the first, milliseconds.
    pub wait_ms: u64,
}

/// What the services and the task of a desk share.
pub(crate) struct Desk {
    pub term: u64,
    pub(super) hosted: Arc<Hosted>,
    pub(super) driver: Driver<Leader>,
    pub(super) timers: Arc<Timers>,
    pub(super) engine: Mutex<Engine>,
    pub(super) inputs: Mutex<Vec<Input>>,
    answers: Mutex<BTreeMap<RequestId, Asked>>,
    streams: Mutex<BTreeMap<ConsumerId, Stream>>,
    /// The queues that have a slot here.
    pub(super) slots: RwLock<BTreeMap<QueueId, (SlotId, QueueSpec)>>,
    last_id: AtomicU64,
    /// What was counted for metrics already.
    pub(super) counted: Counted,
    pub(super) oldest_times: OldestTimes,
    /// Bytes of the commands that were proposed.
    pub(super) command_bytes: AtomicU64,
    pub(super) repetitions: Mutex<Repetitions>,
    pub(super) lost: Mutex<LostBefore>,
    pub(super) succession: Arc<Succession>,
    /// The engine knows all that an earlier desk of the term has submitted.
    pub(super) begun: watch::Sender<bool>,
    /// Why messages of schedules were refused.
    pub(super) refused_schedules: Refusals,
    /// Where dead letters go.
    pub(super) ways: Ways,
    /// Queues that are about to be deleted.
    pub(super) holds: Holds,
    wake: Notify,
    hands_over: AtomicBool,
    has_ended: AtomicBool,
    /// What whoever waits is told when it ends; none: that the partition is not led here.
    refusal: OnceLock<RequestError>,
}

/// Where a consumer's stream hears.
struct Stream {
    slot: SlotId,
    tells: mpsc::Sender<AttachedEvent>,
    /// Credit for messages that found no room in it.
    owed: Arc<AtomicU32>,
}

/// A request that is not answered yet.
struct Asked {
    answer: oneshot::Sender<Answer>,
    /// It asks for messages of this slot.
    receives_of: Option<SlotId>,
}

impl Desk {
    /// The desk of a term. To be called under the lock of the partition's state.
    pub fn begin(
        term: u64,
        state: &PartitionState,
        driver: Driver<Leader>,
        hosted: Arc<Hosted>,
        timers: Arc<Timers>,
        succession: Arc<Succession>,
    ) -> Self {
        let mut engine = Engine::begin(term, state.slots());
        // An earlier desk of the term has numbered its commands, requests and streams from an earlier time on.
        let numbers_from = timers.now().wall_ms << 16;
        engine.count_from(numbers_from);
        Self {
            term,
            hosted,
            driver,
            timers,
            engine: Mutex::new(engine),
            inputs: Mutex::default(),
            answers: Mutex::default(),
            streams: Mutex::default(),
            slots: RwLock::default(),
            last_id: AtomicU64::new(numbers_from),
            counted: Counted::default(),
            oldest_times: OldestTimes::default(),
            command_bytes: AtomicU64::new(0),
            repetitions: Mutex::default(),
            lost: Mutex::new(lost_so_far(state)),
            succession,
            begun: watch::Sender::new(false),
            refused_schedules: Refusals::default(),
            ways: Ways::default(),
            holds: Holds::default(),
            wake: Notify::new(),
            hands_over: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            refusal: OnceLock::new(),
        }
    }

    /// Asks once for messages. When the future is dropped, nothing is granted any more, and what was is given back.
    pub async fn receive(&self, queue: QueueId, receive: ReceiveArgs) -> Result<Handed, RequestError> {
        let slot = self.slot(queue)?;
        let waiting = self.ask(Some(slot))?;
        let request = waiting.request;
        let ReceiveArgs {
            session,
            attempt,
            call,
            messages,
            lease_ms,
            wait_ms,
        } = receive;
        self.put(Input::Receive {
            request,
            slot,
            session,
            attempt,
            call,
            messages,
            lease_ms,
            wait_ms,
        });
        self.handed(queue, waiting).await
    }

    /// Gives back what a call of a receive was granted here, unless another call may have handed it on; and ends what it waits for.
    pub async fn take_back(&self, queue: QueueId, receive: ReceiveArgs) -> Result<(), RequestError> {
        let slot = self.slot(queue)?;
        let waiting = self.ask(Some(slot))?;
        self.put(Input::TakeBack {
            request: waiting.request,
            slot,
            session: receive.session,
            attempt: receive.attempt,
            call: receive.call,
        });
        let Handed { request, messages, .. } = self.handed(queue, waiting).await?;
        if !messages.is_empty() {
            let messages = messages.iter().map(|message| (message.offset, message.lease));
            self.undelivered(queue, request, messages.collect());
        }
        Ok(())
    }

    /// What a request for messages is answered.
    async fn handed(&self, queue: QueueId, mut waiting: Waiting<'_>) -> Result<Handed, RequestError> {
        let request = waiting.request;
        match waiting.answer().await {
            Ok(Answer::Received(messages)) => Ok(Handed {
                request,
                messages,
                in_flight_full: 0,
            }),
            Ok(Answer::InFlightFull(most)) => Ok(Handed {
                request,
                messages: Vec::new(),
                in_flight_full: most,
            }),
            Ok(Answer::UnknownSlot) => Err(self.unknown_queue(queue)),
            Ok(Answer::Superseded) => {
                let message = format!(
                    "{}: the receive was sent again, and is answered there",
                    self.hosted.title
                );
                Err(RequestError::new(Reason::InvalidRequest, message))
            }
            Ok(other) => Err(self.moved_or(&other)),
            Err(_) => Err(self.gone()),
        }
    }

    /// Messages that a request received could not be handed on: nobody saw them.
    pub fn undelivered(&self, queue: QueueId, request: RequestId, messages: Vec<(u64, LeaseId)>) {
        let to = Waiter::Once(request);
        if let Ok(slot) = self.slot(queue) {
            self.put(Input::Undelivered { slot, to, messages });
        }
    }

    /// Settles messages that were handed out: what became of each, in their order.
    pub async fn settle(&self, queue: QueueId, items: Vec<SettleItem>) -> Result<Vec<Settled>, RequestError> {
        let slot = self.slot(queue)?;
        let mut waiting = self.ask(None)?;
        let request = waiting.request;
        self.put(Input::Settle { request, slot, items });
        match waiting.answer().await {
            Ok(Answer::Settled(settled)) => Ok(settled),
            Ok(Answer::UnknownSlot) => Err(self.unknown_queue(queue)),
            Ok(other) => Err(self.moved_or(&other).unknown()),
            Err(_) => Err(self.gone().unknown()),
        }
    }

    /// A consumer's stream begins. Without credit it gets nothing but what its session has already and does not hold.
    pub fn attach(
        self: &Arc<Self>,
        queue: QueueId,
        session: SessionId,
        lease_ms: u64,
        holds: Vec<(u64, LeaseId)>,
    ) -> Result<Attached, RequestError> {
        let slot = self.slot(queue)?;
        let consumer = ConsumerId(self.next_id());
        let (tells, events) = mpsc::channel(EVENTS_MAX);
        let owed = Arc::new(AtomicU32::new(0));
        {
            let mut streams = self.streams.lock();
            if streams.len() >= STREAMS_MAX {
                return Err(self.busy("consumers", STREAMS_MAX));
            }
            if self.has_ended() {
                return Err(self.gone());
            }
            let owed = owed.clone();
            streams.insert(consumer, Stream { slot, tells, owed });
        }
        self.put(Input::Attach {
            consumer,
            slot,
            session,
            lease_ms,
            holds,
        });
        Ok(Attached::new(self.clone(), (consumer, slot), events, owed))
    }

    /// What a queue has here, by state.
    pub fn counts(&self, queue: QueueId) -> Option<SlotCounts> {
        let id = self.slots.read().get(&queue)?.0;
        self.with_state(|state| {
            let end = state.next_offset().get().unsigned_abs();
            self.engine.lock().counts(state.slots(), end, id)
        })
    }

    /// Somebody has a stream here, or waits for an answer.
    pub fn has_consumers(&self) -> bool {
        !self.streams.lock().is_empty() || !self.answers.lock().is_empty()
    }

    /// The queues that have a slot here.
    pub fn queues(&self) -> Vec<QueueSpec> {
        self.slots.read().values().map(|(_, spec)| spec.clone()).collect()
    }

    /// Leadership is about to go to another broker: nothing is granted any more, and consumers are told.
    pub fn hand_over(&self) {
        self.hands_over.store(true, Ordering::Release);
        self.put(Input::HandOver);
    }

    pub(super) fn is_handing_over(&self) -> bool {
        self.hands_over.load(Ordering::Acquire)
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Whoever waits is told that the partition is not led here.
    pub fn end(&self) {
        let inputs = {
            let mut inputs = self.inputs.lock();
            self.has_ended.store(true, Ordering::Release);
            std::mem::take(&mut *inputs)
        };
        let is_undelivered = |input: &Input| matches!(input, Input::Undelivered { .. });
        inputs
            .into_iter()
            .filter(is_undelivered)
            .for_each(|input| self.leave(input));
        *self.repetitions.lock() = Repetitions::default();
        self.answers.lock().clear();
        self.streams.lock().clear();
        self.wake.notify_one();
    }

    pub(super) fn with_state<T>(&self, read: impl FnOnce(&PartitionState) -> T) -> T {
        self.driver.with_machine(read)
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes the queues that have a slot here.
    pub(super) fn set_slots(&self, slots: BTreeMap<QueueId, (SlotId, QueueSpec)>) {
        *self.slots.write() = slots;
    }

    pub(super) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Hands an input to the task. Of those that come after the desk has ended only messages count that are given back.
    pub(super) fn put(&self, input: Input) {
        if let Some(left @ Input::Undelivered { .. }) = self.try_put(input) {
            self.leave(left);
        }
    }

    /// Leaves messages that nobody saw to the desk that follows: without those that a later try, or another stream of the session, has.
    fn leave(&self, undelivered: Input) {
        let Input::Undelivered { slot, to, messages } = undelivered else {
            return;
        };
        let messages = self.engine.lock().still_with(slot, to, messages);
        if !messages.is_empty() {
            self.succession.leave(Input::Undelivered { slot, to, messages });
        }
    }

    /// Hands an input to the task, before all that it has not taken yet.
    pub(super) fn put_first(&self, input: Input) {
        let mut inputs = self.inputs.lock();
        if !self.has_ended() {
            inputs.insert(0, input);
            self.wake.notify_one();
        }
    }

    pub(super) fn detach(&self, consumer: ConsumerId, orderly: bool) {
        if self.streams.lock().remove(&consumer).is_some() {
            self.put(Input::Detach { consumer, orderly });
        }
    }

    pub(super) fn tell_stream(&self, consumer: ConsumerId, event: AttachedEvent) {
        let mut streams = self.streams.lock();
        let Some(stream) = streams.get(&consumer) else {
            return;
        };
        // It does not listen, or not any more.
        let Err(TrySendError::Full(event) | TrySendError::Closed(event)) = stream.tells.try_send(event) else {
            return;
        };
        let messages = match event {
            AttachedEvent::Deliveries(messages) => messages,
            // What its session has already waits for the session.
            AttachedEvent::Begun(_) => return,
            AttachedEvent::Moved | AttachedEvent::Ended => return drop(streams.remove(&consumer)),
        };
        let slot = stream.slot;
        stream.owed.fetch_add(messages.len() as u32, Ordering::SeqCst);
        // It may have taken all that was there meanwhile, and hears nothing more by itself.
        let owed = match stream.tells.capacity() {
            0 => 0,
            _ => stream.owed.swap(0, Ordering::SeqCst),
        };
        drop(streams);
        let messages = messages.iter().map(|message| (message.offset, message.lease)).collect();
        let to = Waiter::Stream(consumer);
        self.put(Input::Undelivered { slot, to, messages });
        self.give_credit(consumer, owed);
    }

    /// A consumer may get so many messages more.
    pub(super) fn give_credit(&self, consumer: ConsumerId, messages: u32) {
        if messages > 0 {
            self.put(Input::Credit { consumer, messages });
        }
    }

    /// Answers a request. Messages that nobody waits for any more are given back.
    pub(super) fn answer(&self, request: RequestId, answer: Answer) {
        let Some(asked) = self.answers.lock().remove(&request) else {
            return;
        };
        if let (Err(Answer::Received(messages)), Some(slot)) = (asked.answer.send(answer), asked.receives_of) {
            let messages = messages.iter().map(|message| (message.offset, message.lease)).collect();
            let to = Waiter::Once(request);
            self.put(Input::Undelivered { slot, to, messages });
        }
    }

    /// Forgets receives that were cancelled.
    pub(super) fn forget(&self, cancelled: &[RequestId]) {
        let mut answers = self.answers.lock();
        for request in cancelled {
            answers.remove(request);
        }
    }

    pub(super) fn slot(&self, queue: QueueId) -> Result<SlotId, RequestError> {
        if let Some((slot, spec)) = self.slots.read().get(&queue) {
            self.check_not_held(spec)?;
            return Ok(*slot);
        }
        Err(self.not_open())
    }

    /// The slots of queues here, in their order; none: the queue has none, or not yet.
    pub fn slots_of(&self, queues: &[QueueId]) -> Vec<Option<SlotId>> {
        let slots = self.slots.read();
        queues
            .iter()
            .map(|queue| slots.get(queue).map(|(slot, _)| *slot))
            .collect()
    }

    pub(super) fn ask(&self, receives_of: Option<SlotId>) -> Result<Waiting<'_>, RequestError> {
        let request = RequestId(self.next_id());
        let (sender, answer) = oneshot::channel();
        let mut answers = self.answers.lock();
        if answers.len() >= REQUESTS_MAX {
            return Err(self.busy("requests", REQUESTS_MAX));
        }
        if self.inputs.lock().len() >= INPUTS_MAX {
            return Err(self.busy("requests", INPUTS_MAX));
        }
        if self.has_ended() {
            return Err(self.gone());
        }
        let asked = Asked {
            answer: sender,
            receives_of,
        };
        answers.insert(request, asked);
        Ok(Waiting {
            desk: self,
            request,
            answer,
            receives_of,
            is_over: false,
        })
    }

    fn busy(&self, what: &str, limit: usize) -> RequestError {
        let message = format!("{}: {limit} {what} wait here for messages already", self.hosted.title);
        RequestError::new(Reason::PartitionBusy, message)
            .with("limit", limit)
            .retry_after(BUSY_RETRY)
    }

    /// The desk has ended.
    pub(super) fn gone(&self) -> RequestError {
        let refusal = self.refusal.get().cloned();
        refusal.unwrap_or_else(|| self.hosted.not_leader())
    }

    /// Whoever waits when the desk ends is told this.
    pub(super) fn refuse_with(&self, refusal: RequestError) {
        // Of several reasons the first counts.
        let _ = self.refusal.set(refusal);
    }

    pub(super) fn moved_or(&self, answer: &Answer) -> RequestError {
        match answer {
            Answer::Moved => {
                let message = format!("{}: its leadership goes to another broker", self.hosted.title);
                RequestError::new(Reason::LeaderNotAvailable, message).retry_after(LEADER_RETRY)
            }
            other => RequestError::new(
                Reason::Internal,
                format!("{}: an answer to something else: {other:?}", self.hosted.title),
            ),
        }
    }

    pub(super) fn unknown_queue(&self, queue: QueueId) -> RequestError {
        let message = format!("{}: queue {queue} is not there any more", self.hosted.title);
        RequestError::new(Reason::UnknownQueue, message)
    }
}

impl Successor for Desk {
    fn try_put(&self, input: Input) -> Option<Input> {
        let mut inputs = self.inputs.lock();
        if self.has_ended() {
            return Some(input);
        }
        inputs.push(input);
        drop(inputs);
        self.wake.notify_one();
        None
    }
}

/// A request that waits for its answer. Dropped before, it is not answered any more.
pub(super) struct Waiting<'a> {
    desk: &'a Desk,
    pub request: RequestId,
    answer: oneshot::Receiver<Answer>,
    /// It asks for messages of this slot.
    receives_of: Option<SlotId>,
    is_over: bool,
}

impl Waiting<'_> {
    pub async fn answer(&mut self) -> Result<Answer, oneshot::error::RecvError> {
        let answer = (&mut self.answer).await;
        self.is_over = true;
        answer
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let request = self.request;
        self.answer.close();
        let Some(slot) = self.receives_of else {
            self.desk.forget(&[request]);
            return;
        };
        // The task forgets it when it has carried out what was decided before.
        self.desk.put(Input::CancelReceive { request });
        if let Ok(Answer::Received(messages)) = self.answer.try_recv() {
            let messages = messages.iter().map(|message| (message.offset, message.lease)).collect();
            let to = Waiter::Once(request);
            self.desk.put(Input::Undelivered { slot, to, messages });
        }
    }
}
