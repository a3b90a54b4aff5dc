//! No circle of imports inside a crate crosses more than two files: a crate can be read file by file, and a part of it tested alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports::{self, Import};
use crate::tree;

/// Files of a circle that is no more than two sides of one thing.
const FILES_MAX: usize = 2;

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
    for krate in crates {
        let imports = imports::of_crate(krate, &files);
        for circle in circles(&imports).iter().filter(|circle| circle.len() > FILES_MAX) {
            let lines = lines_of(circle, &imports).join("\n");
            offences.push(format!("{krate}: {} files\n{lines}", circle.len()));
        }
    }
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
