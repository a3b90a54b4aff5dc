//! What the client says when a call is refused.

use jangada_client::{ClientError, Reason};

/// Asserts an error's reason, and that its text names each of these.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(answer: Result<T, ClientError>, expected: Reason, named: &[&str]) {
    let error = answer.expect_err(expected.as_str());
    assert_eq!(error.reason(), Some(expected), "{error}");
    let text = error.to_string();
    for name in named {
        assert!(text.contains(name), "{expected} does not name {name:?}: {text}");
    }
}
