//! `jangada up`: a cluster on this machine, one process for each node.
//!
//! Ports are checked before anything is started. If a start fails, the nodes that this command started are stopped
//! again: it leaves a healthy cluster or no new process.

mod health;
mod layout;
mod node;
mod processes;

use std::env;
use std::ffi::OsStr;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use jangada_broker::settings::Layers;
use tokio::signal::unix::{SignalKind, signal};

use self::layout::Ports;
use self::node::Node;
use self::processes::Processes;
use super::node::{ClusterDir, ClusterPlan};
use crate::brokers::{Brokers, DEFAULT_DIR, withdraw};
use crate::cli::{BrokersArgs, UpArgs};
use crate::errors::{CliError, Result};
use crate::note::note;
use crate::output::print_text;

/// Number of nodes of a new cluster by default.
const NODES_DEFAULT: u16 = 3;

/// The first port of a new cluster by default.
const PORT_DEFAULT: u16 = 9400;

/// Timeout of a node's stop, after which it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval between two polls whether the nodes still run.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

pub async fn run(args: &UpArgs) -> Result<()> {
    let mut stop = Stop::new()?;
    let directory = ClusterDir::create(&args.dir)?;
    let lock = directory.lock()?;
    let kept = directory.plan()?;
    let plan = plan(args, kept)?;
    if kept.is_none() {
        // Checked before anything is written: the same directory can then be tried with another port.
        (1..=plan.nodes).try_for_each(|id| check_ports(id, &Ports::of(plan, id).addresses()))?;
    }
    let nodes = prepare(&directory, plan)?;

    let mut processes = Processes::find(&nodes);
    let missing: Vec<&Node> = nodes.iter().filter(|node| !processes.has(node.directory.id)).collect();
    missing
        .iter()
        .try_for_each(|node| check_ports(node.directory.id, &node.addresses()))?;
    if missing.is_empty() {
        note(&format!("all {} nodes run already", nodes.len()));
    }
    let started = tokio::select! {
        started = start(&mut processes, &missing, &nodes, args.wait) => started,
        () = stop.asked() => Err(CliError::new("interrupted")),
    };
    let cluster_id = match started {
        Ok(cluster_id) => cluster_id,
        Err(error) => {
            // The first error, why the cluster did not start, is returned; a failure to stop is reported before it.
            if let Err(stopping) = processes.stop_started(STOP_TIMEOUT).await {
                note(&format!("warning: not all that was started is stopped: {stopping}"));
            }
            return Err(error);
        }
    };
    directory.keep_brokers(&public_addresses(&nodes), &cluster_id)?;
    drop(lock);
    let this = env::current_exe()?;
    let program = program(&this, env::var_os("PATH").as_deref());
    print_text(&guide(&program, args, &nodes))?;
    if args.detach {
        return Ok(());
    }
    note("Ctrl-C stops the cluster.");
    stay(processes, stop, &directory).await
}

/// The plan to run: the one that the directory was made with, or for a new one the plan of the flags.
fn plan(args: &UpArgs, kept: Option<ClusterPlan>) -> Result<ClusterPlan> {
    let Some(kept) = kept else {
        return Ok(ClusterPlan {
            nodes: args.nodes.unwrap_or(NODES_DEFAULT),
            port: args.port.unwrap_or(PORT_DEFAULT),
        });
    };
    let differs = |what: &str, kept: u16, asked: u16| {
        let message = format!("the cluster in {} has {what} {kept}, not {asked}", args.dir.display());
        CliError::usage(message).hint("leave the flag out, or take another --dir for another cluster")
    };
    match (args.nodes, args.port) {
        (Some(nodes), _) if nodes != kept.nodes => Err(differs("a number of nodes of", kept.nodes, nodes)),
        (_, Some(port)) if port != kept.port => Err(differs("the first port", kept.port, port)),
        _ => Ok(kept),
    }
}

