//! The listeners of a broker: bound before anything else, with what each may take, and what others are told of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Endpoint, Endpoints};

use crate::listener::descriptors::{Listeners, Shares, Wanted};
use crate::listener::{ConnectionMetrics, GateLimits, HTTP_IDLE, Listener, Protocol};
use crate::settings::{BrokerSettings, LimitSettings};

/// A listener's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the {listener} listener cannot use {address}: {source}; is another process using the port?")]
pub struct ListenError {
    /// Which.
    listener: String,
    /// Its address.
    address: String,
    /// What the system said.
    source: std::io::Error,
}

/// Where a broker really listens by the listeners that are always there: with port 0 the system chose.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For clients.
    pub public: SocketAddr,
    /// For brokers.
    pub internal: SocketAddr,
    /// For probes and metrics.
    pub http: SocketAddr,
}

/// How many connections a listener takes. No address gets all of them. Only clients are held to the setting: brokers need
/// their connections to each other whatever it says.
fn gate_limits(protocol: Protocol, shares: &Shares, settings: &LimitSettings) -> GateLimits {
    let places = match protocol {
        Protocol::Grpc => shares.public,
        Protocol::Internal => shares.internal,
        Protocol::Http => shares.http,
    };
    let total = usize::try_from(places).expect("usize has 64 bits");
    let share = (total / 4 * 3).max(1);
    GateLimits {
        total,
        per_address: match protocol {
            Protocol::Grpc => share.min(settings.connections_per_address_max as usize),
            Protocol::Internal | Protocol::Http => share,
        },
        idle: match protocol {
            Protocol::Grpc | Protocol::Internal => Duration::from_millis(settings.connection_idle_ms),
            Protocol::Http => HTTP_IDLE,
        },
    }
}

/// How many descriptors the store and the listeners want.
pub(crate) fn wanted(settings: &BrokerSettings) -> Wanted {
    let count = |protocol: Protocol| {
        let listeners = settings.listeners.iter();
        listeners.filter(|(_, listener)| listener.protocol == protocol).count() as u64
    };
    Wanted {
        store: u64::from(settings.storage.open_files_max),
        wal_recycled: u64::from(settings.storage.wal_recycled_files),
        public: u64::from(settings.limits.connections_max),
        listeners: Listeners {
            grpc: count(Protocol::Grpc),
            internal: count(Protocol::Internal),
            http: count(Protocol::Http),
        },
    }
}

/// Binds all listeners: those that are always there come first.
pub(crate) async fn bind(
    settings: &BrokerSettings,
    shares: &Shares,
    metrics: &ConnectionMetrics,
) -> Result<Vec<Arc<Listener>>, ListenError> {
    let mut bound = Vec::new();
    for (name, listener) in settings.listeners.iter() {
        let limits = gate_limits(listener.protocol, shares, &settings.limits);
        let listening = Listener::bind(name, listener.protocol, &listener.bind, limits, metrics).await;
        let listening = listening.map_err(|source| ListenError {
            listener: name.to_owned(),
            address: listener.bind.clone(),
            source,
        })?;
        bound.push(Arc::new(listening));
    }
    Ok(bound)
}

/// The endpoints that others are told beside the two that every broker has.
pub(crate) fn endpoints(settings: &BrokerSettings) -> Endpoints {
    let told = settings.listeners.others_told().map(|(name, listener)| {
        let endpoint = Endpoint {
            protocol: listener.protocol.name().to_owned(),
            address: listener.address().to_owned(),
        };
        (name.to_owned(), endpoint)
    });
    told.collect()
}
