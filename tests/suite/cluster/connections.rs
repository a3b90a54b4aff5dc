//! Idle connections of strangers: the broker keeps the descriptors that its store needs, and clients of other addresses
//! get in.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jangada_client::{Client, ProducerConfig, ProducerRecord};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Cluster, Options, WAIT, eventually, node};

const TOPIC: &str = "orders";

/// The usual soft limit of a shell, and here the hard one, too.
const OPEN_FILES: u32 = 1_024;

/// Each MiB written begins another file of the write-ahead log.
const SMALL_TABLES: &str = "[storage]
memtable_bytes = 1048576
memtables_bytes = 4194304
wal_bytes = 2097152
wal_recycled_files = 0
disk_reserve_bytes = 0
";

/// The first bytes of an HTTP/2 client: the preface, and an empty settings frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// This process opens more files than the usual limit, too.
fn raise_own_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("the hard limit may be reached");
}

/// A connection from 127.0.0.`host`.
async fn connect(address: &str, host: u8) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0)))?;
    socket.connect(address.parse().expect("an address")).await
}

/// Opens `each` connections from each host. Every second one begins as HTTP/2 does, the others send nothing.
async fn flood(address: &str, hosts: std::ops::RangeInclusive<u8>, each: usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for host in hosts {
        for n in 0..each {
            let Ok(mut connection) = connect(address, host).await else {
                continue;
            };
            // One that was refused may be closed by now.
            if n % 2 == 0 && connection.write_all(PREFACE).await.is_err() {
                continue;
            }
            connections.push(connection);
        }
    }
    connections
}

