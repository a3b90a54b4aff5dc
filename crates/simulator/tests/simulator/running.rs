//! Brokers that run in a simulation, and what two runs of a seed must be.

use std::time::Duration;

use jangada_simulator::{Host, Process, Simulation, Trace};

/// Of the simulation's time, of which an hour takes seconds.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Starts a broker.
pub async fn start(host: &Host, broker: u32, seeds: &[String]) -> Process {
    let settings = host.settings(broker, seeds, &[]).expect("the settings are sound");
    host.boot(settings).await.expect("nothing is in its way")
}

/// Stops a broker in order.
pub async fn stop(process: &Process) {
    let stopped = tokio::time::timeout(TIMEOUT, process.stop()).await;
    stopped.expect("it stops in time").expect("it runs until it is stopped");
}

/// Brokers from 1 on, each on a host of its own.
pub struct Brokers {
    pub hosts: Vec<Host>,
    pub seeds: Vec<String>,
}

impl Brokers {
    pub fn new(simulation: &Simulation, count: u32) -> Self {
        let hosts: Vec<Host> = (1..=count)
            .map(|broker| simulation.host(&format!("broker-{broker}")))
            .collect();
        let seeds = hosts.iter().map(|host| host.at(9440)).collect();
        Self { hosts, seeds }
    }

    pub fn host(&self, broker: u32) -> &Host {
        &self.hosts[broker as usize - 1]
    }

    pub async fn start(&self, broker: u32) -> Process {
        start(self.host(broker), broker, &self.seeds).await
    }

    pub async fn start_all(&self) -> Vec<Process> {
        let mut processes = Vec::new();
        for broker in 1..=u32::try_from(self.hosts.len()).expect("there are a few") {
            processes.push(self.start(broker).await);
        }
        processes
    }

    /// Where clients connect.
    pub fn addresses(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.at(9400)).collect()
    }
}

/// Two runs of one seed are the same, line by line.
pub fn assert_same(one: &Trace, again: &Trace) {
    if let Some((line, one, again)) = one.first_difference(again) {
        panic!("a seed gives two runs; line {line} of the trace is\n{one}\nand\n{again}");
    }
    assert_eq!(one.hash(), again.hash(), "the same lines have one hash");
}
