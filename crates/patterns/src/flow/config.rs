//! Settings of a flow, and how its handlers fail.

use std::time::Duration;

use jangada_client::{CommitMode, GroupConfig};

use super::breaker::BreakerConfig;
use crate::backoff::Backoff;
use crate::dead_letters::DeadLetters;
use crate::error::{HandlerError, PatternError};

/// How a handler failed. Any error becomes one that is tried again, by `?`.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: HandlerError,
    /// Whether no other attempt can mend it.
    pub is_final: bool,
}

impl Failure {
    /// It may succeed when it is tried again: something was not there, or too slow.
    pub fn again(error: impl Into<HandlerError>) -> Self {
        Self {
            error: error.into(),
            is_final: false,
        }
    }

    /// No other attempt mends it: the record itself is at fault.
    pub fn give_up(error: impl Into<HandlerError>) -> Self {
        Self {
            error: error.into(),
            is_final: true,
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::again(error)
    }
}

/// Settings of a [`Flow`](super::Flow).
#[derive(Clone)]
pub struct FlowConfig {
    /// The member of the group; when it commits is up to the flow.
    pub group: GroupConfig,
    /// Records that are handled at once, at least 1. Default: 8.
    pub concurrency: usize,
    /// Records that are taken and not finished, waiting or in work; beyond them partitions are paused, until half of them are left. At
    /// least
    /// `concurrency`. Default: 1,000.
    pub in_flight_max: usize,
    /// Records that begin in a second, and how many of them at once after a quiet time. Default: any number.
    pub rate: Option<(f64, u32)>,
    /// How often a record is tried before it is a dead letter, or, without dead letters, the flow ends with an error. 0: for ever.
    /// Default: 5.
    pub attempts_max: u32,
    /// The delays between attempts.
    pub backoff: Backoff,
    /// A circuit breaker over all that the handler does. A failure while it is open or probing is not counted as an attempt. Default: none.
    pub breaker: Option<BreakerConfig>,
    /// Where records go that failed as often as they may. Default: none.
    pub dead_letters: Option<DeadLetters>,
    /// How often what is finished is committed. Default: a second.
    pub commit_interval: Duration,
}

impl FlowConfig {
    /// Default settings, for a member of the group that reads these topics.
    pub fn new<I, S>(group: impl Into<String>, topics: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            group: GroupConfig::new(group, topics),
            concurrency: 8,
            in_flight_max: 1_000,
            rate: None,
            attempts_max: 5,
            backoff: Backoff::default(),
            breaker: None,
            dead_letters: None,
            commit_interval: Duration::from_secs(1),
        }
    }

    /// Checks the bounds, and gives the member's settings.
    pub(super) fn checked(&self) -> Result<GroupConfig, PatternError> {
        let bad = |text: String| Err(PatternError::Config(text));
        if self.concurrency == 0 {
            return bad("concurrency 0: at least 1".to_owned());
        }
        if self.in_flight_max < self.concurrency {
            return bad(format!("in_flight_max {}: at least concurrency", self.in_flight_max));
        }
        if let Some((per_second, _)) = self.rate
            && (per_second.is_nan() || per_second <= 0.0)
        {
            return bad(format!("rate {per_second}: above 0"));
        }
        if self.commit_interval.is_zero() {
            return bad("commit_interval 0: above zero".to_owned());
        }
        Ok(GroupConfig {
            commit: CommitMode::Manual,
            ..self.group.clone()
        })
    }
}
