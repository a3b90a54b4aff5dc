//! Doc comments say what a thing is, in a sentence. A comment of one or two words repeats the name or is a riddle, and one that only
//! points to its module's text says nothing.

use crate::tree::{self, File};

/// Files whose doc comments are the help of the command line, where a flag may need no more than two words.
const HELP: [&str; 3] = [
    "crates/jangada/src/cli/",
    "crates/jangada/src/output.rs",
    "crates/jangada/src/text/encoding.rs",
];

/// A doc comment with fewer words is no sentence. One that refers to another item (`See [..]`) may be shorter.
const WORDS_MIN: usize = 3;

/// One doc comment of adjacent lines.
struct DocComment {
    /// The number of its first line, from 1 on.
    line: usize,
    text: String,
}

/// The marker and the text of a line of a doc comment.
fn doc_line(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let marker = ["///", "//!"].into_iter().find(|marker| line.starts_with(marker))?;
    let text = &line[marker.len()..];
    // Four slashes are no doc comment.
    (text.is_empty() || text.starts_with(' ')).then(|| (marker, text.trim()))
}

fn doc_comments(file: &File) -> Vec<DocComment> {
    let mut comments: Vec<DocComment> = Vec::new();
    let mut marker_before = None;
    for (number, line) in file.lines() {
        let Some((marker, text)) = doc_line(line) else {
            marker_before = None;
            continue;
        };
        match comments.last_mut().filter(|_| marker_before == Some(marker)) {
            Some(comment) => {
                comment.text.push(' ');
                comment.text.push_str(text);
            }
            None => comments.push(DocComment {
                line: number,
                text: text.to_owned(),
            }),
        }
        marker_before = Some(marker);
    }
    comments
}

/// What is wrong with the text of a doc comment.
fn offence(text: &str) -> Option<&'static str> {
    let refers = text.starts_with("See [");
    if text.split_whitespace().count() < WORDS_MIN && !refers {
        Some("too short: say what the thing is, with unit, bound or source, or leave the comment out")
    } else if text.contains(concat!("See the ", "module text")) {
        Some("says nothing: say what the thing is, or leave the comment out")
    } else if text.starts_with("As [") {
        Some("no sentence: write \"Like [..]\", and how it differs")
    } else {
        None
    }
}

fn offences(file: &File) -> Vec<String> {
    let of_comment = |comment: DocComment| {
        let what = offence(&comment.text)?;
        Some(format!("{}:{}: {:?} is {what}", file.path, comment.line, comment.text))
    };
    doc_comments(file).into_iter().filter_map(of_comment).collect()
}

fn is_in(file: &File, places: &[&str]) -> bool {
    places.iter().any(|place| file.path.starts_with(place))
}

#[test]
fn doc_comments_are_sentences() {
    let files = tree::files();
    let checked = files.iter().filter(|file| file.is_rust() && !is_in(file, &HELP));
    let found: Vec<String> = checked.flat_map(offences).collect();
    assert!(found.is_empty(), "doc comments:\n  {}\n", found.join("\n  "));
}

#[test]
fn offences_are_told_from_sentences() {
    let file = File {
        path: "a.rs".to_owned(),
        text: [
            "//! Ports of nodes.",
            "/// Which.",
            "struct A {",
            "    /// Its",
            "    ///",
            "    /// id.",
            "    id: u32,",
            "    /// See [`A`].",
            "    a: u32,",
            "    //// Four slashes.",
            "    // Short.",
            "    /// As [`A`], but not so.",
            "    b: u32,",
            "    /// The id of the other one.",
        ]
        .join("\n"),
    };
    let found: Vec<usize> = doc_comments(&file)
        .into_iter()
        .filter(|comment| offence(&comment.text).is_some())
        .map(|comment| comment.line)
        .collect();
    assert_eq!(found, [2, 4, 12]);
}
