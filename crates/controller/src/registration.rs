//! What brokers say of themselves: as seeds of a new cluster, and when they register.

use std::fmt;
use std::ops::Deref;

use jangada_types::replicated::{Sample, Seeds};
use jangada_types::{BrokerId, Incarnation};

/// A broker's description of itself, which it registers when it starts.
///
/// A broker writes its [`DirectoryId`] durably before it registers, and the incarnation that it is given before it
/// opens a replica. A directory that lost its data has lost its id too, so an empty directory can't pass for the old
/// one, while a registration whose answer was lost can be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerRegistration {
    /// The broker's id, from 1 on.
    pub id: BrokerId,
    /// The incarnation that the data directory holds; 0 when it holds none yet.
    pub incarnation: Incarnation,
    /// The id of the data directory.
    pub directory: DirectoryId,
    /// Address where clients reach the broker: host:port.
    pub address: String,
    /// Address where other brokers reach it: host:port.
    pub internal_address: String,
    /// The broker's failure domain; empty when unknown.
    pub rack: String,
    /// The highest feature level that its build understands.
    pub feature_level: u32,
}

/// A broker of a new cluster: it has no incarnation yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedBroker(BrokerRegistration);

impl From<BrokerRegistration> for SeedBroker {
    fn from(registration: BrokerRegistration) -> Self {
        Self(BrokerRegistration {
            incarnation: Incarnation(0),
            ..registration
        })
    }
}

impl Deref for SeedBroker {
    type Target = BrokerRegistration;

    fn deref(&self) -> &BrokerRegistration {
        &self.0
    }
}

/// Tells data directories apart: 16 random bytes that are written once, when a directory is made. All zero is no id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DirectoryId([u8; 16]);

impl DirectoryId {
    /// An id of these 16 bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// An id from a slice of exactly 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The id's 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether all bytes are zero, which is no id.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectoryId({self})")
    }
}

impl Sample for DirectoryId {
    fn sample(seeds: &mut Seeds) -> Self {
        let half = seeds.draw().to_be_bytes();
        Self(std::array::from_fn(|at| half[at % half.len()]))
    }
}

impl Sample for SeedBroker {
    fn sample(seeds: &mut Seeds) -> Self {
        BrokerRegistration::sample(seeds).into()
    }
}

impl Sample for BrokerRegistration {
    fn sample(seeds: &mut Seeds) -> Self {
        Self {
            id: Sample::sample(seeds),
            incarnation: Sample::sample(seeds),
            directory: Sample::sample(seeds),
            address: Sample::sample(seeds),
            internal_address: Sample::sample(seeds),
            rack: Sample::sample(seeds),
            feature_level: Sample::sample(seeds),
        }
    }
}
