//! The body of a request. A message's encoded length is counted before the message is read, and the memory that its fields take
//! when they are decoded is counted as they arrive. A message that takes too much is refused at that moment, not when it is
//! complete.

use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use jangada_proto::shape::{Bounds, Contract, Excess, Method, Scan};
use jangada_types::Reason;
use jangada_types::limits::{MESSAGE_OVERHEAD_BYTES, REQUEST_ELEMENTS_MAX, REQUEST_TEXT_BYTES_MAX};
use parking_lot::Mutex;
use tokio::time::Sleep;
use tonic::Status;

use super::batches::Collector;
use super::call::Call;
use crate::error::RequestError;
use crate::metrics::Metrics;
use crate::quota::{Holding, Resource};

/// How long a message waits for its holding before it is refused.
const HOLDING_TIMEOUT: Duration = Duration::from_secs(5);
/// gRPC's prefix of a message: a flag whether it is compressed, and its length (PROTOCOL-HTTP2.md, "Length-Prefixed-Message").
const HEAD_BYTES: usize = 5;

const BOUNDS: Bounds = Bounds {
    elements: REQUEST_ELEMENTS_MAX,
    unknown_bytes: MESSAGE_OVERHEAD_BYTES,
    text_bytes: REQUEST_TEXT_BYTES_MAX,
};

/// The holdings of a call's messages that are received and not answered yet. The layer and the body share them: they are given
/// back when both have dropped them.
pub(super) type Received = Arc<Mutex<Taken>>;

/// The holdings of messages: for their encoded bytes, and for their decoded form.
#[derive(Default)]
pub(super) struct Taken {
    length: Option<Holding>,
    decoded: Option<Holding>,
}

/// How much is to be taken, encoded and decoded.
#[derive(Clone, Copy, Default)]
struct Wanted {
    length: usize,
    decoded: usize,
}

impl Taken {
    fn keep(&mut self, more: Self) {
        for (held, more) in [(&mut self.length, more.length), (&mut self.decoded, more.decoded)] {
            match (held.as_mut(), more) {
                (Some(held), Some(more)) => held.merge(more),
                (None, more) => *held = more,
                (Some(_), None) => {}
            }
        }
    }
}

/// The state between two messages.
const BETWEEN: Place = Place::Head([0; HEAD_BYTES], 0);

type TakingRoom = Pin<Box<dyn Future<Output = Result<Taken, RequestError>> + Send>>;

/// The method that a request calls.
pub(super) enum CalledMethod {
    /// A method of the contract, whose messages can be scanned.
    Contract(Method),
    /// Any other path: health, reflection, or an unknown method.
    Other(String),
}

impl CalledMethod {
    fn name(&self) -> &str {
        match self {
            Self::Contract(method) => &method.name,
            Self::Other(path) => path,
        }
    }

    fn is_stream(&self) -> bool {
        match self {
            Self::Contract(method) => method.is_stream,
            // It may be a stream. For a unary call this only means that its holding is given back a little earlier.
            Self::Other(_) => true,
        }
    }
}

/// The position of the body within a message.
enum Place {
    /// In gRPC's prefix, of which so many bytes are received.
    Head([u8; HEAD_BYTES], usize),
    /// In the content, of which so many bytes are still to come.
    Content(Scan, usize),
    /// In content that is passed on unchecked, of which so many bytes are still to come: of a method that is not of the contract,
    /// or of a message that tonic will refuse by its prefix.
    Unscanned(usize),
}

/// The body of a request, with its messages counted.
pub(super) struct RequestBody {
    body: Body,
    contract: Arc<Contract>,
    metrics: Arc<Metrics>,
    called: CalledMethod,
    bytes_max: Limit,
    call: Arc<Call>,
    received: Received,
    /// Assembles the messages of a produce stream; `None` for other calls.
    collector: Option<Collector>,
    /// The error of the current message. The messages before it are handed over first.
    failed: Option<RequestError>,
    place: Place,
    /// The length of the current message, bytes.
    message_bytes: usize,
    waiting: Option<(Frame<Bytes>, TakingRoom)>,
    stalled_after: Duration,
    /// The time by which a further byte of the current message must come.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// How the messages of a request are counted.
pub(super) struct Counting {
    pub contract: Arc<Contract>,
    pub metrics: Arc<Metrics>,
    pub bytes_max: Limit,
    /// How long a message may be incomplete without a further byte of it coming.
    pub stalled_after: Duration,
}

/// The largest message, bytes.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// The limit of the method.
    pub of_method: usize,
    /// The limit of all methods, which tonic checks by itself.
    pub of_transport: usize,
}

impl RequestBody {
    pub fn new(body: Body, counting: Counting, called: CalledMethod, call: Arc<Call>, received: Received) -> Self {
        let collects = called.name() == "LogService/ProduceStream";
        let Counting {
            contract,
            metrics,
            bytes_max,
            stalled_after,
        } = counting;
        Self {
            body,
            contract,
            metrics,
            bytes_max,
            called,
            collector: collects.then(|| Collector::new(call.batches.clone())),
            failed: None,
            call,
            received,
            place: BETWEEN,
            message_bytes: 0,
            waiting: None,
            stalled_after,
            deadline: None,
        }
    }

