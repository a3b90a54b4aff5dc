//! The tree is tidy: sizes, leftovers, headers, places. Each rule is one test, which names every offence with its line.

use std::collections::BTreeSet;

use crate::tree::{self, File};

/// A file is one noun; a longer one is several.
const RUST_LINES_MAX: usize = 600;

/// Code is wrapped at 120 (rustfmt.toml); comments may go a little further.
const RUST_COLUMNS_MAX: usize = 140;

/// Only golden files may be large.
const FILE_BYTES_MAX: usize = 512 * 1024;

/// The names that the top level may hold.
const TOP_LEVEL: [&str; 18] = [
    ".cargo",
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "crates",
    "deny.toml",
    "deploy",
    "docs",
    "proto",
    "rustfmt.toml",
    "tests",
    // The folder of builds in place, which git ignores.
    "target",
];

/// The words are composed here so that this file does not offend itself.
const LEFTOVER_MACROS: [&str; 3] = [concat!("db", "g!"), concat!("to", "do!"), concat!("unimpl", "emented!")];
const LEFTOVER_NOTES: [&str; 4] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("HA", "CK"),
];
const PRINTS: [&str; 4] = ["println!", "print!", "eprintln!", "eprint!"];
const PATHS_OF_A_MACHINE: [&str; 4] = [
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("/Use", "rs/"),
];

fn assert_none(rule: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{rule}:\n  {}\n", offences.join("\n  "));
}

/// Each place where `offends` is true, as `path:line: text`.
fn offending_lines<'a>(files: impl Iterator<Item = &'a File>, offends: impl Fn(&File, &str) -> bool) -> Vec<String> {
    let mut offences = Vec::new();
    for file in files {
        for (number, line) in file.lines() {
            if offends(file, line) {
                offences.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    offences
}

/// Whether `word` is in `line` and is not the end of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Whether the file is of tests, or of the simulator that they run in, or of the binary, whose work is to print.
fn may_print(file: &File) -> bool {
    let path = &file.path;
    path.starts_with("crates/jangada/")
        || path.starts_with("crates/simulator/")
        || path.starts_with("tests/")
        || path.contains("/tests/")
        || path.contains("/examples/")
        || path.ends_with("/tests.rs")
        // Cargo's instructions are lines on stdout.
        || path.ends_with("/build.rs")
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    let found: BTreeSet<String> = tree::files()
        .iter()
        .map(|file| file.path.split('/').next().expect("a path has a first part").to_owned())
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    assert_none("does not belong to the top level", found.into_iter().collect());
}

#[test]
fn rust_files_are_short() {
    let offences = tree::files()
        .iter()
        .filter(|file| file.is_rust())
        .map(|file| (file, file.lines().count()))
        .filter(|(_, lines)| *lines > RUST_LINES_MAX)
        .map(|(file, lines)| format!("{}: {lines} lines", file.path))
        .collect();
    assert_none(&format!("more than {RUST_LINES_MAX} lines: split by noun"), offences);
}

#[test]
fn rust_lines_are_short() {
    let files = tree::files();
    let offences = offending_lines(files.iter().filter(|f| f.is_rust()), |_, line| {
        line.chars().count() > RUST_COLUMNS_MAX
    });
    assert_none(&format!("more than {RUST_COLUMNS_MAX} columns"), offences);
}

#[test]
fn every_module_says_what_it_is_for() {
    let offences = tree::files()
        .iter()
        .filter(|file| file.is_rust() && !file.text.starts_with("//!"))
        .map(|file| file.path.clone())
        .collect();
    assert_none("does not begin with //!", offences);
}

#[test]
fn nothing_is_left_over() {
    let files = tree::files();
    let rust = files.iter().filter(|file| file.is_rust());
    let macros = offending_lines(rust, |_, line| LEFTOVER_MACROS.iter().any(|word| has_word(line, word)));
    assert_none("leftover macro", macros);

    let ours = files
        .iter()
        .filter(|file| file.path != "Cargo.lock" && file.path != "LICENSE");
    let notes = offending_lines(ours, |_, line| {
        // Only as a whole word: a constant may have one of them in its name.
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| LEFTOVER_NOTES.contains(&word))
    });
    assert_none("leftover note: do it, or open an issue", notes);
}

#[test]
fn only_the_binary_and_tests_print() {
    let mut offences = Vec::new();
    for file in tree::files().iter().filter(|file| file.is_rust() && !may_print(file)) {
        for (number, line) in file.lines() {
            // Unit tests are the last item of their file.
            if line.starts_with("#[cfg(test)]") {
                break;
            }
            if !is_comment(line) && PRINTS.iter().any(|word| has_word(line, word)) {
                offences.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none("prints: use tracing", offences);
}

#[test]
fn no_path_of_one_machine_is_named() {
    let files = tree::files();
    let offences = offending_lines(files.iter(), |_, line| {
        PATHS_OF_A_MACHINE.iter().any(|path| {
            line.match_indices(path).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "._-$}/".contains(c))
            })
        })
    });
    assert_none("names a path of one machine", offences);
}

#[test]
fn text_ends_with_a_newline_and_no_line_with_a_space() {
    let mut offences = Vec::new();
    for file in tree::files()
        .iter()
        .filter(|file| !file.path.starts_with("tests/golden/"))
    {
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            offences.push(format!("{}: no newline at its end", file.path));
        }
        for (number, line) in file.lines().filter(|(_, line)| line.ends_with([' ', '\t', '\r'])) {
            offences.push(format!("{}:{number}: {line:?}", file.path));
        }
    }
    assert_none("white space", offences);
}

#[test]
fn files_are_small() {
    let root = tree::root();
    let offences = tree::files()
        .iter()
        .filter(|file| !file.path.starts_with("tests/golden/"))
        .map(|file| {
            (
                file,
                std::fs::metadata(root.join(&file.path)).map_or(0, |metadata| metadata.len()),
            )
        })
        .filter(|(_, bytes)| *bytes > FILE_BYTES_MAX as u64)
        .map(|(file, bytes)| format!("{}: {bytes} bytes", file.path))
        .collect();
    assert_none("large file", offences);
}

/// Every file that docs/adding.md names exists.
#[test]
fn the_guide_names_files_that_are_there() {
    let files = tree::files();
    let guide = files
        .iter()
        .find(|file| file.path == "docs/adding.md")
        .expect("docs/adding.md");
    let code = guide.text.split('`').skip(1).step_by(2);
    let paths: BTreeSet<_> = code
        .filter(|code| code.starts_with("crates/") || code.starts_with("tests/"))
        .collect();
    assert!(!paths.is_empty(), "docs/adding.md names no file");
    let is_there = |path: &str| {
        let is_in = |file: &File| {
            file.path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        files.iter().any(is_in)
    };
    let missing = paths.into_iter().filter(|path| !is_there(path)).map(str::to_owned);
    assert_none("docs/adding.md names files that are not there", missing.collect());
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let files = tree::files();
    let find = |path: &str| files.iter().find(|file| file.path == path);
    let mut broken = Vec::new();
    for page in files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (line, link) in links(&page.text) {
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = match target {
                "" => page.path.clone(),
                _ => resolved(folder, target),
            };
            let is_folder = || files.iter().any(|file| file.path.starts_with(&format!("{path}/")));
            let is_there = match find(&path) {
                Some(found) => anchor.is_empty() || headings(&found.text).any(|heading| heading == anchor),
                None => anchor.is_empty() && is_folder(),
            };
            if !is_there {
                broken.push(format!("{}:{line}: {link}", page.path));
            }
        }
    }
    assert_none("links that lead nowhere", broken);
}

/// Targets of the links to files of the project, each with the number of its line.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let of_line = |(number, line): (usize, _)| {
        let targets = str::split(line, "](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.map(move |target| (number + 1, target))
    };
    let links = text.lines().enumerate().flat_map(of_line);
    links.filter(|(_, target)| !target.contains("://"))
}

