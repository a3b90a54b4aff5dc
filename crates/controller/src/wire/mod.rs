//! The messages that commands, replies and the image are made of, in addition to those that their declarations make.
//! [`jangada_types::frame`] says how they are framed, [`jangada_types::replicated`] has the rules for changes.

mod binding;
pub(crate) mod image;

pub(crate) use binding::WireBinding;

use jangada_types::frame::{CodecError, malformed};
use jangada_types::replicated::Wire;
use jangada_types::{BrokerId, Incarnation, ReplicaId};

use crate::endpoints::{Endpoint, Endpoints};
use crate::registration::{BrokerRegistration, DirectoryId, SeedBroker};

/// A replica's broker and incarnation.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct WireReplica {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(uint32, tag = "2")]
    incarnation: u32,
}

impl Wire<WireReplica> for ReplicaId {
    fn to_form(&self) -> WireReplica {
        WireReplica {
            broker: self.broker.get(),
            incarnation: self.incarnation.get(),
        }
    }

    fn from_form(_: &'static str, form: WireReplica) -> Result<Self, CodecError> {
        Ok(Self::new(BrokerId(form.broker), Incarnation(form.incarnation)))
    }
}

/// The list of replicas of one partition.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireReplicas {
    #[prost(message, repeated, tag = "1")]
    replicas: Vec<WireReplica>,
}

impl Wire<WireReplicas> for Vec<ReplicaId> {
    fn to_form(&self) -> WireReplicas {
        let replicas = self.to_form();
        WireReplicas { replicas }
    }

    fn from_form(what: &'static str, form: WireReplicas) -> Result<Self, CodecError> {
        Self::from_form(what, form.replicas)
    }
}

/// A broker's description of itself. That of a seed has no incarnation.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireRegistration {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(uint32, tag = "2")]
    incarnation: u32,
    #[prost(bytes = "vec", tag = "3")]
    directory: Vec<u8>,
    #[prost(string, tag = "4")]
    address: String,
    #[prost(string, tag = "5")]
    internal_address: String,
    #[prost(string, tag = "6")]
    rack: String,
    #[prost(uint32, tag = "7")]
    feature_level: u32,
}

impl Wire<WireRegistration> for SeedBroker {
    fn to_form(&self) -> WireRegistration {
        (**self).to_form()
    }

    fn from_form(what: &'static str, form: WireRegistration) -> Result<Self, CodecError> {
        BrokerRegistration::from_form(what, form).map(Self::from)
    }
}

impl Wire<WireRegistration> for BrokerRegistration {
    fn to_form(&self) -> WireRegistration {
        WireRegistration {
            broker: self.id.get(),
            incarnation: self.incarnation.get(),
            directory: self.directory.to_form(),
            address: self.address.clone(),
            internal_address: self.internal_address.clone(),
            rack: self.rack.clone(),
            feature_level: self.feature_level,
        }
    }

    fn from_form(what: &'static str, form: WireRegistration) -> Result<Self, CodecError> {
        Ok(Self {
            id: BrokerId(form.broker),
            incarnation: Incarnation(form.incarnation),
            directory: Wire::from_form(what, form.directory)?,
            address: form.address,
            internal_address: form.internal_address,
            rack: form.rack,
            feature_level: form.feature_level,
        })
    }
}

/// A listener of a broker.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireEndpoint {
    #[prost(string, tag = "1")]
    listener: String,
    #[prost(string, tag = "2")]
    protocol: String,
    #[prost(string, tag = "3")]
    address: String,
}

/// Ascending by listener, none twice. Any other order is found when the message is encoded again and differs.
impl Wire<Vec<WireEndpoint>> for Endpoints {
    fn to_form(&self) -> Vec<WireEndpoint> {
        let endpoint = |(listener, endpoint): (&String, &Endpoint)| WireEndpoint {
            listener: listener.clone(),
            protocol: endpoint.protocol.clone(),
            address: endpoint.address.clone(),
        };
        self.iter().map(endpoint).collect()
    }

    fn from_form(_: &'static str, form: Vec<WireEndpoint>) -> Result<Self, CodecError> {
        let endpoint = |wire: WireEndpoint| {
            let endpoint = Endpoint {
                protocol: wire.protocol,
                address: wire.address,
            };
            (wire.listener, endpoint)
        };
        Ok(form.into_iter().map(endpoint).collect())
    }
}

impl Wire<Vec<u8>> for DirectoryId {
    fn to_form(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_form(what: &'static str, form: Vec<u8>) -> Result<Self, CodecError> {
        Self::from_slice(&form)
            .ok_or_else(|| malformed(what, format!("a directory id of {} bytes, not 16", form.len())))
    }
}
