//! Tests of `RocksStore` on real directories, by topic.

#![allow(clippy::disallowed_methods, reason = "tests wait for real disks with real deadlines")]

mod concurrency;
mod conformance;
mod crash;
mod directory;
mod holes;
mod lost_tail;
mod merged;
mod model;
mod space;
mod tables;
