//! Work queues from outside.

mod bounds;
mod faults;
mod golden;
mod histories;
mod model;
mod properties;
mod samples;
mod scenarios;
mod world;
