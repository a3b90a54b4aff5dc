//! What a broker does for its clients, whatever protocol they speak: plain structs in, [`RequestError`] out. Nothing here knows
//! a wire format; the services decode, call, and encode.
//!
//! ```text
//!   connection -> front (gRPC) -> boundary::begin -> RequestContext -> produce | fetch | offsets | producers -> partition
//!                                 boundary::end   <- outcome        <-
//! ```
//!
//! - [`operation`]: what can be called.
//! - [`context`]: who calls.
//! - [`boundary`]: where each call begins and ends, is counted, and may be refused.
//! - [`resolve`]: the partition that a call names.
//! - [`fetch`]: reading; [`offsets`]: where.
//! - [`groups`]: consumer groups.
//! - [`produce`]: the one way of a batch to its partition.
//!
//! [`RequestError`]: crate::error::RequestError

pub(crate) mod boundary;
pub(crate) mod context;
pub(crate) mod fetch;
pub(crate) mod groups;
pub(crate) mod offsets;
pub(crate) mod operation;
pub(crate) mod produce;
pub(crate) mod resolve;
