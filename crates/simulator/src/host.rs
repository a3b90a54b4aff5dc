//! One machine of a simulation.

use std::net::Ipv4Addr;
use std::sync::Arc;

use jangada_broker::settings::{BrokerSettings, Layers, SettingsError};
use jangada_broker::{Broker, StartError};
use jangada_client::{Client, ClientConfig, ClientError};
use jangada_env::{Blocking, Env, Files, Network, Random};
use jangada_storage::MemoryDisk;
use tokio::time::Instant;

use crate::clock::HostClock;
use crate::files::MemoryFiles;
use crate::network::{HostNetwork, Net};

/// One machine of a simulation. Its clock, files and disk outlive what runs there.
pub struct Host {
    name: String,
    address: Ipv4Addr,
    net: Arc<Net>,
    random: Random,
    clock: Arc<HostClock>,
    files: Arc<dyn Files>,
    disk: MemoryDisk,
}

impl Host {
    pub(crate) fn new(name: &str, address: Ipv4Addr, net: &Arc<Net>, random: Random, began: Instant) -> Self {
        Self {
            name: name.to_owned(),
            address,
            net: net.clone(),
            random,
            clock: Arc::new(HostClock::new(began)),
            files: Arc::new(MemoryFiles::default()),
            disk: MemoryDisk::new(),
        }
    }

    /// The name that the test gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address, with a port.
    pub fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.address)
    }

    /// Its wall clock.
    pub fn clock(&self) -> &HostClock {
        &self.clock
    }

    /// The disk of its store.
    pub fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    /// What a program there takes for the world.
    pub fn env(&self) -> Env {
        Env {
            clock: self.clock.clone(),
            random: self.random.fork(),
            network: Network::Simulated(Arc::new(HostNetwork::new(self.net.clone(), self.address))),
            files: self.files.clone(),
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

    /// Starts a broker there.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub async fn start(&self, settings: BrokerSettings) -> Result<Broker, StartError> {
        Broker::start(settings, self.env(), Arc::new(self.disk.clone())).await
    }

    /// Connects a client there.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(&self, config: ClientConfig) -> Result<Client, ClientError> {
        Client::connect_in(config, self.env()).await
    }
}
