//! A relay over a cluster whose transactions are committed, aborted, or end without an answer, and over processes that die.

use std::collections::BTreeMap;
use std::sync::Mutex;

use futures::FutureExt as _;
use jangada_client::{ProducerRecord, Rejection};
use proptest::prelude::*;

use super::*;

/// Nothing in this world waits.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("it waits for nothing")
}

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Committed,
    /// It is committed or not, and the answer is lost.
    Unknown(bool),
    Aborted,
    TimedOut,
    Unavailable,
}

/// The database and the cluster, which outlive every relay.
#[derive(Default)]
struct World {
    rows: Mutex<BTreeMap<i64, OutboxRow>>,
    /// Rows whose transactions are committed, in their order.
    sent: Mutex<Vec<i64>>,
    position: Mutex<i64>,
    deletes_fail: Mutex<bool>,
}

impl World {
    fn commit(&self, rows: &[OutboxRow], up_to: i64) {
        self.sent.lock().unwrap().extend(rows.iter().map(|row| row.id));
        *self.position.lock().unwrap() = up_to;
    }
}

struct Database(Arc<World>);

impl OutboxRows for Database {
    async fn rows_after(&self, after: i64, most: RowsMax) -> Result<Vec<OutboxRow>, PatternError> {
        let rows = self.0.rows.lock().unwrap();
        let rows = rows.range(after + 1..).take(most.rows);
        Ok(rows.map(|(_, row)| row.clone()).collect())
    }

    async fn sent(&self, up_to: i64) -> Result<(), PatternError> {
        assert!(
            up_to <= *self.0.position.lock().unwrap(),
            "rows are deleted that are not sent"
        );
        if *self.0.deletes_fail.lock().unwrap() {
            let what = "the database did not answer".to_owned();
            return Err(PatternError::Late { what });
        }
        self.0.rows.lock().unwrap().retain(|id, _| *id > up_to);
        Ok(())
    }
}

struct Cluster {
    world: Arc<World>,
    /// What becomes of the next transaction.
    fate: Fate,
    /// The transaction whose outcome was not told, and how often asking for it fails.
    unresolved: Option<(TransactionOutcome, u32)>,
}

fn rejection() -> Arc<Rejection> {
    Arc::new(Rejection {
        context: "commit".to_owned(),
        // UNAVAILABLE, as gRPC numbers it.
        code: 14.into(),
        reason: None,
        message: "no answer".to_owned(),
        retry_delay: None,
        metadata: BTreeMap::new(),
    })
}

impl Sends for Cluster {
    async fn send(&mut self, rows: Vec<OutboxRow>, up_to: i64) -> Result<(), ClientError> {
        assert!(
            self.unresolved.is_none(),
            "the last transaction has not been found out about"
        );
        assert_eq!(
            rows.last().map(|row| row.id),
            Some(up_to),
            "the position is that of the last row"
        );
        match self.fate {
            Fate::Committed => {
                self.world.commit(&rows, up_to);
                Ok(())
            }
            Fate::Unknown(is_committed) => {
                let outcome = match is_committed {
                    true => TransactionOutcome::Committed,
                    false => TransactionOutcome::Aborted,
                };
                if is_committed {
                    self.world.commit(&rows, up_to);
                }
                self.unresolved = Some((outcome, 2));
                Err(ClientError::TransactionUnknown(rejection()))
            }
            Fate::Aborted => {
                let cause = Arc::new(ClientError::Unavailable(rejection()));
                Err(ClientError::TransactionAborted { cause })
            }
            Fate::TimedOut => Err(ClientError::TransactionTimedOut(rejection())),
            Fate::Unavailable => Err(ClientError::Unavailable(rejection())),
        }
    }

    async fn resolve(&mut self) -> Result<TransactionOutcome, ClientError> {
        match self.unresolved.take().expect("a transaction is not resolved") {
            (outcome, 0) => Ok(outcome),
            (outcome, fails) => {
                self.unresolved = Some((outcome, fails - 1));
                Err(ClientError::Unavailable(rejection()))
            }
        }
    }
}

