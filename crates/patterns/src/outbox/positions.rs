//! How far each relay is: a compacted topic with a record for each outbox, written in the transaction of what was sent.

use jangada_client::{Client, Isolation, NewTopic, OffsetAt, ProducerRecord, Table, TableOptions};

use crate::error::PatternError;

/// The topic that positions are in. It has one partition, and is compacted by key.
pub const POSITIONS_TOPIC: &str = "outbox-positions";

/// Creates the topic of positions, if it is not there.
pub(super) async fn create(client: &Client, topic: &str, replicas: u32) -> Result<(), PatternError> {
    let mut new = NewTopic::new(topic, 1, replicas);
    new.config.insert("cleanup.policy".to_owned(), "compact".to_owned());
    new.if_not_exists = true;
    client.admin().create_topic(new).await?;
    Ok(())
}

/// The record that says how far an outbox is sent.
pub(super) fn record(topic: &str, outbox: &str, up_to: i64) -> ProducerRecord {
    ProducerRecord::new(topic)
        .with_partition(0)
        .with_key(outbox.to_owned())
        .with_value(up_to.to_string())
}

/// The id of the last row of an outbox whose record is sent; 0: none is.
///
/// It counts all that is committed now: it waits until no transaction is open before what the topic has.
///
/// # Errors
/// [`PatternError::Client`]; [`PatternError::Unreadable`] when something else wrote into the topic.
pub async fn position_of(client: &Client, topic: &str, outbox: &str) -> Result<i64, PatternError> {
    // Who reads committed sees an end that lies before an open transaction of another outbox; what is behind that may be ours.
    let end = client
        .list_offsets_as(topic, 0, OffsetAt::Latest, Isolation::Uncommitted)
        .await?;
    let table = Table::open(client, topic, TableOptions::default()).await?;
    table.wait_for(0, end.offset.unwrap_or(0)).await?;
    let Some(value) = table.get(outbox) else { return Ok(0) };
    let text = String::from_utf8_lossy(&value);
    text.parse().map_err(|_| PatternError::Unreadable {
        what: format!("the position of {outbox:?} in topic {topic:?}"),
        why: format!("{text:?} is no number"),
    })
}
