//! The transactions that messages of queues are sent and acknowledged in, between the contract's messages and the api's structs.

use jangada_proto::v1;
use jangada_queue::engine::Settlement;
use jangada_transactions::judge_id;
use jangada_types::{ProducerEpoch, ProducerId, Sequence};

use super::record_wire::invalid;
use crate::api::call::queues::{QueueTransaction, SendIn};
use crate::api::queue_messages::Token;
use crate::error::RequestError;

/// A transaction that a request names.
///
/// # Errors
/// INVALID_TRANSACTIONAL_ID; INVALID_REQUEST: no producer has such an id or epoch.
fn transaction_of(named: v1::QueueTransaction) -> Result<QueueTransaction, RequestError> {
    judge_id(&named.transactional_id)?;
    if named.producer_id < 0 {
        let message = format!(
            "the transaction's producer id is {}: InitTransactions gives it",
            named.producer_id
        );
        return Err(invalid(message).with("actual", named.producer_id));
    }
    let epoch = i16::try_from(named.producer_epoch).ok().filter(|epoch| *epoch >= 0);
    let epoch = epoch.ok_or_else(|| {
        let message = format!(
            "the transaction's producer epoch is {}: InitTransactions and EndTransaction give it, 0 to {}",
            named.producer_epoch,
            i16::MAX
        );
        invalid(message)
            .with("limit", i16::MAX)
            .with("actual", named.producer_epoch)
    })?;
    Ok(QueueTransaction {
        transactional_id: named.transactional_id.into(),
        producer_id: ProducerId(named.producer_id),
        producer_epoch: ProducerEpoch(epoch),
    })
}

pub(super) fn transaction_to(transaction: &QueueTransaction) -> v1::QueueTransaction {
    v1::QueueTransaction {
        transactional_id: transaction.transactional_id.to_string(),
        producer_id: transaction.producer_id.get(),
        producer_epoch: transaction.producer_epoch.get().into(),
    }
}

/// What messages are sent in; none: in no transaction.
///
/// # Errors
/// INVALID_TRANSACTIONAL_ID, INVALID_REQUEST.
pub(super) fn sends_in_of(
    named: Option<v1::QueueTransaction>,
    base_sequence: i32,
) -> Result<Option<SendIn>, RequestError> {
    let Some(named) = named else {
        return match base_sequence {
            0 => Ok(None),
            sequence => {
                let message = format!("base_sequence is {sequence}, and the request has no transaction");
                Err(invalid(message).with("actual", sequence))
            }
        };
    };
    if base_sequence < 0 {
        let message = format!("base_sequence is {base_sequence}: 0 or more");
        return Err(invalid(message).with("actual", base_sequence));
    }
    Ok(Some(SendIn {
        transaction: transaction_of(named)?,
        base_sequence: Sequence(base_sequence),
    }))
}

/// The transaction that messages are acknowledged in; none: they are settled at once.
///
/// # Errors
/// INVALID_TRANSACTIONAL_ID; INVALID_REQUEST, also when something else than an acknowledgement is among them.
pub(super) fn settles_in_of(
    named: Option<v1::QueueTransaction>,
    items: &[(Token, Settlement)],
) -> Result<Option<QueueTransaction>, RequestError> {
    let Some(named) = named else { return Ok(None) };
    let transaction = transaction_of(named)?;
    let is_other = |(_, settlement): &(Token, Settlement)| *settlement != Settlement::Ack;
    match items.iter().position(is_other) {
        None => Ok(Some(transaction)),
        Some(place) => {
            let message = format!(
                "item {place} is no acknowledgement: nothing else is said of messages in a transaction; nothing was done"
            );
            Err(invalid(message).with("item", place))
        }
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::Reason;

    use super::*;

    fn named() -> v1::QueueTransaction {
        v1::QueueTransaction {
            transactional_id: "billing".to_owned(),
            producer_id: 7,
            producer_epoch: 3,
        }
    }

    #[test]
    fn a_transaction_is_the_same_there_and_back() {
        let read = transaction_of(named()).expect("it is one");
        assert_eq!(
            (read.producer_id, read.producer_epoch),
            (ProducerId(7), ProducerEpoch(3))
        );
        assert_eq!(transaction_to(&read), named());
        let sends_in = sends_in_of(Some(named()), 40).expect("it is one").expect("it is there");
        assert_eq!((sends_in.transaction, sends_in.base_sequence), (read, Sequence(40)));
        assert_eq!(sends_in_of(None, 0), Ok(None));
    }

    #[test]
    fn what_names_no_transaction_is_refused() {
        let is_refused = |named, reason| {
            let refused = transaction_of(named).expect_err("it is none");
            assert_eq!((refused.reason, refused.definite), (reason, true), "{refused}");
        };
        let with = |change: &dyn Fn(&mut v1::QueueTransaction)| {
            let mut named = named();
            change(&mut named);
            named
        };
        is_refused(
            with(&|named| named.transactional_id.clear()),
            Reason::InvalidTransactionalId,
        );
        is_refused(
            with(&|named| named.transactional_id = "x".repeat(250)),
            Reason::InvalidTransactionalId,
        );
        is_refused(with(&|named| named.producer_id = -1), Reason::InvalidRequest);
        is_refused(with(&|named| named.producer_epoch = -1), Reason::InvalidRequest);
        is_refused(with(&|named| named.producer_epoch = 32_768), Reason::InvalidRequest);
        for (named, sequence) in [(Some(named()), -1), (None, 1)] {
            let refused = sends_in_of(named, sequence).expect_err("there is no such sequence");
            assert_eq!(refused.reason, Reason::InvalidRequest, "{refused}");
        }
    }
}
