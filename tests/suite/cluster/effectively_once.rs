//! Effectively once: results that are stored with the offset after them happen once, whatever fails in the process that
//! stores them.
//!
//! Each member lives on a thread of its own with a runtime of one thread, so that it can be stopped like a process: a handler that
//! blocks the thread stops its heartbeats, too, and a runtime that is dropped sends no farewell to the coordinator.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jangada_client::{
    Client, ClientConfig, ClientError, CommitMode, ConsumedRecord, GroupConfig, GroupConsumer, GroupHandle,
    ListenerError, RebalanceListener, StartAt, StartPositions, TopicPartition,
};

use super::group_processes::{GROUP, TOPIC, described, settled};
use crate::harness::{Cluster, Orders, WAIT, Written, eventually};

const PARTITIONS: u32 = 4;

/// The members' session. Long enough that a busy machine does not end one.
const SESSION: Duration = Duration::from_secs(3);

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Results, together with how far each partition is. Everything under one lock is a transaction.
#[derive(Default)]
struct Database {
    rows: Mutex<BTreeMap<u32, Row>>,
    refused: Mutex<Vec<Refused>>,
}

#[derive(Clone, Default)]
struct Row {
    next: i64,
    /// The epoch of the owner: a store under an older one is refused.
    epoch: i64,
    /// Offset, value, and the member that stored it.
    effects: Vec<(i64, String, &'static str)>,
}

/// A store whose condition did not hold.
#[derive(Clone, Debug)]
struct Refused {
    by: &'static str,
    at: (u32, i64),
    epoch: i64,
    /// The epoch and the offset of the row.
    row: (i64, i64),
}

impl Database {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<u32, Row>> {
        self.rows.lock().expect("no panic")
    }

    fn next(&self, partition: u32) -> i64 {
        self.rows().get(&partition).map_or(0, |row| row.next)
    }

    fn refused(&self, by: &str) -> Vec<Refused> {
        let refused = self.refused.lock().expect("no panic");
        refused.iter().filter(|refused| refused.by == by).cloned().collect()
    }

    /// Number of effects that a member stored.
    fn stored(&self, by: &str) -> usize {
        let rows = self.rows();
        let effects = rows.values().flat_map(|row| &row.effects);
        effects.filter(|(_, _, who)| *who == by).count()
    }

    /// Fences earlier owners for a new one; returns the offset where it goes on.
    fn claim(&self, partition: u32, epoch: i64) -> i64 {
        let mut rows = self.rows();
        let row = rows.entry(partition).or_default();
        row.epoch = row.epoch.max(epoch);
        row.next
    }

    /// Stores the result and the offset after it, if the record is the next one and its owner has not been replaced.
    fn store(&self, record: &ConsumedRecord, epoch: i64, by: &'static str) -> bool {
        let mut rows = self.rows();
        let row = rows.entry(record.partition).or_default();
        if row.next != record.offset || epoch < row.epoch {
            let refused = Refused {
                by,
                at: (record.partition, record.offset),
                epoch,
                row: (row.next, row.epoch),
            };
            self.refused.lock().expect("no panic").push(refused);
            return false;
        }
        let value = String::from_utf8(record.value.as_deref().expect("a value").to_vec()).expect("orders are text");
        row.effects.push((record.offset, value, by));
        row.next = record.offset + 1;
        true
    }
}

struct Listener(Arc<Database>);

impl RebalanceListener for Listener {
    fn on_assigned<'a>(
        &'a self,
        group: &'a GroupHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<StartPositions, ListenerError>> {
        Box::pin(async move {
            let epoch = group.member_epoch();
            let start = |p: &TopicPartition| (p.clone(), StartAt::Offset(self.0.claim(p.partition, epoch)));
            Ok(partitions.iter().map(start).collect())
        })
    }
}

/// The fate of a member that holds a record.
enum Fate {
    /// It ends before the result is stored.
    DieBefore,
    /// It ends when the result is stored, before the caller learns that.
    DieAfter,
    /// It stops completely, heartbeats included, until it is told to go on.
    Sleep(mpsc::Sender<(u32, i64)>, mpsc::Receiver<()>),
    /// It waits with this record until it is told to go on, and stays a member meanwhile.
    Hold(
        (u32, i64),
        mpsc::Sender<&'static str>,
        tokio::sync::oneshot::Receiver<()>,
    ),
    /// It closes its consumer.
    Leave,
}

