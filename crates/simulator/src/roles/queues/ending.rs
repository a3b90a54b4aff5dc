//! The end of a scenario: queues are drained within a bound, and what they have then is noted for the checker.

use std::fmt::Write as _;
use std::time::Duration;

use jangada_check::note::{Counts, Dump, Final, Held, MessageState as Noted, Note};
use jangada_client::{
    Client, ClientError, Consumer, ConsumerConfig, Isolation, MessageState, OffsetAt, PeekedMessage, Queue,
    QueueCounts, ReceiveOptions, ReceivedMessage, Settlement, StartAt,
};
use tokio::time::{sleep, timeout};

use super::caller::{Caller, text, value_of};
use crate::play::stage::Stage;
use crate::roles::team::Finding;

/// All faults are over: queues are to be empty within this time. Leases, waits, and delays are a few seconds; dead letters that did not
/// arrive are tried again after a minute.
const DRAINED_MAX: Duration = Duration::from_secs(100);
/// Contents are to stand still, and leaders to answer, within this time.
const STILL_MAX: Duration = Duration::from_secs(20);
/// A topic is to be read to its end within this time.
const READ_MAX: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(150);
/// Messages that are received, and shown, at once.
const AT_ONCE: u32 = 200;
/// Messages that are named of a queue that is not drained.
const NAMED_MAX: usize = 12;

/// A queue at the end.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub queue: String,
    pub partitions: u32,
    /// Its dead letters go elsewhere; otherwise they stay.
    pub forwards: bool,
}

impl Ending {
    /// A queue whose dead letters stay.
    pub fn new(queue: &str, partitions: u32) -> Self {
        Self {
            queue: queue.to_owned(),
            partitions,
            forwards: false,
        }
    }
}

/// What all partitions have together; none: a leader does not answer.
async fn counts(client: &Client, of: &Ending) -> Result<Option<QueueCounts>, ClientError> {
    let described = client.admin().describe_queue(&of.queue).await?;
    if described.partitions.len() != of.partitions as usize {
        return Ok(None);
    }
    let mut all = QueueCounts::default();
    for depth in described.partitions {
        let Some(counts) = depth.counts else { return Ok(None) };
        all.ready += counts.ready;
        all.delayed += counts.delayed;
        all.leased += counts.leased;
        all.waiting += counts.waiting;
        all.dead += counts.dead;
    }
    Ok(Some(all))
}

fn is_empty(of: &Ending, counts: &QueueCounts) -> bool {
    let dead = if of.forwards { counts.dead } else { 0 };
    counts.ready + counts.delayed + counts.leased + counts.waiting + dead == 0
}

/// Acknowledges all that the queues have, one after another as their letters go. `came` hears of each message.
///
/// # Errors
/// Something is left after the bound: what, in which state, and where.
pub(crate) async fn drain(
    stage: &Stage,
    caller: &Caller,
    queues: &[Ending],
    mut came: impl FnMut(&Ending, &ReceivedMessage),
) -> Result<(), Finding> {
    let until = stage.sim.now() + DRAINED_MAX;
    for of in queues {
        stage.step(format!("drains {}", of.queue));
        let queue = caller.client.queue(of.queue.as_str());
        loop {
            let options = ReceiveOptions {
                messages: AT_ONCE,
                lease: Some(Duration::from_secs(10)),
                ..ReceiveOptions::default()
            };
            let messages = caller.receive(&queue, options).await;
            messages.iter().for_each(|message| came(of, message));
            caller.settle_all(&queue, &messages, &Settlement::Ack).await;
            if messages.is_empty() {
                match counts(&caller.client, of).await {
                    Ok(Some(counts)) if is_empty(of, &counts) => break,
                    Ok(_) => sleep(LOOK).await,
                    Err(error) => stage.note(&format!("{} is not described: {error}", of.queue)),
                }
            }
            if stage.sim.now() > until {
                let left = what_is_left(stage, &caller.client, of).await;
                return Err(format!("{} is not drained after {DRAINED_MAX:?}: {left}", of.queue));
            }
        }
    }
    Ok(())
}

