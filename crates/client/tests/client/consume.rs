//! Consumers against a scripted cluster.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use jangada_client::{
    Client, ClientError, Codec, Consumer, ConsumerConfig, EndOffsets, Notice, OffsetReset, OnBadBatch, OnNotice,
    ProducerConfig, ProducerRecord, Reason, StartAt,
};
use jangada_types::BatchBuilder;
use jangada_types::batch::BatchIter;
use tokio::time::timeout;

use crate::fake::{Cluster, Error, Partition};
use crate::produce::{numbers, send, small_batches};

/// A topic "t" with `records` records per partition.
pub async fn filled(cluster: &Cluster, partitions: u32, records: u32) -> Client {
    cluster.create_topic("t", partitions);
    let client = cluster.client().await;
    fill(&client, partitions, 0..records).await;
    client
}

pub async fn fill(client: &Client, partitions: u32, values: std::ops::Range<u32>) {
    let producer = client.producer(small_batches()).expect("good settings");
    for partition in 0..partitions {
        for delivered in join_all(send(&producer, partition, values.clone()).await).await {
            delivered.expect("delivered");
        }
    }
}

async fn read(consumer: &mut Consumer, records: usize) -> Vec<(u32, i64, String)> {
    let mut read = Vec::new();
    while read.len() < records {
        let record = timeout(Duration::from_secs(20), consumer.next())
            .await
            .expect("soon")
            .expect("a record");
        let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
        read.push((record.partition, record.offset, value));
    }
    read
}

fn expected(partition: u32, values: std::ops::Range<u32>) -> Vec<(u32, i64, String)> {
    values
        .map(|value| (partition, i64::from(value), value.to_string()))
        .collect()
}

#[tokio::test]
async fn all_partitions_are_read_in_order() {
    let cluster = Cluster::start(3);
    let client = filled(&cluster, 3, 500).await;
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    let ends = consumer.end_offsets().await.expect("listed");
    let mut all = Vec::new();
    while !consumer.reached(&ends) {
        all.extend(read(&mut consumer, 1).await);
    }
    assert_eq!(all.len(), 1500);
    for partition in 0..3 {
        let of_partition: Vec<_> = all.iter().filter(|record| record.0 == partition).cloned().collect();
        assert_eq!(of_partition, expected(partition, 0..500));
        assert_eq!(consumer.position("t", partition), Some(500));
        assert_eq!(consumer.high_watermark("t", partition), Some(500));
    }
}

#[tokio::test]
async fn more_streams_than_a_connection_takes_neither_wait_nor_hold_calls_up() {
    const STREAMS: usize = 3;
    let cluster = Cluster::start_with(1, Some(STREAMS as u32));
    let _ = filled(&cluster, 10, 5).await;
    let mut config = cluster.config();
    config.streams_per_connection_max = STREAMS;
    // Nothing here waits for anything that takes time.
    config.request_timeout = Duration::from_secs(5);
    config.retry_timeout = Duration::from_secs(5);
    let client = Client::connect(config).await.expect("the brokers answer");
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    // The stream of every partition is open from its first record on.
    read(&mut consumer, 50).await;
    let ends = consumer.end_offsets().await.expect("calls have their own connection");
    assert!(consumer.reached(&ends));
    fill(&client, 10, 5..10).await;
    read(&mut consumer, 50).await;
}

