//! What a program takes from the world, as seams: whoever needs one of them gets it from an [`Env`] that is handed in, so that a
//! simulation can give another.
//!
//! | module | what it gives | the system's | a simulation's |
//! |---|---|---|---|
//! | [`clock`] | the wall clock | `SystemTime` | what the simulation says |
//! | [`random`] | chance, new ids | the thread's generator | one generator, seeded |
//! | [`network`] | listening, and the connections of gRPC channels | TCP | pipes in memory |
//! | [`files`] | small files that are written as a whole | `std::fs` | a map |
//! | [`blocking`] | where work is done that blocks | threads of the runtime | the task that asks for it |
//!
//! Two seams are not here, because they are handed in by themselves. The monotonic clock, timers and tasks are the tokio runtime's:
//! a simulation runs everything on one with a single thread, a paused clock and a seed. The store is made by a factory of the crate
//! that has the stores.
//!
//! The system's side costs nothing where it matters: sockets, chance and blocking work are enums, not trait objects, and what is
//! called through a trait object, the wall clock and files, is called once for a batch or more rarely.

#![allow(clippy::disallowed_methods, reason = "this crate is the seam to the system")]

pub mod blocking;
pub mod clock;
mod env;
pub mod files;
pub mod network;
pub mod random;

pub use blocking::Blocking;
pub use clock::{SystemClock, WallClock};
pub use env::Env;
pub use files::{Files, SystemFiles};
pub use network::{Network, Socket};
pub use random::Random;