    /// Gives back the holdings of all messages before the current one. On a stream, tonic asks for more only after the service has
    /// taken them, and the service counts them from then on. A unary call keeps its holding until it is answered.
    fn release_taken(&mut self) {
        if !self.called.is_stream() {
            return;
        }
        let mut received = self.received.lock();
        received.decoded = None;
        if let Some(held) = received.length.as_mut() {
            held.shrink_to(self.message_bytes);
        }
    }

    /// Scans the bytes of a frame, up to the first error in them. Returns how much more is to be taken for them.
    fn walk(&mut self, mut bytes: Bytes) -> Wanted {
        let mut wanted = Wanted::default();
        while !bytes.is_empty() && self.failed.is_none() {
            match self.step(&mut bytes) {
                Ok(more) => {
                    wanted.length += more.length;
                    wanted.decoded += more.decoded;
                }
                Err(error) => self.failed = Some(error),
            }
        }
        wanted
    }

    /// Scans the next part of one message, and removes it from the bytes. Returns how much more is to be taken for it.
    fn step(&mut self, bytes: &mut Bytes) -> Result<Wanted, RequestError> {
        match &mut self.place {
            Place::Head(head, had) => {
                let taken = bytes.split_to(bytes.len().min(HEAD_BYTES - *had));
                head[*had..*had + taken.len()].copy_from_slice(&taken);
                *had += taken.len();
                if *had < HEAD_BYTES {
                    return Ok(Wanted::default());
                }
                let head = *head;
                let length = self.begin(head)?;
                Ok(Wanted { length, decoded: 0 })
            }
            Place::Content(scan, left) => {
                let content = bytes.split_to(bytes.len().min(*left));
                scan.push(&self.contract, &content)
                    .map_err(|excess| refused(self.called.name(), excess))?;
                *left -= content.len();
                let (left, decoded) = (*left, scan.memory());
                self.collect(content, left);
                if left > 0 {
                    return Ok(Wanted::default());
                }
                self.message_bytes = 0;
                self.place = BETWEEN;
                Ok(Wanted { length: 0, decoded })
            }
            Place::Unscanned(left) => {
                let passed = bytes.split_to(bytes.len().min(*left));
                *left -= passed.len();
                if *left == 0 {
                    self.message_bytes = 0;
                    self.place = BETWEEN;
                }
                Ok(Wanted::default())
            }
        }
    }

    fn collect(&mut self, content: Bytes, left: usize) {
        if let Some(collector) = &mut self.collector {
            collector.push(content, left);
        }
    }

    /// Begins a message, after its prefix. Returns how many encoded bytes are to be taken for it.
    fn begin(&mut self, [flag, length @ ..]: [u8; HEAD_BYTES]) -> Result<usize, RequestError> {
        let length = u32::from_be_bytes(length) as usize;
        let Limit {
            of_method,
            of_transport,
        } = self.bytes_max;
        let name = self.called.name();
        if flag != 0 || length > of_transport {
            if self.collector.is_none() {
                self.place = Place::Unscanned(length);
                return Ok(0);
            }
            if flag != 0 {
                return Err(unreadable(name, &"it is compressed, which no message may be"));
            }
            let message = format!(
                "{name}: a message has at most {of_transport} bytes (limits.request_bytes_max): send less at once; \
                 found {length} bytes"
            );
            return Err(RequestError::new(Reason::InvalidRequest, message).with("limit", of_transport));
        }
        if length > of_method {
            let message =
                format!("{name}: the message has {length} bytes, and may have {of_method}: send less at once");
            return Err(RequestError::new(Reason::InvalidRequest, message)
                .with("limit", of_method)
                .with("actual", length));
        }
        if length == 0 {
            self.place = BETWEEN;
            self.collect(Bytes::new(), 0);
            return Ok(0);
        }
        self.place = match &self.called {
            CalledMethod::Contract(method) => Place::Content(Scan::new(method, length as u64, BOUNDS), length),
            CalledMethod::Other(_) => Place::Unscanned(length),
        };
        self.message_bytes = length;
        self.call.begins_message(length);
        Ok(length)
    }

