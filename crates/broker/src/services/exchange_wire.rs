//! Exchanges, bindings and published messages between the contract's messages and the api's structs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jangada_controller::Topic;
use jangada_proto::v1;
use jangada_proto::v1::binding::Destination as DestinationMessage;
use jangada_proto::v1::publish_result::Result as Outcome;
use jangada_proto::v1::trace_hop::CameBy as CameByMessage;
use jangada_routing::{CameBy, Exchange, ExchangeKind, HeaderMatch, MatchMode};
use jangada_types::{ExchangeId, Reason};

use super::record_wire::invalid;
use super::{queue_wire, status};
use crate::api::exchanges::{ExchangeWanted, LogWanted, MessageTraced, NamedBinding, NamedDestination, NamedHop};
use crate::api::publish::{MessageToPublish, PublishOutcomes};
use crate::api::topics;
use crate::error::RequestError;

pub(super) fn exchange_id_to(id: ExchangeId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}

fn kind_to(kind: ExchangeKind) -> v1::ExchangeType {
    match kind {
        ExchangeKind::Direct => v1::ExchangeType::Direct,
        ExchangeKind::Fanout => v1::ExchangeType::Fanout,
        ExchangeKind::Topic => v1::ExchangeType::Topic,
        ExchangeKind::Headers => v1::ExchangeType::Headers,
    }
}

fn kind_of(name: &str, kind: i32) -> Result<ExchangeKind, RequestError> {
    match v1::ExchangeType::try_from(kind) {
        Ok(v1::ExchangeType::Direct) => Ok(ExchangeKind::Direct),
        Ok(v1::ExchangeType::Fanout) => Ok(ExchangeKind::Fanout),
        Ok(v1::ExchangeType::Topic) => Ok(ExchangeKind::Topic),
        Ok(v1::ExchangeType::Headers) => Ok(ExchangeKind::Headers),
        Ok(v1::ExchangeType::Unspecified) => Err(invalid(format!(
            "exchange {name:?} has no type: direct, fanout, topic or headers"
        ))),
        Err(_) => Err(invalid(format!(
            "exchange {name:?}: type {kind} is not known: direct, fanout, topic or headers"
        ))),
    }
}

