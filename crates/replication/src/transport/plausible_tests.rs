//! What cannot be true is refused, and nothing that a peer can send stops a group.

use std::sync::Arc;

use jangada_proto::internal as proto;
use jangada_proto::internal::message::Body;
use jangada_proto::internal::{AppendEntries, Entry, Frame, GroupLeader, LeaderAnnouncement, Message, TransferLeader};
use jangada_storage::Starts;
use jangada_types::{GroupId, Incarnation};
use prost::Message as _;

use super::*;
use crate::host_tests::{Journal, TIMEOUT, open_store};
use crate::raft_types::log_id;
use crate::registry::Registry;
use crate::snapshot::chunks::Stored;
use crate::transport::inbound::serve_call;
use crate::transport::snapshots::install;
use crate::{Group, Identity, Timing, codec, wire};

const GROUP: GroupId = GroupId(7);
/// Messages of one run, and parts of them that are cut or flipped.
const MESSAGES: usize = 4000;

/// A generator that gives the same numbers in each run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 0
    }

    /// Mostly small; now and then at an edge.
    fn number(&mut self) -> u64 {
        const EDGES: [u64; 10] = [
            0,
            1,
            TERMS_MISSED_MAX,
            TERM_MAX,
            TERM_MAX + 1,
            INDEX_MAX,
            INDEX_MAX + 1,
            u64::MAX / 2,
            u64::MAX - 1,
            u64::MAX,
        ];
        match self.below(5) {
            0 => EDGES[usize::try_from(self.below(10)).unwrap()],
            _ => self.below(6),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.below(40);
        (0..len).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }

    fn vote(&mut self) -> proto::Vote {
        proto::Vote {
            term: self.number(),
            broker_id: if self.below(8) == 0 { 1 } else { 2 },
            incarnation: u32::try_from(self.below(3)).unwrap(),
            committed: self.below(4) != 0,
        }
    }

    fn log_id(&mut self) -> Option<proto::LogId> {
        let (term, index) = (self.number(), self.number());
        (self.below(4) != 0).then_some(proto::LogId { term, index })
    }

    fn entry(&mut self, index: u64) -> Entry {
        let index = if self.below(8) == 0 { self.number() } else { index };
        let (head, body) = match self.below(6) {
            0 => (vec![1, 0], Vec::new()),
            1 => (vec![1, 1], self.bytes()),
            2 => (vec![1, 1, 9], self.bytes()),
            3 => (vec![1, 2], membership_bytes(self)),
            4 => (vec![1, 2], self.bytes()),
            _ => (self.bytes(), self.bytes()),
        };
        Entry {
            term: self.number(),
            index,
            head: head.into(),
            body: body.into(),
        }
    }

    fn append(&mut self) -> AppendEntries {
        let prev_log_id = self.log_id();
        let next = prev_log_id.map_or(0, |id| id.index.wrapping_add(1));
        let count = self.below(4);
        AppendEntries {
            vote: (self.below(20) != 0).then(|| self.vote()),
            prev_log_id,
            leader_commit: self.log_id(),
            entries: (0..count).map(|at| self.entry(next.wrapping_add(at))).collect(),
        }
    }

    fn body(&mut self) -> Body {
        let request = |numbers: &mut Self| proto::VoteRequest {
            vote: Some(numbers.vote()),
            last_log_id: numbers.log_id(),
            leadership_transfer: numbers.flip(),
        };
        match self.below(8) {
            0 => Body::Vote(request(self)),
            1 => Body::PreVote(request(self)),
            2 => Body::TransferLeader(TransferLeader {
                from_leader: Some(self.vote()),
                to_broker_id: 1,
                to_incarnation: 1,
                last_log_id: self.log_id(),
            }),
            3 => Body::Leaders(LeaderAnnouncement {
                leaders: vec![GroupLeader {
                    group_id: self.number(),
                    term: self.number(),
                    leading: self.flip(),
                }],
                complete: self.flip(),
                wall_ms: None,
                disk_low: self.flip(),
                unfit_group_ids: vec![self.number()],
            }),
            _ => Body::Append(self.append()),
        }
    }
}