#[tokio::test]
async fn partitions_that_are_added_are_read_from_their_first_record() {
    let cluster = Cluster::start(2);
    let _ = filled(&cluster, 2, 10).await;
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = heard.clone();
    let mut config = cluster.config();
    config.metadata_max_age = Duration::from_millis(100);
    config.on_notice = OnNotice::new(move |notice| sink.lock().expect("no panic").push(notice.to_string()));
    let client = Client::connect(config).await.expect("the brokers answer");
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer.assign_topic("t", StartAt::Latest).await.expect("assigned");
    assert!(
        timeout(Duration::from_millis(200), consumer.next()).await.is_err(),
        "nothing comes after the end"
    );
    let other = cluster.client().await;
    other.admin().create_partitions("t", 4).await.expect("created");
    for partition in [2, 3] {
        let producer = other.producer(small_batches()).expect("good settings");
        for delivered in join_all(send(&producer, partition, 0..20).await).await {
            delivered.expect("delivered");
        }
    }
    // Records that retention deleted before they were read are reported, whatever the policy for known partitions is.
    cluster.state().partition("t", 3).log_start = 5;
    let all = read(&mut consumer, 35).await;
    let of = |partition| {
        all.iter()
            .filter(|record| record.0 == partition)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(of(2), expected(2, 0..20));
    assert_eq!(of(3), expected(3, 5..20));
    let heard = heard.lock().expect("no panic").join("\n");
    assert!(
        heard.contains("partitions were added to t: t[2] to [3] are read"),
        "{heard}"
    );
    assert!(
        heard.contains("offset 0 of t[3] is below its log start, 5: 5 records are gone"),
        "{heard}"
    );
}

#[tokio::test]
async fn reading_begins_at_the_offset_within_a_batch() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 300).await;
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer
        .assign(vec![("t", 0, StartAt::Offset(123))])
        .await
        .expect("assigned");
    assert_eq!(consumer.position("t", 0), Some(123));
    assert_eq!(read(&mut consumer, 177).await, expected(0, 123..300));
    consumer.seek("t", 0, StartAt::Offset(7)).await.expect("sought");
    assert_eq!(read(&mut consumer, 10).await, expected(0, 7..17));
    consumer.seek("t", 0, StartAt::Latest).await.expect("sought");
    assert!(
        timeout(Duration::from_millis(200), consumer.next()).await.is_err(),
        "nothing comes after the end"
    );
    fill(&client, 1, 300..310).await;
    assert_eq!(read(&mut consumer, 10).await, expected(0, 300..310));
}

#[tokio::test]
async fn changes_of_leader_are_not_seen_in_the_records() {
    let mut cluster = Cluster::start(3);
    let client = filled(&cluster, 1, 2000).await;
    let config = ConsumerConfig {
        max_partition_bytes: 2048,
        prefetch_bytes: 64 * 1024,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    let mut all = read(&mut consumer, 100).await;
    cluster.move_leader("t", 0, 3);
    all.extend(read(&mut consumer, 900).await);
    cluster.kill(3);
    all.extend(read(&mut consumer, 1000).await);
    fill(&client, 1, 2000..2100).await;
    all.extend(read(&mut consumer, 100).await);
    assert_eq!(all, expected(0, 0..2100));
}

#[tokio::test]
async fn an_offset_out_of_range_is_named_with_its_bounds() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 300).await;
    cluster.state().partition("t", 0).log_start = 50;
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer
        .assign(vec![("t", 0, StartAt::Offset(10)), ("t", 1, StartAt::Offset(299))])
        .await
        .expect("assigned");
    let (mut failed, mut other) = (None, None);
    while failed.is_none() || other.is_none() {
        match consumer.next().await {
            Ok(record) => other = Some(record.offset),
            Err(error) => failed = Some(error),
        }
    }
    let error = failed.expect("one of them");
    let ClientError::OffsetOutOfRange {
        offset: 10,
        log_start_offset: 50,
        high_watermark: 300,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(other, Some(299), "the other partition goes on");
    consumer.seek("t", 0, StartAt::Earliest).await.expect("sought");
    assert_eq!(read(&mut consumer, 3).await, expected(0, 50..53));
}

#[tokio::test]
async fn an_offset_out_of_range_moves_as_the_settings_say() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 300).await;
    cluster.state().partition("t", 0).log_start = 50;
    let config = ConsumerConfig {
        offset_reset: OffsetReset::Earliest,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).expect("good settings");
    consumer
        .assign(vec![("t", 0, StartAt::Offset(10))])
        .await
        .expect("assigned");
    assert_eq!(read(&mut consumer, 3).await, expected(0, 50..53));
}

