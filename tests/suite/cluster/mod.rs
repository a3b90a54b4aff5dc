//! The product from outside: clusters of real processes, clients, faults.

mod failover;
mod leader_kills;
mod produce_consume;
mod restart;
