//! Scenarios that once failed do not fail any more.

use std::path::Path;

use jangada_simulator::corpus;
use jangada_simulator::play::{Options, play};

#[test]
fn what_once_failed_does_not_fail_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulator/corpus");
    let mut failures = Vec::new();
    for (name, scenario) in corpus::read(&directory).expect("the corpus can be read") {
        let outcome = play(&scenario, Options::default());
        if outcome.is_failure() {
            failures.push(format!("{name}: {}", outcome.findings.join("\n")));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
