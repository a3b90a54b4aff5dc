//! `jangada produce`: lines in, records out.
//!
//! Reads in large pieces and sends every line at once; the producer's linger gathers lines that arrive together.
//! Records that were sent are remembered until the brokers have answered, in order and bounded, so that the first
//! failure is noticed while lines still arrive and can name its line.

use std::collections::VecDeque;
use std::path::Path;

use bytes::Bytes;
use indicatif::ProgressBar;
use jangada_client::{
    Acks, ClientError, Condition, Delivery, Producer, ProducerConfig, ProducerRecord, RecordMetadata, Transaction,
    TransactionOptions, TransactionOutcome, TransactionalProducer,
};
use jangada_types::limits::BATCH_BYTES_MAX;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::signal::ctrl_c;

use super::produce_parser::Parser;
use crate::brokers::Brokers;
use crate::cli::{ProduceArgs, ProduceFormat};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::note::note;
use crate::progress;
use crate::text::lines::{LineSplitter, LineTooLong};

/// Bytes of the longest line: the largest batch. A topic's limit is mostly lower.
const LINE_BYTES_MAX: usize = BATCH_BYTES_MAX;

/// Bytes of the longest line of JSON: base64 and escapes take more than the bytes that they stand for.
const JSON_LINE_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

/// Bytes of the buffer for one piece of input.
const READ_BYTES: usize = 256 * 1024;

/// Most records that are sent and not answered. The producer bounds their bytes; this bounds their number, as empty
/// records have none.
const UNANSWERED_MAX: usize = 1 << 18;

/// Number of records after which the answers that are there are taken without waiting.
const RECORDS_PER_ANSWER_CHECK: u64 = 1024;

pub async fn run(brokers: &Brokers, args: &ProduceArgs) -> Result<()> {
    let parser = Parser::new(args)?;
    let (source, total) = open(args.file.as_deref()).await?;
    let client = connect(brokers).await?;
    // A topic that does not exist is an error also when there is nothing to write.
    client.topic(args.topic()).await?;
    let acks = Acks::from(args.acks);
    if args.condition().is_some() && acks == Acks::None {
        return Err(CliError::usage("a condition needs an answer: leave out --acks none"));
    }
    let config = ProducerConfig {
        acks,
        idempotent: acks != Acks::None,
        compression: args.compression.into(),
        ..ProducerConfig::default()
    };
    let mut transactional = None;
    let sends = match &args.transactional_id {
        None => Sends::Plain(client.producer(config)?),
        Some(_) if acks == Acks::None => {
            return Err(CliError::usage("a transaction needs answers: leave out --acks none"));
        }
        Some(id) => {
            let options = TransactionOptions {
                timeout: args.transaction_timeout,
                producer: config,
                ..TransactionOptions::default()
            };
            let producer = TransactionalProducer::open(&client, id.as_str(), options).await?;
            Sends::InTransaction(transactional.insert(producer).begin().await?)
        }
    };
    let bar = progress::bytes(total, "sent");
    let mut work = Work {
        source,
        splitter: LineSplitter::new(
            match args.format {
                ProduceFormat::Jsonl => JSON_LINE_BYTES_MAX,
                ProduceFormat::Lines => LINE_BYTES_MAX,
            },
            args.delimiter.as_deref().unwrap_or("\n").as_bytes(),
        ),
        parser,
        condition: args.condition(),
        last: None,
        sends,
        unanswered: VecDeque::new(),
        fate: match acks {
            Acks::Quorum => "acknowledged",
            Acks::None => "taken by their leaders, and with --acks none nobody says whether they are kept",
        },
        acknowledged: 0,
        failure: None,
        bar,
    };
    let ended = tokio::select! {
        ended = work.send_all(args.tombstone) => ended,
        _ = ctrl_c() => Err(CliError::new("interrupted")),
    };
    tokio::select! {
        () = work.answer_all() => {}
        _ = ctrl_c() => return Err(CliError::new("interrupted again; what was not acknowledged may be written or not")),
    }
    work.bar.finish_and_clear();
    let (sends, verdict) = work.verdict(ended);
    match end(sends, verdict.is_ok()).await {
        None => verdict,
        Some(ended) => verdict.and(conclude(ended, transactional).await),
    }
}

