//! `jangada queue send`, `receive`, `consume`, `peek`: lines in and out of queues.

use std::collections::VecDeque;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesOrdered, StreamExt as _};
use jangada_client::{
    ClientError, MessageState, QueueConsumer, QueueConsumerConfig, QueueMessage, QueueProducer, QueueProducerConfig,
    ReceiveOptions, Received, ReceivedMessage, SentMessage, Settled, Settlement,
};
use tokio::signal::ctrl_c;
use tokio::time::Instant;

use super::line_input::LineInput;
use crate::brokers::Brokers;
use crate::cli::{
    QueueConsumeArgs, QueueMessagesCommand, QueueOutput, QueuePeekArgs, QueueReceiveArgs, QueueSendArgs,
    QueueSendFormat,
};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::note::note;
use crate::text::queue_jsonl;

/// Messages that are sent and not answered.
pub(super) const UNANSWERED_MAX: usize = 10_000;
/// Bytes of the output buffer.
const WRITE_BYTES: usize = 256 * 1024;
/// Messages of a partition that one call shows.
const PEEK_MAX: u64 = 1_000;

type Sending = Pin<Box<dyn Future<Output = (u64, std::result::Result<SentMessage, ClientError>)> + Send>>;

/// Runs a command that is about messages.
pub async fn run(brokers: &Brokers, command: QueueMessagesCommand) -> Result<()> {
    match command {
        QueueMessagesCommand::Send(args) => send(brokers, &args).await,
        QueueMessagesCommand::Receive(args) => receive(brokers, &args).await,
        QueueMessagesCommand::Consume(args) => consume(brokers, &args).await,
        QueueMessagesCommand::Peek(args) => peek(brokers, &args).await,
    }
}

/// Sends each line as a message.
async fn send(brokers: &Brokers, args: &QueueSendArgs) -> Result<()> {
    let mut input = LineInput::open(args.file.as_deref(), args.delimiter.as_deref()).await?;
    let client = connect(brokers).await?;
    let producer = client
        .queue_producer(args.queue.as_str(), QueueProducerConfig::default())
        .await?;
    let mut sender = Sender {
        args,
        producer,
        unanswered: FuturesOrdered::new(),
        acknowledged: 0,
        duplicates: 0,
        failure: None,
    };
    let ended = sender.send_lines(&mut input).await;
    sender.answer_all().await;
    let Sender {
        acknowledged,
        duplicates,
        failure,
        ..
    } = sender;
    let because = |error: CliError| error.doing(format_args!("{acknowledged} messages were sent, then"));
    if let Some((line, error)) = failure {
        return Err(because(CliError::from(error).doing(format_args!("line {line}"))));
    }
    ended.map_err(because)?;
    match duplicates {
        0 => note(&format!("{acknowledged} messages were sent")),
        _ => note(&format!(
            "{acknowledged} messages were sent, {duplicates} of them before"
        )),
    }
    Ok(())
}

struct Sender<'a> {
    args: &'a QueueSendArgs,
    producer: QueueProducer,
    unanswered: FuturesOrdered<Sending>,
    acknowledged: u64,
    duplicates: u64,
    /// The first message that was not sent.
    failure: Option<(u64, ClientError)>,
}

impl Sender<'_> {
    /// Sends lines until the input ends, or one was not sent.
    async fn send_lines(&mut self, input: &mut LineInput) -> Result<()> {
        while self.failure.is_none() {
            let Some((number, line)) = input.next().await? else {
                return Ok(());
            };
            let message = message(self.args, number, &line);
            let message = message.map_err(|error| CliError::new(format!("line {number}: {error}")))?;
            let sent = self.producer.enqueue(message).await?;
            self.unanswered.push_back(Box::pin(async move { (number, sent.await) }));
            while self.unanswered.len() >= UNANSWERED_MAX {
                self.answer_one().await;
            }
        }
        Ok(())
    }

    async fn answer_one(&mut self) {
        match self.unanswered.next().await {
            Some((_, Ok(sent))) => {
                self.acknowledged += 1;
                self.duplicates += u64::from(sent.duplicate);
            }
            Some((line, Err(error))) => drop(self.failure.get_or_insert((line, error))),
            None => {}
        }
    }

    async fn answer_all(&mut self) {
        while !self.unanswered.is_empty() {
            self.answer_one().await;
        }
    }
}

