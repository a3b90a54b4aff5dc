//! The encoded form of a shard's state.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use jangada_types::frame::{CodecError, frame, malformed, message, topic_id, unframe_plain};
use jangada_types::planted::{self, Bug};
use jangada_types::replicated::Wire;
use jangada_types::{LeaderEpoch, Offset, ProducerId, TopicId};
use prost::Message as _;

use super::{WirePartitions, WireSpec, WireTopic};
use crate::image::{Epoch, Group, Holding, Image, Member};
use crate::partitions::TopicPartition;
use crate::size::{self, Size};
use crate::transaction::{Committed, Ended, EndedTransactions, PendingOffsets};

const WHAT: &str = "coordinator snapshot";

#[derive(Clone, PartialEq, prost::Message)]
struct WireImage {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(uint64, tag = "2")]
    topics_version: u64,
    #[prost(message, repeated, tag = "3")]
    groups: Vec<WireGroup>,
    /// Absent where no transaction has ended, as in a shard of a build that has none.
    #[prost(message, repeated, tag = "4")]
    ended: Vec<WireEnded>,
}

/// The end of a producer's last transaction.
#[derive(Clone, PartialEq, prost::Message)]
struct WireEnded {
    #[prost(int64, tag = "1")]
    producer_id: i64,
    #[prost(int32, tag = "2")]
    epoch: i32,
    #[prost(uint64, tag = "3")]
    seq: u64,
    #[prost(uint64, tag = "4")]
    index: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireGroup {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(uint32, tag = "3")]
    assignment_epoch: u32,
    #[prost(uint64, tag = "4")]
    changed_at: u64,
    #[prost(message, repeated, tag = "5")]
    members: Vec<WireMember>,
    #[prost(message, repeated, tag = "6")]
    topics: Vec<WireTopic>,
    #[prost(message, repeated, tag = "7")]
    offsets: Vec<WireOffsets>,
    #[prost(uint64, optional, tag = "8")]
    empty_since_ms: Option<u64>,
    #[prost(message, repeated, tag = "9")]
    pending: Vec<WirePending>,
}

/// The offsets that a transaction has staged.
#[derive(Clone, PartialEq, prost::Message)]
struct WirePending {
    #[prost(int64, tag = "1")]
    producer_id: i64,
    #[prost(int32, tag = "2")]
    epoch: i32,
    #[prost(uint64, tag = "3")]
    seq: u64,
    #[prost(uint64, tag = "4")]
    since_ms: u64,
    #[prost(message, repeated, tag = "5")]
    offsets: Vec<WireOffsets>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMember {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, required, tag = "2")]
    spec: WireSpec,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(uint32, tag = "4")]
    epoch: u32,
    #[prost(uint32, tag = "5")]
    previous_epoch: u32,
    #[prost(bool, tag = "6")]
    is_away: bool,
    #[prost(message, repeated, tag = "7")]
    holdings: Vec<WireHoldings>,
    #[prost(message, repeated, tag = "8")]
    target: Vec<WirePartitions>,
}

/// The partitions of one topic that a member holds; the lists are parallel.
#[derive(Clone, PartialEq, prost::Message)]
struct WireHoldings {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(uint32, repeated, tag = "2")]
    partitions: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    since: Vec<u32>,
    #[prost(bool, repeated, tag = "4")]
    is_revoking: Vec<bool>,
}

