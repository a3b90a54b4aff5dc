//! Transactions while brokers are killed and paused, leaders are moved, connections are held back, slowed and cut, producers are taken over
//! and are too slow, and partitions are compacted and trimmed: what readers of committed records see, and what transactions read while
//! they are open, is held against [`anomalies`](crate::anomalies). Beside those:
//!
//! | not seen | name |
//! |---|---|
//! | values of one writer in another order than it wrote them | reordering |
//! | an end of what is committed that goes back, or stays behind when all producers have stopped | hanging |
//!
//! Every value has a key of its own, so compaction takes none of them; it takes what lies between under keys that are shared.
//!
//! 20 s by default, five minutes with `JANGADA_LONG=1`.

mod ledger;
mod nemesis;
mod readers;
mod writers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jangada_client::NewTopic;

use self::ledger::{Name, Place, READERS, Seen, TIMEOUT, TOPICS, Value, World, connect, partition_of, places};
use self::readers::{all_is_stable, purged_to, read, read_all, watch_ends};
use self::writers::{WRITERS, write};
use crate::anomalies::{Fate, History, Read};
use crate::harness::{Cluster, Options, Scrape, WAIT, disturb, eventually, is_long};

async fn create_topics(cluster: &Cluster) {
    let [(plain, count), (compacted, compacted_count)] = TOPICS;
    cluster.create_topic(plain, count, 3).await;
    let config = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.1"),
        // Markers go, too, as soon as all replicas are clean.
        ("delete.retention.ms", "1000"),
    ];
    cluster
        .create(NewTopic {
            config: config.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..NewTopic::new(compacted, compacted_count, 3)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_committed_records_see_whole_transactions_while_brokers_are_killed() {
    let duration = Duration::from_secs(if is_long() { 300 } else { 20 });
    let options = Options {
        proxied: true,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    create_topics(&cluster).await;
    let world = Arc::new(World::default());
    let mut writing = Vec::new();
    for writer in 0..WRITERS {
        let (config, world) = (cluster.proxied_config(), world.clone());
        writing.push(tokio::spawn(async move { write(config, writer, &world).await }));
    }
    let mut reading = Vec::new();
    for reader in 0..READERS {
        reading.push(read(connect(cluster.proxied_config()).await, reader, world.clone()));
    }
    let watching = watch_ends(connect(cluster.proxied_config()).await, world.clone());
    let moving = nemesis::start(connect(cluster.client_config()).await, world.clone());
    let disturbing = disturb(cluster.proxies(), world.stop.clone());
    let began = Instant::now();
    let (mut kills, mut pauses) = (0, 0);
    while began.elapsed() < duration || (!world.has_enough() && began.elapsed() < duration + WAIT) {
        let victim = rand::random_range(1..=3);
        // The moment is chance: it is to hit transactions at every step of their way.
        tokio::time::sleep(Duration::from_millis(rand::random_range(200..1_500))).await;
        if rand::random_bool(0.3) {
            cluster.pause(victim);
            tokio::time::sleep(Duration::from_millis(rand::random_range(500..4_000))).await;
            cluster.resume(victim);
            pauses += 1;
            continue;
        }
        cluster.kill(victim);
        tokio::time::sleep(Duration::from_millis(rand::random_range(500..2_500))).await;
        cluster.restart(victim);
        cluster.healthy().await;
        kills += 1;
    }
    let elapsed = began.elapsed();
    world.stop.store(true, Ordering::Relaxed);
    let disturbances = disturbing.await.expect("nothing panicked");
    moving.await.expect("nothing panicked");
    for task in writing {
        task.await.expect("a writer has not panicked");
    }
    cluster.healthy().await;
    let client = connect(cluster.client_config()).await;
    let bound = TIMEOUT + Duration::from_secs(5);
    let stopped = Instant::now();
    eventually("no transaction is open", WAIT, || async {
        all_is_stable(&client).await.ok()?.then_some(())
    })
    .await;
    let until_stable = stopped.elapsed();
    let whole = read_all(&client).await;
    let mut seen = Vec::new();
    for reader in reading {
        seen.push(reader.await.expect("a reader has not panicked"));
    }
    watching.await.expect("no end went back");
    let records: usize = whole.read.values().map(Vec::len).sum();
    let history = history(&world, &whole, &seen, &purged_to(&client).await);
    let count = |fate| history.transactions.values().filter(|it| it.fate == fate).count();
    let reads: usize = history.transactions.values().map(|it| it.reads.len()).sum();
    println!(
        "{kills} kills, {pauses} pauses, {disturbances:?}, {} leaders moved, {} purges in {elapsed:?}: \
         {} committed, {} aborted, {} unknown, \
         which read {reads} values; {records} records at the end, {} taken by compaction; timed out: {}, taken over: {}; stable after \
         {until_stable:?}",
        world.transfers.load(Ordering::Relaxed),
        world.purges.load(Ordering::Relaxed),
        count(Fate::Committed),
        count(Fate::Aborted),
        count(Fate::Unknown),
        compacted(&cluster).await,
        world.timed_out.load(Ordering::Relaxed),
        world.fenced.load(Ordering::Relaxed),
    );
    assert!(kills > 0 && world.has_enough(), "there was something to see");
    assert!(
        disturbances.held > 0 && disturbances.cut > 0,
        "connections were disturbed"
    );
    assert!(until_stable <= bound, "a transaction hung for {until_stable:?}");
    if let Err(anomaly) = history.check() {
        panic!("{anomaly}");
    }
    for seen in seen.iter().chain([&whole]) {
        let aborted = seen
            .covers
            .iter()
            .find(|it| history.transactions[*it].fate == Fate::Aborted);
        assert_eq!(aborted, None, "aborted read under a shared key");
    }
    for (place, records) in &history.log {
        in_the_order_of_writers(*place, records);
    }
}

/// Records that compaction has taken since each broker was started last.
async fn compacted(cluster: &Cluster) -> f64 {
    let mut all = 0.0;
    for id in cluster.ids() {
        let gone = Scrape::of(cluster, id)
            .await
            .sum("jangada_compaction_records_gone_total", &[]);
        all += gone.unwrap_or(0.0);
    }
    all
}

/// All that is known. What was trimmed is what readers had got before.
fn history(world: &World, whole: &Seen, seen: &[Seen], purged_to: &BTreeMap<Place, i64>) -> History<Name, Value> {
    let transactions = world.written.lock().expect("nothing panicked").clone();
    let written = transactions.iter();
    let writers = written.flat_map(|(name, it)| it.values.iter().map(|(_, value)| (*value, *name)));
    let mut log = Read::new();
    for place in places() {
        let before = seen[0].read.get(&place).into_iter().flatten();
        let before = before.take_while(|(offset, _)| *offset < purged_to[&place]);
        let now = whole.read.get(&place).into_iter().flatten();
        log.insert(place, before.chain(now).copied().collect());
    }
    History {
        writers: writers.collect(),
        transactions,
        log,
        readers: seen.iter().map(|seen| seen.read.clone()).collect(),
    }
}

fn in_the_order_of_writers(place: Place, records: &[(i64, Value)]) {
    let mut last: BTreeMap<u32, Value> = BTreeMap::new();
    for (offset, value) in records {
        if let Some(before) = last.insert(value.writer, *value) {
            assert!(
                before < *value,
                "{value:?} at {:?}:{offset} comes behind {before:?}",
                partition_of(place)
            );
        }
    }
}
