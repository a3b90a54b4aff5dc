//! Clusters in one thread.

mod determinism;
