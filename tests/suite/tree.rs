//! The files of the checkout, for the tests that read it (`tidy`, `language`, `layers`, `contract`, `deploy`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One file, by its path below the root with `/` between its parts.
pub struct File {
    pub path: String,
    /// The contents; empty for files that are not UTF-8.
    pub text: String,
}

impl File {
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The file's lines with their numbers, from 1 on.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is below the root")
        .to_owned()
}

/// Every file that belongs to the project: those that git has or would add. Without git, all that its ignore list does
/// not name.
pub fn files() -> Vec<File> {
    let root = root();
    let mut paths = listed_by_git(&root).unwrap_or_else(|| {
        let mut found = Vec::new();
        walk(&root, "", &mut found);
        found
    });
    paths.sort();
    paths.dedup();
    // A file that git has may be deleted in the working tree.
    paths.retain(|path| root.join(path).is_file());
    assert!(
        paths.iter().any(|path| path == "Cargo.toml"),
        "{} is not the root of the checkout",
        root.display()
    );
    paths
        .into_iter()
        .map(|path| {
            let bytes = fs::read(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            File {
                path,
                text: String::from_utf8(bytes).unwrap_or_default(),
            }
        })
        .collect()
}

fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    if !root.join(".git").exists() {
        return None;
    }
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .ok()?;
    // Git refuses a checkout of another user, as in some containers.
    if !output.status.success() {
        return None;
    }
    let listing = String::from_utf8(output.stdout).ok()?;
    Some(listing.split_terminator('\0').map(str::to_owned).collect())
}

fn walk(root: &Path, below: &str, found: &mut Vec<String>) {
    let folder = root.join(below);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let entry = entry.expect("a folder's entry is readable");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() {
            name.clone()
        } else {
            format!("{below}/{name}")
        };
        let kind = entry.file_type().expect("an entry has a type");
        if kind.is_dir() {
            if ![".git", "jangada-data", "target"].contains(&name.as_str()) {
                walk(root, &path, found);
            }
        } else {
            found.push(path);
        }
    }
}
