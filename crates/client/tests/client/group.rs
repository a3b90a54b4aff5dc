//! Members of a group: partitions move, offsets are committed, nothing is read twice or left out without a failure.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use jangada_client::{
    Client, ClientError, CommitMode, ConsumedRecord, GroupConfig, GroupConsumer, GroupHandle, ListenerError,
    OffsetReset, PartitionPosition, RebalanceListener, StartAt, StartPositions, TopicPartition,
};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::consume::{fill, filled};
use crate::fake::{Cluster, Event};
use crate::produce::{send, small_batches};

/// Longer than any step of these tests takes.
pub const SOON: Duration = Duration::from_secs(20);

pub fn config() -> GroupConfig {
    GroupConfig {
        commit: CommitMode::After {
            interval: Duration::from_millis(20),
        },
        ..GroupConfig::new("g", ["t"])
    }
}

pub fn member(client: &Client, config: GroupConfig) -> GroupConsumer {
    client.group_consumer(config).expect("good settings")
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Partitions and offsets of the records.
pub fn offsets(records: &[ConsumedRecord]) -> BTreeSet<(u32, i64)> {
    records.iter().map(|record| (record.partition, record.offset)).collect()
}

pub async fn take(consumer: &mut GroupConsumer, records: usize) -> Vec<ConsumedRecord> {
    let mut taken = Vec::new();
    while taken.len() < records {
        taken.push(soon(consumer.next()).await.expect("a record"));
    }
    taken
}

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("soon")
}

/// Lets a consumer do its background work while no record comes.
pub async fn idle(consumer: &mut GroupConsumer, milliseconds: u64) {
    if let Ok(next) = timeout(Duration::from_millis(milliseconds), consumer.next()).await {
        panic!("{next:?} came");
    }
}

pub fn committed(cluster: &Cluster, partition: u32) -> Option<i64> {
    let mut state = cluster.state();
    let topic = state.topics["t"].id;
    state.groups().committed("g", topic, partition)
}

/// A listener that records its calls.
#[derive(Default)]
pub struct Heard(pub Mutex<Vec<(&'static str, Vec<u32>)>>);

impl Heard {
    pub fn all(&self) -> Vec<(&'static str, Vec<u32>)> {
        self.0.lock().expect("no panic").clone()
    }

    fn hears(&self, what: &'static str, partitions: Vec<u32>) {
        self.0.lock().expect("no panic").push((what, partitions));
    }
}

fn numbers(partitions: &[PartitionPosition]) -> Vec<u32> {
    partitions.iter().map(|given_up| given_up.partition.partition).collect()
}

impl RebalanceListener for Heard {
    fn on_assigned<'a>(
        &'a self,
        _: &'a GroupHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<StartPositions, ListenerError>> {
        Box::pin(async move {
            self.hears("assigned", partitions.iter().map(|p| p.partition).collect());
            Ok(Vec::new())
        })
    }

    fn on_revoked<'a>(&'a self, _: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.hears("revoked", numbers(partitions)) })
    }

    fn on_lost<'a>(&'a self, _: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.hears("lost", numbers(partitions)) })
    }
}

#[tokio::test]
async fn one_member_reads_all_and_the_next_goes_on_after_it() {
    let cluster = Cluster::start(3);
    let client = filled(&cluster, 4, 100).await;
    let mut first = member(&client, config());
    let read = take(&mut first, 400).await;
    assert_eq!(offsets(&read).len(), 400);
    assert_eq!(first.assignment().len(), 4);
    soon(first.close()).await.expect("closed");
    assert!(cluster.state().groups().members("g").is_empty(), "it left");
    fill(&client, 4, 100..110).await;
    let mut second = member(&client, config());
    let read = take(&mut second, 40).await;
    assert!(read.iter().all(|record| record.offset >= 100));
    idle(&mut second, 200).await;
}

