//! Bindings, and their rules.

use std::sync::Arc;

use jangada_types::limits::{BINDING_HEADERS_BYTES_MAX, BINDING_HEADERS_MAX, ROUTING_KEY_BYTES_MAX};
use jangada_types::replicated::{Sample, Seeds};
use jangada_types::{ExchangeId, QueueId, Reason, Rejection};

use crate::exchange::ExchangeKind;
use crate::headers::{HeaderMatch, Headers, X_MATCH};
use crate::pattern;

/// Bytes that a binding counts for beside its key and headers.
const ROW_BYTES: usize = 64;

/// Where a binding leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The queue gets the message.
    Queue(QueueId),
    /// The exchange gets the message, and its bindings say where it goes on.
    Exchange(ExchangeId),
}

/// A binding of an exchange: which messages it matches, and where they go. Ordered by destination first, so that those of one are together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    /// Where it leads.
    pub destination: Destination,
    /// Of a direct exchange the key, of a topic exchange the pattern. Other kinds do not look at it.
    pub routing_key: Arc<str>,
    /// Of a headers exchange what is asked of headers; none at any other.
    pub headers: Option<Arc<HeaderMatch>>,
}

impl Binding {
    /// Whether a message matches it, at an exchange of this kind.
    pub fn matches(&self, kind: ExchangeKind, routing_key: &str, headers: &(impl Headers + ?Sized)) -> bool {
        match kind {
            ExchangeKind::Direct => *self.routing_key == *routing_key,
            ExchangeKind::Fanout => true,
            ExchangeKind::Topic => pattern::matches(&self.routing_key, routing_key),
            ExchangeKind::Headers => self.headers.as_ref().is_some_and(|asked| asked.matches(headers)),
        }
    }

    /// Bytes of the binding, as they are counted.
    pub fn bytes(&self) -> usize {
        ROW_BYTES + self.routing_key.len() + self.headers.as_ref().map_or(0, |headers| headers.bytes())
    }
}

impl Sample for Binding {
    fn sample(seeds: &mut Seeds) -> Self {
        let destination = match seeds.below(3) {
            0 => Destination::Exchange(ExchangeId::sample(seeds)),
            _ => Destination::Queue(QueueId::sample(seeds)),
        };
        Self {
            destination,
            routing_key: Sample::sample(seeds),
            headers: Option::<HeaderMatch>::sample(seeds).map(Arc::new),
        }
    }
}

/// Judges whether an exchange of this name and kind may have the binding. Whether its destination is there is for the caller to judge.
pub fn judge_binding(exchange: &str, kind: ExchangeKind, binding: &Binding) -> Result<(), Rejection> {
    let key = &*binding.routing_key;
    let refuse = |what: String| {
        Rejection::new(
            Reason::InvalidBinding,
            format!("binding {key:?} of {} exchange {exchange:?}: {what}", kind.as_str()),
        )
    };
    judge_routing_key(key)?;
    match (kind, &binding.headers) {
        (ExchangeKind::Topic, _) => pattern::judge_pattern(key).map_err(&refuse)?,
        (ExchangeKind::Headers, None) => {
            return Err(refuse(
                "say which headers it asks for, and whether all or any of them".to_owned(),
            ));
        }
        _ => {}
    }
    match &binding.headers {
        None => Ok(()),
        Some(_) if kind != ExchangeKind::Headers => Err(refuse(
            "only bindings of headers exchanges ask for headers: leave them out, or bind to a headers exchange"
                .to_owned(),
        )),
        Some(headers) => judge_headers(headers).map_err(refuse),
    }
}

/// Judges the length of a routing key, of a binding or of a message.
pub fn judge_routing_key(key: &str) -> Result<(), Rejection> {
    if key.len() <= ROUTING_KEY_BYTES_MAX {
        return Ok(());
    }
    let begin: String = key.chars().take(32).collect();
    Err(Rejection::new(
        Reason::InvalidBinding,
        format!(
            "routing key \"{begin}...\" has {} bytes: at most {ROUTING_KEY_BYTES_MAX} are allowed",
            key.len()
        ),
    )
    .with("limit", ROUTING_KEY_BYTES_MAX)
    .with("actual", key.len()))
}

fn judge_headers(asked: &HeaderMatch) -> Result<(), String> {
    if asked.headers.contains_key(X_MATCH) {
        return Err(format!(
            "{X_MATCH} is how headers are asked for, not one of them: give it as the mode"
        ));
    }
    if asked.headers.len() > BINDING_HEADERS_MAX {
        return Err(format!(
            "it asks for {} headers: at most {BINDING_HEADERS_MAX} are allowed",
            asked.headers.len()
        ));
    }
    if asked.bytes() > BINDING_HEADERS_BYTES_MAX {
        return Err(format!(
            "its headers have {} bytes: at most {BINDING_HEADERS_BYTES_MAX} are allowed, names and values together",
            asked.bytes()
        ));
    }
    if !asked.mode.is_all() && asked.effective().next().is_none() {
        return Err(format!(
            "it asks for any of no headers, which no message has: name a header, one that does not begin with x- unless the mode is {}",
            crate::headers::MatchMode::AnyWithX.as_str()
        ));
    }
    Ok(())
}
