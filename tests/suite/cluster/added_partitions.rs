//! Partitions that are added while a topic is read: none of their records is left out.

use std::collections::BTreeSet;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::harness::{Cluster, WAIT, cli};

const TOPIC: &str = "orders";
/// The session is short: its partitions are free a second after the member was killed.
const MEMBER: [&str; 4] = ["--group", "g", "--session-timeout-ms", "1000"];
const FORMAT: &str = r"%p %v\n";

struct Reader {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Reader {
    fn start(cluster: &Cluster, args: &[&str]) -> Reader {
        let args = [&["consume", TOPIC, "--from", "latest", "-f", FORMAT], args].concat();
        let mut process = cli::start(&cluster.brokers(), &args);
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        Reader {
            _process: process,
            lines,
        }
    }

    /// The next records.
    async fn read(&mut self, count: usize) -> BTreeSet<String> {
        let read = async {
            let mut all = BTreeSet::new();
            while all.len() < count {
                all.insert(self.lines.next_line().await.expect("text").expect("it goes on"));
            }
            all
        };
        tokio::time::timeout(WAIT, read).await.expect("all come")
    }

    /// Produces until this consumer reads: from then on its partitions have begun.
    async fn begins(&mut self, cluster: &Cluster) {
        let begun = async {
            loop {
                for partition in ["0", "1"] {
                    produce(cluster, partition, "probe").await;
                }
                let next = self.lines.next_line();
                if let Ok(line) = tokio::time::timeout(std::time::Duration::from_millis(300), next).await {
                    return line.expect("text").expect("it goes on");
                }
            }
        };
        tokio::time::timeout(WAIT, begun).await.expect("it begins");
    }

    /// The next records that are not probes.
    async fn read_orders(&mut self, count: usize) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        while all.len() < count {
            let next = self.read(1).await;
            all.extend(next.into_iter().filter(|line| !line.ends_with("probe")));
        }
        all
    }
}

async fn produce(cluster: &Cluster, partition: &str, value: &str) {
    let args = ["produce", TOPIC, "--partition", partition];
    cluster
        .cli_with(&args, format!("{value}\n").into_bytes())
        .await
        .expect(0);
}

async fn grow(cluster: &Cluster, total: &str) {
    cluster
        .cli(&["topic", "alter", TOPIC, "--partitions", total])
        .await
        .expect(0);
}

fn orders(rows: &[(u32, &str)]) -> BTreeSet<String> {
    rows.iter()
        .map(|(partition, value)| format!("{partition} {value}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_added_partitions_are_read_by_all_who_begin_at_latest() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 2, 1).await;
    let mut plain = Reader::start(&cluster, &[]);
    let mut member = Reader::start(&cluster, &MEMBER);
    plain.begins(&cluster).await;
    member.begins(&cluster).await;

    grow(&cluster, "4").await;
    for (partition, value) in [("2", "first"), ("2", "second"), ("3", "third")] {
        produce(&cluster, partition, value).await;
    }
    let expected = orders(&[(2, "first"), (2, "second"), (3, "third")]);
    assert_eq!(member.read_orders(3).await, expected);
    assert_eq!(plain.read_orders(3).await, expected);

    // The group has no member when another one is added. What was committed says that it had begun long before.
    drop(member);
    let other = ["consume", TOPIC, "--group", "g", "--from", "latest", "--exit-at-end"];
    cluster.cli(&other).await.expect(0);
    grow(&cluster, "5").await;
    produce(&cluster, "4", "alone").await;
    let mut member = Reader::start(&cluster, &MEMBER);
    assert_eq!(member.read_orders(1).await, orders(&[(4, "alone")]));
    // One that begins now does as it was told.
    let late = ["consume", TOPIC, "--group", "late", "--from", "latest", "--exit-at-end"];
    assert_eq!(cluster.cli(&late).await.expect(0).text(), "");
}