struct Member {
    name: &'static str,
    fate: Arc<Mutex<Option<Fate>>>,
    thread: JoinHandle<()>,
}

impl Member {
    fn start(name: &'static str, config: ClientConfig, database: &Arc<Database>) -> Member {
        let fate: Arc<Mutex<Option<Fate>>> = Arc::default();
        let (told, database) = (fate.clone(), database.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(work(name, config, database, told));
        });
        Member { name, fate, thread }
    }

    fn meets(&self, fate: Fate) {
        *self.fate.lock().expect("no panic") = Some(fate);
    }

    /// Waits for the member's end.
    async fn ended(self) {
        eventually(&format!("{} ends", self.name), WAIT, || async {
            self.thread.is_finished().then_some(())
        })
        .await;
        self.thread.join().expect("it did not fail");
    }
}

/// Runs a member. A member that dies returns at once: the leave that a dropped consumer sends never leaves, because the
/// runtime ends.
async fn work(name: &'static str, config: ClientConfig, database: Arc<Database>, fate: Arc<Mutex<Option<Fate>>>) {
    let client = Client::connect(config).await.expect("a broker answers");
    let mut config = GroupConfig::new(GROUP, [TOPIC]);
    config.session_timeout = SESSION;
    config.commit = CommitMode::Manual;
    let listener = Arc::new(Listener(database.clone()));
    let mut consumer = client.group_consumer_with(config, listener).expect("good settings");
    loop {
        let record = consumer.next().await.expect("records");
        // The epoch under which the record was handed out, not the one that the member has when the result is stored.
        let epoch = consumer.member_epoch();
        let met = {
            let mut fate = fate.lock().expect("no panic");
            match &*fate {
                Some(Fate::Hold(at, ..)) if *at != (record.partition, record.offset) => None,
                _ => fate.take(),
            }
        };
        let mut dies = false;
        match met {
            Some(Fate::DieBefore) => return,
            Some(Fate::DieAfter) => dies = true,
            Some(Fate::Sleep(asleep, wake)) => {
                asleep.send((record.partition, record.offset)).expect("somebody waits");
                wake.recv().expect("it is woken");
            }
            Some(Fate::Hold(_, holding, go_on)) => {
                holding.send(name).expect("somebody waits");
                go_on.await.expect("it is told to go on");
            }
            // The record in its hands was not handled, so nothing of it is stored.
            Some(Fate::Leave) => return consumer.close().await.expect("it leaves"),
            None => {}
        }
        let is_stored = database.store(&record, epoch, name);
        if dies {
            return;
        }
        if !is_stored {
            follow(&mut consumer, &database, &record).await;
        }
    }
}