fn message(args: &QueueSendArgs, number: u64, line: &Bytes) -> std::result::Result<QueueMessage, String> {
    let mut message = match (args.format, &args.key_separator) {
        (QueueSendFormat::Jsonl, _) => queue_jsonl::read(line)?,
        (QueueSendFormat::Lines, None) => QueueMessage::new(line.clone()),
        (QueueSendFormat::Lines, Some(separator)) => {
            let (key, body) = split(line, separator)?;
            QueueMessage::new(body).with_key(key)
        }
    };
    if let Some(key) = &args.key {
        message = message.with_key(key.clone());
    }
    args.message.apply(number, &mut message)?;
    Ok(message)
}

/// What is before the first separator in a line, and what is behind it.
pub(super) fn split(line: &Bytes, separator: &str) -> std::result::Result<(Bytes, Bytes), String> {
    let found = line
        .windows(separator.len())
        .position(|bytes| bytes == separator.as_bytes());
    let at = found.ok_or_else(|| format!("it has no {separator:?}"))?;
    Ok((line.slice(..at), line.slice(at + separator.len()..)))
}

pub(super) fn print(out: &mut impl Write, output: QueueOutput, message: &ReceivedMessage) -> io::Result<()> {
    match output {
        QueueOutput::Jsonl => queue_jsonl::write(out, message),
        QueueOutput::Lines => {
            out.write_all(message.body.as_deref().unwrap_or_default())?;
            out.write_all(b"\n")
        }
    }
}

/// Receives messages once.
async fn receive(brokers: &Brokers, args: &QueueReceiveArgs) -> Result<()> {
    let client = connect(brokers).await?;
    let queue = client.queue(args.queue.as_str());
    let options = ReceiveOptions {
        messages: args.max,
        wait: args.wait,
        lease: args.lease,
        partition: args.partition,
        ..ReceiveOptions::default()
    };
    let Received {
        messages,
        in_flight_full,
    } = queue.receive_or_why(options).await?;
    if let Some(most) = in_flight_full {
        note_full(most);
    }
    let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock());
    for message in &messages {
        print(&mut out, args.output, message)?;
    }
    out.flush()?;
    if !args.ack || messages.is_empty() {
        return Ok(());
    }
    let items = messages.into_iter().map(|message| (message.token, Settlement::Ack));
    let settled = queue.settle(items.collect()).await?;
    match settled.iter().filter(|settled| **settled == Settled::LeaseLost).count() {
        0 => Ok(()),
        lost => Err(CliError::new(format!(
            "the leases of {lost} messages were over before they were acknowledged: they go out again"
        ))),
    }
}

fn note_full(most: u32) {
    note(&format!(
        "no message came: consumers have {most} already, as many as they may; settle some, or wait until leases run out"
    ));
}

/// Prints messages and acknowledges each of them when it is printed.
async fn consume(brokers: &Brokers, args: &QueueConsumeArgs) -> Result<()> {
    let client = connect(brokers).await?;
    let config = QueueConsumerConfig {
        prefetch: args.prefetch,
        lease: args.lease,
        ..QueueConsumerConfig::default()
    };
    let consumer = client.queue_consumer(args.queue.as_str(), config).await?;
    let until = Until {
        max: args.max,
        idle: args.idle,
        unacknowledged_max: args.prefetch as usize,
    };
    let stop = async { drop(ctrl_c().await) };
    print_all(consumer, until, stop, |out, message| print(out, args.output, message)).await
}

