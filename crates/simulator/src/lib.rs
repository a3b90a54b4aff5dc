//! A cluster with its clients in one thread, on one seed: brokers and clients as they are, in a world that is made up; scenarios with
//! faults that are played in it, and a judgement of what clients saw.
//!
//! Each process has a tokio runtime of its own with a paused clock and a seed. One driver on the same thread steps them in turn, a tick
//! of simulated time at a time ([`Simulation`]). So an hour takes as long as what happens in it, a broker is killed by dropping its
//! runtime at whatever await it stood, and the order of everything that happens follows from the seed: which of several ready branches a
//! `select!` takes, how long a message is on its way, when an election begins, which id a topic gets. What happened is a [`Trace`]; the
//! same seed gives the same one.
//!
//! ```text
//!  seed --> scenario::draw --> Scenario: brokers, settings, teams, faults
//!                                 |
//!                             play::play --> Outcome: findings, hash of the trace, what took effect
//!                                 |
//!       roles: teams of clients --+-- play::faults --> host, process, network, disk, clock
//!              | Recorder                                    ^ invariants: looks at disks while it runs
//!              v
//!       jangada-check: judges the history
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `simulation`, `driver` | the runtimes and their steps, and the hosts |
//! | `host` | one machine: an address, a clock, files and a disk, as an [`Env`](jangada_env::Env) of what runs there |
//! | `process` | a broker that runs, and can be killed |
//! | `network` | pipes between hosts, with a delay on the way and what goes wrong with it |
//! | `disk`, `files`, `clock` | a host's disk, small files and wall clock |
//! | `current` | whose turn it is |
//! | `trace` | what happened, with the time at which it did |
//! | `still` | the system's clocks stand still for what reads them all the same |
//! | `watched` | ends a simulation that does not end |
//! | [`scenario`] | what is to happen, drawn from a seed or read from text |
//! | [`play`] | boots, lets work, lets go wrong, mends, looks and judges |
//! | [`roles`] | the teams of clients |
//! | `invariants` | what must hold inside brokers at all times |
//! | `rocks` | RocksDB below the same scenarios |
//! | [`shrink`], [`corpus`] | makes a scenario smaller; scenarios that once failed |
//! | [`hours`] | bad hours of other systems, as scenarios |
//! | [`planted`] | bugs that are put in on purpose, to see that they are found |
//!
//! Threads, the system's clocks and chance, and maps without an order would bring in what the seed does not know. `clippy.toml`
//! forbids the first three; `docs/architecture/seams.md` says what else was found.

mod clock;
pub mod corpus;
mod current;
mod disk;
mod driver;
mod files;
mod host;
pub mod hours;
mod invariants;
mod network;
pub mod planted;
pub mod play;
mod process;
mod rocks;
pub mod roles;
pub mod scenario;
pub mod shrink;
mod simulation;
mod still;
mod trace;
mod watched;

pub use clock::HostClock;
pub use disk::{Disk, DiskImage};
pub use host::{Host, OnKill};
pub use invariants::Invariants;
pub use network::{Addressed, Network};
pub use process::{Kill, Process};
pub use rocks::RocksDisks;
pub use scenario::Scenario;
pub use simulation::{Options, Simulation};
pub use trace::{Trace, TraceMode};
