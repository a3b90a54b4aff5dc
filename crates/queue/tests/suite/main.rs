//! Work queues from outside.

mod bounds;
mod carrying;
mod clients;
mod cpu;
mod depth;
mod extremes;
mod faults;
mod golden;
mod histories;
mod ids;
mod leading;
mod log;
mod lookups;
mod model;
mod properties;
mod receives;
mod samples;
mod scenarios;
mod schedules;
mod target;
mod transactional;
mod transactions;
mod world;
