//! A partition's log from outside.

mod compaction;
mod conditions;
mod fan_out;
mod golden;
mod leader;
mod properties;
mod queues;
mod replicas;
mod schedules;
mod transactions;
mod world;
