//! `jangada consume --group` with each of its flags: what it prints, what it commits, and how it ends.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::Child;

use crate::harness::cli::{self, Run};
use crate::harness::{Cluster, WAIT, eventually};

/// A command that is told to end does so within this time, whatever its stdout does.
const END: Duration = Duration::from_secs(5);

/// The session of processes that are killed: short, because the next one waits for it.
const SESSION_MS: &str = "2000";

/// `consume TOPIC --group TOPIC`: each topic of this file has the group of its name.
fn args<'a>(topic: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["consume", topic, "--group", topic, "-f", r"%v\n"], more].concat()
}

async fn consume(cluster: &Cluster, topic: &str, more: &[&str]) -> Run {
    cluster.cli(&args(topic, more)).await
}

fn start(cluster: &Cluster, topic: &str, more: &[&str]) -> Child {
    cli::start(&cluster.brokers(), &args(topic, more))
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let pid = pid.and_then(Pid::from_raw).expect("the process runs");
    kill_process(pid, signal).expect("our own child can be signalled");
}

/// Sends SIGTERM, and waits for the end in time.
async fn terminated(child: Child) -> Run {
    signal(&child, Signal::TERM);
    let ended = tokio::time::timeout(END, cli::end(child, "consume --group")).await;
    ended.unwrap_or_else(|_| panic!("it has not ended {END:?} after SIGTERM"))
}

/// Creates a topic of one partition with `lines` lines of `bytes` bytes. Each begins with its offset.
async fn topic(cluster: &Cluster, name: &str, lines: usize, bytes: usize) {
    cluster.create_topic(name, 1, 1).await;
    let line = |number| format!("{number:<bytes$}\n");
    let input: String = (0..lines).map(line).collect();
    cluster.cli_with(&["produce", name], input.into_bytes()).await.expect(0);
}

/// The numbers of whole lines.
fn numbers(text: &[u8]) -> Vec<usize> {
    let text = String::from_utf8_lossy(text);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| line.trim().parse().expect("a number"))
        .collect()
}

/// The offset that the group of a topic's name has committed for its one partition.
async fn committed(cluster: &Cluster, topic: &str) -> Option<usize> {
    let run = cluster.cli(&["group", "lag", topic, "-o", "json"]).await;
    let offset = (run.code == Some(0)).then(|| run.json())?[0]["offset"].as_i64()?;
    usize::try_from(offset).ok()
}