/// What a queue has still: partition by partition, with its leader and its counts, and the first messages.
async fn what_is_left(stage: &Stage, client: &Client, of: &Ending) -> String {
    let mut left = String::new();
    let now_ms = stage.cluster.client_host(&stage.named("looks")).env().clock.now_ms();
    let described = client.admin().describe_queue(&of.queue).await;
    let leaders = client.admin().describe_partitions(None).await.unwrap_or_default();
    let queue = client.queue(of.queue.as_str());
    for partition in 0..of.partitions {
        let found = leaders
            .iter()
            .find(|known| known.topic == of.queue && known.partition == partition);
        let leader = found
            .and_then(|known| known.leader_id)
            .map_or("?".to_owned(), |leader| leader.to_string());
        let depth = match &described {
            Ok(described) => described.partitions.iter().find(|depth| depth.partition == partition),
            Err(_) => None,
        };
        let counts = match depth.and_then(|depth| depth.counts.as_ref()) {
            Some(counts) => format!(
                "{} ready, {} delayed, {} leased, {} waiting, {} dead, {} consumers, breaker since {:?}, letters stuck since {:?}",
                counts.ready,
                counts.delayed,
                counts.leased,
                counts.waiting,
                counts.dead,
                counts.consumers,
                counts.tripped_since_ms,
                counts.dead_stuck_since_ms,
            ),
            None => format!("no answer ({:?})", described.as_ref().err().map(ToString::to_string)),
        };
        let _ = write!(left, "\n  partition {partition} on broker {leader}: {counts}");
        match queue.peek(partition, 0, &[], AT_ONCE).await {
            Ok(peeked) => {
                for shown in peeked.messages.iter().take(NAMED_MAX) {
                    let _ = write!(left, "\n    {}", shown_as(shown, now_ms));
                }
            }
            Err(error) => drop(write!(left, "\n    it is not shown: {error}")),
        }
    }
    left
}

fn shown_as(shown: &PeekedMessage, now_ms: i64) -> String {
    let until = shown.until_ms.and_then(|until| i64::try_from(until).ok());
    let until = until.map_or_else(String::new, |until| format!(" for {} ms more", until - now_ms));
    let message = &shown.message;
    format!(
        "offset {}: {:?} {}{until}, {} deliveries, {} failures, {}{}",
        message.place.offset,
        value_of(message),
        shown.state.as_str(),
        message.deliveries,
        message.failures,
        shown.reason.as_deref().unwrap_or("not dead"),
        shown.damage.as_deref().unwrap_or_default(),
    )
}

async fn peeked(queue: &Queue, of: &Ending) -> Result<Vec<Held>, ClientError> {
    let mut held = Vec::new();
    for partition in 0..of.partitions {
        let mut from = 0;
        loop {
            let peeked = queue.peek(partition, from, &[], AT_ONCE).await?;
            held.extend(peeked.messages.iter().map(|shown| Held {
                value: value_of(&shown.message).as_str().into(),
                state: match shown.state {
                    MessageState::Ready => Noted::Ready,
                    MessageState::Leased => Noted::Leased,
                    MessageState::Waiting => Noted::Waiting,
                    MessageState::Dead | MessageState::Moving => Noted::Dead,
                },
                partition,
                offset: shown.message.place.offset,
                failures: shown.message.failures,
            }));
            match peeked.next_offset {
                Some(next) => from = next,
                None => break,
            }
        }
    }
    Ok(held)
}

/// Notes what a queue has, as its leaders show and count it. Both are asked until they do not change meanwhile.
///
/// # Errors
/// They do not answer, or do not stand still, within the bound.
pub(crate) async fn dump(stage: &Stage, client: &Client, of: &Ending) -> Result<(), Finding> {
    stage.step(format!("dumps {}", of.queue));
    let until = stage.sim.now() + STILL_MAX;
    let queue = client.queue(of.queue.as_str());
    loop {
        let is_last = stage.sim.now() > until;
        let why = match dump_once(stage, client, (&queue, of), is_last).await {
            Ok(true) => return Ok(()),
            Ok(false) => "its counts change, or a leader does not answer".to_owned(),
            Err(error) => error.to_string(),
        };
        if is_last {
            return Err(format!(
                "the contents of {} are not shown after {STILL_MAX:?}: {why}",
                of.queue
            ));
        }
        sleep(LOOK).await;
    }
}

