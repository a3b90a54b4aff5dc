//! Output on stdout: tables for people, JSON for programs.
//!
//! JSON keys are the field names of `/proto`; a listing is an array. A value that is not known, or not there, is null,
//! never a number or a text that stands for it.

use std::io::{self, Write as _};

use clap::{Args, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::errors::Result;
use crate::note::note;

/// `-o table|json`, for every command that shows something.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutputArgs {
    /// How to show it
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How a listing looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// A result that can be shown in both forms.
pub trait Show {
    /// The result as a table.
    fn table(&self) -> String;
    /// The result as JSON.
    fn json(&self) -> serde_json::Value;
}

impl OutputArgs {
    /// Writes the result to stdout in the form that was asked for.
    pub fn show(self, what: &impl Show) -> Result<()> {
        let text = match self.output {
            Output::Table => what.table(),
            Output::Json => pretty(&what.json()),
        };
        print_text(&text)
    }

    /// Reports the success of a command without other results: JSON to stdout, or a sentence to stderr.
    pub fn done(self, sentence: &str, json: serde_json::Value) -> Result<()> {
        match self.output {
            Output::Table => {
                note(sentence);
                Ok(())
            }
            Output::Json => print_text(&pretty(&json)),
        }
    }
}

/// A text in JSON: null if it is empty, as a missing text is on the wire.
pub fn some_text(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// Writes lines to stdout.
pub fn print_text(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    Ok(stdout.flush()?)
}

/// A plain table: no lines, two spaces between columns, so that it also cuts well with other tools.
pub fn plain_table<H, R, C>(header: H, rows: R) -> String
where
    H: IntoIterator<Item = &'static str>,
    R: IntoIterator<Item = C>,
    C: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header.into_iter().map(str::to_uppercase).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.into_iter().collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// JSON as text, one array element or field a line.
pub fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value can be written as text")
}

/// The value, or `-` if it is not known.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Values with commas between them.
pub fn join<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values
        .into_iter()
        .map(|value| value.to_string())
        .collect::<Vec<_>>()
        .join(",")
}
