//! `jangada exchange publish` and `tap`: lines into exchanges, and a look at what they get.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::pin::Pin;

use bytes::Bytes;
use futures::stream::{FuturesOrdered, StreamExt as _};
use jangada_client::{
    Admin, Binding, Client, ClientError, ExchangeKind, HeaderMatch, MatchMode, NewQueue, Publication, PublishedPlace,
    Publisher, PublisherConfig, QueueConsumerConfig, QueueMessage, ReceivedMessage,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::exchange::{as_asked, matching};
use super::line_input::LineInput;
use super::queue_messages::{UNANSWERED_MAX, Until, print, print_all, split};
use crate::brokers::Brokers;
use crate::cli::{ExchangeMessagesCommand, MatchArgs, PublishArgs, QueueOutput, QueueSendFormat, TapArgs};
use crate::connect::{connect, connect_to_create};
use crate::errors::{CliError, Result};
use crate::note::note;
use crate::text::queue_jsonl;

/// Unroutable messages of which the lines are told; more are only counted.
const TOLD_MAX: u64 = 20;

/// What a tap's queue is created with: it must not fill a disk, or stop those who publish, when nobody reads what it prints.
const TAP_CONFIG: [(&str, &str); 4] = [
    ("queue.expires.ms", "60000"),
    ("queue.max.messages", "10000"),
    ("queue.overflow", "drop_oldest"),
    ("queue.dead.max", "0"),
];

/// Messages that a tap prints while their acknowledgements are waited for.
const TAP_PREFETCH: u32 = 100;

/// Bytes of an exchange's name that are in the name of its tap's queue.
const TAP_NAME_BYTES_MAX: usize = 200;

type Publishing = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// What became of the message of a line.
struct Answered {
    line: u64,
    routing_key: String,
    result: std::result::Result<Vec<PublishedPlace>, ClientError>,
}

/// Runs a command that is about messages.
pub async fn run(brokers: &Brokers, command: ExchangeMessagesCommand) -> Result<()> {
    match command {
        ExchangeMessagesCommand::Publish(args) => publish(brokers, &args).await,
        ExchangeMessagesCommand::Tap(args) => tap(brokers, &args).await,
    }
}

/// Publishes each line as a message.
async fn publish(brokers: &Brokers, args: &PublishArgs) -> Result<()> {
    let input = match &args.body {
        Some(_) => None,
        None => Some(LineInput::open(args.file.as_deref(), args.delimiter.as_deref()).await?),
    };
    let client = connect(brokers).await?;
    let mut publishing = Lines {
        args,
        publisher: client.publisher(PublisherConfig::default())?,
        unanswered: FuturesOrdered::new(),
        tally: Tally::default(),
    };
    let ended = match input {
        Some(input) => publishing.publish_lines(input).await,
        None => {
            let body = Bytes::from(args.body.clone().unwrap_or_default());
            publishing.publish(1, &body).await
        }
    };
    let mut tally = publishing.answer_all().await;
    let because = |error: CliError| error.doing(format_args!("{} messages were published, then", tally.published));
    if let Some((line, error)) = tally.failure.take() {
        return Err(because(CliError::from(error).doing(format_args!("line {line}"))));
    }
    ended.map_err(because)?;
    if tally.unroutable > 0 && args.mandatory {
        let unroutable = ClientError::Unroutable {
            exchange: args.name.as_str().into(),
            routing_key: tally.first_unroutable.into(),
        };
        let message = format!(
            "{} messages were published, {} are unroutable",
            tally.published, tally.unroutable
        );
        return Err(CliError::from(unroutable).doing(message));
    }
    let json = json!({
        "published": tally.published,
        "unroutable": tally.unroutable,
        "duplicates": tally.duplicates,
        "queues": tally.queues,
    });
    args.output.done(&tally.sentence(), json)
}

/// What became of all messages so far.
#[derive(Default)]
struct Tally {
    /// Messages that are in all of their queues, at least in one.
    published: u64,
    /// Messages that no queue is bound for.
    unroutable: u64,
    /// The routing key of the first of these.
    first_unroutable: String,
    /// Copies that a queue had before.
    duplicates: u64,
    /// Copies by queue.
    queues: BTreeMap<String, u64>,
    /// The first message that was not published, or of which that is not known.
    failure: Option<(u64, ClientError)>,
}

impl Tally {
    fn count(&mut self, answered: Answered, is_mandatory: bool) {
        let Answered {
            line,
            routing_key,
            result,
        } = answered;
        match result {
            Ok(places) if !places.is_empty() => {
                self.published += 1;
                for place in places {
                    self.duplicates += u64::from(place.sent.duplicate);
                    let at = match place.queue.is_empty() {
                        true => format!("log of {}", place.exchange),
                        false => place.queue,
                    };
                    *self.queues.entry(at).or_default() += 1;
                }
            }
            Ok(_) | Err(ClientError::Unroutable { .. }) => {
                if self.unroutable < TOLD_MAX {
                    let became = if is_mandatory { "refused" } else { "dropped" };
                    note(&format!(
                        "line {line}: no queue is bound for routing key {routing_key:?}; the message was {became}"
                    ));
                }
                if self.unroutable == 0 {
                    self.first_unroutable = routing_key;
                }
                self.unroutable += 1;
            }
            Err(error) => drop(self.failure.get_or_insert((line, error))),
        }
    }

    fn sentence(&self) -> String {
        let mut sentence = format!("{} messages were published", self.published);
        let queues = self.queues.iter().map(|(queue, count)| format!("{queue} {count}"));
        let queues: Vec<String> = queues.collect();
        if !queues.is_empty() {
            sentence += &format!(": {}", queues.join(", "));
        }
        if self.duplicates > 0 {
            sentence += &format!("; {} of the copies were there before", self.duplicates);
        }
        if self.unroutable > 0 {
            sentence += &format!("; {} were unroutable and dropped", self.unroutable);
        }
        sentence
    }
}

/// The lines of an input on their way.
struct Lines<'a> {
    args: &'a PublishArgs,
    publisher: Publisher,
    unanswered: FuturesOrdered<Publishing>,
    tally: Tally,
}

