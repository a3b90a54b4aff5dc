//! Messages of queues as JSON, one object a line.
//!
//! Keys are the field names of `queue.proto`. Bytes that are not UTF-8 are written as base64 under a key of their own (`key_base64`,
//! `body_base64`), so that sending what was printed gives the same bytes. The headers by which a message says to which exchange it was
//! published, and with which routing key, are printed as fields of their own: nobody may send such headers.

use std::io::{self, Write};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jangada_client::{Due, Header, NO_TIMESTAMP, PeekedMessage, QueueMessage, ReceivedMessage};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Puts bytes under a name: as text, or as base64 under a name that says so.
fn put(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => drop(object.insert(name.to_owned(), Value::Null)),
        Some(Ok(text)) => drop(object.insert(name.to_owned(), text.into())),
        Some(Err(_)) => {
            let text = STANDARD.encode(bytes.unwrap_or_default());
            object.insert(format!("{name}_base64"), text.into());
        }
    }
}

/// The header with the name of the exchange to which a message was published.
const EXCHANGE: &str = "jangada-exchange";
/// The header with the routing key of a message that was published to an exchange.
const ROUTING_KEY: &str = "jangada-routing-key";

/// The routing key with which a message was published to an exchange.
pub fn routing_key(message: &ReceivedMessage) -> Option<&[u8]> {
    value_of(message, ROUTING_KEY)
}

fn value_of<'a>(message: &'a ReceivedMessage, name: &str) -> Option<&'a [u8]> {
    let header = message.headers.iter().find(|header| header.key == name);
    header.and_then(|header| header.value.as_deref())
}

fn headers_of<'a>(headers: impl IntoIterator<Item = &'a Header>) -> Value {
    let printed = headers.into_iter().map(|header| {
        let mut printed = Map::new();
        printed.insert("key".to_owned(), header.key.as_str().into());
        put(&mut printed, "value", header.value.as_deref());
        Value::Object(printed)
    });
    printed.collect()
}

/// A message that is to be sent, under the names by which one is read.
pub fn message(message: &QueueMessage) -> Value {
    let mut object = Map::new();
    put(&mut object, "key", message.key.as_deref());
    put(&mut object, "body", Some(&message.body));
    object.insert("headers".to_owned(), headers_of(&message.headers));
    object.insert("priority".to_owned(), message.priority.into());
    match message.due {
        Due::Default => {}
        Due::After(delay) => drop(object.insert("delay_ms".to_owned(), json!(delay.as_millis() as u64))),
        Due::At(at_ms) => drop(object.insert("deliver_at_ms".to_owned(), at_ms.into())),
    }
    object.insert(
        "ttl_ms".to_owned(),
        json!(message.ttl.map(|ttl| ttl.as_millis() as u64)),
    );
    Value::Object(object)
}

fn object(message: &ReceivedMessage) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("partition".to_owned(), message.place.partition.into());
    object.insert("offset".to_owned(), message.place.offset.into());
    let timestamp_ms = Some(message.timestamp_ms).filter(|ms| *ms != NO_TIMESTAMP);
    object.insert("timestamp_ms".to_owned(), json!(timestamp_ms));
    put(&mut object, "key", message.key.as_deref());
    put(&mut object, "body", message.body.as_deref());
    let own = |header: &&Header| ![EXCHANGE, ROUTING_KEY].contains(&header.key.as_str());
    object.insert("headers".to_owned(), headers_of(message.headers.iter().filter(own)));
    for (field, header) in [("exchange", EXCHANGE), ("routing_key", ROUTING_KEY)] {
        let value = value_of(message, header).map(String::from_utf8_lossy);
        object.insert(field.to_owned(), json!(value));
    }
    object.insert("message_id".to_owned(), json!(message.message_id));
    object.insert("failures".to_owned(), message.failures.into());
    object.insert("deliveries".to_owned(), message.deliveries.into());
    object
}

fn print(out: &mut impl Write, object: &Map<String, Value>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, object)?;
    out.write_all(b"\n")
}

