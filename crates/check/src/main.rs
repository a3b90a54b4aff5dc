//! `jangada-check`: judges a history that is in a file, or makes one.
//!
//! Exit codes: 0 valid, 1 invalid, 2 unknown, 3 the input or the command line is wrong.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use jangada_check::{Recorder, check, format, generate};

/// The exit code for input that is no history.
const WRONG_INPUT: u8 = 3;

/// Judges histories of what clients of a cluster saw.
///
/// Exit codes: 0 valid, 1 invalid, 2 unknown (nothing is wrong, but the history does not show what it was to show), 3 the input or the
/// command line is wrong.
#[derive(Parser)]
#[command(name = "jangada-check", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Judge a history: JSON lines as docs/architecture/checker.md has them
    Judge {
        /// The file with the history; - for standard input
        file: PathBuf,
        /// Print the verdict as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a correct history as JSON lines to standard output
    Generate {
        /// How many calls it has
        #[arg(long, default_value_t = 1_000)]
        operations: u64,
        /// Where its random numbers begin
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Partitions without compaction; one more is compacted
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=10_000))]
        partitions: u64,
        /// Processes of each kind: producers, transactional ones, readers, members, users of queues
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        processes: u64,
    },
    /// List the kinds of anomalies with their meaning
    Kinds,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { WRONG_INPUT } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(WRONG_INPUT),
            };
        }
    };
    match run(arguments.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "jangada-check: {error}");
            ExitCode::from(WRONG_INPUT)
        }
    }
}

fn run(command: Command) -> Result<u8, Box<dyn std::error::Error>> {
    let mut output = BufWriter::new(io::stdout());
    match command {
        Command::Judge { file, json } => {
            let input: Box<dyn Read> = match file.to_str() {
                Some("-") => Box::new(io::stdin()),
                _ => Box::new(File::open(&file).map_err(|error| format!("cannot open {}: {error}", file.display()))?),
            };
            let history = format::read(BufReader::with_capacity(1 << 20, input))?;
            let verdict = check(&history);
            match json {
                true => {
                    serde_json::to_writer_pretty(&mut output, &verdict)?;
                    writeln!(output)?;
                }
                false => write!(output, "{verdict}")?,
            }
            output.flush()?;
            Ok(verdict.judgement.exit_code())
        }
        Command::Generate {
            operations,
            seed,
            partitions,
            processes,
        } => {
            let (clock, time) = generate::clock();
            let recorder = Recorder::with_output(clock, output);
            let options = generate::Options {
                operations,
                seed,
                partitions: usize::try_from(partitions)?,
                processes: usize::try_from(processes)?,
            };
            generate::generate(&options, &time, &recorder);
            recorder.finish()?;
            Ok(0)
        }
        Command::Kinds => {
            for kind in jangada_check::Kind::ALL {
                writeln!(output, "{kind}: {}", kind.meaning())?;
            }
            output.flush()?;
            Ok(0)
        }
    }
}