    /// Ready when no further byte of an incomplete message has come for `stalled_after`: it occupies memory meanwhile.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.place, Place::Head(..)) {
            return Poll::Pending;
        }
        let after = self.stalled_after;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
        deadline.as_mut().poll(cx)
    }

    fn stalled(&self) -> RequestError {
        let (name, after) = (self.called.name(), self.stalled_after);
        let message = format!(
            "{name}: a message is incomplete and none of its bytes has come for {after:?} (limits.stalled_ms); send it again"
        );
        RequestError::new(Reason::InvalidRequest, message)
    }

    /// The frame that tonic gets, if any. On a produce stream it has an empty message for each complete one.
    fn for_reader(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        match &mut self.collector {
            Some(collector) if frame.is_data() => {
                let (empties, result) = collector.hand_over();
                if let Err(error) = result {
                    self.failed = Some(unreadable(self.called.name(), &error));
                }
                empties.map(Frame::data)
            }
            // A part of the frame belongs to a message that is refused.
            None if frame.is_data() && self.failed.is_some() => None,
            _ => Some(frame),
        }
    }

    /// The error if a produce stream ends within a message. Other bodies are checked by tonic.
    fn truncated(&mut self) -> Option<RequestError> {
        if matches!(self.place, Place::Head(_, 0)) || self.collector.is_none() {
            return None;
        }
        self.place = BETWEEN;
        Some(unreadable(self.called.name(), &"the stream ends in the middle of it"))
    }

    /// The error as tonic gets it. It is counted here for unary calls only: the service of a stream counts it by itself.
    fn to_reader(&self, error: RequestError) -> axum::Error {
        if !self.called.is_stream() {
            self.metrics.failed(error.reason);
        }
        axum::Error::new(Status::from(error))
    }

    /// How many bytes may still come while the message waits for its holding.
    fn to_come(&self) -> usize {
        match self.place {
            _ if self.called.is_stream() => usize::MAX,
            Place::Content(_, left) | Place::Unscanned(left) => left,
            Place::Head(..) => 0,
        }
    }

    /// Takes the holdings for a frame: at once, in which case the result is `None`, or by the returned future.
    fn take_holdings(&self, wanted: Wanted) -> Result<Option<TakingRoom>, RequestError> {
        let caller = self.call.caller();
        let now = |resource, amount| match amount {
            0 => Ok(None),
            amount => caller
                .take_now(resource, amount)
                .map(Some)
                .map_err(|scope| (resource, amount, scope)),
        };
        let length = now(Resource::Requests, wanted.length);
        let decoded = now(Resource::Decoded, wanted.decoded);
        let (resource, amount, scope) = match (length, decoded) {
            (Ok(length), Ok(decoded)) => {
                self.received.lock().keep(Taken { length, decoded });
                return Ok(None);
            }
            (Err(lacking), _) | (_, Err(lacking)) => lacking,
        };
        let window = caller.hold_window(self.to_come());
        let window = window.ok_or_else(|| caller.refused(resource, amount, scope))?;
        // A holding that was taken for one of both was dropped above: nothing is held while the other is waited for.
        let caller = caller.clone();
        Ok(Some(Box::pin(async move {
            let _window = window;
            let mut taken = Taken::default();
            if wanted.length > 0 {
                taken.length = Some(caller.take(Resource::Requests, wanted.length, HOLDING_TIMEOUT).await?);
            }
            if wanted.decoded > 0 {
                taken.decoded = Some(caller.take(Resource::Decoded, wanted.decoded, HOLDING_TIMEOUT).await?);
            }
            Ok(taken)
        })))
    }
}

fn refused(name: &str, excess: Excess) -> RequestError {
    match excess {
        Excess::Malformed(cause) => unreadable(name, &cause),
        Excess::Elements(limit) | Excess::Unknown(limit) | Excess::Text(limit) => {
            let message = format!("{name}: the message would take too much memory: {excess}; send less at once");
            RequestError::new(Reason::InvalidRequest, message).with("limit", limit)
        }
    }
}

fn unreadable(name: &str, cause: &dyn Display) -> RequestError {
    let message = format!("{name}: the message cannot be read: {cause}");
    RequestError::new(Reason::InvalidRequest, message)
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let body = &mut *self;
        loop {
            if let Some((_, taking)) = &mut body.waiting {
                let taken = ready!(taking.as_mut().poll(cx));
                let (frame, _) = body.waiting.take().expect("it was there a moment ago");
                match taken {
                    Ok(taken) => body.received.lock().keep(taken),
                    Err(error) => return Poll::Ready(Some(Err(body.to_reader(error)))),
                }
                if let Some(frame) = body.for_reader(frame) {
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
            if let Some(error) = body.failed.take() {
                return Poll::Ready(Some(Err(body.to_reader(error))));
            }
            body.release_taken();
            let frame = match Pin::new(&mut body.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(None) => return Poll::Ready(body.truncated().map(|error| Err(body.to_reader(error)))),
                Poll::Ready(other) => return Poll::Ready(other),
                Poll::Pending => {
                    ready!(body.poll_stalled(cx));
                    return Poll::Ready(Some(Err(body.to_reader(body.stalled()))));
                }
            };
            body.deadline = None;
            let wanted = frame
                .data_ref()
                .cloned()
                .map_or_else(Wanted::default, |bytes| body.walk(bytes));
            match body.take_holdings(wanted) {
                Ok(Some(taking)) => body.waiting = Some((frame, taking)),
                Err(error) => return Poll::Ready(Some(Err(body.to_reader(error)))),
                Ok(None) => {
                    if let Some(frame) = body.for_reader(frame) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }
}