/// The offsets of one topic.
#[derive(Clone, PartialEq, prost::Message)]
struct WireOffsets {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    partitions: Vec<WireCommitted>,
    /// Like `WireTopic::first`, for a topic that is not read now.
    #[prost(uint32, optional, tag = "3")]
    first: Option<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCommitted {
    #[prost(uint32, tag = "1")]
    partition: u32,
    #[prost(int64, tag = "2")]
    offset: i64,
    #[prost(uint32, optional, tag = "3")]
    leader_epoch: Option<u32>,
    #[prost(string, tag = "4")]
    metadata: String,
    #[prost(uint64, tag = "5")]
    committed_at_ms: u64,
}

/// The decoded parts of a snapshot, before they are checked.
pub(crate) struct Parts {
    pub(crate) version: u64,
    pub(crate) topics_version: u64,
    pub(crate) groups: Vec<(Arc<str>, Group)>,
    pub(crate) ended: EndedTransactions,
}

fn holdings_to_wire(holdings: &[Holding]) -> Vec<WireHoldings> {
    holdings
        .chunk_by(|a, b| a.partition.topic == b.partition.topic)
        .map(|run| WireHoldings {
            topic: run[0].partition.topic.as_bytes().to_vec(),
            partitions: run.iter().map(|holding| holding.partition.partition.get()).collect(),
            since: run.iter().map(|holding| holding.since.get()).collect(),
            is_revoking: run.iter().map(|holding| holding.is_revoking).collect(),
        })
        .collect()
}

fn holdings_from_wire(wire: Vec<WireHoldings>) -> Result<Box<[Holding]>, CodecError> {
    let mut all = Vec::new();
    for run in wire {
        let topic = topic_id(WHAT, &run.topic)?;
        if run.partitions.len() != run.since.len() || run.partitions.len() != run.is_revoking.len() {
            return Err(malformed(WHAT, "holdings of unequal length"));
        }
        let fields = run.partitions.into_iter().zip(run.since).zip(run.is_revoking);
        all.extend(fields.map(|((partition, since), is_revoking)| Holding {
            partition: TopicPartition::new(topic, partition),
            since: Epoch(since),
            is_revoking,
        }));
    }
    Ok(all.into())
}

fn offsets_to_wire(offsets: &BTreeMap<TopicPartition, Committed>) -> Vec<WireOffsets> {
    let mut topics: Vec<(TopicId, WireOffsets)> = Vec::new();
    for (partition, committed) in offsets {
        if topics.last().is_none_or(|(topic, _)| *topic != partition.topic) {
            let topic = partition.topic.as_bytes().to_vec();
            let wire = WireOffsets {
                topic,
                partitions: Vec::new(),
                first: None,
            };
            topics.push((partition.topic, wire));
        }
        let (_, last) = topics.last_mut().expect("one was pushed");
        last.partitions.push(WireCommitted {
            partition: partition.partition.get(),
            offset: committed.offset.get(),
            leader_epoch: committed.leader_epoch.to_form(),
            metadata: committed.metadata.to_string(),
            committed_at_ms: committed.committed_at_ms,
        });
    }
    topics.into_iter().map(|(_, wire)| wire).collect()
}

fn offsets_from_wire(wire: Vec<WireOffsets>) -> Result<BTreeMap<TopicPartition, Committed>, CodecError> {
    let mut all = BTreeMap::new();
    for WireOffsets { topic, partitions, .. } in wire {
        let topic = topic_id(WHAT, &topic)?;
        for committed in partitions {
            let partition = TopicPartition::new(topic, committed.partition);
            let committed = Committed {
                offset: Offset(committed.offset),
                leader_epoch: committed.leader_epoch.map(LeaderEpoch),
                metadata: committed.metadata.into(),
                committed_at_ms: committed.committed_at_ms,
            };
            if all.insert(partition, committed).is_some() {
                return Err(malformed(WHAT, format!("two offsets of partition {partition}")));
            }
        }
    }
    Ok(all)
}

fn pending_to_wire(producer: ProducerId, pending: &PendingOffsets) -> WirePending {
    WirePending {
        producer_id: producer.to_form(),
        epoch: pending.epoch.to_form(),
        seq: pending.seq,
        since_ms: pending.since_ms,
        offsets: offsets_to_wire(&pending.offsets),
    }
}

fn pending_from_wire(wire: Vec<WirePending>) -> Result<BTreeMap<ProducerId, PendingOffsets>, CodecError> {
    let mut all = BTreeMap::new();
    for wire in wire {
        let pending = PendingOffsets {
            epoch: Wire::from_form(WHAT, wire.epoch)?,
            seq: wire.seq,
            since_ms: wire.since_ms,
            offsets: offsets_from_wire(wire.offsets)?,
        };
        if all.insert(ProducerId(wire.producer_id), pending).is_some() {
            let twice = format!("two transactions of producer {}", wire.producer_id);
            return Err(malformed(WHAT, twice));
        }
    }
    Ok(all)
}

fn ended_to_wire(ended: &EndedTransactions) -> Vec<WireEnded> {
    let wire = ended.iter().map(|(producer, ended)| WireEnded {
        producer_id: producer.to_form(),
        epoch: ended.epoch.to_form(),
        seq: ended.seq,
        index: ended.index,
    });
    wire.collect()
}

fn ended_from_wire(wire: Vec<WireEnded>) -> Result<EndedTransactions, CodecError> {
    let parts = wire.into_iter().map(|wire| {
        let ended = Ended {
            epoch: Wire::from_form(WHAT, wire.epoch)?,
            seq: wire.seq,
            index: wire.index,
        };
        Ok((ProducerId(wire.producer_id), ended))
    });
    let parts: Vec<_> = parts.collect::<Result<_, CodecError>>()?;
    EndedTransactions::from_parts(parts)
        .ok_or_else(|| malformed(WHAT, "two transactions that ended, of one producer or at one index"))
}

fn member_to_wire(id: &str, member: &Member) -> WireMember {
    WireMember {
        id: id.to_owned(),
        spec: member.spec.to_form(),
        version: member.version,
        epoch: member.epoch.get(),
        previous_epoch: member.previous_epoch.get(),
        is_away: member.is_away,
        holdings: holdings_to_wire(&member.holdings),
        target: member.target.to_form(),
    }
}

fn member_from_wire(wire: WireMember) -> Result<(Arc<str>, Member), CodecError> {
    let member = Member {
        spec: Wire::from_form(WHAT, wire.spec)?,
        version: wire.version,
        epoch: Epoch(wire.epoch),
        previous_epoch: Epoch(wire.previous_epoch),
        is_away: wire.is_away,
        holdings: holdings_from_wire(wire.holdings)?,
        target: Wire::from_form(WHAT, wire.target)?,
    };
    Ok((wire.id.into(), member))
}

/// Adds the remembered partition counts of a group to its topics and offsets, committed and staged.
fn first_to_wire<'a>(group: &Group, topics: &mut [WireTopic], offsets: impl Iterator<Item = &'a mut WireOffsets>) {
    let first = |id: &[u8]| group.first_partitions.get(&TopicId::from_slice(id)?).copied();
    for topic in &mut *topics {
        topic.first = first(&topic.id);
    }
    for offsets in offsets {
        if !topics.iter().any(|topic| topic.id == offsets.topic) {
            offsets.first = first(&offsets.topic);
        }
    }
}

