//! Where a broker is reached, by the name of its listener.
//!
//! Every broker has an endpoint `public` and one `internal`; their addresses are fields of its
//! [`BrokerRegistration`](crate::BrokerRegistration), as they were before there were others. [`Endpoints`] are the others.

use std::collections::BTreeMap;
use std::ops::Deref;

use jangada_types::replicated::{Sample, Seeds};

/// The listener that clients are told of when a broker has none of the name that they came by.
pub const PUBLIC_LISTENER: &str = "public";
/// The listener by which brokers reach each other.
pub const INTERNAL_LISTENER: &str = "internal";

/// The endpoints of a broker beside `public` and `internal`, by listener.
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
    /// What is spoken there, as in the settings: `grpc`, `http`. Builds may know others than this one.
    pub protocol: String,
    /// host:port.
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