/// `is_last`: what is counted and what is shown differ all the time, and the checker is to say so.
async fn dump_once(
    stage: &Stage,
    client: &Client,
    (queue, of): (&Queue, &Ending),
    is_last: bool,
) -> Result<bool, ClientError> {
    let numbers = |counts: &QueueCounts| Counts {
        ready: counts.ready + counts.delayed,
        leased: counts.leased,
        waiting: counts.waiting,
        dead: counts.dead,
    };
    let before = counts(client, of).await?.as_ref().map(numbers);
    let messages = peeked(queue, of).await?;
    let after = counts(client, of).await?.as_ref().map(numbers);
    let Some(told) = after.filter(|after| before == Some(*after)) else {
        return Ok(false);
    };
    let told_all = told.ready + told.leased + told.waiting + told.dead;
    if told_all != messages.len() as u64 && !is_last {
        return Ok(false);
    }
    stage.recorder.note(
        None,
        Note::Dump(Dump {
            queue: of.queue.clone(),
            messages,
            counts: after,
            complete: true,
            ..Dump::default()
        }),
    );
    Ok(true)
}

/// Reads a topic to its end as a reader of committed records does, notes it for the checker, and returns the values by partition.
///
/// # Errors
/// It cannot be read to its end within the bound.
pub(crate) async fn read(
    stage: &Stage,
    client: &Client,
    topic: &str,
    partitions: u32,
) -> Result<Vec<Vec<String>>, Finding> {
    stage.step(format!("reads {topic}"));
    let until = stage.sim.now() + READ_MAX;
    loop {
        let why = match timeout(READ_MAX, read_once(client, topic, partitions)).await {
            Ok(Ok(read)) if read.iter().any(|part| part.noted.stable < Some(part.noted.end)) => {
                "a transaction is open still".to_owned()
            }
            Ok(Ok(read)) => {
                let values = read.iter().map(|part| part.values.clone()).collect();
                for part in read {
                    stage.recorder.note(None, Note::Final(part.noted));
                }
                return Ok(values);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not come to the end".to_owned(),
        };
        if stage.sim.now() > until {
            return Err(format!(
                "topic {topic} is not read to its end after {READ_MAX:?}: {why}"
            ));
        }
        sleep(LOOK).await;
    }
}

/// A partition that was read.
struct Part {
    noted: Final,
    values: Vec<String>,
}

async fn read_once(client: &Client, topic: &str, partitions: u32) -> Result<Vec<Part>, ClientError> {
    let mut consumer: Consumer = client.consumer(ConsumerConfig::default())?;
    consumer.assign_topic(topic, StartAt::Earliest).await?;
    let ends = consumer.end_offsets().await?;
    let mut parts: Vec<Part> = (0..partitions)
        .map(|partition| Part {
            noted: Final {
                partition: format!("{topic}/{partition}"),
                complete: true,
                ..Final::default()
            },
            values: Vec::new(),
        })
        .collect();
    while !consumer.reached(&ends) {
        for record in consumer.next_batch().await? {
            let part = &mut parts[record.partition as usize];
            let value = text(record.value.as_deref());
            part.noted.records.push((record.offset, Some(value.as_str().into())));
            part.values.push(value);
        }
    }
    for (_, partition, stable) in ends.iter() {
        let latest = client.list_offsets_as(topic, partition, OffsetAt::Latest, Isolation::Uncommitted);
        let noted = &mut parts[partition as usize].noted;
        noted.stable = Some(stable);
        noted.end = latest.await?.offset.unwrap_or(stable);
    }
    Ok(parts)
}
