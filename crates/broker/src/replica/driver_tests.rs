//! A tiny machine with a leader's side, run by the driver on a broker that is alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jangada_machine::{
    Due, DueOf, Effects, EncodedCommand, Leader, Machine, Now, RestoreError, Retention, Step, StepOf,
};
use jangada_replication::Publisher as _;
use jangada_types::{CodecError, GroupId, LogPosition, Reason, Rejection};

use super::{
    Driven, DrivenPublisher, Driver, DriverShared, Front, Hosted, Kind, Observer, ReplicaName, Replicas,
    SurroundingsCell, Timers,
};
use crate::clock_guard::ClockGuard;
use crate::error::RequestError;
use crate::pool::Pool;
use crate::testing::Alone;
use jangada_env::{Blocking, SystemClock};

const GROUP: GroupId = GroupId(7);
const TIMEOUT: Duration = Duration::from_secs(30);
const KIND: Kind = Kind {
    noun: "purse",
    not_ready: Reason::NotReady,
    replicas_min: 1,
    without_quorum: "nobody pays",
    is_vital: false,
};

/// A sum that commands add to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Purse {
    coins: u64,
}

impl Machine for Purse {
    type Command = u64;
    type Reply = u64;

    fn encode(command: u64) -> EncodedCommand {
        EncodedCommand::new(&[1], Bytes::copy_from_slice(&command.to_be_bytes()))
    }

    fn decode(command: EncodedCommand) -> Result<u64, CodecError> {
        let coins = <[u8; 8]>::try_from(&command.body()[..]).expect("only tests write it");
        Ok(u64::from_be_bytes(coins))
    }

    fn apply(&mut self, _: LogPosition, command: &u64, _: &mut Effects) -> u64 {
        self.coins += command;
        self.coins
    }

    fn snapshot(&self) -> Bytes {
        Bytes::copy_from_slice(&self.coins.to_be_bytes())
    }

    fn restore(snapshot: &Bytes) -> Result<Self, RestoreError> {
        let coins = <[u8; 8]>::try_from(&snapshot[..]).map_err(|error| RestoreError(error.to_string()))?;
        Ok(Self {
            coins: u64::from_be_bytes(coins),
        })
    }

    fn retention(&self) -> Retention {
        Retention::Compacted
    }
}

/// Pays wages whenever they are due, and puts coins in one by one.
struct Treasurer {
    wages: u64,
    due: Option<u64>,
    /// Commands that it was told of.
    told: u64,
}

/// Coins that are still to be put in.
struct Rest(u64);

/// So many coins meet damage when the first of them was put in.
const UNLUCKY: u64 = 13;

impl Treasurer {
    fn put(&self, coins: u64) -> StepOf<Self> {
        match coins {
            0 => Step::Done(Err(Rejection::new(Reason::InvalidRequest, "no coins"))),
            coins => Step::Propose {
                command: 1,
                pending: Rest(coins - 1),
            },
        }
    }
}

impl Leader for Treasurer {
    type Machine = Purse;
    type Pending = Rest;
    type Answer = u64;
    type Event = u64;
    /// How many coins are the wages.
    type Surroundings = u64;

    fn begin(_: &Purse, wages: &Arc<u64>, now: Now) -> Self {
        let due = (**wages > 0).then_some(now.monotonic_ms);
        Self {
            wages: **wages,
            due,
            told: 0,
        }
    }

    fn surroundings_changed(&mut self, _: &Purse, wages: &Arc<u64>, now: Now) {
        self.wages = **wages;
        self.due = Some(now.monotonic_ms + 20);
    }

    fn applied(&mut self, _: &Purse, _: &u64, _: &u64, _: &dyn Fn() -> Now) {
        self.told += 1;
    }

    fn resume(&mut self, _: &Purse, Rest(coins): Rest, reply: u64, _: Now) -> StepOf<Self> {
        match coins {
            0 => Step::Done(Ok(reply)),
            coins if coins + 1 == UNLUCKY => Step::Damaged("the purse has a hole".to_owned()),
            coins => self.put(coins),
        }
    }

    fn tick(&mut self, _: &Purse, now: Now) -> Vec<DueOf<Self>> {
        let due = self.due.take_if(|due| *due <= now.monotonic_ms);
        due.map(|_| Due::Propose(self.wages)).into_iter().collect()
    }

    fn next_deadline(&self) -> Option<u64> {
        self.due
    }

    fn take_events(&mut self) -> Vec<u64> {
        Vec::new()
    }

    fn events_of(_: &Purse, command: &u64) -> Vec<u64> {
        vec![*command]
    }

    fn had_effect(_: &u64) -> bool {
        true
    }
}

/// The coins that it was told of.
#[derive(Clone, Default)]
struct Ledger(Arc<AtomicU64>);

impl Observer<Treasurer> for Ledger {
    fn event(&self, _: &ReplicaName, coins: &u64) {
        self.0.fetch_add(*coins, Ordering::SeqCst);
    }
}

struct Treasury(Driver<Treasurer>);

impl Front for Treasury {
    fn tick(&self) {
        self.0.tick();
    }

    fn refresh_leadership(&self) {
        self.0.refresh_leadership();
    }
}

struct Game {
    alone: Alone,
    replicas: Arc<Replicas>,
    treasury: Arc<Treasury>,
    ledger: Ledger,
}

