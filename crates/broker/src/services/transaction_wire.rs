//! Transactional ids between the contract's messages, those between brokers, and the api's types.

use std::sync::Arc;

use jangada_controller::Image;
use jangada_log::{OpenTransaction, ProducerState};
use jangada_proto::internal;
use jangada_proto::internal::transaction_end::Target as TargetMessage;
use jangada_proto::v1;
use jangada_transactions::{Delivery, Producer, Target, TransactionState};
use jangada_types::{BrokerId, GroupId, Offset, PartitionIndex, ProducerEpoch, ProducerId};

use super::group_wire::{partition_of, partitions_to};
use super::record_wire::invalid;
use crate::api::call::transactions::{
    EndDeliveries, EndTransaction, EndTransactions, FindProducer, InitTransactions, JoinTransaction, ProducerFound,
    TransactionDescription, TransactionEnd, TransactionEnded, TransactionList,
};
use crate::error::RequestError;

/// What stands for the sequence of a producer that wrote nothing in its epoch.
const NO_SEQUENCE: i32 = -1;

/// A producer id and its epoch.
///
/// # Errors
/// INVALID_REQUEST: the id is below 0, or the epoch is not one.
pub(super) fn producer_of(id: i64, epoch: i32) -> Result<Producer, RequestError> {
    let epoch = i16::try_from(epoch).ok().filter(|epoch| id >= 0 && *epoch >= 0);
    let epoch = epoch.map(ProducerEpoch);
    let epoch = epoch.ok_or_else(|| {
        invalid("a transaction has the producer id and epoch that InitTransactions or EndTransaction gave: 0 or more")
    })?;
    Ok(Producer {
        id: ProducerId(id),
        epoch,
    })
}

pub(super) fn init_of(request: v1::InitTransactionsRequest) -> Result<InitTransactions, RequestError> {
    let holder = match (request.producer_id, request.producer_epoch) {
        (None, None) => None,
        (Some(id), Some(epoch)) => Some(producer_of(id, epoch)?),
        _ => return Err(invalid("`producer_id` and `producer_epoch` are given together")),
    };
    Ok(InitTransactions {
        id: request.transactional_id.into(),
        timeout_ms: request.timeout_ms,
        holder,
    })
}

pub(super) fn init_to(wanted: &InitTransactions) -> v1::InitTransactionsRequest {
    v1::InitTransactionsRequest {
        transactional_id: wanted.id.to_string(),
        timeout_ms: wanted.timeout_ms,
        producer_id: wanted.holder.map(|holder| holder.id.get()),
        producer_epoch: wanted.holder.map(|holder| holder.epoch.get().into()),
    }
}

pub(super) fn initialized_to(producer: Producer) -> v1::InitTransactionsResponse {
    v1::InitTransactionsResponse {
        producer_id: producer.id.get(),
        producer_epoch: producer.epoch.get().into(),
    }
}

pub(super) fn end_of(request: v1::EndTransactionRequest) -> Result<EndTransaction, RequestError> {
    Ok(EndTransaction {
        producer: producer_of(request.producer_id, request.producer_epoch)?,
        id: request.transactional_id.into(),
        commit: request.commit,
        early: request.early,
    })
}

pub(super) fn end_to(wanted: &EndTransaction) -> v1::EndTransactionRequest {
    v1::EndTransactionRequest {
        transactional_id: wanted.id.to_string(),
        producer_id: wanted.producer.id.get(),
        producer_epoch: wanted.producer.epoch.get().into(),
        commit: wanted.commit,
        early: wanted.early,
    }
}

pub(super) fn ended_to(ended: TransactionEnded) -> v1::EndTransactionResponse {
    v1::EndTransactionResponse {
        producer_id: ended.next.id.get(),
        producer_epoch: ended.next.epoch.get().into(),
        visible: ended.is_visible,
    }
}

pub(super) fn ended_of(response: &v1::EndTransactionResponse) -> Result<TransactionEnded, RequestError> {
    Ok(TransactionEnded {
        next: producer_of(response.producer_id, response.producer_epoch)?,
        is_visible: response.visible,
    })
}

