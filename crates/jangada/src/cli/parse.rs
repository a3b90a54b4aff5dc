//! Readers of values that several commands take.

use std::ops::RangeInclusive;
use std::time::Duration;

use jangada_types::units;

/// Reads `key=value`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write key=value")?;
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads `key=value`, or `key` alone.
pub fn asked_header(text: &str) -> Result<(String, Option<String>), String> {
    match text.contains('=') {
        true => pair(text).map(|(key, value)| (key, Some(value))),
        false if text.is_empty() => Err("the name is empty".to_owned()),
        false => Ok((text.to_owned(), None)),
    }
}

/// Reads the one character that `%` and friends name, for separators: `\t`, `\n`, `\\` and any other text as it is.
pub fn separator(text: &str) -> Result<String, String> {
    let plain = text.replace("\\t", "\t").replace("\\n", "\n");
    if plain.is_empty() {
        return Err("the separator is empty".to_owned());
    }
    if plain.contains('\n') {
        return Err("a newline separates records already".to_owned());
    }
    Ok(plain)
}

/// Reads what ends a record: `\0`, `\n`, `\t`, `\r`, `\\` and any other text as it is.
pub fn delimiter(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next() {
                Some('0') => '\0',
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some('\\') => '\\',
                _ => return Err("there are \\0, \\n, \\t, \\r and \\\\".to_owned()),
            },
            letter => letter,
        });
    }
    match plain.is_empty() {
        true => Err("the delimiter is empty".to_owned()),
        false => Ok(plain),
    }
}

/// The longest that a flag may ask to wait. No clock reaches the end of what a `Duration` holds.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads how long to wait: a plain number is seconds.
pub fn wait(text: &str) -> Result<Duration, String> {
    let milliseconds = units::milliseconds(text, 1000).map_err(|error| error.to_string())?;
    match Duration::from_millis(milliseconds) {
        wait if wait <= WAIT_MAX => Ok(wait),
        _ => Err("at most a day".to_owned()),
    }
}

/// Reads a time of any length: a plain number is seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let milliseconds = units::milliseconds(text, 1000).map_err(|error| error.to_string())?;
    Ok(Duration::from_millis(milliseconds))
}

/// Reads milliseconds: a plain number, or one with a unit.
pub fn milliseconds(text: &str) -> Result<u64, String> {
    units::milliseconds(text, 1).map_err(|error| error.to_string())
}

/// The same, for what has fewer bits.
pub fn milliseconds_u32(text: &str) -> Result<u32, String> {
    u32::try_from(milliseconds(text)?).map_err(|_| "too long".to_owned())
}

/// Reads bytes within bounds: a plain number, or one with a unit.
pub fn bytes<T: TryFrom<u64>>(
    bounds: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let bytes = units::bytes(text).map_err(|error| error.to_string())?;
        let found = T::try_from(bytes).ok().filter(|_| bounds.contains(&bytes));
        found.ok_or_else(|| format!("{text} is not in {} to {}", bounds.start(), bounds.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_separator_may_be_written_as_an_escape() {
        assert_eq!(separator("\\t"), Ok("\t".to_owned()));
        assert_eq!(separator("::"), Ok("::".to_owned()));
        assert!(separator("").is_err());
        assert!(separator("\\n").is_err());
        assert_eq!(delimiter("\\0"), Ok("\0".to_owned()));
        assert_eq!(delimiter("a\\\\\\n"), Ok("a\\\n".to_owned()));
        assert!(delimiter("").is_err());
        assert!(delimiter("\\x").is_err());
    }

    #[test]
    fn a_header_is_asked_for_by_value_or_by_name() {
        assert_eq!(asked_header("a=b=c"), Ok(("a".to_owned(), Some("b=c".to_owned()))));
        assert_eq!(asked_header("a="), Ok(("a".to_owned(), Some(String::new()))));
        assert_eq!(asked_header("a"), Ok(("a".to_owned(), None)));
        assert!(asked_header("=a").is_err());
        assert!(asked_header("").is_err());
    }

    #[test]
    fn a_wait_is_in_seconds_unless_it_says_otherwise() {
        assert_eq!(wait("30"), Ok(Duration::from_secs(30)));
        assert_eq!(wait("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(wait("1d"), Ok(WAIT_MAX));
        assert!(wait("25h").is_err());
        assert_eq!(bytes::<u32>(1..=1024)("1KiB"), Ok(1024));
        assert!(bytes::<u32>(1..=1024)("1025").is_err());
    }
}
