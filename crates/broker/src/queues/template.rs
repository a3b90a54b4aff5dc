//! What the messages of a schedule are made of, as it is kept with the schedule. Pure.

use bytes::Bytes;
use jangada_queue::limits::SCHEDULE_TEMPLATE_BYTES_MAX;
use jangada_types::frame::{CodecError, frame, message, unframe_plain};
use jangada_types::{Header, Reason};

use super::outgoing::{Due, NewMessage};
use crate::error::RequestError;

const WHAT: &str = "template of a schedule";

#[derive(Clone, PartialEq, prost::Message)]
struct WireTemplate {
    #[prost(bytes = "bytes", optional, tag = "1")]
    key: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "2")]
    body: Bytes,
    #[prost(message, repeated, tag = "3")]
    headers: Vec<WireHeader>,
    /// Absent: as the queue's settings say.
    #[prost(uint64, optional, tag = "4")]
    delay_ms: Option<u64>,
    #[prost(uint32, tag = "5")]
    priority: u32,
    #[prost(uint64, optional, tag = "6")]
    ttl_ms: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireHeader {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    value: Option<Bytes>,
}

/// A message as it stands in the state of a schedule.
///
/// # Errors
/// INVALID_REQUEST: the message has what only one message can have, its own id or a fixed time. INVALID_SCHEDULE: it is too large.
pub(crate) fn encode(message: &NewMessage) -> Result<Bytes, RequestError> {
    let refuse = |field: &str, why: &str| {
        let message = format!("the message of a schedule has {field}, {why}: leave it out");
        Err(RequestError::new(Reason::InvalidRequest, message))
    };
    if message.message_id.is_some() {
        return refuse("a message_id", "and is sent again and again");
    }
    let delay_ms = match message.due {
        Due::Default => None,
        Due::After(delay_ms) => Some(delay_ms),
        Due::At(_) => return refuse("deliver_at_ms", "and the schedule says when it is sent"),
    };
    let header = |header: &Header| WireHeader {
        key: header.key.clone(),
        value: header.value.clone(),
    };
    let template = frame(
        None,
        &WireTemplate {
            key: message.key.clone(),
            body: message.body.clone(),
            headers: message.headers.iter().map(header).collect(),
            delay_ms,
            priority: message.priority,
            ttl_ms: message.ttl_ms,
        },
    );
    let (actual, limit) = (template.len(), SCHEDULE_TEMPLATE_BYTES_MAX);
    match actual > limit {
        true => {
            let message = format!(
                "the message of the schedule takes {actual} bytes with its key and headers: at most {limit}, since it is part of the \
                 partition's saved state; send a reference to what is larger"
            );
            Err(RequestError::new(Reason::InvalidSchedule, message)
                .with("limit", limit)
                .with("actual", actual))
        }
        false => Ok(template),
    }
}

/// The reverse of [`encode`].
///
/// # Errors
/// It is damaged, or a later build wrote it.
pub(crate) fn decode(template: &[u8]) -> Result<NewMessage, CodecError> {
    let WireTemplate {
        key,
        body,
        headers,
        delay_ms,
        priority,
        ttl_ms,
    } = message(WHAT, unframe_plain(WHAT, template)?)?;
    let header = |header: WireHeader| Header {
        key: header.key,
        value: header.value,
    };
    Ok(NewMessage {
        key,
        body,
        headers: headers.into_iter().map(header).collect(),
        due: delay_ms.map_or(Due::Default, Due::After),
        priority,
        message_id: None,
        ttl_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> NewMessage {
        NewMessage {
            key: Some(Bytes::from_static(b"k")),
            body: Bytes::from_static(b"body"),
            headers: vec![Header {
                key: "h".to_owned(),
                value: Some(Bytes::from_static(b"v")),
            }],
            due: Due::After(300),
            priority: 3,
            message_id: None,
            ttl_ms: Some(500),
        }
    }

    #[test]
    fn the_format_is_pinned() {
        let golden = b"\x01\x0a\x01k\x12\x04body\x1a\x06\x0a\x01h\x12\x01v\x20\xac\x02\x28\x03\x30\xf4\x03";
        let template = encode(&message()).expect("it is small");
        assert_eq!(template[..], golden[..]);
        assert_eq!(decode(&template), Ok(message()));
        let plain = NewMessage {
            key: None,
            headers: Vec::new(),
            due: Due::Default,
            priority: 0,
            ttl_ms: None,
            ..message()
        };
        let template = encode(&plain).expect("it is small");
        assert_eq!(template[..], b"\x01\x12\x04body"[..]);
        assert_eq!(decode(&template), Ok(plain));
        decode(b"\x02\x12\x04body").expect_err("a later build wrote it");
        decode(b"\x01\x12\x04body\x78\x01").expect_err("it has a field that this build does not know");
    }

    #[test]
    fn what_a_message_that_is_sent_again_and_again_cannot_have_is_refused_by_name() {
        let with_id = NewMessage {
            message_id: Some("m".to_owned()),
            ..message()
        };
        let at = NewMessage {
            due: Due::At(7),
            ..message()
        };
        for (message, named) in [(with_id, "message_id"), (at, "deliver_at_ms")] {
            let error = encode(&message).expect_err("it has no use");
            assert_eq!(error.reason, Reason::InvalidRequest);
            assert!(error.message.contains(named), "{error}");
        }
        let large = NewMessage {
            body: vec![7; SCHEDULE_TEMPLATE_BYTES_MAX].into(),
            ..message()
        };
        let error = encode(&large).expect_err("it is too large");
        assert_eq!(error.reason, Reason::InvalidSchedule);
        assert_eq!(error.metadata["limit"], "4096");
    }
}
