//! Snapshots: the streams as they are, in a compacted topic of one partition, so that not the whole log is read at the next start.
//!
//! | key | value |
//! |---|---|
//! | `s/KEY` | the stream of this key, with the offset of its last commit |
//! | `p/PARTITION` | an offset: all commits of the partition below it are in the snapshots |
//!
//! Reading begins at these offsets, and passes over the commits that a stream has already. One process writes at a time, under one
//! transactional id, which fences the one before. It writes all streams that have changed since it began, or since its last round, and
//! then the offsets; so there is never an offset whose streams are older than it says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use jangada_client::{Client, ProducerRecord, Table, TableOptions, TransactionOptions, TransactionalProducer};

use super::aggregate::{Aggregate, Stream};
use super::repository::Repository;
use super::transacted;
use crate::error::PatternError;

/// Streams of one transaction.
const STREAMS_AT_ONCE: usize = 1_000;

/// Writes snapshots of a repository's streams. One process has it beside its repository, and writes now and then: after a crash the log is
/// read from the last round on. All repositories, this process's too, are opened with
/// [`RepositoryOptions::snapshots`](super::RepositoryOptions::snapshots), so that they begin with what is there.
pub struct Snapshots<A> {
    repository: Repository<A>,
    producer: TransactionalProducer,
    topic: Arc<str>,
}

impl<A: Aggregate> Snapshots<A> {
    /// Becomes the one that writes snapshots to this topic, which [`Repository::create`] has made. Whoever was it before is fenced.
    ///
    /// # Errors
    /// What opening a transactional producer may fail with.
    pub async fn open(repository: &Repository<A>, topic: &str) -> Result<Self, PatternError> {
        let client = &repository.shared().client;
        let id = format!("snapshots-of-{topic}");
        let producer = TransactionalProducer::open(client, id, TransactionOptions::default()).await?;
        // What changed before is not known: the first round writes all.
        let mut streams = repository.shared().reader.streams_mut();
        let all: BTreeSet<String> = streams.by_key.keys().cloned().collect();
        streams.changed.get_or_insert_default().extend(all);
        drop(streams);
        Ok(Self {
            repository: repository.clone(),
            producer,
            topic: topic.into(),
        })
    }

    /// Writes the streams that have changed since the last round, and up to where they are read; the first round writes all. Returns how
    /// many streams it were. What fails in between does no harm, and the next round writes it again.
    ///
    /// # Errors
    /// [`ClientError::ProducerFenced`](jangada_client::ClientError::ProducerFenced): another process writes the snapshots now. What a
    /// transaction may fail with.
    pub async fn write(&mut self) -> Result<usize, PatternError> {
        let reader = &self.repository.shared().reader;
        // The positions first: the streams are as new as they are, or newer.
        let positions = reader.positions();
        let changed = reader.streams_mut().changed.replace(BTreeSet::new());
        let changed: Vec<String> = changed.into_iter().flatten().collect();
        let written = self.write_streams(&changed, &positions).await;
        if written.is_err() {
            let mut streams = self.repository.shared().reader.streams_mut();
            streams.changed.get_or_insert_default().extend(changed.iter().cloned());
        }
        written.map(|()| changed.len())
    }

    async fn write_streams(&mut self, changed: &[String], positions: &BTreeMap<u32, i64>) -> Result<(), PatternError> {
        for keys in changed.chunks(STREAMS_AT_ONCE) {
            let records = keys.iter().map(|key| {
                let row = self.repository.read(key, |stream| stream_row(key, stream));
                Ok(self.record(row.map_err(|error| unreadable(&self.topic, key, &error))?))
            });
            let records = records.collect::<Result<_, PatternError>>()?;
            transacted::write(&mut self.producer, records).await?;
        }
        let rows = positions.iter().map(position_row);
        let records = rows.map(|row| self.record(row)).collect();
        transacted::write(&mut self.producer, records).await
    }

    fn record(&self, (key, value): Row) -> ProducerRecord {
        ProducerRecord::new(self.topic.clone()).with_key(key).with_value(value)
    }
}

/// A key of the topic, and its value.
type Row = (String, Vec<u8>);

fn stream_row<A: Aggregate>(key: &str, stream: &Stream<A>) -> Result<Row, serde_json::Error> {
    Ok((format!("s/{key}"), serde_json::to_vec(stream)?))
}

fn position_row((partition, position): (&u32, &i64)) -> Row {
    (format!("p/{partition}"), position.to_string().into_bytes())
}

/// Of each partition the offset at which reading goes on, and the streams by their keys.
type Begin<A> = (BTreeMap<u32, i64>, BTreeMap<String, Stream<A>>);

/// What rows of the topic say. An error names its row.
fn of_rows<A: Aggregate>(rows: impl Iterator<Item = (String, Bytes)>) -> Result<Begin<A>, (String, serde_json::Error)> {
    let mut positions = BTreeMap::new();
    let mut streams = BTreeMap::new();
    for (key, value) in rows {
        let unreadable = |error| (key.clone(), error);
        if let Some(partition) = key.strip_prefix("p/").and_then(|partition| partition.parse().ok()) {
            positions.insert(partition, serde_json::from_slice(&value).map_err(unreadable)?);
        } else if let Some(of) = key.strip_prefix("s/") {
            streams.insert(of.to_owned(), serde_json::from_slice(&value).map_err(unreadable)?);
        }
    }
    Ok((positions, streams))
}

fn unreadable(topic: &str, key: &str, error: &serde_json::Error) -> PatternError {
    PatternError::Unreadable {
        what: format!("the snapshot {key:?} in {topic}"),
        why: error.to_string(),
    }
}

/// The streams of the snapshots, and of each partition the offset at which reading goes on.
pub(super) async fn read<A: Aggregate>(
    client: &Client,
    snapshots: &str,
    topic: &str,
) -> Result<Begin<A>, PatternError> {
    let table = Table::open(client, snapshots, TableOptions::default()).await?;
    let rows = table.iter();
    let rows = rows.map(|(key, value)| (String::from_utf8_lossy(&key).into_owned(), value));
    let (positions, streams) = of_rows(rows).map_err(|(key, error)| unreadable(snapshots, &key, &error))?;
    tracing::debug!(%topic, %snapshots, streams = streams.len(), ?positions, "begins with snapshots");
    Ok((positions, streams))
}

#[cfg(test)]
mod tests;
