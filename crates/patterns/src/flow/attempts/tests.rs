//! Attempts at records without a log: how often, by which handler, and what may be committed then. The clock is paused.

use std::cell::RefCell;

use jangada_client::{ClientError, TopicId, TopicPartition};

use super::super::breaker::BreakerConfig;
use super::*;

fn partition() -> TopicPartition {
    TopicPartition {
        topic: "t".into(),
        topic_id: TopicId([1; 16]),
        partition: 0,
    }
}

/// Members that own a partition, of which records with these keys were taken, with offsets from 0 on.
fn members(keys: &[&'static str]) -> Members {
    let members = Members::default();
    members.work().progress.came(&partition());
    for (offset, key) in keys.iter().enumerate() {
        let is_owned = members.push(ConsumedRecord {
            topic: "t".into(),
            partition: 0,
            offset: offset as i64,
            leader_epoch: None,
            timestamp_ms: 0,
            key: (!key.is_empty()).then(|| (*key).into()),
            value: None,
            headers: Vec::new(),
        });
        assert!(is_owned);
    }
    members
}

/// What may be committed now.
fn committable(members: &Members) -> Vec<i64> {
    let commits = members.work().progress.to_commit_of_staying();
    commits.iter().map(|commit| commit.offset).collect()
}

fn failure() -> Failure {
    Failure::again(ClientError::Closed)
}

/// Works on the next record, with a handler that is told which attempt it is. Returns how it ended, and the number of attempts.
async fn work(attempts: &Attempts<'_>, handler: impl Fn(u32) -> Result<(), Failure>) -> (Ended, u32) {
    let (lane, taken) = attempts.members.begin().expect("one may begin");
    let made = RefCell::new(0);
    let handle = |_: Arc<ConsumedRecord>| {
        *made.borrow_mut() += 1;
        std::future::ready(handler(*made.borrow()))
    };
    let ended = attempts.work(lane, taken, &handle).await;
    (ended, made.into_inner())
}

#[tokio::test(start_paused = true)]
async fn a_record_is_tried_as_often_as_it_may_and_nothing_behind_it_is_committed() {
    let (config, env) = (FlowConfig::new("g", ["t"]), Env::system());
    let members = members(&["a", "b"]);
    let attempts = Attempts::new(&config, &members, &env);
    let (ended, made) = work(&attempts, |_| Err(failure())).await;
    assert!(matches!(
        ended,
        Ended::Failed(PatternError::Handler { attempts: 5, .. })
    ));
    assert_eq!((made, attempts.failed()), (5, 5));
    let (ended, made) = work(&attempts, |attempt| if attempt < 5 { Err(failure()) } else { Ok(()) }).await;
    assert!(matches!(ended, Ended::Handled) && made == 5);
    assert_eq!(committable(&members), [0], "the first one is not finished");
}

#[tokio::test(start_paused = true)]
async fn what_no_attempt_mends_is_tried_once() {
    let (config, env) = (FlowConfig::new("g", ["t"]), Env::system());
    let members = members(&["a"]);
    let attempts = Attempts::new(&config, &members, &env);
    let (ended, made) = work(&attempts, |_| Err(Failure::give_up("no order"))).await;
    assert!(matches!(ended, Ended::Failed(PatternError::Handler { .. })) && made == 1);
}

#[tokio::test(start_paused = true)]
async fn what_fails_as_everything_fails_is_not_the_fault_of_the_record() {
    let mut config = FlowConfig::new("g", ["t"]);
    config.breaker = Some(BreakerConfig {
        failures: 2,
        open_for: Duration::from_secs(1),
    });
    config.attempts_max = 3;
    let env = Env::system();
    let members = members(&["a"]);
    let attempts = Attempts::new(&config, &members, &env);
    // Two attempts open the breaker, and then one probes each second.
    let begun = Instant::now();
    let (ended, _) = work(&attempts, |attempt| if attempt < 40 { Err(failure()) } else { Ok(()) }).await;
    assert!(matches!(ended, Ended::Handled) && !attempts.is_broken());
    assert!(
        begun.elapsed() >= Duration::from_secs(38),
        "one probe at a time: {:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_record_of_a_partition_that_is_gone_is_left_and_one_of_a_flow_that_ends() {
    let (config, env) = (FlowConfig::new("g", ["t"]), Env::system());
    let members = members(&["a", "b"]);
    let attempts = Attempts::new(&config, &members, &env);
    let (ended, made) = work(&attempts, |_| {
        attempts.stop();
        Err(failure())
    })
    .await;
    assert!(matches!(ended, Ended::Left) && made == 1);
    let again = Attempts::new(&config, &members, &env);
    let (ended, made) = work(&again, |_| {
        members.work().progress.gone(&[partition()]);
        Err(failure())
    })
    .await;
    assert!(matches!(ended, Ended::Left) && made == 1);
    assert_eq!(committable(&members), [] as [i64; 0]);
}

#[tokio::test]
async fn records_of_one_key_begin_one_after_the_other_and_those_without_at_once() {
    let members = members(&["a", "a", "", "", "b"]);
    let mut begun = Vec::new();
    while let Some((lane, taken)) = members.begin() {
        begun.push((lane, taken));
    }
    let offsets: Vec<i64> = begun.iter().map(|(_, taken)| taken.ticket.offset).collect();
    assert_eq!(offsets, [0, 2, 3, 4]);
    let (lane, taken) = &begun[0];
    members.end(lane, &taken.ticket, true);
    let next = members.begin().map(|(_, taken)| taken.ticket.offset);
    assert_eq!((next, committable(&members)), (Some(1), vec![1]));
}
