//! Appends, reads and offsets between the contract's messages and the api's structs.

use jangada_proto::v1;
use jangada_proto::v1::list_offsets_request::Position as Asked;
use jangada_types::{LeaderEpoch, Offset, ProducerId, Reason};

use crate::api::call::records::{Acks, FoundOffset, Position, Produced};
use crate::error::RequestError;
use crate::partition::{Appended, Ends, Expectation, Fetched, InTransaction, Isolation, Reading};

/// What stands for an offset or a time that there is not.
const NONE: i64 = -1;

pub(super) fn acks(value: i32) -> Result<Acks, RequestError> {
    match v1::Acks::try_from(value) {
        Ok(v1::Acks::None) => Ok(Acks::None),
        Ok(v1::Acks::Unspecified | v1::Acks::Quorum) => Ok(Acks::Quorum),
        Err(_) => Err(invalid(format!(
            "acks {value} is not known: use ACKS_QUORUM or ACKS_NONE"
        ))),
    }
}

pub(super) fn acks_to(acks: Acks) -> v1::Acks {
    match acks {
        Acks::Quorum => v1::Acks::Quorum,
        Acks::None => v1::Acks::None,
    }
}

pub(super) fn expectation(end: Option<i64>, key: Option<i64>) -> Expectation {
    Expectation {
        end_offset: end.map(Offset),
        key_offset: key.map(Offset),
    }
}

/// The transaction that a request names. Its first batch to a partition makes that a part of it.
pub(super) fn transaction(transactional_id: &str) -> Option<InTransaction> {
    (!transactional_id.is_empty()).then(|| InTransaction {
        transactional_id: transactional_id.into(),
        adds: true,
    })
}

pub(super) fn transaction_to(transaction: Option<&InTransaction>) -> String {
    transaction.map_or_else(String::new, |transaction| transaction.transactional_id.to_string())
}

pub(super) fn isolation(value: i32) -> Result<Isolation, RequestError> {
    match v1::Isolation::try_from(value) {
        Ok(v1::Isolation::Unspecified | v1::Isolation::Committed) => Ok(Isolation::Committed),
        Ok(v1::Isolation::Uncommitted) => Ok(Isolation::Uncommitted),
        Err(_) => Err(invalid(format!("isolation {value} is not known"))),
    }
}

pub(super) fn isolation_to(isolation: Isolation) -> i32 {
    match isolation {
        Isolation::Committed => v1::Isolation::Committed,
        Isolation::Uncommitted => v1::Isolation::Uncommitted,
    }
    .into()
}

/// How is read what comes in the raw form, or in the plain one, which has no room for what the reader would leave out.
pub(super) fn reading(isolation_value: i32, aborted_list: bool, form: i32) -> Result<Reading, RequestError> {
    if aborted_list && form == i32::from(v1::RecordForm::Plain) {
        return Err(invalid(
            "aborted_list is only for the raw form: in the plain form aborted records are left out",
        ));
    }
    Ok(Reading {
        isolation: isolation(isolation_value)?,
        aborted_list,
        past_stable: false,
    })
}

pub(super) fn aborted_to(aborted: Vec<(ProducerId, Offset)>) -> Vec<v1::AbortedTransaction> {
    let named = aborted.into_iter().map(|(id, first)| v1::AbortedTransaction {
        producer_id: id.get(),
        first_offset: first.get(),
    });
    named.collect()
}

fn aborted_of(aborted: &v1::AbortedTransaction) -> (ProducerId, Offset) {
    (ProducerId(aborted.producer_id), Offset(aborted.first_offset))
}

pub(super) fn produced_to(produced: &Produced) -> v1::ProduceResponse {
    match produced {
        Produced::Appended(appended) => v1::ProduceResponse {
            base_offset: appended.base_offset.get(),
            last_offset: appended.last_offset.get(),
            append_time_ms: appended.append_time_ms,
            log_start_offset: appended.log_start.get(),
            duplicate: appended.duplicate,
        },
        Produced::Taken { log_start } => v1::ProduceResponse {
            base_offset: NONE,
            last_offset: NONE,
            append_time_ms: NONE,
            log_start_offset: log_start.get(),
            duplicate: false,
        },
    }
}

pub(super) fn produced_of(response: &v1::ProduceResponse) -> Produced {
    let log_start = Offset(response.log_start_offset);
    match response.base_offset {
        NONE => Produced::Taken { log_start },
        base_offset => Produced::Appended(Appended {
            base_offset: Offset(base_offset),
            last_offset: Offset(response.last_offset),
            append_time_ms: response.append_time_ms,
            log_start,
            duplicate: response.duplicate,
        }),
    }
}

/// The batches as they are.
pub(super) fn fetched_to(fetched: Fetched) -> v1::FetchResponse {
    v1::FetchResponse {
        batches: fetched.batches,
        records: Vec::new(),
        high_watermark: fetched.ends.high_watermark.get(),
        log_start_offset: fetched.log_start.get(),
        next_offset: fetched.next_offset.get(),
        leader_epoch: fetched.epoch.get(),
        last_stable_offset: fetched.ends.last_stable.get(),
        aborted: aborted_to(fetched.aborted),
        compacted: fetched.has_holes,
    }
}

pub(super) fn fetched_of(response: v1::FetchResponse) -> Fetched {
    Fetched {
        batches: response.batches,
        next_offset: Offset(response.next_offset),
        ends: Ends {
            high_watermark: Offset(response.high_watermark),
            last_stable: Offset(response.last_stable_offset),
        },
        aborted: response.aborted.iter().map(aborted_of).collect(),
        log_start: Offset(response.log_start_offset),
        epoch: LeaderEpoch(response.leader_epoch),
        has_holes: response.compacted,
    }
}

pub(super) fn position(asked: Option<Asked>) -> Result<Position, RequestError> {
    match asked {
        Some(Asked::Earliest(_)) => Ok(Position::Earliest),
        Some(Asked::Latest(_)) => Ok(Position::Latest),
        Some(Asked::TimestampMs(timestamp_ms)) => Ok(Position::Timestamp(timestamp_ms)),
        None => Err(invalid(
            "the request names no position: set earliest, latest or timestamp_ms",
        )),
    }
}

pub(super) fn position_to(position: Position) -> Asked {
    match position {
        Position::Earliest => Asked::Earliest(true),
        Position::Latest => Asked::Latest(true),
        Position::Timestamp(timestamp_ms) => Asked::TimestampMs(timestamp_ms),
    }
}

pub(super) fn found_to(found: FoundOffset) -> v1::ListOffsetsResponse {
    v1::ListOffsetsResponse {
        offset: found.offset.map_or(NONE, Offset::get),
        timestamp_ms: found.timestamp_ms.unwrap_or(NONE),
        leader_epoch: found.leader_epoch.get(),
    }
}

pub(super) fn found_of(response: &v1::ListOffsetsResponse) -> FoundOffset {
    let there = |value: i64| (value != NONE).then_some(value);
    FoundOffset {
        offset: there(response.offset).map(Offset),
        timestamp_ms: there(response.timestamp_ms),
        leader_epoch: LeaderEpoch(response.leader_epoch),
    }
}

pub(super) fn invalid(message: impl Into<String>) -> RequestError {
    RequestError::new(Reason::InvalidRequest, message)
}
