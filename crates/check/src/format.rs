//! Histories as JSON lines, one event a line.

use std::io::{BufRead, Read as _, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::call::{Call, Done, Offset, Offsets, Placed, Polled, Received, Reply, Sent, Settled};
use crate::error::{EventError, InputError};
use crate::history::operation::Outcome;
use crate::history::{History, Moment};
use crate::names::OperationId;
use crate::note::Note;

/// A line may be so long: a final read of a million records in one line has room.
pub const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EventType {
    Invoke,
    Ok,
    Fail,
    Info,
    Note,
}

/// One line: what all events have, and the fields of the call, answer or note.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    index: u64,
    time: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<u32>,
    #[serde(rename = "type")]
    event: EventType,
    /// The index of the call that this answers, where its process has several open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invocation: Option<u64>,
    /// For people: why a call failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    fields: Map<String, Json>,
}

/// Reads a history.
///
/// # Errors
/// The first line that cannot be read, with what to do about it.
pub fn read(mut input: impl BufRead) -> Result<History, InputError> {
    let mut history = History::default();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let taken = input.by_ref().take(limit).read_until(b'\n', &mut text);
        let taken = taken.map_err(|error| InputError::Read { line, error })?;
        if taken == 0 {
            break;
        }
        if taken > LINE_BYTES_MAX {
            return Err(InputError::TooLong {
                line,
                limit: LINE_BYTES_MAX,
            });
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let parsed: Line = serde_json::from_slice(&text).map_err(|error| InputError::Syntax { line, error })?;
        event(&mut history, line, parsed)?;
    }
    Ok(history)
}

fn event(history: &mut History, number: u64, line: Line) -> Result<(), InputError> {
    let wrong = |error| InputError::Event { line: number, error };
    let at = Moment {
        index: line.index,
        time_ns: line.time,
    };
    match line.event {
        EventType::Note => {
            let note: Note = fields(number, "note", line.fields)?;
            history.note(at, line.process, note).map_err(wrong)
        }
        EventType::Invoke => {
            let call: Call = fields(number, "invoke", line.fields)?;
            let process = line.process.ok_or(EventError::NoProcess).map_err(wrong)?;
            history.invoke(at, process, call).map_err(wrong).map(drop)
        }
        EventType::Ok | EventType::Fail | EventType::Info => {
            let process = line.process.ok_or(EventError::NoProcess).map_err(wrong)?;
            let id = match line.invocation {
                Some(index) => history.open_at(process, index).ok_or(EventError::NotOpen),
                None => history.open_of(process).ok_or(if history.has_open(process) {
                    EventError::Ambiguous
                } else {
                    EventError::NotOpen
                }),
            };
            let id = id.map_err(wrong)?;
            match line.event {
                EventType::Fail => history.fail(at, id).map_err(wrong),
                EventType::Info => history.unknown(at, id).map_err(wrong),
                _ => {
                    let reply = reply(history, number, id, line.fields)?;
                    history.ok(at, id, reply).map_err(wrong)
                }
            }
        }
    }
}

fn fields<T: DeserializeOwned>(line: u64, kind: &'static str, fields: Map<String, Json>) -> Result<T, InputError> {
    let op = fields
        .get("op")
        .and_then(Json::as_str)
        .unwrap_or("without `op`")
        .to_owned();
    serde_json::from_value(Json::Object(fields)).map_err(|error| InputError::Fields { line, op, kind, error })
}

/// The answer to a call, whose kind says which fields it has.
fn reply(history: &History, line: u64, id: OperationId, mut map: Map<String, Json>) -> Result<Reply, InputError> {
    let name = history.operation(id).body.name();
    // An answer may repeat what it answers.
    if let Some(op) = map.remove("op").filter(|op| op != name) {
        let error = serde::de::Error::custom(format!("it answers a `{name}`, and says that it is of {op}"));
        let op = name.to_owned();
        return Err(InputError::Fields {
            line,
            op,
            kind: "ok",
            error,
        });
    }
    let parsed = |map| -> Result<Reply, serde_json::Error> {
        Ok(match name {
            "send" => Reply::Sent(serde_json::from_value::<Sent>(map)?),
            "poll" => Reply::Polled(serde_json::from_value::<Polled>(map)?),
            "end_offset" => Reply::Offset(serde_json::from_value::<Offset>(map)?),
            "fetch_offsets" => Reply::Offsets(serde_json::from_value::<Offsets>(map)?),
            "queue_send" => Reply::Placed(serde_json::from_value::<Placed>(map)?),
            "receive" => Reply::Received(serde_json::from_value::<Received>(map)?),
            "settle" => Reply::Settled(serde_json::from_value::<Settled>(map)?),
            _ => Reply::Done(serde_json::from_value::<Done>(map)?),
        })
    };
    parsed(Json::Object(map)).map_err(|error| InputError::Fields {
        line,
        op: name.to_owned(),
        kind: "ok",
        error,
    })
}

/// What happened, as it is written.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A call of a process.
    Invoke(u32, &'a Call),
    /// The answer of the call with this index.
    Ok(u32, u64, &'a Reply),
    /// An answer without effect, or without certainty.
    Failed(u32, u64, Outcome),
    /// What is no call.
    Note(Option<u32>, &'a Note),
}

/// Writes one event as a line.
///
/// # Errors
/// The system's.
pub(crate) fn write(output: &mut impl Write, at: Moment, event: &Event<'_>) -> std::io::Result<()> {
    let (kind, process, invocation, fields) = match event {
        Event::Invoke(process, call) => (EventType::Invoke, Some(*process), None, object(call)?),
        Event::Ok(process, index, reply) => (EventType::Ok, Some(*process), Some(*index), object(reply)?),
        Event::Failed(process, index, Outcome::Failed) => (EventType::Fail, Some(*process), Some(*index), Map::new()),
        Event::Failed(process, index, _) => (EventType::Info, Some(*process), Some(*index), Map::new()),
        Event::Note(process, note) => (EventType::Note, *process, None, object(note)?),
    };
    let line = Line {
        index: at.index,
        time: at.time_ns,
        process,
        event: kind,
        invocation,
        reason: None,
        fields,
    };
    serde_json::to_writer(&mut *output, &line)?;
    output.write_all(b"\n")
}

fn object(it: &impl Serialize) -> std::io::Result<Map<String, Json>> {
    match serde_json::to_value(it)? {
        Json::Object(map) => Ok(map),
        other => Err(std::io::Error::other(format!("{other} is no object"))),
    }
}
