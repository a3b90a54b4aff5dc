//! The directory of a cluster that `up` made, and the processes that run from it.
//!
//! ```text
//! DIR/cluster.toml         how many nodes, and their ports; written first
//! DIR/brokers              the addresses of its brokers and its id, for commands; written when it is up, see `brokers`
//! DIR/lock                 held by an `up` or `down` at work
//! DIR/node-i/jangada.toml  settings of node i; written once, changes by hand are kept
//! DIR/node-i/data          its data
//! DIR/node-i/log           its log, appended to
//! DIR/node-i/pid           its process id, while it runs
//! ```
//!
//! A process id in a file may be stale, and the number may belong to another program by now: a process counts as the
//! node only if its command line says so. Only such a process is ever sent a signal.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::brokers;
use crate::errors::{CliError, Result};
use crate::files::write_whole;
use crate::note::note;

/// Interval between two polls whether a process still runs: one that is not our child cannot be waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Timeout of a killed process's end.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The part of a cluster's setup that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterPlan {
    /// Number of nodes, with ids from 1 on.
    pub nodes: u16,
    /// The first node's public port.
    pub port: u16,
}

/// A cluster's directory.
#[derive(Clone, Debug)]
pub struct ClusterDir {
    root: PathBuf,
}

/// A node's directory.
#[derive(Clone, Debug)]
pub struct NodeDir {
    /// The node's broker id.
    pub id: u16,
    path: PathBuf,
}

impl ClusterDir {
    /// Makes the directory if it is missing.
    pub fn create(path: &Path) -> Result<ClusterDir> {
        let failed = |error: io::Error| CliError::new(format!("cannot make the directory {}: {error}", path.display()));
        fs::create_dir_all(path).map_err(failed)?;
        Ok(ClusterDir {
            root: path.canonicalize().map_err(failed)?,
        })
    }

    /// The directory of a cluster that was made before.
    pub fn open(path: &Path) -> Result<(ClusterDir, ClusterPlan)> {
        let none = || {
            let message = format!("there is no cluster in {}", path.display());
            CliError::new(message).hint("`jangada up --dir DIR` makes one; name its directory with --dir")
        };
        let directory = ClusterDir {
            root: path.canonicalize().map_err(|_| none())?,
        };
        let plan = directory.plan()?.ok_or_else(none)?;
        Ok((directory, plan))
    }

    /// The absolute path of the directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The plan that the cluster was made with; `None` before it is made.
    pub fn plan(&self) -> Result<Option<ClusterPlan>> {
        let path = self.root.join("cluster.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CliError::new(format!("cannot read {}: {error}", path.display()))),
        };
        toml::from_str(&text)
            .map(Some)
            .map_err(|error| CliError::new(format!("{} is damaged: {error}", path.display())))
    }

    /// Stores the plan, all or nothing.
    pub fn keep_plan(&self, plan: ClusterPlan) -> Result<()> {
        let text = toml::to_string(&plan).expect("a plan can be written as TOML");
        write_whole(&self.root.join("cluster.toml"), &text)
    }

    /// The file that names the cluster's brokers.
    pub fn brokers_path(&self) -> PathBuf {
        self.root.join(brokers::FILE_NAME)
    }

    /// Stores the cluster's brokers, so that commands find all of them.
    pub fn keep_brokers(&self, addresses: &[String], cluster_id: &str) -> Result<()> {
        write_whole(&self.brokers_path(), &brokers::file_text(addresses, cluster_id))?;
        brokers::publish(&addresses[0], &self.brokers_path());
        Ok(())
    }

    /// Locks the directory against other `up`s and `down`s while the returned file is open.
    pub fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        let failed = |error: io::Error| CliError::new(format!("cannot lock {}: {error}", path.display()));
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::Error(error)) => Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                let message = format!(
                    "another `jangada up` or `jangada down` is at work in {}",
                    self.root.display()
                );
                Err(CliError::new(message).hint("try again when it has finished"))
            }
        }
    }

    /// The nodes of a plan.
    pub fn nodes(&self, plan: ClusterPlan) -> Vec<NodeDir> {
        (1..=plan.nodes)
            .map(|id| NodeDir {
                id,
                path: self.root.join(format!("node-{id}")),
            })
            .collect()
    }
}

impl NodeDir {
    /// The node's settings file.
    pub fn config_path(&self) -> PathBuf {
        self.path.join("jangada.toml")
    }

