//! What must hold in the end.

use std::process::ExitCode;

use super::{Error, say};

/// Claims, and whether each holds.
#[derive(Debug, Default)]
pub struct Check {
    failed: u32,
    held: u32,
}

impl Check {
    /// Says a claim, and whether it holds; `seen` is what was seen.
    pub fn that(&mut self, claim: &str, holds: bool, seen: impl std::fmt::Display) {
        if holds {
            self.held += 1;
        } else {
            self.failed += 1;
        }
        let mark = if holds { "holds" } else { "FAILS" };
        say("check", format!("{mark}: {claim} ({seen})"));
    }

    /// Says a claim that two numbers are the same.
    pub fn same<T: PartialEq + std::fmt::Display>(&mut self, claim: &str, found: T, expected: T) {
        let holds = found == expected;
        self.that(claim, holds, format!("{found} of {expected}"));
    }

    /// How an example ends: 0 when all claims hold, 1 when one does not, 2 when it came to no check.
    pub fn exit(checked: Result<Option<Self>, Error>) -> ExitCode {
        match checked {
            Ok(None) => ExitCode::SUCCESS,
            Ok(Some(check)) if check.failed == 0 => {
                say("check", format!("all {} claims hold", check.held));
                ExitCode::SUCCESS
            }
            Ok(Some(check)) => {
                say(
                    "check",
                    format!("{} of {} claims fail", check.failed, check.failed + check.held),
                );
                ExitCode::FAILURE
            }
            Err(error) => {
                say("error", error);
                ExitCode::from(2)
            }
        }
    }
}