#[tokio::test]
async fn two_members_share_and_partitions_that_stay_are_not_paused() {
    let cluster = Cluster::start(2);
    let client = filled(&cluster, 4, 50).await;
    let heard = Arc::new(Heard::default());
    let mut first = client
        .group_consumer_with(config(), heard.clone())
        .expect("good settings");
    let before = take(&mut first, 200).await;
    assert_eq!(offsets(&before).len(), 200);
    let mut second = member(&client, config());
    let both = async {
        // Neither gets a record; both do what they have to.
        let idle_first = async { first.next().await.map(drop) };
        let idle_second = async { second.next().await.map(drop) };
        tokio::select! {
            result = idle_first => panic!("{result:?}"),
            result = idle_second => panic!("{result:?}"),
            () = until("they share", || {
                let mut state = cluster.state();
                let members = state.groups().members("g");
                members.len() == 2 && members.iter().all(|(_, held)| held.len() == 2) && state.groups().is_stable("g")
            }) => {}
        }
    };
    both.await;
    let events = heard.all();
    assert_eq!(events[0], ("assigned", vec![0, 1, 2, 3]));
    assert_eq!(
        (events[1].0, events[1].1.len(), events.len()),
        ("revoked", 2, 2),
        "{events:?}"
    );
    // The finished records were committed before the partitions were revoked, so no record comes again.
    fill(&client, 4, 50..60).await;
    let (of_first, of_second) = tokio::join!(take(&mut first, 20), take(&mut second, 20));
    assert!(of_first.iter().chain(&of_second).all(|record| record.offset >= 50));
    let moved: BTreeSet<_> = of_second.iter().map(|record| record.partition).collect();
    assert_eq!(moved, events[1].1.iter().copied().collect());
}

/// A listener that reports when it is asked to give partitions up, and waits until it may go on.
struct Slow {
    asked: watch::Sender<Vec<u32>>,
    may_go_on: watch::Receiver<bool>,
}

impl RebalanceListener for Slow {
    fn on_revoked<'a>(&'a self, _: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.asked.send_replace(numbers(partitions));
            let mut may_go_on = self.may_go_on.clone();
            may_go_on.wait_for(|may| *may).await.expect("the test goes on");
        })
    }
}

#[tokio::test]
async fn giving_up_comes_before_the_acknowledgement() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 10).await;
    let slow_commit = GroupConfig {
        commit: CommitMode::After {
            interval: Duration::from_secs(600),
        },
        ..config()
    };
    let (asked, asking) = watch::channel(Vec::new());
    let (go_on, may_go_on) = watch::channel(false);
    let listener = Arc::new(Slow { asked, may_go_on });
    let mut first = client
        .group_consumer_with(slow_commit.clone(), listener)
        .expect("good settings");
    take(&mut first, 20).await;
    let mut second = member(&client, slow_commit);
    let id = first.member_id().to_owned();
    let heartbeats = || {
        let mut state = cluster.state();
        let events = &state.groups().events;
        let of_first = events
            .iter()
            .filter(|e| matches!(e, Event::Heartbeat(member, _) if *member == id));
        of_first.count()
    };
    let giving_up = async {
        until("it is asked to give one up", || !asking.borrow().is_empty()).await;
        let seen = heartbeats();
        until("it goes on to heartbeat", || heartbeats() >= seen + 5).await;
        go_on.send_replace(true);
        until("they share", || {
            let members = cluster.state().groups().members("g");
            members.len() == 2 && members.iter().all(|(_, held)| held.len() == 1)
        })
        .await;
    };
    tokio::select! {
        next = second.next() => panic!("{next:?}: all is finished and committed"),
        next = first.next() => panic!("{next:?}"),
        () = giving_up => {}
    }
    let moved = asking.borrow().clone();
    let kept: Vec<u32> = (0..2).filter(|partition| !moved.contains(partition)).collect();
    let mut state = cluster.state();
    let events = state.groups().events.clone();
    let commit = events
        .iter()
        .position(|event| *event == Event::Commit(id.clone(), moved.clone()));
    let acknowledged = events
        .iter()
        .position(|event| *event == Event::Heartbeat(id.clone(), Some(kept.clone())));
    assert!(commit.is_some() && commit < acknowledged, "{events:?}");
    let commits = &state.groups().commits;
    assert_eq!(commits.len(), 1, "only what was given up: {commits:?}");
    assert_eq!(commits[0].offsets[0].offset, 10);
    assert_eq!(state.groups().refused, [], "it still owned the partition");
}

