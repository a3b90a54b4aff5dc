//! This broker's part in the cluster: its data directory's identity, joining, the metadata, and making true what the
//! metadata says.
//!
//! - [`directory`]: what the data directory is.
//! - [`bootstrap`]: forming or joining a cluster.
//! - [`metadata`]: the metadata group and its image.
//! - [`roster`]: who belongs to the cluster, for the internal listener.
//! - [`reconcile`]: opens, deletes and re-members groups until they are as the image says. `known`: what it has seen of
//!   the image; `opening`: replicas that are opened; `forming`: at which pace new groups get their first leader.
//! - [`placement`]: which brokers new replicas can be placed on.
//! - [`hand_over`]: gives leaderships away when the broker stops.
//! - [`balance`]: gives leaderships back to the preferred leaders.

pub(crate) mod balance;
pub(crate) mod bootstrap;
pub(crate) mod directory;
pub(crate) mod failpoint;
mod forming;
pub(crate) mod hand_over;
mod known;
pub(crate) mod metadata;
mod opening;
pub(crate) mod placement;
pub(crate) mod reconcile;
pub(crate) mod roster;
