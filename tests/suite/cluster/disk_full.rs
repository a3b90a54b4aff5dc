//! A leader's disk fills up: producing is refused there and nowhere else, reading goes on, and both recover by
//! themselves.

use jangada_client::BrokerId;
use jangada_proto::v1::RecordForm;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::node::ready;
use crate::harness::{Cluster, Options, SmallDisk, WAIT, cli, raw, skipped};

const TOPIC: &str = "orders";

const DISK_BYTES: u64 = 256 * 1024 * 1024;
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// Half of the reserve: the node itself writes and frees much less meanwhile.
const LEFT_BYTES: u64 = RESERVE_BYTES / 2;

/// The node with the small disk.
const POOR: u32 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_produce_and_comes_back_by_itself() {
    // On a disk that others use, the free space a second later cannot be foreseen.
    let disk = match SmallDisk::mount(DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => {
            let why = format!("it takes a file system of its own, which only root may mount: {why}");
            return skipped("a_full_disk_refuses_produce_and_comes_back_by_itself", &why);
        }
    };
    let mut cluster = Cluster::start_with(
        3,
        Options {
            stopped: true,
            // Leaderships stay where the test puts them.
            sections: "[cluster]\npreferred_leader_after_ms = 0".to_owned(),
            ..Options::default()
        },
    )
    .await;
    give_disk(&cluster, &disk);
    cluster.start_all();
    cluster.healthy().await;
    cluster.create_topic(TOPIC, 2, 3).await;
    let admin = cluster.admin().await;
    for (partition, leader) in [(0, POOR), (1, 2)] {
        let led = admin.transfer_leader(TOPIC, partition, BrokerId(leader)).await;
        assert_eq!(led.expect("all are in sync").id, BrokerId(leader));
    }
    let mut poor = raw::log(&cluster.node(POOR).addresses.public).await;
    let mut rich = raw::log(&cluster.node(2).addresses.public).await;
    let (full, other) = (raw::partition(TOPIC, 0), raw::partition(TOPIC, 1));
    let one = |value: &'static [u8]| raw::batch(None, &[value]);
    raw::produce(&mut poor, full.clone(), one(b"before"))
        .await
        .expect("there is space");

    disk.fill(LEFT_BYTES);
    // Until the node has looked at its disk, records are written.
    let mut written = 1;
    let refused = async {
        loop {
            match raw::produce(&mut poor, full.clone(), one(b"meanwhile")).await {
                Ok(_) => written += 1,
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(WAIT, refused)
        .await
        .expect("the node looks at its disk");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let status = raw::assert_refused(Err::<(), _>(status), "DISK_FULL", &[TOPIC, &RESERVE_BYTES.to_string()]);
    assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "{status:?}");

    // Reading goes on, and so does a partition that another node leads, though its follower here has no space.
    assert_eq!(
        raw::end(&mut poor, full.clone()).await.expect("reading goes on"),
        written
    );
    let mut read = 0;
    while read < written {
        let fetched = raw::fetch(&mut poor, full.clone(), read, RecordForm::Plain).await;
        let fetched = fetched.expect("reading goes on");
        assert_eq!(fetched.records.len() as i64, fetched.next_offset - read);
        assert!(fetched.next_offset > read, "an answer has at least one record");
        read = fetched.next_offset;
    }
    assert_eq!(read, written);
    raw::produce(&mut rich, other, one(b"elsewhere"))
        .await
        .expect("its leader has space");

    // A client that begins now waits for space instead of failing.
    let mut producer = cli::start(&cluster.brokers(), &["produce", TOPIC, "--partition", "0"]);
    let mut stdin = producer.stdin.take().expect("stdin is a pipe");
    stdin.write_all(b"patient\n").await.expect("the producer reads");
    drop(stdin);
    let again = raw::produce(&mut poor, full.clone(), one(b"refused")).await;
    raw::assert_refused(again, "DISK_FULL", &[]);
    assert_eq!(producer.try_wait().expect("our own child can be looked at"), None);

    // The producer, health, readiness and the log all give the reason.
    let mut told = BufReader::new(producer.stderr.as_mut().expect("stderr is a pipe")).lines();
    let line = tokio::time::timeout(WAIT, told.next_line())
        .await
        .expect("it is told soon");
    let line = line.expect("stderr is text").expect("the producer goes on");
    assert!(line.contains("DISK_FULL") && line.contains("trying on for"), "{line}");
    let health = cluster.cli(&["cluster", "health"]).await;
    health
        .expect(3)
        .names(&["DISK_FULL", "disk of broker 1 is down to its reserve", TOPIC]);
    let why = ready(&cluster.node(POOR).addresses.http)
        .await
        .expect_err("it refuses records");
    assert!(why.contains("reserve"), "{why}");
    let log = cluster.node(POOR).log();
    assert!(
        log.contains("requests are refused") && log.contains("DISK_FULL"),
        "{}",
        cluster.node(POOR).log_tail()
    );

    disk.empty();
    cli::end(producer, "produce").await.expect(0);
    written += 1;
    let last = raw::produce(&mut poor, full.clone(), one(b"after"))
        .await
        .expect("there is space again");
    assert_eq!(last.base_offset, written, "what was refused is there");
    let fetched = raw::fetch(&mut poor, full, written - 1, RecordForm::Plain)
        .await
        .expect("reading goes on");
    let values: Vec<&[u8]> = fetched.records.iter().filter_map(|r| r.value.as_deref()).collect();
    assert_eq!(values, [&b"patient"[..], b"after"]);
}

/// Puts the node's data on the disk, with a reserve.
pub fn give_disk(cluster: &Cluster, disk: &SmallDisk) {
    let node = cluster.node(POOR);
    std::os::unix::fs::symlink(disk.path(), node.data()).expect("the node has not been started");
    let file = node.settings_file();
    let text = std::fs::read_to_string(&file).expect("the settings are there");
    let changed = text.replace(
        "disk_reserve_bytes = 0",
        &format!("disk_reserve_bytes = {RESERVE_BYTES}"),
    );
    assert_ne!(changed, text);
    std::fs::write(&file, changed).expect("the settings are writable");
}
