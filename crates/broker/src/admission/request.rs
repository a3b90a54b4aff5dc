//! A request's body on its way in. A message takes room for its length before it is taken up, and what its fields will
//! take decoded is counted as they arrive; one that would become too much is refused then, not when it is all there.

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
use super::budget::Resource;
use super::call::{Admission, Call};
use super::caller::Holding;
use crate::error::RequestError;
use crate::metrics::Metrics;

/// How long a message waits for room before it is refused.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

const BOUNDS: Bounds = Bounds {
    elements: REQUEST_ELEMENTS_MAX,
    unknown_bytes: MESSAGE_OVERHEAD_BYTES,
    text_bytes: REQUEST_TEXT_BYTES_MAX,
};

/// What the messages of a call hold that were taken up and not answered. The service's end of a unary call and the body
/// share it: whoever ends last gives it back.
pub(super) type Received = Arc<Mutex<Taken>>;

/// Room for messages as they came, and as they are decoded.
#[derive(Default)]
pub(super) struct Taken {
    length: Option<Holding>,
    decoded: Option<Holding>,
}

/// How much room is wanted of each.
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

/// Between two messages.
const BETWEEN: Place = Place::Head([0; HEAD_BYTES], 0);

type TakingRoom = Pin<Box<dyn Future<Output = Result<Taken, RequestError>> + Send>>;

/// What a request is for.
pub(super) enum Of {
    /// A method whose messages are known.
    Contract(Method),
    /// One of another service, or of none, by its path: health, reflection.
    Other(String),
}

impl Of {
    fn name(&self) -> &str {
        match self {
            Self::Contract(method) => &method.name,
            Self::Other(path) => path,
        }
    }

    fn is_stream(&self) -> bool {
        match self {
            Self::Contract(method) => method.is_stream,
            // A stream may be; of a call with one message it makes no difference that its room is given back a little earlier.
            Self::Other(_) => true,
        }
    }
}

/// Where in a message the body is.
enum Place {
    /// In its head, of which these bytes are there.
    Head([u8; HEAD_BYTES], usize),
    /// In its content, of which so much is still to come.
    Content(Scan, usize),
    /// In the content of one that is passed on as it is: of no method of the contract, or whoever reads it refuses it.
    Unscanned(usize),
}

/// See the module text.
pub(super) struct RequestBody {
    body: Body,
    contract: Arc<Contract>,
    metrics: Arc<Metrics>,
    of: Of,
    bytes_max: Limit,
    call: Arc<Call>,
    received: Received,
    /// Of a produce stream.
    collector: Option<Collector>,
    /// What is wrong with the message that is under way. Those before it are handed over first.
    failed: Option<RequestError>,
    place: Place,
    /// The length of the message that is under way.
    of_message: usize,
    waiting: Option<(Frame<Bytes>, TakingRoom)>,
    stalled_after: Duration,
    /// Until when a byte of the message that is under way is to come.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// How long a message may be.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// Of this method, bytes.
    pub of_method: usize,
    /// Of any; beyond it the transport refuses by itself.
    pub of_transport: usize,
}

impl RequestBody {
    pub fn new(body: Body, admission: &Admission, of: Of, call: Arc<Call>, received: Received) -> Self {
        let collects = of.name() == "LogService/ProduceStream";
        Self {
            body,
            contract: admission.contract.clone(),
            metrics: admission.metrics.clone(),
            bytes_max: admission.limit(&of),
            of,
            collector: collects.then(|| Collector::new(call.batches.clone())),
            failed: None,
            call,
            received,
            place: BETWEEN,
            of_message: 0,
            waiting: None,
            stalled_after: admission.stalled_after,
            deadline: None,
        }
    }

    /// Everything before the message that is under way was taken: of a stream it is the service's now.
    fn let_go(&mut self) {
        if !self.of.is_stream() {
            return;
        }
        let mut received = self.received.lock();
        received.decoded = None;
        if let Some(held) = received.length.as_mut() {
            held.shrink_to(self.of_message);
        }
    }

    /// Walks the bytes of a frame, up to what is wrong in them. How much more room they need.
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