#[tokio::test]
async fn only_finished_records_are_committed_by_the_interval() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let mut consumer = member(&client, config());
    take(&mut consumer, 4).await;
    // Three are finished; the handler works on the fourth.
    until("committed", || committed(&cluster, 0) == Some(3)).await;
    // That the fourth is not committed has no moment at which it is true: this is the time that several intervals take.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(committed(&cluster, 0), Some(3));
    consumer.commit().await.expect("committed");
    assert_eq!(committed(&cluster, 0), Some(4));
    take(&mut consumer, 2).await;
    soon(consumer.abandon()).await;
    assert!(committed(&cluster, 0) <= Some(5), "the last one is not finished");
}

#[tokio::test]
async fn at_most_once_commits_before_it_hands_out() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let before = GroupConfig {
        commit: CommitMode::Before,
        ..config()
    };
    let mut consumer = member(&client, before.clone());
    let batch = soon(consumer.next_batch(4)).await.expect("records");
    assert_eq!(batch.len(), 4);
    assert_eq!(committed(&cluster, 0), Some(4), "committed when it is handed out");
    let record = soon(consumer.next()).await.expect("a record");
    assert_eq!(record.offset, 4);
    assert_eq!(committed(&cluster, 0), Some(10), "for all that is decoded");
    soon(consumer.close()).await.expect("closed");
    assert_eq!(committed(&cluster, 0), Some(5), "what was not handed out is taken back");
    let mut next = member(&client, before);
    assert_eq!(take(&mut next, 1).await[0].offset, 5);
    drop(next);
}

#[tokio::test]
async fn manual_commits_are_the_only_ones() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let manual = GroupConfig {
        commit: CommitMode::Manual,
        ..config()
    };
    let mut consumer = member(&client, manual.clone());
    take(&mut consumer, 5).await;
    consumer.commit().await.expect("committed");
    take(&mut consumer, 5).await;
    soon(consumer.close()).await.expect("closed");
    assert_eq!(committed(&cluster, 0), Some(5));
    assert_eq!(cluster.state().groups().commits.len(), 1);
}

#[tokio::test]
async fn a_slow_handler_stays_a_member() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let mut consumer = member(
        &client,
        GroupConfig {
            session_timeout: Duration::from_secs(1),
            ..config()
        },
    );
    take(&mut consumer, 1).await;
    // The handler works for more than two sessions: time itself is what is tested.
    let deadline = tokio::time::Instant::now() + Duration::from_millis(2500);
    while tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(cluster.state().groups().members("g").len(), 1, "it was thrown out");
    }
    assert_eq!(take(&mut consumer, 1).await[0].offset, 1);
}

#[tokio::test]
async fn partitions_pause_and_resume_where_they_were() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 100).await;
    let mut consumer = member(&client, config());
    let mut read = take(&mut consumer, 1).await;
    let paused = read[0].partition;
    consumer.pause("t", paused).expect("owned");
    let other = take(&mut consumer, 100).await;
    assert!(other.iter().all(|record| record.partition != paused));
    assert_eq!(consumer.position("t", paused), Some(1));
    idle(&mut consumer, 100).await;
    consumer.resume("t", paused).expect("owned");
    read.extend(take(&mut consumer, 99).await);
    let expected: BTreeSet<_> = (0..100).map(|offset| (paused, offset)).collect();
    assert_eq!(offsets(&read), expected);
    assert!(consumer.pause("t", 7).is_err());
}

/// Asserts that each batch of "t" was fetched once.
fn assert_fetched_once(cluster: &Cluster) {
    let state = cluster.state();
    let batches = state.topics["t"]
        .partitions
        .iter()
        .flat_map(|partition| &partition.batches);
    let log_bytes: usize = batches.map(|batch| batch.len()).sum();
    assert_eq!(state.fetched_bytes, log_bytes, "something was fetched twice");
}

