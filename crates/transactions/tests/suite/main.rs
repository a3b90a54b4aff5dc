//! Transactional ids through their public interface: scenarios, histories of all that takes part in transactions, and bytes that later
//! builds must read.

mod anomalies;
mod anomaly_histories;
mod bounds;
mod desk;
mod failover;
mod golden;
mod histories;
mod lifecycle;
mod model;