/// Prints a message that was handed out, with its token.
pub fn write(out: &mut impl Write, message: &ReceivedMessage) -> io::Result<()> {
    let mut object = object(message);
    object.insert("token".to_owned(), STANDARD.encode(&message.token.0).into());
    print(out, &object)
}

/// Prints a message that was shown, with its state.
pub fn write_peeked(out: &mut impl Write, peeked: &PeekedMessage) -> io::Result<()> {
    let mut object = object(&peeked.message);
    object.insert("state".to_owned(), peeked.state.as_str().into());
    object.insert("until_ms".to_owned(), json!(peeked.until_ms));
    object.insert("reason".to_owned(), json!(peeked.reason));
    object.insert("died_at_ms".to_owned(), json!(peeked.died_at_ms));
    object.insert("damage".to_owned(), json!(peeked.damage));
    print(out, &object)
}

/// A message as `queue send --format jsonl` reads it. An unknown field is an error of the input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    key: Option<String>,
    key_base64: Option<String>,
    body: Option<String>,
    body_base64: Option<String>,
    #[serde(default)]
    headers: Vec<ReadHeader>,
    message_id: Option<String>,
    priority: Option<u32>,
    delay_ms: Option<u64>,
    deliver_at_ms: Option<u64>,
    ttl_ms: Option<u64>,
    routing_key: Option<String>,
    /// What is printed besides: where the message was, and what it did.
    #[serde(rename = "partition")]
    _partition: Option<serde::de::IgnoredAny>,
    #[serde(rename = "exchange")]
    _exchange: Option<serde::de::IgnoredAny>,
    #[serde(rename = "offset")]
    _offset: Option<serde::de::IgnoredAny>,
    #[serde(rename = "timestamp_ms")]
    _timestamp_ms: Option<serde::de::IgnoredAny>,
    #[serde(rename = "failures")]
    _failures: Option<serde::de::IgnoredAny>,
    #[serde(rename = "deliveries")]
    _deliveries: Option<serde::de::IgnoredAny>,
    #[serde(rename = "token")]
    _token: Option<serde::de::IgnoredAny>,
    #[serde(rename = "state")]
    _state: Option<serde::de::IgnoredAny>,
    #[serde(rename = "until_ms")]
    _until_ms: Option<serde::de::IgnoredAny>,
    #[serde(rename = "reason")]
    _reason: Option<serde::de::IgnoredAny>,
    #[serde(rename = "died_at_ms")]
    _died_at_ms: Option<serde::de::IgnoredAny>,
    #[serde(rename = "damage")]
    _damage: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadHeader {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
}

fn bytes_of(name: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("{name} and {name}_base64: give one of them")),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => {
            let bytes = STANDARD.decode(base64);
            let bytes = bytes.map_err(|error| format!("{name}_base64 is not base64: {error}"))?;
            Ok(Some(bytes.into()))
        }
        (None, None) => Ok(None),
    }
}

/// Reads a message.
pub fn read(line: &[u8]) -> Result<QueueMessage, String> {
    read_routed(line).map(|(_, message)| message)
}

/// Reads a message, and the routing key if the line has one.
pub fn read_routed(line: &[u8]) -> Result<(Option<String>, QueueMessage), String> {
    let read: Read = serde_json::from_slice(line).map_err(|error| format!("no message as JSON: {error}"))?;
    let body = bytes_of("body", read.body, read.body_base64)?;
    let mut message = QueueMessage::new(body.ok_or("it has no body: give body or body_base64")?);
    message.key = bytes_of("key", read.key, read.key_base64)?;
    for header in read.headers {
        message.headers.push(Header {
            value: bytes_of("value", header.value, header.value_base64)?,
            key: header.key,
        });
    }
    message.message_id = read.message_id;
    message.priority = read.priority.unwrap_or(0);
    message.due = match (read.delay_ms, read.deliver_at_ms) {
        (Some(_), Some(_)) => return Err("delay_ms and deliver_at_ms: give one of them".to_owned()),
        (Some(delay_ms), None) => Due::After(Duration::from_millis(delay_ms)),
        (None, Some(at_ms)) => Due::At(at_ms),
        (None, None) => Due::Default,
    };
    message.ttl = read.ttl_ms.map(Duration::from_millis);
    Ok((read.routing_key, message))
}