#[tokio::test]
async fn what_was_fetched_of_a_paused_partition_is_kept() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 300).await;
    let mut consumer = member(&client, config());
    // In the middle of responses, with one partition's records and the other's.
    let mut read = take(&mut consumer, 1).await;
    for _ in 0..30 {
        let paused = read.last().expect("some").partition;
        consumer.pause("t", paused).expect("owned");
        let of_other = take(&mut consumer, 3).await;
        assert!(of_other.iter().all(|record| record.partition != paused));
        read.extend(of_other);
        consumer.resume("t", paused).expect("owned");
        read.extend(take(&mut consumer, 2).await);
    }
    for partition in 0..2 {
        consumer.pause("t", partition).expect("owned");
    }
    idle(&mut consumer, 100).await;
    for partition in 0..2 {
        consumer.resume("t", partition).expect("owned");
    }
    let left = 600 - read.len();
    read.extend(take(&mut consumer, left).await);
    for partition in 0..2 {
        let of: Vec<i64> = read
            .iter()
            .filter(|r| r.partition == partition)
            .map(|r| r.offset)
            .collect();
        assert_eq!(of, (0..300).collect::<Vec<_>>(), "once and in order");
    }
    assert_fetched_once(&cluster);
}

#[tokio::test]
async fn a_paused_partition_fetches_no_more_than_there_is_room_for() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 20_000).await;
    let little = GroupConfig {
        prefetch_bytes: 64 * 1024,
        max_partition_bytes: 4096,
        ..config()
    };
    let mut consumer = member(&client, little);
    let mut read = take(&mut consumer, 1).await;
    consumer.pause("t", 0).expect("owned");
    idle(&mut consumer, 300).await;
    let ahead = cluster.state().fetched_bytes;
    assert!(
        ahead <= 64 * 1024 + 2 * 4096,
        "{ahead} bytes were fetched of a paused partition"
    );
    consumer.resume("t", 0).expect("owned");
    read.extend(take(&mut consumer, 19_999).await);
    assert!(read.iter().map(|record| record.offset).eq(0..20_000));
    assert_fetched_once(&cluster);
}

#[tokio::test]
async fn a_seek_is_what_is_committed_next() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 100).await;
    let mut consumer = member(&client, config());
    take(&mut consumer, 100).await;
    consumer.seek("t", 0, StartAt::Offset(30)).await.expect("it is there");
    until("committed", || committed(&cluster, 0) == Some(30)).await;
    assert_eq!(take(&mut consumer, 1).await[0].offset, 30);
}

#[tokio::test]
async fn partitions_without_an_offset_begin_as_the_settings_say() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let with = |offset_reset| GroupConfig {
        offset_reset,
        ..config()
    };
    let mut consumer = member(&client, with(OffsetReset::Error));
    let error = soon(consumer.next()).await.expect_err("there is none");
    assert!(matches!(error, ClientError::NoCommittedOffset { .. }), "{error}");
    consumer.seek("t", 0, StartAt::Offset(8)).await.expect("owned");
    assert_eq!(take(&mut consumer, 1).await[0].offset, 8);
    soon(consumer.abandon()).await;
    cluster.state().partition("t", 0).log_start = 9;
    // The committed offset is there, and retention took its record.
    let mut consumer = member(&client, with(OffsetReset::Earliest));
    assert_eq!(take(&mut consumer, 1).await[0].offset, 9);
    soon(consumer.abandon()).await;
    cluster.state().groups().commits.clear();
    let latest = GroupConfig {
        group: "latest".to_owned(),
        ..with(OffsetReset::Latest)
    };
    let mut consumer = member(&client, latest);
    idle(&mut consumer, 200).await;
    until("committed", || !cluster.state().groups().commits.is_empty()).await;
    fill(&client, 1, 10..11).await;
    assert_eq!(take(&mut consumer, 1).await[0].offset, 10);
}

