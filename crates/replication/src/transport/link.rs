//! The opening side of one connection to a peer: a queue of messages, one task that connects, sends and receives, and
//! the calls that wait.
//!
//! A call that was queued is answered exactly once: by the peer, or with [`LinkError`] when the connection ends or
//! cannot be made.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jangada_proto::internal::message::Body;
use jangada_proto::internal::{AppendEntries, Frame, Message, StreamEnd};
use jangada_types::{BrokerId, GroupId, Incarnation};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::channel::{FRAME_BYTES_MAX, internal_client};
use super::dialer::Dialer;
use super::handshake::Identity;
use super::{introduction, queue};
use crate::peers::{Peers, SaidCommits};
use crate::wire;

/// Messages that wait to be sent. Bulk data is bounded by windows long before; control messages are small.
const QUEUE_MESSAGES_MAX: usize = 16 * 1024;
/// Entry bytes under way to one peer, over all groups.
const LINK_WINDOW_KIB: usize = 32 * 1024;
/// Messages that leave in one frame at most.
const FRAME_MESSAGES_MAX: usize = 1024;
/// Between two tries to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_millis(500);

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Control,
    Bulk,
}

/// The peer cannot be reached, or the connection ended before it answered: the outcome is unknown.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no connection to broker {broker}: {cause}")]
pub(crate) struct LinkError {
    pub broker: BrokerId,
    pub cause: String,
}

type Answer = Result<Body, LinkError>;

enum Waiting {
    Once(oneshot::Sender<Answer>),
    Stream {
        answers: mpsc::Sender<Answer>,
        in_flight: VecDeque<OwnedSemaphorePermit>,
    },
}

/// One connection to a peer. Dropping it ends the task.
pub(crate) struct Link {
    broker: BrokerId,
    queue: queue::Sender,
    calls: Arc<Calls>,
    window: Arc<Semaphore>,
    connection: watch::Receiver<Connection>,
}

/// Whether there is one.
enum Connection {
    Up,
    Down(Down),
}

/// There is no connection.
#[derive(Clone, Debug)]
struct Down {
    cause: String,
    /// Tries that failed since there was one.
    tries: u32,
    /// The peer opens its store: it will be there soon.
    is_starting: bool,
}

impl Down {
    fn new(cause: &str) -> Self {
        Self {
            cause: cause.to_owned(),
            tries: 0,
            is_starting: false,
        }
    }
}

/// How far a first look at a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstLook {
    /// It answered, and so has judged this broker.
    Met,
    /// It is not there, or refuses.
    Away,
    /// It opens its store.
    Starting,
    /// It was not tried often enough to say.
    UnderWay,
}

/// Who opens the connection, and what it knows of the others.
#[derive(Clone)]
pub(crate) struct Caller {
    pub identity: Arc<Identity>,
    pub known: Arc<Peers>,
    pub dialer: Arc<Dialer>,
}

#[derive(Default)]
struct Calls {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
}

impl Link {
    pub fn spawn(
        lane: Lane,
        broker: BrokerId,
        caller: Caller,
        address: watch::Receiver<String>,
        greeting: Box<dyn Fn() -> Option<Message> + Send + Sync>,
    ) -> Self {
        let (queue, messages) = queue::queue(QUEUE_MESSAGES_MAX);
        let calls = Arc::new(Calls::default());
        let (reported, connection) = watch::channel(Connection::Down(Down::new("not connected yet")));
        let driver = Driver {
            lane,
            broker,
            caller,
            address,
            greeting,
            messages,
            calls: calls.clone(),
            connection: reported,
        };
        tokio::spawn(driver.run());
        Self {
            broker,
            queue,
            calls,
            window: Arc::new(Semaphore::new(LINK_WINDOW_KIB)),
            connection,
        }
    }

    /// Waits until there is a connection, but not longer than `patience`.
    pub async fn connected(&self, patience: Duration) -> Result<(), LinkError> {
        let mut connection = self.connection.clone();
        let is_up = |connection: &Connection| matches!(connection, Connection::Up);
        match tokio::time::timeout(patience, connection.wait_for(is_up)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => match &*self.connection.borrow() {
                Connection::Up => Ok(()),
                Connection::Down(down) => Err(LinkError {
                    broker: self.broker,
                    cause: down.cause.clone(),
                }),
            },
        }
    }

