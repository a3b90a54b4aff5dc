//! Every limit that a client can run into, with unit, bound and reason.
//!
//! Limits of one crate's inner workings are in that crate. Relations between these are asserted below, at compile time.

use crate::batch::{BatchHeader, RECORD_BYTES_MIN};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes of a topic name, which is ASCII. Kafka's limit, which comes from file names of 255 bytes with a suffix.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Bytes of an address, host and port. A host name has at most 253 (RFC 1035), and a port 5.
pub const ADDRESS_BYTES_MAX: usize = 260;

/// Partitions of one topic. Each is a replication group with tasks and memory of its own on every replica.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 10_000;

/// Bytes of a record batch as it is sent and stored, header included, unless the topic sets another limit. Kafka's
/// default.
pub const BATCH_BYTES_DEFAULT: usize = MIB;

/// The most that a topic may allow for a batch, bytes. A batch is one log entry, which is replicated, held in memory
/// and fetched as a whole.
pub const BATCH_BYTES_MAX: usize = 8 * MIB;

/// The least that a topic may allow for a batch, bytes. Below this a header and a few small records no longer fit.
pub const BATCH_BYTES_MIN: usize = KIB;

/// Bytes of a batch's records after decompression. A batch that exceeds it is never decompressed further: a few bytes
/// can claim gigabytes.
pub const DECOMPRESSED_BYTES_MAX: usize = 64 * MIB;

/// Records of one batch. Bounds the memory of a decoded batch, and how fast a producer can use up offsets: a compressed
/// batch's count cannot be checked without decompressing it.
pub const RECORDS_PER_BATCH_MAX: i32 = 1 << 20;

/// Bytes of a record's key on a topic with `key.index.enable`: each key is a row of its own in the index.
pub const INDEXED_KEY_BYTES_MAX: usize = KIB;

/// Batches of an idempotent producer that may be in flight per partition, and whose offsets the broker remembers to
/// recognise a duplicate. Kafka's number.
pub const PRODUCER_BATCHES_IN_FLIGHT_MAX: usize = 5;

/// Idempotent producers that a partition remembers. When one more writes, the one whose last append lies furthest back
/// in the log is forgotten. More than the streams that a broker has open by default, so that only producers that are
/// gone are forgotten; few enough that the table, about 140 bytes each, stays far smaller than the log between two
/// checkpoints.
///
/// This number is part of what an append means: each replica forgets by it when it applies the log, and all must
/// forget alike. Another number needs another kind of command.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 10_000;

/// How long a produce request without a timeout waits for the quorum, milliseconds.
pub const PRODUCE_TIMEOUT_MS_DEFAULT: u32 = 10_000;

/// The longest that a produce request may wait for the quorum, milliseconds.
pub const PRODUCE_TIMEOUT_MS_MAX: u32 = 60_000;

/// Bytes that a fetch without a limit returns. One whole batch is always returned.
pub const FETCH_BYTES_DEFAULT: usize = MIB;

/// The most bytes that a fetch may ask for.
pub const FETCH_BYTES_MAX: usize = 16 * MIB;

/// The longest that a fetch may wait for bytes, milliseconds.
pub const FETCH_WAIT_MS_MAX: u32 = 60_000;

/// Bytes of credit of a fetch stream that asks for none.
pub const FETCH_CREDIT_BYTES_DEFAULT: u64 = 8 * MIB as u64;

/// Bytes that a record in the plain form counts for beside its key, value and headers: its own memory.
pub const PLAIN_RECORD_BYTES: usize = 128;

/// Bytes that a header of such a record counts for beside its key and value.
pub const PLAIN_HEADER_BYTES: usize = 64;

/// Bytes of records in the plain form in one response. A batch that decompresses to more comes in several.
pub const PLAIN_BYTES_MAX: usize = FETCH_BYTES_MAX + BATCH_BYTES_MAX;

/// Bytes of records in the plain form in each piece of a batch that comes in pieces, unless the client asks for more:
/// with the other fields below the 4 MiB that most gRPC libraries accept by default.
pub const PLAIN_PIECE_BYTES: usize = 3 * MIB;

