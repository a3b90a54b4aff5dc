//! A partition's log from outside.

mod conditions;
mod golden;
mod properties;
mod world;