    /// The node's log file.
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }

    fn pid_path(&self) -> PathBuf {
        self.path.join("pid")
    }

    /// Creates the directory, and the settings file unless it exists.
    pub fn prepare(&self, settings: &str) -> Result<()> {
        let failed =
            |error: io::Error| CliError::new(format!("cannot make the directory {}: {error}", self.path.display()));
        fs::create_dir_all(&self.path).map_err(failed)?;
        if self.config_path().exists() {
            Ok(())
        } else {
            write_whole(&self.config_path(), settings)
        }
    }

    /// Stores the node's process id.
    pub fn keep_pid(&self, pid: u32) -> Result<()> {
        write_whole(&self.pid_path(), &format!("{pid}\n"))
    }

    /// Whether a process id is stored, running or not.
    pub fn has_pid(&self) -> bool {
        self.pid_path().exists()
    }

    /// Deletes the stored process id.
    pub fn forget_pid(&self) {
        let removed = fs::remove_file(self.pid_path());
        if let Err(error) = removed.or_else(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(error)
            }
        }) {
            note(&format!(
                "warning: cannot remove {}: {error}",
                self.pid_path().display()
            ));
        }
    }

    /// The node's process, if one runs. A stored id that belongs to another program does not count.
    pub fn running(&self) -> Option<u32> {
        let noted = fs::read_to_string(self.pid_path()).ok()?;
        let pid = noted.trim().parse().ok()?;
        self.is_process(pid).then_some(pid)
    }

    /// Whether this process is the node: `jangada server --config <its settings>`.
    pub fn is_process(&self, pid: u32) -> bool {
        // A zombie has an empty command line.
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
            return false;
        };
        runs_from(&line, &self.config_path())
    }

    /// Sends the node's process a signal. A process that is gone already is no error.
    fn signal(&self, pid: u32, signal: Signal) {
        let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return;
        };
        if !self.is_process(pid) {
            return;
        }
        if let Err(error) = kill_process(target, signal) {
            note(&format!(
                "warning: cannot signal node {} (process {pid}): {error}",
                self.id
            ));
        }
    }
}

/// Whether a command line, in the form of /proc, is that of a broker with these settings.
fn runs_from(command_line: &[u8], config: &Path) -> bool {
    let mut words = command_line.split(|byte| *byte == 0).skip(1);
    words.next() == Some(b"server") && words.any(|word| word == config.as_os_str().as_encoded_bytes())
}

/// Stops processes: asks all, waits, and kills those that have not ended. `reap` collects children that ended.
pub async fn stop(nodes: &[(NodeDir, u32)], wait: Duration, mut reap: impl FnMut()) -> Result<()> {
    for (node, pid) in nodes {
        node.signal(*pid, Signal::TERM);
    }
    let mut left = wait_until_gone(nodes, wait, &mut reap).await;
    if !left.is_empty() {
        for (node, pid) in &left {
            note(&format!(
                "warning: node {} (process {pid}) has not stopped within {} s and is killed",
                node.id,
                wait.as_secs()
            ));
            node.signal(*pid, Signal::KILL);
        }
        left = wait_until_gone(&left, KILL_TIMEOUT, &mut reap).await;
    }
    for (node, _) in nodes
        .iter()
        .filter(|(node, _)| left.iter().all(|(other, _)| other.id != node.id))
    {
        node.forget_pid();
    }
    match left.first() {
        None => Ok(()),
        Some((node, pid)) => Err(
            CliError::new(format!("node {} (process {pid}) cannot be killed", node.id))
                .hint("it waits for its disk; see `dmesg`"),
        ),
    }
}

async fn wait_until_gone(nodes: &[(NodeDir, u32)], wait: Duration, reap: &mut impl FnMut()) -> Vec<(NodeDir, u32)> {
    let deadline = Instant::now() + wait;
    loop {
        reap();
        let left: Vec<_> = nodes
            .iter()
            .filter(|(node, pid)| node.is_process(*pid))
            .cloned()
            .collect();
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broker_with_the_same_settings_is_the_node() {
        let config = Path::new("/c/node-1/jangada.toml");
        let line = |words: &[&str]| words.join("\0").into_bytes();
        assert!(runs_from(
            &line(&["/bin/jangada", "server", "--config", "/c/node-1/jangada.toml", ""]),
            config
        ));
        assert!(!runs_from(
            &line(&["/bin/jangada", "server", "--config", "/c/node-2/jangada.toml", ""]),
            config
        ));
        assert!(!runs_from(&line(&["vi", "/c/node-1/jangada.toml", ""]), config));
        assert!(!runs_from(b"", config));
    }

    #[test]
    fn a_stale_process_id_is_not_the_node() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cluster = ClusterDir::create(directory.path()).expect("the directory");
        let node = cluster.nodes(ClusterPlan { nodes: 1, port: 9400 }).remove(0);
        node.prepare("broker_id = 1\n").expect("the node's directory");
        assert_eq!(node.running(), None);
        // This test's own process: it runs, and is not the node.
        node.keep_pid(std::process::id()).expect("the pid file");
        assert_eq!(node.running(), None);
        node.forget_pid();
        assert!(!node.has_pid());
    }

    #[test]
    fn the_plan_and_the_settings_are_kept() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cluster = ClusterDir::create(directory.path()).expect("the directory");
        assert_eq!(cluster.plan().expect("no plan yet"), None);
        let plan = ClusterPlan { nodes: 3, port: 9500 };
        cluster.keep_plan(plan).expect("the plan");
        assert_eq!(ClusterDir::open(directory.path()).expect("the cluster").1, plan);
        let node = cluster.nodes(plan).remove(2);
        node.prepare("one").expect("the settings");
        node.prepare("two").expect("the settings");
        assert_eq!(fs::read_to_string(node.config_path()).expect("the settings"), "one");
    }

    #[test]
    fn one_at_a_time_works_in_a_directory() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cluster = ClusterDir::create(directory.path()).expect("the directory");
        let held = cluster.lock().expect("nobody else is there");
        assert!(cluster.lock().expect_err("it is held").to_string().contains("another"));
        drop(held);
        cluster.lock().expect("it is free again");
    }
}
