//! Replicated commands, and their replies, by declaration: [`replicated!`](crate::replicated) makes the enumeration, its
//! encoding, and the cases of its tests from one list.
//!
//! ```
//! # use jangada_types::{TopicId, frame::CodecError};
//! jangada_types::replicated! {
//!     /// A change of something.
//!     pub enum Command, CommandKind, "command" {
//!         /// Deletes a topic.
//!         DeleteTopic = 1 since 1 {
//!             /// The topic.
//!             #[prost(bytes = "vec", tag = "1")]
//!             topic: TopicId as Vec<u8>,
//!         },
//!         /// Keeps so many topics.
//!         Keep = 2 since 4 {
//!             /// At most.
//!             #[prost(uint32, tag = "1")]
//!             count: u32,
//!         },
//!     }
//! }
//! let command = Command::Keep { count: 7 };
//! assert_eq!(command.encode()[..], [1, 2, 0x08, 7]);
//! assert_eq!(Command::decode(&[1, 2, 0x08, 7]), Ok(command));
//! assert_eq!(CommandKind::Keep.since(), 4);
//! ```
//!
//! A variant's number is its kind byte on the disk, and `since` the first feature level that knows it. Two variants with one
//! number do not compile. The attribute of a field is prost's: its protobuf type and number. `as` names its type in the
//! message where that is another one; [`Wire`] converts between the two.
//!
//! Rules for changes: a kind byte is never used again, and a field number neither. A command that a broker of an earlier
//! level would fold differently gets a new kind, and is proposed only once every broker has its level.

mod declared;
mod golden;
mod macros;
mod sample;
mod wire;

pub use declared::Declared;
pub use golden::{compare_declared, compare_golden, hex};
pub use sample::{Sample, Seeds};
pub use wire::Wire;
