//! The client's knowledge about the cluster: `image` is the knowledge (pure), `cache` keeps it fresh.

mod cache;
mod image;

pub(crate) use cache::{MetadataCache, OnFailure};
pub(crate) use image::{Image, LeaderLookup};
pub use image::{PartitionMetadata, TopicMetadata};