/// Room for a message's other fields beside its payload, bytes.
pub const MESSAGE_OVERHEAD_BYTES: usize = 64 * KIB;

/// Bytes of a request on the wire. Records in the plain form come uncompressed, so this is above the largest batch.
pub const REQUEST_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX + MESSAGE_OVERHEAD_BYTES;

/// Bytes of a response on the wire: the bytes asked for, and one batch that exceeds them.
pub const RESPONSE_BYTES_MAX: usize = FETCH_BYTES_MAX + BATCH_BYTES_MAX + MESSAGE_OVERHEAD_BYTES;

/// Bytes of a request that carries no records. The largest useful one names 10,000 partitions by the longest names.
pub const CONTROL_REQUEST_BYTES_MAX: usize = 4 * MIB;

/// Bytes of a message of a fetch stream, or to a service outside the contract (health, reflection): streams keep a
/// buffer for it, which has this size anyway.
pub const SHORT_REQUEST_BYTES_MAX: usize = 8 * KIB;

/// The largest request on a stream that consumes from a queue: 10,000 tokens with what becomes of their messages.
pub const QUEUE_CONSUME_BYTES_MAX: usize = 512 * KIB;

/// The largest request on a stream that sends to a queue. The broker keeps a buffer as large as that for as long as the stream lives, so
/// what is larger goes with a call of its own.
pub const QUEUE_STREAM_BYTES_MAX: usize = MIB + MESSAGE_OVERHEAD_BYTES;

/// Elements of repeated fields in one request: records and their headers in the plain form, partitions, names. An element
/// takes two bytes on the wire and up to 400 in memory.
pub const REQUEST_ELEMENTS_MAX: usize = 1 << 17;

/// Bytes of one text in a request: far more than any name may have, and so few that the parts of a request that are
/// kept stay small beside its payload.
pub const REQUEST_TEXT_BYTES_MAX: usize = 64 * KIB;

/// How long records are kept unless the topic sets another time, milliseconds: 7 days, Kafka's default.
pub const RETENTION_MS_DEFAULT: u64 = 7 * 24 * 60 * 60 * 1000;

/// How long tombstones are kept once they are compacted unless the topic sets another time, milliseconds: a day, Kafka's default.
pub const DELETE_RETENTION_MS_DEFAULT: u64 = 24 * 60 * 60 * 1000;

/// How far a record's own time may lie ahead of the leader's clock unless its topic sets another bound, milliseconds:
/// an hour, Kafka's default since 4.0.
pub const TIMESTAMP_AFTER_MAX_MS_DEFAULT: u64 = 60 * 60 * 1_000;

/// Bytes of log between two points to which it can be purged, unless the topic sets another distance. Each point costs
/// a checkpoint of the state, so they must stay a small part of the log.
pub const SEGMENT_BYTES_DEFAULT: u64 = 16 * MIB as u64;

/// The least distance between two purge points, bytes.
pub const SEGMENT_BYTES_MIN: u64 = 64 * KIB as u64;

/// The greatest distance between two purge points, bytes. Retention frees space in such steps.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * MIB as u64;

/// Queues of a cluster. Each is in every broker's memory, and in the metadata's snapshot.
pub const QUEUES_MAX: usize = 10_000;

/// Queues that read one topic. Each writes what its consumers do into the topic's partitions, where retention keeps it as long as
/// the records.
pub const QUEUES_PER_TOPIC_MAX: usize = 64;

/// Attempts after which a message of a queue becomes a dead letter, at most. The `maxReceiveCount` of SQS goes to 1,000.
pub const QUEUE_ATTEMPTS_MAX: u16 = 1_000;

/// The longest lease of a message, and the longest that it waits after a failure, milliseconds: 12 hours, as SQS has it.
pub const QUEUE_LEASE_MS_MAX: u64 = 12 * 3_600_000;