impl Lines<'_> {
    /// Publishes lines until the input ends, or one was not published.
    async fn publish_lines(&mut self, mut input: LineInput) -> Result<()> {
        while self.tally.failure.is_none() {
            // Whoever types lines hears of each what became of it.
            let line = tokio::select! {
                biased;
                Some(answered) = self.unanswered.next() => {
                    self.tally.count(answered, self.args.mandatory);
                    continue;
                }
                line = input.next(), if self.unanswered.len() < UNANSWERED_MAX => line?,
            };
            let Some((number, line)) = line else {
                return Ok(());
            };
            self.publish(number, &line).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, number: u64, line: &Bytes) -> Result<()> {
        let publication = publication(self.args, number, line);
        let publication = publication.map_err(|error| CliError::new(format!("line {number}: {error}")))?;
        let routing_key = publication.routing_key.clone();
        let published = self.publisher.enqueue(publication).await?;
        self.unanswered.push_back(Box::pin(async move {
            Answered {
                line: number,
                routing_key,
                result: published.await,
            }
        }));
        Ok(())
    }

    async fn answer_all(mut self) -> Tally {
        while let Some(answered) = self.unanswered.next().await {
            self.tally.count(answered, self.args.mandatory);
        }
        self.tally
    }
}

/// The message of a line.
fn publication(args: &PublishArgs, number: u64, line: &Bytes) -> std::result::Result<Publication, String> {
    let (routing_key, mut message) = match (args.format, &args.key_separator) {
        (QueueSendFormat::Jsonl, _) => queue_jsonl::read_routed(line)?,
        (QueueSendFormat::Lines, None) => (None, QueueMessage::new(line.clone())),
        (QueueSendFormat::Lines, Some(separator)) => {
            let (key, body) = split(line, separator)?;
            let key = String::from_utf8(key.to_vec()).map_err(|_| "its routing key is not UTF-8".to_owned())?;
            (Some(key), QueueMessage::new(body))
        }
    };
    if let Some(key) = &args.message_key {
        message = message.with_key(key.clone());
    }
    args.message.apply(number, &mut message)?;
    let routing_key = args.key.clone().or(routing_key).unwrap_or_default();
    Ok(Publication {
        is_mandatory: args.mandatory,
        order_key: args.order_key.clone().map(Bytes::from).filter(|key| !key.is_empty()),
        ..Publication::new(args.name.as_str(), routing_key, message)
    })
}

