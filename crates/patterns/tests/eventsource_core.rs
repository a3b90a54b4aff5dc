//! Streams of events in a world in which writers decide on old states, answers are lost and commands come again: each command is in the log
//! at most once, the state is that of the log, and a snapshot with what came after it is the same state.

use std::convert::Infallible;

use jangada_patterns::eventsource::{Aggregate, Commit, Decision, Stream};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// A purse, which is never overdrawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Purse {
    coins: u32,
    commands: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Changed {
    In(u32, u8),
    Out(u32, u8),
}

#[derive(Clone, Copy, Debug)]
struct Change {
    id: u8,
    coins: i8,
}

impl Aggregate for Purse {
    type Command = Change;
    type Event = Changed;
    type Refusal = Infallible;

    fn handle(&self, change: &Change) -> Result<Vec<Changed>, Infallible> {
        let coins = u32::from(change.coins.unsigned_abs());
        Ok(match change.coins {
            0 => Vec::new(),
            1.. => vec![Changed::In(coins, change.id)],
            // What is left, and the rest never: two events, which are there together.
            _ if coins > self.coins => Vec::new(),
            _ => vec![Changed::Out(1, change.id), Changed::Out(coins - 1, change.id)],
        })
    }

    fn apply(&mut self, event: &Changed) {
        match *event {
            Changed::In(coins, id) => {
                self.coins += coins;
                self.commands.push(id);
            }
            Changed::Out(coins, _) => self.coins = self.coins.checked_sub(coins).expect("it is overdrawn"),
        }
    }
}

/// What one writer does in one turn.
#[derive(Clone, Debug)]
struct Turn {
    writer: usize,
    change: (u8, i8),
    /// The writer has not read the newest commits.
    is_behind: bool,
    /// The answer to the append is lost, and the writer tries again.
    is_lost: bool,
    /// The writer dies and begins anew, from the log or from its snapshot.
    restarts: Option<bool>,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = (
        0_usize..3,
        (0_u8..40, -20_i8..20),
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.1, any::<bool>()),
    );
    let turn = turn.prop_map(|(writer, change, is_behind, is_lost, restarts)| Turn {
        writer,
        change,
        is_behind,
        is_lost,
        restarts,
    });
    prop::collection::vec(turn, 1..120)
}

const REMEMBER: usize = 1_000;

fn catch_up(stream: &mut Stream<Purse>, log: &[Commit<Changed>]) {
    for (offset, commit) in log.iter().enumerate() {
        stream.apply(offset as i64, commit, REMEMBER);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn each_command_is_in_the_log_at_most_once_and_the_state_is_the_log(turns in turns()) {
        let mut log: Vec<Commit<Changed>> = Vec::new();
        let mut writers: Vec<Stream<Purse>> = vec![Stream::default(); 3];
        for turn in turns {
            let stream = &mut writers[turn.writer];
            match turn.restarts {
                Some(true) => *stream = Stream::default(),
                Some(false) => {
                    let snapshot = serde_json::to_vec(stream).expect("it is JSON");
                    *stream = serde_json::from_slice(&snapshot).expect("it is read");
                }
                None => {}
            }
            if !turn.is_behind {
                catch_up(stream, &log);
            }
            let (id, coins) = turn.change;
            let mut is_lost = turn.is_lost;
            for attempt in 0.. {
                prop_assert!(attempt < 4, "it does not come to an end");
                let decision = stream.decide(&id.to_string(), &Change { id, coins }).expect("no refusals");
                let Decision::Append(expected, commit) = decision else { break };
                let last = log.len() as i64 - 1;
                if expected.unwrap_or(-1) != last {
                    catch_up(stream, &log);
                    continue;
                }
                log.push(commit.clone());
                if std::mem::take(&mut is_lost) {
                    catch_up(stream, &log);
                    continue;
                }
                stream.apply(last + 1, &commit, REMEMBER);
                break;
            }
        }
        let mut whole = Stream::default();
        catch_up(&mut whole, &log);
        for stream in &mut writers {
            catch_up(stream, &log);
            prop_assert_eq!(&*stream, &whole);
        }
        let mut ids: Vec<&str> = log.iter().map(|commit| &*commit.id).collect();
        ids.sort_unstable();
        let commits = ids.len();
        ids.dedup();
        prop_assert_eq!(ids.len(), commits, "a command is in the log twice");
    }

    #[test]
    fn a_snapshot_and_what_came_after_it_is_the_whole(
        changes in prop::collection::vec((0_u8..=255, 1_i8..20), 1..60),
        at in any::<prop::sample::Index>(),
    ) {
        let commits = changes.iter().enumerate().map(|(at, (id, coins))| Commit {
            id: format!("{at}"),
            events: vec![Changed::In(u32::from(coins.unsigned_abs()), *id)],
        });
        let log: Vec<Commit<Changed>> = commits.collect();
        let mut whole: Stream<Purse> = Stream::default();
        catch_up(&mut whole, &log);
        let mut part = Stream::default();
        catch_up(&mut part, &log[..at.index(log.len())]);
        let snapshot = serde_json::to_vec(&part).expect("it is JSON");
        let mut part: Stream<Purse> = serde_json::from_slice(&snapshot).expect("it is read");
        // The log is read from before the snapshot: what is in it is passed over.
        catch_up(&mut part, &log);
        prop_assert_eq!(part, whole);
    }
}

#[test]
fn ids_are_remembered_for_as_many_commits_as_asked() {
    let mut stream: Stream<Purse> = Stream::default();
    for offset in 0..5 {
        let commit = Commit {
            id: format!("c{offset}"),
            events: vec![Changed::In(1, 0)],
        };
        assert!(stream.apply(offset, &commit, 3));
        assert!(!stream.apply(offset, &commit, 3), "it is taken in once");
    }
    assert!(!stream.knows("c1") && stream.knows("c2") && stream.knows("c4"));
    assert!(!stream.knows(""), "no id is no id");
    assert_eq!((stream.last, stream.version, stream.state.coins), (Some(4), 5, 5));
}
