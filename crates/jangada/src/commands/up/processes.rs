//! The processes of a cluster: those that `up` started, and those that ran before.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::super::node::{NodeDir, stop};
use super::node::Node;
use crate::errors::{CliError, Result};

/// Number of lines of a node's log that an error shows.
const LOG_LINES: usize = 5;

/// Bytes at the end of the log that are read for them.
const LOG_BYTES: u64 = 16 * 1024;

/// The running nodes.
pub struct Processes {
    running: Vec<Running>,
}

struct Running {
    node: NodeDir,
    pid: u32,
    /// The child process; present if this command started it.
    child: Option<Child>,
}

/// A node that does not run any more.
pub struct Ended {
    pub directory: NodeDir,
    /// How the process ended, if known; to be put after "has ended".
    pub status: String,
    /// Whether it was stopped by `jangada down`.
    pub stopped: bool,
}

impl Processes {
    /// The nodes that run already.
    pub fn find(nodes: &[Node]) -> Processes {
        let running = nodes.iter().filter_map(|node| {
            let pid = node.directory.running()?;
            Some(Running {
                node: node.directory.clone(),
                pid,
                child: None,
            })
        });
        Processes {
            running: running.collect(),
        }
    }

    /// Whether this node runs.
    pub fn has(&self, id: u16) -> bool {
        self.running.iter().any(|running| running.node.id == id)
    }

    /// Whether no node runs.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts a node: in a process group of its own, so that Ctrl-C reaches only `up`, which then stops the nodes in
    /// order.
    pub fn spawn(&mut self, node: &NodeDir) -> Result<()> {
        let failed =
            |what: &str, error: io::Error| CliError::new(format!("cannot start node {}: {what}: {error}", node.id));
        let program = std::env::current_exe().map_err(|error| failed("finding this program", error))?;
        let log = File::options().create(true).append(true).open(node.log_path());
        let log = log.map_err(|error| failed("opening its log", error))?;
        let errors = log.try_clone().map_err(|error| failed("opening its log", error))?;
        let mut command = Command::new(program);
        command.arg("server").arg("--config").arg(node.config_path());
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let child = command.spawn().map_err(|error| failed("starting the process", error))?;
        let pid = child.id();
        self.running.push(Running {
            node: node.clone(),
            pid,
            child: Some(child),
        });
        node.keep_pid(pid)
    }

    /// Removes and returns the nodes that have ended since the last call.
    pub fn ended(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.running.retain_mut(|running| {
            let Some(status) = running.end() else { return true };
            let stopped = !running.node.has_pid();
            if !stopped {
                running.node.forget_pid();
            }
            ended.push(Ended {
                directory: running.node.clone(),
                status,
                stopped,
            });
            false
        });
        ended
    }

    /// Fails if a node has ended, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        let Some(ended) = self.ended().into_iter().next() else {
            return Ok(());
        };
        let message = format!(
            "node {} has ended{} while the cluster started\n{}",
            ended.directory.id,
            ended.status,
            log_end(&ended.directory)
        );
        Err(CliError::new(message).hint(format!("its log is {}", ended.directory.log_path().display())))
    }

    /// Stops the nodes that this command started.
    pub async fn stop_started(&mut self, wait: Duration) -> Result<()> {
        self.running.retain(|running| running.child.is_some());
        self.stop_all(wait).await
    }

    /// Stops all nodes.
    pub async fn stop_all(&mut self, wait: Duration) -> Result<()> {
        let nodes: Vec<_> = self
            .running
            .iter()
            .map(|running| (running.node.clone(), running.pid))
            .collect();
        let running = &mut self.running;
        stop(&nodes, wait, || {
            for node in running.iter_mut() {
                node.end();
            }
        })
        .await
    }
}

impl Running {
    /// How the process ended, if it has. Collects a child, which is a zombie until then.
    fn end(&mut self) -> Option<String> {
        match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(Some(status)) => Some(format!(" ({status})")),
                _ => None,
            },
            None => (!self.node.is_process(self.pid)).then(String::new),
        }
    }
}

/// The last lines of a node's log, indented.
fn log_end(node: &NodeDir) -> String {
    let end = read_end(&node.log_path()).unwrap_or_default();
    let text = String::from_utf8_lossy(&end);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    last.iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn read_end(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut end = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut end)?;
    Ok(end)
}
