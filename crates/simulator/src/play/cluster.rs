//! The brokers of a scenario: their hosts, and the processes that run there.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::host::Host;
use crate::process::Process;
use crate::rocks::RocksDisks;
use crate::simulation::Simulation;

/// Where a broker listens for other brokers.
const INTERNAL_PORT: u16 = 9440;
/// Where a broker listens for clients.
const PUBLIC_PORT: u16 = 9400;

/// So long after nothing is between brokers any more all of them have heard of what the others know.
const TOGETHER: Duration = Duration::from_secs(3);

/// The brokers, each at a host of its own, and the hosts of clients. Brokers have the ids 1, 2, and so on.
pub struct Cluster {
    sim: Arc<Simulation>,
    hosts: Vec<Host>,
    seeds: Vec<String>,
    /// `section.key=value`, for all brokers alike.
    settings: Vec<String>,
    processes: RefCell<BTreeMap<u32, Process>>,
    /// Brokers that are being started.
    starting: RefCell<BTreeSet<u32>>,
    clients: RefCell<BTreeMap<String, Host>>,
    /// Where the stores are, if they are RocksDB.
    rocks: Option<RocksDisks>,
    /// Faults under way that may keep brokers from hearing each other.
    apart: Cell<u32>,
    /// When the last of these has ended.
    together: Cell<Option<Instant>>,
}

impl Cluster {
    /// Hosts for so many brokers. Nothing runs yet. With `rocks` their stores are there, and else in memory.
    pub(crate) fn new(sim: &Arc<Simulation>, brokers: u32, settings: &[String], rocks: Option<RocksDisks>) -> Self {
        let hosts: Vec<Host> = (1..=brokers)
            .map(|broker| sim.host(&format!("broker-{broker}")))
            .collect();
        if let Some(rocks) = &rocks {
            hosts.iter().for_each(|host| rocks.install(host));
        }
        Self {
            rocks,
            sim: sim.clone(),
            seeds: hosts.iter().map(|host| host.at(INTERNAL_PORT)).collect(),
            hosts,
            settings: settings.to_vec(),
            processes: RefCell::default(),
            starting: RefCell::default(),
            clients: RefCell::default(),
            apart: Cell::new(0),
            together: Cell::new(None),
        }
    }

    /// A fault begins that may keep brokers from hearing each other.
    pub(crate) fn part(&self) {
        self.apart.set(self.apart.get() + 1);
    }

    /// Such a fault has ended.
    pub(crate) fn join(&self) {
        self.apart.set(self.apart.get() - 1);
        self.together.set(Some(Instant::now()));
    }

    /// Waits until all brokers that run have heard of what the others know: while one is cut off, or stands still, it may answer clients by
    /// what it knew before, as the others do not wait for it.
    pub async fn together(&self) {
        let is_late = |at: Instant| at.elapsed() < TOGETHER;
        while self.apart.get() > 0 || self.together.get().is_some_and(is_late) {
            sleep(TOGETHER / 30).await;
        }
    }

    /// How many brokers there are.
    pub fn brokers(&self) -> u32 {
        u32::try_from(self.hosts.len()).expect("a handful")
    }

    /// The ids of all brokers.
    pub fn ids(&self) -> impl Iterator<Item = u32> + use<> {
        1..=self.brokers()
    }

    /// Where clients find the brokers.
    pub fn addresses(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.at(PUBLIC_PORT)).collect()
    }

    /// The machine of a broker.
    ///
    /// # Panics
    /// There is no broker of this id.
    pub fn host(&self, broker: u32) -> &Host {
        &self.hosts[broker as usize - 1]
    }

    /// The machines of all brokers, in order of their ids.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A machine for clients; the same one for the same name.
    pub fn client_host(&self, name: &str) -> Host {
        let mut clients = self.clients.borrow_mut();
        clients
            .entry(name.to_owned())
            .or_insert_with(|| self.sim.host(name))
            .clone()
    }

    /// The machines of all clients so far, in order of their names.
    pub(crate) fn client_hosts(&self) -> Vec<Host> {
        self.clients.borrow().values().cloned().collect()
    }

    /// Whether the broker's process runs.
    pub fn is_running(&self, broker: u32) -> bool {
        self.processes.borrow().get(&broker).is_some_and(Process::is_running)
    }

    /// The brokers that run.
    pub fn running(&self) -> Vec<u32> {
        self.ids().filter(|broker| self.is_running(*broker)).collect()
    }

    /// Starts a broker, unless it runs.
    ///
    /// # Errors
    /// It refuses to start, in its own words.
    pub(crate) async fn start(&self, broker: u32) -> Result<(), String> {
        if self.is_running(broker) || !self.starting.borrow_mut().insert(broker) {
            return Ok(());
        }
        let started = self.boot(broker).await;
        self.starting.borrow_mut().remove(&broker);
        started
    }

    async fn boot(&self, broker: u32) -> Result<(), String> {
        // What is left of the process before goes first: it may still hold the addresses.
        drop(self.processes.borrow_mut().remove(&broker));
        let others: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let host = self.host(broker);
        let settings = host
            .settings(broker, &self.seeds, &others)
            .map_err(|error| error.to_string())?;
        self.sim.note(format_args!("broker {broker} starts"));
        let process = host.boot(settings).await?;
        self.processes.borrow_mut().insert(broker, process);
        Ok(())
    }

    /// Does something with the broker's process, if it runs. False: it does not.
    pub(crate) fn with(&self, broker: u32, act: impl FnOnce(&Process)) -> bool {
        let processes = self.processes.borrow();
        let running = processes.get(&broker).filter(|process| process.is_running());
        running.map(act).is_some()
    }

    /// Kills a broker, at once. False: it did not run.
    pub(crate) fn kill(&self, broker: u32) -> bool {
        let killed = self.with(broker, Process::kill);
        if killed {
            self.sim.note(format_args!("broker {broker} is killed"));
        }
        killed
    }

    /// A broker's machine loses power, at once: what it has not synced may be lost, and nobody is told that it is gone. False: it did not
    /// run.
    pub(crate) fn power_off(&self, broker: u32) -> bool {
        let cut = self.with(broker, Process::power_off);
        if cut {
            self.sim.note(format_args!("broker {broker} has no power"));
        }
        cut
    }

    /// Takes a new, empty machine for a broker that does not run.
    ///
    /// # Errors
    /// The system's, of stores that are RocksDB.
    pub(crate) fn wipe(&self, broker: u32) -> Result<(), String> {
        let host = self.host(broker);
        host.wipe();
        let wiped = self.rocks.as_ref().map_or(Ok(()), |rocks| rocks.wipe(host));
        wiped.map_err(|error| error.to_string())
    }

    /// Stops a broker in order. False: it did not run.
    ///
    /// # Errors
    /// It does not end, or ends with an error.
    pub(crate) async fn stop(&self, broker: u32) -> Result<bool, String> {
        if !self.is_running(broker) {
            return Ok(false);
        }
        let process = self.processes.borrow().get(&broker).cloned().expect("it runs");
        self.sim.note(format_args!("broker {broker} is to stop"));
        let stopped = process.stop().await;
        self.sim.note(format_args!("broker {broker} has stopped: {stopped:?}"));
        stopped.map(|()| true)
    }

    /// Why the broker's process has ended by itself, if it has.
    pub(crate) fn end(&self, broker: u32) -> Option<String> {
        self.processes.borrow().get(&broker).and_then(Process::end)
    }
}
