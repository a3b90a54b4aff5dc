//! Why a caller is not let in on the internal listener, as a type; and as the gRPC status that says so to it.
//!
//! Older builds look at the first word of the status' message, so the words stay as they are.

use jangada_proto::internal::PutBack;
use jangada_types::BrokerId;
use prost::Message as _;
use thiserror::Error;
use tonic::{Code, Status};

/// Begins the refusal of a broker whose data directory was put back.
pub(super) const PUT_BACK: &str = "PUT_BACK";
/// Begins the refusal of a broker that was taken out of the cluster.
pub(super) const REMOVED: &str = "REMOVED";

/// Why a caller is not let in.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum NotAdmitted {
    /// It began with something else than a handshake, so it is no broker.
    #[error("NO_HANDSHAKE: this is a broker's internal listener; clients connect to the public one")]
    NoHandshake,
    /// It is of another cluster.
    #[error("WRONG_CLUSTER: broker {broker} belongs to cluster {cluster}, not to {callers}")]
    WrongCluster {
        /// The id of this broker.
        broker: BrokerId,
        /// The cluster of this broker.
        cluster: String,
        /// The cluster of the caller.
        callers: String,
    },
    /// It meant another broker.
    #[error("WRONG_BROKER: this is broker {broker}, not {meant}: check the internal addresses of both")]
    WrongBroker {
        /// The id of this broker.
        broker: BrokerId,
        /// The broker that was meant.
        meant: u32,
    },
    /// It speaks no version of the protocol that this build speaks.
    #[error(
        "UNSUPPORTED_PROTOCOL: this broker speaks internal protocol {own_min} to {own_max}, the caller {min} to {max}: \
         upgrade the older one"
    )]
    UnsupportedProtocol {
        /// The oldest version of this broker.
        own_min: u32,
        /// The newest version of this broker.
        own_max: u32,
        /// The oldest version of the caller.
        min: u32,
        /// The newest version of the caller.
        max: u32,
    },
    /// It tells of more starts than a broker can have had.
    #[error("DAMAGED: a past of more than {most} starts")]
    LongPast {
        /// The largest number of starts.
        most: usize,
    },
    /// The metadata has never heard of it, or has another one under its id.
    #[error("UNKNOWN_BROKER: {0}")]
    Unknown(String),
    /// It was taken out of the cluster.
    #[error("{REMOVED}: {0}")]
    Removed(String),
    /// It has lost commits that this broker has seen.
    #[error("{PUT_BACK}: {message}")]
    PutBack {
        /// The commits that it has lost.
        lost: PutBack,
        /// What is wrong, and what to do.
        message: String,
    },
}

impl From<NotAdmitted> for Status {
    fn from(refusal: NotAdmitted) -> Self {
        let details = match &refusal {
            NotAdmitted::PutBack { lost, .. } => lost.encode_to_vec(),
            _ => Vec::new(),
        };
        Self::with_details(Code::FailedPrecondition, refusal.to_string(), details.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_begins_with_the_word_that_older_builds_know_and_carries_what_was_lost() {
        let lost = PutBack {
            seen: 40,
            last: 30,
            ..PutBack::default()
        };
        let refusals = [
            (NotAdmitted::NoHandshake, "NO_HANDSHAKE: "),
            (
                NotAdmitted::UnsupportedProtocol {
                    own_min: 1,
                    own_max: 2,
                    min: 7,
                    max: 8,
                },
                "UNSUPPORTED_PROTOCOL: ",
            ),
            (NotAdmitted::Removed("broker 4 was removed".into()), "REMOVED: broker 4"),
            (
                NotAdmitted::PutBack {
                    lost,
                    message: "commits 31 to 40 are missing".into(),
                },
                "PUT_BACK: commits",
            ),
        ];
        for (refusal, begins) in refusals {
            let has_lost = matches!(refusal, NotAdmitted::PutBack { .. });
            let status = Status::from(refusal);
            assert_eq!(status.code(), Code::FailedPrecondition);
            assert!(status.message().starts_with(begins), "{}", status.message());
            let carried = PutBack::decode(status.details()).expect("details are a message, or none");
            assert_eq!(carried == lost, has_lost);
        }
    }
}
