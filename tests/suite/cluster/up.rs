//! `jangada up` and `down`: three processes in the background, with their data, again and again.

use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::harness::cli::{self, Run};
use crate::harness::{WAIT, eventually, ports, turn};

/// A cluster that `up` starts. Dropping it kills what runs of it.
struct Demo {
    folder: tempfile::TempDir,
    port: u16,
}

impl Demo {
    async fn run(&self, args: &[&str], input: &[u8]) -> Run {
        cli::run(&[format!("127.0.0.1:{}", self.port)], args, input.to_vec()).await
    }

    async fn up(&self) -> Run {
        let (dir, port) = (self.dir(), self.port.to_string());
        let args = ["up", "--nodes", "3", "--dir", &dir, "--port", &port, "--detach"];
        self.run(&args, b"").await.expect(0)
    }

    fn dir(&self) -> String {
        self.folder.path().to_str().expect("the path is text").to_owned()
    }

    /// The processes that are said to run.
    fn pids(&self) -> Vec<Pid> {
        let file = |node: u32| PathBuf::from(self.dir()).join(format!("node-{node}/pid"));
        let read = |node| {
            std::fs::read_to_string(file(node))
                .ok()?
                .trim()
                .parse()
                .ok()
                .and_then(Pid::from_raw)
        };
        (1..=3).filter_map(read).collect()
    }

    fn kill(&self) -> usize {
        let killed = self.pids().into_iter().map(|pid| kill_process(pid, Signal::KILL));
        killed.filter(Result::is_ok).count()
    }
}

/// Runs commands in a shell that knows nothing of the program.
async fn pasted(commands: &[&str]) -> Run {
    let script = commands.join("\n");
    let child = Command::new("sh")
        .args(["-e", "-c", &script])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("there is a shell");
    cli::end(child, &script).await.expect(0)
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_starts_a_cluster_again_with_its_data() {
    let _turn = turn().await;
    let demo = Demo {
        folder: tempfile::tempdir().expect("a temporary folder"),
        port: ports::free_for_up(3),
    };
    let dir = demo.dir();
    let told = demo.up().await.text();
    let commands: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let (&stop, first) = commands.split_last().expect("it says what to do next");
    assert_eq!(pasted(first).await.text(), "hello, world\n", "{told}");
    let create = ["topic", "create", "orders", "--partitions", "3", "--replicas", "3"];
    demo.run(&create, b"").await.expect(0);
    demo.run(&["produce", "orders"], b"a\n").await.expect(0);

    // After a kill, after a stop, and when it runs already.
    let pids = demo.pids();
    assert_eq!(demo.kill(), 3);
    // A dead process has no command line, whether or not its parent has noticed.
    let is_gone = |pid: &Pid| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        line.map_or(true, |line| line.is_empty())
    };
    eventually("the killed nodes are gone", WAIT, || async {
        pids.iter().all(is_gone).then_some(())
    })
    .await;
    demo.up().await;
    let consume = ["consume", "orders", "--exit-at-end"];
    assert_eq!(demo.run(&consume, b"").await.expect(0).text(), "a\n");
    demo.run(&["down", "--dir", &dir], b"").await.expect(0);
    demo.run(&["cluster", "health"], b"").await.expect(3);
    demo.up().await;
    assert_eq!(demo.run(&consume, b"").await.expect(0).text(), "a\n");
    demo.run(&["cluster", "health", "--wait", "30"], b"").await.expect(0);
    pasted(&[stop]).await;
    assert_eq!(demo.pids(), [], "it leaves process ids of dead nodes");
}
