//! Jangada's tests from outside, in one binary with a module for each topic.
//!
//! Those that need the program run the `jangada` that was built beside this binary (see [`binary`]): `make test` builds it first.
//! One topic alone: `make test FILTER=contract`. Three variables change a run:
//! - `JANGADA_BIN` names another program;
//! - `JANGADA_LONG=1` lets the faults of `cluster` go on for longer (five minutes of leader kills, fifty cut-off leaders, twelve power
//!   losses) and takes more data;
//! - `JANGADA_EXAMPLES=1` runs the examples of other languages (`make examples`).
//!
//! Those that lose power or fill a disk need root, some need strace; without it they say on standard error that they were not run, and
//! fail with `CI=true`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's output is shown when it fails"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests of real processes live by the real clock"
)]

// The checker of transactions, which the model's histories are held against as well.
#[path = "../../crates/transactions/tests/suite/anomalies.rs"]
mod anomalies;
mod binary;
mod circles;
mod cluster;
mod contract;
mod deploy;
mod features;
mod harness;
mod imports;
mod language;
mod layers;
mod tidy;
mod tree;
