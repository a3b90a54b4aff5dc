//! The layer around every call: bounds what comes in and what goes out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body::Body as _;
use jangada_proto::shape::Contract;
use jangada_types::limits::{CONTROL_REQUEST_BYTES_MAX, SHORT_REQUEST_BYTES_MAX};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::answer::{AnswerBody, Kind};
use super::batches::Batches;
use super::budget::Resource;
use super::caller::{Caller, Holding};
use super::connection::Origin;
use super::frame::Framed;
use super::request::{Limit, Of, Received, RequestBody};
use crate::error::RequestError;
use crate::listener::ConnectionInfo;
use crate::metrics::{Ending, Metrics};

/// Methods whose messages carry payloads: records, or what is replicated. All others only say what to do.
const CARRIERS: [&str; 6] = [
    "LogService/Produce",
    "LogService/ProduceStream",
    "InternalService/Control",
    "InternalService/Bulk",
    "InternalService/InstallSnapshot",
    "InternalService/ProposeMetadata",
];

/// Methods that change nothing: a call that was not answered can be called refused.
const READERS: [&str; 12] = [
    "LogService/Fetch",
    "LogService/FetchStream",
    "LogService/ListOffsets",
    "GroupService/FindCoordinator",
    "GroupService/FetchOffsets",
    "GroupService/ListGroups",
    "GroupService/DescribeGroup",
    "AdminService/ListTopics",
    "AdminService/DescribeTopic",
    "AdminService/DescribeCluster",
    "AdminService/DescribePartitions",
    "MetadataService/GetMetadata",
];

/// Room for the answer of a call that changes something, which is taken before anything is done: nearly all are shorter.
const ANSWER_BYTES: usize = 1024;

/// What the layer knows.
pub(crate) struct Admission {
    pub(super) contract: Arc<Contract>,
    pub(super) metrics: Arc<Metrics>,
    /// The largest message, bytes.
    bytes_max: usize,
    /// How long a message may be under way without a byte of it coming.
    pub(super) stalled_after: Duration,
}

impl Admission {
    pub fn new(bytes_max: usize, stalled_after: Duration, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            contract: Arc::new(Contract::new()),
            bytes_max,
            stalled_after,
            metrics,
        })
    }

    fn refuse(&self, error: RequestError, mut ending: Ending) -> Response {
        self.metrics.failed(error.reason);
        let status = Status::from(error);
        ending.with(&status);
        status.into_http()
    }

    /// A request whose messages are counted as they arrive.
    fn watched(&self, request: Request, call: Arc<Call>, received: Received) -> Request {
        let path = request.uri().path();
        let of = match self.contract.method(path) {
            Some(method) => Of::Contract(method.clone()),
            None => Of::Other(path.trim_start_matches('/').to_owned()),
        };
        request.map(|body| Body::new(RequestBody::new(body, self, of, call, received)))
    }

    /// How long a method's messages may be.
    pub(super) fn limit(&self, of: &Of) -> Limit {
        let of_method = match of {
            // They name a service, a file or a type.
            Of::Other(_) => SHORT_REQUEST_BYTES_MAX,
            Of::Contract(method) if CARRIERS.contains(&method.name.as_str()) => self.bytes_max,
            // The transport keeps room for the largest as long as the stream.
            Of::Contract(method) if method.name == "LogService/FetchStream" => SHORT_REQUEST_BYTES_MAX,
            Of::Contract(_) => CONTROL_REQUEST_BYTES_MAX,
        };
        Limit {
            of_method: of_method.min(self.bytes_max),
            of_transport: self.bytes_max,
        }
    }
}

/// A call: who made it, and what its service has for the answer. In the extensions of its request.
pub(crate) struct Call {
    pub caller: Arc<Caller>,
    deposit: Mutex<Option<Holding>>,
    /// In their order, each for an empty message of the answer.
    framed: Mutex<VecDeque<Framed>>,
    /// Of a produce stream.
    pub batches: Batches,
    /// The length of the message that was last begun.
    message_bytes: AtomicUsize,
    /// For the call itself, until its answer is sent.
    _room: Option<Holding>,
}

impl Call {
    pub(super) fn new(caller: Arc<Caller>, room: Option<Holding>) -> Arc<Self> {
        Arc::new(Self {
            caller,
            deposit: Mutex::default(),
            framed: Mutex::default(),
            batches: Batches::default(),
            message_bytes: AtomicUsize::new(0),
            _room: room,
        })
    }

