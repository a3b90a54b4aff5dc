//! The examples under `docs/examples` work as described, while the first broker that they are given is dead.
//!
//! With `JANGADA_EXAMPLES=1` only (`make examples`): they need python3, node with npm, go and protoc, and the libraries that the
//! package registries of these languages serve.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::harness::{Cluster, are_examples_wanted, awkward_lines, eventually, lines_of};
use crate::tree;

/// Timeout of making an example ready, which downloads and compiles libraries.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(300);
/// Timeout of one run of an example.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

const LINES: usize = 2_000;
const PARTITIONS: u32 = 3;
/// Number of records that are gone from the start of partition 0.
const GONE: usize = 5;
const NEW_GROUP: &str = "billing";
/// A group that has committed offset 0 of every partition.
const OLD_GROUP: &str = "audit";
/// The session of the member that stands still for longer, milliseconds.
const SESSION_MS: &str = "3000";
/// More records than there are: the member reads until it is told to end.
const ENDLESS: &str = "1000000";

/// The commands that prepare and run a language's examples.
struct Language {
    name: &'static str,
    /// The command that prepares them, in their folder, for `sh -c`.
    prepare: &'static str,
    /// The command of the example with this name: a program, and its first arguments.
    run: fn(&str) -> Vec<String>,
}

const LANGUAGES: [Language; 3] = [
    Language {
        name: "python",
        prepare: "python3 -m venv .venv && .venv/bin/pip install --quiet -r requirements.txt",
        run: |example| vec![".venv/bin/python".to_owned(), format!("{example}.py")],
    },
    Language {
        name: "javascript",
        prepare: "npm install --no-audit --no-fund --no-package-lock",
        run: |example| vec!["node".to_owned(), format!("{example}.js")],
    },
    Language {
        name: "go",
        prepare: "go generate && go build -o example .",
        run: |example| vec!["./example".to_owned(), example.to_owned()],
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_of_other_languages_lose_and_double_nothing_when_a_broker_dies() {
    if !are_examples_wanted() {
        return;
    }
    let copy = tempfile::tempdir().expect("a temporary folder");
    // Go's example looks for the contract where it lies in the tree.
    for folder in ["proto", "docs/examples"] {
        let to = copy.path().join(folder);
        std::fs::create_dir_all(to.parent().expect("it lies in the copy")).expect("the folder is made");
        let copied = Command::new("cp")
            .arg("-r")
            .arg(tree::root().join(folder))
            .arg(&to)
            .status()
            .await;
        assert!(copied.expect("cp runs").success(), "{folder} is copied");
    }
    let mut cluster = Cluster::start(3).await;
    let brokers = cluster.brokers().join(",");
    let file = awkward_lines(LINES);
    let mut expected = lines_of(&file);
    // The tombstone's.
    expected.push(b"");
    expected.sort_unstable();
    for language in LANGUAGES {
        let name = language.name;
        let folder = copy.path().join("docs/examples").join(name);
        let prepared = run(&folder, "sh", &["-c", language.prepare], &[], PREPARE_TIMEOUT).await;
        assert!(prepared.is_ok(), "{name}: {prepared:?}");
        cluster.create_topic(name, PARTITIONS, 3).await;
        start_is_gone(&cluster, name).await;

        // A third of the partitions is led by the dead one, and it comes first among the addresses.
        cluster.kill(1);
        let example = |example, more: &[&str], input: &[u8]| {
            let mut arguments = (language.run)(example);
            arguments.extend([&brokers, name].into_iter().map(str::to_owned));
            arguments.extend(more.iter().map(|&argument| argument.to_owned()));
            let program = arguments.remove(0);
            let (folder, input) = (folder.clone(), input.to_vec());
            async move {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let ran = run(&folder, &program, &arguments, &input, RUN_TIMEOUT).await;
                ran.unwrap_or_else(|why| panic!("{name}: {example}: {why}"))
            }
        };
        example("produce", &[], &file).await;
        let consumed = example("consume", &[], &[]).await;
        assert_same_lines(name, &consumed.stdout, &expected);
        for (group, told) in [(NEW_GROUP, "nothing is committed"), (OLD_GROUP, "there is no offset 0")] {
            let shared = example("group", &[group, &expected.len().to_string()], &[]).await;
            assert_same_lines(name, &shared.stdout, &expected);
            let stderr = String::from_utf8_lossy(&shared.stderr);
            let told = format!("{name}/0: {told}: reading begins at the first record that is there, {GONE}");
            assert!(stderr.contains(&told), "{told:?} is not in:\n{stderr}");
        }
        cluster.restart(1);
        cluster.healthy().await;
        a_member_that_stood_still_goes_on(&cluster, &language, &folder).await;
    }
}

/// A member that lost its membership while it stood still hears of that in the middle of its work: it joins again, and goes on.
async fn a_member_that_stood_still_goes_on(cluster: &Cluster, language: &Language, folder: &Path) {
    let topic = format!("{}-paused", language.name);
    let group = topic.as_str();
    cluster.create_topic(&topic, PARTITIONS, 3).await;
    let numbers = |from, to| (from..to).map(|n| format!("{n}\n")).collect::<String>();
    let produce = ["produce", topic.as_str()];
    cluster.cli_with(&produce, numbers(0, 300).into_bytes()).await.expect(0);

    let [out, err] = ["out", "err"].map(|name| folder.join(format!("paused.{name}")));
    let mut arguments = (language.run)("group");
    let brokers = cluster.brokers().join(",");
    let more = [&brokers, &topic, group, ENDLESS, SESSION_MS];
    arguments.extend(more.map(str::to_owned));
    let mut member = Command::new(path_of(folder, &arguments[0]))
        .args(&arguments[1..])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out).expect("a file for its lines"))
        .stderr(fs::File::create(&err).expect("a file for its notes"))
        .kill_on_drop(true)
        .spawn()
        .expect("it ran before");
    let pid = member.id().and_then(|id| i32::try_from(id).ok());
    let pid = pid.and_then(Pid::from_raw).expect("the process runs");
    let signal = |signal| kill_process(pid, signal).expect("our own child can be signalled");
    let printed = |count: usize| {
        let out = &out;
        async move {
            let text = fs::read_to_string(out).expect("text");
            let lines: BTreeSet<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            (lines.len() == count).then_some(())
        }
    };

    let all_is_committed = || async {
        let lag = cluster.cli(&["group", "lag", group, "-o", "json"]).await;
        let lag = (lag.code == Some(0)).then(|| lag.json())?;
        let is_done = |partition: &serde_json::Value| partition["lag"] == 0 && partition["offset"].is_u64();
        (lag.as_array()?.len() == PARTITIONS as usize && lag.as_array()?.iter().all(is_done)).then_some(())
    };

    eventually("the first lines are committed", RUN_TIMEOUT, all_is_committed).await;
    printed(300).await.expect("it commits what it has printed");
    signal(Signal::STOP);
    eventually("its session ends", RUN_TIMEOUT, || async {
        let described = cluster.cli(&["group", "describe", group, "-o", "json"]).await.expect(0);
        described.json()["members"].as_array()?.is_empty().then_some(())
    })
    .await;
    cluster
        .cli_with(&produce, numbers(300, 600).into_bytes())
        .await
        .expect(0);
    signal(Signal::CONT);
    let stderr = || fs::read_to_string(&err).expect("text");
    eventually("it goes on, and commits", RUN_TIMEOUT, || {
        let ended = member.try_wait().expect("our own child can be waited for");
        assert_eq!(ended, None, "{}: {}", language.name, stderr());
        all_is_committed()
    })
    .await;
    printed(600).await.expect("it commits what it has printed");
    signal(Signal::INT);
    let status = tokio::time::timeout(RUN_TIMEOUT, member.wait()).await;
    let status = status.expect("it ends").expect("our own child can be waited for");
    let stderr = stderr();
    assert!(status.success(), "{}: {status}:\n{stderr}", language.name);
    assert!(
        stderr.contains("the membership is lost (UNKNOWN_MEMBER); joining again"),
        "{stderr}"
    );
    let left = cluster.cli(&["group", "describe", group, "-o", "json"]).await.expect(0);
    assert_eq!(
        left.json()["members"],
        serde_json::json!([]),
        "{}: it left",
        language.name
    );
}

