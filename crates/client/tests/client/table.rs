//! Tables: the newest value of each key, followed.

use futures::StreamExt as _;
use jangada_client::{ClientError, ProducerConfig, ProducerRecord, Table, TableChange, TableOptions};

use crate::fake::Cluster;
use crate::group::soon;

fn row(key: &str, value: Option<&str>) -> ProducerRecord {
    let record = ProducerRecord::new("t").with_key(key.to_owned());
    match value {
        Some(value) => record.with_value(value.to_owned()),
        None => record,
    }
}

#[tokio::test]
async fn a_table_has_what_was_there_and_follows() {
    let cluster = Cluster::start(2);
    cluster.create_topic("t", 3);
    let client = cluster.client().await;
    let producer = client.producer(ProducerConfig::default()).expect("good settings");
    let write = async |key: &str, value: Option<&str>| {
        let delivery = producer.send(row(key, value)).await.expect("taken");
        delivery.await.expect("stored")
    };
    for (key, value) in [
        ("a", Some("1")),
        ("b", Some("2")),
        ("a", Some("3")),
        ("c", Some("4")),
        ("b", None),
    ] {
        write(key, value).await;
    }
    // One without a key is passed over.
    let plain = ProducerRecord::new("t").with_value("nothing");
    producer.send(plain).await.expect("taken").await.expect("stored");
    let table = soon(Table::open(&client, "t", TableOptions::default()))
        .await
        .expect("it is there");
    let text = |bytes: Option<bytes::Bytes>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"));
    assert_eq!(
        (text(table.get("a")), text(table.get("b"))),
        (Some("3".to_owned()), None)
    );
    let keys: Vec<_> = table.iter().map(|(key, _)| key).collect();
    assert_eq!((keys, table.len()), (vec!["a".into(), "c".into()], 2));

    let changes = table.changes();
    let written = write("b", Some("5")).await;
    let offset = written.offset.expect("acknowledged");
    soon(table.wait_for(written.partition, offset + 1))
        .await
        .expect("it reads on");
    assert_eq!(text(table.get("b")), Some("5".to_owned()));
    assert_eq!(table.position(written.partition), Some(offset + 1));
    write("a", None).await;
    let changes: Vec<TableChange> = soon(changes.take(2).collect()).await;
    let seen = changes
        .into_iter()
        .map(|change| (text(Some(change.key)), text(change.before), text(change.value)));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [(some("b"), None, some("5")), (some("a"), some("3"), None)]
    );
}

#[tokio::test]
async fn a_table_of_a_topic_that_is_gone_says_so_and_its_changes_end() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let table = soon(Table::open(&client, "t", TableOptions::default()))
        .await
        .expect("it is there");
    let changes = table.changes();
    cluster.delete_topic("t");
    let error = soon(table.wait_for(0, 1)).await.expect_err("there is no topic");
    assert!(matches!(error, ClientError::UnknownTopic { .. }), "{error}");
    assert_eq!(soon(changes.collect::<Vec<_>>()).await, []);
    assert_eq!(soon(table.changes().collect::<Vec<_>>()).await, []);
}