fn first_from_wire<'a>(
    topics: &[WireTopic],
    offsets: impl Iterator<Item = &'a WireOffsets>,
) -> Result<BTreeMap<TopicId, u32>, CodecError> {
    let read = topics.iter().map(|topic| (&topic.id, topic.first));
    let others = offsets.map(|offsets| (&offsets.topic, offsets.first));
    let known = read.chain(others).filter_map(|(id, first)| Some((id, first?)));
    known.map(|(id, first)| Ok((topic_id(WHAT, id)?, first))).collect()
}

fn group_from_wire(wire: WireGroup) -> Result<(Arc<str>, Group), CodecError> {
    let mut members: BTreeMap<Arc<str>, Member> = BTreeMap::new();
    for member in wire.members {
        let (id, mut member) = member_from_wire(member)?;
        if let Some(other) = members.values().next()
            && other.spec.subscription == member.spec.subscription
        {
            member.spec.subscription = Arc::clone(&other.spec.subscription);
        }
        if members.insert(id, member).is_some() {
            return Err(malformed(
                WHAT,
                format!("a member of group {:?} is there twice", wire.name),
            ));
        }
    }
    let held = members.values().flat_map(|member| &member.holdings);
    let held = held.map(|holding| holding.partition).collect();
    let with_offsets = wire.pending.iter().flat_map(|pending| &pending.offsets);
    let with_offsets = wire.offsets.iter().chain(with_offsets);
    let mut group = Group {
        epoch: Epoch(wire.epoch),
        assignment_epoch: Epoch(wire.assignment_epoch),
        changed_at: wire.changed_at,
        members,
        first_partitions: first_from_wire(&wire.topics, with_offsets)?,
        topics: Wire::from_form(WHAT, wire.topics)?,
        offsets: offsets_from_wire(wire.offsets)?,
        pending: pending_from_wire(wire.pending)?,
        empty_since_ms: wire.empty_since_ms,
        held,
        bytes: Size::default(),
    };
    group.bytes = size::group(&group);
    Ok((wire.name.into(), group))
}

