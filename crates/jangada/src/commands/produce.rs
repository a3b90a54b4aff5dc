//! `jangada produce`: lines in, records out.
//!
//! Reads in large pieces and sends every line at once; the producer's linger gathers what arrives together. What was
//! sent is remembered until the brokers have answered, in order and bounded, so that the first failure is noticed while
//! lines still arrive and can name its line.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use indicatif::ProgressBar;
use jangada_client::{Acks, ClientError, Delivery, Producer, ProducerConfig, ProducerRecord, RecordMetadata};
use jangada_types::limits::BATCH_BYTES_MAX;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::signal::ctrl_c;

use crate::cli::{BrokersArgs, ProduceArgs, ProduceFormat};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::output::note;
use crate::progress;
use crate::text::jsonl;
use crate::text::lines::{LineSplitter, LineTooLong};

/// The longest line, bytes: the largest batch. What a topic takes is mostly less.
const LINE_BYTES_MAX: usize = BATCH_BYTES_MAX;

/// The longest line of JSON, bytes: base64 and escapes take more than what they stand for.
const JSON_LINE_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

/// Room for one piece of input, bytes.
const READ_BYTES: usize = 256 * 1024;

/// Records that are sent and not answered. The producer bounds their bytes; this bounds their number, as empty records
/// have none.
const UNANSWERED_MAX: usize = 1 << 18;

/// After this many records answers are looked at without waiting.
const SETTLE_EVERY: u64 = 1024;

pub async fn run(brokers: &BrokersArgs, args: &ProduceArgs) -> Result<()> {
    let (source, total) = open(args.file.as_deref()).await?;
    let client = connect(brokers).await?;
    // A topic that does not exist is an error also when there is nothing to write.
    client.topic(&args.topic).await?;
    let acks = Acks::from(args.acks);
    let config = ProducerConfig {
        acks,
        idempotent: acks != Acks::None,
        compression: args.compression.into(),
        ..ProducerConfig::default()
    };
    let producer = client.producer(config)?;
    let bar = progress::bytes(total, "sent");
    let mut work = Work {
        source,
        splitter: LineSplitter::new(if args.format == ProduceFormat::Jsonl {
            JSON_LINE_BYTES_MAX
        } else {
            LINE_BYTES_MAX
        }),
        parser: Parser::new(args),
        producer: producer.clone(),
        unanswered: VecDeque::new(),
        acknowledged: 0,
        failure: None,
        bar,
    };
    let ended = tokio::select! {
        ended = work.pump() => ended,
        _ = ctrl_c() => Err(CliError::new("interrupted")),
    };
    tokio::select! {
        () = work.answer_all() => {}
        _ = ctrl_c() => return Err(CliError::new("interrupted again; what was not acknowledged may be written or not")),
    }
    producer.close().await;
    work.bar.finish_and_clear();
    work.verdict(ended)
}