/// Prints what an exchange gets, by a queue of its own.
async fn tap(brokers: &Brokers, args: &TapArgs) -> Result<()> {
    // From here on the queue is deleted whichever of these ends the tap.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let client = connect_to_create(brokers).await?;
    let admin = client.admin();
    let kind = admin.describe_exchange(&args.name).await?.exchange.kind;
    let tap = Tap {
        args,
        queue: tap_name(&args.name),
        matching: tapped(&args.matching, kind)?,
    };
    let queue = NewQueue {
        config: TAP_CONFIG.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..NewQueue::new(tap.queue.as_str(), 1, 0)
    };
    admin.create_queue(queue).await?;
    let printed = tap.print(&client, &admin, stop).await;
    let deleted = admin.delete_queue(&tap.queue).await;
    printed?;
    let deleted = deleted.map_err(CliError::from);
    deleted
        .map(drop)
        .map_err(|error| error.hint("it is deleted by itself when it was not used for a minute"))
}

/// A look at what an exchange gets.
struct Tap<'a> {
    args: &'a TapArgs,
    queue: String,
    /// What the queue is bound by.
    matching: Vec<Binding>,
}

impl Tap<'_> {
    async fn print(&self, client: &Client, admin: &Admin, stop: impl Future<Output = ()>) -> Result<()> {
        let config = QueueConsumerConfig {
            prefetch: TAP_PREFETCH,
            ..QueueConsumerConfig::default()
        };
        let consumer = client.queue_consumer(self.queue.as_str(), config).await?;
        let to_queue = |asked| as_asked(Binding::to_queue(self.queue.as_str()), asked);
        admin
            .bind(&self.args.name, self.matching.iter().map(to_queue).collect())
            .await?;
        note(&format!(
            "tapping exchange {} by queue {}, until ctrl-c",
            self.args.name, self.queue
        ));
        let until = Until {
            max: self.args.max,
            idle: self.args.idle,
            unacknowledged_max: TAP_PREFETCH as usize,
        };
        let output = self.args.output;
        print_all(consumer, until, stop, |out, message| print_tapped(out, output, message)).await
    }
}

fn print_tapped(out: &mut impl Write, output: QueueOutput, message: &ReceivedMessage) -> io::Result<()> {
    if output == QueueOutput::Lines {
        out.write_all(queue_jsonl::routing_key(message).unwrap_or_default())?;
        out.write_all(b"\t")?;
    }
    print(out, output, message)
}

/// The name of a queue for a tap, one of its own.
fn tap_name(exchange: &str) -> String {
    // Names of exchanges are ASCII; another one is refused by the broker before.
    let exchange: String = exchange.chars().take(TAP_NAME_BYTES_MAX).collect();
    format!("tap-{exchange}-{:016x}", rand::random::<u64>())
}