/// All bytes of a connection until it ends, as text.
async fn words(mut connection: TcpStream) -> String {
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(WAIT, connection.read_to_end(&mut bytes));
    // A reset is an end, too.
    let _ = end.await.expect("it is closed");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The number of the newest file of the write-ahead log.
fn newest_wal(cluster: &Cluster) -> u64 {
    let folder = cluster.node(1).data().join("store/rocksdb");
    let files = std::fs::read_dir(folder).expect("the store is there");
    let numbers = files.filter_map(|file| {
        let name = file.ok()?.file_name().into_string().ok()?;
        name.strip_suffix(".log")?.parse().ok()
    });
    numbers.max().expect("there is a write-ahead log")
}

async fn write(client: &Client, mebibytes: usize) {
    let producer = client
        .producer(ProducerConfig::default())
        .expect("the settings are valid");
    for _ in 0..mebibytes * 4 {
        let record = ProducerRecord::new(TOPIC).with_value(vec![b'x'; 256 << 10]);
        let delivery = producer.send(record).await.expect("there is room");
        let written = tokio::time::timeout(WAIT, delivery).await;
        written.expect("the broker answers").expect("it is written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifteen_hundred_idle_connections_take_neither_the_stores_files_nor_others_places() {
    raise_own_limit();
    let options = Options {
        sections: SMALL_TABLES.to_owned(),
        plain_storage: true,
        open_files: Some(OPEN_FILES),
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let node = cluster.node(1);
    let client = cluster.client().await;
    write(&client, 1).await;
    let wal = newest_wal(&cluster);

    // From one address.
    let [public, internal, http] = [&node.addresses.public, &node.addresses.internal, &node.addresses.http];
    let one = flood(public, 2..=2, 1_500).await;
    write(&client, 4).await;
    assert!(newest_wal(&cluster) > wal, "no file of the write-ahead log was begun");
    // The next one of this address is told why it is refused; not while many others are being told.
    eventually("it is told why", WAIT, || async {
        let told = words(connect(public, 2).await.ok()?).await;
        (told.contains("TOO_MANY_CONNECTIONS") && told.contains("127.0.0.2")).then_some(())
    })
    .await;

    // From several, at every listener.
    let several = flood(public, 3..=12, 150).await;
    let of_brokers = flood(internal, 2..=3, 200).await;
    let _of_probes = flood(http, 2..=3, 100).await;
    let wal = newest_wal(&cluster);
    write(&client, 4).await;
    assert!(newest_wal(&cluster) > wal, "no file of the write-ahead log was begun");
    assert!(node.open_files() < OPEN_FILES as usize);
    eventually("a client from another address gets in", WAIT, || async {
        Client::connect(cluster.client_config()).await.ok()
    })
    .await;
    cluster.ready(1).await;
    let metrics = node::get(http, "/metrics")
        .await
        .expect("there is a place for a scrape");
    for refused in [
        r#"jangada_connections_refused_total{listener="public",cause="address"}"#,
        r#"jangada_connections_refused_total{listener="internal",cause="address"}"#,
        r#"jangada_connections_refused_total{listener="http",cause="address"}"#,
        r#"jangada_connections_ended_total{listener="public",cause="made_way"}"#,
    ] {
        let line = metrics.lines().find(|line| line.starts_with(refused));
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        assert!(count.is_some_and(|count| count > 0), "{refused}: {line:?}\n{metrics}");
    }
    assert!(node.log().contains("connections were refused"), "the log says so");

    // Silent connections are closed; those that spoke HTTP/2 and answer no ping are, too.
    for connection in one.into_iter().chain(several).chain(of_brokers) {
        words(connection).await;
    }
    write(&client, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gets_no_place_is_told_why() {
    let options = Options {
        sections: "[limits]\nconnections_per_address_max = 4".to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options).await;
    let public = cluster.node(1).addresses.public.clone();
    // As many as it may have, all of them ours: the harness's own come and go, and may have had a place before. They speak HTTP/2, for
    // silent ones are closed while the client still tries.
    let (mut held, begun) = (Vec::new(), Instant::now());
    while held.len() < 4 {
        assert!(begun.elapsed() < WAIT, "127.0.0.1 gets {} of its places", held.len());
        let mut connection = connect(&public, 1).await.expect("the kernel takes it");
        let mut greeting = [0; 1024];
        let greeted = async {
            connection.write_all(PREFACE).await?;
            connection.read(&mut greeting).await
        };
        let Ok(Ok(count)) = tokio::time::timeout(WAIT, greeted).await else {
            continue;
        };
        if count > 0 && !String::from_utf8_lossy(&greeting[..count]).contains("TOO_MANY_CONNECTIONS") {
            held.push(connection);
        }
    }
    let run = cluster.cli(&["topic", "ls"]).await;
    assert_ne!(run.code, Some(0));
    run.names(&["TOO_MANY_CONNECTIONS", "limits.connections_per_address_max"]);
    drop(held);
    eventually("it gets in again", WAIT, || async {
        (cluster.cli(&["topic", "ls"]).await.code == Some(0)).then_some(())
    })
    .await;
    eventually("the log says that it is over", WAIT, || async {
        let log = cluster.node(1).log();
        log.contains("connections are no longer refused").then_some(())
    })
    .await;
}

/// The descriptors run out whatever the shares are: the limit of a running process is lowered, or the system has no
/// more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_without_descriptors_says_so_waits_and_goes_on_when_there_are_some() {
    let cluster = Cluster::start_alone(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let node = cluster.node(1);
    let client = cluster.client().await;
    write(&client, 1).await;
    // Connections that are open already are not disturbed.
    let mut scraper = TcpStream::connect(&node.addresses.http).await.expect("it listens");
    let failures = r#"jangada_accept_failures_total{listener="public"}"#;
    assert_eq!(counted(&mut scraper, failures).await, 0);
    let before = limit_open_files(node.pid(), Some(1));
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(connect(&node.addresses.public, 1).await.expect("the kernel takes it"));
    }
    eventually("the log says so", WAIT, || async {
        node.log().contains("connections cannot be accepted").then_some(())
    })
    .await;
    let (cpu, began) = (node.cpu(), Instant::now());
    let first = counted(&mut scraper, failures).await;
    // The time that it is measured over.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let last = counted(&mut scraper, failures).await;
    let (cpu, elapsed) = (node.cpu() - cpu, began.elapsed());
    // At most 20 a second, and one each second in the end.
    assert!(
        last > first && last - first < 20,
        "{first} and then {last} in {elapsed:?}"
    );
    assert!(cpu < elapsed / 2, "{cpu:?} of {elapsed:?}: it spins");
    let told = node.log().matches("connections cannot be accepted").count();
    assert_eq!(told, 1, "once, and then at an interval");
    write(&client, 1).await;

    limit_open_files(node.pid(), before);
    eventually("those that waited are in", WAIT, || async {
        node.log().contains("connections are accepted again").then_some(())
    })
    .await;
    let client = cluster.client().await;
    write(&client, 1).await;
}

/// Sets the soft limit of a process, and returns the old one.
fn limit_open_files(pid: u32, soft: Option<u64>) -> Option<u64> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let hard = getrlimit(Resource::Nofile).maximum;
    let new = Rlimit {
        current: soft,
        maximum: hard,
    };
    let old = prlimit(pid, Resource::Nofile, new).expect("our own child can be limited");
    old.current
}

/// A counter, by a connection that stays open.
async fn counted(scraper: &mut TcpStream, series: &str) -> u64 {
    let request = "GET /metrics HTTP/1.1\r\nHost: it\r\n\r\n";
    scraper.write_all(request.as_bytes()).await.expect("it is open");
    let mut answer = Vec::new();
    loop {
        let read = tokio::time::timeout(WAIT, scraper.read_buf(&mut answer)).await;
        let read = read.expect("it is answered").expect("it is open");
        let text = String::from_utf8_lossy(&answer);
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        // The last family of a scrape.
        if text.contains("# TYPE jangada_group_lag_unknown") {
            return found.expect("there is such a series");
        }
        assert!(read > 0, "the answer ends early:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_call_is_ended_and_one_that_waits_is_not() {
    let options = Options {
        sections: "[limits]\nconnection_idle_ms = 1000".to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let public = cluster.node(1).addresses.public.clone();
    let partition = crate::harness::raw::partition(TOPIC, 0);
    let mut stream = crate::harness::raw::stalled(&public, partition, 1024).await;
    let mut idle = connect(&public, 1).await.expect("there is a place");
    idle.write_all(PREFACE).await.expect("it is open");
    let told = words(idle).await;
    assert!(told.contains("limits.connection_idle_ms"), "{told:?}");
    // A client does not notice: it connects again.
    let client = cluster.client().await;
    write(&client, 1).await;
    eventually("its connection was ended", WAIT, || async {
        let metrics = node::get(&cluster.node(1).addresses.http, "/metrics").await.ok()?;
        let ended = r#"jangada_connections_ended_total{listener="public",cause="idle"}"#;
        let line = metrics.lines().find(|line| line.starts_with(ended))?;
        (line.rsplit(' ').next()?.parse::<u64>().ok()? >= 2).then_some(())
    })
    .await;
    write(&client, 1).await;
    let read = tokio::time::timeout(WAIT, stream.message())
        .await
        .expect("it was not ended");
    assert!(read.expect("it was not ended").is_some());
}
