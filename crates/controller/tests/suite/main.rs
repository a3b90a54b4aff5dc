//! The controller through its public interface: scenarios, properties, and bytes that later builds must read.

mod admission;
mod brokers;
mod declared;
mod exchange_logs;
mod exchanges;
mod fixture;
mod golden;
mod metadata_quorum;
mod placement;
mod producers;
mod properties;
mod queues;
mod replicas;
mod topics;