    /// Takes what belongs together off the bytes. How much more room it needs.
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
                    .map_err(|excess| refused(self.of.name(), excess))?;
                *left -= content.len();
                let (left, decoded) = (*left, scan.memory());
                self.collect(content, left);
                if left > 0 {
                    return Ok(Wanted::default());
                }
                self.of_message = 0;
                self.place = BETWEEN;
                Ok(Wanted { length: 0, decoded })
            }
            Place::Unscanned(left) => {
                let passed = bytes.split_to(bytes.len().min(*left));
                *left -= passed.len();
                if *left == 0 {
                    self.of_message = 0;
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

    /// A message begins. The room for its length.
    fn begin(&mut self, [flag, length @ ..]: [u8; HEAD_BYTES]) -> Result<usize, RequestError> {
        let length = u32::from_be_bytes(length) as usize;
        let Limit {
            of_method,
            of_transport,
        } = self.bytes_max;
        let name = self.of.name();
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
        self.place = match &self.of {
            Of::Contract(method) => Place::Content(Scan::new(method, length as u64, BOUNDS), length),
            Of::Other(_) => Place::Unscanned(length),
        };
        self.of_message = length;
        self.call.begins_message(length);
        Ok(length)
    }

    /// Ready when a message is under way and no byte of it has come for too long: it holds room meanwhile.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.place, Place::Head(..)) {
            return Poll::Pending;
        }
        let after = self.stalled_after;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
        deadline.as_mut().poll(cx)
    }

    fn stalled(&self) -> RequestError {
        let (name, after) = (self.of.name(), self.stalled_after);
        let message = format!(
            "{name}: a message was begun and nothing of it has come for {after:?} (limits.stalled_ms); send it again"
        );
        RequestError::new(Reason::InvalidRequest, message)
    }

    /// A frame as whoever reads the body gets it, if it gets any.
    fn for_reader(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        match &mut self.collector {
            Some(collector) if frame.is_data() => {
                let (empties, result) = collector.hand_over();
                if let Err(error) = result {
                    self.failed = Some(unreadable(self.of.name(), &error));
                }
                empties.map(Frame::data)
            }
            // Some of it belongs to a message that is refused.
            None if frame.is_data() && self.failed.is_some() => None,
            _ => Some(frame),
        }
    }

    /// Why the body's end is none.
    fn cut(&mut self) -> Option<RequestError> {
        if matches!(self.place, Place::Head(_, 0)) || self.collector.is_none() {
            return None;
        }
        self.place = BETWEEN;
        Some(unreadable(self.of.name(), &"the stream ends in the middle of it"))
    }

    /// An error as whoever reads the body gets it. The service of a stream counts it; of a unary call nobody else does.
    fn to_reader(&self, error: RequestError) -> axum::Error {
        if !self.of.is_stream() {
            self.metrics.failed(error.reason);
        }
        axum::Error::new(Status::from(error))
    }

    /// How much is to come on the stream while it waits, bytes.
    fn to_come(&self) -> usize {
        match self.place {
            _ if self.of.is_stream() => usize::MAX,
            Place::Content(_, left) | Place::Unscanned(left) => left,
            Place::Head(..) => 0,
        }
    }

    /// Room for a frame: now, or what waits for it.
    fn make_room(&self, wanted: Wanted) -> Result<Option<TakingRoom>, RequestError> {
        let caller = self.call.caller();
        let now = |resource, amount| match amount {
            0 => Ok(None),
            amount => caller
                .take_now(resource, amount)
                .map(Some)
                .map_err(|whose| (resource, amount, whose)),
        };
        let length = now(Resource::Requests, wanted.length);
        let decoded = now(Resource::Decoded, wanted.decoded);
        let (resource, amount, whose) = match (length, decoded) {
            (Ok(length), Ok(decoded)) => {
                self.received.lock().keep(Taken { length, decoded });
                return Ok(None);
            }
            (Err(lacking), _) | (_, Err(lacking)) => lacking,
        };
        let held_back = caller.hold_back(self.to_come());
        let held_back = held_back.ok_or_else(|| caller.refused(resource, amount, whose))?;
        // What of both was there is given back meanwhile.
        let caller = caller.clone();
        Ok(Some(Box::pin(async move {
            let _held_back = held_back;
            let mut taken = Taken::default();
            if wanted.length > 0 {
                taken.length = Some(caller.take(Resource::Requests, wanted.length, PATIENCE).await?);
            }
            if wanted.decoded > 0 {
                taken.decoded = Some(caller.take(Resource::Decoded, wanted.decoded, PATIENCE).await?);
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
            body.let_go();
            let frame = match Pin::new(&mut body.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(None) => return Poll::Ready(body.cut().map(|error| Err(body.to_reader(error)))),
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
            match body.make_room(wanted) {
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
