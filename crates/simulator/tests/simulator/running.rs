//! Brokers that run in a simulation, and what two runs of a seed must be.

use std::time::Duration;

use jangada_simulator::{Host, Trace};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Of the simulation's time, of which an hour takes seconds.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// A broker that runs, and how it is stopped.
pub struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts a broker, and runs it until it is stopped.
    pub async fn start(host: &Host, broker: u32, seeds: &[String]) -> Self {
        let settings = host.settings(broker, seeds, &[]).expect("the settings are sound");
        let broker = host.start(settings).await.expect("nothing is in its way");
        let (stop, stopped) = oneshot::channel();
        let run = broker.run_until(async move { drop(stopped.await) });
        let task = tokio::spawn(async move { run.await.expect("it runs until it is stopped") });
        Self { stop, task }
    }

    /// Stops it, orderly.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let stopped = timeout(TIMEOUT, self.task).await;
        stopped.expect("it stops in time").expect("it does not panic");
    }
}

/// Two runs of one seed are the same, line by line.
pub fn assert_same(one: &Trace, again: &Trace) {
    if let Some((line, one, again)) = one.first_difference(again) {
        panic!("a seed gives two runs; line {line} of the trace is\n{one}\nand\n{again}");
    }
}
