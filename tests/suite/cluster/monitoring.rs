//! The alert rules, the documentation and what a cluster really exports name the same metrics; the rules do what their tests say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use jangada_proto::v1::CommitOffsetsRequest;

use super::groups::{coordinator, topic_id};
use crate::harness::groups::offsets;
use crate::harness::{Cluster, Options, Scrape, WAIT, eventually, is_promtool_there};
use crate::tree;

const RULES: &str = "docs/monitoring/alerts.yaml";
const TESTS: &str = "docs/monitoring/alerts_test.yaml";
const OPERATIONS: &str = "docs/operations.md";

fn read(path: &str) -> String {
    std::fs::read_to_string(tree::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All metrics that a text names: words with our prefix, but no paths of code.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words
        .filter(|word| !word.contains("::"))
        .filter(|word| word.starts_with("jangada_") || word.starts_with("process_"))
        .collect()
}

/// The family of a series: a histogram has three kinds.
fn family<'a>(series: &'a str, families: &BTreeMap<String, String>) -> &'a str {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
        let name = series.strip_suffix(suffix)?;
        families
            .get(name)
            .is_some_and(|kind| kind == "histogram")
            .then_some(name)
    });
    of_histogram.unwrap_or(series)
}

/// The values of a key in a list of YAML mappings.
fn values<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
    let prefix = format!("{key}: ");
    let lines = yaml.lines().map(|line| line.trim_start().trim_start_matches("- "));
    lines
        .filter_map(|line| line.strip_prefix(&prefix))
        .map(str::trim)
        .collect()
}

/// The metrics of the table in the documentation, with their types.
fn documented(operations: &str) -> BTreeMap<String, String> {
    let rows = operations
        .lines()
        .filter(|line| line.starts_with("| `jangada_") || line.starts_with("| `process_"));
    let mut found = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, names, kind, ..] = cells[..] else {
            panic!("no row: {row}")
        };
        // Between each two quotes.
        for name in names.split('`').skip(1).step_by(2) {
            let name = name.split('{').next().expect("a text has a first part");
            let twice = found.insert(name.to_owned(), kind.to_owned());
            assert_eq!(twice, None, "{name} is documented twice");
        }
    }
    found
}

/// The links that a page's headings can be reached by.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// The metrics of a cluster of one node that has everything that a metric is about.
async fn scrape() -> Scrape {
    let options = Options {
        sections: "[metrics]\ngroup_lag_interval_ms = 500\n".to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options).await;
    cluster.create_topic("orders", 1, 1).await;
    let commit = CommitOffsetsRequest {
        group: "billing".to_owned(),
        offsets: offsets(&topic_id(&cluster, "orders").await, [(0, 0)]),
        ..CommitOffsetsRequest::default()
    };
    let committed = coordinator(&cluster, "billing").commit(commit).await;
    committed.expect("a group without members takes it");
    eventually("the lag is known", WAIT, || async {
        let scrape = Scrape::of(&cluster, 1).await;
        scrape.sum("jangada_group_lag_records", &[]).map(|_| scrape)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_documented_and_what_rules_and_pages_name_is_exported() {
    let scrape = scrape().await;
    let documented = documented(&read(OPERATIONS));
    assert_eq!(documented, scrape.families, "documented and exported");
    let rules = read(RULES);
    let recorded: BTreeSet<&str> = values(&rules, "record").into_iter().collect();
    for record in &recorded {
        assert!(record.contains(':'), "{record} would pass for one that is exported");
    }
    // The settings' page names crates, as parts of the log.
    let is_page = |path: &str| path.starts_with("docs/") && path.ends_with(".md") && path != "docs/settings.md";
    let is_read = |path: &str| is_page(path) || [RULES, TESTS, "README.md"].contains(&path);
    for tree::File { path, text } in tree::files().iter().filter(|file| is_read(&file.path)) {
        for name in named(text) {
            let is_known = match name.contains(':') {
                true => recorded.iter().any(|record| record.ends_with(name)),
                false => scrape.families.contains_key(family(name, &scrape.families)),
            };
            assert!(is_known, "{path} names {name}, which no broker exports");
        }
    }
    // In a real scrape, as in Prometheus' own linter.
    if is_promtool_there() {
        promtool(&["check", "metrics"], Some(&scrape.text));
    }
}

#[test]
fn each_alert_has_a_test_and_says_what_to_do() {
    let (rules, tests) = (read(RULES), read(TESTS));
    let alerts = values(&rules, "alert");
    assert!(alerts.len() >= 20, "{alerts:?}");
    for alert in &alerts {
        let fires = [format!("alertname=\"{alert}\""), format!("alertname: {alert}")];
        assert!(
            fires.iter().any(|fires| tests.contains(fires)),
            "{alert} has no test in {TESTS}"
        );
    }
    for key in ["severity", "summary", "description", "runbook"] {
        assert_eq!(values(&rules, key).len(), alerts.len(), "each alert has one {key}");
    }
    for runbook in values(&rules, "runbook") {
        let (page, anchor) = runbook.split_once('#').expect("it names a section");
        assert!(anchors(&read(page)).contains(anchor), "{page} has no section {anchor}");
    }
}

#[test]
fn the_alert_rules_do_what_their_tests_say() {
    if is_promtool_there() {
        promtool(&["check", "rules", &path(RULES)], None);
        promtool(&["test", "rules", &path(TESTS)], None);
    }
}

fn path(path: &str) -> String {
    let path: PathBuf = tree::root().join(path);
    path.display().to_string()
}

/// Runs promtool, and asserts that it finds no error.
fn promtool(args: &[&str], input: Option<&str>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("input");
    std::fs::write(&file, input.unwrap_or_default()).expect("a temporary file is writable");
    let run = Command::new("promtool")
        .args(args)
        .stdin(std::fs::File::open(&file).expect("it was written"))
        .output()
        .expect("it is there");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    assert!(run.status.success(), "promtool {args:?}:\n{stdout}{stderr}");
}
