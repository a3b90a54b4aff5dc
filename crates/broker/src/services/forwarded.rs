//! What other brokers pass on to this one: calls of their clients, and questions about what only this one knows. Either is answered
//! from what is here.

use std::net::SocketAddr;
use std::sync::Arc;

use jangada_controller::PUBLIC_LISTENER;
use jangada_proto::internal::forward_request::Call as Message;
use jangada_proto::internal::{CallContext, ForwardResponse};
use jangada_types::BrokerId;
use tonic::{Response, Status};

use super::passed_wire;
use super::record_wire::{self, invalid};
use crate::admission::{AnswerOf, Call, Framed};
use crate::api::boundary::Boundary;
use crate::api::call::{Answer, Call as Wanted};
use crate::api::carry_out::{self, CarriedOut};
use crate::api::context::{Principal, RequestContext, Route};
use crate::error::RequestError;
use crate::metrics::OK;
use crate::node::Node;
use crate::quota::Holding;

/// Answers a call of a client of another broker, or a question of that broker itself. `arrived`: how it came here.
pub(super) async fn answer(
    node: &Arc<Node>,
    from: BrokerId,
    arrived: &Call,
    context: Option<CallContext>,
    message: Option<Message>,
) -> Result<Response<ForwardResponse>, Status> {
    let message = message.ok_or_else(|| Status::unimplemented("this build does not know such calls"))?;
    let listener = context
        .as_ref()
        .map_or(PUBLIC_LISTENER, |context| &*context.listener)
        .to_owned();
    let said = |error| Status::from(node.metadata.with_leader_address(error, &listener));
    let group = group_of(&message);
    let context = context
        .map(|context| believed(node, from, arrived, &context))
        .transpose()
        .map_err(said)?;
    let host = context
        .as_ref()
        .map(|context| context.peer.ip().to_string())
        .unwrap_or_default();
    let image = node.metadata.image();
    let wanted = passed_wire::call_of(&image, message, host.into()).map_err(said)?;
    let to_message = |answer| passed_wire::answer_to(&node.metadata.image(), &group, answer);
    let Some(context) = context else {
        let answer = carry_out::answer(node, &wanted).await.map_err(said)?;
        let answer = answer.ok_or_else(|| said(invalid("a call of a client was passed on without its context")))?;
        let answer = Some(to_message(answer));
        return Ok(Response::new(ForwardResponse { answer }));
    };
    let changes = wanted.operation().changes();
    // The broker of the client counts what is refused among its errors.
    let boundary = Boundary::of_passed(node.metrics.clone());
    let begun = boundary.begin(&context, Some(wanted.operation())).map_err(said)?;
    let answering = begun.answering();
    let (place, mut ending) = begun.into_parts();
    let call = Call::new(context, Some(place));
    let answered = answer_call(node, &call, wanted, arrived.message_bytes()).await;
    answering.now();
    ending.with(answered.as_ref().map_or_else(|error| error.reason.as_str(), |_| OK));
    let answered = answered.map_err(said)?;
    let (answer, room) = answered.map_or((None, None), |(answer, room)| (Some(to_message(answer)), room));
    let mut response = ForwardResponse { answer };
    if room.is_some() {
        // What was read counts for its client until it is sent; what goes to the transport stands for it.
        call.send(Framed::of(&response, room));
        response = ForwardResponse::default();
    }
    let mut response = Response::new(response);
    // The room of the answer is its client's until the answer is sent.
    response.extensions_mut().insert(AnswerOf { call, changes });
    Ok(response)
}

/// The group whose description is asked for: its answer names it.
fn group_of(message: &Message) -> String {
    match message {
        Message::DescribeGroup(request) => request.group.clone(),
        _ => String::new(),
    }
}

/// Who made a call, as its broker says: only brokers reach the internal listener.
fn believed(node: &Node, from: BrokerId, arrived: &Call, said: &CallContext) -> Result<RequestContext, RequestError> {
    let peer: SocketAddr = said
        .peer
        .parse()
        .map_err(|_| invalid(format!("{:?} is no address of a client", said.peer)))?;
    let principal = match &*said.principal {
        // Brokers of the first builds that pass calls on don't say it.
        "" => Principal::Anonymous,
        name => Principal::of_name(name).ok_or_else(|| invalid(format!("principal {name:?} is not known here")))?,
    };
    let context = RequestContext {
        principal,
        client_id: (!said.client_id.is_empty()).then(|| said.client_id.as_str().into()),
        listener: said.listener.as_str().into(),
        peer,
        deadline: arrived.context.deadline,
        caller: node.passed_callers.of(from, peer),
        route: Route::Passed(Some(from)),
    };
    tracing::debug!(%context, "a call is passed on to this broker");
    Ok(context)
}

/// Answers a call; none: what goes out as the answer was handed to the transport.
async fn answer_call(
    node: &Arc<Node>,
    call: &Arc<Call>,
    wanted: Wanted,
    message_bytes: usize,
) -> Result<Option<(Answer, Option<Holding>)>, RequestError> {
    if wanted.operation().changes() {
        call.reserve_answer()?;
    }
    let CarriedOut { answer, room } = carry_out::carry_out(node, &call.context, wanted, message_bytes).await?;
    match (answer, room) {
        (Answer::Read(fetched), Some(room)) => {
            call.send(Framed::passed_on(record_wire::fetched_to(fetched), room));
            Ok(None)
        }
        (answer, room) => Ok(Some((answer, room))),
    }
}
