//! A broker's settings: their declarations, their sources, and their checks.
//!
//! Each section is one file, and each key is declared once, with its documentation, default and bound, by the macro
//! in [`schema`]. The struct, its defaults, the check of bounds, the table of `server check-config` and
//! `docs/settings.md` all come from that one declaration.
//!
//! Values are layered, later ones win: defaults, a TOML file, the environment (`JANGADA__SECTION__KEY`), flags
//! (`--set section.key=value`). [`Layers::load`] puts them together and refuses unknown keys, wrong types, values out
//! of bounds and values that contradict each other, all at once, each with the place it came from.
//!
//! Called by the binary's `server`, `server check-config` and `up`, once, before anything else is started. Nothing
//! here changes afterwards.

#[macro_use]
mod schema;
mod cluster;
mod compaction;
mod error;
mod groups;
mod limits;
mod listeners;
mod load;
mod log;
mod metrics;
mod node;
mod produce;
mod raft;
mod reference;
mod repair;
mod retention;
mod shutdown;
mod source;
mod storage;
#[cfg(test)]
mod tests;
mod transactions;

pub use cluster::ClusterSettings;
pub use compaction::CompactionSettings;
pub use error::{Problem, SettingsError};
pub use groups::GroupSettings;
pub use limits::LimitSettings;
pub use listeners::{ListenerSetting, ListenerSettings};
pub use load::{ENVIRONMENT_PREFIX, Layers, Loaded, Row};
pub use log::{LogFormat, LogSettings};
pub use metrics::MetricsSettings;
pub use node::BrokerSettings;
pub use produce::ProduceSettings;
pub use raft::RaftSettings;
pub use reference::markdown_reference;
pub use repair::RepairSettings;
pub use retention::RetentionSettings;
pub use schema::{Bound, Key, Kind, Section, Setting};
pub use shutdown::ShutdownSettings;
pub use storage::{DirectIo, StorageSettings};
pub use transactions::TransactionSettings;
