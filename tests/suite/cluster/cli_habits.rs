//! Options as people type them from habit, one by one, at one cluster of one node.

use serde_json::json;

use crate::binary;
use crate::harness::cli::Run;
use crate::harness::{Cluster, WAIT, cli, eventually};

async fn produced(cluster: &Cluster, args: &[&str], input: &str) -> Run {
    let args = [&["produce"], args].concat();
    cluster.cli_with(&args, input.as_bytes().to_vec()).await
}

async fn consumed(cluster: &Cluster, args: &[&str]) -> String {
    let args = [&["consume", "-e"], args].concat();
    cluster.cli(&args).await.expect(0).text()
}

async fn create(cluster: &Cluster, args: &[&str]) {
    let args = [&["topic", "create"], args].concat();
    cluster.cli(&args).await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_type_from_habit_works() {
    let cluster = Cluster::start(1).await;
    a_topic_needs_no_numbers_and_takes_units(&cluster).await;
    records_get_keys_headers_times_and_partitions(&cluster).await;
    a_tombstone_has_a_key_and_no_value(&cluster).await;
    bytes_go_in_and_out_as_hex_and_base64(&cluster).await;
    records_may_end_with_something_else(&cluster).await;
    the_last_records_and_those_since_and_until(&cluster).await;
    several_topics_and_patterns_are_read_at_once(&cluster).await;
    a_condition_is_held(&cluster).await;
    offsets_go_to_a_file_and_come_back(&cluster).await;
    offsets_of_one_topic_are_deleted(&cluster).await;
    combinations_that_make_no_sense_are_refused(&cluster).await;
    who_waits_says_for_what(&cluster).await;
    a_shell_completes_names(&cluster).await;
}

async fn a_topic_needs_no_numbers_and_takes_units(cluster: &Cluster) {
    let created = cluster.cli(&["topic", "create", "plain"]).await.expect(0);
    created.names(&["created topic plain with 1 partition of 1 replica"]);
    let set = ["-c", "retention.ms=7d", "-c", "max.message.bytes=2MiB"];
    create(cluster, &[&["units", "-p", "2"], &set[..]].concat()).await;
    let shown = cluster.cli(&["topic", "describe", "units"]).await.expect(0).text();
    for expected in ["604800000 (7d)", "2097152 (2MiB)", "16777216 (16MiB)"] {
        assert!(shown.contains(expected), "{expected} is missing:\n{shown}");
    }
    let wrong = ["topic", "alter", "units", "-c", "retention.ms=5m"];
    cluster
        .cli(&wrong)
        .await
        .expect(2)
        .names(&["retention.ms", "5m", "min"]);
    let altered = ["topic", "alter", "units", "-c", "retention.ms=-1"];
    cluster.cli(&altered).await.expect(0);
}

async fn records_get_keys_headers_times_and_partitions(cluster: &Cluster) {
    create(cluster, &["fields", "-p", "4", "-c", "retention.ms=-1"]).await;
    let flags = ["fields", "-k", "customer", "-H", "a=1", "-H", "b=", "-p", "3"];
    let time = ["--timestamp", "2024-05-01T12:00:00Z"];
    produced(cluster, &[&flags[..], &time].concat(), "x\nyy\n")
        .await
        .expect(0);
    let format = r"%p %o %k %K %S %h %D %s\n";
    assert_eq!(
        consumed(cluster, &["fields", "-f", format]).await,
        "3 0 customer 8 1 a=1,b= 2024-05-01T12:00:00.000Z x\n\
         3 1 customer 8 2 a=1,b= 2024-05-01T12:00:00.000Z yy\n"
    );
    // The topic by a flag (-t), as in other programs' commands, and a time in milliseconds.
    produced(cluster, &["-t", "fields", "-p", "0", "--timestamp", "1500"], "z\n")
        .await
        .expect(0);
    assert_eq!(
        consumed(cluster, &["-t", "fields", "-p", "0", "-f", r"%T %v\n"]).await,
        "1500 z\n"
    );
    // Flags override the fields of a line, and a condition is checked in the partition that the flag names.
    let line = r#"{"value":"json","partition":1,"timestamp_ms":1}"#;
    let flags = ["fields", "--format", "jsonl", "-p", "2", "--timestamp", "1700"];
    produced(cluster, &[&flags[..], &["--expect-end-offset", "0"]].concat(), line)
        .await
        .expect(0);
    let written = consumed(cluster, &["fields", "-p", "1,2", "-f", r"%p %T %v\n"]).await;
    assert_eq!(written, "2 1700 json\n");
}

async fn a_tombstone_has_a_key_and_no_value(cluster: &Cluster) {
    create(cluster, &["graves"]).await;
    produced(cluster, &["graves", "-k", "gone", "--tombstone"], "never read\n")
        .await
        .expect(0);
    produced(
        cluster,
        &["graves", "-K", ":", "--null", "NULL"],
        "a:NULL\nNULL:b\nc:\n",
    )
    .await
    .expect(0);
    produced(cluster, &["graves", "-K", ":", "-Z"], "d:\n").await.expect(0);
    let shown = consumed(cluster, &["graves", "--null", "-", "-f", r"%k=%v %S\n"]).await;
    assert_eq!(shown, "gone=- -\na=- -\n-=b 1\nc= 0\nd=- -\n");
}

async fn bytes_go_in_and_out_as_hex_and_base64(cluster: &Cluster) {
    create(cluster, &["bytes"]).await;
    let forms = ["--key-as", "hex", "--value-as", "base64"];
    let flags = [&["bytes", "-K", ":"], &forms[..]].concat();
    produced(cluster, &flags, "ff00:/wA=\n").await.expect(0);
    let shown = [&["bytes", "-f", r"%k:%v\n"], &forms[..]].concat();
    assert_eq!(consumed(cluster, &shown).await, "ff00:/wA=\n");
    let raw = cluster.cli(&["consume", "bytes", "-e", "-f", "%k%v"]).await.expect(0);
    assert_eq!(raw.stdout, b"\xff\x00\xff\x00");
    let wrong = produced(cluster, &flags, "00:AA==\nxy:AA==\n").await.expect(1);
    wrong.names(&["line 2", "key", "hexadecimal", "1 records were acknowledged"]);
}

async fn records_may_end_with_something_else(cluster: &Cluster) {
    create(cluster, &["pieces"]).await;
    produced(cluster, &["pieces", "-D", r"\0"], "a\nb\0c\0").await.expect(0);
    produced(cluster, &["pieces", "-D", "::"], "d:e::f").await.expect(0);
    assert_eq!(consumed(cluster, &["pieces", "-f", r"%v\0"]).await, "a\nb\0c\0d:e\0f\0");
}

async fn the_last_records_and_those_since_and_until(cluster: &Cluster) {
    create(cluster, &["times", "-p", "2", "-c", "retention.ms=-1"]).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_millis() as i64;
    // One record each ten minutes, alternately in two partitions, the last one five minutes ago.
    let record = |n: i64| {
        let at = now - (9 - n) * 600_000 - 300_000;
        json!({ "value": n.to_string(), "partition": n % 2, "timestamp_ms": at })
    };
    let input: String = (0..10).map(|n| format!("{}\n", record(n))).collect();
    produced(cluster, &["times", "--format", "jsonl"], &input)
        .await
        .expect(0);
    let cases: [(&[&str], &str); 10] = [
        (&["--last", "2"], "6789"),
        (&["--from", "-1"], "89"),
        (&["--from", "-100"], "0123456789"),
        (&["--since", "30min"], "789"),
        (&["--from", "-30min"], "789"),
        (&["--until", "-80min"], "01"),
        (&["--since", "1h", "--until", "-20min"], "4567"),
        (&["-p", "1", "--from", "1", "--until", "3"], "35"),
        (&["-p", "0,1", "--last", "1"], "89"),
        (&["--from-beginning", "-c", "10"], "0123456789"),
    ];
    for (args, expected) in cases {
        let args = [&["times", "-f", r"%v\n"], args].concat();
        let text = consumed(cluster, &args).await;
        let mut values: Vec<&str> = text.lines().collect();
        values.sort_unstable();
        assert_eq!(values.concat(), expected, "{args:?}");
    }
    // Without --exit-at-end, too, an end that is there ends it, and one that is not there yet is waited for.
    let until = ["consume", "times", "-p", "0", "--until", "2", "-f", "%v"];
    assert_eq!(cluster.cli(&until).await.expect(0).text(), "02");
    let mut waiting = cli::start(
        &cluster.brokers(),
        &["consume", "times", "-p", "0", "--from", "4", "--until", "6", "-f", "%v"],
    );
    drop(waiting.stdin.take());
    produced(cluster, &["times", "-p", "0"], "x\ny\n").await.expect(0);
    assert_eq!(cli::end(waiting, "consume --until 6").await.expect(0).text(), "8x");
    let offsets = ["consume", "times", "--until", "3"];
    cluster
        .cli(&offsets)
        .await
        .expect(2)
        .names(&["2 partitions", "--partition"]);
}

async fn several_topics_and_patterns_are_read_at_once(cluster: &Cluster) {
    for topic in ["many-a", "many-b", "too-many-c"] {
        create(cluster, &[topic]).await;
        produced(cluster, &[topic], &format!("{topic}\n")).await.expect(0);
    }
    let cases: [(&[&str], &[&str]); 4] = [
        (&["many-a", "many-b", "many-a"], &["many-a", "many-b"]),
        (&["--pattern", "many-.*"], &["many-a", "many-b"]),
        (
            &["--pattern", "many-.", "too-many-c"],
            &["many-a", "many-b", "too-many-c"],
        ),
        (
            &["many-b", "--pattern", "many-[ab]", "-g", "readers"],
            &["many-a", "many-b"],
        ),
    ];
    for (args, expected) in cases {
        let text = consumed(cluster, &[&["-f", r"%t\n"], args].concat()).await;
        let mut topics: Vec<&str> = text.lines().collect();
        topics.sort_unstable();
        assert_eq!(topics, expected, "{args:?}");
    }
    let none = cluster.cli(&["consume", "--pattern", "nothing.*", "-e"]).await;
    none.expect(1).names(&["nothing.*", "topic ls"]);
    let wrong = cluster.cli(&["consume", "--pattern", "(", "-e"]).await;
    wrong.expect(2).names(&["--pattern"]);
}

async fn a_condition_is_held(cluster: &Cluster) {
    create(cluster, &["state", "-c", "key.index.enable=true"]).await;
    let end = |offset: &'static str| ["state", "-k", "a", "-p", "0", "--expect-end-offset", offset];
    let written = produced(cluster, &end("0"), "1\n2\n").await.expect(0);
    written.names(&["2 records were acknowledged", "offset 1 in partition 0"]);
    let refused = produced(cluster, &end("1"), "3\n").await.expect(1);
    refused.names(&["0 records were acknowledged", "CONDITION_FAILED", "nothing was written"]);
    let key = |offset: &'static str| ["state", "-k", "a", "--expect-key-offset", offset];
    produced(cluster, &key("none"), "3\n")
        .await
        .expect(1)
        .names(&["CONDITION_FAILED"]);
    produced(cluster, &key("1"), "3\n4\n")
        .await
        .expect(0)
        .names(&["offset 3"]);
    // The first that does not hold ends it.
    let other = ["state", "-k", "b", "--expect-key-offset", "none"];
    produced(cluster, &other, "5\n").await.expect(0);
    produced(cluster, &other, "6\n7\n").await.expect(1);
    assert_eq!(consumed(cluster, &["state", "-f", "%v"]).await, "12345");
    produced(cluster, &["fields", "-k", "a", "--expect-key-offset", "none"], "x\n")
        .await
        .expect(1)
        .names(&["key.index.enable"]);
}

async fn offsets_go_to_a_file_and_come_back(cluster: &Cluster) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("offsets.csv");
    let file = file.to_str().expect("the path is text");
    let seek = async |args: &[&str]| cluster.cli(&[&["group", "seek", "files"], args].concat()).await;
    seek(&["--topic", "times", "--to", "2", "--execute"]).await.expect(0);
    seek(&["--topic", "plain", "--to", "earliest", "--execute"])
        .await
        .expect(0);
    seek(&["--to-file", file]).await.expect(0).names(&["wrote 3 offsets"]);
    let kept = || std::fs::read_to_string(file).expect("it was written");
    let mistyped = ["group", "seek", "fiels", "--to-file", file];
    cluster
        .cli(&mistyped)
        .await
        .expect(1)
        .names(&["\"fiels\"", "was not written", "group ls"]);
    assert_eq!(kept(), "# topic,partition,offset\nplain,0,0\ntimes,0,2\ntimes,1,2\n");
    seek(&["--topic", "times", "--to", "latest", "--execute"])
        .await
        .expect(0);
    let plan = seek(&["--from-file", file, "-o", "json"]).await.expect(0);
    assert_eq!(plan.json()[1]["target"], 2);
    seek(&["--from-file", file, "--execute"]).await.expect(0);
    let lag = cluster
        .cli(&["group", "lag", "files", "-o", "json"])
        .await
        .expect(0)
        .json();
    let offsets: Vec<_> = lag
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["offset"].clone())
        .collect();
    assert_eq!(offsets, [json!(0), json!(2), json!(2)]);
    std::fs::write(file, "times,0,2\ntimes,7,1\n").expect("the folder is ours");
    seek(&["--from-file", file, "--execute"])
        .await
        .expect(1)
        .names(&["times", "no partition 7"]);
    std::fs::write(file, "times;0;2\n").expect("the folder is ours");
    seek(&["--from-file", file])
        .await
        .expect(1)
        .names(&["line 1", "topic,partition,offset"]);
}

