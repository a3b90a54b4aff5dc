//! The rule of topic names: Kafka's, so that a name works with every Kafka tool.
//!
//! Called by the broker on creation, and by clients to fail early.

use crate::limits::TOPIC_NAME_BYTES_MAX;
use crate::reason::Reason;

/// The beginning of the names of internal topics. Users can neither create nor delete them.
pub const INTERNAL_PREFIX: &str = "__";

/// The reason why the name of a topic, or of a queue, is refused. They have one rule, for they share their names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// The name has too many characters.
    #[error("a name has at most {TOPIC_NAME_BYTES_MAX} characters, this one has {length} bytes")]
    TooLong {
        /// Bytes of the name.
        length: usize,
    },
    /// The name is `.` or `..`, which cannot name a folder.
    #[error("a name must not be \".\" or \"..\"")]
    Dots,
    /// The name has a character that is not allowed.
    #[error("a name consists of letters, digits, '.', '_' and '-' of ASCII; {character:?} is none of them")]
    Character {
        /// The first such character.
        character: char,
    },
    /// The name begins like those of internal topics.
    #[error("names that begin with \"{INTERNAL_PREFIX}\" are internal")]
    Internal,
}

impl NameError {
    /// The error's reason in the public API.
    pub const fn reason(&self) -> Reason {
        Reason::InvalidTopicName
    }
}

/// Checks a name for a user's topic or queue: `[A-Za-z0-9._-]{1,249}`, not `.` or `..`, not beginning with `__`.
///
/// # Errors
/// The first rule that the name breaks.
pub fn validate_topic_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(NameError::TooLong { length: name.len() });
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(character) = name.chars().find(|c| !allowed(*c)) {
        return Err(NameError::Character { character });
    }
    if is_internal_topic(name) {
        return Err(NameError::Internal);
    }
    Ok(())
}

/// Whether a name is that of an internal topic.
pub fn is_internal_topic(name: &str) -> bool {
    name.starts_with(INTERNAL_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_allowed() {
        for name in ["a", "orders", "Orders.eu-1_v2", "_x", "...", "0", &"x".repeat(249)] {
            assert_eq!(validate_topic_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn every_rule_refuses() {
        assert_eq!(validate_topic_name(""), Err(NameError::Empty));
        assert_eq!(
            validate_topic_name(&"x".repeat(250)),
            Err(NameError::TooLong { length: 250 })
        );
        assert_eq!(validate_topic_name("."), Err(NameError::Dots));
        assert_eq!(validate_topic_name(".."), Err(NameError::Dots));
        assert_eq!(validate_topic_name("__offsets"), Err(NameError::Internal));
        for character in [' ', '/', ':', '\0', 'é', '\n', '😀'] {
            let name = format!("a{character}b");
            assert_eq!(validate_topic_name(&name), Err(NameError::Character { character }));
        }
    }
}
