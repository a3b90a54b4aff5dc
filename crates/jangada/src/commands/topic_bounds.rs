//! A warning about settings that let in records whose times retention cannot judge.

use jangada_types::topic_config::{UNBOUNDED_MS, key};

use crate::note::note;

/// Warns of the effects of the given settings; other settings cause no warning.
pub fn warn<'a>(topic: &str, settings: impl IntoIterator<Item = (&'a str, &'a str)>) {
    for (name, value) in settings {
        let is_off = value.parse() == Ok(UNBOUNDED_MS);
        if is_off && name == key::TIMESTAMP_AFTER_MAX_MS {
            note(&format!(
                "warning: topic {topic} takes records of any time in the future ({name} has no bound): such a record, for example \
                 with microseconds for milliseconds, stays for as long beyond retention.ms, and everything after it"
            ));
        }
        if value == "false" && name == key::COMPRESSED_VALIDATION {
            note(&format!(
                "warning: topic {topic} takes compressed batches unseen ({name}=false): one that nobody can read stops its consumers \
                 (consume --on-bad-batch skip goes on)"
            ));
        }
    }
}
