//! Whether the times that a producer gave its records may be: `message.timestamp.before.max.ms` and
//! `message.timestamp.after.max.ms` (KIP-32, KIP-937). Pure.
//!
//! Retention goes by these times: one that is far ahead keeps its records for as long beyond `retention.ms`, one that is far behind
//! lets them go at once. Both happen when seconds or microseconds are sent for milliseconds.

use jangada_types::batch::RecordTime;
use jangada_types::topic_config::{UNBOUNDED_MS, key};
use jangada_types::{Reason, RecordTimes, TopicConfig};

use crate::error::RequestError;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// A time that is so near in another unit was meant in that one: the year 2000, and a year from now.
const PLAUSIBLE_FROM_MS: i64 = 946_684_800_000;
const PLAUSIBLE_AHEAD_MS: i64 = 366 * DAY_MS;

/// Refuses the times of a batch that lie beyond the topic's bounds.
pub(super) fn check(config: &TopicConfig, times: &RecordTimes, now_ms: i64) -> Result<(), RequestError> {
    if let Some(latest) = times.latest() {
        let ahead = i128::from(latest.ms) - i128::from(now_ms);
        if exceeds(ahead, config.timestamp_after_max_ms) {
            let bound = (key::TIMESTAMP_AFTER_MAX_MS, config.timestamp_after_max_ms);
            return Err(refused(latest, now_ms, "ahead of", bound));
        }
    }
    if let Some(earliest) = times.earliest() {
        let behind = i128::from(now_ms) - i128::from(earliest.ms);
        if exceeds(behind, config.timestamp_before_max_ms) {
            let bound = (key::TIMESTAMP_BEFORE_MAX_MS, config.timestamp_before_max_ms);
            return Err(refused(earliest, now_ms, "behind", bound));
        }
    }
    Ok(())
}

fn exceeds(ms: i128, bound_ms: u64) -> bool {
    bound_ms != UNBOUNDED_MS && ms > i128::from(bound_ms)
}

/// Whether the batch as a whole is older than the topic keeps: it goes with the next look at retention. Its latest time.
pub(super) fn is_gone_at_once(config: &TopicConfig, times: &RecordTimes, now_ms: i64) -> Option<i64> {
    let kept = config.retention_ms?;
    let latest = times.latest()?.ms;
    (i128::from(now_ms) - i128::from(latest) > i128::from(kept)).then_some(latest)
}

/// Says that a time looks like another unit, if it does.
pub(super) fn unit_hint(ms: i64, now_ms: i64) -> &'static str {
    let plausible = |ms: Option<i64>| {
        ms.is_some_and(|ms| ms >= PLAUSIBLE_FROM_MS && ms <= now_ms.saturating_add(PLAUSIBLE_AHEAD_MS))
    };
    if plausible(ms.checked_mul(1_000)) {
        "; are these seconds? Times are milliseconds since 1970"
    } else if plausible(Some(ms / 1_000)) {
        "; are these microseconds? Times are milliseconds since 1970"
    } else if plausible(Some(ms / 1_000_000)) {
        "; are these nanoseconds? Times are milliseconds since 1970"
    } else {
        ""
    }
}

fn refused(time: RecordTime, now_ms: i64, side: &str, (setting, limit): (&str, u64)) -> RequestError {
    let which = match time.index {
        Some(index) => format!("record {index} of the batch"),
        None => "the batch".to_owned(),
    };
    let off = time.ms.abs_diff(now_ms);
    let message = format!(
        "{which} has the time {}, which is {off} ms {side} the broker's clock, {now_ms}; {setting} allows {limit} ms{}",
        time.ms,
        unit_hint(time.ms, now_ms)
    );
    RequestError::new(Reason::InvalidTimestamp, message)
        .with("actual", time.ms)
        .with("limit", limit)
}

#[cfg(test)]
mod tests {
    use jangada_types::batch::validate_with_times;
    use jangada_types::{BatchBuilder, BatchLimits, Codec};

    use super::*;

    const NOW_MS: i64 = 1_764_000_000_000;
    const HOUR_MS: i64 = 60 * 60 * 1_000;

    fn times(of: &[i64]) -> RecordTimes {
        let mut builder = BatchBuilder::new(Codec::None);
        for ms in of {
            builder.append(*ms, None, None, []).expect("small");
        }
        validate_with_times(&builder.build(), &BatchLimits::default())
            .expect("valid")
            .1
    }

    fn check_all(config: &TopicConfig, of: &[i64]) -> Result<(), RequestError> {
        check(config, &times(of), NOW_MS)
    }

    #[test]
    fn an_hour_ahead_is_the_default_and_the_past_is_free() {
        let config = TopicConfig::default();
        for fine in [&[NOW_MS, NOW_MS + HOUR_MS][..], &[0], &[-1], &[i64::MIN], &[-1, NOW_MS]] {
            assert_eq!(check_all(&config, fine), Ok(()), "{fine:?}");
        }
        let error = check_all(&config, &[NOW_MS, NOW_MS + HOUR_MS + 1, NOW_MS]).expect_err("too late");
        assert_eq!(error.reason, Reason::InvalidTimestamp);
        assert_eq!(error.metadata["limit"], "3600000");
        assert_eq!(error.metadata["actual"], (NOW_MS + HOUR_MS + 1).to_string());
        for named in [
            "record 1 of the batch",
            "3600001 ms ahead",
            "message.timestamp.after.max.ms",
        ] {
            assert!(error.message.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn both_bounds_can_be_set_and_taken_off() {
        let config = TopicConfig {
            timestamp_before_max_ms: 1_000,
            timestamp_after_max_ms: UNBOUNDED_MS,
            ..TopicConfig::default()
        };
        for fine in [&[NOW_MS - 1_000, i64::MAX][..], &[-1, NOW_MS]] {
            assert_eq!(check_all(&config, fine), Ok(()), "{fine:?}");
        }
        let error = check_all(&config, &[NOW_MS, NOW_MS - 1_001]).expect_err("too early");
        assert!(error.message.contains("1001 ms behind"), "{error}");
        assert!(check_all(&config, &[i64::MIN]).is_err());
    }

    #[test]
    fn other_units_are_recognized() {
        let config = TopicConfig {
            timestamp_before_max_ms: 1_000,
            ..TopicConfig::default()
        };
        for (ms, unit) in [
            (NOW_MS / 1_000, "seconds"),
            (NOW_MS * 1_000, "microseconds"),
            (NOW_MS * 1_000_000, "nanoseconds"),
        ] {
            let error = check_all(&config, &[ms]).expect_err("far off");
            assert!(error.message.contains(&format!("are these {unit}?")), "{error}");
        }
        let error = check_all(&config, &[NOW_MS - DAY_MS]).expect_err("far off");
        assert!(!error.message.contains("are these"), "{error}");
    }

    #[test]
    fn what_retention_takes_at_once_is_noticed() {
        let config = TopicConfig::default();
        let kept = i64::try_from(config.retention_ms.expect("a week")).expect("small");
        let gone = |of: &[i64]| is_gone_at_once(&config, &times(of), NOW_MS);
        assert_eq!(gone(&[NOW_MS - kept]), None);
        assert_eq!(gone(&[0, NOW_MS - kept]), None, "the batch goes as a whole");
        assert_eq!(gone(&[0, NOW_MS / 1_000]), Some(NOW_MS / 1_000));
        assert_eq!(gone(&[-1]), None);
    }
}