fn state_to(image: &Image, described: TransactionDescription) -> v1::TransactionState {
    v1::TransactionState {
        transactional_id: described.id.to_string(),
        state: described.state.as_str().to_owned(),
        producer_id: described.producer.id.get(),
        producer_epoch: described.producer.epoch.get().into(),
        timeout_ms: described.timeout_ms,
        started_ms: i64::try_from(described.started_ms).unwrap_or(i64::MAX),
        partitions: partitions_to(image, described.partitions),
        groups: described.groups.iter().map(|group| group.to_string()).collect(),
        last_epoch: described.last.map(|(producer, _)| producer.epoch.get().into()),
        last_producer_id: described.last.map(|(producer, _)| producer.id.get()),
        last_committed: described.last.is_some_and(|(_, is_committed)| is_committed),
        coordinator_id: described.coordinator.get(),
    }
}

fn state_of(state: v1::TransactionState) -> Result<TransactionDescription, RequestError> {
    let known = TransactionState::ALL
        .into_iter()
        .find(|known| known.as_str() == state.state);
    let partitions = state.partitions.iter().map(|partition| partition_of(Some(partition)));
    let last_id = state.last_producer_id.unwrap_or(state.producer_id);
    let last = state.last_epoch.map(|epoch| producer_of(last_id, epoch)).transpose()?;
    Ok(TransactionDescription {
        state: known.ok_or_else(|| invalid(format!("transaction state {:?} is not known", state.state)))?,
        producer: producer_of(state.producer_id, state.producer_epoch)?,
        timeout_ms: state.timeout_ms,
        started_ms: u64::try_from(state.started_ms).unwrap_or_default(),
        partitions: partitions.collect::<Result<_, _>>()?,
        groups: state.groups.into_iter().map(Arc::from).collect(),
        last: last.map(|producer| (producer, state.last_committed)),
        coordinator: BrokerId(state.coordinator_id),
        id: state.transactional_id.into(),
    })
}

pub(super) fn described_to(image: &Image, described: TransactionDescription) -> v1::DescribeTransactionResponse {
    v1::DescribeTransactionResponse {
        transaction: Some(state_to(image, described)),
    }
}

pub(super) fn described_of(response: v1::DescribeTransactionResponse) -> Result<TransactionDescription, RequestError> {
    let state = response
        .transaction
        .ok_or_else(|| invalid("a description is missing"))?;
    state_of(state)
}

pub(super) fn list_to(image: &Image, list: TransactionList) -> v1::ListTransactionsResponse {
    let transactions = list.transactions.into_iter().map(|row| state_to(image, row));
    v1::ListTransactionsResponse {
        transactions: transactions.collect(),
        missing_shards: list.missing_shards.into_iter().map(PartitionIndex::get).collect(),
    }
}

pub(super) fn list_of(response: v1::ListTransactionsResponse) -> Result<TransactionList, RequestError> {
    Ok(TransactionList {
        transactions: response
            .transactions
            .into_iter()
            .map(state_of)
            .collect::<Result<_, _>>()?,
        missing_shards: response.missing_shards.into_iter().map(PartitionIndex).collect(),
    })
}

pub(super) fn producers_to(producers: Vec<ProducerState>) -> v1::DescribeProducersResponse {
    let producers = producers.into_iter().map(|producer| v1::ProducerState {
        producer_id: producer.id.get(),
        producer_epoch: producer.epoch.get().into(),
        last_sequence: producer.last_sequence.unwrap_or(NO_SEQUENCE),
        last_append_ms: producer.last_ms,
        transaction_first_offset: producer.open.map(|open| open.first.get()),
        transaction_since_ms: producer.open.map_or(0, |open| open.since_ms),
    });
    v1::DescribeProducersResponse {
        producers: producers.collect(),
    }
}

/// Without the numbers of open transactions, which clients are not told.
pub(super) fn producers_of(response: v1::DescribeProducersResponse) -> Result<Vec<ProducerState>, RequestError> {
    let producers = response.producers.into_iter().map(|producer| {
        let Producer { id, epoch } = producer_of(producer.producer_id, producer.producer_epoch)?;
        let open = producer.transaction_first_offset.map(|first| OpenTransaction {
            first: Offset(first),
            seq: 0,
            since_ms: producer.transaction_since_ms,
        });
        Ok(ProducerState {
            id,
            epoch,
            last_sequence: (producer.last_sequence != NO_SEQUENCE).then_some(producer.last_sequence),
            last_ms: producer.last_append_ms,
            open,
        })
    });
    producers.collect()
}

