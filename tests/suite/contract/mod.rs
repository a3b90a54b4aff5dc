//! The .proto files stay compatible with those that were released, and document all that is public.
//!
//! `tests/golden/proto/<package>.txt` is a listing of every message, field, enum value and method. What it lists must still be there,
//! under the same number, name and type; more may come. After a change that is meant, and for recording what was added:
//!
//! ```text
//! JANGADA_BLESS=1 make test FILTER=contract
//! ```
//!
//! writes the listings anew. Even then a field that was removed must leave its number and its name `reserved`; a listing of what was never
//! released can be deleted before.

mod comments;
mod compat;
mod listing;

use std::{collections::BTreeMap, fs, path::PathBuf};

use prost_types::FileDescriptorSet;

use crate::tree;
use listing::Contract;

fn golden_folder() -> PathBuf {
    tree::root().join("tests/golden/proto")
}

/// The package for clients.
const PUBLIC: &str = "jangada.v1";

/// The .proto files of the tree, with their comments.
fn descriptors() -> FileDescriptorSet {
    let files: Vec<String> = tree::files()
        .into_iter()
        .filter_map(|file| Some(file.path.strip_prefix("proto/")?.to_owned()))
        .filter(|path| path.ends_with(".proto"))
        .collect();
    protox::compile(&files, [tree::root().join("proto")]).unwrap_or_else(|error| panic!("{error:?}"))
}

/// The contract of the tree, by package.
fn current() -> BTreeMap<String, Contract> {
    listing::by_package(&descriptors())
}

/// The contract that was recorded, by package.
fn golden() -> BTreeMap<String, Contract> {
    let mut golden = BTreeMap::new();
    let Ok(entries) = fs::read_dir(golden_folder()) else {
        return golden;
    };
    for entry in entries {
        let path = entry.expect("a folder's entry is readable").path();
        let package = path
            .file_stem()
            .expect("a golden file has a name")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let contract = Contract::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        golden.insert(package, contract);
    }
    golden
}

fn report(breaks: &[String], advice: &str) -> String {
    format!(
        "the .proto files broke the contract:\n  {}\n{advice}\n",
        breaks.join("\n  ")
    )
}

#[test]
fn the_contract_is_compatible_with_the_recorded_one() {
    let (recorded, current) = (golden(), current());
    let empty = Contract::default();
    let compare = |check: fn(&Contract, &Contract) -> Vec<String>| -> Vec<String> {
        let packages = recorded.iter();
        packages
            .flat_map(|(package, old)| check(old, current.get(package).unwrap_or(&empty)))
            .collect()
    };

    if std::env::var_os("JANGADA_BLESS").is_some_and(|value| value == "1") {
        let forgotten = compare(compat::removed_without_reservation);
        assert!(
            forgotten.is_empty(),
            "{}",
            report(&forgotten, "Reserve them, then record the change again.")
        );
        fs::create_dir_all(golden_folder()).expect("the folder of golden files can be made");
        for (package, contract) in &current {
            let path = golden_folder().join(format!("{package}.txt"));
            fs::write(&path, contract.to_string()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        return;
    }

    let mut breaks = compare(compat::breaks);
    let unrecorded = current.keys().filter(|package| !recorded.contains_key(*package));
    breaks.extend(unrecorded.map(|package| format!("package {package} is not recorded yet")));
    let advice = "A client or broker of another version would misread it: add a field or method instead. \
                  If it was meant, record it: JANGADA_BLESS=1 make test FILTER=contract";
    assert!(breaks.is_empty(), "{}", report(&breaks, advice));
}

#[test]
fn a_listing_reads_back_as_it_was_written() {
    for (package, contract) in current() {
        let text = contract.to_string();
        assert_eq!(Contract::parse(&text), Ok(contract), "{package}");
    }
}

#[test]
fn all_that_is_public_has_a_comment() {
    let descriptors = descriptors();
    let public = descriptors.file.iter().filter(|file| file.package() == PUBLIC);
    let omissions: Vec<String> = public.flat_map(comments::omissions).collect();
    assert!(
        omissions.is_empty(),
        "the .proto files of {PUBLIC} are the documentation, and leave out:\n  {}\n\
         Say before each what it is, with unit, default and bounds; log.proto says how errors are named.\n",
        omissions.join("\n  ")
    );
}