    /// How far the first look at the peer is, which counts as away when so many tries have failed.
    pub fn first_look(&self, tries_max: u32) -> FirstLook {
        match &*self.connection.borrow() {
            Connection::Up => FirstLook::Met,
            Connection::Down(down) if down.is_starting => FirstLook::Starting,
            Connection::Down(down) if down.tries >= tries_max => FirstLook::Away,
            Connection::Down(_) => FirstLook::UnderWay,
        }
    }

    fn gone(&self) -> LinkError {
        LinkError {
            broker: self.broker,
            cause: "it left the cluster".into(),
        }
    }

    /// Sends a message that nobody answers. Dropped when the link is down.
    pub async fn send(&self, message: Message) {
        // The receiver is gone only when this broker stops.
        let _ = self.queue.send(message).await;
    }

    /// Sends one request and waits for its answer. The caller sets the time-out.
    pub async fn call(&self, group: GroupId, to: Incarnation, body: Body) -> Answer {
        let call_id = self.calls.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.calls.waiting.lock().insert(call_id, Waiting::Once(answer));
        // A caller that gives up takes its entry along.
        let _forget = Forget {
            calls: &self.calls,
            call_id,
        };
        let message = Message {
            group_id: group.get(),
            to_incarnation: to.get(),
            call_id,
            body: Some(body),
        };
        self.queue.send(message).await.map_err(|_| self.gone())?;
        answered.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Opens a stream of append requests; see [`AppendStream`].
    pub fn open_stream(self: &Link, group: GroupId, to: Incarnation, in_flight_max: usize) -> AppendStream {
        let call_id = self.calls.next.fetch_add(1, Ordering::Relaxed);
        // One more, for the error that ends it.
        let (answers, receiver) = mpsc::channel(in_flight_max + 1);
        self.calls.waiting.lock().insert(
            call_id,
            Waiting::Stream {
                answers,
                in_flight: VecDeque::new(),
            },
        );
        AppendStream {
            broker: self.broker,
            group,
            to,
            call_id,
            queue: self.queue.clone(),
            calls: self.calls.clone(),
            // The metadata waits for no other group's entries.
            window: match group == GroupId::METADATA {
                true => Arc::new(Semaphore::new(LINK_WINDOW_KIB)),
                false => self.window.clone(),
            },
            answers: receiver,
        }
    }
}

struct Forget<'a> {
    calls: &'a Calls,
    call_id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.calls.waiting.lock().remove(&self.call_id);
    }
}

/// Entry bytes that may be under way on a link, over all groups.
pub(crate) struct Window(Arc<Semaphore>);

/// A part of a link's window.
pub(crate) struct Room(OwnedSemaphorePermit);

impl Window {
    /// Room for a request of so many bytes. Who stops waiting has taken none.
    pub async fn room(&self, bytes: usize) -> Room {
        let kib = (bytes / 1024 + 1).min(LINK_WINDOW_KIB);
        let kib = u32::try_from(kib).expect("the window fits in 32 bits");
        let permit = self.0.clone().acquire_many_owned(kib).await;
        Room(permit.expect("a window is never closed"))
    }
}

/// A stream of append requests to one replica; answers come in the order of the requests.
pub(crate) struct AppendStream {
    broker: BrokerId,
    group: GroupId,
    to: Incarnation,
    call_id: u64,
    queue: queue::Sender,
    calls: Arc<Calls>,
    window: Arc<Semaphore>,
    answers: mpsc::Receiver<Answer>,
}

impl AppendStream {
    fn gone(&self, cause: &str) -> LinkError {
        LinkError {
            broker: self.broker,
            cause: cause.into(),
        }
    }

    /// The link's window: a request takes its room there before it is sent.
    pub fn window(&self) -> Window {
        Window(self.window.clone())
    }

    /// Sends the next request. Its room comes back with the answer, whoever reads it.
    pub async fn send(&self, request: AppendEntries, room: Room) -> Result<(), LinkError> {
        let gone = |cause| self.gone(cause);
        match self.calls.waiting.lock().get_mut(&self.call_id) {
            Some(Waiting::Stream { in_flight, .. }) => in_flight.push_back(room.0),
            _ => return Err(gone("the connection ended")),
        }
        let message = Message {
            group_id: self.group.get(),
            to_incarnation: self.to.get(),
            call_id: self.call_id,
            body: Some(Body::Append(request)),
        };
        self.queue.send(message).await.map_err(|_| gone("it left the cluster"))
    }

