//! What a binding of a headers exchange asks of a message's headers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jangada_types::CodecError;
use jangada_types::frame::malformed;
use jangada_types::replicated::{Sample, Seeds, Wire};

/// The beginning of the names of headers that only [`MatchMode::AllWithX`] and [`MatchMode::AnyWithX`] look at.
pub const X_PREFIX: &str = "x-";

/// The name under which AMQP has the mode among the headers.
pub const X_MATCH: &str = "x-match";

/// How many of a binding's headers a message must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatchMode {
    /// All whose names do not begin with `x-`. Without any, every message matches.
    All,
    /// One whose name does not begin with `x-`. Without any, no message matches.
    Any,
    /// All of them.
    AllWithX,
    /// One of them.
    AnyWithX,
}

impl MatchMode {
    /// All modes, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::All, Self::Any, Self::AllWithX, Self::AnyWithX];

    /// The mode's name, as AMQP has it in `x-match`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Any => "any",
            Self::AllWithX => "all-with-x",
            Self::AnyWithX => "any-with-x",
        }
    }

    /// The mode with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }

    /// Whether all headers are asked for, not one.
    pub const fn is_all(self) -> bool {
        matches!(self, Self::All | Self::AllWithX)
    }

    /// Whether a header of this name counts.
    pub fn looks_at(self, name: &str) -> bool {
        matches!(self, Self::AllWithX | Self::AnyWithX) || !name.starts_with(X_PREFIX)
    }
}

impl Wire<u32> for MatchMode {
    fn to_form(&self) -> u32 {
        match self {
            Self::All => 1,
            Self::Any => 2,
            Self::AllWithX => 3,
            Self::AnyWithX => 4,
        }
    }

    fn from_form(what: &'static str, form: u32) -> Result<Self, CodecError> {
        let mode = Self::ALL.into_iter().find(|mode| mode.to_form() == form);
        mode.ok_or_else(|| malformed(what, format!("unknown mode {form} of a binding's headers")))
    }
}

impl Sample for HeaderMatch {
    fn sample(seeds: &mut Seeds) -> Self {
        let mode = MatchMode::ALL[seeds.below(4) as usize];
        let headers = BTreeMap::<Arc<str>, Option<String>>::sample(seeds);
        let bytes = |value: Option<String>| value.map(Bytes::from);
        Self {
            mode,
            headers: headers.into_iter().map(|(name, value)| (name, bytes(value))).collect(),
        }
    }
}

/// The headers that a binding asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderMatch {
    /// How many of them.
    pub mode: MatchMode,
    /// By name, the value that the header must have. None: any, or none.
    pub headers: BTreeMap<Arc<str>, Option<Bytes>>,
}

impl HeaderMatch {
    /// The headers that count.
    pub fn effective(&self) -> impl Iterator<Item = (&Arc<str>, Option<&Bytes>)> {
        let counts = |(name, _): &(&Arc<str>, &Option<Bytes>)| self.mode.looks_at(name);
        self.headers
            .iter()
            .filter(counts)
            .map(|(name, value)| (name, value.as_ref()))
    }

    /// Whether a message with these headers has what is asked for. It goes through the message's headers once for each of its own; the
    /// tables are for many bindings.
    pub fn matches(&self, headers: &(impl Headers + ?Sized)) -> bool {
        let mut asked = 0;
        let mut found = 0;
        for (name, value) in self.effective() {
            asked += 1;
            let mut has = false;
            headers.each(&mut |other, has_value| {
                has |= other == &**name && value.is_none_or(|value| has_value == Some(value));
            });
            found += usize::from(has);
        }
        if self.mode.is_all() { found == asked } else { found > 0 }
    }

    /// Bytes of the names and values.
    pub fn bytes(&self) -> usize {
        let of_header = |(name, value): (&Arc<str>, &Option<Bytes>)| name.len() + value.as_ref().map_or(0, Bytes::len);
        self.headers.iter().map(of_header).sum()
    }
}

/// The headers of a message. A name may be there more than once: then each value counts.
pub trait Headers {
    /// Shows each header, name and value.
    fn each(&self, see: &mut dyn FnMut(&str, Option<&[u8]>));
}

/// The headers of a message that has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn each(&self, _: &mut dyn FnMut(&str, Option<&[u8]>)) {}
}

impl Headers for [(&str, Option<&[u8]>)] {
    fn each(&self, see: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for (name, value) in self {
            see(name, *value);
        }
    }
}

impl Headers for [jangada_types::Header] {
    fn each(&self, see: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for header in self {
            see(&header.key, header.value.as_deref());
        }
    }
}
