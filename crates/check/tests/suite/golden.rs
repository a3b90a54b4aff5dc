//! Each file of `tests/golden` is one history. Its name says what is to be found: `valid.*`, `unknown.*`, or the kind of the only anomaly,
//! with a variant behind a dot. Beside it stands the report as people see it; `JANGADA_BLESS=1` writes the reports anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jangada_check::{Judgement, Kind, Verdict, check, format};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The histories with what their names say.
fn histories() -> Vec<(PathBuf, String)> {
    let files = fs::read_dir(folder()).expect("there are golden histories");
    let paths = files.map(|file| file.expect("the folder is readable").path());
    let of = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".jsonl")?;
        let kind = name.split('.').next()?.to_owned();
        Some((path, kind))
    };
    let mut found: Vec<_> = paths.filter_map(of).collect();
    found.sort();
    found
}

fn judge(path: &Path) -> Verdict {
    let bytes = fs::read(path).expect("the history is readable");
    let history = format::read(&bytes[..]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    check(&history)
}

#[test]
fn each_golden_history_has_the_verdict_that_its_name_says() {
    let mut wrong = Vec::new();
    for (path, expected) in histories() {
        let verdict = judge(&path);
        let kinds: Vec<&str> = verdict.kinds().iter().map(|kind| kind.name()).collect();
        let is_right = match expected.as_str() {
            "valid" => verdict.judgement == Judgement::Valid,
            "unknown" => verdict.judgement == Judgement::Unknown,
            kind => verdict.judgement == Judgement::Invalid && kinds == [kind],
        };
        if !is_right {
            wrong.push(format!("{}:\n{verdict}", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of the histories:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn each_kind_of_anomaly_has_a_golden_history() {
    let names: BTreeSet<String> = histories().into_iter().map(|(_, kind)| kind).collect();
    let without: Vec<&str> = Kind::ALL
        .iter()
        .map(|kind| kind.name())
        .filter(|kind| !names.contains(*kind))
        .collect();
    assert_eq!(without, Vec::<&str>::new());
}

#[test]
fn each_golden_history_has_the_report_beside_it() {
    let bless = std::env::var_os("JANGADA_BLESS").is_some();
    let mut wrong = Vec::new();
    for (path, _) in histories() {
        let report = judge(&path).to_string();
        let beside = path.with_extension("txt");
        if bless {
            fs::write(&beside, report).expect("the folder is writable");
        } else if fs::read_to_string(&beside).ok().as_deref() != Some(&report) {
            wrong.push(format!("{}:\n{report}", beside.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "other reports (JANGADA_BLESS=1 writes them):\n{}",
        wrong.join("\n")
    );
}

#[test]
fn a_witness_is_small_and_in_order() {
    for (path, _) in histories() {
        let verdict = judge(&path);
        for anomaly in &verdict.anomalies {
            let count = anomaly.witness.len();
            assert!((1..=8).contains(&count), "{}: {anomaly}", path.display());
            let is_cycle = anomaly.kind.name().contains("cycle") || anomaly.kind == Kind::CircularFlow;
            let is_sorted = anomaly.witness.is_sorted_by_key(|witness| witness.index);
            assert!(is_cycle || is_sorted, "{}: {anomaly}", path.display());
        }
    }
}
