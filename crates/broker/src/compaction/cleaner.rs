//! The things that cleaning one partition needs, whichever part of it.

use std::sync::Arc;

use jangada_env::Random;

use super::status::CompactionStatus;
use crate::partition;
use crate::settings::CompactionSettings;

/// What cleans one partition.
pub(crate) struct Cleaner {
    pub shared: Arc<partition::Shared>,
    pub random: Random,
    pub settings: CompactionSettings,
    pub status: Arc<CompactionStatus>,
}
