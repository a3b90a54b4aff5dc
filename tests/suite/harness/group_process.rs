//! `jangada consume --group` as a process of its own, with the records that it printed and the partitions that it
//! owned.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Child;
use tokio::task::JoinHandle;

use super::node::stands_still;
use super::{Cluster, WAIT, cli, eventually};

/// A record that the process printed.
#[derive(Clone, Debug)]
pub struct Printed {
    /// The time when this process read it from the pipe.
    pub at: Instant,
    pub partition: u32,
    pub offset: i64,
    pub key: String,
    pub value: String,
}

/// A line of the process's ownership log.
#[derive(Clone, Debug)]
pub struct Change {
    /// `assigned`, `revoked` or `lost`.
    pub event: String,
    pub at_ms: i64,
    pub member_epoch: i64,
    /// The partitions that came or went.
    pub partitions: BTreeSet<u32>,
    /// All partitions that it owns from now on.
    pub owned: BTreeSet<u32>,
}

/// The process. Dropping it kills it.
pub struct GroupProcess {
    pub name: String,
    child: Child,
    printed: Arc<Mutex<Vec<Printed>>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    log: PathBuf,
}

impl GroupProcess {
    /// Starts a process; its ownership log is a file in the cluster's folder.
    pub fn start(cluster: &Cluster, name: &str, topic: &str, group: &str, session: Duration) -> GroupProcess {
        let log = cluster.folder().join(format!("owned-by-{name}"));
        let (log_text, session) = (log.to_string_lossy(), session.as_millis().to_string());
        let args = [
            "consume",
            topic,
            "--group",
            group,
            "--session-timeout-ms",
            &session,
            "--ownership-log",
            &log_text,
            "--log",
            "jangada_client=info",
            "--format",
            r"%p\t%o\t%k\t%v\n",
        ];
        let mut child = cli::start(&cluster.brokers(), &args);
        let printed: Arc<Mutex<Vec<Printed>>> = Arc::default();
        let stderr: Arc<Mutex<String>> = Arc::default();
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
        let reading = tokio::spawn({
            let printed = printed.clone();
            async move {
                while let Some(line) = lines.next_line().await.expect("orders are text") {
                    let at = Instant::now();
                    // One that was killed may leave half a line.
                    if let Some(record) = parse(&line, at) {
                        printed.lock().expect("no panic").push(record);
                    }
                }
            }
        });
        let mut errors = child.stderr.take().expect("stderr is a pipe");
        let listening = tokio::spawn({
            let stderr = stderr.clone();
            async move {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = errors.read(&mut bytes).await {
                    let text = String::from_utf8_lossy(&bytes[..read]);
                    stderr.lock().expect("no panic").push_str(&text);
                }
            }
        });
        GroupProcess {
            name: name.to_owned(),
            child,
            printed,
            stderr,
            readers: vec![reading, listening],
            log,
        }
    }

    /// All records that it printed, in its order.
    pub fn printed(&self) -> Vec<Printed> {
        self.printed.lock().expect("no panic").clone()
    }

    /// Number of records that it printed.
    pub fn count(&self) -> usize {
        self.printed.lock().expect("no panic").len()
    }

    /// The text that it wrote to stderr.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("no panic").clone()
    }

    /// The process's ownership log, oldest first.
    pub fn changes(&self) -> Vec<Change> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let set = |names: &serde_json::Value| -> BTreeSet<u32> {
            let names = names.as_array().expect("a list").iter();
            names
                .map(|name| {
                    let name = name.as_str().expect("a name");
                    let (_, index) = name.rsplit_once('-').expect("topic and partition");
                    index.parse().expect("a number")
                })
                .collect()
        };
        // The last line may be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let change = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            Change {
                event: line["event"].as_str().expect("an event").to_owned(),
                at_ms: line["at_ms"].as_i64().expect("a time"),
                member_epoch: line["member_epoch"].as_i64().expect("an epoch"),
                partitions: set(&line["partitions"]),
                owned: set(&line["owned"]),
            }
        };
        whole.lines().map(change).collect()
    }

    /// The partitions that it owns, by its log.
    pub fn owned(&self) -> BTreeSet<u32> {
        self.changes().pop().map(|last| last.owned).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        let pid = pid.and_then(Pid::from_raw).expect("the process runs");
        kill_process(pid, signal).expect("our own child can be signalled");
    }

    /// Sends SIGKILL. Returns when all that it printed is read.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("our own child can be killed");
        self.drained().await;
    }

    /// Sends SIGSTOP. Returns when it has stopped.
    pub async fn pause(&self) {
        self.signal(Signal::STOP);
        let pid = self.child.id().expect("the process runs");
        eventually("the process stands still", WAIT, || async {
            stands_still(pid).then_some(())
        })
        .await;
    }

    /// Sends SIGCONT, which ends a pause.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGTERM, and asserts that it ends well.
    pub async fn end(&mut self) {
        self.signal(Signal::TERM);
        let status = tokio::time::timeout(WAIT, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("{} does not end: {}", self.name, self.stderr()));
        self.drained().await;
        let status = status.expect("our own child can be waited for");
        assert_eq!(status.code(), Some(0), "{}: {}", self.name, self.stderr());
    }

    async fn drained(&mut self) {
        for reader in self.readers.drain(..) {
            reader.await.expect("a pipe can be read");
        }
    }
}

impl Drop for GroupProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!(
                "--- {}, its ownership log:\n{log}--- its stderr:\n{}",
                self.name,
                self.stderr()
            );
        }
    }
}

fn parse(line: &str, at: Instant) -> Option<Printed> {
    let mut parts = line.splitn(4, '\t');
    let (partition, offset) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (key, value) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    value.ends_with('}').then_some(Printed {
        at,
        partition,
        offset,
        key,
        value,
    })
}
