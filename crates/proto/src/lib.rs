//! Jangada's gRPC contract, generated from `/proto`; the text there is the documentation.
//!
//! - [`v1`]: the public API (package `jangada.v1`).
//! - [`internal`]: the messages between brokers (package `jangada.internal.v1`).
//! - [`shape`]: the memory that a message will take, from its bytes.

mod codec;
pub mod shape;

#[allow(missing_docs, clippy::all)]
mod generated {
    pub mod jangada {
        pub mod v1 {
            tonic::include_proto!("jangada.v1");
        }
        pub mod internal {
            pub mod v1 {
                tonic::include_proto!("jangada.internal.v1");
            }
        }
    }
}

pub use generated::jangada::internal::v1 as internal;
pub use generated::jangada::v1;

/// The encoded `FileDescriptorSet` of both packages, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