impl Game {
    async fn start(wages: u64) -> Self {
        let alone = Alone::start();
        let clock = ClockGuard::new(Arc::new(SystemClock), Duration::ZERO, Box::new(|_| Vec::new()));
        let timers = Arc::new(Timers::new(Arc::new(clock)));
        let ledger = Ledger::default();
        let shared = DriverShared {
            timers: timers.clone(),
            store: alone.store.clone(),
            read_pool: Pool::new(1, Blocking::Threads),
            observer: Box::new(ledger.clone()),
        };
        let replicas = Arc::new(Replicas::new(alone.registry.clone(), TIMEOUT));
        tokio::spawn(timers.run(replicas.clone()));
        let name = ReplicaName {
            topic: "kings".into(),
            index: None,
        };
        let wages = SurroundingsCell::new(wages);
        let driven = Driven::new((GROUP, name.clone()), wages, Arc::new(shared));
        let publisher = DrivenPublisher(driven.clone());
        let front = |hosted: Arc<Hosted>| Treasury(Driver::new(hosted, driven));
        let id = (GROUP, alone.registry.local_replica());
        let treasury = replicas.open(id, (&KIND, name), publisher.erased(), front).await;
        let group = alone.registry.group(GROUP).expect("it was opened");
        let votes = BTreeSet::from([alone.registry.local_replica()]);
        group.initialize(&votes).await.expect("it is new");
        let ready = || replicas.ready::<Treasury>(GROUP);
        replicas
            .when_ready(GROUP, &"the purse", ready)
            .await
            .expect("it elects itself");
        Self {
            replicas,
            treasury: treasury.expect("it is new"),
            ledger,
            alone,
        }
    }

    async fn put(&self, coins: u64) -> Result<Result<u64, Rejection>, RequestError> {
        self.treasury.0.decide((), |leader, _, _| leader.put(coins)).await
    }

    async fn holds(&self, coins: u64) {
        let hold = async {
            while self.treasury.0.read(|purse| purse.coins).await != Ok(coins) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let held = tokio::time::timeout(TIMEOUT, hold).await;
        held.unwrap_or_else(|_| panic!("it never held {coins} coins"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_fires_and_fires_again_when_the_surroundings_change() {
    let game = Game::start(100).await;
    game.holds(100).await;
    game.treasury.0.set_surroundings(11);
    game.holds(111).await;
    assert_eq!(game.ledger.0.load(Ordering::SeqCst), 111);
    game.alone.registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_goes_on_after_each_of_its_commands_and_lets_go_of_what_it_holds() {
    let game = Game::start(0).await;
    let held = Arc::new(());
    let driver = &game.treasury.0;
    let answer = driver.decide(held.clone(), |leader, _, _| leader.put(3)).await;
    assert_eq!(answer, Ok(Ok(3)));
    assert_eq!(Arc::strong_count(&held), 1);
    let refused = game.put(0).await.expect("it leads").expect_err("there are none");
    assert_eq!(refused.reason, Reason::InvalidRequest);
    let told = driver.decide((), |leader, _, _| Step::Done(Ok(leader.told))).await;
    assert_eq!(told, Ok(Ok(3)));
    assert_eq!(game.ledger.0.load(Ordering::SeqCst), 3);
    game.alone.registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_after_a_command_of_the_request_was_applied_has_had_an_effect_and_damage_is_reported() {
    let game = Game::start(0).await;
    let error = game.put(UNLUCKY).await.expect_err("it meets damage");
    assert_eq!(
        (error.reason, error.definite),
        (Reason::DataCorrupted, false),
        "{error}"
    );
    assert!(error.message.contains("the purse has a hole"), "{error}");
    let damage = game.alone.registry.store().damage().of(GROUP);
    assert!(damage.is_some_and(|what| what.contains("the purse has a hole")));
    game.holds(1).await;
    game.alone.registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_while_the_leadership_is_lost_is_answered() {
    let game = Game::start(0).await;
    let held = Arc::new(());
    let asked: Vec<_> = (0..50)
        .map(|_| {
            let (treasury, held) = (game.treasury.clone(), held.clone());
            tokio::spawn(async move { treasury.0.decide(held, |leader, _, _| leader.put(1_000_000)).await })
        })
        .collect();
    let under_way = async {
        while game.ledger.0.load(Ordering::SeqCst) < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, under_way)
        .await
        .expect("they are asked for");
    let mut status = game.alone.registry.group(GROUP).expect("it is open").watch();
    game.replicas.close(GROUP).await;
    game.alone.registry.close(GROUP).await;
    for asked in asked {
        let answer = tokio::time::timeout(TIMEOUT, asked)
            .await
            .expect("it is answered")
            .expect("no panic");
        let error = answer.expect_err("a million commands take longer");
        assert_eq!(error.reason, Reason::LeaderNotAvailable, "{error}");
        assert!(error.message.starts_with("purse kings: "), "{error}");
    }
    // The status follows Raft's end a moment later, or ends with it.
    let ended = status.wait_for(|status| !status.ready);
    let ended = tokio::time::timeout(TIMEOUT, ended).await;
    drop(ended.expect("its end is seen"));
    let error = game.put(1).await.expect_err("nobody leads it here");
    assert_eq!(
        (error.reason, error.definite),
        (Reason::LeaderNotAvailable, true),
        "{error}"
    );
    let let_go = async {
        while Arc::strong_count(&held) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, let_go)
        .await
        .expect("nothing is held for ever");
    game.alone.registry.shutdown().await;
}
