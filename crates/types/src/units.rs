//! Times and sizes as people write them: `7d`, `1h30min`, `1GiB`.
//!
//! A number without a unit has the unit of its setting, as it always had. Units that mean different things to different people (`m`,
//! `K`, `MB` in lower case) are refused with what to write instead.

use std::fmt;

/// The unit of a setting's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// The number counts milliseconds.
    Time,
    /// The number counts bytes.
    Bytes,
}

/// The reason why a text is no time or size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// There is no number where one should be.
    #[error("is {text:?}: write a number and a unit, such as {example}")]
    NotANumber {
        /// The text that was given.
        text: String,
        /// An example of a valid text.
        example: &'static str,
    },
    /// The unit could mean two things.
    #[error("is {text:?}: the unit {unit:?} is ambiguous, write {instead}")]
    Ambiguous {
        /// The text that was given.
        text: String,
        /// The unit that was given.
        unit: String,
        /// The unambiguous unit to write instead.
        instead: &'static str,
    },
    /// There is no such unit.
    #[error("is {text:?}: there is no unit {unit:?}, there are {units}")]
    Unknown {
        /// The text that was given.
        text: String,
        /// The unit that was given.
        unit: String,
        /// The units that there are.
        units: &'static str,
    },
    /// The value is no whole number of milliseconds or bytes.
    #[error("is {text:?}, which is not a whole number of {of}")]
    Fraction {
        /// The text that was given.
        text: String,
        /// "milliseconds" or "bytes".
        of: &'static str,
    },
    /// The value does not fit.
    #[error("is {text:?}, which is too large")]
    TooLarge {
        /// The text that was given.
        text: String,
    },
    /// A unit is followed by one that is not smaller.
    #[error("is {text:?}: write each unit once, the largest first, such as 1h30min")]
    Order {
        /// The text that was given.
        text: String,
    },
}

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;

/// Units of time, the largest first, in milliseconds.
const TIMES: [(&str, u64); 6] = [
    ("w", WEEK),
    ("d", DAY),
    ("h", HOUR),
    ("min", MINUTE),
    ("s", SECOND),
    ("ms", 1),
];

const TIMES_TEXT: &str = "ms, s, min, h, d and w";

/// Binary units, the largest first.
const BINARY: [(&str, u64); 5] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

/// Decimal units, the largest first.
const DECIMAL: [(&str, u64); 5] = [
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

const BYTES_TEXT: &str = "B, KiB, MiB, GiB, TiB, PiB (powers of 1024) and kB, MB, GB, TB, PB (powers of 1000)";

impl Quantity {
    /// The quantity of a setting of this name, if it is a time or a size: one of the words of its name is `ms` or
    /// `bytes`.
    pub fn of_key(name: &str) -> Option<Quantity> {
        let mut words = name.split(['_', '.', '-']);
        words.find_map(|word| match word {
            "ms" => Some(Quantity::Time),
            "bytes" => Some(Quantity::Bytes),
            _ => None,
        })
    }

    /// Reads a number, which has the setting's own unit, or numbers with units.
    ///
    /// # Errors
    /// A [`UnitError`], whose text is to be read after the setting's name.
    pub fn parse(self, text: &str) -> Result<u64, UnitError> {
        match self {
            Quantity::Time => milliseconds(text, 1),
            Quantity::Bytes => bytes(text),
        }
    }

    /// The value with a unit, where that is exact: `604800000` is `7d`.
    pub fn readable(self, value: u64) -> Option<String> {
        match self {
            Quantity::Time => readable_time(value),
            Quantity::Bytes => readable_bytes(value),
        }
    }

    /// The units that there are, as a sentence.
    pub const fn units(self) -> &'static str {
        match self {
            Quantity::Time => TIMES_TEXT,
            Quantity::Bytes => BYTES_TEXT,
        }
    }
}

/// A value with its unit in brackets behind it: `604800000 (7d)`.
pub fn annotated(quantity: Option<Quantity>, value: u64) -> String {
    match quantity.and_then(|quantity| quantity.readable(value)) {
        Some(readable) => format!("{value} ({readable})"),
        None => value.to_string(),
    }
}