/// Reads `count` lines.
async fn lines(out: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<usize> {
    let mut lines = BufReader::with_capacity(1, out).lines();
    let mut read = Vec::new();
    while read.len() < count {
        let line = tokio::time::timeout(WAIT, lines.next_line()).await.expect("lines come");
        let line = line.expect("a pipe can be read").expect("it prints on");
        read.push(line.trim().parse().expect("a number"));
    }
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consume_in_a_group_does_what_its_flags_say() {
    let mut cluster = Cluster::start(1).await;
    it_exits_at_the_end(&cluster).await;
    it_stops_after_so_many_records(&cluster).await;
    sigterm_commits_what_was_written(&cluster).await;
    without_commits_all_comes_again(&cluster).await;
    committed_before_nothing_comes_twice(&cluster).await;
    committed_after_nothing_is_missing(&cluster).await;
    it_ends_though_nobody_reads(&cluster).await;
    an_instance_goes_on_with_its_partitions(&cluster).await;
    who_follows_a_topic_waits_for_its_leader(&mut cluster).await;
}

async fn it_exits_at_the_end(cluster: &Cluster) {
    topic(cluster, "ends", 100, 8).await;
    let run = consume(cluster, "ends", &["--exit-at-end"]).await.expect(0);
    assert_eq!(numbers(&run.stdout), (0..100).collect::<Vec<_>>());
    assert_eq!(committed(cluster, "ends").await, Some(100));
    let run = consume(cluster, "ends", &["--exit-at-end"]).await.expect(0);
    assert_eq!(run.text(), "");
    // A consumer without a group does not mistake what is not there yet for the end.
    for flags in [&["--exit-at-end"][..], &[]] {
        let args = [&["consume", "ends", "--partition", "0", "--from", "101"], flags].concat();
        let run = cluster.cli(&args).await.expect(1);
        run.names(&["ends[0]", "101", "100", "partition ls"]);
    }
    let at_end = ["consume", "ends", "--partition", "0", "--from", "100", "--exit-at-end"];
    assert_eq!(cluster.cli(&at_end).await.expect(0).text(), "");
}

async fn it_stops_after_so_many_records(cluster: &Cluster) {
    topic(cluster, "few", 10, 8).await;
    for begin in [0, 3, 6] {
        let run = consume(cluster, "few", &["--max", "3"]).await.expect(0);
        assert_eq!(numbers(&run.stdout), [begin, begin + 1, begin + 2]);
        assert_eq!(committed(cluster, "few").await, Some(begin + 3));
    }
}

async fn sigterm_commits_what_was_written(cluster: &Cluster) {
    topic(cluster, "term", 10, 8).await;
    let mut child = start(cluster, "term", &[]);
    let mut out = child.stdout.take().expect("stdout is a pipe");
    assert_eq!(lines(&mut out, 10).await, (0..10).collect::<Vec<_>>());
    terminated(child).await.expect(0);
    assert_eq!(committed(cluster, "term").await, Some(10));
}

async fn without_commits_all_comes_again(cluster: &Cluster) {
    topic(cluster, "none", 10, 8).await;
    for _ in 0..2 {
        let run = consume(cluster, "none", &["--commit", "none", "--exit-at-end"])
            .await
            .expect(0);
        assert_eq!(numbers(&run.stdout), (0..10).collect::<Vec<_>>());
        assert_eq!(committed(cluster, "none").await, None);
    }
    let mut child = start(cluster, "none", &["--commit", "none"]);
    let mut out = child.stdout.take().expect("stdout is a pipe");
    lines(&mut out, 10).await;
    terminated(child).await.expect(0);
    assert_eq!(committed(cluster, "none").await, None);
}

/// Begins to print 4 MB into a pipe that is not read.
async fn stuck(cluster: &Cluster, topic: &str, more: &[&str]) -> Child {
    let mut child = start(cluster, topic, more);
    let out = child.stdout.as_mut().expect("stdout is a pipe");
    let mut first = [0];
    let read = tokio::time::timeout(WAIT, out.read_exact(&mut first)).await;
    read.expect("it prints").expect("a pipe can be read");
    assert_eq!(&first, b"0");
    child
}

/// Number of lines of 1 KiB: a pipe takes some sixty of them, and a response of a broker a thousand.
const LINES: usize = 4000;
const LINE_BYTES: usize = 1023;

/// Sends SIGKILL; returns the numbers that were printed, and the offset that is committed.
async fn killed(cluster: &Cluster, topic: &str, child: Child) -> (Vec<usize>, Option<usize>) {
    signal(&child, Signal::KILL);
    // The first byte was read already: of a number that begins with it, nothing but spaces is left.
    let run = cli::end(child, "consume --group").await;
    let printed = [b"0", &run.stdout[..]].concat();
    (numbers(&printed), committed(cluster, topic).await)
}

async fn committed_before_nothing_comes_twice(cluster: &Cluster) {
    topic(cluster, "before", LINES, LINE_BYTES).await;
    let flags = ["--commit", "before", "--session-timeout-ms", SESSION_MS];
    let child = stuck(cluster, "before", &flags).await;
    let (printed, committed) = killed(cluster, "before", child).await;
    let committed = committed.expect("what is handed out is committed before");
    assert!(
        printed.len() < committed && committed < LINES,
        "{} printed, {committed} committed",
        printed.len()
    );
    // No record was handed out twice, and those that the dead process had not printed are lost.
    let run = consume(cluster, "before", &["--commit", "before", "--exit-at-end"])
        .await
        .expect(0);
    assert_eq!(numbers(&run.stdout), (committed..LINES).collect::<Vec<_>>());
}

async fn committed_after_nothing_is_missing(cluster: &Cluster) {
    topic(cluster, "after", LINES, LINE_BYTES).await;
    let flags = ["--commit", "after", "--session-timeout-ms", SESSION_MS];
    let child = stuck(cluster, "after", &flags).await;
    let (printed, committed) = killed(cluster, "after", child).await;
    let committed = committed.unwrap_or(0);
    assert!(
        committed <= printed.len(),
        "{} printed, {committed} committed",
        printed.len()
    );
    let run = consume(cluster, "after", &["--exit-at-end"]).await.expect(0);
    assert_eq!(numbers(&run.stdout), (committed..LINES).collect::<Vec<_>>());
}

async fn it_ends_though_nobody_reads(cluster: &Cluster) {
    topic(cluster, "stuck", LINES, LINE_BYTES).await;
    for kind in [Signal::TERM, Signal::INT] {
        let mut child = stuck(cluster, "stuck", &[]).await;
        let asked = Instant::now();
        signal(&child, kind);
        let ended = tokio::time::timeout(END, child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("it has not ended {END:?} after {kind:?}"));
        println!("with a stdout that nobody reads it ended after {:?}", asked.elapsed());
        assert_eq!(ended.expect("our own child can be waited for").code(), Some(1));
        let run = cli::end(child, "consume --group").await;
        let run = run.names(&["stdout is not read", "not committed"]);
        // It has left: the next one does not wait for its session. What it was printing is not committed.
        assert_eq!(
            committed(cluster, "stuck").await.unwrap_or(0),
            0,
            "{} bytes were printed",
            run.stdout.len()
        );
    }
    let run = consume(cluster, "stuck", &["--exit-at-end"]).await.expect(0);
    assert_eq!(numbers(&run.stdout), (0..LINES).collect::<Vec<_>>());
}

/// `group describe`, once `members` members own `each` partitions each.
async fn settled(cluster: &Cluster, group: &str, members: usize, each: usize) -> Value {
    eventually("the group is settled", WAIT, || async {
        let run = cluster.cli(&["group", "describe", group, "-o", "json"]).await;
        let group = (run.code == Some(0)).then(|| run.json())?;
        let all = group["members"].as_array()?;
        // A static member that is away keeps what it had.
        let is_settled = |member: &Value| {
            let owned = member["owned"].as_array().map(Vec::len);
            owned == Some(each) && member["state"] == "Stable"
        };
        let is_so = all.len() == members && all.iter().all(is_settled) && group["state"] == "Stable";
        is_so.then_some(group)
    })
    .await
}

/// The partitions of the member with this instance id, and the group's epoch.
fn place(group: &Value, instance: &str) -> (Value, Value) {
    let members = group["members"].as_array().expect("a list");
    let member = members.iter().find(|member| member["instance_id"] == instance);
    let member = member.unwrap_or_else(|| panic!("no {instance:?}: {group}"));
    (member["target"].clone(), group["epoch"].clone())
}

async fn an_instance_goes_on_with_its_partitions(cluster: &Cluster) {
    cluster.create_topic("static", 4, 1).await;
    let one = start(cluster, "static", &["--instance-id", "one"]);
    let two = start(cluster, "static", &["--instance-id", "two"]);
    let before = settled(cluster, "static", 2, 2).await;
    terminated(one).await.expect(0);
    // A static member that leaves for a while keeps its partitions.
    let again = start(cluster, "static", &["--instance-id", "one"]);
    let after = settled(cluster, "static", 2, 2).await;
    assert_eq!(place(&after, "one"), place(&before, "one"));
    assert_eq!(place(&after, "two"), place(&before, "two"));
    // Keys, so that all partitions get some.
    let lines: String = (0..100).map(|number| format!("{number}:{number}\n")).collect();
    let produce = ["produce", "static", "--key-separator", ":"];
    cluster.cli_with(&produce, lines.into_bytes()).await.expect(0);
    eventually("all is consumed", WAIT, || async {
        let lag = cluster
            .cli(&["group", "lag", "static", "-o", "json"])
            .await
            .expect(0)
            .json();
        let rows = lag.as_array()?;
        rows.iter().all(|row| row["lag"] == 0).then_some(())
    })
    .await;
    let mut printed = Vec::new();
    for child in [again, two] {
        let numbers = numbers(&terminated(child).await.expect(0).stdout);
        assert!(!numbers.is_empty(), "one of them printed nothing");
        printed.extend(numbers);
    }
    printed.sort_unstable();
    assert_eq!(printed, (0..100).collect::<Vec<_>>());
}

/// Runs last, because the broker dies.
async fn who_follows_a_topic_waits_for_its_leader(cluster: &mut Cluster) {
    topic(cluster, "follow", 10, 8).await;
    let plain = ["consume", "follow", "-f", r"%v\n"];
    let mut followers = [cli::start(&cluster.brokers(), &plain), start(cluster, "follow", &[])];
    for child in &mut followers {
        assert_eq!(lines(child.stdout.as_mut().expect("a pipe"), 10).await.len(), 10);
    }
    cluster.kill(1);
    for child in &mut followers {
        let mut stderr = BufReader::new(child.stderr.as_mut().expect("a pipe")).lines();
        loop {
            let told = tokio::time::timeout(WAIT, stderr.next_line())
                .await
                .expect("it tells of it");
            let told = told.expect("a pipe can be read").expect("it goes on");
            if told.contains("warning") && told.contains("still trying") {
                println!("{told}");
                break;
            }
        }
    }
    cluster.restart(1);
    cluster.healthy().await;
    cluster
        .cli_with(&["produce", "follow"], b"10\n".to_vec())
        .await
        .expect(0);
    let [mut plain, mut group] = followers;
    for child in [&mut plain, &mut group] {
        assert_eq!(lines(child.stdout.as_mut().expect("a pipe"), 1).await, [10]);
    }
    terminated(group).await.expect(0);
    assert_eq!(committed(cluster, "follow").await, Some(11));
}
