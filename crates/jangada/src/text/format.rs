//! Prints a record as a format string says.

use std::fmt;
use std::io::{self, Write};

use jangada_client::{ConsumedRecord, Header, NO_TIMESTAMP};

use super::encoding::Encoding;

/// A parsed format string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    parts: Vec<Part>,
    forms: Forms,
}

/// The text forms of keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// The encoding of keys.
    pub key: Encoding,
    /// The encoding of values, also those of headers.
    pub value: Encoding,
    /// The text for a missing key, value or time, and for the length of a missing one.
    pub null: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    Value,
    KeyLength,
    ValueLength,
    Timestamp,
    Date,
    Headers,
}

/// The reason why a format string is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum FormatError {
    /// `%` with a letter that has no meaning.
    UnknownField(char),
    /// `\` with a letter that has no meaning.
    UnknownEscape(char),
    /// `%` or `\` at the end.
    Unfinished(char),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FormatError::UnknownField(letter) => {
                write!(
                    f,
                    "%{letter} means nothing; there are %t %p %o %k %v %s %K %S %T %D %h and %%"
                )
            }
            FormatError::UnknownEscape(letter) => {
                write!(f, "\\{letter} means nothing; there are \\n, \\t, \\r, \\0 and \\\\")
            }
            FormatError::Unfinished(sign) => write!(
                f,
                "{sign} at the end is not finished; write it twice for the sign itself"
            ),
        }
    }
}

impl Format {
    /// Reads a format string.
    pub fn parse(text: &str, forms: Forms) -> Result<Format, FormatError> {
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
                    'r' => b'\r',
                    '0' => 0,
                    '\\' => b'\\',
                    other => return Err(FormatError::UnknownEscape(other)),
                }),
                other => literal.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Format { parts, forms })
    }

    /// Prints one record.
    pub fn write(&self, out: &mut impl Write, record: &ConsumedRecord) -> io::Result<()> {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.write_all(text)?,
                Part::Topic => out.write_all(record.topic.as_bytes())?,
                Part::Partition => write!(out, "{}", record.partition)?,
                Part::Offset => write!(out, "{}", record.offset)?,
                Part::Key => self.write_bytes(out, self.forms.key, record.key.as_deref())?,
                Part::Value => self.write_bytes(out, self.forms.value, record.value.as_deref())?,
                Part::KeyLength => self.write_length(out, record.key.as_deref())?,
                Part::ValueLength => self.write_length(out, record.value.as_deref())?,
                Part::Timestamp | Part::Date if record.timestamp_ms == NO_TIMESTAMP => {
                    out.write_all(self.forms.null.as_bytes())?;
                }
                Part::Timestamp => write!(out, "{}", record.timestamp_ms)?,
                Part::Date => match jiff::Timestamp::from_millisecond(record.timestamp_ms) {
                    Ok(time) => write!(out, "{time:.3}")?,
                    // No calendar reaches that far.
                    Err(_) => write!(out, "{}", record.timestamp_ms)?,
                },
                Part::Headers => self.write_headers(out, &record.headers)?,
            }
        }
        Ok(())
    }

    fn write_bytes(&self, out: &mut impl Write, encoding: Encoding, bytes: Option<&[u8]>) -> io::Result<()> {
        match bytes {
            Some(bytes) => encoding.write(out, bytes),
            None => out.write_all(self.forms.null.as_bytes()),
        }
    }

    fn write_length(&self, out: &mut impl Write, bytes: Option<&[u8]>) -> io::Result<()> {
        match bytes {
            Some(bytes) => write!(out, "{}", bytes.len()),
            None => out.write_all(self.forms.null.as_bytes()),
        }
    }

    /// Writes headers as `name=value,name=value`.
    fn write_headers(&self, out: &mut impl Write, headers: &[Header]) -> io::Result<()> {
        for (i, header) in headers.iter().enumerate() {
            if i > 0 {
                out.write_all(b",")?;
            }
            out.write_all(header.key.as_bytes())?;
            out.write_all(b"=")?;
            self.write_bytes(out, self.forms.value, header.value.as_deref())?;
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
        'v' | 's' => Part::Value,
        'K' => Part::KeyLength,
        'S' => Part::ValueLength,
        'T' => Part::Timestamp,
        'D' => Part::Date,
        'h' => Part::Headers,
        _ => return None,
    })
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
        printed_as(format, Forms::default())
    }

    fn printed_as(format: &str, forms: Forms) -> Vec<u8> {
        let mut out = Vec::new();
        Format::parse(format, forms)
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
        assert_eq!(printed("%K [%S] %D"), b"2 [] 1970-01-01T00:00:01.700Z");
    }

    #[test]
    fn keys_values_and_what_is_none_print_as_asked() {
        let forms = Forms {
            key: Encoding::Hex,
            value: Encoding::Base64,
            null: "NULL".to_owned(),
        };
        assert_eq!(
            printed_as("%k %v %s %K %S %h", forms),
            b"6bff NULL NULL 2 NULL a=MQ==,b=NULL"
        );
    }

    #[test]
    fn escapes_and_other_text_print_as_they_are() {
        assert_eq!(printed("100%%\\t\\n\\r\\0\\\\ é"), "100%\t\n\r\0\\ é".as_bytes());
        assert_eq!(printed(""), b"");
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let parsed = |format| Format::parse(format, Forms::default());
        assert_eq!(parsed("%x"), Err(FormatError::UnknownField('x')));
        assert_eq!(parsed("\\x"), Err(FormatError::UnknownEscape('x')));
        assert_eq!(parsed("a%"), Err(FormatError::Unfinished('%')));
        assert_eq!(parsed("a\\"), Err(FormatError::Unfinished('\\')));
    }
}