/// Consumes with a reset to the end: the reset is all that comes of the partition, and the end counts as reached.
async fn resets_to_the_end(log_start: i64, offset_reset: OffsetReset) -> (Consumer, EndOffsets, Cluster) {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 300).await;
    cluster.state().partition("t", 0).log_start = log_start;
    let config = ConsumerConfig {
        offset_reset,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).expect("good settings");
    let start = vec![("t", 0, StartAt::Offset(10))];
    consumer.assign(start).await.expect("assigned");
    let ends = consumer.end_offsets().await.expect("listed");
    assert!(!consumer.reached(&ends));
    (consumer, ends, cluster)
}

#[tokio::test]
async fn who_reads_up_to_an_end_hears_of_a_reset_to_it() {
    for (log_start, policy) in [(300, OffsetReset::Earliest), (50, OffsetReset::Latest)] {
        let (mut consumer, ends, _cluster) = resets_to_the_end(log_start, policy).await;
        while !consumer.reached(&ends) {
            let batch = timeout(Duration::from_secs(20), consumer.next_batch()).await;
            let batch = batch.unwrap_or_else(|_| panic!("{policy:?}: the reset is not told"));
            assert!(batch.expect("no error").is_empty(), "{policy:?}");
        }
        assert_eq!(consumer.position("t", 0), Some(300));

        let (mut consumer, ends, _cluster) = resets_to_the_end(log_start, policy).await;
        while !consumer.reached(&ends) {
            let raw = timeout(Duration::from_secs(20), consumer.next_raw()).await;
            let raw = raw.unwrap_or_else(|_| panic!("{policy:?}: the reset is not told"));
            let raw = raw.expect("no error");
            assert_eq!((raw.records(), raw.next_offset), (0, 300), "{policy:?}");
        }
        assert_eq!(consumer.position("t", 0), Some(300));
    }
}

/// Appends a record as a producer would.
fn a_record_comes(partition: &mut Partition) {
    let mut batch = BatchBuilder::new(Codec::None);
    let value = partition.high_watermark().to_string();
    let headers: [(&str, Option<&[u8]>); 0] = [];
    batch
        .append(1, None, Some(value.as_bytes()), headers)
        .expect("it is small");
    partition.append(&batch.build()).expect("a good batch");
}

#[tokio::test]
async fn what_comes_while_a_time_is_looked_up_is_not_skipped() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    cluster.state().after_list = Some(a_record_comes);
    // No record is that late.
    let late = vec![("t", 0, StartAt::Timestamp(i64::MAX))];
    consumer.assign(late).await.expect("assigned");
    cluster.state().after_list = None;
    let end = cluster.state().partition("t", 0).high_watermark() as u32;
    assert!(end > 11, "records came between the calls");
    let first = read(&mut consumer, 1).await;
    assert_eq!(
        first,
        expected(0, 10..11),
        "it came after the consumer had asked where the log ends"
    );
}

#[tokio::test]
async fn topics_are_assigned_as_a_whole_or_not_at_all() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    for topic in ["gone", "other"] {
        cluster.create_topic(topic, 1);
        client.topic(topic).await.expect("it is there");
    }
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    // The client hears that one topic is gone while it looks up where the other one ends.
    cluster.delete_topic("gone");
    let not_ready = Error::definite(Reason::NotReady);
    cluster.state().list_faults.push_back(not_ready);
    let topics = vec![("gone", StartAt::Offset(0)), ("other", StartAt::Latest)];
    let positions = match consumer.assign_topics(topics).await {
        Ok(()) => ["gone", "other"].map(|topic| consumer.position(topic, 0)),
        Err(_) => ["t"; 2].map(|topic| consumer.position(topic, 0)),
    };
    assert_eq!(positions, [Some(0); 2]);
}

