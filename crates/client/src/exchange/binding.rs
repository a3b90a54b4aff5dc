//! Exchanges' kinds and bindings. The words are those of AMQP 0-9-1; names of fields are those of `exchange.proto`.

use bytes::Bytes;
use jangada_proto::v1;
use jangada_proto::v1::binding::Destination;
use jangada_types::Header;

/// How an exchange finds the bindings that a message matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExchangeKind {
    /// Those whose routing key is the message's.
    Direct,
    /// All of them.
    Fanout,
    /// Those whose pattern matches the message's routing key: `*` is one word, `#` any number of words, dots stand between words.
    Topic,
    /// Those whose headers the message has.
    Headers,
}

impl ExchangeKind {
    /// The kind's name, as AMQP has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }

    pub(crate) fn to_wire(self) -> v1::ExchangeType {
        match self {
            Self::Direct => v1::ExchangeType::Direct,
            Self::Fanout => v1::ExchangeType::Fanout,
            Self::Topic => v1::ExchangeType::Topic,
            Self::Headers => v1::ExchangeType::Headers,
        }
    }

    /// None: a newer broker has more kinds.
    pub(crate) fn from_wire(kind: i32) -> Option<Self> {
        match v1::ExchangeType::try_from(kind).ok()? {
            v1::ExchangeType::Direct => Some(Self::Direct),
            v1::ExchangeType::Fanout => Some(Self::Fanout),
            v1::ExchangeType::Topic => Some(Self::Topic),
            v1::ExchangeType::Headers => Some(Self::Headers),
            v1::ExchangeType::Unspecified => None,
        }
    }
}

/// Which messages of an exchange go where.
///
/// ```
/// use jangada_client::{Binding, HeaderMatch, MatchMode};
///
/// let paid = Binding::to_queue("billing").with_key("orders.*.paid");
/// let onward = Binding::to_exchange("audit").with_key("#");
/// let asked = HeaderMatch::new(MatchMode::All).with_header("region", "north").with_name("customer");
/// let northern = Binding::to_queue("north").with_headers(asked);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where it leads.
    pub destination: BindingDestination,
    /// Of a direct exchange the key, of a topic exchange the pattern; other kinds do not look at it. At most 255 bytes.
    pub routing_key: String,
    /// Of a headers exchange what is asked of headers. Required there, and refused at any other.
    pub headers: Option<HeaderMatch>,
}

/// Where a binding leads, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BindingDestination {
    /// The queue gets the message: one with a log of its own.
    Queue(String),
    /// The exchange gets the message, and its bindings say where it goes on.
    Exchange(String),
}

impl Binding {
    fn to(destination: BindingDestination) -> Self {
        Self {
            destination,
            routing_key: String::new(),
            headers: None,
        }
    }

    /// A binding to a queue, with the empty routing key.
    pub fn to_queue(queue: impl Into<String>) -> Self {
        Self::to(BindingDestination::Queue(queue.into()))
    }

    /// A binding to an exchange, with the empty routing key.
    pub fn to_exchange(exchange: impl Into<String>) -> Self {
        Self::to(BindingDestination::Exchange(exchange.into()))
    }

    /// Sets the binding's routing key, or its pattern.
    #[must_use]
    pub fn with_key(mut self, routing_key: impl Into<String>) -> Self {
        self.routing_key = routing_key.into();
        self
    }

    /// Sets what the binding asks of headers.
    #[must_use]
    pub fn with_headers(mut self, headers: HeaderMatch) -> Self {
        self.headers = Some(headers);
        self
    }

    pub(crate) fn to_wire(&self) -> v1::Binding {
        let destination = match self.destination.clone() {
            BindingDestination::Queue(queue) => Destination::Queue(queue),
            BindingDestination::Exchange(exchange) => Destination::Exchange(exchange),
        };
        v1::Binding {
            destination: Some(destination),
            routing_key: self.routing_key.clone(),
            headers: self.headers.as_ref().map(HeaderMatch::to_wire),
        }
    }

