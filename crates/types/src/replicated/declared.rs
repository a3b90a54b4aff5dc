//! What every declaration makes, under one name, for the tests that are the same for all of them.

use std::fmt::Debug;

use bytes::Bytes;

use super::Seeds;
use crate::frame::CodecError;

/// An enumeration that [`replicated!`](crate::replicated) has made.
pub trait Declared: Debug + PartialEq + Sized {
    /// The kinds of its values.
    type Kind: Copy + Debug + PartialEq + 'static;

    /// All kinds, as they were declared.
    const KINDS: &'static [Self::Kind];

    /// The byte of a kind, and its name in the declaration.
    fn name(kind: Self::Kind) -> (u8, &'static str);

    /// A sample value of a kind.
    fn sample(kind: Self::Kind, seeds: &mut Seeds) -> Self;

    /// The kind of this value.
    fn kind(&self) -> Self::Kind;

    /// The value as bytes.
    fn encode(&self) -> Bytes;

    /// The value of these bytes.
    ///
    /// # Errors
    /// When a newer build wrote them, or they are damaged.
    fn decode(bytes: &[u8]) -> Result<Self, CodecError>;

    /// Checks that a value of each kind comes back from its bytes, which begin with their version and the kind.
    ///
    /// # Panics
    /// One does not.
    fn assert_all_come_back(seed: u64) {
        for kind in Self::KINDS {
            let value = Self::sample(*kind, &mut Seeds::new(seed));
            assert_eq!(value.kind(), *kind);
            let bytes = value.encode();
            assert_eq!(bytes[..2], [1, Self::name(*kind).0]);
            assert_eq!(Self::decode(&bytes), Ok(value));
        }
    }
}
