//! One machine of a simulation.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use jangada_broker::Broker;
use jangada_broker::settings::{BrokerSettings, Layers, SettingsError};
use jangada_client::{Client, ClientConfig, ClientError};
use jangada_env::{Blocking, Env, Network, Random};
use jangada_storage::StoreFactory;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::clock::HostClock;
use crate::current::Who;
use crate::disk::{Disk, DiskImage};
use crate::driver::Driver;
use crate::files::MemoryFiles;
use crate::network::{Addressed, HostNetwork};
use crate::process::{Kill, Process};
use crate::trace::Trace;

/// Hears of the end of a host's processes, before their tasks are dropped.
pub type OnKill = Box<dyn Fn(Kill) + Send + Sync>;

/// One machine of a simulation. Its clock, files and disk outlive what runs there. Clones are the same machine.
#[derive(Clone)]
pub struct Host(Arc<Machine>);

struct Machine {
    name: String,
    address: Ipv4Addr,
    driver: Arc<Driver>,
    trace: Trace,
    random: Random,
    clock: Arc<HostClock>,
    files: Arc<MemoryFiles>,
    disk: Disk,
    stores: Mutex<Option<Arc<dyn StoreFactory>>>,
    on_kill: Arc<Mutex<Option<OnKill>>>,
    process: Mutex<Option<Process>>,
}

impl Host {
    pub(crate) fn new(name: &str, address: Ipv4Addr, driver: &Arc<Driver>, trace: Trace, random: Random) -> Self {
        let files = Arc::new(MemoryFiles::default());
        Self(Arc::new(Machine {
            name: name.to_owned(),
            address,
            driver: driver.clone(),
            trace,
            clock: Arc::new(HostClock::new(driver.time.clone())),
            disk: Disk::new(files.clone(), random.fork()),
            files,
            random,
            stores: Mutex::default(),
            on_kill: Arc::default(),
            process: Mutex::default(),
        }))
    }

    /// The name that the test gave it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its address in the network.
    pub fn address(&self) -> Ipv4Addr {
        self.0.address
    }

