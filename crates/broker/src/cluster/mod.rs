//! This broker's part in the cluster: its data directory's identity, joining, the metadata, and making true what the
//! metadata says.
//!
//! - [`directory`]: what the data directory is.
//! - [`bootstrap`]: forming or joining a cluster.
//! - [`metadata`]: the metadata group and its image.
//! - [`reconcile`]: opens, deletes and re-members groups until they are as the image says.
//! - [`roster`]: who belongs to the cluster, for the internal listener.
//! - [`balance`]: gives leaderships back to the preferred leaders.

pub(crate) mod balance;
pub(crate) mod bootstrap;
pub(crate) mod directory;
mod failpoint;
pub(crate) mod metadata;
pub(crate) mod reconcile;
pub(crate) mod roster;