/// A relative path from the project's root.
fn resolved(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchors of a page's headings.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let is_heading = |line: &&str| line.starts_with('#');
    text.lines().filter(is_heading).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// A Rust file that no `mod` names is not compiled, and rots.
#[test]
fn every_rust_file_is_part_of_a_crate() {
    let files = tree::files();
    let mut declared = BTreeSet::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        for line in file.text.lines() {
            if let Some(name) = line
                .trim()
                .strip_prefix("#[path = \"")
                .and_then(|rest| rest.strip_suffix(".rs\"]"))
            {
                declared.insert((package_of(&file.path), name.to_owned()));
            }
            let (visibility, item) = line.trim().split_once("mod ").unwrap_or_default();
            if !visibility.is_empty() && !visibility.starts_with("pub") {
                continue;
            }
            if let Some(name) = item.strip_suffix(';') {
                declared.insert((package_of(&file.path), name.to_owned()));
            }
        }
    }
    let offences = files
        .iter()
        .filter(|file| file.is_rust() && (file.path.contains("/src/") || file.path.starts_with("tests/suite/")))
        .filter_map(|file| {
            let name = module_name(&file.path)?;
            let is_declared = declared.contains(&(package_of(&file.path), name.to_owned()));
            (!is_declared).then(|| file.path.clone())
        })
        .collect();
    assert_none("no `mod` names it", offences);
}

/// `crates/types` for `crates/types/src/batch/header.rs`.
fn package_of(path: &str) -> String {
    let parts = if path.starts_with("crates/") { 2 } else { 1 };
    path.split('/').take(parts).collect::<Vec<_>>().join("/")
}

/// The name by which a `mod` declares the file; none for a crate's root.
fn module_name(path: &str) -> Option<&str> {
    let mut parts = path.rsplit('/');
    let stem = parts.next()?.strip_suffix(".rs")?;
    let folder = parts.next()?;
    match stem {
        "lib" | "main" => None,
        _ if folder == "bin" => None,
        "mod" => Some(folder),
        _ => Some(stem),
    }
}