    /// Its address, with a port.
    pub fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.0.address)
    }

    /// Its wall clock.
    pub fn clock(&self) -> &HostClock {
        &self.0.clock
    }

    /// What its store and its small files lie on.
    pub fn disk(&self) -> &Disk {
        &self.0.disk
    }

    /// What a program of the play there takes for the world.
    pub fn env(&self) -> Env {
        self.env_of(self.0.driver.play())
    }

    fn env_of(&self, who: &Arc<Who>) -> Env {
        let network = HostNetwork::new(self.0.driver.net.clone(), self.0.address, who.clone());
        Env {
            clock: self.0.clock.clone(),
            random: self.0.random.fork(),
            network: Network::Simulated(Arc::new(network)),
            files: self.0.files.clone(),
            blocking: Blocking::Inline,
        }
    }

    /// Settings of a broker there: the defaults, and those that are given as `section.key=value`. It listens at ports 9400 (clients),
    /// 9440 (brokers) and 9480 (probes) of the host.
    ///
    /// # Errors
    /// A setting is none, or out of bounds.
    pub fn settings(&self, broker: u32, seeds: &[String], others: &[&str]) -> Result<BrokerSettings, SettingsError> {
        let mut flags = vec![
            format!("broker_id={broker}"),
            "data_dir=/data".to_owned(),
            format!("seeds={}", seeds.join(",")),
        ];
        for (listener, port) in [("public", 9400), ("internal", 9440), ("http", 9480)] {
            flags.push(format!("listeners.{listener}.bind={}", self.at(port)));
        }
        flags.extend(others.iter().map(|flag| (*flag).to_owned()));
        let layers = Layers {
            flags,
            ..Layers::default()
        };
        Ok(layers.load()?.settings)
    }

    /// From now on brokers there get their store from this factory; none: from the disk.
    pub fn set_stores(&self, stores: Option<Arc<dyn StoreFactory>>) {
        *self.0.stores.lock() = stores;
    }

    /// From now on this hears when a process there is killed, or has ended.
    pub fn on_kill(&self, on_kill: Option<OnKill>) {
        *self.0.on_kill.lock() = on_kill;
    }

    /// The process that was started there last.
    pub fn process(&self) -> Option<Process> {
        self.0.process.lock().clone()
    }

    /// Starts a broker in a process of its own. It runs until it is stopped or killed, or ends by itself ([`Process::end`]).
    ///
    /// # Errors
    /// Another process runs there. The broker refuses to start, in its own words; or it was killed before it had started.
    pub async fn boot(&self, settings: BrokerSettings) -> Result<Process, String> {
        if self.process().is_some_and(|process| process.is_running()) {
            return Err(format!("a process runs on {}", self.0.name));
        }
        self.0.trace.note(format_args!("{} boots", self.0.name));
        self.0.driver.net.power_on(self.0.address);
        let slot = self.0.driver.process(&self.0.name, self.0.random.number());
        let (stop, stopped) = oneshot::channel();
        let process = Process::new(slot.clone(), self.0.trace.clone(), stop, self.cut_off(slot.who.id));
        *self.0.process.lock() = Some(process.clone());
        self.0.disk.on_kill(process.killer());
        let env = self.env_of(&slot.who);
        let other = self.0.stores.lock().clone();
        let stores = other.unwrap_or_else(|| Arc::new(self.0.disk.clone()));
        let (tell, told) = oneshot::channel();
        slot.spawn(async move {
            let broker = match Broker::start(settings, env, stores).await {
                Ok(broker) => broker,
                Err(error) => {
                    let _ = tell.send(Err(error.to_string()));
                    return Err(error.to_string());
                }
            };
            let _ = tell.send(Ok(()));
            let run = broker.run_until(async move { drop(stopped.await) });
            run.await.map_err(|error| error.to_string())
        });
        self.0.driver.begin(slot, process.clone());
        match told.await {
            Ok(started) => started.map(|()| process),
            Err(_) => Err("it was killed before it had started".to_owned()),
        }
    }

    /// Cuts a process there off from everything.
    fn cut_off(&self, process: u32) -> Box<dyn Fn(Kill) + Send + Sync> {
        let (net, address) = (self.0.driver.net.clone(), self.0.address);
        let (disk, random, on_kill) = (self.0.disk.clone(), self.0.random.fork(), self.0.on_kill.clone());
        Box::new(move |kill| {
            net.kill(process, address, kill == Kill::Power);
            match kill {
                Kill::Process => disk.close(&random),
                Kill::Power => disk.lose_power(&random),
            };
            if let Some(on_kill) = &*on_kill.lock() {
                on_kill(kill);
            }
        })
    }

    fn kill(&self) {
        if let Some(process) = self.process() {
            process.kill();
        }
    }

    /// Makes a new machine of it, with nothing on its disk. A process that runs there is killed.
    pub fn wipe(&self) {
        self.kill();
        self.0.trace.note(format_args!("{} is wiped", self.0.name));
        self.0.disk.wipe();
    }

    /// What is on its disk now, as far as it is synced.
    pub fn copy(&self) -> DiskImage {
        self.0.disk.copy()
    }

    /// Puts back what was on its disk once. A process that runs there is killed.
    pub fn put_back(&self, image: &DiskImage) {
        self.kill();
        self.0.trace.note(format_args!("{} gets an old disk", self.0.name));
        self.0.disk.put_back(image);
    }

    /// Connects a client there, in the runtime of the play.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(&self, config: ClientConfig) -> Result<Client, ClientError> {
        Client::connect_in(config, self.env()).await
    }
}

impl Addressed for Host {
    fn address(&self) -> Ipv4Addr {
        self.0.address
    }

    fn name(&self) -> &str {
        &self.0.name
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Host").field(&self.0.name).finish()
    }
}
