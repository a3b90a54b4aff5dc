//! `jangada completion SHELL`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::errors::Result;
use crate::output::print_text;

/// Prints the script. It is made in memory first: clap panics when a pipe closes while it writes.
pub fn run(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "jangada", &mut script);
    print_text(&String::from_utf8_lossy(&script))
}
