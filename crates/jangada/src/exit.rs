//! The exit codes, which scripts rely on.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command did what was asked.
    Fine = 0,
    /// The command failed.
    Error = 1,
    /// The arguments made no sense. clap ends with the same code.
    Usage = 2,
    /// The cluster is not healthy, or cannot be reached.
    Unhealthy = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
