//! The records of states on disk: what is saved, the snapshot, checkpoints, and the chunks of a state that one row does not hold.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_types::Offset;

use crate::codec::{
    CodecError, RECORD_VERSION, decode_membership, done, encode_membership, get_log_id, need, open, put_log_id,
};
use crate::raft_types::{SnapshotMeta, StoredMembership};

/// The version of a chunk.
pub(crate) const CHUNK_HEAD_LEN: usize = 1;

/// Version and position of a checkpoint.
const CHECKPOINT_HEAD_LEN: usize = 9;

/// Version of a state record whose state lies in chunks.
const CHUNKED_VERSION: u8 = 2;

/// State of a state machine at a log id, with the membership at that log id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StateRecord {
    pub meta: SnapshotMeta,
    pub body: StateBody,
}

/// The state machine's own encoding of a state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StateBody {
    /// All of it.
    Row(Bytes),
    /// It lies in chunks.
    Chunks(Manifest),
}

impl StateBody {
    /// The generation of its chunks, if it has any.
    pub fn generation(&self) -> Option<u32> {
        match self {
            Self::Row(_) => None,
            Self::Chunks(manifest) => Some(manifest.generation),
        }
    }
}

/// The chunks of a state, and of the rows of tables that came with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The number that all chunks of this state have, and no others.
    pub generation: u32,
    /// The state, in the first chunks.
    pub state: Part,
    /// Rows of tables in the chunks that follow: what is not yet in the tables themselves.
    pub rows: Part,
}

/// What some chunks are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub chunks: u32,
    pub bytes: u64,
    /// The xxh3-64 of the bytes of all chunks.
    pub checksum: u64,
}

fn put_meta(out: &mut BytesMut, meta: &SnapshotMeta) {
    let membership = encode_membership(meta.last_membership.membership());
    put_log_id(out, meta.last_log_id);
    put_log_id(out, *meta.last_membership.log_id());
    out.put_u32(u32::try_from(membership.len()).expect("a membership is small"));
    out.put_slice(&membership);
}

/// `1 | last applied | membership's log id | membership length u32, membership | state`
pub(crate) fn encode_state(meta: &SnapshotMeta, state: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(128 + state.len());
    out.put_u8(RECORD_VERSION);
    put_meta(&mut out, meta);
    out.put_slice(state);
    out.freeze()
}

/// `2 | as before up to the membership | generation u32 | state | rows`; both of these are
/// `chunks u32 | bytes u64 | checksum u64`.
pub(crate) fn encode_chunked_state(meta: &SnapshotMeta, manifest: &Manifest) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    out.put_u8(CHUNKED_VERSION);
    put_meta(&mut out, meta);
    out.put_u32(manifest.generation);
    for part in [&manifest.state, &manifest.rows] {
        out.put_u32(part.chunks);
        out.put_u64(part.bytes);
        out.put_u64(part.checksum);
    }
    out.freeze()
}

/// The reverse of [`encode_state`] and [`encode_chunked_state`].
pub(crate) fn decode_state(bytes: &Bytes) -> Result<StateRecord, CodecError> {
    const RECORD: &str = "state record";
    let (&version, mut input) = bytes.split_first().ok_or(CodecError::Damaged(RECORD))?;
    if version != RECORD_VERSION && version != CHUNKED_VERSION {
        return Err(CodecError::Version {
            record: RECORD,
            version,
            expected: CHUNKED_VERSION,
        });
    }
    let last_log_id = get_log_id(&mut input, RECORD)?;
    let membership_log_id = get_log_id(&mut input, RECORD)?;
    need(input, 4, RECORD)?;
    let len = usize::try_from(input.get_u32()).expect("usize has 64 bits");
    need(input, len, RECORD)?;
    let membership = decode_membership(&input[..len])?;
    let rest = &input[len..];
    let body = match version {
        CHUNKED_VERSION => StateBody::Chunks(get_manifest(rest, RECORD)?),
        _ => StateBody::Row(bytes.slice_ref(rest)),
    };
    let last_membership = StoredMembership::new(membership_log_id, membership);
    Ok(StateRecord {
        meta: SnapshotMeta {
            last_log_id,
            last_membership,
        },
        body,
    })
}

fn get_manifest(mut input: &[u8], record: &'static str) -> Result<Manifest, CodecError> {
    need(input, 44, record)?;
    let generation = input.get_u32();
    let mut part = || Part {
        chunks: input.get_u32(),
        bytes: input.get_u64(),
        checksum: input.get_u64(),
    };
    let (state, rows) = (part(), part());
    done(input, record)?;
    Ok(Manifest {
        generation,
        state,
        rows,
    })
}