/// Handles a record that another member stored, or whose partition another owns: continues where the database is.
async fn follow(consumer: &mut GroupConsumer, database: &Database, record: &ConsumedRecord) {
    let next = StartAt::Offset(database.next(record.partition));
    match consumer.seek(TOPIC, record.partition, next).await {
        // It is not the member's any more, as is to be expected.
        Ok(()) | Err(ClientError::Config(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Receives a message of a thread without blocking this one.
async fn said<T>(what: &str, receiver: &mpsc::Receiver<T>) -> T {
    eventually(what, WAIT, || async { receiver.try_recv().ok() }).await
}

/// Waits until each of these partitions is `by` records further than now.
async fn further(database: &Database, partitions: impl Iterator<Item = u32>, by: i64) {
    let goals: Vec<_> = partitions
        .map(|partition| (partition, database.next(partition) + by))
        .collect();
    eventually(&format!("results of {goals:?}"), WAIT, || async {
        let is_there = |(partition, goal): &(u32, i64)| database.next(*partition) >= *goal;
        goals.iter().all(is_there).then_some(())
    })
    .await;
}

/// Puts a member to sleep with a record in its hands; returns the record, and the means to wake it.
async fn asleep(member: &Member) -> ((u32, i64), mpsc::Sender<()>) {
    let (sender, receiver) = mpsc::channel();
    let (wake, woken) = mpsc::channel();
    member.meets(Fate::Sleep(sender, woken));
    (said("it is asleep", &receiver).await, wake)
}

/// Waits until a member that was thrown out stores results again.
async fn stores_again(database: &Database, member: &Member) {
    let before = database.stored(member.name);
    eventually(&format!("{} stores again", member.name), WAIT, || async {
        (database.stored(member.name) > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_stored_with_their_offsets_happen_once_under_kills_and_zombies() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, PARTITIONS, 1).await;
    let orders = Orders::start(&cluster, TOPIC).await;
    let database = Arc::new(Database::default());
    let start = |name| Member::start(name, cluster.client_config(), &database);

    let (anna, bert) = (start("anna"), start("bert"));
    settled(&cluster, 2, 2).await;
    further(&database, 0..PARTITIONS, 20).await;
    // Killed, once on either side of the transaction.
    anna.meets(Fate::DieBefore);
    anna.ended().await;
    let cora = start("cora");
    further(&database, 0..PARTITIONS, 20).await;
    settled(&cluster, 2, 2).await;
    cora.meets(Fate::DieAfter);
    cora.ended().await;
    let dora = start("dora");
    further(&database, 0..PARTITIONS, 20).await;
    settled(&cluster, 2, 2).await;

    fenced_by_epoch(&database, &bert, &dora).await;
    settled(&cluster, 2, 2).await;
    fenced_by_offset(&database, &bert).await;
    settled(&cluster, 2, 2).await;

    let written = orders.stop().await;
    each_has_its_effect_once(&database, &written).await;
    for member in [&bert, &dora] {
        member.meets(Fate::Leave);
    }
    // Further records make sure that both members read something, and so meet their fate.
    let last = Orders::start(&cluster, TOPIC).await;
    bert.ended().await;
    dora.ended().await;
    last.stop().await;
    assert_eq!(described(&cluster).await["state"], "Empty");
    let lag = cluster.cli(&["group", "lag", GROUP, "-o", "json"]).await.expect(0);
    assert_eq!(
        lag.json().as_array().map(Vec::len),
        Some(0),
        "positions are the database's: {}",
        lag.text()
    );
}

/// The zombie wakes when the next owner has the very same record in its hands: only the epoch tells them apart.
async fn fenced_by_epoch(database: &Database, zombie: &Member, other: &Member) {
    let (at, wake) = asleep(zombie).await;
    let (sender, holding) = mpsc::channel();
    let (go_on, told) = tokio::sync::oneshot::channel();
    other.meets(Fate::Hold(at, sender, told));
    said("the next owner has the record", &holding).await;
    wake.send(()).expect("the zombie sleeps");
    let refused = eventually("the zombie's store is refused", WAIT, || async {
        database.refused(zombie.name).pop()
    })
    .await;
    assert_eq!((refused.at, refused.row.0), (at, at.1), "{refused:?}");
    assert!(refused.epoch < refused.row.1, "{refused:?}");
    go_on.send(()).expect("the next owner waits");
    stores_again(database, zombie).await;
    further(database, 0..PARTITIONS, 20).await;
}

/// The zombie wakes when the others are further.
async fn fenced_by_offset(database: &Database, zombie: &Member) {
    let before = database.refused(zombie.name).len();
    let ((partition, offset), wake) = asleep(zombie).await;
    eventually("others go on where it stopped", WAIT, || async {
        (database.next(partition) > offset + 20).then_some(())
    })
    .await;
    wake.send(()).expect("the zombie sleeps");
    let refused = eventually("the zombie's store is refused", WAIT, || async {
        database.refused(zombie.name).into_iter().nth(before)
    })
    .await;
    assert_eq!(refused.at, (partition, offset), "{refused:?}");
    assert!(refused.row.0 > offset, "{refused:?}");
    stores_again(database, zombie).await;
}

/// All that was written, and nothing else, in the order of its partition.
async fn each_has_its_effect_once(database: &Database, written: &Written) {
    eventually("all that was written has its effect", WAIT, || async {
        let all = (0..PARTITIONS).map(|partition| database.next(partition)).sum::<i64>();
        (all >= i64::try_from(written.len()).expect("few")).then_some(())
    })
    .await;
    let rows = database.rows().clone();
    let mut effects = BTreeMap::new();
    for (partition, row) in &rows {
        for (place, (offset, value, by)) in (0..).zip(&row.effects) {
            assert_eq!(*offset, place, "partition {partition}: stored by {by} out of order");
            effects.insert((*partition, *offset), value);
        }
    }
    let values: BTreeMap<_, _> = written.iter().map(|(at, (_, value))| (*at, value)).collect();
    assert_eq!(effects.len(), values.len());
    assert!(
        effects == values,
        "results of other records than those that were written"
    );
    let refused = database.refused.lock().expect("no panic");
    println!(
        "{} records, each once; {} stores were refused: {refused:?}",
        effects.len(),
        refused.len()
    );
}
