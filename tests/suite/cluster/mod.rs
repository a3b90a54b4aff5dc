//! The product from outside: clusters of real processes, clients, faults.

mod bad_input;
mod bootstrap;
mod failover;
mod fsync;
mod golden_data;
mod groups;
mod groups_load;
mod idempotence;
mod leader_kills;
mod operations;
mod produce_consume;
mod restart;
mod retention;
mod up;
