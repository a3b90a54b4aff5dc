//! Waits until a started cluster takes work.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::cluster::problems;
use super::node::Node;
use super::processes::Processes;
use crate::brokers::Brokers;
use crate::connect::connect_silently;
use crate::errors::{CliError, Result};
use crate::progress;

/// Interval between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Timeout of one poll of one node.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until every node is ready and the cluster is healthy; returns its id. Fails when a node ends, or when it takes
/// longer than `wait`.
pub async fn wait_until_healthy(processes: &mut Processes, nodes: &[Node], wait: Duration) -> Result<String> {
    let spinner = progress::waiting("starting the cluster");
    let deadline = Instant::now() + wait;
    let result = loop {
        if let Err(error) = processes.check() {
            break Err(error);
        }
        let missing = match what_is_missing(nodes).await {
            Ok(State::Missing(missing)) => missing,
            Ok(State::Healthy { cluster_id }) => break Ok(cluster_id),
            Err(error) => break Err(error),
        };
        if Instant::now() >= deadline {
            let message = format!(
                "the cluster is not healthy after {} s: {missing}; what this command started is stopped again",
                wait.as_secs()
            );
            break Err(CliError::unhealthy(message)
                .hint("the logs tell why: DIR/node-*/log; --wait SECONDS gives it more time"));
        }
        spinner.set_message(missing);
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    spinner.finish_and_clear();
    result
}

/// The state of a starting cluster.
enum State {
    /// The cluster does not take work yet; the text says what is missing.
    Missing(String),
    /// The cluster takes work.
    Healthy { cluster_id: String },
}

/// Finds out what is missing until the cluster takes work. Fails on errors that waiting does not correct: an address
/// that is none.
async fn what_is_missing(nodes: &[Node]) -> Result<State> {
    for node in nodes {
        let why = match timeout(POLL_TIMEOUT, not_ready(&node.settings.listeners.http().bind)).await {
            Ok(Ok(None)) => continue,
            Ok(Ok(Some(why))) => why,
            Ok(Err(_)) | Err(_) => "not ready: it does not answer".to_owned(),
        };
        return Ok(State::Missing(format!("node {} is {why}", node.directory.id)));
    }
    let brokers = nodes
        .iter()
        .map(|node| node.settings.listeners.public().address().to_owned())
        .collect();
    let client = match connect_silently(&Brokers::given(brokers), POLL_TIMEOUT).await {
        Ok(client) => client,
        Err(error) if error.is_usage() => return Err(error),
        Err(error) => return Ok(State::Missing(error.to_string())),
    };
    let cluster = match client.admin().describe_cluster().await {
        Ok(cluster) => cluster,
        Err(error) => return Ok(State::Missing(error.to_string())),
    };
    if cluster.brokers.len() < nodes.len() {
        return Ok(State::Missing(format!(
            "{} of {} nodes have joined",
            cluster.brokers.len(),
            nodes.len()
        )));
    }
    let problems = problems(&cluster);
    Ok(match problems.is_empty() {
        true => State::Healthy {
            cluster_id: cluster.cluster_id,
        },
        false => State::Missing(problems.join("; ")),
    })
}

/// Asks a node's /readyz. Returns its answer if it is not ready: `not ready: ...`.
async fn not_ready(address: &str) -> std::io::Result<Option<String>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&answer);
    let body = text.split_once("\r\n\r\n").map_or(&*text, |(_, body)| body);
    Ok(Some(body.trim().to_owned()))
}
