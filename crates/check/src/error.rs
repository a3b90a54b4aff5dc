//! What can be wrong with a history as input: it is not judged then.

use thiserror::Error;

/// An event that does not fit behind those before.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EventError {
    /// The index does not rise.
    #[error(
        "its index is {index}, and {least} is the least that may follow: sort the events, and number them anew if files were merged"
    )]
    Index {
        /// The event's index.
        index: u64,
        /// The least that would do.
        least: u64,
    },
    /// The time goes back.
    #[error(
        "its time is {time} ns, before the event above at {before} ns: take all times from one monotonic clock, and sort by them"
    )]
    Time {
        /// The event's time.
        time: u64,
        /// The time of the event before.
        before: u64,
    },
    /// The answer has no call.
    #[error(
        "it answers a call that is not open: each `ok`, `fail` or `info` needs one `invoke` of its process before it"
    )]
    NotOpen,
    /// The process has several calls open.
    #[error("its process has several open calls: name the index of the call's event as `invocation`")]
    Ambiguous,
    /// The answer is of another kind of call.
    #[error("the answer does not fit its call, which is a `{call}`")]
    Reply {
        /// The name of the call.
        call: &'static str,
    },
    /// The event is about a process that it does not name.
    #[error("it needs a `process`, a number")]
    NoProcess,
    /// An offset that no log has.
    #[error("{offset} is no offset: they are numbers from 0 to {most}")]
    Offset {
        /// What was to be an offset.
        offset: i64,
        /// The highest that is taken.
        most: i64,
    },
    /// There are more events than can be numbered.
    #[error("there are more events than can be numbered")]
    TooMany,
}

/// Why a file is no history.
#[derive(Debug, Error)]
pub enum InputError {
    /// A line cannot be read.
    #[error("cannot read line {line}: {error}")]
    Read {
        /// The number of the line, from 1 on.
        line: u64,
        /// What the system says.
        error: std::io::Error,
    },
    /// A line is longer than any event.
    #[error(
        "line {line} is longer than {limit} bytes: split what was read into several events, or a final read into parts"
    )]
    TooLong {
        /// The number of the line, from 1 on.
        line: u64,
        /// The bound, in bytes.
        limit: usize,
    },
    /// A line is no event.
    #[error("line {line} is no event: {error}; docs/architecture/checker.md has the format")]
    Syntax {
        /// The number of the line, from 1 on.
        line: u64,
        /// What is wrong with the JSON.
        error: serde_json::Error,
    },
    /// An event has fields that its kind does not have, or lacks some.
    #[error("line {line}, `{op}` ({kind}): {error}; docs/architecture/checker.md has the fields")]
    Fields {
        /// The number of the line, from 1 on.
        line: u64,
        /// What it was to be.
        op: String,
        /// Call, answer or note.
        kind: &'static str,
        /// What is wrong with the fields.
        error: serde_json::Error,
    },
    /// An event does not fit behind those before.
    #[error("line {line}: {error}")]
    Event {
        /// The number of the line, from 1 on.
        line: u64,
        /// Why it does not fit.
        error: EventError,
    },
}
