//! Judges histories: what clients of a cluster called and were answered, and what is there when all is over. Pure: no clock, no network,
//! no disk; it knows no broker, so that the simulator's histories and those of real processes are held against it alike.
//!
//! ```text
//!  tasks of a test --> Recorder --+
//!                                 +--> History --> check --> Verdict: valid, invalid or unknown, with the smallest
//!  JSON lines --> format::read ---+                          witness of each anomaly
//! ```
//!
//! The idea, the anomalies and most of the names are Jepsen's (`tests/kafka.clj`) and Adya's (1999): every value is unique in its
//! partition, so a read says whose write it saw. What is judged, the format of the lines and the limits are in
//! `docs/architecture/checker.md`.
//!
//! ```
//! use std::sync::Arc;
//! use jangada_check::{Call, Isolation, Judgement, Recorder, Reply, call, note};
//!
//! let recorder = Recorder::new(Arc::new(|| 0));
//! let process = recorder.process();
//! let sending = recorder.invoke(process, Call::Send(call::Send::new("orders/0", "a")));
//! sending.ok(Reply::Sent(call::Sent { offset: 0, attempts: 1 }));
//! recorder.note(None, note::Note::Final(note::Final {
//!     partition: "orders/0".to_owned(),
//!     end: 1,
//!     complete: true,
//!     ..note::Final::default()
//! }));
//! let verdict = jangada_check::check(&recorder.finish()?);
//! assert_eq!(verdict.judgement, Judgement::Invalid, "the acknowledged record is not there");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Map of the crate:
//! - [`call`], [`note`]: what is recorded, as tests and JSON lines have it. [`format`]: the lines. [`Recorder`]: recording by tasks.
//! - [`history`]: the same as numbers, small enough for a million operations. `names`: the numbers.
//! - `checks`: one file for each group of anomalies. `facts`: what they share. `graph`: components and cycles.
//! - [`verdict`]: the kinds of anomalies, and what is said of them.
//! - [`mod@generate`]: correct histories from a seed.

pub mod call;
mod checks;
mod error;
pub mod format;
pub mod generate;
mod graph;
pub mod history;
mod names;
pub mod note;
mod recorder;
pub mod verdict;

pub use call::{Call, Isolation, Reply, Value};
pub use checks::check;
pub use error::{EventError, InputError};
pub use history::History;
pub use names::{NameId, OperationId, PartitionId, ValueId};
pub use note::Note;
pub use recorder::{Clock, Pending, Recorder};
pub use verdict::{Anomaly, Judgement, Kind, Verdict};
