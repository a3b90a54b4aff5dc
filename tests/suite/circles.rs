//! No circle of imports inside a crate crosses more than two files: a crate can be read file by file, and a part of it tested alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports::{self, Import};
use crate::tree;

/// Files of a circle that is no more than two sides of one thing.
const FILES_MAX: usize = 2;

/// A circle that is left.
struct Known {
    krate: &'static str,
    /// One of its files.
    file: &'static str,
    /// It does not grow.
    files_max: usize,
    /// Why it is there, and what opens it.
    reason: &'static str,
}

/// This list only shrinks.
const KNOWN: [Known; 1] = [Known {
    krate: "broker",
    file: "admission/call.rs",
    files_max: 14,
    reason: "admission counts in `Metrics`, whose `mod.rs` holds every family; a family for admission of its own opens it",
}];

/// Files that reach each other: each set is one circle.
fn circles(imports: &[Import]) -> Vec<BTreeSet<&str>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports {
        next.entry(&import.from).or_default().insert(&import.to);
    }
    let reached = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = next.get(from).into_iter().flatten().copied().collect();
        while let Some(file) = open.pop() {
            if seen.insert(file) {
                open.extend(next.get(file).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = next.keys().map(|file| (*file, reached(file))).collect();
    let both_ways = |file: &str| -> BTreeSet<&str> {
        let there = reached[file].iter().copied();
        there
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(file)))
            .collect()
    };
    let found: BTreeSet<BTreeSet<&str>> = next.keys().map(|file| both_ways(file)).collect();
    found.into_iter().filter(|files| files.len() > 1).collect()
}

/// The lines that make a circle.
fn lines_of(circle: &BTreeSet<&str>, imports: &[Import]) -> Vec<String> {
    let within = |import: &&Import| circle.contains(&*import.from) && circle.contains(&*import.to);
    imports
        .iter()
        .filter(within)
        .map(|import| format!("    {}:{} {} -> {}", import.from, import.line, import.path, import.to))
        .collect()
}

#[test]
fn no_circle_of_imports_crosses_more_than_two_files() {
    let files = tree::files();
    let crates: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| file.path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml"))
        .collect();
    let mut offences = Vec::new();
    let mut met = BTreeSet::new();
    for krate in crates {
        let imports = imports::of_crate(krate, &files);
        for circle in circles(&imports).iter().filter(|circle| circle.len() > FILES_MAX) {
            let known = KNOWN
                .iter()
                .filter(|known| known.krate == krate && circle.contains(known.file));
            let known: Vec<_> = known.collect();
            met.extend(known.iter().map(|known| (krate, known.file)));
            if known.iter().any(|known| circle.len() <= known.files_max) {
                continue;
            }
            let lines = lines_of(circle, &imports).join("\n");
            offences.push(format!("{krate}: {} files\n{lines}", circle.len()));
        }
    }
    let gone = KNOWN
        .iter()
        .filter(|known| !met.contains(&(known.krate, known.file)))
        .map(|known| {
            format!(
                "{}: the circle of {} is open; take it off the list ({})",
                known.krate, known.file, known.reason
            )
        });
    offences.extend(gone);
    assert!(offences.is_empty(), "circles of imports:\n{}\n", offences.join("\n"));
}

#[test]
fn files_that_reach_each_other_are_a_circle() {
    let import = |(from, to): (&str, &str)| Import {
        from: from.to_owned(),
        to: to.to_owned(),
        line: 1,
        path: String::new(),
    };
    let ties = [
        ("a", "b"),
        ("b", "c"),
        ("c", "a"),
        ("c", "d"),
        ("d", "e"),
        ("e", "d"),
        ("f", "a"),
    ];
    let imports = ties.map(import);
    assert_eq!(
        circles(&imports),
        [BTreeSet::from(["a", "b", "c"]), BTreeSet::from(["d", "e"])]
    );
    assert_eq!(lines_of(&BTreeSet::from(["d", "e"]), &imports).len(), 2);
}
