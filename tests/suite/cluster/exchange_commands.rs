//! `jangada exchange ...`: creates, binds, traces, publishes, taps and deletes.

use std::collections::BTreeMap;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::time::timeout;

use super::queues::create_queue;
use crate::harness::cli::{self, Run};
use crate::harness::{Cluster, WAIT, eventually};

async fn exchange(cluster: &Cluster, args: &[&str]) -> Run {
    cluster.cli(&[&["exchange"], args].concat()).await
}

async fn publish(cluster: &Cluster, args: &[&str], input: &str) -> Run {
    let args = [&["exchange", "publish"], args].concat();
    cluster.cli_with(&args, input.as_bytes().to_vec()).await
}

/// A cluster with three queues, of which `ordered` has three partitions, and topic exchange `orders`.
async fn cluster() -> Cluster {
    let cluster = Cluster::start(3).await;
    for (queue, partitions) in [("billing", 1), ("audit", 1), ("ordered", 3)] {
        create_queue(&cluster, queue, partitions, &[]).await;
    }
    exchange(&cluster, &["create", "orders", "--type", "topic"])
        .await
        .expect(0);
    cluster
}

/// What the queue has, as `queue receive` prints it; it is acknowledged.
async fn received(cluster: &Cluster, queue: &str) -> Vec<Value> {
    let mut messages = Vec::new();
    loop {
        let args = ["queue", "receive", queue, "--max", "1000", "--ack", "-o", "jsonl"];
        let lines = cluster.cli(&args).await.expect(0).text();
        let some = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("it is JSON"));
        let before = messages.len();
        messages.extend(some);
        if messages.len() == before {
            return messages;
        }
    }
}

async fn bodies(cluster: &Cluster, queue: &str) -> Vec<String> {
    let body = |message: &Value| message["body"].as_str().expect("it is text").to_owned();
    received(cluster, queue).await.iter().map(body).collect()
}

