//! The crates depend only downward, and the manifests keep the workspace's rules.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::tree;

/// The crates of the workspace that each may depend on. `env`, `types` and `proto` are the ground.
const ALLOWED: [(&str, &[&str]); 19] = [
    ("env", &[]),
    ("types", &[]),
    ("proto", &[]),
    ("storage", &["types"]),
    ("machine", &["types"]),
    ("routing", &["types"]),
    ("controller", &["machine", "routing", "types"]),
    ("coordinator", &["machine", "types"]),
    ("transactions", &["machine", "types"]),
    ("shard", &["coordinator", "machine", "transactions", "types"]),
    ("log", &["machine", "queue", "types"]),
    ("queue", &["machine", "types"]),
    ("replication", &["env", "machine", "storage", "types", "proto"]),
    (
        "broker",
        &[
            "controller",
            "coordinator",
            "env",
            "log",
            "machine",
            "queue",
            "replication",
            "routing",
            "shard",
            "storage",
            "transactions",
            "types",
            "proto",
        ],
    ),
    ("client", &["env", "types", "proto"]),
    // What people build on a broker is built on the client alone.
    ("patterns", &["client", "types"]),
    (
        "jangada",
        &[
            "broker", "client", "env", "log", "patterns", "storage", "types", "proto",
        ],
    ),
    (
        "simulator",
        &[
            "broker", "check", "client", "env", "log", "machine", "proto", "storage", "types",
        ],
    ),
    // It judges what clients saw, whatever they saw it of.
    ("check", &[]),
];

/// Packages that only one crate may name, which hides them behind types of its own.
const BEHIND: [(&str, &str); 2] = [("openraft", "replication"), ("rocksdb", "storage")];

const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// The manifests of the crates by folder name.
fn manifests() -> BTreeMap<String, Table> {
    tree::files()
        .iter()
        .filter_map(|file| {
            let name = file.path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
            let manifest = file
                .text
                .parse()
                .unwrap_or_else(|error| panic!("{}: {error}", file.path));
            Some((name.to_owned(), manifest))
        })
        .collect()
}

fn root_manifest() -> Table {
    let path = tree::root().join("Cargo.toml");
    std::fs::read_to_string(path)
        .expect("the root manifest is readable")
        .parse()
        .expect("the root manifest parses")
}

/// The dependencies of a manifest, of all sections: section, name, value.
fn dependencies(manifest: &Table) -> impl Iterator<Item = (&'static str, &String, &Value)> {
    SECTIONS.into_iter().flat_map(|section| {
        let table = manifest.get(section).and_then(Value::as_table);
        table
            .into_iter()
            .flatten()
            .map(move |(name, value)| (section, name, value))
    })
}

#[test]
fn crates_depend_only_downward() {
    let allowed = BTreeMap::from(ALLOWED);
    for (name, manifest) in manifests() {
        let below = allowed
            .get(name.as_str())
            .unwrap_or_else(|| panic!("crates/{name} has no place among the layers"));
        for (_, dependency, _) in dependencies(&manifest).filter(|(section, _, _)| *section != "dev-dependencies") {
            if let Some(other) = dependency.strip_prefix("jangada-") {
                assert!(below.contains(&other), "crates/{name} may not depend on crates/{other}");
            }
        }
    }
}

#[test]
fn openraft_and_rocksdb_are_each_behind_one_crate() {
    for (name, manifest) in manifests() {
        for (_, dependency, _) in dependencies(&manifest) {
            if let Some((_, owner)) = BEHIND.iter().find(|(package, _)| package == dependency) {
                assert_eq!(&name, owner, "only crates/{owner} may name {dependency}");
            }
        }
    }
}

/// The api does the same for every protocol, so it knows none. Its tests may compare it with one.
#[test]
fn the_api_knows_no_protocol() {
    const PROTOCOLS: [&str; 5] = ["jangada_proto", "tonic", "prost", "axum", "crate::services"];
    let mut offences = Vec::new();
    for file in tree::files()
        .iter()
        .filter(|file| file.path.starts_with("crates/broker/src/api/"))
    {
        let code = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        let names = |name: &&&str| code.contains(**name);
        offences.extend(
            PROTOCOLS
                .iter()
                .filter(names)
                .map(|name| format!("{}: {name}", file.path)),
        );
    }
    assert_eq!(offences, Vec::<String>::new());
}

