//! What the world of a simulation does to those in it: processes die and stand still, networks and disks and clocks fail; and all of it
//! follows from the seed.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use jangada_client::{
    Client, ClientConfig, ConsumerConfig, NewTopic, Producer, ProducerConfig, ProducerRecord, StartAt,
};
use jangada_env::network::{Network, Pipe};
use jangada_simulator::{Host, Options, Process, Simulation, Trace, TraceMode};
use jangada_storage::{NodeStore, OnFence, Recovery, StoreError, StoreFactory, StoreOptions, WriteMoment};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use crate::running::{Brokers, TIMEOUT, assert_same, stop};

const TOPIC: &str = "orders";
const SECOND: Duration = Duration::from_secs(1);
/// Nothing on a sound network takes so long.
const SOON: Duration = Duration::from_millis(20);

/// Both ends of a connection: of the one who opens it, and of the one who accepts it.
async fn connection(from: &Host, to: &Host) -> (Box<dyn Pipe>, Box<dyn Pipe>) {
    let (Network::Simulated(near), Network::Simulated(far)) = (from.env().network, to.env().network) else {
        panic!("both are simulated");
    };
    let listener = far.bind(&to.at(0)).expect("a port is free");
    let address = listener.local_addr().to_string();
    let (near, far) = tokio::join!(near.connect(address), listener.accept());
    (near.expect("somebody listens"), far.expect("somebody connects").0)
}

async fn send(pipe: &mut Box<dyn Pipe>, text: &str) {
    pipe.write_all(text.as_bytes()).await.expect("there is room");
}

async fn receive(pipe: &mut Box<dyn Pipe>, length: usize) -> String {
    let mut bytes = vec![0; length];
    pipe.read_exact(&mut bytes).await.expect("the bytes come");
    String::from_utf8(bytes).expect("text was sent")
}

#[test]
fn a_cut_link_holds_one_way_until_it_is_mended() {
    Simulation::run(1, |simulation| async move {
        let (one, other) = (simulation.host("one"), simulation.host("other"));
        let (mut near, mut far) = connection(&one, &other).await;
        simulation.network().cut(&one, &other);
        send(&mut near, "there").await;
        send(&mut far, "back").await;
        let back = timeout(SOON, receive(&mut near, 4)).await;
        assert_eq!(back.expect("the other way is sound"), "back");
        let there = timeout(10 * SECOND, receive(&mut far, 5)).await;
        assert!(there.is_err(), "{there:?} came through a link that is cut");
        simulation.network().mend(&one, &other);
        let there = timeout(SECOND, receive(&mut far, 5)).await;
        assert_eq!(there.expect("it is sent again"), "there");
        // A connection needs both ways, whoever opens it.
        simulation.network().cut(&one, &other);
        assert!(timeout(10 * SECOND, connection(&other, &one)).await.is_err());
        simulation.network().mend_all();
        assert!(timeout(SECOND, connection(&other, &one)).await.is_ok());
    });
}

#[test]
fn a_reset_breaks_both_ends() {
    Simulation::run(1, |simulation| async move {
        let (one, other) = (simulation.host("one"), simulation.host("other"));
        let (mut near, mut far) = connection(&one, &other).await;
        assert_eq!(simulation.network().reset(&other, &one), 1);
        for pipe in [&mut near, &mut far] {
            let read = pipe.read_u8().await.expect_err("it is broken");
            assert_eq!(read.kind(), ErrorKind::ConnectionReset);
            let written = pipe.write_u8(1).await.expect_err("it is broken");
            assert_eq!(written.kind(), ErrorKind::BrokenPipe);
        }
    });
}

