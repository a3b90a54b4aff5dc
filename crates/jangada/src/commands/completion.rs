//! `jangada completion SHELL`: prints the script that makes a shell complete this program's arguments.

use std::env;

use clap_complete::Shell;
use clap_complete::env::Shells;

use crate::complete::VARIABLE;
use crate::errors::{CliError, Result};
use crate::output::print_text;

/// The addition that only bash needs.
const BASH: &str = include_str!("completion.bash");

/// Prints the script. With it the shell calls this program when a key for completion is pressed.
pub fn run(shell: Shell) -> Result<()> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let completer = shells
        .completer(&name)
        .ok_or_else(|| CliError::usage(format!("there is no completion for {name}")))?;
    // This very program: the shell may not find it by its name, or may find another one.
    let program = env::current_exe()?.display().to_string();
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "jangada", "jangada", &program, &mut script)?;
    if shell == Shell::Bash {
        script.extend_from_slice(BASH.as_bytes());
    }
    print_text(&String::from_utf8_lossy(&script))
}
