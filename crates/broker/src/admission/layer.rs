//! The layer around every call: counts its request and its response against the budgets, and begins and ends the call at the
//! [`Boundary`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body::Body as _;
use jangada_proto::shape::{Contract, Method};
use jangada_types::Reason;
use jangada_types::limits::{
    CONTROL_REQUEST_BYTES_MAX, QUEUE_CONSUME_BYTES_MAX, QUEUE_STREAM_BYTES_MAX, SHORT_REQUEST_BYTES_MAX,
};
use tokio::time::Instant;
use tonic::Status;

use super::answer::{AnswerBody, Kind};
use super::call::{Call, outcome};
use super::connection::Origin;
use super::request::{CalledMethod, Counting, Limit, Received, RequestBody};
use crate::api::boundary::Boundary;
use crate::api::context::{Principal, RequestContext, Route};
use crate::api::operation::Operation;
use crate::error::RequestError;
use crate::listener::ConnectionInfo;
use crate::metrics::{Ending, Metrics};

/// The methods between brokers whose messages carry replicated data or records of clients, and so may be as long as the transport
/// allows. Messages of other methods are short, except those of client operations that carry records
/// ([`Operation::carries_records`]).
const CARRIERS_BETWEEN_BROKERS: [&str; 5] = [
    "InternalService/Control",
    "InternalService/Bulk",
    "InternalService/InstallSnapshot",
    "InternalService/ProposeMetadata",
    "InternalService/Forward",
];

/// The header by which a gRPC client sets the timeout of a call.
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// The header in which a client says what becomes of a call that only another broker can answer (`log.proto`).
const ROUTE: &str = "jangada-route";

/// The state that the layer shares between calls.
pub(crate) struct Admission {
    contract: Arc<Contract>,
    /// The operation of each method, by the method's number; `None` for methods between brokers.
    operations: Vec<Option<Operation>>,
    boundary: Boundary,
    metrics: Arc<Metrics>,
    /// The largest message, bytes.
    bytes_max: usize,
    /// How long a message may be incomplete without a further byte of it coming.
    stalled_after: Duration,
}

impl Admission {
    pub fn new(bytes_max: usize, stalled_after: Duration, metrics: Arc<Metrics>) -> Arc<Self> {
        let contract = Contract::new();
        let operation = |name: &str| Operation::ALL.iter().copied().find(|known| known.name() == name);
        let methods = contract.methods();
        let operations = methods.iter().map(|method| operation(&method.name)).collect();
        Arc::new(Self {
            contract: Arc::new(contract),
            operations,
            boundary: Boundary::new(metrics.clone()),
            bytes_max,
            stalled_after,
            metrics,
        })
    }

    /// Wraps the body of a request so that its messages are counted as they arrive.
    fn watched(&self, request: Request, call: Arc<Call>, received: Received) -> Request {
        let path = request.uri().path();
        let called = match self.contract.method(path) {
            Some(method) => CalledMethod::Contract(method.clone()),
            None => CalledMethod::Other(path.trim_start_matches('/').to_owned()),
        };
        let counting = Counting {
            contract: self.contract.clone(),
            metrics: self.metrics.clone(),
            bytes_max: self.limit(&called),
            stalled_after: self.stalled_after,
        };
        request.map(|body| Body::new(RequestBody::new(body, counting, called, call, received)))
    }

    fn is_carrier(&self, method: &Method) -> bool {
        match self.operations[method.number] {
            Some(operation) => operation.carries_records(),
            None => CARRIERS_BETWEEN_BROKERS.contains(&method.name.as_str()),
        }
    }

    /// The largest message of a method.
    fn limit(&self, called: &CalledMethod) -> Limit {
        let of_method = match called {
            // Health and reflection: their requests name a service, a file or a type.
            CalledMethod::Other(_) => SHORT_REQUEST_BYTES_MAX,
            CalledMethod::Contract(method) if self.is_carrier(method) => self.bytes_max,
            // tonic keeps a decode buffer of the largest message's size for as long as the stream lives.
            CalledMethod::Contract(method) if method.name == "LogService/FetchStream" => SHORT_REQUEST_BYTES_MAX,
            CalledMethod::Contract(method) if method.name == "QueueService/Consume" => QUEUE_CONSUME_BYTES_MAX,
            CalledMethod::Contract(method) if method.name == "QueueService/SendStream" => QUEUE_STREAM_BYTES_MAX,
            CalledMethod::Contract(_) => CONTROL_REQUEST_BYTES_MAX,
        };
        Limit {
            of_method: of_method.min(self.bytes_max),
            of_transport: self.bytes_max,
        }
    }
}

/// The layer of internal listeners: counts the request, since any host that reaches the listener can send one.
pub(crate) async fn admit_peer(State(admission): State<Arc<Admission>>, mut request: Request, next: Next) -> Response {
    let Some(context) = context_of(&mut request) else {
        return without_connection();
    };
    let call = Call::new(context, None);
    request.extensions_mut().insert(call.clone());
    let mut response = next.run(admission.watched(request, call, Received::default())).await;
    let Some(AnswerOf { call, changes }) = response.extensions_mut().remove() else {
        return response;
    };
    let kind = Kind {
        is_stream: false,
        changes,
    };
    response.map(|body| Body::new(AnswerBody::new(body, call, kind, Ending::uncounted())))
}