#[cfg(test)]
mod tests {
    use jangada_client::{MessagePlace, MessageState, Token};

    use super::*;

    fn received() -> ReceivedMessage {
        ReceivedMessage {
            token: Token(Bytes::from_static(b"\x01\xff")),
            place: MessagePlace {
                partition: 3,
                offset: 42,
            },
            key: Some(Bytes::from_static(b"\xff")),
            body: Some(Bytes::from_static(b"a lamp")),
            headers: vec![Header {
                key: "trace".to_owned(),
                value: Some(Bytes::from_static(b"1")),
            }],
            timestamp_ms: 1700,
            message_id: Some("order-7".to_owned()),
            failures: 1,
            deliveries: 2,
            lease_left: Duration::from_secs(30),
        }
    }

    #[test]
    fn what_is_printed_can_be_sent() {
        let mut line = Vec::new();
        write(&mut line, &received()).expect("writing to memory works");
        let sent = read(&line).expect("it was printed");
        let received = received();
        assert_eq!((sent.key, Some(sent.body)), (received.key, received.body));
        assert_eq!((sent.headers, sent.message_id), (received.headers, received.message_id));
    }

    #[test]
    fn what_came_through_an_exchange_says_so_in_fields_of_its_own() {
        let mut published = received();
        for (key, value) in [(EXCHANGE, "orders"), (ROUTING_KEY, "orders.eu.paid")] {
            published.headers.push(Header {
                key: key.to_owned(),
                value: Some(Bytes::from_static(value.as_bytes())),
            });
        }
        assert_eq!(routing_key(&published), Some(&b"orders.eu.paid"[..]));
        assert_eq!(routing_key(&received()), None);
        let mut line = Vec::new();
        write(&mut line, &published).expect("writing to memory works");
        let printed: Value = serde_json::from_slice(&line).expect("it is JSON");
        assert_eq!(
            (&printed["exchange"], &printed["routing_key"]),
            (&json!("orders"), &json!("orders.eu.paid"))
        );
        let (routing_key, message) = read_routed(&line).expect("it was printed");
        assert_eq!(routing_key.as_deref(), Some("orders.eu.paid"));
        assert_eq!(
            message.headers,
            received().headers,
            "those that nobody may send are left out"
        );
    }

    #[test]
    fn a_shown_message_says_what_it_does() {
        let peeked = PeekedMessage {
            message: received(),
            state: MessageState::Dead,
            until_ms: None,
            reason: Some("attempts".to_owned()),
            died_at_ms: Some(1_800),
            damage: None,
        };
        let mut line = Vec::new();
        write_peeked(&mut line, &peeked).expect("writing to memory works");
        let printed: Value = serde_json::from_slice(&line).expect("it is JSON");
        assert_eq!(
            (&printed["state"], &printed["reason"]),
            (&json!("dead"), &json!("attempts"))
        );
        assert_eq!(
            (&printed["died_at_ms"], &printed["damage"]),
            (&json!(1_800), &Value::Null)
        );
        assert_eq!(
            (&printed["key_base64"], &printed["body"]),
            (&json!("/w=="), &json!("a lamp"))
        );
        read(&line).expect("it can be sent again");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for line in [
            "",
            "{}",
            "{\"body\":\"a\",\"body_base64\":\"YQ==\"}",
            "{\"body_base64\":\"!\"}",
            "{\"body\":\"a\",\"delay_ms\":1,\"deliver_at_ms\":1}",
            "{\"body\":\"a\",\"bdoy\":1}",
        ] {
            read(line.as_bytes()).expect_err(line);
        }
        let sent = read(b"{\"body\":\"a\",\"delay_ms\":5,\"priority\":2}").expect("a message");
        assert_eq!((sent.due, sent.priority), (Due::After(Duration::from_millis(5)), 2));
    }
}