/// Code without its unit tests.
fn product(file: &tree::File) -> Option<&str> {
    let is_product = file.path.contains("/src/") && !file.path.ends_with("tests.rs") && !file.path.contains("/tests/");
    is_product.then(|| file.text.split("#[cfg(test)]").next().unwrap_or_default())
}

/// What clippy does not hold: a broker and a client take files, processes and variables from the world through `Env`.
#[test]
fn only_seams_touch_the_system() {
    const CRATES: [&str; 11] = [
        "broker",
        "client",
        "controller",
        "coordinator",
        "log",
        "machine",
        "replication",
        "routing",
        "shard",
        "transactions",
        "types",
    ];
    const SYSTEM: [&str; 4] = ["std::fs", "std::process", "std::env::", "getrandom"];
    // Each has its reason in docs/architecture/seams.md.
    const EXEMPT: [&str; 4] = [
        "crates/broker/src/cluster/failpoint.rs",
        "crates/broker/src/metrics/process.rs",
        "crates/broker/src/settings/load.rs",
        "crates/types/src/replicated/golden.rs",
    ];
    let files = tree::files();
    let inside = |file: &&tree::File| {
        CRATES
            .iter()
            .any(|name| file.path.starts_with(&format!("crates/{name}/src/")))
    };
    let mut touching: Vec<&str> = Vec::new();
    for file in files.iter().filter(inside) {
        let code = product(file).unwrap_or_default();
        if SYSTEM.iter().any(|name| code.contains(name)) {
            touching.push(&file.path);
        }
    }
    assert_eq!(touching, EXEMPT, "what is not exempt takes it from its Env");
}

#[test]
fn only_the_contract_is_generated() {
    let scripts: Vec<String> = tree::files()
        .into_iter()
        .map(|file| file.path)
        .filter(|path| path.ends_with("build.rs"))
        .collect();
    assert_eq!(scripts, ["crates/proto/build.rs"]);
}

/// Versions are in one place, so that every crate has the same.
#[test]
fn dependencies_come_from_the_workspace() {
    for (name, manifest) in manifests() {
        for (section, dependency, value) in dependencies(&manifest) {
            let recovered = value
                .as_table()
                .and_then(|table| table.get("workspace"))
                .and_then(Value::as_bool);
            assert_eq!(
                recovered,
                Some(true),
                "crates/{name}: [{section}] {dependency} is not of the workspace"
            );
        }
        let lints = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(Value::as_bool);
        assert_eq!(lints, Some(true), "crates/{name}: [lints] workspace = true is missing");
    }
}

#[test]
fn each_dependency_is_used_and_justified() {
    let text = std::fs::read_to_string(tree::root().join("docs/dependencies.md")).expect("docs/dependencies.md");
    let root = root_manifest();
    let listed = root["workspace"]["dependencies"]
        .as_table()
        .expect("the workspace lists its dependencies");
    let mut manifests = manifests();
    let tests = std::fs::read_to_string(tree::root().join("tests/Cargo.toml")).expect("tests/Cargo.toml");
    manifests.insert("tests".to_owned(), tests.parse().expect("tests/Cargo.toml parses"));
    for name in listed.keys().filter(|name| !name.starts_with("jangada-")) {
        let used = manifests
            .values()
            .any(|manifest| dependencies(manifest).any(|(_, other, _)| other == name));
        assert!(used, "no crate uses the workspace's dependency {name}");
        assert!(
            text.contains(&format!("| `{name}` |")),
            "docs/dependencies.md does not justify {name}"
        );
    }
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for row in rows {
        assert!(
            listed.contains_key(row),
            "docs/dependencies.md justifies {row}, which the workspace does not have"
        );
    }
}