async fn queues(cluster: &Cluster) -> Vec<String> {
    let listed = cluster.cli(&["queue", "ls", "-o", "json"]).await.expect(0).json();
    let listed = listed.as_array().expect("a list").iter();
    listed
        .map(|queue| queue["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_are_created_bound_and_deleted() {
    let cluster = cluster().await;
    exchanges_are_created(&cluster).await;
    bindings_come_and_go(&cluster).await;
    what_cannot_be_bound_is_refused(&cluster).await;
    exchanges_are_deleted(&cluster).await;
}

async fn exchanges_are_created(cluster: &Cluster) {
    let again = exchange(cluster, &["create", "orders", "--type", "topic"]).await;
    again
        .expect(1)
        .names(&["orders", "EXCHANGE_EXISTS", "exchange describe"]);
    let same = ["create", "orders", "--type", "topic", "--if-not-exists"];
    exchange(cluster, &same).await.expect(0).names(&["exists already"]);
    let other = ["create", "orders", "--type", "fanout", "--if-not-exists"];
    exchange(cluster, &other).await.expect(1).names(&["EXCHANGE_EXISTS"]);
    exchange(cluster, &["create", "amq.mine", "--type", "topic"])
        .await
        .expect(1)
        .names(&["INVALID_EXCHANGE_NAME", "amq."]);
    let rest = ["create", "rest", "-t", "fanout", "--internal", "--auto-delete"];
    let created = exchange(cluster, &[&rest[..], &["-o", "json"]].concat())
        .await
        .expect(0);
    assert_eq!(created.json()["created"], json!(true));
    exchange(cluster, &["create", "parcels", "-t", "headers", "--alternate", "rest"])
        .await
        .expect(0);
    let listed = exchange(cluster, &["ls", "-o", "json"]).await.expect(0).json();
    let listed = listed.as_array().expect("a list").clone();
    let rows: Vec<_> = listed
        .iter()
        .map(|row| {
            (
                &row["name"],
                &row["type"],
                &row["alternate"],
                &row["internal"],
                &row["auto_delete"],
            )
        })
        .collect();
    let (yes, no, null) = (json!(true), json!(false), Value::Null);
    let text = |text: &str| json!(text);
    let expected = [
        (&text("orders"), &text("topic"), &null, &no, &no),
        (&text("parcels"), &text("headers"), &text("rest"), &no, &no),
        (&text("rest"), &text("fanout"), &null, &yes, &yes),
    ];
    assert_eq!(rows, expected);
    let table = exchange(cluster, &["ls"]).await.expect(0).text();
    assert!(table.starts_with("NAME     TYPE     BINDINGS  ALTERNATE"), "{table}");
}

async fn bindings_come_and_go(cluster: &Cluster) {
    let bind = ["bind", "orders", "--queue", "billing", "--queue", "audit"];
    let bind = [&bind[..], &["--key", "orders.*.paid", "--key", "orders.#"]].concat();
    for _ in 0..2 {
        exchange(cluster, &bind)
            .await
            .expect(0)
            .names(&["orders", "4 bindings"]);
    }
    let asked = ["-H", "region=north", "-H", "customer", "--match", "any"];
    let headers = [
        &["bind", "parcels", "--queue", "audit", "--exchange", "orders"],
        &asked[..],
    ]
    .concat();
    exchange(cluster, &headers).await.expect(0);
    let shown = exchange(cluster, &["describe", "orders", "-o", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(shown["exchange"]["bindings"], json!(4));
    assert_eq!(shown["bindings"].as_array().expect("a list").len(), 4);
    assert_eq!(shown["bound_from"], json!(["parcels"]));
    let shown = exchange(cluster, &["describe", "parcels"]).await.expect(0).text();
    for words in ["any: customer, region=north", "exchange  orders", "queue     audit"] {
        assert!(shown.contains(words), "{words}:\n{shown}");
    }
    let unbind = [
        "unbind", "orders", "--queue", "audit", "--key", "orders.#", "--key", "other",
    ];
    exchange(cluster, &unbind).await.expect(0);
    let shown = exchange(cluster, &["describe", "orders", "-o", "json"])
        .await
        .expect(0)
        .json();
    let bindings = shown["bindings"].as_array().expect("a list").iter();
    let mut left: Vec<_> = bindings
        .map(|binding| format!("{} {}", binding["queue"], binding["routing_key"]).replace('"', ""))
        .collect();
    left.sort();
    assert_eq!(
        left,
        ["audit orders.*.paid", "billing orders.#", "billing orders.*.paid"]
    );
}

async fn what_cannot_be_bound_is_refused(cluster: &Cluster) {
    for (args, words) in [
        (
            &["bind", "orders", "--queue", "nobody", "--queue", "ordered"][..],
            &["nobody", "UNKNOWN_QUEUE", "queue ls"][..],
        ),
        (
            &["bind", "gone", "--queue", "ordered"],
            &["gone", "UNKNOWN_EXCHANGE", "exchange ls"],
        ),
        (&["bind", "orders", "--exchange", "gone"], &["gone", "UNKNOWN_EXCHANGE"]),
        (
            &["bind", "orders", "--queue", "ordered", "--key", "a*"],
            &["a*", "INVALID_BINDING"],
        ),
        (
            &["bind", "orders", "--queue", "ordered", "-H", "a=1"],
            &["INVALID_BINDING", "headers exchange"],
        ),
        (
            &["bind", "parcels", "--queue", "ordered"],
            &["INVALID_BINDING", "which headers"],
        ),
    ] {
        exchange(cluster, args).await.expect(1).names(words);
    }
    exchange(cluster, &["bind", "orders", "--queue", "q", "-H", "a", "-H", "a=1"])
        .await
        .expect(2);
    let shown = exchange(cluster, &["describe", "orders", "-o", "json"]).await.expect(0);
    assert!(!shown.text().contains("ordered"), "all or none: {}", shown.text());
}

async fn exchanges_are_deleted(cluster: &Cluster) {
    exchange(cluster, &["rm", "orders"])
        .await
        .expect(2)
        .names(&["--yes", "nothing was deleted"]);
    exchange(cluster, &["rm", "orders", "--if-unused", "--yes"])
        .await
        .expect(1)
        .names(&["EXCHANGE_IN_USE", "unbind"]);
    exchange(cluster, &["rm", "orders", "--yes"]).await.expect(0);
    for args in [
        &["describe", "orders"][..],
        &["rm", "orders", "--yes"],
        &["tap", "orders"],
    ] {
        exchange(cluster, args)
            .await
            .expect(1)
            .names(&["orders", "exchange ls"]);
    }
    // It goes with its last binding.
    exchange(cluster, &["bind", "rest", "--queue", "audit"]).await.expect(0);
    exchange(cluster, &["unbind", "rest", "--queue", "audit"])
        .await
        .expect(0);
    let listed = exchange(cluster, &["ls", "-o", "json"]).await.expect(0).json();
    let names = listed.as_array().expect("a list").iter().map(|row| &row["name"]);
    assert_eq!(names.collect::<Vec<_>>(), [&json!("parcels")]);
    assert_eq!(queues(cluster).await, ["audit", "billing", "ordered"], "queues stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_says_where_a_message_would_go() {
    let cluster = cluster().await;
    exchange(&cluster, &["create", "archive", "-t", "fanout", "--internal"])
        .await
        .expect(0);
    exchange(&cluster, &["create", "other", "-t", "direct", "--alternate", "gone"])
        .await
        .expect(0);
    let onward = [
        "bind",
        "orders",
        "--exchange",
        "archive",
        "--exchange",
        "other",
        "-k",
        "orders.#",
    ];
    exchange(&cluster, &onward).await.expect(0);
    exchange(&cluster, &["bind", "orders", "--queue", "billing", "-k", "*.*.paid"])
        .await
        .expect(0);
    exchange(&cluster, &["bind", "archive", "--queue", "audit", "--queue", "billing"])
        .await
        .expect(0);
    let trace = ["trace", "orders", "--key", "orders.eu.paid"];
    let table = exchange(&cluster, &trace).await.expect(0).text();
    for words in [
        "0    orders    topic   published",
        "queue billing by *.*.paid",
        "fanout  binding of 0",
        "direct  binding of 0  none, and alternate exchange gone is not there",
    ] {
        assert!(table.contains(words), "{words}:\n{table}");
    }
    assert!(table.ends_with("\nQUEUE\naudit\nbilling\n"), "{table}");
    let traced = exchange(&cluster, &[&trace[..], &["-o", "json"]].concat())
        .await
        .expect(0)
        .json();
    assert_eq!(traced["queues"], json!(["audit", "billing"]));
    let hops = traced["hops"].as_array().expect("a list");
    assert_eq!(hops.len(), 3);
    assert_eq!(hops[0]["matched_count"], json!(3));
    let nowhere = exchange(&cluster, &["trace", "orders", "-k", "invoices"])
        .await
        .expect(0);
    nowhere.names(&["unroutable"]);
    exchange(&cluster, &["trace", "archive"]).await.expect(1).names(&[
        "archive",
        "EXCHANGE_INTERNAL",
        "exchange describe",
    ]);
    assert_eq!(bodies(&cluster, "billing").await, [""; 0], "nothing was published");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_published_and_those_that_go_nowhere_are_named() {
    let cluster = cluster().await;
    exchange(&cluster, &["bind", "orders", "--queue", "billing", "-k", "*.paid"])
        .await
        .expect(0);
    exchange(&cluster, &["bind", "orders", "--queue", "audit", "-k", "#"])
        .await
        .expect(0);
    exchange(&cluster, &["create", "few", "-t", "direct"]).await.expect(0);
    exchange(&cluster, &["bind", "few", "--queue", "billing", "-k", "a"])
        .await
        .expect(0);
    each_line_goes_to_its_queues(&cluster).await;
    lines_that_go_nowhere_are_named(&cluster).await;
    messages_have_what_is_said_of_them(&cluster).await;
    an_order_key_keeps_the_order(&cluster).await;
}

async fn each_line_goes_to_its_queues(cluster: &Cluster) {
    let run = publish(
        cluster,
        &["orders", "-K", " "],
        "eu.paid 1\neu.sent 2\nus.paid 3 and more\n",
    )
    .await;
    run.expect(0)
        .names(&["3 messages were published", "audit 3", "billing 2"]);
    // Lines without an order key may overtake each other.
    let mut billed = bodies(cluster, "billing").await;
    billed.sort();
    assert_eq!(billed, ["1", "3 and more"]);
    let audited = received(cluster, "audit").await;
    let ways: BTreeMap<_, _> = audited
        .iter()
        .map(|message| {
            (
                message["body"].to_string(),
                (&message["exchange"], &message["routing_key"]),
            )
        })
        .collect();
    let orders = json!("orders");
    let expected = [
        ("\"1\"".to_owned(), (&orders, &json!("eu.paid"))),
        ("\"2\"".to_owned(), (&orders, &json!("eu.sent"))),
        ("\"3 and more\"".to_owned(), (&orders, &json!("us.paid"))),
    ];
    assert_eq!(ways, BTreeMap::from(expected));
    let counts = publish(cluster, &["orders", "-k", "x", "--body", "4", "-o", "json"], "").await;
    let expected = json!({ "published": 1, "unroutable": 0, "duplicates": 0, "queues": { "audit": 1 } });
    assert_eq!(counts.expect(0).json(), expected);
    // The default exchange leads to the queue that the key names.
    publish(cluster, &["", "-k", "audit"], "5").await.expect(0);
    assert_eq!(bodies(cluster, "audit").await, ["4", "5"]);
}

async fn lines_that_go_nowhere_are_named(cluster: &Cluster) {
    let input = "a 1\nb 2\na 3\nc 4\n";
    let dropped = publish(cluster, &["few", "-K", " "], input).await;
    dropped.expect(0).names(&[
        "line 2:",
        "\"b\"",
        "line 4:",
        "\"c\"",
        "dropped",
        "2 messages were published",
    ]);
    let refused = publish(cluster, &["few", "-K", " ", "--mandatory"], input).await;
    refused.expect(1).names(&[
        "line 2:",
        "line 4:",
        "refused",
        "2 messages were published, 2 are unroutable",
        "exchange trace",
    ]);
    let mut billed = bodies(cluster, "billing").await;
    billed.sort();
    assert_eq!(billed, ["1", "1", "3", "3"]);
    publish(cluster, &["gone", "-k", "a"], "1\n")
        .await
        .expect(1)
        .names(&["gone", "line 1", "exchange ls"]);
    publish(cluster, &["few", "-K", " "], "a 1\nb").await.expect(1).names(&[
        "line 2",
        "it has no \" \"",
        "1 messages were published",
    ]);
    assert_eq!(bodies(cluster, "billing").await, ["1"]);
}

async fn messages_have_what_is_said_of_them(cluster: &Cluster) {
    let args = ["few", "-k", "a", "-H", "source=import", "--message-id", "one"];
    publish(cluster, &args, "1\n").await.expect(0);
    let received = received(cluster, "billing").await;
    assert_eq!(received[0]["message_id"], json!("one"));
    assert_eq!(received[0]["headers"], json!([{ "key": "source", "value": "import" }]));
    // What was received can be published as it is.
    let line = format!("{}\n", received[0]);
    publish(cluster, &["few", "--format", "jsonl"], &line).await.expect(0);
    assert_eq!(bodies(cluster, "billing").await, ["1"]);
    publish(cluster, &["few", "-k", "a", "-H", "jangada-exchange=other"], "1\n")
        .await
        .expect(1)
        .names(&["line 1", "jangada-"]);
}

async fn an_order_key_keeps_the_order(cluster: &Cluster) {
    exchange(cluster, &["bind", "orders", "--queue", "ordered", "-k", "in.order"])
        .await
        .expect(0);
    let input: String = (0..3_000).map(|number| format!("{number}\n")).collect();
    let args = ["orders", "-k", "in.order", "--order-key", "stream 7"];
    publish(cluster, &args, &input).await.expect(0).names(&["ordered 3000"]);
    let received = received(cluster, "ordered").await;
    let partition = &received[0]["partition"];
    assert!(received.iter().all(|message| message["partition"] == *partition));
    let mut by_offset: Vec<_> = received
        .iter()
        .map(|message| (message["offset"].as_i64().expect("a number"), message["body"].as_str()))
        .collect();
    by_offset.sort_unstable();
    let bodies: String = by_offset
        .iter()
        .map(|(_, body)| format!("{}\n", body.expect("it is text")))
        .collect();
    assert_eq!(bodies, input);
}

/// `exchange tap` as a process.
struct Tap {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    notes: Lines<BufReader<ChildStderr>>,
}

impl Tap {
    /// Starts it, and returns when the exchange leads to its queue.
    async fn start(cluster: &Cluster, args: &[&str]) -> Tap {
        let mut child = cli::start(&cluster.brokers(), &[&["exchange", "tap"], args].concat());
        let out = child.stdout.take().expect("stdout is a pipe");
        let notes = child.stderr.take().expect("stderr is a pipe");
        let mut tap = Tap {
            child,
            out: BufReader::new(out).lines(),
            notes: BufReader::new(notes).lines(),
        };
        loop {
            let note = timeout(WAIT, tap.notes.next_line())
                .await
                .expect("it says when it taps");
            let note = note.expect("notes are text").expect("it goes on");
            if note.starts_with("tapping exchange") {
                return tap;
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        let line = timeout(WAIT, self.out.next_line()).await.expect("something comes");
        line.expect("it is text")
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs");
        let pid = Pid::from_raw(pid.try_into().expect("process ids are small")).expect("it is not 0");
        kill_process(pid, signal).expect("it is our own");
    }

    async fn ended(mut self) -> Option<i32> {
        let status = timeout(WAIT, self.child.wait()).await.expect("it ends");
        status.expect("our own child can be waited for").code()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_prints_what_an_exchange_gets_and_leaves_nothing_behind() {
    let cluster = cluster().await;
    let names = queues(&cluster).await;
    exchange(&cluster, &["bind", "orders", "--queue", "billing", "-k", "eu.#"])
        .await
        .expect(0);
    let mut all = Tap::start(&cluster, &["orders"]).await;
    let mut some = Tap::start(
        &cluster,
        &["orders", "-k", "us.*", "-k", "*.paid", "-c", "2", "-o", "jsonl"],
    )
    .await;
    assert_eq!(queues(&cluster).await.len(), names.len() + 2);
    let input = "eu.sent 1\nus.sent 2\neu.paid 3\n";
    publish(&cluster, &["orders", "-K", " "], input).await.expect(0);
    let mut printed = vec![all.line().await, all.line().await, all.line().await];
    printed.sort();
    let expected = ["eu.paid\t3", "eu.sent\t1", "us.sent\t2"];
    assert_eq!(printed, expected.map(|line| Some(line.to_owned())));
    let mut keys = Vec::new();
    while let Some(line) = some.line().await {
        let message: Value = serde_json::from_str(&line).expect("it is JSON");
        assert_eq!(message["exchange"], json!("orders"));
        keys.push(message["routing_key"].clone());
    }
    keys.sort_by_key(Value::to_string);
    assert_eq!(keys, [json!("eu.paid"), json!("us.sent")]);
    assert_eq!(some.ended().await, Some(0), "it had as many as it was to have");
    all.signal(Signal::INT);
    assert_eq!(all.line().await, None);
    assert_eq!(all.ended().await, Some(0));
    eventually("the queues of the taps are gone", WAIT, || async {
        (queues(&cluster).await == names).then_some(())
    })
    .await;
    let shown = exchange(&cluster, &["describe", "orders", "-o", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(shown["exchange"]["bindings"], json!(1));
    a_tap_of_any_exchange_gets_all_messages(&cluster).await;
}

async fn a_tap_of_any_exchange_gets_all_messages(cluster: &Cluster) {
    let before = queues(cluster).await;
    for (kind, key) in [("fanout", ""), ("headers", "any"), ("direct", "k")] {
        exchange(cluster, &["create", kind, "-t", kind]).await.expect(0);
        let keys: &[&str] = if kind == "direct" { &["-k", "k"] } else { &[] };
        let mut tap = Tap::start(cluster, &[&[kind], keys].concat()).await;
        let body = format!("to {kind}");
        publish(cluster, &[kind, "-k", key, "--body", &body], "")
            .await
            .expect(0);
        assert_eq!(tap.line().await, Some(format!("{key}\t{body}")));
        tap.signal(Signal::TERM);
        assert_eq!(tap.ended().await, Some(0));
    }
    exchange(cluster, &["tap", "direct"]).await.expect(2).names(&["--key"]);
    let idle = exchange(cluster, &["tap", "fanout", "--idle", "100ms"]).await.expect(0);
    assert_eq!(idle.text(), "");
    assert_eq!(queues(cluster).await, before);
}
