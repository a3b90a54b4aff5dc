//! Errors of settings.

use std::fmt;
use std::path::PathBuf;

/// Why settings were refused. Nothing has been started or written when this is returned.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },

    /// The file is not TOML.
    #[error("the settings file {} is not valid TOML: {message}", path.display())]
    Syntax {
        /// The path of the file.
        path: PathBuf,
        /// The parser's error, with line and column.
        message: String,
    },

    /// Keys or values are wrong; all of them are listed.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),

    /// The merged layers cannot be read, although each of them passed its checks: an error of this program.
    #[error("settings: {0}")]
    Layers(#[from] config::ConfigError),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, `section.key`.
    pub key: String,
    /// What is wrong with it, as the rest of a sentence that begins with the key.
    pub message: String,
    /// Where its value was set: `FILE:LINE`, a variable, or a flag. Empty if it has its default.
    pub place: String,
}

impl Problem {
    pub(super) fn new(key: &str, message: String) -> Problem {
        Problem {
            key: key.to_owned(),
            message,
            place: String::new(),
        }
    }

    pub(super) fn at(self, place: &str) -> Problem {
        Problem {
            place: place.to_owned(),
            ..self
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "setting `{}` {}", self.key, self.message)?;
        if !self.place.is_empty() {
            write!(f, " ({})", self.place)?;
        }
        Ok(())
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