    /// None: a newer broker has other destinations, or other modes.
    pub(crate) fn from_wire(binding: v1::Binding) -> Option<Self> {
        let destination = match binding.destination? {
            Destination::Queue(queue) => BindingDestination::Queue(queue),
            Destination::Exchange(exchange) => BindingDestination::Exchange(exchange),
        };
        let headers = match binding.headers {
            Some(headers) => Some(HeaderMatch::from_wire(headers)?),
            None => None,
        };
        Some(Self {
            destination,
            routing_key: binding.routing_key,
            headers,
        })
    }
}

/// How many of a binding's headers a message must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatchMode {
    /// All whose names do not begin with `x-`. Without any, every message matches.
    #[default]
    All,
    /// One whose name does not begin with `x-`.
    Any,
    /// All, `x-` or not.
    AllWithX,
    /// One, `x-` or not.
    AnyWithX,
}

impl MatchMode {
    /// The mode's name, as AMQP has it in `x-match`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Any => "any",
            Self::AllWithX => "all-with-x",
            Self::AnyWithX => "any-with-x",
        }
    }

    fn to_wire(self) -> v1::HeaderMatchMode {
        match self {
            Self::All => v1::HeaderMatchMode::All,
            Self::Any => v1::HeaderMatchMode::Any,
            Self::AllWithX => v1::HeaderMatchMode::AllWithX,
            Self::AnyWithX => v1::HeaderMatchMode::AnyWithX,
        }
    }

    fn from_wire(mode: i32) -> Option<Self> {
        match v1::HeaderMatchMode::try_from(mode).ok()? {
            v1::HeaderMatchMode::All | v1::HeaderMatchMode::Unspecified => Some(Self::All),
            v1::HeaderMatchMode::Any => Some(Self::Any),
            v1::HeaderMatchMode::AllWithX => Some(Self::AllWithX),
            v1::HeaderMatchMode::AnyWithX => Some(Self::AnyWithX),
        }
    }
}

/// The headers that a binding asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMatch {
    /// How many of them a message must have.
    pub mode: MatchMode,
    /// The headers, each name once, at most 32. One without a value must be there, with any value.
    pub headers: Vec<Header>,
}

impl HeaderMatch {
    /// What asks for no headers yet.
    pub fn new(mode: MatchMode) -> Self {
        Self {
            mode,
            headers: Vec::new(),
        }
    }

    /// Asks for a header with this value.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header {
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }

    /// Asks for a header of this name, with any value or none.
    #[must_use]
    pub fn with_name(mut self, key: impl Into<String>) -> Self {
        self.headers.push(Header {
            key: key.into(),
            value: None,
        });
        self
    }

    fn to_wire(&self) -> v1::HeaderMatch {
        v1::HeaderMatch {
            mode: self.mode.to_wire().into(),
            headers: self.headers.iter().map(header_to_wire).collect(),
        }
    }

    fn from_wire(asked: v1::HeaderMatch) -> Option<Self> {
        let header = |header: v1::RecordHeader| Header {
            key: header.key,
            value: header.value,
        };
        Some(Self {
            mode: MatchMode::from_wire(asked.mode)?,
            headers: asked.headers.into_iter().map(header).collect(),
        })
    }
}

pub(crate) fn header_to_wire(header: &Header) -> v1::RecordHeader {
    v1::RecordHeader {
        key: header.key.clone(),
        value: header.value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_read_as_it_was_written() {
        let modes = [MatchMode::All, MatchMode::Any, MatchMode::AllWithX, MatchMode::AnyWithX];
        for mode in modes {
            let asked = HeaderMatch::new(mode).with_header("a", "1").with_name("b");
            for binding in [
                Binding::to_queue("q").with_key("a.*"),
                Binding::to_exchange("e").with_headers(asked),
            ] {
                assert_eq!(Binding::from_wire(binding.to_wire()), Some(binding));
            }
        }
    }

    #[test]
    fn what_a_newer_broker_says_is_not_taken_for_something_else() {
        assert_eq!(Binding::from_wire(v1::Binding::default()), None);
        let newer = v1::Binding {
            headers: Some(v1::HeaderMatch {
                mode: 99,
                headers: Vec::new(),
            }),
            ..Binding::to_queue("q").to_wire()
        };
        assert_eq!(Binding::from_wire(newer), None);
        assert_eq!(ExchangeKind::from_wire(0), None);
        assert_eq!(ExchangeKind::from_wire(99), None);
    }
}