/// Priorities of a queue. AMQP's usual `x-max-priority: 10` has eleven, RabbitMQ 4.3 has 32.
pub const QUEUE_LANES: u8 = 32;

/// Deliveries of a hundred that lower priorities may have at most.
pub const QUEUE_MIN_SHARE_MAX: u8 = 50;

/// The longest delay and time to live of a message, milliseconds: ten years.
pub const QUEUE_DELAY_MS_MAX: u64 = 3_650 * 24 * 3_600_000;

/// The longest that a message is remembered so that a repetition is recognized, milliseconds: a day. Each message takes a row.
pub const QUEUE_DEDUP_WINDOW_MS_MAX: u64 = 24 * 3_600_000;

/// Dead letters that a partition of a queue may keep at most: each is about 32 bytes of a state that may have 64 MiB.
pub const QUEUE_DEAD_MAX: u64 = 1_000_000;

/// Exchanges of a cluster. Each is in every broker's memory, and in the metadata's snapshot.
pub const EXCHANGES_MAX: usize = 10_000;

/// Bindings of all exchanges of a cluster. Each is in every broker's memory, and in the metadata's snapshot.
pub const BINDINGS_MAX: usize = 100_000;

/// How long the log of an exchange keeps records that a queue has not settled, if nobody says, milliseconds: 14 days.
pub const EXCHANGE_LOG_RETENTION_MS: u64 = 14 * 86_400_000;

/// How many bytes of them each partition of the log keeps, if nobody says: 10 GiB.
pub const EXCHANGE_LOG_RETENTION_BYTES: u64 = 10 << 30;

/// Queues that are views over the log of one exchange: the slots that a partition may have.
pub const VIEWS_PER_EXCHANGE_MAX: usize = 1_000;

/// Bindings of one exchange. A change of one copies the set that they are in, and has their table compiled again.
pub const BINDINGS_PER_EXCHANGE_MAX: usize = 20_000;

/// Bytes of all bindings of a cluster, as they are counted: their keys and headers, and 64 bytes for each.
pub const BINDINGS_BYTES_MAX: usize = 64 * MIB;

/// Bindings that one request may make, or take away. Each is judged where it is applied, on every broker.
pub const BINDINGS_PER_REQUEST_MAX: usize = 1_000;

/// Bytes of a routing key, and of a pattern: AMQP's short string.
pub const ROUTING_KEY_BYTES_MAX: usize = 255;

/// Headers that one binding may ask for.
pub const BINDING_HEADERS_MAX: usize = 32;

/// Bytes of the names and values of the headers that one binding may ask for.
pub const BINDING_HEADERS_BYTES_MAX: usize = KIB;

/// Exchanges that one message may pass, its first one and alternate ones among them. It bounds what a message costs.
pub const EXCHANGES_PER_MESSAGE_MAX: usize = 64;

/// Messages that one request may publish. Each has an answer of its own.
pub const PUBLISH_MESSAGES_MAX: usize = 10_000;

/// Copies that the messages of one request may be together, one for each queue that a message is for: each has a place in the answer,
/// with the name of its queue.
pub const PUBLISH_COPIES_MAX: usize = 1 << 16;

/// Bytes of one chunk of a state machine's state, as it is stored and as it is sent to another broker. Neither end has more than a
/// few of them in memory.
pub const STATE_CHUNK_BYTES: usize = MIB;

/// Bytes of a state that is stored as one row; a larger one is stored in chunks. The state of a partition with as many producers as
/// it remembers is below it.
pub const STATE_ROW_BYTES_MAX: usize = 2 * MIB;

/// Bytes of the state in a snapshot that a broker takes from another. No state machine comes near; a peer that is wrong fills no
/// disk.
pub const SNAPSHOT_BYTES_MAX: u64 = 16 * 1024 * MIB as u64;

/// Bytes of snapshots that a broker has in memory while it receives them, over all groups. Beyond it, the sender tries again.
pub const SNAPSHOT_INFLIGHT_BYTES_MAX: usize = 256 * MIB;