/// `1 | bytes`: a chunk is built up in such a buffer.
pub(crate) fn chunk_buffer(bytes: usize) -> BytesMut {
    let mut chunk = BytesMut::with_capacity(CHUNK_HEAD_LEN + bytes);
    chunk.put_u8(RECORD_VERSION);
    chunk
}

/// The bytes of a chunk.
pub(crate) fn decode_chunk(row: &Bytes) -> Result<Bytes, CodecError> {
    open(row, "chunk of a state")?;
    Ok(row.slice(CHUNK_HEAD_LEN..))
}

/// `version | position i64 | state record`: a state that the log may be cut off at, with the offset that it stands
/// at.
pub(crate) fn encode_checkpoint(position: Offset, record: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(CHECKPOINT_HEAD_LEN + record.len());
    out.put_u8(RECORD_VERSION);
    out.put_i64(position.get());
    out.put_slice(record);
    out.freeze()
}

/// The reverse of [`encode_checkpoint`]: the position, and the state record still encoded.
pub(crate) fn decode_checkpoint(bytes: &Bytes) -> Result<(Offset, Bytes), CodecError> {
    const RECORD: &str = "checkpoint";
    let mut input = open(bytes, RECORD)?;
    need(input, CHECKPOINT_HEAD_LEN - 1, RECORD)?;
    Ok((Offset(input.get_i64()), bytes.slice(CHECKPOINT_HEAD_LEN..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::log_id;

    fn manifest() -> Manifest {
        Manifest {
            generation: 7,
            state: Part {
                chunks: 3,
                bytes: 0x0102_0304,
                checksum: 0x1122_3344_5566_7788,
            },
            rows: Part {
                chunks: 1,
                bytes: 9,
                checksum: 5,
            },
        }
    }

    /// What the first build wrote is read for ever, and so is what this one writes.
    #[test]
    fn golden_state_records() {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(4, 5)),
            last_membership: StoredMembership::default(),
        };
        let head = |version| {
            [
                &[version, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5][..],
                &[0; 17],
                &[0, 0, 0, 4, 1, 0, 0, 0],
            ]
            .concat()
        };
        let row = [&head(1)[..], b"state"].concat();
        assert_eq!(encode_state(&meta, b"state")[..], row);
        let body = StateBody::Row(Bytes::from_static(b"state"));
        assert_eq!(
            decode_state(&row.into()).unwrap(),
            StateRecord {
                meta: meta.clone(),
                body
            }
        );
        let chunked = [
            &head(2)[..],
            &[0, 0, 0, 7],
            &[
                0, 0, 0, 3, 0, 0, 0, 0, 1, 2, 3, 4, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
            ],
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5],
        ]
        .concat();
        assert_eq!(encode_chunked_state(&meta, &manifest())[..], chunked);
        let body = StateBody::Chunks(manifest());
        assert_eq!(
            decode_state(&chunked.clone().into()).unwrap(),
            StateRecord { meta, body }
        );
        let cut: Bytes = chunked[..chunked.len() - 1].to_vec().into();
        assert!(matches!(decode_state(&cut), Err(CodecError::Damaged(_))));
        let mut later = chunked;
        later[0] = 3;
        assert!(matches!(
            decode_state(&later.into()),
            Err(CodecError::Version { version: 3, .. })
        ));
        let mut chunk = chunk_buffer(8);
        chunk.put_slice(b"bytes");
        assert_eq!(chunk[..], *b"\x01bytes");
        assert_eq!(decode_chunk(&chunk.freeze()).unwrap()[..], *b"bytes");
    }

    #[test]
    fn records_come_back() {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(4, 5)),
            last_membership: StoredMembership::new(Some(log_id(1, 0)), Default::default()),
        };
        let (position, row) = decode_checkpoint(&encode_checkpoint(Offset(9), &encode_state(&meta, b"state"))).unwrap();
        assert_eq!((position, decode_state(&row).unwrap().meta), (Offset(9), meta.clone()));
        let record = decode_state(&encode_state(&meta, b"state")).unwrap();
        assert_eq!(
            record,
            StateRecord {
                meta: meta.clone(),
                body: StateBody::Row(Bytes::from_static(b"state"))
            }
        );
        let record = decode_state(&encode_chunked_state(&meta, &manifest())).unwrap();
        assert_eq!(
            record,
            StateRecord {
                meta,
                body: StateBody::Chunks(manifest())
            }
        );
    }
}
