//! Exchanges, and the rule of their names.

use std::collections::BTreeSet;
use std::sync::Arc;

use jangada_types::frame::malformed;
use jangada_types::replicated::{Sample, Seeds, Wire};
use jangada_types::{CodecError, ExchangeId, Reason, Rejection, validate_topic_name};

use crate::binding::Binding;

/// The beginning of the names that AMQP has for itself. Of these there are only [`PREDECLARED`].
pub const RESERVED_PREFIX: &str = "amq.";

/// The exchanges that AMQP says are always there, with their kinds. They may be created under these names with these kinds, by whoever
/// needs one first.
pub const PREDECLARED: [(&str, ExchangeKind); 5] = [
    ("amq.direct", ExchangeKind::Direct),
    ("amq.fanout", ExchangeKind::Fanout),
    ("amq.topic", ExchangeKind::Topic),
    ("amq.headers", ExchangeKind::Headers),
    ("amq.match", ExchangeKind::Headers),
];

/// How an exchange finds the bindings that a message matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExchangeKind {
    /// Those with the message's routing key.
    Direct,
    /// All of them.
    Fanout,
    /// Those whose pattern matches the message's routing key.
    Topic,
    /// Those whose headers the message has.
    Headers,
}

impl ExchangeKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Fanout, Self::Topic, Self::Headers];

    /// The kind's name, as AMQP has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }

    /// The kind with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl Wire<u32> for ExchangeKind {
    fn to_form(&self) -> u32 {
        match self {
            Self::Direct => 1,
            Self::Fanout => 2,
            Self::Topic => 3,
            Self::Headers => 4,
        }
    }

    fn from_form(what: &'static str, form: u32) -> Result<Self, CodecError> {
        let kind = Self::ALL.into_iter().find(|kind| kind.to_form() == form);
        kind.ok_or_else(|| malformed(what, format!("unknown kind {form} of an exchange")))
    }
}

impl Sample for ExchangeKind {
    fn sample(seeds: &mut Seeds) -> Self {
        Self::ALL[seeds.below(4) as usize]
    }
}

/// An exchange with its bindings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The exchange's id, never given to another one.
    pub id: ExchangeId,
    /// The exchange's name, unique among exchanges. A queue or a topic may have it, too.
    pub name: Arc<str>,
    /// How it finds bindings.
    pub kind: ExchangeKind,
    /// The exchange, by name, that gets messages that match no binding. There may be none of the name: then they are unroutable.
    pub alternate: Option<Arc<str>>,
    /// Whether messages come from other exchanges only.
    pub is_internal: bool,
    /// Whether it is deleted when its last binding is taken away.
    pub auto_delete: bool,
    /// Its bindings. Two are equal only when all of their parts are.
    pub bindings: Arc<BTreeSet<Binding>>,
}

/// Whether AMQP says that an exchange of this name is always there.
pub fn is_predeclared(name: &str) -> bool {
    PREDECLARED.iter().any(|(predeclared, _)| *predeclared == name)
}

/// Judges the name of an exchange that is to be created.
pub fn judge_exchange_name(name: &str, kind: ExchangeKind) -> Result<(), Rejection> {
    let refuse = |what: String| {
        Err(Rejection::new(
            Reason::InvalidExchangeName,
            format!("exchange name {name:?}: {what}"),
        ))
    };
    if name.is_empty() {
        return refuse(
            "the exchange without a name is always there, and leads to the queue \
             that the routing key names: choose a name"
                .to_owned(),
        );
    }
    if let Err(error) = validate_topic_name(name) {
        return refuse(error.to_string());
    }
    if !name.starts_with(RESERVED_PREFIX) {
        return Ok(());
    }
    match PREDECLARED.iter().find(|(predeclared, _)| *predeclared == name) {
        Some((_, expected)) if *expected == kind => Ok(()),
        Some((_, expected)) => refuse(format!("it is that of a {} exchange", expected.as_str())),
        None => refuse(format!(
            "names that begin with \"{RESERVED_PREFIX}\" belong to AMQP, which has none of this name: choose another one"
        )),
    }
}
