//! The encoded form of bindings.

use std::sync::Arc;

use bytes::Bytes;
use jangada_routing::{Binding, Destination, HeaderMatch};
use jangada_types::frame::{CodecError, malformed};
use jangada_types::replicated::Wire;
use jangada_types::{ExchangeId, QueueId};

/// A binding of an exchange that is named beside it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireBinding {
    /// The queue that it leads to; empty when it leads to an exchange.
    #[prost(bytes = "vec", tag = "1")]
    queue: Vec<u8>,
    /// The exchange that it leads to; empty when it leads to a queue.
    #[prost(bytes = "vec", tag = "2")]
    exchange: Vec<u8>,
    #[prost(string, tag = "3")]
    routing_key: String,
    /// What it asks of headers.
    #[prost(message, optional, tag = "4")]
    headers: Option<WireHeaders>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireHeaders {
    #[prost(uint32, tag = "1")]
    mode: u32,
    /// Ascending by name, none twice. Another order is found when the message is encoded again and differs.
    #[prost(message, repeated, tag = "2")]
    headers: Vec<WireHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireHeader {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    value: Option<Bytes>,
}

impl From<&HeaderMatch> for WireHeaders {
    fn from(asked: &HeaderMatch) -> Self {
        let header = |(name, value): (&Arc<str>, &Option<Bytes>)| WireHeader {
            name: name.to_string(),
            value: value.clone(),
        };
        Self {
            mode: asked.mode.to_form(),
            headers: asked.headers.iter().map(header).collect(),
        }
    }
}

impl Wire<WireBinding> for Binding {
    fn to_form(&self) -> WireBinding {
        let (queue, exchange) = match self.destination {
            Destination::Queue(id) => (id.to_form(), Vec::new()),
            Destination::Exchange(id) => (Vec::new(), id.to_form()),
        };
        WireBinding {
            queue,
            exchange,
            routing_key: self.routing_key.to_string(),
            headers: self.headers.as_deref().map(WireHeaders::from),
        }
    }

    fn from_form(what: &'static str, form: WireBinding) -> Result<Self, CodecError> {
        let destination = match (form.queue.is_empty(), form.exchange.is_empty()) {
            (false, true) => Destination::Queue(QueueId::from_form(what, form.queue)?),
            (true, false) => Destination::Exchange(ExchangeId::from_form(what, form.exchange)?),
            _ => {
                let key = form.routing_key;
                return Err(malformed(what, format!("binding {key:?} leads to no place, or to two")));
            }
        };
        let headers = |wire: WireHeaders| {
            Ok::<_, CodecError>(Arc::new(HeaderMatch {
                mode: Wire::from_form(what, wire.mode)?,
                headers: wire
                    .headers
                    .into_iter()
                    .map(|header| (Arc::from(header.name), header.value))
                    .collect(),
            }))
        };
        Ok(Self {
            destination,
            routing_key: form.routing_key.into(),
            headers: form.headers.map(headers).transpose()?,
        })
    }
}
