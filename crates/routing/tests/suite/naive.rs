//! How exchanges route, as their rules say it, and without any thought of what it costs. Nothing here is shared with the crate.

use std::collections::BTreeSet;

use jangada_routing::{Binding, Destination, Exchange, ExchangeKind, HeaderMatch, MatchMode};
use jangada_types::QueueId;

pub type Header = (String, Option<Vec<u8>>);

pub struct Published<'a> {
    pub key: &'a str,
    pub headers: &'a [Header],
}

fn words(text: &str) -> Vec<&str> {
    if text.is_empty() {
        vec![]
    } else {
        text.split('.').collect()
    }
}

pub fn topic_matches(pattern: &str, key: &str) -> bool {
    fn fits(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], key) => key.is_empty(),
            (["#", rest @ ..], key) => (0..=key.len()).any(|taken| fits(rest, &key[taken..])),
            ([word, rest @ ..], [other, behind @ ..]) => (*word == "*" || word == other) && fits(rest, behind),
            _ => false,
        }
    }
    fits(&words(pattern), &words(key))
}

pub fn headers_match(asked: &HeaderMatch, headers: &[Header]) -> bool {
    let with_x = [MatchMode::AllWithX, MatchMode::AnyWithX].contains(&asked.mode);
    let counting = asked
        .headers
        .iter()
        .filter(|(name, _)| with_x || !name.starts_with("x-"));
    let mut found = counting.map(|(name, value)| {
        headers
            .iter()
            .filter(|(other, _)| **other == **name)
            .any(|(_, other)| value.as_ref().is_none_or(|value| other.as_deref() == Some(&value[..])))
    });
    match asked.mode {
        MatchMode::All | MatchMode::AllWithX => found.all(|is_found| is_found),
        MatchMode::Any | MatchMode::AnyWithX => found.any(|is_found| is_found),
    }
}

pub fn matches(kind: ExchangeKind, binding: &Binding, message: &Published<'_>) -> bool {
    match kind {
        ExchangeKind::Fanout => true,
        ExchangeKind::Direct => *binding.routing_key == *message.key,
        ExchangeKind::Topic => topic_matches(&binding.routing_key, message.key),
        ExchangeKind::Headers => headers_match(binding.headers.as_ref().expect("it was sampled"), message.headers),
    }
}

/// The queues of a message at one exchange of many. `passed` has the exchanges that it has come by.
fn queues_at(
    exchanges: &[Exchange],
    at: &Exchange,
    message: &Published<'_>,
    passed: &mut BTreeSet<u128>,
    queues: &mut BTreeSet<QueueId>,
) {
    if !passed.insert(at.id.0) {
        return;
    }
    let mut is_matched = false;
    for binding in at.bindings.iter().filter(|binding| matches(at.kind, binding, message)) {
        match binding.destination {
            Destination::Queue(id) => {
                is_matched = true;
                queues.insert(id);
            }
            Destination::Exchange(id) => {
                // A binding to one that is gone is none.
                if let Some(next) = exchanges.iter().find(|other| other.id == id) {
                    is_matched = true;
                    queues_at(exchanges, next, message, passed, queues);
                }
            }
        }
    }
    let alternate = exchanges
        .iter()
        .find(|other| Some(&other.name) == at.alternate.as_ref());
    if let Some(alternate) = alternate.filter(|_| !is_matched) {
        queues_at(exchanges, alternate, message, passed, queues);
    }
}

/// The queues of a message that is published to an exchange.
pub fn queues(exchanges: &[Exchange], begin: &Exchange, message: &Published<'_>) -> Vec<QueueId> {
    let mut queues = BTreeSet::new();
    queues_at(exchanges, begin, message, &mut BTreeSet::new(), &mut queues);
    queues.into_iter().collect()
}
