//! Keys and deletions in a topic that is compacted, and tables that follow it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call;
use jangada_check::note::{Note, PartitionSettings};
use jangada_client::{Client, Isolation, ProducerRecord, Table, TableOptions};
use jangada_env::Random;
use tokio::time::{sleep, timeout};

use super::chance::Chance;
use super::finals::{self, Whole};
use super::outbox::Outbox;
use super::readers;
use super::reading::Named;
use super::records::{NAME, Values, create_topic, record};
use crate::play::stage::Stage;
use crate::roles::team::{Finding, Team};

const DELIVERY: Duration = Duration::from_secs(5);
/// Within so long a table has what its topic has.
const TABLE_WITHIN: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(500);

struct Compacted {
    partitions: u32,
    writers: usize,
    keys: u32,
    /// Bytes that a record has beside its value: enough of them that there is something to compact.
    pad: u64,
    delete_retention_ms: u64,
    /// The table that follows the topic from the beginning on.
    table: Rc<RefCell<Option<Table>>>,
}

/// A team that writes keys and deletes them.
pub fn compacted(random: &Random) -> Box<dyn Team> {
    let chance = Chance::of(random);
    Box::new(Compacted {
        partitions: chance.count(1..3),
        writers: chance.index(2) + 1,
        keys: chance.one_of(&[3, 8, 20]),
        pad: chance.one_of(&[7_000, 14_000]),
        delete_retention_ms: chance.one_of(&[0, 1_000, 5_000]),
        table: Rc::default(),
    })
}

fn topic(stage: &Stage) -> Named {
    Named::once(stage.named("log"))
}

impl Team for Compacted {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let preparing = async move {
            let retention = self.delete_retention_ms.to_string();
            let settings = &[
                ("cleanup.policy", "compact"),
                ("min.cleanable.dirty.ratio", "0.1"),
                ("delete.retention.ms", &*retention),
            ];
            let topic = topic(stage);
            create_topic(stage, &topic.topic, self.partitions, settings).await?;
            for partition in 0..self.partitions {
                let settings = PartitionSettings {
                    partition: topic.place(partition),
                    compacted: true,
                    delete_retention: Some(self.delete_retention_ms * 1_000_000),
                    ..PartitionSettings::default()
                };
                stage.recorder.note(None, Note::Partition(settings));
            }
            Ok(())
        };
        preparing.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let (topic, partitions) = (topic(stage), self.partitions);
        let writers = (0..self.writers).map(|number| {
            let writer = Writer {
                stage: stage.clone(),
                chance: Chance::of(&stage.random),
                number,
                topic: topic.clone(),
                partitions,
                keys: self.keys,
                pad: self.pad,
            };
            writer.write().boxed_local()
        });
        let mut tasks: Vec<_> = writers.collect();
        tasks.push(readers::follow(
            stage,
            "follower",
            topic.clone(),
            partitions,
            Isolation::Committed,
        ));
        tasks.push(readers::wander(
            stage,
            "wanderer",
            topic.clone(),
            partitions,
            Isolation::Uncommitted,
        ));
        let opening = open(stage.clone(), topic.topic, self.table.clone());
        tasks.push(opening.boxed_local());
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let finishing = async move {
            let client = stage.connect("last").await;
            let topic = topic(stage);
            let all = finals::read_topic(stage, &client, &topic, self.partitions).await?;
            let rows = rows(&all);
            let followed = self.table.borrow_mut().take();
            if let Some(table) = followed {
                stage.step("waits for the table that has followed");
                compare(stage, "the table that followed", &table, &all, &rows).await?;
            }
            stage.step("opens a new table");
            let table = new_table(&client, &topic.topic).await?;
            compare(stage, "a new table", &table, &all, &rows).await
        };
        finishing.boxed_local()
    }
}

struct Writer {
    stage: Stage,
    chance: Chance,
    number: usize,
    topic: Named,
    partitions: u32,
    keys: u32,
    pad: u64,
}

