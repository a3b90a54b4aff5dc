//! Runs of the command line.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::binary;

/// Bound of every command of a test.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// The outcome of a command.
#[derive(Clone, Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Run {
    /// Asserts the exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Run {
        assert_eq!(self.code, Some(code), "stderr:\n{}", self.stderr);
        self
    }

    /// Asserts that stderr names each of these.
    #[track_caller]
    pub fn names(self, words: &[&str]) -> Run {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "stderr does not name {word:?}:\n{}",
                self.stderr
            );
        }
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a command to its end.
pub async fn run(brokers: &[String], args: &[&str], input: Vec<u8>) -> Run {
    let mut child = start(brokers, args);
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // A command that ends early does not read its input to the end.
    let feed = tokio::spawn(async move {
        let _ = stdin.write_all(&input).await;
    });
    let ended = end(child, &args.join(" ")).await;
    feed.abort();
    ended
}

/// Starts a command; its stdin is a pipe, and it dies when it is dropped.
pub fn start(brokers: &[String], args: &[&str]) -> Child {
    Command::new(binary::jangada())
        .args(args)
        .env_clear()
        .env("JANGADA_BROKERS", brokers.join(","))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts")
}

/// Runs a script in a shell, to its end. The shell's environment has only a path, and what `set_up` adds.
pub async fn in_shell(script: &str, set_up: impl FnOnce(&mut Command)) -> Run {
    let mut shell = Command::new("bash");
    shell
        .args(["-c", script])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    set_up(&mut shell);
    end(shell.spawn().expect("there is a shell"), script).await
}

/// Waits for a command's end.
pub async fn end(child: Child, what: &str) -> Run {
    let output = tokio::time::timeout(RUN_TIMEOUT, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("`jangada {what}` has not ended after {RUN_TIMEOUT:?}"))
        .expect("our own child can be waited for");
    Run {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