/// In the extensions of a response to another broker: the call of a client that it answers, whose room it takes until it is sent.
#[derive(Clone)]
pub(crate) struct AnswerOf {
    pub call: Arc<Call>,
    /// Whether the call may have changed something.
    pub changes: bool,
}

/// What is to become of a call that only another broker can answer.
fn route_of(headers: &HeaderMap) -> Result<Route, RequestError> {
    let Some(value) = headers.get(ROUTE) else {
        return Ok(Route::Follow);
    };
    let known = Route::NAMES
        .iter()
        .find(|(name, _)| name.as_bytes() == value.as_bytes());
    known.map(|(_, route)| *route).ok_or_else(|| {
        let names = Route::NAMES.map(|(name, _)| name).join(" or ");
        RequestError::new(
            Reason::InvalidRequest,
            format!("{ROUTE} is {value:?}: it may be {names}"),
        )
    })
}

/// The context of a call, from its connection and its headers.
fn context_of(request: &mut Request) -> Option<RequestContext> {
    let origin = request.extensions().get::<Origin<ConnectionInfo>>().cloned();
    let Origin { socket, caller } = origin?;
    let client_id = request.headers().get(header::USER_AGENT);
    let deadline = request.headers().get(GRPC_TIMEOUT).and_then(timeout);
    let context = RequestContext {
        principal: Principal::Anonymous,
        client_id: client_id.and_then(|name| name.to_str().ok()).map(Arc::from),
        listener: socket.listener().clone(),
        peer: caller.peer(),
        deadline: deadline.and_then(|timeout| Instant::now().checked_add(timeout)),
        caller,
        route: Route::Follow,
    };
    request.extensions_mut().insert(socket);
    Some(context)
}

/// Parses a gRPC timeout: up to eight digits and a unit (PROTOCOL-HTTP2.md, "Timeout").
fn timeout(value: &HeaderValue) -> Option<Duration> {
    let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(3_600 * count)),
        "M" => Some(Duration::from_secs(60 * count)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The layer of client listeners: admits a call, and counts its request and its response.
pub(crate) async fn admit(State(admission): State<Arc<Admission>>, mut request: Request, next: Next) -> Response {
    let Some(mut context) = context_of(&mut request) else {
        return without_connection();
    };
    let method = admission.contract.method(request.uri().path());
    let operation = method.and_then(|method| admission.operations[method.number]);
    let is_unary = operation.is_some() && method.is_some_and(|method| !method.is_stream);
    let begun = match admission.boundary.begin(&context, operation) {
        Ok(begun) => begun,
        Err(error) => return Status::from(error).into_http(),
    };
    let answered = begun.answering();
    let (place, mut ending) = begun.into_parts();
    match route_of(request.headers()) {
        Ok(route) => context.route = route,
        Err(error) => {
            admission.boundary.refused(&context, &error);
            ending.with(error.reason.as_str());
            return Status::from(error).into_http();
        }
    }
    let call = Call::new(context, Some(place));
    let changes = operation.is_some_and(Operation::changes);
    if changes
        && is_unary
        && let Err(error) = call.reserve_answer()
    {
        admission.boundary.refused(&call.context, &error);
        ending.with(error.reason.as_str());
        return Status::from(error).into_http();
    }
    request.extensions_mut().insert(call.clone());
    let received = Received::default();
    let request = admission.watched(request, call.clone(), received.clone());
    let response = next.run(request).await;
    if is_unary {
        answered.now();
    }
    // The service of a unary call is done with the request. The body of a stream goes on, and shares `received`.
    drop(received);
    if response.body().is_end_stream() {
        end_at_once(ending, &response);
        return response;
    }
    let kind = Kind {
        is_stream: !is_unary,
        changes,
    };
    response.map(|body| Body::new(AnswerBody::new(body, call, kind, ending)))
}

fn without_connection() -> Response {
    // Unreachable for requests that come through a `Guarded` socket.
    Status::internal("the call has no connection").into_http()
}

/// Counts a call whose response has no message: its status is in the headers.
fn end_at_once(mut ending: Ending, response: &Response) {
    if let Some(status) = Status::from_header_map(response.headers()) {
        ending.with(outcome(&status));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_are_named_here_are_in_the_contract() {
        let contract = Contract::new();
        let names: Vec<&str> = contract.methods().iter().map(|method| method.name.as_str()).collect();
        for name in CARRIERS_BETWEEN_BROKERS {
            assert!(names.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_client_may_wish_for_a_route_that_there_is() {
        let route = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ROUTE, HeaderValue::from_static(value));
            route_of(&headers)
        };
        assert_eq!(route_of(&HeaderMap::new()), Ok(Route::Follow));
        assert_eq!(route("follow"), Ok(Route::Follow));
        assert_eq!(route("pass-on"), Ok(Route::PassOn));
        let refused = route("passed").expect_err("no client says that");
        assert_eq!(refused.reason, Reason::InvalidRequest);
        assert!(refused.message.contains("follow or pass-on"), "{refused}");
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, read) in [
            ("5S", Some(Duration::from_secs(5))),
            ("99999999H", Some(Duration::from_secs(3_600 * 99_999_999))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("123456789n", None),
            ("S", None),
            ("", None),
            ("5s", None),
        ] {
            assert_eq!(timeout(&HeaderValue::from_static(text)), read, "{text}");
        }
    }
}
