//! The one binary of Jangada.
//!
//! | module | what is in it |
//! |---|---|
//! | `cli` | the command line: clap's definitions, nothing else |
//! | `complete` | names of topics and groups for the shell's completion |
//! | `commands` | one module for each command |
//! | `text` | records as lines, JSON lines and formatted text; pure |
//! | `output` | tables and JSON on stdout |
//! | `errors`, `exit` | the errors of commands, and the exit codes |
//! | `brokers` | the brokers that a command begins with: flag, variable, files, default |
//! | `connect` | a client from these |
//! | `files` | files that are written whole or not at all |
//! | `logging`, `note`, `notices`, `progress` | output on stderr |
//! | `cpu` | the instructions that the build needs; runs before `main` |
//!
//! Data goes to stdout, everything else to stderr.

#![allow(
    clippy::disallowed_methods,
    reason = "the binary stands outside the simulation: its clock and its randomness are the real ones"
)]

mod brokers;
mod cli;
mod commands;
mod complete;
mod connect;
mod cpu;
mod errors;
mod exit;
mod files;
mod logging;
mod note;
mod notices;
mod output;
mod progress;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;

use crate::cli::{Cli, Command};
use crate::exit::Exit;

/// One allocator for Rust and for RocksDB's C++ (the feature `unprefixed_malloc_on_supported_platforms` makes `malloc`
/// jemalloc's too): memory that one frees can be used by the other, and large buffers come without touching new pages
/// each time, which costs a third of the CPU of a write otherwise.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The allocator's options, read by jemalloc when the process starts. Freed pages are kept for a second: a broker
/// under load uses its buffers again long before, and a burst does not count for long.
#[allow(non_upper_case_globals)]
#[allow(unsafe_code, reason = "jemalloc finds its settings by the name of the symbol")]
#[unsafe(export_name = "malloc_conf")]
pub static malloc_conf: &[u8; 60] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    // Answers and ends if a shell asks for completions of a line.
    CompleteEnv::with_factory(Cli::command)
        .var(complete::VARIABLE)
        .complete();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return errors::CliError::new(format!("cannot start the runtime: {error}")).report(),
    };
    let patience = end_within(&cli.command);
    let result = runtime.block_on(commands::run(cli));
    runtime.shutdown_timeout(patience);
    notices::settle();
    match result {
        Ok(()) => Exit::Fine.into(),
        Err(error) => error.report(),
    }
}

/// How long to wait for tasks that are still running when a command has done its work.
///
/// A broker's last reads and tasks of its connections hold the store, and RocksDB must be closed before the process
/// takes down what its threads use. Elsewhere a thread may wait for a line on stdin, and cannot be stopped.
fn end_within(command: &Command) -> Duration {
    match command {
        Command::Server(_) => Duration::from_secs(10),
        _ => Duration::ZERO,
    }
}
