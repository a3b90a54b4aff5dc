//! Calls without the types of their answers.
//!
//! What asks, waits and asks again is much code. Written for a call of any type it would be compiled for each call, and anew in each
//! program, as asynchronous functions are; so it takes calls whose answers are kept beside them, is boxed, and is compiled once, here.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use futures::future::BoxFuture;
use tonic::{Response, Status};

/// A call under way, whose answer an [`Answer`] keeps.
pub(crate) type Asked<'a> = BoxFuture<'a, Result<Response<()>, Status>>;

/// The answer of a call, once it is there.
pub(crate) struct Answer<T>(Mutex<Option<T>>);

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Send> Answer<T> {
    /// The call that keeps its answer here. Of several the last one to be answered counts.
    pub fn of<'a>(&'a self, call: impl Future<Output = Result<Response<T>, Status>> + Send + 'a) -> Asked<'a> {
        Box::pin(async {
            let response = call.await?;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(response.into_inner());
            Ok(Response::new(()))
        })
    }

    /// The answer of a call that has succeeded.
    pub fn taken(self) -> T {
        let answer = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        answer.expect("it is kept before the call succeeds")
    }
}
