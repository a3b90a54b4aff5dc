//! `make up` builds everything that `make test` needs: no dependency is compiled a second time for the tests.
//!
//! Cargo chooses the features of a dependency for all that is built together. A dependency that only the tests have could switch on a
//! feature of one that the program has too, and then `make test` would compile it, and all that stands on it, once more.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::harness::skipped;
use crate::tree;

/// The units that cargo would build, as a graph; nothing is built. Only a cargo that is told to be unstable tells.
fn units(selection: &str) -> Option<Value> {
    let target = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new("cargo")
        .args(["build", "--release", "--workspace", "--locked", "--offline", selection])
        .args(["--unit-graph", "-Z", "unstable-options"])
        .current_dir(tree::root())
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", target.path())
        .output()
        .ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// A name for each unit that is the same in two graphs only if cargo would take the one for the other: package, target, mode,
/// features, profile, and the same of everything below it.
struct Names<'a> {
    units: &'a [Value],
    known: BTreeMap<usize, String>,
    /// Long names by their text, so that a name has the length of a number.
    numbers: &'a mut BTreeMap<String, usize>,
}

impl Names<'_> {
    fn of(&mut self, index: usize) -> String {
        if let Some(name) = self.known.get(&index) {
            return name.clone();
        }
        let units = self.units;
        let unit = &units[index];
        let below = unit["dependencies"].as_array().expect("dependencies are a list");
        let mut below: Vec<String> = below
            .iter()
            .map(|dependency| self.of(dependency["index"].as_u64().expect("an index") as usize))
            .collect();
        below.sort();
        let fields =
            ["pkg_id", "target", "mode", "platform", "features", "profile"].map(|field| unit[field].to_string());
        let text = format!("{fields:?} {below:?}");
        let next = self.numbers.len();
        let number = *self.numbers.entry(text).or_insert(next);
        let name = format!("{} {number}", unit["pkg_id"].as_str().expect("a package id"));
        self.known.insert(index, name.clone());
        name
    }
}

fn names(graph: &Value, numbers: &mut BTreeMap<String, usize>) -> BTreeSet<String> {
    let units = graph["units"].as_array().expect("units are a list");
    let mut names = Names {
        units,
        known: BTreeMap::new(),
        numbers,
    };
    (0..units.len()).map(|index| names.of(index)).collect()
}

#[test]
fn the_tests_need_nothing_that_the_program_has_in_another_form() {
    let (Some(program), Some(all)) = (units("--bin=jangada"), units("--all-targets")) else {
        skipped("the features", "this cargo does not tell its units");
        return;
    };
    let mut numbers = BTreeMap::new();
    let (program, all) = (names(&program, &mut numbers), names(&all, &mut numbers));
    assert!(program.len() > 100, "only {} units", program.len());
    let again: Vec<_> = program.difference(&all).collect();
    assert!(
        again.is_empty(),
        "the tests would compile these again, with other features: {again:#?}"
    );
}
