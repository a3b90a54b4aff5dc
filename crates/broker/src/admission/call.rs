//! A call that is being executed: its context, and what its response holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use jangada_types::Reason;
use parking_lot::Mutex;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::batches::Batches;
use super::frame::Framed;
use crate::api::context::RequestContext;
use crate::error::RequestError;
use crate::metrics::OK;
use crate::quota::{Caller, Holding, Resource};

/// What is reserved for the response of a call that changes something, before it is executed, bytes. Nearly all are shorter.
const ANSWER_BYTES: usize = 1024;

/// A call: its context, and what its service passes to the response's body. It is among the extensions of the request.
pub(crate) struct Call {
    pub context: RequestContext,
    deposit: Mutex<Option<Holding>>,
    /// Encoded messages in order, each of which replaces an empty message of the response.
    framed: Mutex<VecDeque<Framed>>,
    /// The messages of a produce stream; empty for other calls.
    pub batches: Batches,
    /// The length of the message that was begun last, bytes.
    message_bytes: AtomicUsize,
    /// The holding of [`Resource::Calls`], until the response is sent.
    _room: Option<Holding>,
}

impl Call {
    pub fn new(context: RequestContext, room: Option<Holding>) -> Arc<Self> {
        Arc::new(Self {
            context,
            deposit: Mutex::default(),
            framed: Mutex::default(),
            batches: Batches::default(),
            message_bytes: AtomicUsize::new(0),
            _room: room,
        })
    }

    /// The connection of the call, with what it holds.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.context.caller
    }

    /// The encoded length of a unary call's request, bytes.
    pub fn message_bytes(&self) -> usize {
        self.message_bytes.load(Relaxed)
    }

    pub(super) fn begins_message(&self, bytes: usize) {
        self.message_bytes.store(bytes, Relaxed);
    }

    /// Reserves a short response before the call is executed, so that afterwards the client can be told the outcome.
    pub fn reserve_answer(&self) -> Result<(), RequestError> {
        self.deposit(self.caller().try_take(Resource::Answers, ANSWER_BYTES)?);
        Ok(())
    }

    /// Passes a holding on to the next bytes of the response, which keep it until they are sent. What they do not need is given
    /// back.
    pub fn deposit(&self, room: Holding) {
        match &mut *self.deposit.lock() {
            Some(held) => held.merge(room),
            none => *none = Some(room),
        }
    }

    pub(super) fn take_deposit(&self) -> Option<Holding> {
        self.deposit.lock().take()
    }

    /// Passes on the next message of the response in encoded form. The service yields an empty message in its place.
    pub fn send(&self, message: Framed) {
        self.framed.lock().push_back(message);
    }

    /// The encoded messages that replace the next `count` empty ones.
    pub(super) fn take_framed(&self, count: usize) -> Vec<Framed> {
        let mut framed = self.framed.lock();
        let count = count.min(framed.len());
        framed.drain(..count).collect()
    }
}

/// The call of a request that has come through this layer.
pub(crate) fn call_of<T>(request: &tonic::Request<T>) -> Arc<Call> {
    let call = request.extensions().get::<Arc<Call>>();
    call.expect("every call goes through the admission").clone()
}

/// The outcome of a call, as metrics name it: OK, the reason of one of our errors, or else the name of the gRPC code.
pub(super) fn outcome(status: &Status) -> &'static str {
    if status.code() == Code::Ok {
        return OK;
    }
    let info = status.get_details_error_info();
    let reason = info.and_then(|info| Reason::parse(&info.reason));
    reason.map_or_else(|| code_name(status.code()), Reason::as_str)
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => OK,
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_ok_a_reason_or_a_code() {
        let refused = Status::from(RequestError::new(Reason::DiskFull, "the disk is full"));
        for (status, name) in [
            (Status::ok(""), "OK"),
            (refused, "DISK_FULL"),
            (Status::unimplemented("no such method"), "UNIMPLEMENTED"),
        ] {
            assert_eq!(outcome(&status), name);
        }
    }
}