/// Makes the directories and files that are missing, and reads the settings.
fn prepare(directory: &ClusterDir, plan: ClusterPlan) -> Result<Vec<Node>> {
    directory.keep_plan(plan)?;
    let mut nodes = Vec::new();
    for node in directory.nodes(plan) {
        node.prepare(&layout::settings(plan, node.id))?;
        let loaded = Layers::of_process(Some(&node.config_path()), &[]).load();
        let loaded = loaded.map_err(|error| CliError::from(error).doing(format!("settings of node {}", node.id)))?;
        nodes.push(Node {
            directory: node,
            settings: loaded.settings,
        });
    }
    Ok(nodes)
}

/// Most attempts to bind a port. A node that was killed a moment ago frees its ports only when the last of its threads
/// has ended.
const PORT_ATTEMPTS_MAX: u32 = 40;
/// Delay between two attempts.
const PORT_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Binds the address and closes the socket again.
fn try_port(address: &str) -> io::Result<()> {
    let mut tries = 1;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < PORT_ATTEMPTS_MAX => {
                tries += 1;
                thread::sleep(PORT_RETRY_INTERVAL);
            }
            other => return other.map(drop),
        }
    }
}

/// Fails if a node that is to start cannot have one of its addresses.
fn check_ports(id: u16, addresses: &[(&str, String)]) -> Result<()> {
    for (key, address) in addresses {
        if let Err(error) = try_port(address) {
            let message =
                format!("node {id} cannot listen on {address} (listeners.{key}): {error}; no node was started");
            let hint = "stop what uses the port (`ss -ltnp` tells), `jangada down --dir DIR` if it is another cluster, \
                        or choose --port with a new --dir";
            return Err(CliError::new(message).hint(hint));
        }
    }
    Ok(())
}

/// Starts the missing nodes; returns the cluster's id when it is healthy.
async fn start(processes: &mut Processes, missing: &[&Node], all: &[Node], wait: Duration) -> Result<String> {
    for node in missing {
        processes.spawn(&node.directory)?;
    }
    health::wait_until_healthy(processes, all, wait).await
}

/// The command by which a shell with this PATH runs this program.
fn program(this: &Path, path: Option<&OsStr>) -> String {
    let files = path
        .into_iter()
        .flat_map(env::split_paths)
        .map(|folder| folder.join("jangada"));
    let found = files
        .filter_map(|file| file.canonicalize().ok())
        .find(|file| file.is_file());
    match found {
        Some(found) if this.canonicalize().is_ok_and(|this| this == found) => "jangada".to_owned(),
        _ => word(this),
    }
}

/// A path as one word of a shell's command.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// The addresses where clients reach the nodes.
fn public_addresses(nodes: &[Node]) -> Vec<String> {
    let address = |node: &Node| node.settings.listeners.public().address().to_owned();
    nodes.iter().map(address).collect()
}

/// The commands for producing and consuming, to be pasted into a shell. Brokers are named only if a command would not
/// find them by itself.
fn guide(program: &str, args: &UpArgs, nodes: &[Node]) -> String {
    let addresses = public_addresses(nodes);
    let brokers = match Brokers::find(&BrokersArgs::default()) {
        Ok(found) if found.addresses == addresses => String::new(),
        _ => format!(" --brokers {}", addresses.join(",")),
    };
    let replicas = nodes.len().min(3);
    let mut down = format!("{program} down");
    if args.dir.as_os_str() != DEFAULT_DIR {
        down.push_str(&format!(" --dir {}", word(&args.dir)));
    }
    format!(
        "The cluster is up: {} nodes at {}.\n\n  \
         {program} topic create hello --partitions 3 --replicas {replicas}{brokers}\n  \
         echo 'hello, world' | {program} produce hello{brokers}\n  \
         {program} consume hello --exit-at-end{brokers}\n  \
         {down}\n\n\
         Settings, data and logs: {}/node-*\n",
        nodes.len(),
        addresses.join(", "),
        args.dir.display(),
    )
}