fn course(world: &Arc<World>, rows_max: usize) -> Course<Database, Cluster> {
    let cluster = Cluster {
        world: world.clone(),
        fate: Fate::Committed,
        unresolved: None,
    };
    let position = *world.position.lock().unwrap();
    let most = RowsMax {
        rows: rows_max,
        bytes: usize::MAX,
    };
    Course::new("shop".into(), (Database(world.clone()), most), cluster, position)
}

fn put(world: &World, id: i64) {
    let record = ProducerRecord::new("t").with_value(id.to_string());
    world.rows.lock().unwrap().insert(id, OutboxRow { id, record });
}

/// One step of the world: rows that come, with the gaps that transactions leave that are rolled back, and what becomes of the next
/// transaction of the cluster.
#[derive(Clone, Debug)]
struct Step {
    gaps: Vec<i64>,
    fate: Fate,
    dies: bool,
    deletes_fail: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fate = prop_oneof![
        4 => Just(Fate::Committed),
        2 => any::<bool>().prop_map(Fate::Unknown),
        1 => Just(Fate::Aborted),
        1 => Just(Fate::TimedOut),
        1 => Just(Fate::Unavailable),
    ];
    let step = (
        prop::collection::vec(1_i64..3, 0..4),
        fate,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    );
    let step = step.prop_map(|(gaps, fate, dies, deletes_fail)| Step {
        gaps,
        fate,
        dies,
        deletes_fail,
    });
    prop::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn each_row_is_sent_once_in_order_whatever_becomes_of_transactions_and_processes(
        steps in steps(),
        rows_max in 1_usize..5,
    ) {
        let world = Arc::new(World::default());
        let (mut put_ids, mut last) = (Vec::new(), 0);
        let mut course_now = course(&world, rows_max);
        for Step { gaps, fate, dies, deletes_fail } in steps {
            for gap in gaps {
                last += gap;
                put(&world, last);
                put_ids.push(last);
            }
            *world.deletes_fail.lock().unwrap() = deletes_fail;
            course_now.sender.fate = fate;
            if let Err(error) = block_on(course_now.relay_some()) {
                prop_assert!(error.is_retryable(), "it would have ended: {}", error);
            }
            if dies {
                course_now = course(&world, rows_max);
            }
            let sent = world.sent.lock().unwrap().clone();
            prop_assert_eq!(&sent, &put_ids[..sent.len()]);
            prop_assert!(course_now.position() <= *world.position.lock().unwrap());
        }
        *world.deletes_fail.lock().unwrap() = false;
        course_now.sender.fate = Fate::Committed;
        for _ in 0..put_ids.len() + 4 {
            // What is not resolved is asked for again.
            let _ = block_on(course_now.relay_some());
        }
        prop_assert_eq!(&*world.sent.lock().unwrap(), &put_ids);
        put(&world, last + 1);
        prop_assert_eq!(block_on(course_now.relay_some()).expect("it is sent"), 1);
        prop_assert!(world.rows.lock().unwrap().is_empty(), "what is sent is deleted");
    }
}

#[test]
fn a_row_that_is_refused_ends_the_relay_and_what_passes_does_not() {
    assert!(is_final(&ClientError::Refused(rejection())));
    assert!(!is_final(&ClientError::Unavailable(rejection())));
}

#[test]
fn what_it_has_done_is_counted() {
    let world = Arc::new(World::default());
    (1..=3).for_each(|id| put(&world, id));
    let mut course = course(&world, 2);
    course.sender.fate = Fate::Aborted;
    assert_eq!(block_on(course.relay_some()).expect("it is aborted"), 0);
    course.sender.fate = Fate::Committed;
    assert_eq!(block_on(course.relay_some()).expect("it is sent"), 2);
    assert_eq!(block_on(course.relay_some()).expect("it is sent"), 1);
    assert_eq!(block_on(course.relay_some()).expect("nothing is there"), 0);
    let (rows, transactions, aborted) = (3, 2, 1);
    assert_eq!(
        course.relayed(),
        Relayed {
            rows,
            transactions,
            aborted
        }
    );
}
