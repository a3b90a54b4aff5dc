//! Prints a record as a format string says.

use std::fmt;
use std::io::{self, Write};

use jangada_client::{ConsumedRecord, Header};

/// A parsed format string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    Value,
    Timestamp,
    Headers,
}

/// Why a format string is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum FormatError {
    /// `%` with a letter that means nothing.
    UnknownField(char),
    /// `\` with a letter that means nothing.
    UnknownEscape(char),
    /// `%` or `\` at the end.
    Unfinished(char),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FormatError::UnknownField(letter) => {
                write!(f, "%{letter} means nothing; there are %t %p %o %k %v %T %h and %%")
            }
            FormatError::UnknownEscape(letter) => write!(f, "\\{letter} means nothing; there are \\n, \\t and \\\\"),
            FormatError::Unfinished(sign) => write!(
                f,
                "{sign} at the end is not finished; write it twice for the sign itself"
            ),
        }
    }
}

impl Format {
    /// Reads a format string.
    pub fn parse(text: &str) -> Result<Format, FormatError> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => {
                    let field = letters.next().ok_or(FormatError::Unfinished('%'))?;
                    match field_of(field) {
                        Some(part) => {
                            if !literal.is_empty() {
                                parts.push(Part::Text(std::mem::take(&mut literal)));
                            }
                            parts.push(part);
                        }
                        None if field == '%' => literal.push(b'%'),
                        None => return Err(FormatError::UnknownField(field)),
                    }
                }
                '\\' => literal.push(match letters.next().ok_or(FormatError::Unfinished('\\'))? {
                    'n' => b'\n',
                    't' => b'\t',
                    '\\' => b'\\',
                    other => return Err(FormatError::UnknownEscape(other)),
                }),
                other => literal.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Format { parts })
    }

    /// Prints one record. Keys and values go out as they are; one that is absent prints as nothing.
    pub fn write(&self, out: &mut impl Write, record: &ConsumedRecord) -> io::Result<()> {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.write_all(text)?,
                Part::Topic => out.write_all(record.topic.as_bytes())?,
                Part::Partition => write!(out, "{}", record.partition)?,
                Part::Offset => write!(out, "{}", record.offset)?,
                Part::Key => out.write_all(record.key.as_deref().unwrap_or_default())?,
                Part::Value => out.write_all(record.value.as_deref().unwrap_or_default())?,
                Part::Timestamp => write!(out, "{}", record.timestamp_ms)?,
                Part::Headers => write_headers(out, &record.headers)?,
            }
        }
        Ok(())
    }
}

fn field_of(letter: char) -> Option<Part> {
    Some(match letter {
        't' => Part::Topic,
        'p' => Part::Partition,
        'o' => Part::Offset,
        'k' => Part::Key,
        'v' => Part::Value,
        'T' => Part::Timestamp,
        'h' => Part::Headers,
        _ => return None,
    })
}

/// `name=value,name=value`, values as they are.
fn write_headers(out: &mut impl Write, headers: &[Header]) -> io::Result<()> {
    for (i, header) in headers.iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        out.write_all(header.key.as_bytes())?;
        out.write_all(b"=")?;
        out.write_all(header.value.as_deref().unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record() -> ConsumedRecord {
        ConsumedRecord {
            topic: "orders".into(),
            partition: 3,
            offset: 42,
            leader_epoch: Some(3),
            timestamp_ms: 1700,
            key: Some(Bytes::from_static(b"k\xff")),
            value: None,
            headers: vec![
                Header {
                    key: "a".to_owned(),
                    value: Some(Bytes::from_static(b"1")),
                },
                Header {
                    key: "b".to_owned(),
                    value: None,
                },
            ],
        }
    }

    fn printed(format: &str) -> Vec<u8> {
        let mut out = Vec::new();
        Format::parse(format)
            .expect("the format is valid")
            .write(&mut out, &record())
            .expect("writing to memory works");
        out
    }

    #[test]
    fn every_field_prints() {
        assert_eq!(printed("%t %p %o %T %h"), b"orders 3 42 1700 a=1,b=");
        assert_eq!(printed("%k"), b"k\xff");
        assert_eq!(printed("[%v]"), b"[]");
    }

    #[test]
    fn escapes_and_other_text_print_as_they_are() {
        assert_eq!(printed("100%%\\t\\n\\\\ é"), "100%\t\n\\ é".as_bytes());
        assert_eq!(printed(""), b"");
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert_eq!(Format::parse("%x"), Err(FormatError::UnknownField('x')));
        assert_eq!(Format::parse("\\r"), Err(FormatError::UnknownEscape('r')));
        assert_eq!(Format::parse("a%"), Err(FormatError::Unfinished('%')));
        assert_eq!(Format::parse("a\\"), Err(FormatError::Unfinished('\\')));
    }
}