/// Closes the producer, or commits or aborts the transaction.
async fn end(sends: Sends<'_>, commits: bool) -> Option<std::result::Result<&'static str, ClientError>> {
    let ended = match sends {
        Sends::Plain(producer) => {
            producer.close().await;
            return None;
        }
        Sends::InTransaction(transaction) if commits => {
            transaction.commit().await.map(|_| "the transaction is committed")
        }
        Sends::InTransaction(transaction) => {
            let aborted = transaction.abort().await;
            aborted.map(|()| "the transaction is aborted: nothing of it will be seen")
        }
    };
    Some(ended)
}

/// Says how the transaction ended; asks once more if that is not known.
async fn conclude(
    ended: std::result::Result<&'static str, ClientError>,
    producer: Option<TransactionalProducer>,
) -> Result<()> {
    let sentence = match (ended, producer) {
        (Err(ClientError::TransactionUnknown(_)), Some(mut producer)) => match producer.resolve().await? {
            TransactionOutcome::Committed => "the transaction is committed",
            TransactionOutcome::Aborted => {
                return Err(CliError::new("the transaction was aborted: nothing of it will be seen"));
            }
        },
        (ended, _) => ended?,
    };
    note(sentence);
    Ok(())
}

/// How records are sent.
enum Sends<'p> {
    Plain(Producer),
    InTransaction(Transaction<'p>),
}

impl Sends<'_> {
    async fn send(&self, record: ProducerRecord) -> std::result::Result<Delivery, ClientError> {
        match self {
            Self::Plain(producer) => producer.send(record).await,
            Self::InTransaction(transaction) => transaction.send(record).await,
        }
    }

    async fn send_if(
        &self,
        record: ProducerRecord,
        condition: Condition,
    ) -> std::result::Result<Delivery, ClientError> {
        match self {
            Self::Plain(producer) => producer.send_if(record, condition).await,
            Self::InTransaction(_) => Err(ClientError::Config(
                "a record of a transaction has no condition".to_owned(),
            )),
        }
    }

    async fn flush(&self) {
        match self {
            Self::Plain(producer) => producer.flush().await,
            Self::InTransaction(transaction) => transaction.flush().await,
        }
    }
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

/// The first record that the brokers did not take.
struct Failure {
    line: u64,
    error: ClientError,
}

struct Work<'p> {
    source: Box<dyn AsyncRead + Send + Unpin>,
    splitter: LineSplitter,
    parser: Parser,
    sends: Sends<'p>,
    /// The condition for the next record to be written.
    condition: Option<Condition>,
    /// The metadata of the last record, when there are conditions.
    last: Option<RecordMetadata>,
    /// Records without an answer, in the order in which they were sent.
    unanswered: VecDeque<(u64, Delivery)>,
    /// What an answer says of a record, in words.
    fate: &'static str,
    /// Number of records that were acknowledged.
    acknowledged: u64,
    failure: Option<Failure>,
    bar: ProgressBar,
}

impl<'p> Work<'p> {
    /// Sends the one record without a value, or the input.
    async fn send_all(&mut self, is_tombstone: bool) -> Result<()> {
        match is_tombstone {
            true => self.send_record(1, self.parser.tombstone()).await,
            false => self.pump().await,
        }
    }

    /// Sends line after line until the input ends or something fails.
    async fn pump(&mut self) -> Result<()> {
        loop {
            while self.failure.is_none()
                && let Some(line) = self.splitter.next_line().map_err(too_long)?
            {
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

    /// Waits for input; meanwhile takes answers, so that a failure is noticed while the input is idle. Returns 0 at the
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
        self.send_record(number, record).await
    }

    async fn send_record(&mut self, number: u64, record: ProducerRecord) -> Result<()> {
        if let Some(condition) = self.condition {
            return self.send_if(number, record, condition).await;
        }
        let delivery = self
            .sends
            .send(record)
            .await
            .map_err(|error| CliError::from(error).doing(format_args!("line {number}")))?;
        self.unanswered.push_back((number, delivery));
        if number.is_multiple_of(RECORDS_PER_ANSWER_CHECK) {
            self.take_answers();
        }
        if self.unanswered.len() >= UNANSWERED_MAX {
            let (line, outcome) = first(&mut self.unanswered).await;
            self.unanswered.pop_front();
            self.settle(line, outcome);
        }
        Ok(())
    }

    /// Sends a record with a condition, and waits for the answer: the next one's condition follows from it.
    async fn send_if(&mut self, number: u64, record: ProducerRecord, condition: Condition) -> Result<()> {
        let sent = self.sends.send_if(record, condition).await;
        let delivery = sent.map_err(|error| CliError::from(error).doing(format_args!("line {number}")))?;
        let outcome = delivery.await;
        if let Ok(metadata) = &outcome {
            self.condition = metadata.offset.map(|offset| following(condition, offset));
            self.last = Some(metadata.clone());
        }
        self.settle(number, outcome);
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

    /// Sends the records that are still gathered and waits for all answers.
    async fn answer_all(&mut self) {
        self.sends.flush().await;
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

    /// Succeeds only if all input was read and every record was acknowledged.
    fn verdict(self, ended: Result<()>) -> (Sends<'p>, Result<()>) {
        let Work {
            sends,
            acknowledged,
            fate,
            failure,
            last,
            ..
        } = self;
        (sends, verdict(ended, (acknowledged, fate), failure, last))
    }
}

fn verdict(
    ended: Result<()>,
    (acknowledged, fate): (u64, &'static str),
    failure: Option<Failure>,
    last: Option<RecordMetadata>,
) -> Result<()> {
    let because = |error: CliError| error.doing(format_args!("{acknowledged} records were {fate}, then"));
    if let Some(Failure { line, error }) = failure {
        return Err(because(CliError::from(error).doing(format_args!("line {line}"))));
    }
    ended.map_err(because)?;
    let at = match last {
        Some(RecordMetadata {
            partition,
            offset: Some(offset),
            ..
        }) => format!("; the last one has offset {offset} in partition {partition}"),
        _ => String::new(),
    };
    note(&format!("{acknowledged} records were {fate}{at}"));
    Ok(())
}

/// The condition for the next record when one was written at this offset.
fn following(condition: Condition, offset: i64) -> Condition {
    match condition {
        Condition::EndOffset(_) => Condition::EndOffset(offset + 1),
        Condition::KeyOffset(_) => Condition::KeyOffset(Some(offset)),
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