/// Members that are sound, or nearly.
fn membership_bytes(numbers: &mut Numbers) -> Vec<u8> {
    let replica = |numbers: &mut Numbers| {
        let [broker, incarnation] = [numbers.below(4), numbers.below(2)].map(|number| u32::try_from(number).unwrap());
        [broker.to_be_bytes(), incarnation.to_be_bytes()].concat()
    };
    let configs = numbers.below(4);
    let mut bytes = vec![1, u8::try_from(configs).unwrap()];
    for _ in 0..configs + 1 {
        let count = numbers.below(4);
        bytes.extend(u16::try_from(count).unwrap().to_be_bytes());
        (0..count).for_each(|_| bytes.extend(replica(numbers)));
    }
    bytes
}

async fn open() -> (Arc<Registry>, Group) {
    let store = open_store();
    let identity = Identity {
        cluster_id: "tests".into(),
        broker: BrokerId::from(1),
        incarnation: Incarnation::from(1),
    };
    let timing = Timing {
        heartbeat_ms: 100,
        election_timeout_min_ms: 300,
        election_timeout_max_ms: 600,
    };
    let registry = Registry::start(
        identity,
        store,
        timing,
        Starts::default(),
        crate::transport::dialer::Dialer::new(jangada_env::Network::System),
        &jangada_env::Env::system(),
    )
    .unwrap();
    let group = registry.open(GROUP, Box::new(Journal::new(1 << 20, 16))).await.unwrap();
    (registry, group)
}

fn message(body: Body) -> Message {
    Message {
        group_id: GROUP.get(),
        to_incarnation: 1,
        call_id: 1,
        body: Some(body),
    }
}