/// A number as it is written: its digits without the point, and how many of them are behind the point.
struct Number {
    digits: u128,
    decimals: u32,
}

impl Number {
    /// Takes a number from the front of the text. `None`: there is none, or it has more digits than fit.
    fn take(text: &str) -> Option<(Number, &str)> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{whole}{fraction}").parse().ok()?;
        let decimals = fraction.len() as u32;
        Some((Number { digits, decimals }, rest))
    }

    /// This many of a unit, as a whole number of what `of` names. `text` is the text that it was taken from.
    fn times(&self, unit: u64, text: &str, of: &'static str) -> Result<u128, UnitError> {
        let text = || text.to_owned();
        let total = self.digits.checked_mul(u128::from(unit));
        let total = total.ok_or_else(|| UnitError::TooLarge { text: text() })?;
        let divisor = 10_u128.pow(self.decimals);
        match total % divisor {
            0 => Ok(total / divisor),
            _ => Err(UnitError::Fraction { text: text(), of }),
        }
    }
}

/// Parses a time as milliseconds: a plain number counts `plain` milliseconds each, or it has a unit; several units may
/// follow each other, as in `1h30min`.
///
/// # Errors
/// A [`UnitError`] for a text that is no time.
pub fn milliseconds(text: &str, plain: u64) -> Result<u64, UnitError> {
    let owned = || text.to_owned();
    let not_a_number = || UnitError::NotANumber {
        text: owned(),
        example: "500ms, 30s or 7d",
    };
    let mut rest = text.trim();
    let mut total = 0_u128;
    let mut smallest = u64::MAX;
    loop {
        let (number, behind) = Number::take(rest).ok_or_else(not_a_number)?;
        let behind = behind.trim_start();
        let end = behind.find(|c: char| !c.is_alphabetic()).unwrap_or(behind.len());
        let (name, next) = behind.split_at(end);
        let unit = match name {
            "" if smallest == u64::MAX && next.is_empty() => plain,
            "" => return Err(not_a_number()),
            name => time_unit(name).ok_or_else(|| wrong_time_unit(text, name))?,
        };
        if unit >= smallest {
            return Err(UnitError::Order { text: owned() });
        }
        smallest = unit;
        let part = number.times(unit, text, "milliseconds")?;
        total = total
            .checked_add(part)
            .ok_or_else(|| UnitError::TooLarge { text: owned() })?;
        rest = next.trim_start();
        if rest.is_empty() {
            return u64::try_from(total).map_err(|_| UnitError::TooLarge { text: owned() });
        }
    }
}

fn time_unit(name: &str) -> Option<u64> {
    let name = match name {
        "day" | "days" => "d",
        "hour" | "hours" => "h",
        "minute" | "minutes" | "mins" => "min",
        "second" | "seconds" | "sec" => "s",
        "week" | "weeks" => "w",
        other => other,
    };
    TIMES.iter().find(|(unit, _)| *unit == name).map(|(_, value)| *value)
}

fn wrong_time_unit(text: &str, unit: &str) -> UnitError {
    let instead = match unit {
        "m" | "M" => "min for minutes, or d for the days of months",
        "mo" | "mon" | "month" | "months" | "y" | "Y" | "year" | "years" => "d: months and years have no fixed length",
        "MS" | "Ms" | "mS" => "ms",
        "S" => "s",
        "H" => "h",
        "D" => "d",
        "W" => "w",
        _ => {
            return UnitError::Unknown {
                text: text.to_owned(),
                unit: unit.to_owned(),
                units: TIMES_TEXT,
            };
        }
    };
    UnitError::Ambiguous {
        text: text.to_owned(),
        unit: unit.to_owned(),
        instead,
    }
}