    /// How long the request of a unary call is, bytes.
    pub fn message_bytes(&self) -> usize {
        self.message_bytes.load(Relaxed)
    }

    pub(super) fn begins_message(&self, bytes: usize) {
        self.message_bytes.store(bytes, Relaxed);
    }

    /// Takes room for a short answer, before anything is done: there must be room to say so afterwards.
    pub(super) fn reserve_answer(&self) -> Result<(), RequestError> {
        self.deposit(self.caller.try_take(Resource::Answers, ANSWER_BYTES)?);
        Ok(())
    }

    /// What the next bytes of the answer are counted by, until they are sent. They may be fewer.
    pub fn deposit(&self, room: Holding) {
        match &mut *self.deposit.lock() {
            Some(held) => held.merge(room),
            none => *none = Some(room),
        }
    }

    pub(super) fn take_deposit(&self) -> Option<Holding> {
        self.deposit.lock().take()
    }

    /// What goes out for the next message of the answer, which the service leaves empty.
    pub fn send(&self, message: Framed) {
        self.framed.lock().push_back(message);
    }

    /// What goes out for so many empty messages.
    pub(super) fn take_framed(&self, count: usize) -> Vec<Framed> {
        let mut framed = self.framed.lock();
        let count = count.min(framed.len());
        framed.drain(..count).collect()
    }
}

/// Lets another broker's call through, with its request under watch: whoever reaches the internal listener may be a stranger.
pub(crate) async fn admit_peer(State(admission): State<Arc<Admission>>, mut request: Request, next: Next) -> Response {
    let origin = request.extensions().get::<Origin<ConnectionInfo>>().cloned();
    let Some(Origin { socket, caller }) = origin else {
        return without_connection();
    };
    request.extensions_mut().insert(socket);
    let call = Call::new(caller, None);
    next.run(admission.watched(request, call, Received::default())).await
}

/// The call that a request makes.
pub(crate) fn call_of<T>(request: &tonic::Request<T>) -> Arc<Call> {
    let call = request.extensions().get::<Arc<Call>>();
    call.expect("every call goes through the admission").clone()
}

/// Lets a client's call through, with its bodies under watch.
pub(crate) async fn admit(State(admission): State<Arc<Admission>>, mut request: Request, next: Next) -> Response {
    let origin = request.extensions().get::<Origin<ConnectionInfo>>().cloned();
    let Some(Origin { socket, caller }) = origin else {
        return without_connection();
    };
    request.extensions_mut().insert(socket);
    let method = admission.contract.method(request.uri().path());
    let counted = method.map(|method| admission.metrics.requests.method(method.number));
    let unary = counted.filter(|_| method.is_some_and(|method| !method.is_stream));
    let ending = counted.map_or_else(Ending::uncounted, Ending::of);
    let room = match caller.try_take(Resource::Calls, 1) {
        Ok(room) => room,
        Err(error) => return admission.refuse(error, ending),
    };
    let call = Call::new(caller, Some(room));
    let changes = method.is_some_and(|method| !READERS.contains(&method.name.as_str()));
    if changes
        && unary.is_some()
        && let Err(error) = call.reserve_answer()
    {
        return admission.refuse(error, ending);
    }
    request.extensions_mut().insert(call.clone());
    let received = Received::default();
    let request = admission.watched(request, call.clone(), received.clone());
    let began = Instant::now();
    let response = next.run(request).await;
    if let Some(unary) = &unary {
        unary.took(began.elapsed());
    }
    // Of a unary call the service is done with the request. The body of a stream goes on, and has its own.
    drop(received);
    if response.body().is_end_stream() {
        end_at_once(ending, &response);
        return response;
    }
    let kind = Kind {
        is_stream: unary.is_none(),
        changes,
    };
    response.map(|body| Body::new(AnswerBody::new(body, call, kind, ending)))
}

fn without_connection() -> Response {
    // Only what comes through a guarded socket gets here.
    Status::internal("the call has no connection").into_http()
}

/// Counts a call that is answered without a message: its status stands in the head.
fn end_at_once(mut ending: Ending, response: &Response) {
    if let Some(status) = Status::from_header_map(response.headers()) {
        ending.with(&status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_are_named_here_are_in_the_contract() {
        let contract = Contract::new();
        let names: Vec<&str> = contract.methods().iter().map(|method| method.name.as_str()).collect();
        for name in READERS.iter().chain(&CARRIERS) {
            assert!(names.contains(name), "{name}");
        }
    }
}
