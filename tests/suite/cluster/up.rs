//! `jangada up` and `down`: three processes in the background keep their data over many starts and stops.

use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::harness::cli::{self, Run};
use crate::harness::{WAIT, eventually, ports, turn};
use crate::{binary, tree};

/// A cluster that `up` starts. Dropping it kills its processes.
struct Demo {
    folder: tempfile::TempDir,
    port: u16,
}

impl Demo {
    async fn run(&self, args: &[&str], input: &[u8]) -> Run {
        cli::run(&[format!("127.0.0.1:{}", self.port)], args, input.to_vec()).await
    }

    async fn up(&self) -> Run {
        self.up_in(self.dir()).await
    }

    async fn up_in(&self, dir: String) -> Run {
        let port = self.port.to_string();
        let args = ["up", "--nodes", "3", "--dir", &dir, "--port", &port, "--detach"];
        self.run(&args, b"").await.expect(0)
    }

    fn dir(&self) -> String {
        self.folder.path().to_str().expect("the path is text").to_owned()
    }

    /// The processes by their stored ids.
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

/// Runs commands in a shell that does not have the program in its path.
async fn pasted(commands: &[&str]) -> Run {
    let script = format!("set -e\n{}", commands.join("\n"));
    cli::in_shell(&script, |_| {}).await.expect(0)
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_starts_a_cluster_again_with_its_data() {
    let _turn = turn(false).await;
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

/// The lines of the README's walk, from the first block behind its head on.
fn walk() -> Vec<String> {
    let readme = std::fs::read_to_string(tree::root().join("README.md")).expect("the README is readable");
    let start = readme.find("## Quick start").expect("it has a walk");
    let end = readme.find("### Which cluster").expect("the walk ends");
    let blocks = readme[start..end].split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(str::lines).filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

/// The cluster has other ports than the README's, which only the file in the working directory tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_of_the_readme_works() {
    let _turn = turn(false).await;
    let demo = Demo {
        folder: tempfile::tempdir().expect("a temporary folder"),
        port: ports::free_for_up(3),
    };
    let root = demo.folder.path().to_owned();
    let data = root.join("jangada-data");
    let up = format!("jangada up --detach --dir jangada-data --port {}", demo.port);
    let mut script = String::new();
    let mut walk = walk();
    assert!(walk.len() > 25, "{walk:#?}");
    assert!(walk.remove(0) == "make up" && walk.remove(0).starts_with("export PATH="));
    script.push_str(&format!("{up} >&2\n"));
    for line in &walk {
        let command = match line.as_str() {
            "make up" => format!("{up} >&2"),
            "make down" => "jangada down".to_owned(),
            line => line.to_owned(),
        };
        let background = command.ends_with('&');
        match background {
            true => script.push_str(&format!("{command}\n")),
            false => script.push_str(&format!(
                "{command} || echo \"FAILED $?: {}\"\n",
                command.replace(['"', '$', '`'], "_")
            )),
        }
    }
    let program = binary::jangada();
    let path = format!("{}:/usr/bin:/bin", program.parent().expect("a folder").display());
    let ended = cli::in_shell(&script, |shell| {
        shell.current_dir(&root).env("PATH", path).env("HOME", &root);
    });
    let ended = ended.await;
    for node in 1..=3 {
        // Nodes still run if the walk ended early.
        let pid = std::fs::read_to_string(data.join(format!("node-{node}/pid"))).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let (text, told) = (ended.text(), &ended.stderr);
    let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAILED")).collect();
    // The broker that was killed is missing.
    assert_eq!(failed, ["FAILED 3: jangada cluster health"], "{text}\n{told}");
    for expected in ["one\n", "user-2 login", "still here\n", "billing"] {
        assert!(text.contains(expected), "{expected:?} is missing:\n{text}\n{told}");
    }
    let links = std::fs::read_dir(root.join(".local/state/jangada/clusters")).expect("up made it");
    assert_eq!(links.count(), 0, "down leaves a link");
    assert!(data.join("brokers").is_file(), "the cluster's own list stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_without_a_cluster_says_whom_it_asked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = async |file: Option<&str>, args: &[&str]| {
        if let Some(text) = file {
            std::fs::create_dir_all(folder.path().join("jangada-data")).expect("the folder is ours");
            std::fs::write(folder.path().join("jangada-data/brokers"), text).expect("the folder is ours");
        }
        let child = Command::new(binary::jangada())
            .args(["cluster", "health"])
            .args(args)
            .current_dir(folder.path())
            .env_clear()
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        cli::end(child, "cluster health").await
    };
    let flag = run(None, &["--brokers", "127.0.0.1:1"]).await.expect(3);
    flag.names(&["127.0.0.1:1", "--brokers"]);
    let file = run(Some("127.0.0.1:1,127.0.0.1:2\n"), &[]).await.expect(3);
    file.names(&["127.0.0.1:1, 127.0.0.1:2", "jangada-data/brokers", "jangada up"]);
}