fn peer() -> BrokerId {
    BrokerId::from(2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_peer_sends_stops_a_group() {
    let (registry, group) = open().await;
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for at in 0..MESSAGES {
        let sent = message(numbers.body());
        // Some as they are, some with a bit flipped or an end cut off, as far as they can still be read.
        let sent = match numbers.below(3) {
            0 => {
                let frame = Frame {
                    messages: vec![sent],
                    ..Frame::default()
                };
                let mut bytes = frame.encode_to_vec();
                let place = usize::try_from(numbers.below(bytes.len() as u64)).unwrap();
                match numbers.flip() {
                    true => bytes[place] ^= 1 << numbers.below(8),
                    false => bytes.truncate(place),
                }
                let read = Frame::decode(&bytes[..])
                    .ok()
                    .and_then(|frame| frame.messages.into_iter().next());
                let Some(read) = read else { continue };
                Message {
                    group_id: GROUP.get(),
                    to_incarnation: 1,
                    ..read
                }
            }
            _ => sent,
        };
        let told = format!("{sent:?}");
        let served = tokio::time::timeout(Duration::from_secs(5), serve_call(registry.clone(), peer(), sent)).await;
        assert!(served.is_ok(), "message {at} is never answered: {told}");
        assert!(!group.status().stopped, "message {at} stopped the group: {told}");
        if at % 16 == 0 {
            snapshot(&registry, &mut numbers).await;
            assert!(
                !group.status().stopped,
                "a snapshot after message {at} stopped the group"
            );
        }
    }
    let refused: Vec<_> = Cause::ALL
        .map(|cause| (cause.name(), registry.rejections().get(cause)))
        .into();
    for cause in [Cause::Sender, Cause::Term, Cause::Log, Cause::Command, Cause::Malformed] {
        assert!(registry.rejections().get(cause) > 0, "{refused:?}");
    }
    assert!(group.status().term <= TERM_MAX, "{:?}", group.status());
    registry.shutdown().await;
}

/// Sends a snapshot with such numbers.
async fn snapshot(registry: &Arc<Registry>, numbers: &mut Numbers) {
    let hosted = registry.hosted(GROUP, Incarnation::from(1)).unwrap();
    let (Ok(vote), Ok(members)) = (
        wire::vote_from(Some(numbers.vote())),
        codec::decode_membership(&membership_bytes(numbers)),
    ) else {
        return;
    };
    let ids = [numbers.log_id(), numbers.log_id()].map(|id| id.map(wire::log_id_from));
    let meta = SnapshotMeta {
        last_log_id: ids[0],
        last_membership: crate::raft_types::StoredMembership::new(ids[1], members),
    };
    let state = Stored::Row(numbers.bytes().into());
    let _ = install(&hosted, peer(), vote, meta, state).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_outlives_the_largest_term_and_is_led_by_who_tells_the_truth() {
    let (registry, group) = open().await;
    let vote = |term, committed| proto::Vote {
        term,
        broker_id: 2,
        incarnation: 1,
        committed,
    };
    for term in [u64::MAX, TERM_MAX, TERM_MAX + 1] {
        let request = proto::VoteRequest {
            vote: Some(vote(term, false)),
            last_log_id: Some(proto::LogId { term, index: 5 }),
            leadership_transfer: true,
        };
        let heartbeat = AppendEntries {
            vote: Some(vote(term, true)),
            ..AppendEntries::default()
        };
        for body in [Body::Vote(request), Body::PreVote(request), Body::Append(heartbeat)] {
            let answer = serve_call(registry.clone(), peer(), message(body)).await.unwrap();
            let Some(Body::Refused(refused)) = answer.body else {
                panic!("term {term} is believed: {answer:?}");
            };
            assert!(refused.reason.contains("believes up to"), "{refused:?}");
        }
    }
    let honest = AppendEntries {
        vote: Some(vote(3, true)),
        ..AppendEntries::default()
    };
    let answer = serve_call(registry.clone(), peer(), message(Body::Append(honest)))
        .await
        .unwrap();
    assert!(matches!(answer.body, Some(Body::AppendResult(_))), "{answer:?}");
    let mut status = group.watch();
    let followed = status.wait_for(|status| status.term == 3);
    drop(tokio::time::timeout(TIMEOUT, followed).await.unwrap().unwrap());
    registry.shutdown().await;
}

#[test]
fn a_replica_believes_what_it_can_have_missed_and_a_little_more_with_time() {
    let horizon = Horizon::new(100, false);
    assert!(horizon.term(100 + TERMS_MISSED_MAX).is_ok());
    assert!(horizon.term(100 + TERMS_MISSED_MAX + 100 * TERMS_PER_SECOND).is_err());
    let year = Duration::from_secs(365 * 86_400);
    assert_eq!(
        horizon.after(year),
        100 + TERMS_MISSED_MAX + (365 * 86_400 + 1) * TERMS_PER_SECOND
    );
    assert_eq!(horizon.after(year * 100), TERM_MAX, "a term is a leader epoch");
    assert!(
        Horizon::new(0, true).term(TERMS_BEFORE_NEW_REPLICA_MAX).is_ok(),
        "the group may be old"
    );
    assert!(Horizon::new(0, true).term(u64::MAX).is_err());
}

#[test]
fn an_answer_says_nothing_that_was_not_asked() {
    let horizon = Horizon::new(1, false);
    let (before, last) = (Some(log_id(1, 4)), Some(log_id(1, 9)));
    let asked = Asked { before, last };
    let judge = |answer: AppendResult| append_answer(&horizon, asked, &answer);
    for matched in [log_id(1, 4), log_id(1, 7), log_id(1, 9)] {
        assert_eq!(judge(Ok(Some(matched))), Ok(()));
    }
    assert_eq!(judge(Err(StreamAppendError::Conflict(log_id(1, 4)))), Ok(()));
    for wrong in [
        Ok(Some(log_id(1, 10))),
        Ok(Some(log_id(u64::MAX, u64::MAX))),
        Ok(None),
        Err(StreamAppendError::Conflict(log_id(1, 3))),
        Err(StreamAppendError::Conflict(log_id(1, u64::MAX))),
    ] {
        assert!(judge(wrong.clone()).is_err(), "{wrong:?}");
    }
}