impl Writer {
    async fn write(self) {
        let stage = &self.stage;
        let name = format!("writer-{}", self.number);
        let Some(mut outbox) = Outbox::connect(stage, &name, DELIVERY).await else {
            return;
        };
        let values = Values::new(format!("k{}", self.number));
        while !stage.is_over() {
            for _ in 0..self.chance.between(1..5) {
                let (call, record) = self.draw(&values);
                outbox.send(call, record).await;
            }
            outbox.settle_to(8).await;
            outbox.pause(self.chance.ms(20..150)).await;
        }
        outbox.close().await;
    }

    /// A record of some key, or a deletion of it. Each key is always in the same partition.
    fn draw(&self, values: &Values) -> (call::Send, ProducerRecord) {
        let (key, value) = (self.chance.count(0..self.keys), values.next());
        let (partition, key) = (key % self.partitions, format!("key {key}"));
        let tombstone = self.chance.one_in(6);
        let call = call::Send {
            key: Some(key.clone()),
            tombstone,
            ..call::Send::new(&self.topic.place(partition), &*value)
        };
        let name: Rc<str> = self.topic.topic.as_str().into();
        let mut record = record(&name, partition, &value).with_key(key);
        match tombstone {
            true => {
                record.value = None;
                record = record.with_header(NAME, value);
            }
            false => {
                let pad = usize::try_from(self.chance.between(0..self.pad)).expect("some KiB");
                record = record.with_header("pad", vec![b'x'; pad]);
            }
        }
        (call, record)
    }
}

/// Opens the table that follows the topic.
async fn open(stage: Stage, topic: String, place: Rc<RefCell<Option<Table>>>) {
    let Some(client) = stage.until_over(stage.connect("table")).await else {
        return;
    };
    while !stage.is_over() {
        match stage
            .until_over(Table::open(&client, &topic, TableOptions::default()))
            .await
        {
            Some(Ok(table)) => {
                *place.borrow_mut() = Some(table);
                return;
            }
            _ => stage.pause(PAUSE).await,
        }
    }
}

async fn new_table(client: &Client, topic: &str) -> Result<Table, Finding> {
    let opening = async {
        loop {
            match Table::open(client, topic, TableOptions::default()).await {
                Ok(table) => return table,
                Err(_) => sleep(PAUSE).await,
            }
        }
    };
    let opened = timeout(TABLE_WITHIN, opening).await;
    opened.map_err(|_| format!("no table of {topic} can be opened within {TABLE_WITHIN:?}"))
}

/// The newest value of each key.
fn rows(all: &[Whole]) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for found in all.iter().flat_map(|whole| &whole.committed) {
        let Some(key) = found.key.clone() else { continue };
        match (&found.value, found.is_tombstone) {
            (Some(value), false) => drop(rows.insert(key, value.0.clone())),
            _ => drop(rows.remove(&key)),
        }
    }
    rows
}

/// A table has what its topic has, as soon as it has read all of it.
async fn compare(
    stage: &Stage,
    what: &str,
    table: &Table,
    all: &[Whole],
    rows: &BTreeMap<String, String>,
) -> Result<(), Finding> {
    for (whole, partition) in all.iter().zip(0..) {
        match timeout(TABLE_WITHIN, table.wait_for(partition, whole.end)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("{what} reads nothing more: {error}")),
            Err(_) => {
                let at = table.position(partition);
                return Err(format!("{what} is at {at:?} of {} in partition {partition}", whole.end));
            }
        }
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let there: BTreeMap<_, _> = table.iter().map(|(key, value)| (text(&key), text(&value))).collect();
    let keys = there.keys().chain(rows.keys());
    for key in keys.filter(|key| there.get(*key) != rows.get(*key)) {
        let (has, is) = (there.get(key), rows.get(key));
        stage.report(format!("{what} has {has:?} of {key:?}, and the topic has {is:?}"));
    }
    Ok(())
}
