//! Makes a record of a piece of the input. Pure: it does no I/O.

use std::sync::Arc;

use bytes::Bytes;
use jangada_client::{Header, ProducerRecord};

use crate::cli::{ProduceArgs, ProduceFormat};
use crate::errors::{CliError, Result};
use crate::text::encoding::Encoding;
use crate::text::jsonl;

/// Makes records from lines.
pub struct Parser {
    /// The part that all records have in common.
    template: ProducerRecord,
    form: Form,
    key_as: Encoding,
    value_as: Encoding,
    /// The text of a key or value that means none.
    null: Option<Bytes>,
}

enum Form {
    Value,
    KeyAndValue { separator: String },
    Json,
}

impl Parser {
    /// A parser as the flags ask for.
    ///
    /// # Errors
    /// When the key of the flags is not in the form of `--key-as`.
    pub fn new(args: &ProduceArgs) -> Result<Parser> {
        let mut template = ProducerRecord::new(Arc::<str>::from(args.topic()));
        template.partition = args.partition;
        template.timestamp_ms = args.timestamp.map(|time| time.0);
        template.headers = args.header.iter().map(header).collect();
        if let Some(key) = &args.key {
            let key = args.key_as.read(Bytes::from(key.clone()));
            template.key = Some(key.map_err(|why| CliError::usage(format!("--key is {why}")))?);
        }
        let form = match (&args.key_separator, args.format) {
            (Some(separator), _) => Form::KeyAndValue {
                separator: separator.clone(),
            },
            (None, ProduceFormat::Lines) => Form::Value,
            (None, ProduceFormat::Jsonl) => Form::Json,
        };
        let null = args.null.clone().or(args.null_empty.then(String::new));
        Ok(Parser {
            template,
            form,
            key_as: args.key_as,
            value_as: args.value_as,
            null: null.map(Bytes::from),
        })
    }

    /// The record without a value.
    pub fn tombstone(&self) -> ProducerRecord {
        self.template.clone()
    }

    /// The record of one piece of the input. The error is to be read after the number of its line.
    pub fn record(&self, line: Bytes) -> std::result::Result<ProducerRecord, String> {
        let mut record = self.template.clone();
        match &self.form {
            Form::Value => record.value = self.field("value", line, self.value_as)?,
            Form::KeyAndValue { separator } => {
                let separator = separator.as_bytes();
                let at = line.windows(separator.len()).position(|window| window == separator);
                let at = at.ok_or_else(|| format!("has no key separator {:?}", String::from_utf8_lossy(separator)))?;
                record.key = self.field("key", line.slice(..at), self.key_as)?;
                record.value = self.field("value", line.slice(at + separator.len()..), self.value_as)?;
            }
            Form::Json => return jsonl::read(&line, record),
        }
        Ok(record)
    }

    fn field(&self, name: &str, text: Bytes, encoding: Encoding) -> std::result::Result<Option<Bytes>, String> {
        if self.null.as_ref() == Some(&text) {
            return Ok(None);
        }
        let read = encoding.read(text);
        read.map(Some).map_err(|why| format!("has a {name} that is {why}"))
    }
}

fn header((key, value): &(String, String)) -> Header {
    Header {
        key: key.clone(),
        value: Some(Bytes::from(value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parser(flags: &[&str]) -> Result<Parser> {
        let line = [&["jangada", "produce", "orders"], flags].concat();
        match Cli::try_parse_from(line).expect("the flags are valid").command {
            Command::Produce(args) => Parser::new(&args),
            other => panic!("{other:?}"),
        }
    }

    /// The key and the value of a line.
    fn fields(flags: &[&str], line: &'static [u8]) -> (Option<Bytes>, Option<Bytes>) {
        let parser = parser(flags).expect("the flags make sense");
        let record = parser.record(Bytes::from_static(line)).expect("the line is valid");
        (record.key, record.value)
    }

    fn some(bytes: &'static [u8]) -> Option<Bytes> {
        Some(Bytes::from_static(bytes))
    }

    #[test]
    fn the_key_ends_at_the_first_separator() {
        let flags = ["--key-separator", "::"];
        assert_eq!(fields(&flags, b"a::b::c\r"), (some(b"a"), some(b"b::c\r")));
        assert_eq!(fields(&flags, b"::"), (some(b""), some(b"")));
        let error = parser(&flags).expect("valid").record(Bytes::from_static(b"a:b"));
        let error = error.expect_err("there is none");
        assert!(error.contains("no key separator \"::\""), "{error}");
    }

    #[test]
    fn without_a_separator_a_line_is_the_value() {
        assert_eq!(fields(&[], b"\xff\r"), (None, some(b"\xff\r")));
        assert_eq!(fields(&[], b""), (None, some(b"")));
        assert_eq!(fields(&["-k", "a"], b"x"), (some(b"a"), some(b"x")));
        assert_eq!(fields(&["-k", ""], b"x"), (some(b""), some(b"x")));
    }

    #[test]
    fn a_marker_stands_for_none() {
        let flags = ["-K", ":", "--null", "NULL"];
        assert_eq!(fields(&flags, b"a:NULL"), (some(b"a"), None));
        assert_eq!(fields(&flags, b"NULL:b"), (None, some(b"b")));
        assert_eq!(fields(&flags, b"a:"), (some(b"a"), some(b"")));
        assert_eq!(fields(&["-K", ":", "-Z"], b"a:"), (some(b"a"), None));
    }

    #[test]
    fn keys_and_values_may_be_written_as_hex_or_base64() {
        let flags = ["-K", ":", "--key-as", "hex", "--value-as", "base64"];
        assert_eq!(fields(&flags, b"ff00:/wA="), (some(b"\xff\x00"), some(b"\xff\x00")));
        let error = parser(&flags).expect("valid").record(Bytes::from_static(b"xy:"));
        assert_eq!(
            error.expect_err("no digits"),
            "has a key that is not hexadecimal: two digits a byte"
        );
        assert_eq!(fields(&["-k", "00", "--key-as", "hex"], b"x").0, some(b"\x00"));
        let error = parser(&["-k", "x", "--key-as", "hex"]).err().expect("no digits");
        assert!(error.is_usage(), "{error}");
    }

    #[test]
    fn headers_time_and_partition_are_those_of_the_flags() {
        let flags = [
            "-H",
            "a=1",
            "-H",
            "b=x=y",
            "-H",
            "c=",
            "--timestamp",
            "1970-01-01T00:00:01Z",
            "-p",
            "3",
        ];
        let parser = parser(&flags).expect("the flags make sense");
        let record = parser.record(Bytes::from_static(b"x")).expect("every line is a value");
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|header| (header.key.as_str(), header.value.as_deref().unwrap_or(b"none")))
            .collect();
        assert_eq!(headers, [("a", b"1".as_slice()), ("b", b"x=y"), ("c", b"")]);
        assert_eq!((record.timestamp_ms, record.partition), (Some(1000), Some(3)));
        assert_eq!(parser.tombstone().value, None);
    }
}
