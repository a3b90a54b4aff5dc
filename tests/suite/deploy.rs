//! The example settings in `deploy/` are valid for the program of this tree.

use std::{path::Path, process::Command};

use crate::{binary, tree};

fn check_config(file: &Path) -> std::process::Output {
    Command::new(binary::jangada())
        .args(["server", "check-config"])
        .arg(file)
        // Settings of the caller's environment would be checked instead of the file's.
        .env_clear()
        .output()
        .expect("the program starts")
}

#[test]
fn every_example_is_valid() {
    let examples: Vec<String> = tree::files()
        .into_iter()
        .map(|file| file.path)
        .filter(|path| path.starts_with("deploy/") && path.ends_with(".toml"))
        .collect();
    assert_eq!(examples.len(), 4, "one node, and three: {examples:?}");
    for example in examples {
        let output = check_config(&tree::root().join(&example));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{example}:\n{stderr}");
    }
}

#[test]
fn a_key_that_does_not_exist_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("wrong.toml");
    let valid = std::fs::read_to_string(tree::root().join("deploy/one-node.toml")).expect("the example is readable");
    std::fs::write(&file, format!("no_such_key = 1\n{valid}")).expect("a temporary file is writable");
    let output = check_config(&file);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("no_such_key"),
        "the message does not name the key:\n{stderr}"
    );
}