/// Parses a size as bytes: a plain number counts bytes, or it has a unit.
///
/// # Errors
/// A [`UnitError`] for a text that is no size.
pub fn bytes(text: &str) -> Result<u64, UnitError> {
    let not_a_number = || UnitError::NotANumber {
        text: text.to_owned(),
        example: "64KiB, 1.5MiB or 10GB",
    };
    let (number, unit) = Number::take(text.trim()).ok_or_else(not_a_number)?;
    let unit = unit.trim_start();
    if unit.starts_with(|c: char| !c.is_alphabetic()) {
        return Err(not_a_number());
    }
    let unit = match unit {
        "" | "B" => 1,
        name => byte_unit(name).ok_or_else(|| wrong_byte_unit(text, name))?,
    };
    let total = number.times(unit, text, "bytes")?;
    u64::try_from(total).map_err(|_| UnitError::TooLarge { text: text.to_owned() })
}

/// The bytes of a unit. Binary units may be written in any case; the case of decimal ones matters, for `Mb` would be
/// bits.
fn byte_unit(name: &str) -> Option<u64> {
    let binary = BINARY.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(name));
    let found = binary.or_else(|| DECIMAL.iter().find(|(unit, _)| *unit == name));
    found.map(|(_, value)| *value)
}

fn wrong_byte_unit(text: &str, unit: &str) -> UnitError {
    let instead = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" => "KiB (1024) or kB (1000)",
        "m" | "mb" => "MiB (1024 x 1024) or MB (1000 x 1000)",
        "g" | "gb" => "GiB (1024 x 1024 x 1024) or GB (1000 x 1000 x 1000)",
        "t" | "tb" => "TiB (powers of 1024) or TB (powers of 1000)",
        "p" | "pb" => "PiB (powers of 1024) or PB (powers of 1000)",
        "b" => "B for bytes",
        _ => {
            return UnitError::Unknown {
                text: text.to_owned(),
                unit: unit.to_owned(),
                units: BYTES_TEXT,
            };
        }
    };
    UnitError::Ambiguous {
        text: text.to_owned(),
        unit: unit.to_owned(),
        instead,
    }
}