/// How long a snapshot may make no progress on its way to another broker, milliseconds.
pub const SNAPSHOT_STALLED_MS_MAX: u64 = 30_000;

/// The slowest rate at which a broker reads the state of a snapshot that it has received, bytes for each millisecond. Its sender
/// waits for the answer accordingly longer.
pub const SNAPSHOT_RESTORE_BYTES_PER_MS_MIN: u64 = 4 * KIB as u64;

const _: () = {
    assert!(
        BatchHeader::LEN + RECORD_BYTES_MIN <= BATCH_BYTES_MIN,
        "the smallest limit lets a batch through"
    );
    assert!(BATCH_BYTES_MIN <= BATCH_BYTES_DEFAULT && BATCH_BYTES_DEFAULT <= BATCH_BYTES_MAX);
    assert!(
        BATCH_BYTES_MAX <= DECOMPRESSED_BYTES_MAX,
        "what fits unpacked also fits packed"
    );
    // A codec may make incompressible bytes a little larger; a batch's length is an i32.
    assert!(2 * DECOMPRESSED_BYTES_MAX <= i32::MAX as usize);
    assert!(
        RECORDS_PER_BATCH_MAX as usize * RECORD_BYTES_MIN <= DECOMPRESSED_BYTES_MAX,
        "the count is not out of reach"
    );
    assert!(FETCH_BYTES_DEFAULT <= FETCH_BYTES_MAX);
    assert!(
        BATCH_BYTES_MAX <= FETCH_BYTES_MAX,
        "a fetch can ask for the largest batch"
    );
    assert!(
        BATCH_BYTES_MAX + MESSAGE_OVERHEAD_BYTES <= REQUEST_BYTES_MAX,
        "the largest batch can be sent"
    );
    assert!(CONTROL_REQUEST_BYTES_MAX <= REQUEST_BYTES_MAX);
    assert!(10_000 * (TOPIC_NAME_BYTES_MAX + 64) <= CONTROL_REQUEST_BYTES_MAX);
    assert!(10_000 <= REQUEST_ELEMENTS_MAX);
    assert!(TOPIC_NAME_BYTES_MAX <= REQUEST_TEXT_BYTES_MAX);
    assert!(FETCH_BYTES_MAX + MESSAGE_OVERHEAD_BYTES <= RESPONSE_BYTES_MAX);
    assert!(PLAIN_BYTES_MAX + MESSAGE_OVERHEAD_BYTES <= RESPONSE_BYTES_MAX);
    assert!(PLAIN_PIECE_BYTES + MESSAGE_OVERHEAD_BYTES < 4 * MIB && PLAIN_PIECE_BYTES <= PLAIN_BYTES_MAX);
    assert!(
        PUBLISH_COPIES_MAX * (TOPIC_NAME_BYTES_MAX + 64) <= RESPONSE_BYTES_MAX,
        "a response has room for all places"
    );
    assert!(
        QUEUES_MAX <= PUBLISH_COPIES_MAX,
        "one message alone can always be published"
    );
    assert!(PRODUCE_TIMEOUT_MS_DEFAULT <= PRODUCE_TIMEOUT_MS_MAX);
    assert!(
        PRODUCERS_PER_PARTITION_MAX * 140 + MESSAGE_OVERHEAD_BYTES <= STATE_ROW_BYTES_MAX,
        "a partition's state is one row"
    );
    assert!(
        STATE_CHUNK_BYTES <= STATE_ROW_BYTES_MAX,
        "a state in chunks has more than one"
    );
    assert!(
        STATE_ROW_BYTES_MAX as u64 <= SNAPSHOT_BYTES_MAX
            && SNAPSHOT_BYTES_MAX / STATE_CHUNK_BYTES as u64 <= u32::MAX as u64,
        "chunks are counted in 32 bits"
    );
    assert!(
        8 * STATE_ROW_BYTES_MAX <= SNAPSHOT_INFLIGHT_BYTES_MAX,
        "several snapshots are received at once"
    );
    assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_DEFAULT && SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_MAX);
};
