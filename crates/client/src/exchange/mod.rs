//! Exchanges: a [`Publisher`] publishes messages to them, and bindings say which queues those are for. Exchanges and bindings are managed
//! with [`Admin`](crate::Admin).
//!
//! - `binding`: exchanges' kinds, and bindings, as they are asked for and shown.
//! - `publisher`: gathers messages into requests.

mod binding;
mod publisher;

use std::sync::Arc;

use jangada_proto::v1::exchange_service_client::ExchangeServiceClient;
use jangada_types::Reason;
use tonic::transport::Channel;

pub(crate) use binding::header_to_wire;
pub use binding::{Binding, BindingDestination, ExchangeKind, HeaderMatch, MatchMode};
pub use publisher::{Publication, PublishedPlace, Publisher, PublisherConfig};

use crate::attempts::CallFailed;
use crate::channels::RESPONSE_BYTES_MAX;
use crate::error::ClientError;

/// A client of a broker's exchange service.
pub(crate) fn exchange_service(channel: Channel) -> ExchangeServiceClient<Channel> {
    ExchangeServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// What a failed call about one exchange and no other means for its caller.
pub(crate) fn exchange_error(failed: CallFailed, exchange: &str, context: &str) -> ClientError {
    if failed.failure.reason == Some(Reason::UnknownExchange) && !failed.in_doubt {
        return ClientError::UnknownExchange {
            exchange: Arc::from(exchange),
        };
    }
    failed.into_error(context)
}
