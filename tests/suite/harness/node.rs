//! One node: its settings, its process, its log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Network, WAIT, eventually, ports};
use crate::binary;

/// Lines of a log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// `USER_HZ`, the unit in which the kernel counts CPU time.
const TICKS_PER_SECOND: u64 = 100;

/// Timeout of one request to `/readyz`.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);

/// A node's addresses.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The address that others connect to.
    pub public: String,
    /// The address that clients are given: `public`, or a proxy before it.
    pub advertised: String,
    pub internal: String,
    pub http: String,
    /// The address for clients of the listener `inside`, if the node has one.
    pub inside: Option<String>,
    /// The address that the node listens on, which is the same unless there are proxies before it.
    pub public_bind: String,
    pub internal_bind: String,
}

impl Addresses {
    /// Addresses on loopback, with ports that are free now.
    pub fn free() -> Addresses {
        let address = || format!("127.0.0.1:{}", ports::free());
        let (public, internal) = (address(), address());
        Addresses {
            public_bind: public.clone(),
            internal_bind: internal.clone(),
            advertised: public.clone(),
            public,
            internal,
            http: address(),
            inside: None,
        }
    }

    /// The addresses with one more listener for clients.
    pub fn with_inside(self) -> Addresses {
        Addresses {
            inside: Some(format!("localhost:{}", ports::free())),
            ..self
        }
    }

    /// The addresses with proxies before the node.
    pub async fn behind(network: &mut Network, id: u32) -> Addresses {
        let mut addresses = Addresses::free();
        addresses.public = network.proxy(id, addresses.public_bind.clone(), false).await;
        addresses.advertised = addresses.public.clone();
        addresses.internal = network.proxy(id, addresses.internal_bind.clone(), true).await;
        addresses
    }
}

/// A node of a cluster, running or not.
pub struct Node {
    pub id: u32,
    pub addresses: Addresses,
    folder: PathBuf,
    open_files: Option<u32>,
    child: Option<Child>,
}

impl Node {
    /// Writes the node's settings into a folder of its own.
    pub fn new(id: u32, parent: &Path, addresses: Addresses, seeds: &[String], sections: &str) -> Node {
        let folder = parent.join(format!("node-{id}"));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let retention = match sections.contains("[retention]") {
            true => "",
            false => "[retention]\ncheck_interval_ms = 250\n",
        };
        let settings = format!(
            r#"broker_id = {id}
data_dir = "data"
seeds = {seeds:?}

[listeners]
public = "{public_bind}"
public_advertised = "{advertised}"
internal = "{internal_bind}"
internal_advertised = "{internal}"
http = "{http}"

{inside}
{retention}
{sections}
"#,
            inside = addresses.inside.as_ref().map_or_else(String::new, |inside| {
                let bind = inside.replace("localhost", "127.0.0.1");
                format!("[listeners.inside]\nbind = \"{bind}\"\nadvertised = \"{inside}\"\n")
            }),
            advertised = addresses.advertised,
            public_bind = addresses.public_bind,
            internal = addresses.internal,
            internal_bind = addresses.internal_bind,
            http = addresses.http,
        );
        let node = Node {
            id,
            addresses,
            folder,
            open_files: None,
            child: None,
        };
        fs::write(node.settings_file(), settings).expect("the temporary folder is writable");
        node
    }

    /// Limits the files that its process may have open, soft and hard.
    pub fn with_open_files(self, open_files: Option<u32>) -> Node {
        Node { open_files, ..self }
    }

    /// The program, under the limit of open files if there is one.
    fn program(&self) -> Command {
        let Some(limit) = self.open_files else {
            return Command::new(binary::jangada());
        };
        let mut shell = Command::new("/bin/sh");
        // The shell becomes the program, which so has the process id that the test knows.
        let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(binary::jangada());
        shell
    }

    pub fn settings_file(&self) -> PathBuf {
        self.folder.join("jangada.toml")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The identity file of its data directory.
    pub fn identity(&self) -> toml::Table {
        let text = fs::read_to_string(self.data().join("broker.toml")).expect("the node has been started");
        text.parse().expect("the file is TOML")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// All that the node has logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of its log, for a failed test.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with these variables in its environment.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("the temporary folder is writable");
        let child = self
            .program()
            .args(["server", "--config"])
            .arg(self.settings_file())
            // Settings of the caller's environment would win over the file's.
            .env_clear()
            .env("RUST_BACKTRACE", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be opened twice"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.child = Some(child);
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// The kernel's count of the process's memory under this name in `/proc/PID/status` (`VmRSS`, `VmData`), bytes.
    pub fn memory(&self, name: &str) -> usize {
        self.status(name) * 1024
    }

    /// The CPU time that the process has used, its own and the kernel's for it.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the process runs");
        // The name before may have anything in it; proc(5) counts it as the second field.
        let (_, fields) = stat.rsplit_once(')').expect("it has a name");
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    /// Number of files that the process has open.
    pub fn open_files(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs");
        files.count()
    }

    /// Number of threads of the process.
    pub fn threads(&self) -> usize {
        self.status("Threads")
    }

    /// A number of `/proc/PID/status`.
    fn status(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line
            .and_then(|line| line.split_whitespace().next())
            .and_then(|number| number.parse().ok());
        number.expect("the kernel says so")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process has an id"), signal).expect("our own child can be signalled");
    }

    /// Sends SIGSTOP. Returns when the process stands still.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let until = Instant::now() + WAIT;
        while !stands_still(self.pid()) {
            assert!(Instant::now() < until, "node {} does not stand still", self.id);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends SIGKILL. Returns when the process is gone.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("our own child can be killed");
        child.wait().expect("our own child can be waited for");
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let id = self.id;
        let child = self.child.as_mut().expect("the node runs");
        let what = format!("node {id} ends");
        // The look borrows the child only for the moment of the call.
        let status = eventually(&what, within, || {
            let status = child.try_wait().expect("our own child can be waited for");
            async move { status }
        })
        .await;
        self.child = None;
        status
    }

    /// Whether the process ended by itself, which it should not.
    pub fn crashed(&mut self) -> Option<ExitStatus> {
        let status = self
            .child
            .as_mut()?
            .try_wait()
            .expect("our own child can be waited for")?;
        self.child = None;
        Some(status)
    }
}

/// Asks `/readyz` at this address; `Err` has what it answered, or why it did not.
pub async fn ready(http: &str) -> Result<(), String> {
    match tokio::time::timeout(POLL_TIMEOUT, get(http, "/readyz")).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(Ok(answer)) => Err(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// One HTTP request, the whole answer as text.
pub async fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether all threads of a process have stopped. One of them takes the signal; until it has its turn on a busy machine, the others go on.
pub fn stands_still(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let mut threads = threads.filter_map(Result::ok);
    threads.all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default();
        state.trim_start().starts_with('T')
    })
}
