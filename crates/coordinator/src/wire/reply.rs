//! The encoded form of replies.

use bytes::Bytes;
use jangada_types::Rejection;
use jangada_types::frame::{CodecError, frame, message, unframe};

use crate::reply::Reply;

const REJECTED: u8 = 1;
const APPLIED: u8 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct Applied {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(uint32, tag = "2")]
    count: u32,
}

pub(crate) fn encode(reply: &Reply) -> Bytes {
    match reply {
        Reply::Rejected(rejection) => rejection.encode(REJECTED),
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
        REJECTED => Rejection::decode("reply Rejected", body).map(Reply::Rejected),
        APPLIED => {
            let Applied { version, count } = message("reply Applied", body)?;
            Ok(Reply::Applied { version, count })
        }
        kind => Err(CodecError::UnknownKind { what: "reply", kind }),
    }
}