#[test]
fn links_are_slow_late_and_stall() {
    Simulation::run(1, |simulation| async move {
        let (one, other) = (simulation.host("one"), simulation.host("other"));
        let (mut near, mut far) = connection(&one, &other).await;
        let network = simulation.network();
        let began = Instant::now();
        network.slow(&one, &other, 100_000);
        for _ in 0..10 {
            send(&mut near, &"x".repeat(50_000)).await;
        }
        receive(&mut far, 1).await;
        assert!(began.elapsed() < SECOND, "it comes little by little");
        receive(&mut far, 499_999).await;
        assert!((5..6).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        network.mend(&one, &other);
        for fault in 0..2 {
            match fault {
                0 => network.delay(&one, &other, 3 * SECOND..4 * SECOND),
                _ => network.stall(&one, &other, 3 * SECOND),
            }
            let began = Instant::now();
            send(&mut near, "late").await;
            receive(&mut far, 4).await;
            assert!((3..=4).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
            network.mend(&one, &other);
        }
        let began = Instant::now();
        network.lossy(&one, &other, 100);
        send(&mut near, "again").await;
        receive(&mut far, 5).await;
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    });
}

#[test]
fn clocks_are_off_and_drift_and_time_goes_on() {
    Simulation::run(1, |simulation| async move {
        let (right, wrong) = (simulation.host("right"), simulation.host("wrong"));
        let ahead = || wrong.env().clock.now_ms() - right.env().clock.now_ms();
        assert_eq!(ahead(), 0);
        wrong.clock().set_off(-5_000);
        assert_eq!(ahead(), -5_000);
        wrong.clock().drift(10_000);
        sleep(100 * SECOND).await;
        assert_eq!(ahead(), -4_000);
        wrong.clock().drift(0);
        sleep(100 * SECOND).await;
        assert_eq!(ahead(), -4_000, "what it has drifted stays");
        assert_eq!(simulation.now().as_secs(), 200);
    });
}

#[test]
fn a_panic_is_a_finding() {
    let (played, _) = Simulation::run_with(Options::new(1), |_| async {
        tokio::spawn(async { panic!("on purpose") });
        sleep(SECOND).await;
    });
    let finding = played.expect_err("a task has panicked");
    assert!(finding.starts_with("the play panicked: on purpose"), "{finding}");
    let options = Options {
        play_max: SECOND,
        ..Options::new(1)
    };
    let (played, _) = Simulation::run_with(options, |_| std::future::pending::<()>());
    assert!(played.expect_err("it waits for ever").contains("not ended"));
}

/// A store that cannot be opened without a panic.
struct Panics;

impl StoreFactory for Panics {
    fn exists(&self, _: &std::path::Path) -> bool {
        false
    }

    fn open(&self, _: StoreOptions, _: OnFence) -> Result<(Arc<dyn NodeStore>, Recovery), StoreError> {
        panic!("on purpose")
    }
}

#[test]
fn a_brokers_panic_is_a_finding() {
    let (played, _) = Simulation::run_with(Options::new(1), |simulation| async move {
        let brokers = Brokers::new(&simulation, 1);
        brokers.hosts[0].set_stores(Some(Arc::new(Panics)));
        brokers.start(1).await;
        sleep(TIMEOUT).await;
    });
    let finding = played.expect_err("the broker has panicked");
    assert!(finding.starts_with("broker-1 panicked: on purpose"), "{finding}");
}

/// A client of the brokers, with a topic of one partition on all of them.
async fn client(simulation: &Simulation, brokers: &Brokers, name: &str) -> Client {
    let config = ClientConfig::new(brokers.addresses());
    let client = simulation.host(name).connect(config).await.expect("the cluster forms");
    let replicas = u32::try_from(brokers.hosts.len()).expect("there are a few");
    // Another client may have made it.
    let _ = client.admin().create_topic(NewTopic::new(TOPIC, 1, replicas)).await;
    client
}

fn producer(client: &Client) -> Producer {
    client
        .producer(ProducerConfig::default())
        .expect("the settings are sound")
}

async fn produce(producer: &Producer, value: &str) -> bool {
    let record = ProducerRecord::new(TOPIC).with_value(value.to_owned());
    let Ok(delivery) = producer.send(record).await else {
        return false;
    };
    matches!(timeout(10 * SECOND, delivery).await, Ok(Ok(_)))
}

/// All values, as somebody reads them who waits until nothing more comes.
async fn read_all(client: &Client) -> Vec<String> {
    let mut consumer = client
        .consumer(ConsumerConfig::default())
        .expect("the settings are sound");
    consumer
        .assign_topic(TOPIC, StartAt::Earliest)
        .await
        .expect("it was created");
    let mut read = Vec::new();
    while let Ok(record) = timeout(5 * SECOND, consumer.next()).await {
        let record = record.expect("the broker lives");
        read.push(String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned());
    }
    read
}

/// One broker dies at a write; what it has acknowledged is there when it is back. Gives how many records were acknowledged.
async fn die_at_write(simulation: Arc<Simulation>, count: u64, moment: WriteMoment) -> usize {
    let brokers = Brokers::new(&simulation, 1);
    let process = brokers.start(1).await;
    let writing = client(&simulation, &brokers, "writer").await;
    let writer = producer(&writing);
    brokers.host(1).disk().kill_at(count, moment);
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let value = format!("order {number}");
        if !process.is_running() {
            break;
        }
        let sent = produce(&writer, &value);
        let died = async {
            while process.is_running() {
                sleep(SOON).await;
            }
        };
        tokio::select! {
            is_stored = sent => if is_stored { acknowledged.push(value) },
            () = died => break,
        }
    }
    assert!(!process.is_running(), "it has died at write {count}");
    assert_eq!(process.end(), None, "it was killed, and has not ended by itself");
    drop(writer);
    brokers.start(1).await;
    let read = read_all(&client(&simulation, &brokers, "reader").await).await;
    for value in &acknowledged {
        let times = read.iter().filter(|read| *read == value).count();
        assert_eq!(times, 1, "{value}, died at write {count}, read {read:?}");
    }
    acknowledged.len()
}

#[test]
fn a_broker_dies_at_any_write_and_nothing_acknowledged_is_lost() {
    let mut acknowledged = 0;
    for count in 1..=12 {
        for moment in [WriteMoment::Before, WriteMoment::Synced] {
            acknowledged += Simulation::run(count, |simulation| die_at_write(simulation, count, moment)).0;
        }
    }
    assert!(acknowledged > 0, "some died after an acknowledgement");
}

/// Whether a record survives that was written and not synced when the power failed.
async fn lose_power(simulation: Arc<Simulation>) -> bool {
    let brokers = Brokers::new(&simulation, 1);
    let process = brokers.start(1).await;
    let host = brokers.host(1);
    let writing = client(&simulation, &brokers, "writer").await;
    let writer = producer(&writing);
    assert!(produce(&writer, "synced").await);
    host.disk().slow(Some(3600 * SECOND));
    assert!(!produce(&writer, "unsynced").await, "nobody has synced it");
    process.power_off();
    host.disk().slow(None);
    // Or it would send it once more.
    simulation.network().cut(&simulation.host("writer"), host);
    brokers.start(1).await;
    let read = read_all(&client(&simulation, &brokers, "reader").await).await;
    assert_eq!(read[0], "synced");
    read.len() > 1
}

#[test]
fn what_is_not_synced_may_be_lost_with_the_power() {
    let survived = (0..12).filter(|seed| Simulation::run(*seed, lose_power).0).count();
    assert!((1..12).contains(&survived), "{survived} of 12 have survived");
}

#[test]
fn peers_of_a_host_without_power_hear_nothing_until_it_is_back() {
    Simulation::run(3, |simulation| async move {
        let brokers = Brokers::new(&simulation, 1);
        let process = brokers.start(1).await;
        let host = simulation.host("peer");
        let dial = || {
            let Network::Simulated(network) = host.env().network else {
                panic!("it is simulated");
            };
            network.connect(brokers.host(1).at(9480))
        };
        let mut pipe = dial().await.expect("it listens");
        process.power_off();
        pipe.write_all(b"GET / HTTP/1.1\r\n\r\n")
            .await
            .expect("it is not known");
        assert!(timeout(TIMEOUT, pipe.read_u8()).await.is_err(), "nobody answers");
        assert!(timeout(TIMEOUT, dial()).await.is_err(), "nobody refuses");
        let process = brokers.start(1).await;
        let broken = timeout(5 * SECOND, pipe.read_u8()).await.expect("it learns of it");
        assert_eq!(broken.expect_err("it is broken").kind(), ErrorKind::ConnectionReset);
        // A process that is killed is another matter: its system ends its connections, and refuses others.
        let mut pipe = dial().await.expect("it listens");
        process.kill();
        let ended = timeout(SECOND, pipe.read_u8()).await.expect("it learns of it");
        let kind = ended.expect_err("nothing comes").kind();
        assert!(
            [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&kind),
            "{kind:?}"
        );
        let refused = timeout(SECOND, dial()).await.expect("it learns of it");
        assert_eq!(
            refused.err().map(|error| error.kind()),
            Some(ErrorKind::ConnectionRefused)
        );
    });
}

#[test]
fn a_process_stands_still_and_goes_on() {
    Simulation::run(1, |simulation| async move {
        let brokers = Brokers::new(&simulation, 1);
        let process = brokers.start(1).await;
        let writing = client(&simulation, &brokers, "writer").await;
        let writer = producer(&writing);
        assert!(produce(&writer, "before").await);
        process.pause();
        let record = ProducerRecord::new(TOPIC).with_value("meanwhile");
        let delivery = writer.send(record).await.expect("there is room");
        let mut delivery = Box::pin(async move { delivery.await.map(|_| ()) });
        assert!(timeout(SECOND, &mut delivery).await.is_err(), "nobody takes it");
        assert!(process.is_running());
        process.resume();
        let delivered = timeout(TIMEOUT, delivery).await.expect("it goes on");
        delivered.expect("it was sent again if need be");
        assert_eq!(read_all(&writing).await, ["before", "meanwhile"]);
    });
}

#[test]
fn a_disk_that_fails_ends_the_broker_in_its_own_words() {
    Simulation::run(1, |simulation| async move {
        let brokers = Brokers::new(&simulation, 1);
        let process = brokers.start(1).await;
        let writing = client(&simulation, &brokers, "writer").await;
        let writer = producer(&writing);
        assert!(produce(&writer, "sound").await);
        brokers.host(1).disk().fail(true);
        assert!(!produce(&writer, "lost").await);
        let ended = async {
            while process.is_running() {
                sleep(SOON).await;
            }
        };
        timeout(TIMEOUT, ended).await.expect("it cannot go on");
        let why = process.end().expect("it was not killed");
        assert!(why.contains("Input/output error"), "{why}");
        brokers.host(1).disk().fail(false);
        drop(writer);
        brokers.start(1).await;
        let read = read_all(&client(&simulation, &brokers, "reader").await).await;
        assert_eq!(read[0], "sound");
    });
}

#[test]
fn a_disk_that_was_put_back_is_told_by_the_peers() {
    Simulation::run(1, |simulation| async move {
        let brokers = Brokers::new(&simulation, 3);
        let processes = brokers.start_all().await;
        let writing = client(&simulation, &brokers, "writer").await;
        let writer = producer(&writing);
        for number in 0..5 {
            assert!(produce(&writer, &format!("early {number}")).await);
        }
        stop(&processes[2]).await;
        let early = brokers.host(3).copy();
        let process = brokers.start(3).await;
        for number in 0..20 {
            assert!(produce(&writer, &format!("late {number}")).await);
        }
        sleep(30 * SECOND).await;
        stop(&process).await;
        brokers.host(3).put_back(&early);
        let process = brokers.start(3).await;
        let ended = async {
            while process.is_running() {
                sleep(SECOND).await;
            }
        };
        timeout(TIMEOUT, ended).await.expect("it must not vote");
        let why = process.end().expect("it was not killed");
        assert!(why.contains("lost"), "{why}");
        assert_eq!(read_all(&writing).await.len(), 25);
    });
}

/// A bit of everything, for two runs to be compared.
async fn everything(simulation: Arc<Simulation>) -> usize {
    let brokers = Brokers::new(&simulation, 3);
    let mut processes: Vec<Process> = brokers.start_all().await;
    let writing = client(&simulation, &brokers, "writer").await;
    let writer = producer(&writing);
    let random = simulation.random();
    let network = simulation.network();
    let mut acknowledged = 0;
    for round in 0..24_u32 {
        let broker = round % 3 + 1;
        let (host, other) = (brokers.host(broker), brokers.host(broker % 3 + 1));
        match round % 12 {
            0 => network.cut(host, other),
            1 => network.slow(host, other, 50_000),
            2 => network.lossy(host, other, 20),
            3 => drop(network.reset(host, other)),
            4 => host.clock().set_off(30_000),
            5 => host.clock().drift(-20_000),
            6 => processes[broker as usize - 1].pause(),
            7 => processes[broker as usize - 1].kill(),
            8 => host.disk().kill_at_write(1 + random.number() % 20),
            9 => processes[broker as usize - 1].power_off(),
            10 => host.disk().slow(Some(Duration::from_millis(50))),
            _ => network.stall(host, other, SECOND),
        }
        for number in 0..5 {
            acknowledged += usize::from(produce(&writer, &format!("order {round} {number}")).await);
        }
        network.mend_all();
        host.clock().set_off(0);
        host.disk().slow(None);
        for broker in 1..=3 {
            let process = &mut processes[broker as usize - 1];
            match process.is_running() {
                true => process.resume(),
                false => *process = brokers.start(broker).await,
            }
        }
    }
    sleep(10 * SECOND).await;
    let read = read_all(&writing).await;
    assert!(read.len() >= acknowledged, "{} of {acknowledged}", read.len());
    simulation.note(format_args!("{} are read", read.len()));
    read.len()
}

fn run(seed: u64, trace: TraceMode) -> Trace {
    let options = Options {
        trace,
        ..Options::new(seed)
    };
    let (read, trace) = Simulation::run_with(options, everything);
    assert!(read.expect("nothing is found") > 60);
    trace
}

#[test]
fn a_seed_gives_the_same_run_whatever_fails_in_it() {
    let (one, again) = (run(5, TraceMode::Kept), run(5, TraceMode::Kept));
    assert_same(&one, &again);
    let lines = one.lines();
    for said in [
        "is cut from",
        "is killed",
        "loses its power",
        "stands still",
        "is slow from",
        "boots",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(said)),
            "{said:?} is not in the trace"
        );
    }
    let hashed = run(5, TraceMode::Hashed);
    assert_eq!(hashed.hash(), one.hash(), "nothing depends on whether lines are kept");
    assert!(hashed.lines().is_empty());
    assert_ne!(run(6, TraceMode::Hashed).hash(), one.hash());
}
