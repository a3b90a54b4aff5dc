//! The product from outside: clusters of real processes, clients, faults.

mod acks_none;
mod back_pressure;
mod bad_input;
mod balance;
mod bootstrap;
mod bootstrap_steps;
mod cut_off;
mod cut_replies;
mod disk_full;
mod failover;
mod follower_disk;
mod foreign_batches;
mod fsync;
mod golden_data;
mod handshake;
mod idempotence;
mod leader_kills;
mod lost_tail;
mod operations;
mod power_loss;
mod produce_consume;
mod producer_expiry;
mod restart;
mod retention;
mod space;
mod up;
