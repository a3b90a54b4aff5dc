//! A warning where a topic's settings let in what its consumers may not be able to read.

use jangada_types::topic_config::key;

use crate::output::note;

/// Says what the settings let happen; of those that are not named nothing is said.
pub fn warn<'a>(topic: &str, settings: impl IntoIterator<Item = (&'a str, &'a str)>) {
    for (name, value) in settings {
        if value == "false" && name == key::COMPRESSED_VALIDATION {
            note(&format!(
                "warning: topic {topic} takes compressed batches unseen ({name}=false): one that nobody can read stops its consumers \
                "
            ));
        }
    }
}
