//! Settings of a leader, and their defaults.

use crate::limits::{EXPIRATION_MS_DEFAULT, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX_DEFAULT};

/// Settings of a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The longest that a transaction may be open, milliseconds.
    pub timeout_ms_max: u32,
    /// How long a transaction may be open whose producer says nothing, milliseconds.
    pub timeout_ms_default: u32,
    /// How long an id is kept that is not used, milliseconds.
    pub expiration_ms: u64,
    /// Whether a transaction may begin by the command that completes the one before ([`Command::Begin`](crate::Command::Begin)): all
    /// brokers know it.
    pub begins_at_once: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout_ms_max: TIMEOUT_MS_MAX_DEFAULT,
            timeout_ms_default: TIMEOUT_MS_DEFAULT,
            expiration_ms: EXPIRATION_MS_DEFAULT,
            begins_at_once: false,
        }
    }
}
