//! A producer that writes all the time, and the judgement of what became of its records.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use jangada_client::{ClientError, Producer};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::world::{Read, WITHIN, World, producer, record};

/// What became of the records of one writer.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// All, in the order in which they were sent.
    pub sent: Vec<String>,
    /// Values that were acknowledged, by offset.
    pub acked: BTreeMap<i64, String>,
    /// Those that were refused, and never come.
    pub failed: Vec<String>,
    /// Those of which it is not known.
    pub unknown: Vec<String>,
}

impl Written {
    fn settled(&self) -> usize {
        self.acked.len() + self.failed.len() + self.unknown.len()
    }
}

/// An idempotent producer that writes to the first partition of a topic until it is told to stop.
pub(super) struct Writer {
    is_over: Rc<Cell<bool>>,
    written: Rc<RefCell<Written>>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Begins to write a record each 10 ms. Its values begin with `name`.
    pub async fn start(world: &World, name: &str, topic: &str) -> Self {
        let client = world.client(name).await;
        let (is_over, written) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Written::default())));
        let task = write(
            producer(&client),
            name.to_owned(),
            topic.to_owned(),
            is_over.clone(),
            written.clone(),
        );
        Self {
            is_over,
            written,
            task: spawn_local(task),
        }
    }

    /// How many records were acknowledged so far.
    pub fn acked(&self) -> usize {
        self.written.borrow().acked.len()
    }

    /// Waits until so many more are acknowledged. Panics when that takes longer than `within`.
    pub async fn goes_on(&self, more: usize, within: Duration) {
        let (before, failed) = (self.acked(), self.written.borrow().failed.len());
        let went_on = timeout(within, async {
            while self.acked() < before + more {
                sleep(Duration::from_millis(10)).await;
            }
        });
        if went_on.await.is_err() {
            let acked = self.acked() - before;
            let refused = self.written.borrow().failed.len() - failed;
            panic!("{acked} records and not {more} are acknowledged within {within:?}, {refused} are refused");
        }
    }

    /// Stops, and waits until it is known what became of all records.
    pub async fn finish(self) -> Written {
        self.is_over.set(true);
        self.task.await.expect("the writer does not panic");
        let settled = timeout(2 * WITHIN, async {
            while self.written.borrow().settled() < self.written.borrow().sent.len() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        settled.await.expect("each record has an outcome");
        self.written.borrow().clone()
    }
}

async fn write(
    producer: Producer,
    name: String,
    topic: String,
    is_over: Rc<Cell<bool>>,
    written: Rc<RefCell<Written>>,
) {
    let mut number = 0;
    while !is_over.get() {
        let value = format!("{name}-{number}");
        number += 1;
        written.borrow_mut().sent.push(value.clone());
        let delivery = match producer.send(record(&topic, &value)).await {
            Ok(delivery) => delivery,
            Err(error) => {
                note(&written, value, Err(error));
                continue;
            }
        };
        let written = written.clone();
        spawn_local(async move {
            let delivered = delivery
                .await
                .map(|delivered| delivered.offset.expect("it is acknowledged"));
            note(&written, value, delivered);
        });
        sleep(Duration::from_millis(10)).await;
    }
    producer.close().await;
}

fn note(written: &RefCell<Written>, value: String, outcome: Result<i64, ClientError>) {
    let mut written = written.borrow_mut();
    match outcome {
        Ok(offset) => {
            let before = written.acked.insert(offset, value.clone());
            assert_eq!(
                before, None,
                "offset {offset} was told of two records, the other one is {value}"
            );
        }
        Err(ClientError::OutOfOrderSequence(lost)) => panic!("acknowledged records are lost: {lost}"),
        Err(error) if error.is_definite() => written.failed.push(value),
        Err(_) => written.unknown.push(value),
    }
}

/// A log without transactions that is read whole is dense, has each value once, those of each writer in their order, those that were
/// acknowledged at their offsets, and none that was refused.
pub(super) fn judge(read: &Read, writers: &[Written]) {
    for (expected, (offset, value)) in (0..).zip(read) {
        assert_eq!(
            *offset, expected,
            "{value} is at another offset: there is a gap before it"
        );
    }
    let places: BTreeMap<&str, i64> = read.iter().map(|(offset, value)| (value.as_str(), *offset)).collect();
    if places.len() < read.len() {
        let mut seen = BTreeSet::new();
        let twice = read.iter().find(|(_, value)| !seen.insert(value));
        panic!("a value is there twice: {twice:?}");
    }
    for written in writers {
        for (offset, value) in &written.acked {
            let found = places.get(value.as_str());
            assert_eq!(
                found,
                Some(offset),
                "{value} was acknowledged at {offset}, and there are {} records",
                read.len()
            );
        }
        for value in &written.failed {
            assert!(
                !places.contains_key(value.as_str()),
                "{value} was refused, and is there"
            );
        }
        let in_order: Vec<i64> = written
            .sent
            .iter()
            .filter_map(|value| places.get(value.as_str()).copied())
            .collect();
        assert!(in_order.is_sorted(), "the records of a writer are not in their order");
    }
    let sent: BTreeSet<&str> = writers
        .iter()
        .flat_map(|written| &written.sent)
        .map(String::as_str)
        .collect();
    let invented = read.iter().find(|(_, value)| !sent.contains(value.as_str()));
    assert_eq!(invented, None, "a value is there that nobody sent");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hours::world::at;

    fn written(acked: &[(i64, &str)], others: &[&str]) -> Written {
        let values = acked.iter().map(|(_, value)| (*value).to_owned());
        Written {
            sent: values.chain(others.iter().map(|value| (*value).to_owned())).collect(),
            acked: acked
                .iter()
                .map(|(offset, value)| (*offset, (*value).to_owned()))
                .collect(),
            ..Written::default()
        }
    }

    #[test]
    fn a_log_as_it_must_be_is_taken() {
        judge(&at(0, ["a", "b", "c"]), &[written(&[(0, "a"), (1, "b")], &["c", "d"])]);
    }

    #[test]
    #[should_panic(expected = "b was acknowledged at 1")]
    fn a_lost_record_is_found() {
        judge(&at(0, ["a"]), &[written(&[(0, "a"), (1, "b")], &[])]);
    }

    #[test]
    #[should_panic(expected = "there twice")]
    fn a_record_that_is_there_twice_is_found() {
        judge(&at(0, ["a", "a"]), &[written(&[(0, "a")], &[])]);
    }

    #[test]
    #[should_panic(expected = "not in their order")]
    fn records_in_another_order_are_found() {
        judge(&at(0, ["b", "a"]), &[written(&[], &["a", "b"])]);
    }

    #[test]
    #[should_panic(expected = "nobody sent")]
    fn an_invented_record_is_found() {
        judge(&at(0, ["x"]), &[written(&[], &["a"])]);
    }

    #[test]
    #[should_panic(expected = "there is a gap")]
    fn a_gap_is_found() {
        judge(&at(1, ["a"]), &[written(&[], &["a"])]);
    }
}
