//! Tests that are not run: because this machine cannot, or because they would take minutes.

use std::io::Write as _;
use std::process::Command;

/// Reports that a test was not run, or not all of it, and why. With `CI=true` that is a failure: a test that CI has not
/// run must not look passed.
///
/// Writes straight to standard error, for the output of a test is thrown away when it passes.
#[track_caller]
pub fn skipped(what: &str, why: &str) {
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    say(is_ci, what, why);
}

/// Whether a test takes too long to be run by default. If so, reports it.
pub fn is_too_long(what: &str) -> bool {
    if !is_long() {
        say(false, what, "JANGADA_LONG is not set");
    }
    !is_long()
}

/// Whether the examples of other languages are to be run. If not, reports it: they need toolchains, and libraries of
/// package registries.
pub fn are_examples_wanted() -> bool {
    let are_wanted = std::env::var_os("JANGADA_EXAMPLES").is_some();
    if !are_wanted {
        say(
            false,
            "the examples",
            "JANGADA_EXAMPLES is not set (`make examples` sets it)",
        );
    }
    are_wanted
}

/// Whether Prometheus' own tool can be run. If not, reports it: it comes with Prometheus, which a build does not need.
/// With `JANGADA_ALERTS=1` (`make alerts`) it must be there.
#[track_caller]
pub fn is_promtool_there() -> bool {
    let is_there = Command::new("promtool").arg("--version").output().is_ok();
    let must_be = std::env::var_os("JANGADA_ALERTS").is_some();
    assert!(
        is_there || !must_be,
        "promtool is missing: it is in Debian's package prometheus (apt-get install --no-install-recommends prometheus)"
    );
    if !is_there {
        say(
            false,
            "checks of the alert rules",
            "promtool is missing (`make alerts` needs it)",
        );
    }
    is_there
}

#[track_caller]
fn say(is_failure: bool, what: &str, why: &str) {
    let line = format!("NOT RUN: {what}: {why}\n");
    assert!(!is_failure, "{line}CI=true lets nothing be left out");
    // A closed standard error is no reason to fail.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Whether tests that take minutes, or some GiB, are to be run, too.
pub fn is_long() -> bool {
    std::env::var_os("JANGADA_LONG").is_some()
}

#[test]
#[should_panic(expected = "NOT RUN: this: it needs root")]
fn in_ci_a_skip_is_a_failure() {
    say(true, "this", "it needs root");
}
