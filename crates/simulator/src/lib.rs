//! A cluster with its clients in one thread, on one seed: brokers and clients as they are, in a world that is made up.
//!
//! A [`Simulation`] runs on a tokio runtime with a single thread, whose clock stands still while anybody has something to do and
//! jumps to the next timer when nobody has. So an hour takes as long as what happens in it, and the order of everything that
//! happens follows from the seed: which of several ready branches a `select!` takes, how long a message is on its way, when an
//! election begins, which id a topic gets. What happened is a [`Trace`]; the same seed gives the same one.
//!
//! | module | what it is |
//! |---|---|
//! | `simulation` | the runtime, and the hosts |
//! | `host` | one machine: an address, a clock, files and a disk, as an [`Env`](jangada_env::Env) of what runs there |
//! | `network` | pipes between hosts, with a delay on the way |
//! | `clock` | a host's wall clock, which can be set |
//! | `files` | a host's small files |
//! | `trace` | what happened, with the time at which it did |
//! | `watched` | ends a simulation that does not end |
//!
//! Threads, the system's clocks and chance, and maps without an order would bring in what the seed does not know. `clippy.toml`
//! forbids the first three; `docs/architecture/seams.md` says what else was found.

mod clock;
mod files;
mod host;
mod network;
mod simulation;
mod trace;
mod watched;

pub use clock::HostClock;
pub use host::Host;
pub use simulation::Simulation;
pub use trace::Trace;