/// What a tap's queue is bound by, to nowhere as yet: what was asked for, or all messages.
fn tapped(args: &MatchArgs, kind: ExchangeKind) -> Result<Vec<Binding>> {
    let mut asked = matching(args)?;
    match kind {
        ExchangeKind::Direct if args.key.is_empty() => {
            let message = "a direct exchange has no pattern for all messages: say which keys with --key";
            Err(CliError::usage(message).hint("`jangada exchange describe NAME` shows which keys others are bound by"))
        }
        ExchangeKind::Topic if args.key.is_empty() => {
            for binding in &mut asked {
                binding.routing_key = "#".to_owned();
            }
            Ok(asked)
        }
        ExchangeKind::Headers => {
            for binding in &mut asked {
                binding.headers.get_or_insert_with(|| HeaderMatch::new(MatchMode::All));
            }
            Ok(asked)
        }
        ExchangeKind::Direct | ExchangeKind::Topic | ExchangeKind::Fanout => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use jangada_client::{MessagePlace, SentMessage};

    use super::*;
    use crate::cli::{Cli, Command, ExchangeCommand};

    fn message_of(line: &[&str], number: u64, input: &'static [u8]) -> std::result::Result<Publication, String> {
        let words = ["jangada", "exchange", "publish", "e"].iter().chain(line);
        let cli: Cli = clap::Parser::try_parse_from(words).expect("it is right");
        match cli.command {
            Command::Exchange(ExchangeCommand::Messages(ExchangeMessagesCommand::Publish(args))) => {
                publication(&args, number, &Bytes::from_static(input))
            }
            _ => panic!("it publishes"),
        }
    }

    #[test]
    fn a_line_is_a_body_or_has_its_routing_key() {
        let plain = message_of(&["-k", "a.b", "--mandatory"], 1, b"x y").expect("a message");
        let expected = Publication::new("e", "a.b", QueueMessage::new("x y")).mandatory();
        assert_eq!(plain, expected);
        let keyed = message_of(&["-K", " ", "--order-key", "o"], 1, b"a.b x y").expect("a message");
        let expected = Publication::new("e", "a.b", QueueMessage::new("x y")).with_order_key("o");
        assert_eq!(keyed, expected);
        message_of(&["-K", ":"], 1, b"a.b x y").expect_err("it has no separator");
        message_of(&["-K", ":"], 1, b"\xff:x").expect_err("its key is not UTF-8");
        let line = br#"{"body":"x","routing_key":"a.b","exchange":"other"}"#;
        let json = message_of(&["--format", "jsonl"], 1, line).expect("a message");
        assert_eq!(json, Publication::new("e", "a.b", QueueMessage::new("x")));
        let json = message_of(&["--format", "jsonl", "-k", "c"], 1, line).expect("a message");
        assert_eq!(json.routing_key, "c");
        message_of(&["--message-id", "i"], 2, b"x").expect_err("the id is of one message");
    }

    #[test]
    fn a_tap_gets_all_messages_if_nothing_is_asked_for() {
        let keys = |args: &MatchArgs, kind| {
            let bindings = tapped(args, kind).expect("it is right").into_iter();
            bindings.map(|binding| binding.routing_key).collect::<Vec<_>>()
        };
        let all = MatchArgs::default();
        assert_eq!(keys(&all, ExchangeKind::Topic), ["#"]);
        assert_eq!(keys(&all, ExchangeKind::Fanout), [""]);
        assert!(tapped(&all, ExchangeKind::Direct).expect_err("no key").is_usage());
        let headers = tapped(&all, ExchangeKind::Headers).expect("it is right");
        assert_eq!(headers[0].headers, Some(HeaderMatch::new(MatchMode::All)));
        let some = MatchArgs {
            key: vec!["a".to_owned(), "b.*".to_owned()],
            ..MatchArgs::default()
        };
        assert_eq!(keys(&some, ExchangeKind::Direct), ["a", "b.*"]);
        assert_eq!(keys(&some, ExchangeKind::Topic), ["a", "b.*"]);
    }

    #[test]
    fn the_name_of_a_taps_queue_is_short_enough() {
        let name = tap_name(&"e".repeat(249));
        assert!(name.len() <= 249 && name.starts_with("tap-e"), "{name}");
        assert_ne!(tap_name("e"), tap_name("e"));
    }

    #[test]
    fn what_became_of_messages_is_told_in_a_sentence() {
        let mut tally = Tally::default();
        let place = |queue: &str, duplicate| PublishedPlace {
            queue: queue.to_owned(),
            exchange: String::new(),
            sent: SentMessage {
                place: MessagePlace {
                    partition: 0,
                    offset: 7,
                },
                duplicate,
            },
        };
        let mut count = |line, result| {
            let routing_key = format!("key-{line}");
            tally.count(
                Answered {
                    line,
                    routing_key,
                    result,
                },
                false,
            );
        };
        count(1, Ok(vec![place("b", false), place("a", true)]));
        count(2, Ok(vec![place("b", false)]));
        count(3, Ok(Vec::new()));
        let expected =
            "2 messages were published: a 1, b 2; 1 of the copies were there before; 1 were unroutable and dropped";
        assert_eq!(tally.sentence(), expected);
        assert_eq!(tally.first_unroutable, "key-3");
    }
}
