//! What records are to the checker: names of partitions, and values that no other record of a partition has.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use jangada_check::call::Value;
use jangada_client::{ClientError, ConsumedRecord, Header, Isolation, NewTopic, ProducerRecord};

use crate::play::stage::Stage;
use crate::roles::team::Finding;

/// The header of a record without a value: the name that it has in the history.
pub const NAME: &str = "name";

/// The name of a partition in the history.
pub fn place(topic: &str, partition: u32) -> String {
    format!("{topic}/{partition}")
}

/// Names of values, each once. Clones give names of the same kind.
#[derive(Clone, Debug)]
pub struct Values {
    prefix: Rc<str>,
    next: Rc<Cell<u64>>,
}

impl Values {
    /// Values that begin with this text, which no others of the team do.
    pub fn new(prefix: impl Into<Rc<str>>) -> Self {
        Self {
            prefix: prefix.into(),
            next: Rc::default(),
        }
    }

    /// The next value.
    pub fn next(&self) -> String {
        let number = self.next.get();
        self.next.set(number + 1);
        format!("{}.{number}", self.prefix)
    }
}

/// The value of a record as the history has it: what it holds, or, of a tombstone, the name in its headers.
pub fn value_of(value: Option<&Bytes>, headers: &[Header]) -> Value {
    let text = |bytes: &Bytes| Value(String::from_utf8_lossy(bytes).into_owned());
    match value {
        Some(value) => text(value),
        None => {
            let name = headers.iter().find(|header| header.key == NAME);
            let name = name.and_then(|header| header.value.as_ref());
            name.map_or_else(|| Value::from("a tombstone without a name"), text)
        }
    }
}

/// The value of a record that was read.
pub fn value_read(record: &ConsumedRecord) -> Value {
    value_of(record.value.as_ref(), &record.headers)
}

/// A key as text.
pub fn key_read(key: Option<&Bytes>) -> Option<String> {
    key.map(|key| String::from_utf8_lossy(key).into_owned())
}

/// A record of this value for a partition.
pub fn record(topic: &Rc<str>, partition: u32, value: &str) -> ProducerRecord {
    ProducerRecord::new(&**topic)
        .with_partition(partition)
        .with_value(value.to_owned())
}

/// What the client's isolation is to the checker.
pub fn isolation(of: Isolation) -> jangada_check::call::Isolation {
    match of {
        Isolation::Committed => jangada_check::call::Isolation::Committed,
        Isolation::Uncommitted => jangada_check::call::Isolation::Uncommitted,
    }
}

/// Tells of an error that must never be, whatever faults there are: records are missing or cannot be read.
pub fn watch(stage: &Stage, error: &ClientError) {
    let cause = match error {
        ClientError::TransactionAborted { cause } => cause,
        other => other,
    };
    if matches!(
        cause,
        ClientError::Gap { .. } | ClientError::Corrupt { .. } | ClientError::OutOfOrderSequence(_)
    ) {
        stage.report(format!("a client was told: {cause}"));
    }
}

/// Creates a topic with these settings, and tries until it is there. No fault is on yet.
///
/// # Errors
/// The brokers refuse it.
pub async fn create_topic(
    stage: &Stage,
    name: &str,
    partitions: u32,
    settings: &[(&str, &str)],
) -> Result<(), Finding> {
    let client = stage.connect("maker").await;
    let mut topic = NewTopic::new(name, partitions, stage.replicas());
    topic.if_not_exists = true;
    for (key, value) in settings {
        topic.config.insert((*key).to_owned(), (*value).to_owned());
    }
    loop {
        match client.admin().create_topic(topic.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_retryable() => stage.note(&format!("{name} is not there yet: {error}")),
            Err(error) => return Err(format!("topic {name} cannot be created: {error}")),
        }
    }
}
