//! Polls, ends and seeks of one process, as they are recorded.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_check::call::{Call, Done, Offset, Polled, Record, Reply};
use jangada_client::{Client, ClientError, ConsumedRecord, Consumer, Isolation, OffsetAt, StartAt};
use tokio::time::timeout;

use super::records::{isolation, place, value_read, watch};
use crate::play::stage::Stage;

/// What a topic is called in the history: its name, and behind it which of those that had the name it is.
#[derive(Clone, Debug)]
pub struct Named {
    /// The topic's name.
    pub topic: String,
    /// Empty, or which of the topics of this name: `#2`.
    pub life: String,
}

impl Named {
    /// A topic that keeps its name to itself.
    pub fn once(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            life: String::new(),
        }
    }

    /// The name of a partition in the history.
    pub fn place(&self, partition: u32) -> String {
        place(&format!("{}{}", self.topic, self.life), partition)
    }
}

/// One process that reads partitions which it has chosen.
pub struct Reading {
    /// The stage that it is on.
    pub stage: Stage,
    /// The reader's process in the history.
    pub process: u32,
    /// What it reads.
    pub topic: Named,
    /// What it wants to see.
    pub isolation: Isolation,
    /// The client's consumer, with the same isolation.
    pub consumer: Consumer,
}

impl Reading {
    /// Reads these partitions from now on, instead of those before.
    ///
    /// # Errors
    /// As [`Consumer::assign`]: nothing has changed.
    pub async fn assign(&mut self, partitions: &[(u32, StartAt)]) -> Result<(), ClientError> {
        let places = partitions.iter().map(|(partition, _)| self.topic.place(*partition));
        let call = Call::Assign {
            partitions: places.collect(),
        };
        let wanted = partitions.iter();
        let wanted = wanted.map(|(partition, at)| (self.topic.topic.as_str(), *partition, *at));
        let assigning = self.consumer.assign(wanted.collect());
        match self.stage.until_over(assigning).await {
            Some(assigned) => {
                assigned?;
                // Nothing was handed out in between.
                let pending = self.stage.recorder.invoke(self.process, call);
                pending.ok(Reply::Done(Done {}));
                Ok(())
            }
            None => Err(ClientError::Closed),
        }
    }

    /// Reads one of its partitions from elsewhere.
    ///
    /// # Errors
    /// As [`Consumer::seek`].
    pub async fn seek(&mut self, partition: u32, at: StartAt) -> Result<(), ClientError> {
        let call = Call::Seek {
            partition: self.topic.place(partition),
        };
        let pending = self.stage.recorder.invoke(self.process, call);
        let seeking = self.consumer.seek(&self.topic.topic, partition, at);
        match self.stage.until_over(seeking).await {
            Some(Ok(())) => {
                pending.ok(Reply::Done(Done {}));
                Ok(())
            }
            Some(Err(error)) => {
                pending.fail();
                Err(error)
            }
            None => {
                pending.unknown();
                Err(ClientError::Closed)
            }
        }
    }

    /// The next records; none if none come within a time. None: the stage is over.
    ///
    /// # Errors
    /// As [`Consumer::next_batch`].
    pub async fn poll(&mut self, within: Duration) -> Option<Result<Vec<ConsumedRecord>, ClientError>> {
        let call = Call::Poll {
            isolation: isolation(self.isolation),
            transaction: None,
        };
        let pending = self.stage.recorder.invoke(self.process, call);
        // A poll that is dropped loses nothing.
        let polling = timeout(within, self.consumer.next_batch());
        let polled = self.stage.until_over(polling).await;
        let polled = polled.map(|polled| polled.unwrap_or_else(|_| Ok(Vec::new())));
        match &polled {
            Some(Ok(records)) if !records.is_empty() => pending.ok(reads(records, &self.topic.life)),
            Some(Err(error)) => {
                watch(&self.stage, error);
                pending.fail();
            }
            _ => pending.fail(),
        }
        polled
    }
}

/// The answer to a poll that gave these records of topics of this life.
pub fn reads(records: &[ConsumedRecord], life: &str) -> Reply {
    let mut reads: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for record in records {
        let name = place(&format!("{}{life}", record.topic), record.partition);
        let read = (record.offset, Some(value_read(record)));
        reads.entry(name).or_default().push(read);
    }
    Reply::Polled(Polled { reads })
}

/// Asks where a partition ends. None: nobody answered, or the stage is over.
pub async fn end_of(
    stage: &Stage,
    client: &Client,
    process: u32,
    (topic, partition): (&Named, u32),
    of: Isolation,
) -> Option<i64> {
    let call = Call::EndOffset {
        partition: topic.place(partition),
        isolation: isolation(of),
    };
    let pending = stage.recorder.invoke(process, call);
    let asked = client.list_offsets_as(&topic.topic, partition, OffsetAt::Latest, of);
    match stage.until_over(asked).await {
        Some(Ok(found)) => {
            let offset = found.offset.unwrap_or(0);
            pending.ok(Reply::Offset(Offset { offset }));
            Some(offset)
        }
        _ => {
            pending.fail();
            None
        }
    }
}
