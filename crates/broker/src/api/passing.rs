//! Passing a call on to the broker that can answer it, for clients that cannot go there themselves. A call goes one hop: the other
//! broker answers it, or refuses it and says who could.

use std::time::Duration;

use jangada_types::{BrokerId, Reason};
use tokio::time::Instant;

use super::call::Passable;
use super::context::{RequestContext, Route};
use super::peers::PassError;
use crate::error::RequestError;
use crate::node::Node;
use crate::replica::LEADER_RETRY;
use crate::target::Target;

/// How long a call may be on its way to the other broker and back, beside what it waits there.
pub(crate) const PASS_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a question to another broker may take.
pub(super) const QUESTION_TIMEOUT: Duration = Duration::from_secs(15);
/// When as many calls as may be are under way to a broker, another one should be tried after this time.
const BUSY_RETRY: Duration = Duration::from_millis(100);
/// How long what all brokers know together is asked for again when some of it is missing: an election takes less.
const WHOLE_WITHIN: Duration = Duration::from_secs(3);
/// Time between two such questions.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Has the leader of a partition answer a call, and counts that. `within`: how long that one may take for it; a client
/// that waits less is answered sooner.
///
/// # Errors
/// The leader's own, as it said them. LEADER_NOT_AVAILABLE: the leader was not reached, or stops; `definite` is false when it may have
/// carried out a call that changes something. BROKER_BUSY: too many calls are under way to it. NOT_LEADER: it is too old for calls that
/// are passed on.
pub(super) async fn pass_on<R: Passable>(
    node: &Node,
    context: &RequestContext,
    (target, leader): (&Target, BrokerId),
    request: R,
    within: Duration,
) -> Result<R::Answer, RequestError> {
    debug_assert!(!matches!(context.route, Route::Passed(_)), "a call goes one hop");
    let answer = pass(node, Some(context), (target, leader), request, within).await;
    let outcome = answer.as_ref().err().map(|error| error.reason);
    node.metrics.passed_on.count(R::OPERATION, outcome);
    answer
}

/// Has the leader of a partition answer a question of this broker itself.
///
/// # Errors
/// As [`pass_on`].
pub(super) async fn ask_leader<R: Passable>(
    node: &Node,
    (target, leader): (&Target, BrokerId),
    question: R,
    within: Duration,
) -> Result<R::Answer, RequestError> {
    pass(node, None, (target, leader), question, within).await
}

async fn pass<R: Passable>(
    node: &Node,
    context: Option<&RequestContext>,
    (target, leader): (&Target, BrokerId),
    request: R,
    within: Duration,
) -> Result<R::Answer, RequestError> {
    let passed = node.peers.pass(leader, context, request.into_call(), within).await;
    let answer = match passed.map(R::answer_in) {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(PassError::Unanswered("it answered something else".to_owned())),
        Err(error) => Err(error),
    };
    answer.map_err(|error| refusal(target, leader, error, R::OPERATION.changes()))
}

/// Gathers what all brokers know together, again when it is not whole: a group that elects its leader, as it does on its first use and
/// when a broker died, answers a moment later. What is still missing in the end is for the caller to tell.
pub(super) async fn whole<L, F: Future<Output = L>>(gather: impl Fn() -> F, is_whole: impl Fn(&L) -> bool) -> L {
    let deadline = Instant::now() + WHOLE_WITHIN;
    loop {
        let gathered = gather().await;
        if is_whole(&gathered) || Instant::now() >= deadline {
            return gathered;
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
}

/// Asks another broker what it knows, for this broker itself. None: it does not say, or not in time.
pub(super) async fn ask<R: Passable>(
    node: &Node,
    broker: BrokerId,
    question: R,
    within: Duration,
) -> Option<R::Answer> {
    let answer = node.peers.pass(broker, None, question.into_call(), within).await;
    answer.ok().and_then(R::answer_in)
}

/// What the client is told.
fn refusal(target: &Target, leader: BrokerId, error: PassError, changes: bool) -> RequestError {
    let unavailable = |what: &str, why: &dyn std::fmt::Display| {
        let message = format!("{target}: broker {leader} leads it and {what}: {why}");
        RequestError::new(Reason::LeaderNotAvailable, message).retry_after(LEADER_RETRY)
    };
    match error {
        // The leader stops, and hands its leadership over: this broker does not stop.
        PassError::Refused(error) if error.reason == Reason::ShuttingDown => RequestError {
            definite: error.definite,
            ..unavailable("stops", &error)
        },
        PassError::Refused(error) => error,
        PassError::Busy { limit } => {
            let message =
                format!("{target}: broker {leader} leads it, and {limit} calls of this broker wait for its answers");
            RequestError::new(Reason::BrokerBusy, message)
                .with("limit", limit)
                .retry_after(BUSY_RETRY)
        }
        PassError::Unknown(why) => {
            let message = format!("{target}: broker {leader} leads it, and the call cannot be passed on: {why}");
            RequestError::new(Reason::NotLeader, message)
                .with("leader_id", leader)
                .retry_after(LEADER_RETRY)
        }
        PassError::NotSent(why) => unavailable("cannot be reached", &why),
        PassError::Unanswered(why) if changes => unavailable("does not answer", &why).unknown(),
        PassError::Unanswered(why) => unavailable("does not answer", &why),
    }
}
