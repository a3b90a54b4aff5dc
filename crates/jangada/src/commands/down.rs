//! `jangada down`: stops the cluster of a directory.

use super::node::{ClusterDir, stop};
use crate::brokers::withdraw;
use crate::cli::DownArgs;
use crate::errors::Result;
use crate::note::note;
use crate::progress;

pub async fn run(args: &DownArgs) -> Result<()> {
    let (directory, plan) = ClusterDir::open(&args.dir)?;
    let _lock = directory.lock()?;
    let mut running = Vec::new();
    for node in directory.nodes(plan) {
        match node.running() {
            Some(pid) => running.push((node, pid)),
            // A killed node left its process id behind.
            None => node.forget_pid(),
        }
    }
    // Commands in other directories no longer find this cluster. Its own list of brokers stays, for when it runs again.
    withdraw(&directory.brokers_path());
    if running.is_empty() {
        note(&format!("no node runs in {}", directory.path().display()));
        return Ok(());
    }
    let spinner = progress::waiting("stopping");
    let stopped = stop(&running, args.wait, || {}).await;
    spinner.finish_and_clear();
    stopped?;
    note(&format!(
        "stopped {} nodes in {}",
        running.len(),
        directory.path().display()
    ));
    Ok(())
}