fn group_to_wire(name: &str, group: &Group) -> WireGroup {
    let mut topics: Vec<WireTopic> = group.topics.to_form();
    let mut offsets = match planted::is(Bug::OffsetsLostInSnapshot) && group.members.is_empty() {
        true => Vec::new(),
        false => offsets_to_wire(&group.offsets),
    };
    let pending = group.pending.iter();
    let mut pending: Vec<_> = pending
        .map(|(producer, pending)| pending_to_wire(*producer, pending))
        .collect();
    let staged = pending.iter_mut().flat_map(|pending| &mut pending.offsets);
    first_to_wire(group, &mut topics, offsets.iter_mut().chain(staged));
    WireGroup {
        name: name.to_owned(),
        epoch: group.epoch.get(),
        assignment_epoch: group.assignment_epoch.get(),
        changed_at: group.changed_at,
        members: group
            .members
            .iter()
            .map(|(id, member)| member_to_wire(id, member))
            .collect(),
        topics,
        offsets,
        empty_since_ms: group.empty_since_ms,
        pending,
    }
}

/// Bytes of a piece that [`encode_into`] hands out, about: the last group in it may be larger.
const PIECE_BYTES: usize = 256 << 10;

/// Hands out the encoded state group by group. A message of protobuf is what its fields are one after the other, so the pieces
/// together are the message of all groups.
pub(crate) fn encode_into(image: &Image, sink: &mut dyn FnMut(Bytes)) {
    let head = WireImage {
        version: image.version,
        topics_version: image.topics_version,
        groups: Vec::new(),
        ended: Vec::new(),
    };
    let mut piece = BytesMut::from(&frame(None, &head)[..]);
    for (name, group) in image.groups() {
        let wire = WireImage {
            groups: vec![group_to_wire(name, group)],
            ..WireImage::default()
        };
        piece.reserve(wire.encoded_len());
        wire.encode(&mut piece).expect("a BytesMut grows as needed");
        if piece.len() >= PIECE_BYTES {
            sink(piece.split().freeze());
        }
    }
    let tail = WireImage {
        ended: ended_to_wire(&image.ended),
        ..WireImage::default()
    };
    tail.encode(&mut piece).expect("a BytesMut grows as needed");
    sink(piece.freeze());
}

pub(crate) fn encode(image: &Image) -> Bytes {
    let mut all = BytesMut::new();
    encode_into(image, &mut |piece| match all.is_empty() {
        true => all = piece.into(),
        false => all.extend_from_slice(&piece),
    });
    all.freeze()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Parts, CodecError> {
    let wire: WireImage = message(WHAT, unframe_plain(WHAT, bytes)?)?;
    Ok(Parts {
        version: wire.version,
        topics_version: wire.topics_version,
        groups: wire.groups.into_iter().map(group_from_wire).collect::<Result<_, _>>()?,
        ended: ended_from_wire(wire.ended)?,
    })
}