#[tokio::test]
async fn a_group_at_latest_reads_added_partitions_from_their_first_record() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 10).await;
    let latest = || GroupConfig {
        offset_reset: OffsetReset::Latest,
        ..config()
    };
    let mut consumer = member(&client, latest());
    idle(&mut consumer, 200).await;
    let committed = || {
        cluster
            .state()
            .groups()
            .commits
            .iter()
            .map(|commit| commit.offsets.len())
            .sum::<usize>()
    };
    until("committed", || committed() >= 2).await;
    client.admin().create_partitions("t", 3).await.expect("created");
    fill(&cluster.client().await, 3, 10..15).await;
    let mut read: Vec<_> = take(&mut consumer, 15)
        .await
        .iter()
        .map(|r| (r.partition, r.offset))
        .collect();
    read.sort_unstable();
    let expected = |partition, from| (from..from + 5).map(move |offset| (partition, offset));
    assert_eq!(
        read,
        [expected(0, 10), expected(1, 10), expected(2, 0)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    );
    soon(consumer.close()).await.expect("committed");

    // The group has no member when the next partition is added.
    client.admin().create_partitions("t", 4).await.expect("created");
    let other = cluster.client().await;
    let producer = other.producer(small_batches()).expect("good settings");
    for delivered in join_all(send(&producer, 3, 0..5).await).await {
        delivered.expect("delivered");
    }
    let mut consumer = member(&client, latest());
    let read: Vec<_> = take(&mut consumer, 5)
        .await
        .iter()
        .map(|r| (r.partition, r.offset))
        .collect();
    assert_eq!(read, expected(3, 0).collect::<Vec<_>>());
    soon(consumer.close()).await.expect("committed");
}

/// Positions that a listener keeps by itself.
struct Kept(i64);

impl RebalanceListener for Kept {
    fn on_assigned<'a>(
        &'a self,
        _: &'a GroupHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<StartPositions, ListenerError>> {
        let starts = partitions
            .iter()
            .map(|p| (p.clone(), StartAt::Offset(self.0)))
            .collect();
        Box::pin(async move { Ok(starts) })
    }
}

#[tokio::test]
async fn a_listener_says_where_partitions_begin() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 100).await;
    let manual = GroupConfig {
        commit: CommitMode::Manual,
        offset_reset: OffsetReset::Error,
        ..config()
    };
    let mut consumer = client
        .group_consumer_with(manual, Arc::new(Kept(90)))
        .expect("good settings");
    let read = take(&mut consumer, 20).await;
    assert!(read.iter().all(|record| record.offset >= 90));
}

#[tokio::test]
async fn a_static_member_that_comes_back_moves_nothing() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 10).await;
    let named = GroupConfig {
        instance_id: Some("one".to_owned()),
        ..config()
    };
    let mut consumer = member(&client, named.clone());
    take(&mut consumer, 20).await;
    soon(consumer.close()).await.expect("closed");
    assert_eq!(cluster.state().groups().members("g").len(), 1, "its place is kept");
    let mut again = member(&client, named);
    idle(&mut again, 200).await;
    let members = cluster.state().groups().members("g");
    assert_eq!(members, [(again.member_id().to_owned(), vec![0, 1])]);
}

#[tokio::test]
async fn partitions_move_while_records_at_hand_are_handled() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 1_000).await;
    let mut first = member(&client, config());
    take(&mut first, 1).await;
    let mut second = member(&client, config());
    let came = tokio::spawn(async move { second.next().await.map(|record| record.partition) });
    // One response has all of the partition that stays: none of these calls waits for more.
    let mut handled = 0;
    while !came.is_finished() && handled < 600 {
        soon(first.next()).await.expect("a record");
        handled += 1;
        // The handler's work: its time is what partitions are to move in.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(came.is_finished(), "nothing moved over {handled} records");
    let moved = came.await.expect("no panic").expect("a record");
    assert!(first.assignment().iter().all(|kept| kept.partition != moved));
}
