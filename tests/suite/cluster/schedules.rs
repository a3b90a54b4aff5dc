//! Schedules of queues: each occurrence once, whatever becomes of leaders; what is missed by rule; the client and the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jangada_client::{
    CatchUp, NewQueue, NewSchedule, OffsetAt, QueueMessage, QueueSchedule, Reason, ReceiveOptions, ReceivedMessage,
    ScheduleTiming,
};

use super::queues::create_queue;
use crate::harness::{Cluster, Options, WAIT, assert_refused, eventually, is_long, raw};

const QUEUE: &str = "jobs";
const PARTITIONS: u32 = 3;

fn every(name: &str, seconds: u64) -> NewSchedule {
    let timing = ScheduleTiming::Every(Duration::from_secs(seconds));
    NewSchedule::new(name, timing, QueueMessage::new(name.as_bytes().to_vec()))
}

fn now_ms() -> u64 {
    raw::now_ms().unsigned_abs()
}

/// The occurrence of which a message is, with its schedule.
fn occurrence(message: &ReceivedMessage) -> (String, u64) {
    let header = |name: &str| {
        let header = message.headers.iter().find(|header| header.key == name);
        let value = header.and_then(|header| header.value.clone());
        String::from_utf8(value.expect("it says of what it is").to_vec()).expect("it is text")
    };
    let at = header("jangada-scheduled-at").parse().expect("it is a number");
    (header("jangada-schedule"), at)
}

/// The occurrences of which the queue has messages, by schedule.
async fn sent(cluster: &Cluster, partitions: u32) -> BTreeMap<String, Vec<u64>> {
    let client = cluster.client().await;
    let queue = client.queue(QUEUE);
    let mut sent: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for partition in 0..partitions {
        let mut next = Some(0);
        while let Some(from) = next {
            let peeked = queue.peek(partition, from, &[], 1_000).await.expect("it is led");
            for shown in &peeked.messages {
                let (schedule, at) = occurrence(&shown.message);
                sent.entry(schedule).or_default().push(at);
            }
            next = peeked.next_offset;
        }
    }
    sent
}

