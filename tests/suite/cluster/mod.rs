//! The product from outside: clusters of real processes, clients, faults.

mod bad_input;
mod bootstrap;
mod conditional;
mod failover;
mod fsync;
mod golden_data;
mod idempotence;
mod leader_kills;
mod operations;
mod produce_consume;
mod restart;
mod retention;
mod up;