/// Waits until asked to stop, and stops the cluster then; or until all nodes have ended.
async fn stay(mut processes: Processes, mut stop: Stop, directory: &ClusterDir) -> Result<()> {
    loop {
        tokio::select! {
            () = stop.asked() => {
                note("stopping the cluster");
                let _lock = directory.lock();
                withdraw(&directory.brokers_path());
                return processes.stop_all(STOP_TIMEOUT).await;
            }
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        let ended = processes.ended();
        for node in &ended {
            let advice = format!(
                "its log is {}; `jangada up` on the same directory starts it again",
                node.directory.log_path().display()
            );
            match node.stopped {
                true => note(&format!("node {} was stopped", node.directory.id)),
                false => note(&format!(
                    "warning: node {} has ended{}; {advice}",
                    node.directory.id, node.status
                )),
            }
        }
        if processes.is_empty() {
            return match ended.iter().all(|node| node.stopped) {
                true => Ok(()),
                false => Err(CliError::new("all nodes have ended").hint("their logs tell why: DIR/node-*/log")),
            };
        }
    }
}

/// The signals that end `up`.
struct Stop {
    signals: [tokio::signal::unix::Signal; 3],
}

impl Stop {
    fn new() -> Result<Stop> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Ok(Stop {
            signals: [signal(kinds[0])?, signal(kinds[1])?, signal(kinds[2])?],
        })
    }

    async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    fn args(nodes: Option<u16>, port: Option<u16>) -> UpArgs {
        UpArgs {
            nodes,
            port,
            dir: PathBuf::from("d"),
            detach: true,
            wait: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_new_cluster_takes_flags_or_defaults() {
        assert_eq!(
            plan(&args(None, None), None).expect("a plan"),
            ClusterPlan { nodes: 3, port: 9400 }
        );
        assert_eq!(
            plan(&args(Some(5), Some(9500)), None).expect("a plan"),
            ClusterPlan { nodes: 5, port: 9500 }
        );
    }

    #[test]
    fn an_old_cluster_keeps_what_it_has() {
        let kept = ClusterPlan { nodes: 5, port: 9500 };
        assert_eq!(plan(&args(None, None), Some(kept)).expect("a plan"), kept);
        assert_eq!(plan(&args(Some(5), Some(9500)), Some(kept)).expect("a plan"), kept);
        let nodes = plan(&args(Some(3), None), Some(kept))
            .expect_err("another number")
            .to_string();
        assert!(nodes.contains("a number of nodes of 5, not 3"), "{nodes}");
        let port = plan(&args(None, Some(9400)), Some(kept))
            .expect_err("another port")
            .to_string();
        assert!(port.contains("the first port 9500, not 9400"), "{port}");
    }

    #[test]
    fn the_guide_names_the_program_as_a_shell_finds_it() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let folder = folder.path().canonicalize().expect("it is there");
        let (built, linked, other) = (folder.join("built it"), folder.join("linked"), folder.join("other"));
        for folder in [&built, &linked, &other] {
            fs::create_dir(folder).expect("the directory is ours");
        }
        let this = built.join("jangada");
        fs::write(&this, "").expect("the directory is ours");
        fs::write(other.join("jangada"), "").expect("the directory is ours");
        symlink(&this, linked.join("jangada")).expect("the directory is ours");
        let called = |folders: &[&Path]| program(&this, Some(&env::join_paths(folders).expect("no colons")));
        assert_eq!(called(&[&folder, &built, &other]), "jangada");
        assert_eq!(called(&[&linked]), "jangada");
        let path = format!("'{}'", this.display());
        assert_eq!(called(&[&folder]), path);
        assert_eq!(called(&[&other, &built]), path);
        assert_eq!(program(&this, None), path);
    }

    #[test]
    fn a_port_in_use_is_named_with_its_node() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("an address").to_string();
        let free = || "127.0.0.1:0".to_owned();
        let addresses = [("public", free()), ("internal", address.clone()), ("http", free())];
        let error = check_ports(1, &addresses).expect_err("the port is taken").to_string();
        assert!(
            error.contains("node 1")
                && error.contains("listeners.internal")
                && error.contains(&address)
                && error.contains("no node was started"),
            "{error}"
        );
    }
}
