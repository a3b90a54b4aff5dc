//! Work queues from outside.

mod bounds;
mod golden;
mod model;
mod properties;
mod samples;
