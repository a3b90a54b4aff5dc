//! Clusters in one thread.

mod determinism;
mod queues;
mod running;