pub(super) fn join_to(wanted: JoinTransaction) -> internal::JoinTransaction {
    internal::JoinTransaction {
        transactional_id: wanted.id.to_string(),
        producer_id: wanted.producer.id.get(),
        producer_epoch: wanted.producer.epoch.get().into(),
        partitions: wanted.partitions.iter().map(|partition| partition.get()).collect(),
        groups: wanted.groups.iter().map(|group| group.to_string()).collect(),
        adds: wanted.adds,
        metadata_version: wanted.metadata_version,
    }
}

pub(super) fn join_of(message: internal::JoinTransaction) -> Result<JoinTransaction, RequestError> {
    Ok(JoinTransaction {
        producer: producer_of(message.producer_id, message.producer_epoch)?,
        id: message.transactional_id.into(),
        partitions: message.partitions.into_iter().map(GroupId).collect(),
        groups: message.groups.into_iter().map(Arc::from).collect(),
        adds: message.adds,
        metadata_version: message.metadata_version,
    })
}

pub(super) fn ends_to(wanted: EndTransactions) -> internal::EndTransactions {
    let ends = wanted.0.into_iter().map(|end| internal::TransactionEnd {
        target: Some(match end.target {
            Target::Partition(group) => TargetMessage::Partition(group.get()),
            Target::Group(name) => TargetMessage::Group(name.to_string()),
        }),
        producer_id: end.producer.id.get(),
        producer_epoch: end.producer.epoch.get().into(),
        seq: end.seq,
        commit: end.commit,
        coordinator_epoch: end.coordinator_epoch,
    });
    internal::EndTransactions { ends: ends.collect() }
}

pub(super) fn ends_of(message: internal::EndTransactions) -> Result<EndTransactions, RequestError> {
    let ends = message.ends.into_iter().map(|end| {
        let target = match end.target {
            Some(TargetMessage::Partition(group)) => Target::Partition(GroupId(group)),
            Some(TargetMessage::Group(name)) => Target::Group(name.into()),
            None => return Err(invalid("the end of a transaction names a partition or a group")),
        };
        Ok(TransactionEnd {
            target,
            producer: producer_of(end.producer_id, end.producer_epoch)?,
            seq: end.seq,
            commit: end.commit,
            coordinator_epoch: end.coordinator_epoch,
        })
    });
    ends.collect::<Result<_, _>>().map(EndTransactions)
}

pub(super) fn deliveries_to(deliveries: EndDeliveries) -> internal::EndTransactionsResponse {
    let ends = deliveries.into_iter().map(|delivery| match delivery {
        Delivery::Done => internal::EndDelivery {
            done: true,
            not_found_version: None,
        },
        Delivery::Failed => internal::EndDelivery::default(),
        Delivery::NotFound { metadata_version } => internal::EndDelivery {
            done: false,
            not_found_version: Some(metadata_version),
        },
    });
    internal::EndTransactionsResponse { ends: ends.collect() }
}

pub(super) fn deliveries_of(response: &internal::EndTransactionsResponse) -> EndDeliveries {
    let delivery = |end: &internal::EndDelivery| match (end.done, end.not_found_version) {
        (true, _) => Delivery::Done,
        (false, Some(metadata_version)) => Delivery::NotFound { metadata_version },
        (false, None) => Delivery::Failed,
    };
    response.ends.iter().map(delivery).collect()
}

pub(super) fn find_to(wanted: &FindProducer) -> internal::FindProducer {
    internal::FindProducer {
        producer_id: wanted.producer.get(),
        seq: wanted.seq,
        partition: wanted.partition.get(),
    }
}

pub(super) fn find_of(message: &internal::FindProducer) -> FindProducer {
    FindProducer {
        producer: ProducerId(message.producer_id),
        seq: message.seq,
        partition: GroupId(message.partition),
    }
}

pub(super) fn found_to(found: ProducerFound) -> internal::FindProducerResponse {
    internal::FindProducerResponse {
        open: found.is_open,
        shards: found.shards.into_iter().map(PartitionIndex::get).collect(),
    }
}

pub(super) fn found_of(response: internal::FindProducerResponse) -> ProducerFound {
    ProducerFound {
        is_open: response.open,
        shards: response.shards.into_iter().map(PartitionIndex).collect(),
    }
}