async fn offsets_of_one_topic_are_deleted(cluster: &Cluster) {
    let rm = async |args: &[&str]| cluster.cli(&[&["group", "rm", "files"], args].concat()).await;
    rm(&["--topic", "times"]).await.expect(2).names(&["times", "--yes"]);
    rm(&["--topic", "times", "--partition", "1", "--yes"])
        .await
        .expect(0)
        .names(&["deleted 1 offsets"]);
    rm(&["--topic", "times", "--yes"])
        .await
        .expect(0)
        .names(&["deleted 1 offsets"]);
    let lag = cluster
        .cli(&["group", "lag", "files", "-o", "json"])
        .await
        .expect(0)
        .json();
    let topics: Vec<_> = lag
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["topic"].clone())
        .collect();
    assert_eq!(topics, [json!("plain")]);
    rm(&["--topic", "nowhere", "--yes"]).await.expect(1).names(&["nowhere"]);
}

async fn combinations_that_make_no_sense_are_refused(cluster: &Cluster) {
    for (args, named) in [
        (&["consume", "plain", "-g", "g", "--last", "3"][..], "--last"),
        (&["consume", "plain", "-g", "g", "--from", "5"], "group seek"),
        (&["consume", "plain", "--since", "5"], "unit"),
        (&["produce", "plain", "--tombstone"], "--key"),
        (&["produce", "plain", "-k", "a", "-K", ":"], "--key-separator"),
        (
            &[
                "produce",
                "plain",
                "-k",
                "a",
                "--expect-key-offset",
                "1",
                "--acks",
                "none",
            ],
            "acks",
        ),
    ] {
        let run = cluster.cli(args).await.expect(2);
        run.names(&[named]);
    }
}