/// When the printing of messages ends.
pub(super) struct Until {
    /// After so many messages.
    pub max: Option<u64>,
    /// When no message has come for so long.
    pub idle: Option<Duration>,
    /// Messages that are printed while their acknowledgements are waited for.
    pub unacknowledged_max: usize,
}

/// Prints messages as they come, and acknowledges each of them when it is printed. Then the consumer is closed.
pub(super) async fn print_all(
    mut consumer: QueueConsumer,
    until: Until,
    stop: impl Future<Output = ()>,
    print: impl Fn(&mut BufWriter<StdoutLock<'static>>, &ReceivedMessage) -> io::Result<()>,
) -> Result<()> {
    tokio::pin!(stop);
    let mut left = until.max.unwrap_or(u64::MAX);
    let mut acknowledging = VecDeque::new();
    let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock());
    let (mut idle_since, mut full) = (Instant::now(), None);
    while left > 0 {
        let idle = async {
            match until.idle {
                Some(idle) => tokio::time::sleep_until(idle_since + idle).await,
                None => std::future::pending().await,
            }
        };
        let full_changed = consumer.in_flight_full_changed();
        let before = std::mem::replace(&mut full, consumer.in_flight_full());
        if let (None, Some(most)) = (before, full) {
            note_full(most);
        }
        let message = tokio::select! {
            biased;
            message = consumer.next() => message,
            () = idle => break,
            () = full_changed => continue,
            () = &mut stop => break,
        };
        idle_since = Instant::now();
        let message = match message {
            Err(error) if error.is_retryable() && until.idle.is_none() => {
                note(&format!("warning: {error}; still trying"));
                continue;
            }
            message => message?,
        };
        print(&mut out, &message)?;
        // Whoever reads the pipe has it before it is acknowledged.
        out.flush()?;
        left -= 1;
        acknowledging.push_back(tokio::spawn(message.ack()));
        while acknowledging.len() > until.unacknowledged_max {
            acknowledged(acknowledging.pop_front()).await?;
        }
    }
    while !acknowledging.is_empty() {
        acknowledged(acknowledging.pop_front()).await?;
    }
    // Without this the messages that came ahead would have failed.
    consumer.close().await;
    Ok(())
}

async fn acknowledged(task: Option<tokio::task::JoinHandle<std::result::Result<(), ClientError>>>) -> Result<()> {
    let Some(task) = task else { return Ok(()) };
    let acknowledged = task
        .await
        .map_err(|error| CliError::new(format!("the task that acknowledges: {error}")))?;
    match acknowledged {
        Err(error @ ClientError::LeaseLost) => {
            note(&format!(
                "warning: a message was printed, and may be again elsewhere: {error}"
            ));
            Ok(())
        }
        acknowledged => Ok(acknowledged?),
    }
}

/// Shows messages without taking them.
async fn peek(brokers: &Brokers, args: &QueuePeekArgs) -> Result<()> {
    let client = connect(brokers).await?;
    let queue = client.queue(args.queue.as_str());
    let partitions = match args.partition {
        Some(partition) => vec![partition],
        None => (0..queue.partitions().await?).collect(),
    };
    let states: Vec<MessageState> = args.state.iter().map(|state| (*state).into()).collect();
    let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock());
    for partition in partitions {
        let (mut left, mut from) = (args.max, 0);
        while left > 0 {
            let limit = u32::try_from(left.min(PEEK_MAX)).unwrap_or(u32::MAX);
            let peeked = queue.peek(partition, from, &states, limit).await?;
            for shown in &peeked.messages {
                match args.output {
                    QueueOutput::Jsonl => queue_jsonl::write_peeked(&mut out, shown)?,
                    QueueOutput::Lines => print(&mut out, args.output, &shown.message)?,
                }
            }
            left -= peeked.messages.len() as u64;
            match peeked.next_offset {
                Some(next) if next > from => from = next,
                _ => break,
            }
        }
    }
    Ok(out.flush()?)
}
