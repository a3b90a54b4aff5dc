//! Places in a log as they are typed: by word, offset, number of records, or time.

use std::str::FromStr;

use jangada_client::StartAt;
use jangada_types::units;

/// A moment, milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeArg(pub i64);

impl FromStr for TimeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<i64>() {
            Ok(milliseconds) => Ok(TimeArg(milliseconds)),
            Err(_) => moment(text).map(TimeArg),
        }
    }
}

/// How long ago, or since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinceArg(pub i64);

impl FromStr for SinceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(
                "write how long ago with a unit, such as 1h or 30min, or a time such as 2024-05-01T12:00:00Z"
                    .to_owned(),
            );
        }
        match ago(text) {
            Ok(milliseconds) => Ok(SinceArg(milliseconds)),
            // A date begins with digits, too: what is wrong with it is told as of a date.
            Err(_) if text.contains('-') => moment(text).map(SinceArg),
            Err(error) => Err(error),
        }
    }
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromArg {
    /// With the first record that is still there.
    Earliest,
    /// With the next record that is written.
    Latest,
    /// With this offset.
    Offset(i64),
    /// So many records before the end.
    Last(u64),
    /// With the first record at or after this time, milliseconds since the Unix epoch.
    Timestamp(i64),
}

impl FromStr for FromArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" | "beginning" => return Ok(FromArg::Earliest),
            "latest" | "end" => return Ok(FromArg::Latest),
            _ => {}
        }
        if let Some(back) = text.strip_prefix('-') {
            return match back.parse() {
                Ok(records) => Ok(FromArg::Last(records)),
                Err(_) => ago(back).map(FromArg::Timestamp),
            };
        }
        match position(text)? {
            Position::Offset(offset) => Ok(FromArg::Offset(offset)),
            Position::Time(milliseconds) => Ok(FromArg::Timestamp(milliseconds)),
        }
    }
}

impl FromArg {
    /// The client's word for it; `None`: the end has to be looked up first.
    pub fn start(self) -> Option<StartAt> {
        Some(match self {
            FromArg::Earliest => StartAt::Earliest,
            FromArg::Latest => StartAt::Latest,
            FromArg::Offset(offset) => StartAt::Offset(offset),
            FromArg::Timestamp(milliseconds) => StartAt::Timestamp(milliseconds),
            FromArg::Last(_) => return None,
        })
    }
}

/// Where to end: before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UntilArg {
    /// This offset.
    Offset(i64),
    /// The first record at or after this time, milliseconds since the Unix epoch.
    Timestamp(i64),
}

impl FromStr for UntilArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let until = match text.strip_prefix('-') {
            Some(back) => UntilArg::Timestamp(ago(back)?),
            None => match position(text)? {
                Position::Offset(offset) => UntilArg::Offset(offset),
                Position::Time(milliseconds) => UntilArg::Timestamp(milliseconds),
            },
        };
        match until {
            UntilArg::Timestamp(milliseconds) if milliseconds > now() => Err(
                "a time to come: records until then may still be written; leave it out and stop with Ctrl-C".to_owned(),
            ),
            until => Ok(until),
        }
    }
}

enum Position {
    Offset(i64),
    Time(i64),
}

fn position(text: &str) -> Result<Position, String> {
    if let Ok(offset) = text.parse::<u64>() {
        let offset = i64::try_from(offset).map_err(|_| "the offset is too large".to_owned())?;
        return Ok(Position::Offset(offset));
    }
    moment(text).map(Position::Time)
}

/// An RFC 3339 time. Rounded up: a record within the millisecond that the time cuts may be before it.
fn moment(text: &str) -> Result<i64, String> {
    let time: jiff::Timestamp = text.parse().map_err(|error| {
        format!(
            "neither a word that is known here, a number, nor an RFC 3339 time such as 2024-05-01T12:00:00Z: {error}"
        )
    })?;
    let milliseconds = time.as_millisecond();
    Ok(milliseconds + i64::from(time.as_nanosecond() > i128::from(milliseconds) * 1_000_000))
}

/// The moment so long ago.
fn ago(text: &str) -> Result<i64, String> {
    let back = units::milliseconds(text, 1).map_err(|error| error.to_string())?;
    let back = i64::try_from(back).map_err(|_| "too long ago".to_owned())?;
    Ok(now().saturating_sub(back))
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_an_offset_a_number_of_records_or_a_time() {
        for (text, expected) in [
            ("earliest", FromArg::Earliest),
            ("latest", FromArg::Latest),
            ("0", FromArg::Offset(0)),
            ("-10", FromArg::Last(10)),
            ("1970-01-01T00:00:01Z", FromArg::Timestamp(1000)),
            ("1970-01-01T01:00:00.5+01:00", FromArg::Timestamp(500)),
            ("1970-01-01T00:00:00.0005Z", FromArg::Timestamp(1)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in ["", "now", "2024-05-01", "99999999999999999999", "-", "-5m", "--5"] {
            assert!(wrong.parse::<FromArg>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn so_long_ago_is_a_time() {
        let hour_ago = now() - 3_600_000;
        let is_close = |time: i64| (time - hour_ago).abs() < 60_000;
        for text in ["-1h", "-60min", "-3600000ms"] {
            assert!(
                matches!(text.parse(), Ok(FromArg::Timestamp(time)) if is_close(time)),
                "{text}"
            );
            assert!(
                matches!(text.parse(), Ok(UntilArg::Timestamp(time)) if is_close(time)),
                "{text}"
            );
        }
        assert!(matches!("1h".parse(), Ok(SinceArg(time)) if is_close(time)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(SinceArg(1000)));
        for wrong in ["", "5", "1y", "5m", "2024-13-01T00:00:00Z"] {
            assert!(wrong.parse::<SinceArg>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_end_is_an_offset_or_a_time_that_has_passed() {
        assert_eq!("5".parse(), Ok(UntilArg::Offset(5)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(UntilArg::Timestamp(1000)));
        let error = "9999-01-01T00:00:00Z".parse::<UntilArg>().expect_err("not yet");
        assert!(error.contains("to come"), "{error}");
    }

    #[test]
    fn a_timestamp_is_a_number_or_a_time() {
        assert_eq!("1000".parse(), Ok(TimeArg(1000)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(TimeArg(1000)));
        assert!("yesterday".parse::<TimeArg>().is_err());
    }
}