async fn who_waits_says_for_what(cluster: &Cluster) {
    create(cluster, &["waited"]).await;
    produced(cluster, &["waited"], "0\n").await.expect(0);
    let cases: [(&[&str], &[&str]); 5] = [
        (&[], &["waiting for more records of waited", "Ctrl-C", "--exit-at-end"]),
        (
            &["--max", "5"],
            &["waiting for 4 more records of waited", "Ctrl-C", "--exit-at-end"],
        ),
        (
            &["--until", "100"],
            &["waiting for more records of waited until offset 100;", "--exit-at-end"],
        ),
        (
            &["--max", "5", "--until", "100"],
            &["waiting for 4 more records of waited or until offset 100;"],
        ),
        (
            &["--max", "5", "--group", "waits"],
            &[
                "waiting for 4 more records of waited",
                "Ctrl-C commits",
                "leaves group waits",
            ],
        ),
    ];
    for (args, expected) in cases {
        let mut child = cli::start(&cluster.brokers(), &[&["consume", "waited"], args].concat());
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stderr));
        let line = tokio::time::timeout(WAIT, lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{args:?}: it says nothing"));
        let line = line.expect("the pipe is open").unwrap_or_default();
        for expected in expected {
            assert!(line.contains(expected), "{args:?}: {line}");
        }
    }
    // A command that ends at the present end does not tell the user that it waits.
    for args in [&["--exit-at-end", "--max", "5"][..], &["--until", "-0s", "--max", "5"]] {
        let run = cluster.cli(&[&["consume", "waited"], args].concat()).await.expect(0);
        assert_eq!((run.text().as_str(), run.stderr.as_str()), ("0\n", ""), "{args:?}");
    }
}