async fn schedules(cluster: &Cluster) -> Option<BTreeMap<String, QueueSchedule>> {
    let listed = cluster.admin().await.list_schedules(QUEUE).await.ok()?;
    let is_whole = listed.unanswered_partitions.is_empty();
    let by_name = listed.schedules.into_iter();
    is_whole.then(|| by_name.map(|listed| (listed.schedule.name.clone(), listed)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_occurrence_is_sent_once_while_leaders_are_killed() {
    const SCHEDULES: usize = 6;
    let duration = Duration::from_secs(if is_long() { 300 } else { 20 });
    let mut cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, PARTITIONS, &[]).await;
    let admin = cluster.admin().await;
    let mut first = BTreeMap::new();
    let mut places = BTreeSet::new();
    for number in 0..SCHEDULES {
        let schedule = NewSchedule {
            catch_up: CatchUp::All,
            ..every(&format!("tick-{number}"), 1)
        };
        let put = admin.put_schedule(QUEUE, &schedule).await.expect("it is valid");
        assert!(put.created);
        places.insert(put.partition);
        first.insert(schedule.name, put.next_ms);
    }
    assert!(places.len() > 1, "they lie in several partitions: {places:?}");
    let began = Instant::now();
    let mut kills = 0;
    while began.elapsed() < duration {
        let victim = cluster.leader(QUEUE, kills % PARTITIONS).await;
        // The moment of the kill is chance: it is to hit occurrences at every step of their way.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..1_000))).await;
        cluster.kill(victim);
        // It is down until another one leads and has sent something.
        let before = now_ms();
        eventually("other leaders send", WAIT, || async {
            let all = schedules(&cluster).await?;
            all.values().all(|listed| listed.last_ms > Some(before)).then_some(())
        })
        .await;
        cluster.restart(victim);
        cluster.healthy().await;
        kills += 1;
    }
    let admin = cluster.admin().await;
    let listed = eventually("all leaders say their schedules", WAIT, || schedules(&cluster)).await;
    for name in first.keys() {
        admin.delete_schedule(QUEUE, name).await.expect("it is there");
    }
    let sent = sent(&cluster, PARTITIONS).await;
    let mut messages = 0;
    for (name, first) in &first {
        let mut occurrences = sent[name].clone();
        occurrences.sort_unstable();
        messages += occurrences.len();
        let count = u64::try_from(occurrences.len()).expect("they are few");
        let expected: Vec<u64> = (0..count).map(|at| first + 1_000 * at).collect();
        assert_eq!(occurrences, expected, "{name}: each second once");
        assert!(count >= listed[name].sent, "{name}: {count} of {}", listed[name].sent);
    }
    println!("{kills} leaders killed, {messages} occurrences of {SCHEDULES} schedules, each sent once");
    assert!(kills > 1 && messages > 10 * SCHEDULES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_while_the_cluster_was_down_is_caught_up_with_by_rule() {
    const INTERVAL_MS: u64 = 600_000;
    const DOWN_MS: u64 = 3_600_000;
    let options = Options {
        stopped: true,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    let file = cluster.folder().join("clock");
    let path = file.to_str().expect("the folder's name is text").to_owned();
    let start = |cluster: &mut Cluster| {
        for id in cluster.ids() {
            cluster.restart_with(id, &[("JANGADA_CLOCK_OFFSET_FILE", &path)]);
        }
    };
    start(&mut cluster);
    cluster.healthy().await;
    create_queue(&cluster, QUEUE, PARTITIONS, &[]).await;
    let admin = cluster.admin().await;
    let first_ms = now_ms() + INTERVAL_MS / 2;
    for (name, catch_up) in [("all", CatchUp::All), ("one", CatchUp::One), ("skip", CatchUp::Skip)] {
        let schedule = NewSchedule {
            start_ms: Some(first_ms),
            catch_up,
            ..every(name, INTERVAL_MS / 1_000)
        };
        let put = admin.put_schedule(QUEUE, &schedule).await.expect("it is valid");
        assert_eq!(put.next_ms, first_ms);
    }
    cluster.kill_all();
    // For an hour nobody is there.
    std::fs::write(&file, DOWN_MS.to_string()).expect("the folder is writable");
    start(&mut cluster);
    let next_ms = first_ms + DOWN_MS;
    eventually("all schedules go on", WAIT, || async {
        let all = schedules(&cluster).await?;
        let go_on = all.len() == 3 && all.values().all(|listed| listed.next_ms == next_ms);
        go_on.then_some(())
    })
    .await;
    let sent = sent(&cluster, PARTITIONS).await;
    let missed: Vec<u64> = (0..DOWN_MS / INTERVAL_MS)
        .map(|at| first_ms + INTERVAL_MS * at)
        .collect();
    assert_eq!(sent["all"], missed, "all of them, in their order");
    assert_eq!(sent["one"], missed[missed.len() - 1..], "the last of them");
    assert_eq!(sent.get("skip"), None, "none of them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_come_change_and_go() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, PARTITIONS, &["queue.priorities=3"]).await;
    the_command_line(&cluster).await;
    one_that_is_deleted_sends_nothing_more(&cluster).await;
    a_schedule_lies_where_the_key_of_its_message_is(&cluster).await;
    bad_input_changes_nothing(&cluster).await;
}

async fn the_command_line(cluster: &Cluster) {
    let cli = |args: &'static [&'static str]| async move { cluster.cli(args).await };
    let put = cli(&[
        "schedule",
        "put",
        QUEUE,
        "report",
        "--cron",
        "0 8 * * 1-5",
        "--time-zone",
        "America/Fortaleza",
        "--catch-up",
        "one",
        "--body",
        "daily report",
        "-H",
        "of=finance",
        "--priority",
        "2",
        "-o",
        "json",
    ]);
    let put = put.await.expect(0).json();
    assert_eq!(put["created"], true, "{put}");
    let next_ms = put["next_ms"].as_u64().expect("it has a next time");
    let minute = next_ms / 60_000;
    // Eight in the morning, three hours behind UTC all the year.
    assert_eq!((minute % 60, minute / 60 % 24), (0, 11), "{put}");
    let again = cli(&[
        "schedule",
        "put",
        QUEUE,
        "report",
        "--cron",
        "0 8 * * 1-5",
        "--time-zone",
        "America/Fortaleza",
        "--catch-up",
        "one",
        "--body",
        "daily report",
        "-H",
        "of=finance",
        "--priority",
        "2",
    ]);
    again.await.expect(0).names(&["put schedule report"]);
    cli(&[
        "schedule",
        "put",
        QUEUE,
        "poll",
        "--every",
        "1s",
        "--body",
        "poll",
        "--end",
        "2100-01-01T00:00:00Z",
    ])
    .await
    .expect(0)
    .names(&["created schedule poll"]);
    let listed = cli(&["schedule", "ls", QUEUE, "-o", "json"]).await.expect(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    let (poll, report) = (&listed[0], &listed[1]);
    assert_eq!(
        (&poll["schedule"], &report["schedule"]),
        (&"poll".into(), &"report".into())
    );
    assert_eq!(poll["every"]["interval_ms"], 1_000, "{poll}");
    assert_eq!(poll["end_ms"], 4_102_444_800_000_u64, "{poll}");
    assert_eq!(report["cron"]["time_zone"], "America/Fortaleza", "{report}");
    assert_eq!(
        (&report["next_ms"], &report["last_ms"]),
        (&next_ms.into(), &serde_json::Value::Null)
    );
    assert_eq!(report["message"]["body"], "daily report", "{report}");
    assert_eq!(report["message"]["headers"][0]["key"], "of", "{report}");
    let table = cli(&["schedule", "ls"]).await.expect(0).text();
    for word in ["NEXT", "LAST", "0 8 * * 1-5 America/Fortaleza", "every 1s", QUEUE] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let client = cluster.client().await;
    let options = ReceiveOptions {
        wait: Duration::from_secs(20),
        ..ReceiveOptions::default()
    };
    let received = client.queue(QUEUE).receive(options).await.expect("the queue is there");
    let (name, at) = occurrence(&received[0]);
    assert_eq!(
        (name.as_str(), at % 1_000),
        ("poll", poll["every"]["anchor_ms"].as_u64().expect("it has") % 1_000)
    );
    assert_eq!(received[0].body.as_deref(), Some(&b"poll"[..]));
    cli(&["schedule", "rm", QUEUE, "report"]).await.expect(0);
    cli(&["schedule", "rm", QUEUE, "report"])
        .await
        .expect(1)
        .names(&["report"]);
    cli(&[
        "schedule",
        "put",
        QUEUE,
        "both",
        "--every",
        "1s",
        "--cron",
        "* * * * *",
        "--body",
        "x",
    ])
    .await
    .expect(2);
    cli(&["schedule", "put", QUEUE, "none", "--body", "x"]).await.expect(2);
    cli(&["schedule", "put", QUEUE, "bad", "--cron", "61 * * * *", "--body", "x"])
        .await
        .expect(1)
        .names(&["bad", "61"]);
}

async fn one_that_is_deleted_sends_nothing_more(cluster: &Cluster) {
    let admin = cluster.admin().await;
    admin.delete_schedule(QUEUE, "poll").await.expect("it is there");
    let before = sent(cluster, PARTITIONS).await["poll"].len();
    admin
        .put_schedule(QUEUE, &every("other", 1))
        .await
        .expect("it is valid");
    eventually("the other one sends", WAIT, || async {
        (schedules(cluster).await?.get("other")?.sent >= 2).then_some(())
    })
    .await;
    assert_eq!(sent(cluster, PARTITIONS).await["poll"].len(), before);
    admin.delete_schedule(QUEUE, "other").await.expect("it is there");
    let again = admin.delete_schedule(QUEUE, "other").await;
    assert_refused(again, Reason::UnknownSchedule, &["other"]);
}

async fn a_schedule_lies_where_the_key_of_its_message_is(cluster: &Cluster) {
    const ORDERED: &str = "ordered";
    create_queue(cluster, ORDERED, PARTITIONS, &["queue.order=key"]).await;
    let admin = cluster.admin().await;
    let mut places = BTreeSet::new();
    for key in ["a", "b", "c", "d", "e"] {
        let mut schedule = every("by-key", 1_000);
        schedule.message = schedule.message.with_key(key);
        let put = admin.put_schedule(ORDERED, &schedule).await.expect("it is valid");
        assert_eq!(put.created, places.is_empty(), "{key}");
        places.insert(put.partition);
        let listed = admin.list_schedules(ORDERED).await.expect("it is there").schedules;
        assert_eq!(listed.len(), 1, "one name is one schedule: {listed:?}");
        assert_eq!(listed[0].schedule.message.key.as_deref(), Some(key.as_bytes()));
    }
    assert!(places.len() > 1, "its partition is that of the key: {places:?}");
    // Whatever its key and so its partition, one that is refused takes nothing of the one that is there.
    for key in ["a", "b", "c", "d", "e"] {
        let timing = ScheduleTiming::Cron {
            expression: "61 * * * *".to_owned(),
            time_zone: "UTC".to_owned(),
        };
        let bad = NewSchedule::new("by-key", timing, QueueMessage::new("x").with_key(key));
        assert_refused(
            admin.put_schedule(ORDERED, &bad).await,
            Reason::InvalidSchedule,
            &["61"],
        );
        let listed = admin.list_schedules(ORDERED).await.expect("it is there").schedules;
        assert_eq!(listed.len(), 1, "it is there still: {key}");
    }
    admin.delete_schedule(ORDERED, "by-key").await.expect("it is found");
    assert_refused(
        admin.delete_schedule(ORDERED, "by-key").await,
        Reason::UnknownSchedule,
        &["by-key"],
    );
}

async fn bad_input_changes_nothing(cluster: &Cluster) {
    let admin = cluster.admin().await;
    let cron = |expression: &str, zone: &str| NewSchedule {
        timing: ScheduleTiming::Cron {
            expression: expression.to_owned(),
            time_zone: zone.to_owned(),
        },
        ..every("bad", 1)
    };
    let with = |message: QueueMessage| NewSchedule {
        message,
        ..every("bad", 1)
    };
    let message = || QueueMessage::new("x");
    let ended = NewSchedule {
        end_ms: Some(now_ms() - 1),
        ..every("bad", 1)
    };
    let half = NewSchedule {
        timing: ScheduleTiming::Every(Duration::from_millis(500)),
        ..every("bad", 1)
    };
    for (schedule, reason, named) in [
        (cron("* * * *", "UTC"), Reason::InvalidSchedule, "4 fields"),
        (cron("0 25 * * *", "UTC"), Reason::InvalidSchedule, "25"),
        (
            cron("* * * * *", "Mars/Olympus"),
            Reason::InvalidSchedule,
            "Mars/Olympus",
        ),
        (cron("0 0 30 2 *", ""), Reason::InvalidSchedule, "bad"),
        (ended, Reason::InvalidSchedule, "no occurrence"),
        (half, Reason::InvalidSchedule, "500 ms"),
        (every(&"x".repeat(129), 1), Reason::InvalidSchedule, "129"),
        (with(QueueMessage::new(vec![7; 5_000])), Reason::InvalidSchedule, "4096"),
        (
            with(message().with_message_id("m")),
            Reason::InvalidRequest,
            "message_id",
        ),
        (with(message().deliver_at(5)), Reason::InvalidRequest, "deliver_at_ms"),
        (with(message().with_key("k")), Reason::InvalidRequest, "queue.order"),
        (with(message().with_priority(3)), Reason::InvalidRequest, "priority"),
        (
            with(message().with_header("jangada-x", "y")),
            Reason::InvalidRequest,
            "jangada-x",
        ),
    ] {
        assert_refused(admin.put_schedule(QUEUE, &schedule).await, reason, &[named]);
    }
    assert_refused(
        admin.put_schedule("nowhere", &every("bad", 1)).await,
        Reason::UnknownQueue,
        &["nowhere"],
    );
    cluster.create_topic("orders", 1, 3).await;
    let group = NewQueue::reading("billing", "orders", OffsetAt::Earliest);
    admin.create_queue(group).await.expect("it is created");
    let refused = admin.put_schedule("billing", &every("bad", 1)).await;
    assert_refused(refused, Reason::WrongQueueKind, &["billing", "orders"]);
    assert_refused(
        admin.list_schedules("billing").await,
        Reason::WrongQueueKind,
        &["billing"],
    );
    let all = schedules(cluster).await.expect("all leaders answer");
    assert_eq!(all, BTreeMap::new());
}
