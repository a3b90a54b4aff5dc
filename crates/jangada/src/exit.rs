//! The exit codes, which scripts rely on.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Fine = 0,
    /// It failed.
    Error = 1,
    /// It was asked in a way that makes no sense. clap ends with the same code.
    Usage = 2,
    /// The cluster is not healthy, or cannot be reached.
    Unhealthy = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