/// Trims the first records of a partition, after a group has committed an offset before them; a tombstone stays.
async fn start_is_gone(cluster: &Cluster, topic: &str) {
    let to_first = ["produce", topic, "-p", "0"];
    cluster.cli_with(&to_first, b"gone\n".repeat(GONE)).await.expect(0);
    cluster
        .cli(&[&to_first[..], &["-k", "key", "--tombstone"]].concat())
        .await
        .expect(0);
    let seek = ["group", "seek", OLD_GROUP, "--topic", topic, "--to", "earliest"];
    cluster.cli(&[&seek[..], &["--execute"]].concat()).await.expect(0);
    let trim = ["topic", "trim", topic, "--partition", "0"];
    cluster
        .cli(&[&trim[..], &["--before", &GONE.to_string()]].concat())
        .await
        .expect(0);
}

#[track_caller]
fn assert_same_lines(what: &str, printed: &[u8], expected: &[&[u8]]) {
    let mut lines = lines_of(printed);
    lines.sort_unstable();
    assert!(lines == expected, "{what}: {} lines of {}", lines.len(), expected.len());
}

/// A relative path means one in the folder.
fn path_of(folder: &Path, program: &str) -> PathBuf {
    match program.contains('/') {
        true => folder.join(program),
        false => PathBuf::from(OsString::from(program)),
    }
}

/// Runs a program to its end, with success.
async fn run(
    folder: &Path,
    program: &str,
    arguments: &[&str],
    input: &[u8],
    within: Duration,
) -> Result<Output, String> {
    let mut child = Command::new(path_of(folder, program))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {error}: is it installed?"))?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = input.to_vec();
    let feed = tokio::spawn(async move {
        let _ = stdin.write_all(&input).await;
    });
    let ended = tokio::time::timeout(within, child.wait_with_output()).await;
    feed.abort();
    let ended = ended.map_err(|_| format!("{program} {arguments:?} did not end within {within:?}"))?;
    let ended = ended.map_err(|error| error.to_string())?;
    match ended.status.success() {
        true => Ok(ended),
        false => Err(format!("{}: {}", ended.status, String::from_utf8_lossy(&ended.stderr))),
    }
}