#[tokio::test]
async fn what_is_fetched_ahead_is_bounded() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let producer = client
        .producer(ProducerConfig {
            batch_bytes: 1024,
            ..ProducerConfig::default()
        })
        .expect("good settings");
    for delivered in join_all(send(&producer, 0, 0..20_000).await).await {
        delivered.expect("delivered");
    }
    let config = ConsumerConfig {
        prefetch_bytes: 64 * 1024,
        max_partition_bytes: 4096,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    let mut all = read(&mut consumer, 1).await;
    // That nothing more is fetched has no moment at which it is true: this is the time that it would need to be false.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ahead = cluster.state().fetched_bytes;
    assert!(
        ahead <= 64 * 1024 + 2 * 4096,
        "{ahead} bytes were fetched while one record was read"
    );
    all.extend(read(&mut consumer, 19_999).await);
    assert_eq!(all, expected(0, 0..20_000));
}

#[tokio::test]
async fn batches_come_whole_and_raw() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 300).await;
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer
        .assign(vec![("t", 0, StartAt::Offset(5))])
        .await
        .expect("assigned");
    let mut records = 0;
    while consumer.position("t", 0) != Some(300) {
        let raw = consumer.next_raw().await.expect("batches");
        records += raw.records();
        assert!(BatchIter::new(raw.batches).all(|batch| batch.is_ok()));
    }
    assert_eq!(records, 295);
    consumer.seek("t", 0, StartAt::Offset(5)).await.expect("sought");
    let mut values = Vec::new();
    while values.len() < 295 {
        let batch = consumer.next_batch().await.expect("records");
        assert_eq!(
            consumer.position("t", 0),
            Some(batch.last().expect("never empty").offset + 1)
        );
        values.extend(
            batch
                .into_iter()
                .map(|record| String::from_utf8(record.value.expect("a value").to_vec()).expect("text")),
        );
    }
    assert_eq!(values, numbers(5..300));
}

#[tokio::test]
async fn a_damaged_batch_stops_its_partition() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 300).await;
    let damaged_at = {
        let mut state = cluster.state();
        let batches = &mut state.partition("t", 0).batches;
        let mut bytes = batches[1].to_vec();
        *bytes.last_mut().expect("not empty") ^= 1;
        batches[1] = bytes.into();
        jangada_types::BatchHeader::parse(&batches[1])
            .expect("a header")
            .base_offset
    };
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    read(&mut consumer, damaged_at as usize).await;
    let error = consumer.next().await.expect_err("damaged");
    assert!(
        matches!(error, ClientError::Corrupt { offset, .. } if offset == damaged_at),
        "{error}"
    );
    assert_eq!(consumer.position("t", 0), Some(damaged_at));
    assert!(
        timeout(Duration::from_millis(200), consumer.next()).await.is_err(),
        "nothing behind it"
    );
}

/// Damages a batch's last byte; returns its first offset and the one after its last.
pub fn damage(cluster: &Cluster, batch: usize) -> (i64, i64) {
    let mut state = cluster.state();
    let batches = &mut state.partition("t", 0).batches;
    let mut bytes = batches[batch].to_vec();
    *bytes.last_mut().expect("not empty") ^= 1;
    batches[batch] = bytes.into();
    let header = jangada_types::BatchHeader::parse(&batches[batch]).expect("a header");
    (header.base_offset, header.base_offset + i64::from(header.record_count))
}