/// The exchange that a request asks for.
///
/// # Errors
/// INVALID_REQUEST: it has no type.
pub(super) fn wanted_of(request: v1::CreateExchangeRequest) -> Result<ExchangeWanted, RequestError> {
    Ok(ExchangeWanted {
        kind: kind_of(&request.name, request.r#type)?,
        name: request.name,
        alternate: (!request.alternate.is_empty()).then_some(request.alternate),
        is_internal: request.internal,
        auto_delete: request.auto_delete,
        if_not_exists: request.if_not_exists,
        log: request.log.map(|log| LogWanted {
            partitions: log.partitions,
            replicas: log.replicas,
            config: log.config.into_iter().collect(),
        }),
    })
}

fn log_to(log: &Topic) -> v1::ExchangeLog {
    v1::ExchangeLog {
        partitions: topics::count(log.partitions.len()),
        replicas: topics::replicas_of(log),
        config: log.config.clone().into_iter().collect(),
    }
}

pub(super) fn info_to((exchange, log): (&Exchange, Option<&Topic>)) -> v1::ExchangeInfo {
    v1::ExchangeInfo {
        name: exchange.name.to_string(),
        exchange_id: exchange_id_to(exchange.id),
        r#type: kind_to(exchange.kind).into(),
        alternate: exchange.alternate.as_deref().unwrap_or_default().to_owned(),
        internal: exchange.is_internal,
        auto_delete: exchange.auto_delete,
        bindings: u32::try_from(exchange.bindings.len()).unwrap_or(u32::MAX),
        log: log.map(log_to),
    }
}

/// The bindings that a request names.
///
/// # Errors
/// INVALID_REQUEST, INVALID_BINDING.
pub(super) fn bindings_of(bindings: Vec<v1::Binding>) -> Result<Vec<NamedBinding>, RequestError> {
    bindings.into_iter().map(binding_of).collect()
}

fn binding_of(binding: v1::Binding) -> Result<NamedBinding, RequestError> {
    let destination = match binding.destination {
        Some(DestinationMessage::Queue(name)) => NamedDestination::Queue(name.into()),
        Some(DestinationMessage::Exchange(name)) => NamedDestination::Exchange(name.into()),
        None => {
            return Err(invalid(format!(
                "binding {:?} leads nowhere: name a queue or an exchange",
                binding.routing_key
            )));
        }
    };
    Ok(NamedBinding {
        destination,
        headers: binding.headers.map(headers_of).transpose()?.map(Arc::new),
        routing_key: binding.routing_key.into(),
    })
}

fn headers_of(asked: v1::HeaderMatch) -> Result<HeaderMatch, RequestError> {
    use v1::HeaderMatchMode as Mode;
    let mode = match Mode::try_from(asked.mode) {
        Ok(Mode::Unspecified | Mode::All) => MatchMode::All,
        Ok(Mode::Any) => MatchMode::Any,
        Ok(Mode::AllWithX) => MatchMode::AllWithX,
        Ok(Mode::AnyWithX) => MatchMode::AnyWithX,
        Err(_) => {
            return Err(invalid(format!(
                "mode {} of a binding's headers is not known: all, any, all-with-x or any-with-x",
                asked.mode
            )));
        }
    };
    let mut headers = BTreeMap::new();
    for header in asked.headers {
        if headers.contains_key(&*header.key) {
            let message = format!(
                "a binding asks for header {:?} twice: ask for each name once",
                header.key
            );
            return Err(RequestError::new(Reason::InvalidBinding, message));
        }
        headers.insert(header.key.into(), header.value);
    }
    Ok(HeaderMatch { mode, headers })
}

pub(super) fn binding_to(binding: &NamedBinding) -> v1::Binding {
    let destination = match &binding.destination {
        NamedDestination::Queue(name) => DestinationMessage::Queue(name.to_string()),
        NamedDestination::Exchange(name) => DestinationMessage::Exchange(name.to_string()),
    };
    v1::Binding {
        destination: Some(destination),
        routing_key: binding.routing_key.to_string(),
        headers: binding.headers.as_deref().map(headers_to),
    }
}

fn headers_to(asked: &HeaderMatch) -> v1::HeaderMatch {
    let mode = match asked.mode {
        MatchMode::All => v1::HeaderMatchMode::All,
        MatchMode::Any => v1::HeaderMatchMode::Any,
        MatchMode::AllWithX => v1::HeaderMatchMode::AllWithX,
        MatchMode::AnyWithX => v1::HeaderMatchMode::AnyWithX,
    };
    let headers = asked.headers.iter().map(|(name, value)| v1::RecordHeader {
        key: name.to_string(),
        value: value.clone(),
    });
    v1::HeaderMatch {
        mode: mode.into(),
        headers: headers.collect(),
    }
}

pub(super) fn traced_to(traced: MessageTraced) -> v1::TraceMessageResponse {
    v1::TraceMessageResponse {
        hops: traced.hops.iter().map(hop_to).collect(),
        queues: traced.queues.iter().map(ToString::to_string).collect(),
        version: traced.version,
    }
}

fn hop_to(hop: &NamedHop) -> v1::TraceHop {
    let number = |hop| u32::try_from(hop).unwrap_or(u32::MAX);
    v1::TraceHop {
        exchange: hop.exchange.to_string(),
        r#type: kind_to(hop.kind).into(),
        came_by: match hop.came_by {
            CameBy::Published => None,
            CameBy::Binding(of) => Some(CameByMessage::BindingOf(number(of))),
            CameBy::Alternate(of) => Some(CameByMessage::AlternateOf(number(of))),
        },
        matched: hop.matched.iter().map(binding_to).collect(),
        matched_count: number(hop.matched_count),
        missing_alternate: hop.missing_alternate.as_deref().unwrap_or_default().to_owned(),
    }
}

/// A message to be published. None of its bounds is judged.
pub(super) fn publish_message_of(message: v1::PublishMessage) -> MessageToPublish {
    MessageToPublish {
        routing_key: message.routing_key,
        message: message.message.map(queue_wire::message_of),
        is_mandatory: message.mandatory,
    }
}

/// What became of published messages. `refused`: says an error as clients get it.
pub(super) fn published_to(
    outcomes: PublishOutcomes,
    refused: impl Fn(RequestError) -> RequestError,
) -> v1::PublishResponse {
    let results = outcomes.into_iter().map(|outcome| v1::PublishResult {
        result: Some(match outcome {
            Ok(places) => Outcome::Published(v1::PublishedMessage {
                places: places
                    .into_iter()
                    .map(|place| v1::PublishedPlace {
                        queue: place.queue.to_string(),
                        exchange: place.exchange.to_string(),
                        sent: Some(queue_wire::sent_message_to(place.sent)),
                    })
                    .collect(),
            }),
            Err(error) => Outcome::Error(status::in_stream(&refused(error))),
        }),
    });
    v1::PublishResponse {
        results: results.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_there_as_it_was_here() {
        let header = |key: &str, value: Option<&'static [u8]>| v1::RecordHeader {
            key: key.to_owned(),
            value: value.map(Bytes::from_static),
        };
        let headers = |mode: v1::HeaderMatchMode| v1::HeaderMatch {
            mode: mode.into(),
            headers: vec![header("format", Some(b"pdf")), header("size", None)],
        };
        let binding = |destination, routing_key: &str, headers| v1::Binding {
            destination: Some(destination),
            routing_key: routing_key.to_owned(),
            headers,
        };
        for sent in [
            binding(DestinationMessage::Queue("jobs".to_owned()), "orders.#", None),
            binding(DestinationMessage::Exchange("audit".to_owned()), "", None),
            binding(
                DestinationMessage::Queue("jobs".to_owned()),
                "",
                Some(headers(v1::HeaderMatchMode::All)),
            ),
            binding(
                DestinationMessage::Queue("jobs".to_owned()),
                "",
                Some(headers(v1::HeaderMatchMode::AnyWithX)),
            ),
        ] {
            let read = binding_of(sent.clone()).expect("it says all");
            assert_eq!(binding_to(&read), sent);
        }
    }

    #[test]
    fn a_binding_that_says_too_little_or_too_much_is_refused() {
        let nowhere = binding_of(v1::Binding::default()).expect_err("it leads nowhere");
        assert_eq!(nowhere.reason, Reason::InvalidRequest);
        let header = v1::RecordHeader {
            key: "format".to_owned(),
            value: None,
        };
        let twice = v1::HeaderMatch {
            mode: 0,
            headers: vec![header.clone(), header],
        };
        let twice = headers_of(twice).expect_err("a name is there twice");
        assert_eq!(twice.reason, Reason::InvalidBinding);
        let unknown = headers_of(v1::HeaderMatch {
            mode: 9,
            headers: Vec::new(),
        });
        assert_eq!(
            unknown.expect_err("there is no such mode").reason,
            Reason::InvalidRequest
        );
        assert_eq!(kind_of("x", 0).expect_err("it has none").reason, Reason::InvalidRequest);
        assert_eq!(
            kind_of("x", 7).expect_err("there is none").reason,
            Reason::InvalidRequest
        );
        for kind in ExchangeKind::ALL {
            assert_eq!(kind_of("x", kind_to(kind).into()), Ok(kind));
        }
    }
}