/// Bash's words of a line: it divides words at ':' and '='.
fn bash_words(line: &[&str]) -> Vec<String> {
    let mut words = Vec::new();
    for word in line {
        let before = words.len();
        let mut rest = *word;
        while let Some(at) = rest.find([':', '=']) {
            words.extend((at > 0).then(|| rest[..at].to_owned()));
            words.push(rest[at..=at].to_owned());
            rest = &rest[at + 1..];
        }
        if !rest.is_empty() || words.len() == before {
            words.push(rest.to_owned());
        }
    }
    words
}

/// The completions that bash offers for the last word of a line.
async fn completed(cluster: &Cluster, line: &[&str]) -> String {
    let words = bash_words(line);
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source <(\"$PROGRAM\" completion bash)\nCOMP_WORDS=(jangada {})\nCOMP_CWORD={}\nCOMP_LINE='jangada {}'\nCOMP_TYPE=9\n\
         function=$(complete -p jangada) && function=${{function#*-F }} && ${{function% jangada}} jangada '{}'\n\
         printf '%s ' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len(),
        line.join(" "),
        words.last().expect("a word"),
    );
    let completed = cli::in_shell(&script, |shell| {
        shell
            .env("PROGRAM", binary::jangada())
            .env("JANGADA_BROKERS", cluster.brokers().join(","));
    });
    completed.await.expect(0).text().trim_end().to_owned()
}

