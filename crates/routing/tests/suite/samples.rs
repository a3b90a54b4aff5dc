//! Exchanges, bindings and messages for tests: small alphabets, so that they meet.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jangada_routing::{Binding, Destination, Exchange, ExchangeKind, HeaderMatch, MatchMode, Message, Router, Scratch};
use jangada_types::{ExchangeId, QueueId};
use proptest::prelude::*;

use crate::naive::Header;

pub fn exchange(id: u128, name: &str, kind: ExchangeKind, bindings: Vec<Binding>) -> Exchange {
    Exchange {
        id: ExchangeId(id),
        name: Arc::from(name),
        kind,
        alternate: None,
        is_internal: false,
        auto_delete: false,
        bindings: Arc::new(bindings.into_iter().collect()),
    }
}

pub fn to_queue(queue: u128, key: &str) -> Binding {
    Binding {
        destination: Destination::Queue(QueueId(queue)),
        routing_key: Arc::from(key),
        headers: None,
    }
}

pub fn to_exchange(exchange: u128, key: &str) -> Binding {
    Binding {
        destination: Destination::Exchange(ExchangeId(exchange)),
        ..to_queue(0, key)
    }
}

pub fn asking(queue: u128, mode: MatchMode, headers: &[(&str, Option<&str>)]) -> Binding {
    let header = |(name, value): &(&str, Option<&str>)| {
        let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
        (Arc::from(*name), value)
    };
    Binding {
        headers: Some(Arc::new(HeaderMatch {
            mode,
            headers: headers.iter().map(header).collect(),
        })),
        ..to_queue(queue, "")
    }
}

pub fn router(exchanges: &[Exchange]) -> Router {
    let exchanges: Vec<_> = exchanges.iter().cloned().map(Arc::new).collect();
    Router::default().updated(&exchanges)
}

/// The queues of a message, by a scratch of its own.
pub fn resolved(router: &Router, exchange: &str, key: &str, headers: &[Header]) -> Vec<u128> {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_deref()))
        .collect();
    let message = Message {
        exchange,
        routing_key: key,
        headers: &headers[..],
    };
    let mut scratch = Scratch::default();
    let queues = router.resolve(&message, &mut scratch).expect("the exchange is there");
    queues.iter().map(|queue| queue.0).collect()
}

fn row(word: &'static str) -> impl Strategy<Value = String> {
    // Words may be empty: a dot then stands at an end, or beside another.
    prop::collection::vec(word, 0..7).prop_map(|words| words.join("."))
}

pub fn pattern() -> impl Strategy<Value = String> {
    row("[ab*#]|#|ab|")
}

pub fn key() -> impl Strategy<Value = String> {
    row("[abc]|ab|")
}

fn value() -> impl Strategy<Value = Option<Bytes>> {
    prop::option::weighted(0.8, "[uv]?").prop_map(|value| value.map(Bytes::from))
}

pub fn headers() -> impl Strategy<Value = Vec<Header>> {
    let value = value().prop_map(|value| value.map(|value| value.to_vec()));
    prop::collection::vec(("[a-d]|x-a|x-b", value), 0..6)
}

pub fn header_match() -> impl Strategy<Value = HeaderMatch> {
    let mode = prop::sample::select(&MatchMode::ALL[..]);
    let headers = prop::collection::btree_map("[a-d]|x-a|x-b".prop_map(Arc::from), value(), 0..4);
    (mode, headers)
        .prop_map(|(mode, headers): (MatchMode, BTreeMap<Arc<str>, Option<Bytes>>)| HeaderMatch { mode, headers })
}

fn binding(kind: ExchangeKind, exchanges: u128) -> impl Strategy<Value = Binding> {
    let queue = (1u128..9).prop_map(|id| Destination::Queue(QueueId(id)));
    // Sometimes the exchange is gone.
    let exchange = (1..=exchanges + 1).prop_map(|id| Destination::Exchange(ExchangeId(id)));
    let destination = prop_oneof![3 => queue, 1 => exchange];
    let routing_key = match kind {
        ExchangeKind::Topic => pattern().boxed(),
        ExchangeKind::Direct | ExchangeKind::Fanout | ExchangeKind::Headers => key().boxed(),
    };
    (destination, routing_key, header_match()).prop_map(move |(destination, routing_key, headers)| Binding {
        destination,
        routing_key: Arc::from(routing_key),
        headers: (kind == ExchangeKind::Headers).then(|| Arc::new(headers)),
    })
}

/// Exchanges with the ids from 1 on, and their ids as names, that lead to each other in any way.
pub fn exchanges() -> impl Strategy<Value = Vec<Exchange>> {
    let kinds = prop::collection::vec(prop::sample::select(&ExchangeKind::ALL[..]), 1..6);
    kinds.prop_flat_map(|kinds| {
        let count = kinds.len() as u128;
        let exchange = move |(id, kind): (u128, ExchangeKind)| {
            let bindings = prop::collection::vec(binding(kind, count), 0..8);
            // Sometimes the alternate exchange is not there.
            (bindings, prop::option::of(1..=count + 1)).prop_map(move |(bindings, alternate)| Exchange {
                alternate: alternate.map(|id| Arc::from(id.to_string())),
                ..self::exchange(id, &id.to_string(), kind, bindings)
            })
        };
        (1..).zip(kinds).map(exchange).collect::<Vec<_>>()
    })
}
