//! Who may talk to whom on the internal listener: same cluster, the broker that was meant, a protocol version in
//! common.

use jangada_proto::internal::Hello;
use jangada_types::{BrokerId, FEATURE_LEVEL, Incarnation};

use super::not_admitted::NotAdmitted;

/// Protocol versions of the internal listener that this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// See [`PROTOCOL_MIN`].
pub const PROTOCOL_MAX: u32 = 1;
/// Starts that a caller may list. Builds list 32.
const STARTS_MAX: usize = 1024;

/// Who this broker is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster's id, a UUID.
    pub cluster_id: String,
    /// The id of this broker.
    pub broker: BrokerId,
    /// Its incarnation: one more each time it came back with an empty disk.
    pub incarnation: Incarnation,
}

impl Identity {
    /// The first thing to say to `to`, without what is told of the past.
    pub(crate) fn hello(&self, to: BrokerId) -> Hello {
        Hello {
            cluster_id: self.cluster_id.clone(),
            broker_id: self.broker.get(),
            incarnation: self.incarnation.get(),
            to_broker_id: to.get(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            feature_level: FEATURE_LEVEL,
            past: None,
        }
    }

    /// Checks what a peer said first, and gives it back.
    pub(crate) fn check(&self, hello: Option<Hello>) -> Result<Hello, NotAdmitted> {
        let hello = hello.ok_or(NotAdmitted::NoHandshake)?;
        if hello.cluster_id != self.cluster_id {
            return Err(NotAdmitted::WrongCluster {
                broker: self.broker,
                cluster: self.cluster_id.clone(),
                callers: hello.cluster_id,
            });
        }
        if hello.to_broker_id != self.broker.get() {
            return Err(NotAdmitted::WrongBroker {
                broker: self.broker,
                meant: hello.to_broker_id,
            });
        }
        check_protocol(hello.protocol_min, hello.protocol_max)?;
        if hello.past.as_ref().is_some_and(|past| past.starts.len() > STARTS_MAX) {
            return Err(NotAdmitted::LongPast { most: STARTS_MAX });
        }
        Ok(hello)
    }
}

/// Refuses a peer that speaks no version in common.
pub fn check_protocol(min: u32, max: u32) -> Result<(), NotAdmitted> {
    match max < PROTOCOL_MIN || min > PROTOCOL_MAX {
        true => Err(NotAdmitted::UnsupportedProtocol {
            own_min: PROTOCOL_MIN,
            own_max: PROTOCOL_MAX,
            min,
            max,
        }),
        false => Ok(()),
    }
}
