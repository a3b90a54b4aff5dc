//! The encoded form of replies.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_types::Reason;

use super::{frame, malformed, message, unframe};
use crate::error::CodecError;
use crate::reply::{Rejection, Reply};

const REJECTED: u8 = 1;
const APPLIED: u8 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct Rejected {
    /// As in `ErrorInfo.reason`.
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Applied {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(uint32, tag = "2")]
    count: u32,
}

pub(crate) fn encode(reply: &Reply) -> Bytes {
    match reply {
        Reply::Rejected(rejection) => frame(
            Some(REJECTED),
            &Rejected {
                reason: rejection.reason.as_str().to_owned(),
                message: rejection.message.clone(),
                metadata: rejection.metadata.clone(),
            },
        ),
        Reply::Applied { version, count } => frame(
            Some(APPLIED),
            &Applied {
                version: *version,
                count: *count,
            },
        ),
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Reply, CodecError> {
    let (kind, body) = unframe("reply", bytes)?;
    match kind {
        REJECTED => {
            let wire: Rejected = message("reply Rejected", body)?;
            let reason = Reason::parse(&wire.reason)
                .ok_or_else(|| malformed("reply Rejected", format!("unknown reason {:?}", wire.reason)))?;
            Ok(Reply::Rejected(Rejection {
                reason,
                message: wire.message,
                metadata: wire.metadata,
            }))
        }
        APPLIED => {
            let Applied { version, count } = message("reply Applied", body)?;
            Ok(Reply::Applied { version, count })
        }
        kind => Err(CodecError::UnknownKind { what: "reply", kind }),
    }
}