#[tokio::test]
async fn damaged_batches_are_skipped_told_and_counted_when_that_is_wanted() {
    let cluster = Cluster::start(1);
    filled(&cluster, 1, 300).await;
    let last = cluster.state().partition("t", 0).batches.len() - 1;
    assert!(last > 2, "there are sound ones between");
    let damaged = [damage(&cluster, 1), damage(&cluster, last)];
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut config = cluster.config();
    let tell = told.clone();
    config.on_notice = OnNotice::new(move |notice| {
        if let Notice::BatchSkipped {
            offset,
            next_offset,
            cause,
            ..
        } = notice
        {
            assert!(cause.contains("CRC"), "{cause}");
            tell.lock().expect("no panic").push((*offset, *next_offset));
        }
    });
    let client = Client::connect(config).await.expect("it answers");
    let config = ConsumerConfig {
        on_bad_batch: OnBadBatch::Skip,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    let is_damaged = |offset: i64| damaged.iter().any(|(first, end)| (*first..*end).contains(&offset));
    let sound: Vec<i64> = (0..300).filter(|offset| !is_damaged(*offset)).collect();
    let records = read(&mut consumer, sound.len()).await;
    assert_eq!(records.iter().map(|record| record.1).collect::<Vec<_>>(), sound);
    // The last one has nothing behind it.
    let next = timeout(Duration::from_millis(500), consumer.next()).await;
    assert!(next.is_err(), "{next:?}");
    assert_eq!(consumer.position("t", 0), Some(300));
    assert_eq!(*told.lock().expect("no panic"), damaged);
    let skipped = consumer.skipped();
    assert_eq!((skipped.batches, skipped.records), (2, 300 - sound.len() as u64));
}

#[tokio::test]
async fn bad_assignments_are_refused() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 1).await;
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    let twice = vec![("t", 0, StartAt::Earliest), ("t", 0, StartAt::Latest)];
    assert!(matches!(consumer.assign(twice).await, Err(ClientError::Config(_))));
    let missing = vec![("t", 1, StartAt::Earliest)];
    assert!(matches!(
        consumer.assign(missing).await,
        Err(ClientError::UnknownPartition { .. })
    ));
    assert!(matches!(
        consumer.seek("t", 0, StartAt::Earliest).await,
        Err(ClientError::Config(_))
    ));
}

#[tokio::test]
async fn a_deleted_topic_ends_its_reading() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    read(&mut consumer, 10).await;
    cluster.delete_topic("t");
    let error = consumer.next().await.expect_err("it is gone");
    assert!(matches!(error, ClientError::UnknownTopic { .. }), "{error}");
}

#[tokio::test]
async fn a_range_that_cannot_be_found_out_is_asked_for_again() {
    let cluster = Cluster::start(1);
    filled(&cluster, 1, 10).await;
    let mut config = cluster.config();
    config.retry_timeout = Duration::from_millis(300);
    let client = Client::connect(config).await.expect("the broker answers");
    {
        let mut state = cluster.state();
        state.partition("t", 0).tells_bounds = false;
        let not_ready = Error::definite(Reason::NotReady);
        state.list_faults.extend(vec![not_ready; 1000]);
    }
    let config = ConsumerConfig {
        offset_reset: OffsetReset::Earliest,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).expect("good settings");
    consumer
        .assign(vec![("t", 0, StartAt::Offset(99))])
        .await
        .expect("assigned");
    let next = timeout(Duration::from_secs(20), consumer.next()).await.expect("soon");
    let error = next.expect_err("nobody says what there is");
    assert!(error.is_retryable(), "{error}");
    cluster.state().list_faults.clear();
    assert_eq!(read(&mut consumer, 10).await, expected(0, 0..10));
}

#[tokio::test]
async fn well_packed_batches_are_unpacked_as_they_are_handed_out() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    cluster.limit_batches("t", 8 << 20);
    let client = cluster.client().await;
    let config = ProducerConfig {
        batch_bytes: 8 << 20,
        compression: Codec::Zstd,
        linger: Duration::from_secs(5),
        ..ProducerConfig::default()
    };
    let producer = client.producer(config).expect("good settings");
    let zeros = vec![0; 1_000_000];
    for _ in 0..80 {
        let record = ProducerRecord::new("t").with_partition(0).with_value(zeros.clone());
        drop(producer.send(record).await.expect("taken"));
    }
    producer.flush().await;
    let batches = cluster.state().partition("t", 0).batches.clone();
    let bytes = batches.iter().map(|batch| batch.len()).sum::<usize>();
    assert!(batches.len() >= 10 && bytes < 100_000, "one response has them all");
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    let mut read = 0;
    while read < 80 {
        let next = timeout(Duration::from_secs(20), consumer.next_batch()).await;
        let records = next.expect("soon").expect("records");
        assert!(records.len() <= 8, "{} records of 1 MB at once", records.len());
        read += records.len();
        assert_eq!(consumer.position("t", 0), Some(read as i64));
    }
}