/// The value in days and smaller units; a week is `7d`, as people say.
fn readable_time(value: u64) -> Option<String> {
    if value < SECOND {
        return None;
    }
    let mut rest = value;
    let mut text = String::new();
    for (name, unit) in &TIMES[1..] {
        if rest >= *unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    Some(text)
}

/// The shortest of the texts that are exact with at most two decimals; otherwise approximately, in the largest binary
/// unit.
fn readable_bytes(value: u64) -> Option<String> {
    if value < 1000 {
        return None;
    }
    let units = || BINARY.iter().chain(&DECIMAL).filter(|(_, unit)| value >= *unit);
    let exact = units().filter(|(_, unit)| u128::from(value) * 100 % u128::from(*unit) == 0);
    let shortest = exact.map(|unit| with_unit(value, *unit)).min_by_key(String::len);
    shortest.or_else(|| units().next().map(|unit| format!("about {}", with_unit(value, *unit))))
}

/// The value in this unit, with at most two decimals.
fn with_unit(value: u64, (name, unit): (&str, u64)) -> String {
    let hundredths = u128::from(value) * 100 / u128::from(unit);
    let (whole, decimals) = (hundredths / 100, hundredths % 100);
    match decimals {
        0 => format!("{whole}{name}"),
        decimals => {
            let decimals = format!("{decimals:02}");
            format!("{whole}.{}{name}", decimals.trim_end_matches('0'))
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Quantity::Time => "time",
            Quantity::Bytes => "size",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Result<u64, UnitError> {
        Quantity::Time.parse(text)
    }

    #[test]
    fn a_time_is_a_number_or_has_units() {
        for (text, expected) in [
            ("0", 0),
            ("1500", 1500),
            ("500ms", 500),
            ("0.5s", 500),
            ("90s", 90_000),
            ("5min", 300_000),
            ("1h30min", 5_400_000),
            ("1 h 30 min", 5_400_000),
            ("7d", 604_800_000),
            ("7 days", 604_800_000),
            ("2w", 1_209_600_000),
            (" 1d ", 86_400_000),
            ("1.25s", 1250),
        ] {
            assert_eq!(time(text), Ok(expected), "{text}");
        }
        assert_eq!(milliseconds("30", 1000), Ok(30_000), "a flag of seconds");
        assert_eq!(milliseconds("30ms", 1000), Ok(30));
    }

    #[test]
    fn a_size_is_a_number_or_has_a_unit() {
        for (text, expected) in [
            ("0", 0),
            ("1024", 1024),
            ("10B", 10),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("1.5MiB", 1_572_864),
            ("1GiB", 1 << 30),
            ("1GB", 1_000_000_000),
            ("2.5kB", 2_500),
            ("3TB", 3_000_000_000_000),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_wrong_says_what_to_write() {
        for (text, expected) in [
            ("5m", "ambiguous, write min"),
            ("1M", "ambiguous, write min"),
            ("1y", "no fixed length"),
            ("5D", "write d"),
            ("5 fortnights", "there are ms, s, min, h, d and w"),
            ("0.5ms", "not a whole number of milliseconds"),
            ("30min1h", "the largest first"),
            ("1h1h", "the largest first"),
            ("1h30", "a number and a unit"),
            ("h", "a number and a unit"),
            ("", "a number and a unit"),
            ("-5s", "a number and a unit"),
            ("1..5s", "a number and a unit"),
            ("99999999999w", "too large"),
            ("999999999999999999999999999999w", "too large"),
            (
                "500000000000000000000000000000w500000000000000000000000000000d",
                "too large",
            ),
        ] {
            let error = time(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for (text, expected) in [
            ("1K", "write KiB (1024) or kB (1000)"),
            ("1KB", "write KiB (1024) or kB (1000)"),
            ("1mb", "write MiB"),
            ("1Mb", "write MiB"),
            ("1G", "write GiB"),
            ("8b", "write B for bytes"),
            ("1 parsec", "there is no unit \"parsec\""),
            ("0.3B", "not a whole number of bytes"),
            ("1MiB2KiB", "there is no unit \"MiB2KiB\""),
            ("99999999PiB", "too large"),
            ("1 2", "a number and a unit"),
            ("GiB", "a number and a unit"),
            ("1e3", "there is no unit \"e3\""),
        ] {
            let error = bytes(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn values_are_shown_with_the_unit_that_says_the_same() {
        let shown = |quantity: Quantity, value| quantity.readable(value).unwrap_or_default();
        for (value, expected) in [
            (500, ""),
            (1000, "1s"),
            (90_000, "1min30s"),
            (604_800_000, "7d"),
            (1_234, "1s234ms"),
        ] {
            assert_eq!(shown(Quantity::Time, value), expected);
        }
        for (value, expected) in [
            (999, ""),
            (1000, "1kB"),
            (1024, "1KiB"),
            (1 << 30, "1GiB"),
            (3 << 29, "1.5GiB"),
            (10_000_000, "10MB"),
            (10_000_000_000, "10GB"),
            (1_048_577, "about 1MiB"),
        ] {
            assert_eq!(shown(Quantity::Bytes, value), expected, "{value}");
        }
        assert_eq!(annotated(Some(Quantity::Time), 604_800_000), "604800000 (7d)");
        assert_eq!(annotated(None, 604_800_000), "604800000");
    }

    #[test]
    fn what_is_shown_reads_back() {
        for value in [1000, 59_999, 3_600_001, 86_400_000, u64::MAX] {
            let text = Quantity::Time.readable(value).expect("a second or more");
            assert_eq!(time(&text), Ok(value), "{text}");
        }
    }

    #[test]
    fn a_setting_tells_by_its_name_what_it_counts() {
        for (name, expected) in [
            ("retention.ms", Some(Quantity::Time)),
            ("max.message.bytes", Some(Quantity::Bytes)),
            ("groups.batch_window_ms_max", Some(Quantity::Time)),
            ("limits.produce_inflight_bytes_per_partition", Some(Quantity::Bytes)),
            ("limits.streams_max", None),
            ("key.index.enable", None),
            ("storage.items", None),
        ] {
            assert_eq!(Quantity::of_key(name), expected, "{name}");
        }
    }
}
