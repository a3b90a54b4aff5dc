//! A partition's log from outside.

mod conditions;
mod golden;
mod leader;
mod properties;
mod queues;
mod schedules;
mod transactions;
mod world;