async fn a_shell_completes_names(cluster: &Cluster) {
    let brokers = cluster.brokers().join(",");
    let typed = format!("--brokers={brokers}");
    cluster.cli(&["queue", "create", "errands"]).await.expect(0);
    for (line, expected) in [
        (&["topic", "describe", "many-"][..], "many-a many-b"),
        (&["consume", "plain", "un"], "units"),
        (&["produce", "gra"], "graves"),
        (&["queue", "describe", "err"], "errands"),
        (&["queue", "create", "q", "--topic", "un"], "units"),
        (&["group", "describe", "rea"], "readers"),
        (&["group", "seek", "readers", "--topic", "too"], "too-many-c"),
        (&["clu"], "cluster"),
        (&["--brokers", &brokers, "topic", "describe", "many-"], "many-a many-b"),
        (&[&typed, "topic", "describe", "many-"], "many-a many-b"),
        (&["consume", "--topic=un"], "units"),
        (&["--brokers", "127.0.0.1:1", "clu"], "cluster"),
        (&["--brokers", "127.0.0.1:1", "topic", "describe", "many-"], ""),
    ] {
        // A cluster that takes longer than a key press may wait completes nothing.
        eventually(&format!("{line:?} gives {expected:?}"), WAIT, || async {
            (completed(cluster, line).await == expected).then_some(())
        })
        .await;
    }
}
