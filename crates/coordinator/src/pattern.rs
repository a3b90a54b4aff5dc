//! Subscription by pattern: a regular expression of a linear-time engine that must match a topic's whole name.
//!
//! Only the leader compiles and matches. The matches are replicated, so replicas need not agree on the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_types::{Reason, Rejection};
use regex::bytes::{Regex, RegexBuilder};

use crate::limits::{PATTERN_BYTES_MAX, PATTERN_COMPILED_BYTES_MAX, PATTERN_NESTING_MAX};

/// Most compiled patterns that are cached. Groups of one application mostly share one.
const CACHED_MAX: usize = 64;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern. Topic names are ASCII, so classes such as `\w` are those of ASCII.
    ///
    /// # Errors
    /// `INVALID_PATTERN`, saying where the pattern is wrong or that it is too large.
    pub fn compile(pattern: &str) -> Result<Self, Rejection> {
        let invalid = |what: String| Rejection::new(Reason::InvalidPattern, format!("pattern {pattern:?}: {what}"));
        if pattern.is_empty() {
            return Err(invalid("is empty: give one that matches topic names".to_owned()));
        }
        if pattern.len() > PATTERN_BYTES_MAX {
            let rejection = Rejection::new(
                Reason::InvalidPattern,
                format!(
                    "a pattern has {} bytes: give at most {PATTERN_BYTES_MAX}",
                    pattern.len()
                ),
            );
            return Err(rejection.with("limit", PATTERN_BYTES_MAX).with("actual", pattern.len()));
        }
        let build = |text: &str| {
            RegexBuilder::new(text)
                .unicode(false)
                .size_limit(PATTERN_COMPILED_BYTES_MAX)
                .nest_limit(PATTERN_NESTING_MAX)
                .build()
                .map_err(|error| invalid(error.to_string()))
        };
        // Compiled without our brackets first: a closing bracket too many must not close ours.
        build(pattern)?;
        build(&format!(r"\A(?:{pattern})\z")).map(Self)
    }

    /// Whether the pattern matches the whole name.
    pub fn is_match(&self, name: &str) -> bool {
        self.0.is_match(name.as_bytes())
    }
}

/// Patterns by their text, compiled when first used.
#[derive(Debug, Default)]
pub(crate) struct Patterns(BTreeMap<Arc<str>, Option<Pattern>>);

impl Patterns {
    pub(crate) fn compiled(&mut self, pattern: &Arc<str>) -> Option<&Pattern> {
        if self.0.len() >= CACHED_MAX && !self.0.contains_key(pattern) {
            self.0.clear();
        }
        let entry = self.0.entry(Arc::clone(pattern));
        entry.or_insert_with(|| Pattern::compile(pattern).ok()).as_ref()
    }
}
