//! Routing through its public interface: the matchers against naive ones, ways through several exchanges, rules, and costs.

mod costs;
mod cpu;
mod matching;
mod naive;
mod routers;
mod rules;
mod samples;
