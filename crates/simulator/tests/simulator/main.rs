//! Clusters in one thread.

mod corpus;
mod determinism;
mod hours;
mod invariants;
mod queues;
mod rocks;
mod running;
mod scenarios;
mod world;
