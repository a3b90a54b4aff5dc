//! The listeners of a broker: binds them before anything else starts, derives their connection limits, and lists the endpoints
//! that the broker registers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Endpoint, Endpoints};
use jangada_env::Network;

use crate::listener::descriptors::{Listeners, Shares, Wanted};
use crate::listener::{ConnectionMetrics, GateLimits, HTTP_IDLE_TIMEOUT, Listener, Protocol};
use crate::settings::{BrokerSettings, LimitSettings};

/// A listener's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the {listener} listener cannot use {address}: {source}; is another process using the port?")]
pub struct ListenError {
    /// The listener's name in the settings.
    listener: String,
    /// The address that it was to be bound to.
    address: String,
    /// The system's error.
    source: std::io::Error,
}

/// The bound addresses of the three listeners that every broker has; for port 0, with the port that the system chose.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The listener for clients.
    pub public: SocketAddr,
    /// The listener for other brokers.
    pub internal: SocketAddr,
    /// The listener for probes and metrics.
    pub http: SocketAddr,
}

/// How many connections a listener takes. One address gets at most three quarters of them. `limits.connections_per_address_max`
/// holds only for clients: brokers need their connections to each other whatever it is.
fn gate_limits(protocol: Protocol, shares: &Shares, settings: &LimitSettings) -> GateLimits {
    let slots = match protocol {
        Protocol::Grpc => shares.public,
        Protocol::Internal => shares.internal,
        Protocol::Http => shares.http,
    };
    let total = usize::try_from(slots).expect("usize has 64 bits");
    let share = (total / 4 * 3).max(1);
    GateLimits {
        total,
        per_address: match protocol {
            Protocol::Grpc => share.min(settings.connections_per_address_max as usize),
            Protocol::Internal | Protocol::Http => share,
        },
        idle: match protocol {
            Protocol::Grpc | Protocol::Internal => Duration::from_millis(settings.connection_idle_ms),
            Protocol::Http => HTTP_IDLE_TIMEOUT,
        },
    }
}

/// How many file descriptors the settings ask for, for the store and the listeners.
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

/// Binds all listeners. The result begins with `public`, `internal` and `http`, in this order.
pub(crate) async fn bind(
    network: &Network,
    settings: &BrokerSettings,
    shares: &Shares,
    metrics: &ConnectionMetrics,
) -> Result<Vec<Arc<Listener>>, ListenError> {
    let mut bound = Vec::new();
    for (name, listener) in settings.listeners.iter() {
        let limits = gate_limits(listener.protocol, shares, &settings.limits);
        let listening = Listener::bind(network, name, listener.protocol, &listener.bind, limits, metrics).await;
        let listening = listening.map_err(|source| ListenError {
            listener: name.to_owned(),
            address: listener.bind.clone(),
            source,
        })?;
        bound.push(Arc::new(listening));
    }
    Ok(bound)
}

/// The endpoints that this broker registers beside its public and internal address.
pub(crate) fn endpoints(settings: &BrokerSettings) -> Endpoints {
    let registered = settings.listeners.others_registered().map(|(name, listener)| {
        let endpoint = Endpoint {
            protocol: listener.protocol.name().to_owned(),
            address: listener.address().to_owned(),
        };
        (name.to_owned(), endpoint)
    });
    registered.collect()
}
