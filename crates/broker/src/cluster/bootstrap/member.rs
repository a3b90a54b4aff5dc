//! A broker's registration in the messages that carry it.

use jangada_controller::{BrokerRegistration, DirectoryId};
use jangada_proto::internal::{Member, ProbeResponse};
use jangada_types::{BrokerId, Incarnation};

/// As another broker said it of itself. An id of the directory that is none is refused with the registration.
pub(super) fn registration_of(member: &Member) -> BrokerRegistration {
    BrokerRegistration {
        id: BrokerId(member.broker_id),
        incarnation: Incarnation(member.incarnation),
        directory: DirectoryId::from_slice(&member.directory_id).unwrap_or_default(),
        address: member.address.clone(),
        internal_address: member.internal_address.clone(),
        rack: member.rack.clone(),
        feature_level: member.feature_level,
    }
}

/// The same of a broker that was probed.
pub(super) fn probed(answer: &ProbeResponse) -> BrokerRegistration {
    BrokerRegistration {
        id: BrokerId(answer.broker_id),
        incarnation: Incarnation(answer.incarnation),
        directory: DirectoryId::from_slice(&answer.directory_id).unwrap_or_default(),
        address: answer.address.clone(),
        internal_address: answer.internal_address.clone(),
        rack: answer.rack.clone(),
        feature_level: answer.feature_level,
    }
}

pub(super) fn member_of(registration: &BrokerRegistration) -> Member {
    Member {
        broker_id: registration.id.get(),
        incarnation: registration.incarnation.get(),
        internal_address: registration.internal_address.clone(),
        address: registration.address.clone(),
        rack: registration.rack.clone(),
        directory_id: registration.directory.as_bytes().to_vec().into(),
        feature_level: registration.feature_level,
    }
}
