//! The coordinator through its public interface: scenarios, properties, and bytes that later builds must read.

mod assignors;
mod bad_input;
mod bounds;
mod declared;
mod events;
mod fixture;
mod golden;
mod membership;
mod model;
mod offsets;
mod patterns;
mod properties;
mod scale;
mod topics;
mod transactions;
