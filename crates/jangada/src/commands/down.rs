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
            // What a killed node left behind.
            None => node.forget_pid(),
        }
    }
    // From elsewhere nobody is led here any more. The cluster's own list of brokers stays: it is there again when the cluster is.
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