    /// The next answer; `None` when the connection ended.
    pub async fn answer(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }
}

impl Drop for AppendStream {
    fn drop(&mut self) {
        if self.calls.waiting.lock().remove(&self.call_id).is_some() {
            let message = Message {
                group_id: self.group.get(),
                to_incarnation: self.to.get(),
                call_id: self.call_id,
                body: Some(Body::StreamEnd(StreamEnd {})),
            };
            // When the queue is full the peer's side ends with the connection or with the group.
            let _ = self.queue.try_send(message);
        }
    }
}

/// A link without a connection: what it sends comes out here, and the test answers.
#[cfg(test)]
pub(crate) struct Loose {
    pub link: Link,
    pub sent: queue::Receiver,
}

#[cfg(test)]
impl Loose {
    pub fn new() -> Self {
        let (queue, sent) = queue::queue(QUEUE_MESSAGES_MAX);
        let link = Link {
            broker: BrokerId::from(3),
            queue,
            calls: Arc::default(),
            window: Arc::new(Semaphore::new(LINK_WINDOW_KIB)),
            connection: watch::channel(Connection::Up).1,
        };
        Self { link, sent }
    }

    pub fn answer(&self, call_id: u64, body: Body) {
        self.link.calls.answer(call_id, body);
    }
}

impl Calls {
    /// Hands an answer to whoever waits for it.
    fn answer(&self, call_id: u64, body: Body) {
        let mut waiting = self.waiting.lock();
        match waiting.get_mut(&call_id) {
            Some(Waiting::Stream { answers, in_flight }) => {
                let refused = matches!(body, Body::Refused(_));
                in_flight.pop_front();
                // Full only if the peer answers more than was asked.
                if answers.try_send(Ok(body)).is_err() || refused {
                    waiting.remove(&call_id);
                }
            }
            Some(Waiting::Once(_)) => {
                if let Some(Waiting::Once(answer)) = waiting.remove(&call_id) {
                    let _ = answer.send(Ok(body));
                }
            }
            // The caller gave up.
            None => {}
        }
    }

    /// Whether somebody still waits for the answer of a request. One that outlived its connection must not be sent on
    /// the next one: the peer would open an append stream for it that nobody ends.
    fn is_alive(&self, message: &Message) -> bool {
        !matches!(message.body, Some(Body::Append(_))) || self.waiting.lock().contains_key(&message.call_id)
    }

    fn fail_all(&self, error: &LinkError) {
        for waiting in std::mem::take(&mut *self.waiting.lock()).into_values() {
            match waiting {
                Waiting::Once(answer) => drop(answer.send(Err(error.clone()))),
                Waiting::Stream { answers, .. } => drop(answers.try_send(Err(error.clone()))),
            }
        }
    }
}

/// The link's task.
struct Driver {
    lane: Lane,
    broker: BrokerId,
    caller: Caller,
    address: watch::Receiver<String>,
    greeting: Box<dyn Fn() -> Option<Message> + Send + Sync>,
    messages: queue::Receiver,
    calls: Arc<Calls>,
    connection: watch::Sender<Connection>,
}

impl Driver {
    async fn run(mut self) {
        let mut pause = RECONNECT_MIN;
        let mut tries = 0;
        loop {
            let ended = match self.connect().await {
                Ok((frames, answers)) => {
                    (pause, tries) = (RECONNECT_MIN, 0);
                    tracing::debug!(broker = %self.broker, lane = ?self.lane, "connected");
                    self.connection.send_replace(Connection::Up);
                    self.exchange(frames, answers).await.map(|cause| Down::new(&cause))
                }
                Err(down) => {
                    tries += 1;
                    Some(Down { tries, ..down })
                }
            };
            let Some(down) = ended else {
                // The link was dropped.
                self.fail("the broker stops");
                return;
            };
            let cause = &down.cause;
            tracing::debug!(broker = %self.broker, lane = ?self.lane, %cause, "not connected");
            self.connection.send_replace(Connection::Down(down.clone()));
            self.fail(cause);
            if !self.refuse_for(pause, cause).await {
                return;
            }
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    fn fail(&self, cause: &str) {
        self.calls.fail_all(&LinkError {
            broker: self.broker,
            cause: cause.into(),
        });
    }

    /// Refuses at once what is asked while the peer cannot be reached. False: the link was dropped.
    async fn refuse_for(&mut self, pause: Duration, cause: &str) -> bool {
        let wait = tokio::time::sleep(pause);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return true,
                changed = self.address.changed() => return changed.is_ok(),
                message = self.messages.recv() => match message {
                    Some(_) => self.fail(cause),
                    None => return false,
                },
            }
        }
    }