/// A source of lines, and its length if that is known.
async fn open(file: Option<&Path>) -> Result<(Box<dyn AsyncRead + Send + Unpin>, Option<u64>)> {
    let Some(path) = file else {
        return Ok((Box::new(tokio::io::stdin()), None));
    };
    let failed = |error: std::io::Error| CliError::new(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).await.map_err(failed)?;
    let metadata = file.metadata().await.map_err(failed)?;
    if metadata.is_dir() {
        return Err(CliError::new(format!(
            "cannot read {}: it is a directory",
            path.display()
        )));
    }
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

/// Makes records of lines.
struct Parser {
    template: ProducerRecord,
    form: Form,
}

enum Form {
    Value,
    KeyAndValue { separator: String },
    Json,
}

impl Parser {
    fn new(args: &ProduceArgs) -> Parser {
        let mut template = ProducerRecord::new(Arc::<str>::from(args.topic.as_str()));
        template.partition = args.partition;
        let form = match (&args.key_separator, args.format) {
            (Some(separator), _) => Form::KeyAndValue {
                separator: separator.clone(),
            },
            (None, ProduceFormat::Lines) => Form::Value,
            (None, ProduceFormat::Jsonl) => Form::Json,
        };
        Parser { template, form }
    }

    fn record(&self, line: Bytes) -> std::result::Result<ProducerRecord, String> {
        let mut record = self.template.clone();
        match &self.form {
            Form::Value => record.value = Some(line),
            Form::KeyAndValue { separator } => {
                let separator = separator.as_bytes();
                let at = line.windows(separator.len()).position(|window| window == separator);
                let at = at.ok_or_else(|| format!("has no key separator {:?}", String::from_utf8_lossy(separator)))?;
                record.key = Some(line.slice(..at));
                record.value = Some(line.slice(at + separator.len()..));
            }
            Form::Json => return jsonl::read(&line, record),
        }
        Ok(record)
    }
}

/// The first record that the brokers did not take.
struct Failure {
    line: u64,
    error: ClientError,
}

struct Work {
    source: Box<dyn AsyncRead + Send + Unpin>,
    splitter: LineSplitter,
    parser: Parser,
    producer: Producer,
    /// In the order they were sent.
    unanswered: VecDeque<(u64, Delivery)>,
    acknowledged: u64,
    failure: Option<Failure>,
    bar: ProgressBar,
}

impl Work {
    /// Sends line after line until the input ends or something fails.
    async fn pump(&mut self) -> Result<()> {
        loop {
            while let Some(line) = self.splitter.next_line().map_err(too_long)? {
                self.send(line).await?;
            }
            if self.failure.is_some() || self.read().await? == 0 {
                break;
            }
        }
        if self.failure.is_some() {
            return Ok(());
        }
        match self.splitter.finish() {
            Some(line) => self.send(line).await,
            None => Ok(()),
        }
    }

    /// Waits for input; meanwhile takes answers, so that a failure is noticed while the input is idle. Gives 0 at the
    /// end and after a failure.
    async fn read(&mut self) -> Result<usize> {
        self.splitter.buffer().reserve(READ_BYTES);
        loop {
            tokio::select! {
                biased;
                read = self.source.read_buf(self.splitter.buffer()) => {
                    let after = self.splitter.line_number();
                    let failed = |error| CliError::new(format!("cannot read the input after line {after}: {error}"));
                    let read = read.map_err(failed)?;
                    self.bar.inc(read as u64);
                    return Ok(read);
                }
                (line, outcome) = first(&mut self.unanswered), if !self.unanswered.is_empty() => {
                    self.unanswered.pop_front();
                    self.settle(line, outcome);
                    if self.failure.is_some() {
                        return Ok(0);
                    }
                }
            }
        }
    }

    async fn send(&mut self, line: Bytes) -> Result<()> {
        let number = self.splitter.line_number();
        let record = self
            .parser
            .record(line)
            .map_err(|why| CliError::new(format!("line {number} {why}")))?;
        let delivery = self
            .producer
            .send(record)
            .await
            .map_err(|error| CliError::from(error).doing(format_args!("line {number}")))?;
        self.unanswered.push_back((number, delivery));
        if number.is_multiple_of(SETTLE_EVERY) {
            self.take_answers();
        }
        if self.unanswered.len() >= UNANSWERED_MAX {
            let (line, outcome) = first(&mut self.unanswered).await;
            self.unanswered.pop_front();
            self.settle(line, outcome);
        }
        Ok(())
    }

    /// Takes the answers that are there, without waiting.
    fn take_answers(&mut self) {
        while let Some((line, delivery)) = self.unanswered.front() {
            let line = *line;
            let Some(outcome) = delivery.try_result() else { return };
            self.unanswered.pop_front();
            self.settle(line, outcome);
        }
    }

    /// Sends what is still gathered and waits for all answers.
    async fn answer_all(&mut self) {
        self.producer.flush().await;
        while let Some((line, delivery)) = self.unanswered.pop_front() {
            let outcome = delivery.await;
            self.settle(line, outcome);
        }
    }

    fn settle(&mut self, line: u64, outcome: std::result::Result<RecordMetadata, ClientError>) {
        match outcome {
            Ok(_) => self.acknowledged += 1,
            Err(error) if self.failure.is_none() => self.failure = Some(Failure { line, error }),
            Err(_) => {}
        }
    }

    /// Fine only if all input was read and every record was acknowledged.
    fn verdict(self, ended: Result<()>) -> Result<()> {
        let acknowledged = self.acknowledged;
        let because = |error: CliError| error.doing(format_args!("{acknowledged} records were acknowledged, then"));
        if let Some(Failure { line, error }) = self.failure {
            return Err(because(CliError::from(error).doing(format_args!("line {line}"))));
        }
        ended.map_err(because)?;
        note(&format!("{acknowledged} records were acknowledged"));
        Ok(())
    }
}

/// The answer to the record that was sent first. It stays in the queue, so that this can be dropped and called again.
async fn first(unanswered: &mut VecDeque<(u64, Delivery)>) -> (u64, std::result::Result<RecordMetadata, ClientError>) {
    match unanswered.front_mut() {
        Some((line, delivery)) => (*line, delivery.await),
        None => std::future::pending().await,
    }
}

fn too_long(error: LineTooLong) -> CliError {
    CliError::new(format!("line {} is longer than {} bytes", error.line, error.limit))
        .hint("a record is one line; larger data does not fit into one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parser(form: Form) -> Parser {
        Parser {
            template: ProducerRecord::new("orders"),
            form,
        }
    }

    #[test]
    fn the_key_ends_at_the_first_separator() {
        let parser = parser(Form::KeyAndValue {
            separator: "::".to_owned(),
        });
        let record = parser
            .record(Bytes::from_static(b"a::b::c\r"))
            .expect("there is a separator");
        assert_eq!(
            (record.key.as_deref(), record.value.as_deref()),
            (Some(b"a".as_slice()), Some(b"b::c\r".as_slice()))
        );
        let empty = parser.record(Bytes::from_static(b"::")).expect("there is a separator");
        assert_eq!(
            (empty.key.as_deref(), empty.value.as_deref()),
            (Some(b"".as_slice()), Some(b"".as_slice()))
        );
        assert!(
            parser
                .record(Bytes::from_static(b"a:b"))
                .expect_err("there is none")
                .contains("no key separator \"::\"")
        );
    }

    #[test]
    fn without_a_separator_a_line_is_the_value() {
        let record = parser(Form::Value)
            .record(Bytes::from_static(b"\xff\r"))
            .expect("every line is a value");
        assert_eq!(
            (record.key, record.value.as_deref()),
            (None, Some(b"\xff\r".as_slice()))
        );
        let empty = parser(Form::Value).record(Bytes::new()).expect("every line is a value");
        assert_eq!(empty.value.as_deref(), Some(b"".as_slice()));
    }
}
