//! The addresses of a broker, by the names of its listeners.
//!
//! Every broker has an endpoint `public` and one `internal`; their addresses are fields of its
//! [`BrokerRegistration`](crate::BrokerRegistration), as they were before there were others. [`Endpoints`] are the others.

use std::collections::BTreeMap;
use std::ops::Deref;

use jangada_types::replicated::{Sample, Seeds};

/// The listener whose address clients get when a broker has none of the name that they connected to.
pub const PUBLIC_LISTENER: &str = "public";
/// The listener that other brokers connect to.
pub const INTERNAL_LISTENER: &str = "internal";

/// The endpoints of a broker in addition to `public` and `internal`, by listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints(BTreeMap<String, Endpoint>);

impl Deref for Endpoints {
    type Target = BTreeMap<String, Endpoint>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromIterator<(String, Endpoint)> for Endpoints {
    fn from_iter<I: IntoIterator<Item = (String, Endpoint)>>(endpoints: I) -> Self {
        Self(endpoints.into_iter().collect())
    }
}

impl Sample for Endpoints {
    fn sample(seeds: &mut Seeds) -> Self {
        Self(Sample::sample(seeds))
    }
}

/// One listener as others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The protocol of the listener, as in the settings: `grpc`, `http`. Other builds may know further ones.
    pub protocol: String,
    /// The address, host:port.
    pub address: String,
}

impl Sample for Endpoint {
    fn sample(seeds: &mut Seeds) -> Self {
        Self {
            protocol: Sample::sample(seeds),
            address: Sample::sample(seeds),
        }
    }
}