    async fn connect(&mut self) -> Result<(mpsc::Sender<Frame>, tonic::Streaming<Frame>), Down> {
        let address = self.address.borrow_and_update().clone();
        let channel = self.caller.dialer.connect(&address).await;
        let channel = channel.map_err(|cause| Down::new(&cause))?;
        let (frames, outgoing) = mpsc::channel(2);
        let messages = (self.greeting)().into_iter().collect();
        let first = Frame {
            hello: Some(introduction::hello(
                &self.caller.identity,
                &self.caller.known,
                self.broker,
            )),
            messages,
        };
        frames
            .try_send(first)
            .map_err(|_| Down::new("the first frame has no room"))?;
        let mut client = internal_client(channel);
        let request = ReceiverStream::new(outgoing);
        let response = match self.lane {
            Lane::Control => client.control(request).await,
            Lane::Bulk => client.bulk(request).await,
        };
        let response = response.map_err(|status| {
            introduction::heed_refusal(&self.caller.known, self.broker, &status);
            Down {
                is_starting: introduction::is_starting(&status),
                ..Down::new(&refused(&address, &status))
            }
        })?;
        let Caller { identity, known, .. } = &self.caller;
        let judged = introduction::judge_answerer(identity, known, (self.broker, &address), response.metadata());
        judged.map_err(|cause| Down::new(&cause))?;
        Ok((frames, response.into_inner()))
    }

    /// Sends and receives until either ends. `None`: the link was dropped.
    async fn exchange(&mut self, frames: mpsc::Sender<Frame>, mut answers: tonic::Streaming<Frame>) -> Option<String> {
        let calls = self.calls.clone();
        let calls_alive = self.calls.clone();
        let (broker, known) = (self.broker, self.caller.known.clone());
        let receive = async {
            let mut said = SaidCommits::default();
            loop {
                match answers.message().await {
                    Ok(Some(frame)) => {
                        for message in frame.messages {
                            match message.body {
                                Some(Body::Commits(commits)) if !said.goes_on(commits) => {
                                    return "it has fewer commits than it had before".to_owned();
                                }
                                Some(Body::Commits(commits)) => known.progressed(broker, commits),
                                None => {}
                                Some(body) => calls.answer(message.call_id, body),
                            }
                        }
                    }
                    Ok(None) => return "the peer closed the connection".to_owned(),
                    Err(status) => return status.message().to_owned(),
                }
            }
        };
        let alive = |message: &Message| calls_alive.is_alive(message);
        let send = send_frames(&mut self.messages, frames, alive);
        tokio::select! {
            cause = receive => Some(cause),
            cause = send => cause,
        }
    }
}

/// Packs what waits, as far as it is still wanted, into frames. `None`: the queue's senders are gone.
pub(super) async fn send_frames(
    messages: &mut queue::Receiver,
    frames: mpsc::Sender<Frame>,
    wanted: impl Fn(&Message) -> bool,
) -> Option<String> {
    let mut waiting = Vec::with_capacity(64);
    loop {
        if messages.recv_many(&mut waiting, FRAME_MESSAGES_MAX).await == 0 {
            return None;
        }
        let mut rest = waiting.drain(..).filter(&wanted).peekable();
        while rest.peek().is_some() {
            let mut frame = Frame::default();
            let mut bytes = 0;
            while let Some(message) = rest.peek() {
                let size = message_size(message);
                if bytes > 0 && bytes + size > FRAME_BYTES_MAX {
                    break;
                }
                bytes += size;
                frame.messages.extend(rest.next());
            }
            if frames.send(frame).await.is_err() {
                return Some("the connection ended".to_owned());
            }
        }
    }
}

fn message_size(message: &Message) -> usize {
    match &message.body {
        Some(Body::Append(append)) => wire::append_size(append),
        _ => 64,
    }
}

fn refused(address: &str, status: &Status) -> String {
    format!("{address} refused: {}", status.message())
}
