//! What the client knows about the cluster: `image` is the knowledge (pure), `cache` keeps it fresh.

mod cache;
mod image;

pub(crate) use cache::{MetadataCache, Then};
pub(crate) use image::{Image, LeaderLookup};
pub use image::{PartitionMetadata, TopicMetadata};
