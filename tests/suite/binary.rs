//! The paths of the programs under test: `jangada`, and the examples of the patterns.
//!
//! Cargo hands the path of a binary only to the tests of its own package, and builds it only for those. So it is looked for beside
//! this test's own executable: `target/release/jangada` for `target/release/deps/suite-*`. `make test` builds the whole workspace before it
//! runs any test; after `cargo test -p jangada-tests` alone the program may be missing or old. `JANGADA_BIN` names another one.

use std::path::PathBuf;

/// The program under test. Panics with what to do when it was not built.
pub fn jangada() -> PathBuf {
    if let Some(named) = std::env::var_os("JANGADA_BIN") {
        let program = PathBuf::from(named);
        assert!(
            program.is_file(),
            "JANGADA_BIN is {}, which is not a file",
            program.display()
        );
        return program;
    }
    built("jangada")
}

/// An example of the patterns, by its name. Panics with what to do when it was not built.
pub fn example(name: &str) -> PathBuf {
    built(&format!("examples/{name}"))
}

/// A program that lies beside the tests: `target/release/PATH`.
fn built(path: &str) -> PathBuf {
    let suite = std::env::current_exe().expect("a running test has an executable");
    let profile = suite
        .parent()
        .and_then(|deps| deps.parent())
        .expect("cargo puts tests into <profile>/deps");
    let program = profile.join(path);
    assert!(
        program.is_file(),
        "{} does not exist: run `make build` first (or `make test`, which does)",
        program.display()
    );
    program
}
