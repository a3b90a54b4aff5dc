//! The gRPC services, thin: they decode, call the broker, and encode. Errors are mapped in [`status`],
//! and what tonic says of messages that it cannot read in [`unread`].

pub(crate) mod admin;
pub(crate) mod fetch;
mod forwarded;
mod gathering;
mod group_list;
pub(crate) mod group_wire;
pub(crate) mod groups;
pub(crate) mod internal;
pub(crate) mod log;
pub(crate) mod metadata;
mod names;
mod pack;
mod plain;
pub(crate) mod produce;
pub(crate) mod status;
mod unanswered;
pub(crate) mod unread;
