//! The reasons of the public API's errors, as in `ErrorInfo.reason`. `log.proto` says what each means and which gRPC
//! code it has.

use std::fmt;

/// The kind of an error, for callers that do not know its reason. Each protocol has a code for each kind, so a reason without
/// one does not compile. They are the canonical codes of gRPC that refusals use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// The request is wrong, whatever the state of the cluster.
    InvalidArgument,
    /// The object that the request names does not exist.
    NotFound,
    /// The object that the request is to create exists already.
    AlreadyExists,
    /// The request does not fit the present state, and would not fit it if it were repeated.
    FailedPrecondition,
    /// The request asks for an offset beyond those that can be read.
    OutOfRange,
    /// A resource is used up: memory, disk, places.
    ResourceExhausted,
    /// The request cannot be answered by this broker now.
    Unavailable,
    /// The request took too long, and its outcome is not known.
    DeadlineExceeded,
    /// Data is damaged or lost.
    DataLoss,
    /// The broker has a fault.
    Internal,
}

macro_rules! reasons {
    ($($category:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* })*) => {
        /// The reason why a request was refused or failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($($(#[$doc])* $variant,)*)*
        }

        impl Reason {
            /// All reasons, in the order of `log.proto`.
            pub const ALL: &[Self] = &[$($(Self::$variant),*),*];

            /// The reason's text in `ErrorInfo.reason`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($(Self::$variant => $text,)*)*
                }
            }

            /// The reason's category.
            pub const fn category(self) -> Category {
                match self {
                    $($(Self::$variant => Category::$category,)*)*
                }
            }

            /// The reason with this text in `ErrorInfo.reason`; `None` for one that a newer broker may have sent.
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($($text => Some(Self::$variant),)*)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    InvalidArgument {
        /// A field of the request is missing or out of its bounds.
        InvalidRequest = "INVALID_REQUEST",
        /// The batch breaks a rule of its format, or uses what is not supported.
        InvalidBatch = "INVALID_BATCH",
        /// The batch's checksum does not match: it was damaged on its way.
        CorruptBatch = "CORRUPT_BATCH",
        /// The batch is compressed with an unknown codec.
        UnsupportedCodec = "UNSUPPORTED_CODEC",
        /// The batch is larger than the topic allows.
        BatchTooLarge = "BATCH_TOO_LARGE",
        /// A single record is larger than the topic allows.
        RecordTooLarge = "RECORD_TOO_LARGE",
        /// The topic name is not allowed.
        InvalidTopicName = "INVALID_TOPIC_NAME",
        /// A setting is unknown or has a bad value.
        InvalidConfig = "INVALID_CONFIG",
        /// The number of partitions is not allowed.
        InvalidPartitions = "INVALID_PARTITIONS",
        /// The number of replicas cannot be placed.
        InvalidReplicas = "INVALID_REPLICAS",
        /// A timestamp is not allowed.
        InvalidTimestamp = "INVALID_TIMESTAMP",
        /// The group name is not allowed.
        InvalidGroupName = "INVALID_GROUP_NAME",
        /// The pattern of a subscription does not compile, or is too large.
        InvalidPattern = "INVALID_PATTERN",
        /// The member of a group subscribes to nothing.
        EmptySubscription = "EMPTY_SUBSCRIPTION",
        /// The text kept with a committed offset is too large.
        OffsetMetadataTooLarge = "OFFSET_METADATA_TOO_LARGE",
        /// The queue name is not allowed.
        InvalidQueueName = "INVALID_QUEUE_NAME",
        /// The token of a message is damaged, or is one of another queue.
        InvalidToken = "INVALID_TOKEN",
        /// A schedule has no occurrence, or cannot be read, or its message is too large.
        InvalidSchedule = "INVALID_SCHEDULE",
        /// The transactional id is empty or too long.
        InvalidTransactionalId = "INVALID_TRANSACTIONAL_ID",
        /// The timeout of a transaction is longer than the brokers allow.
        InvalidTransactionTimeout = "INVALID_TRANSACTION_TIMEOUT",
        /// A record without a key was sent to a topic that is compacted by key.
        KeyRequired = "KEY_REQUIRED",
        /// The exchange name is not allowed.
        InvalidExchangeName = "INVALID_EXCHANGE_NAME",
        /// A binding does not fit its exchange, or its routing key, pattern or headers break a rule.
        InvalidBinding = "INVALID_BINDING",
    }
    NotFound {
        /// There is no such topic, or no longer.
        UnknownTopic = "UNKNOWN_TOPIC",
        /// The topic has no such partition.
        UnknownPartition = "UNKNOWN_PARTITION",
        /// There is no such broker.
        UnknownBroker = "UNKNOWN_BROKER",
        /// There is no such consumer group.
        UnknownGroup = "UNKNOWN_GROUP",
        /// The group has no such member, or no longer: it must join again.
        UnknownMember = "UNKNOWN_MEMBER",
        /// There is no such queue, or no longer.
        UnknownQueue = "UNKNOWN_QUEUE",
        /// The queue has no schedule of the name.
        UnknownSchedule = "UNKNOWN_SCHEDULE",
        /// There is no such transactional id, or no longer.
        UnknownTransactionalId = "UNKNOWN_TRANSACTIONAL_ID",
        /// There is no such exchange, or no longer.
        UnknownExchange = "UNKNOWN_EXCHANGE",
    }
    AlreadyExists {
        /// There is a topic of that name already.
        TopicExists = "TOPIC_EXISTS",
        /// There is a queue of that name already.
        QueueExists = "QUEUE_EXISTS",
        /// There is an exchange of that name already.
        ExchangeExists = "EXCHANGE_EXISTS",
    }
    FailedPrecondition {
        /// This broker does not lead the partition.
        NotLeader = "NOT_LEADER",
        /// The client knows an older leader epoch.
        StaleLeaderEpoch = "STALE_LEADER_EPOCH",
        /// The client knows a newer leader epoch than this broker.
        UnknownLeaderEpoch = "UNKNOWN_LEADER_EPOCH",
        /// The batch does not follow its producer's last one.
        OutOfOrderSequence = "OUT_OF_ORDER_SEQUENCE",
        /// The batch was appended before, too long ago to tell its offsets.
        DuplicateSequence = "DUPLICATE_SEQUENCE",
        /// A newer epoch of the producer has written.
        ProducerFenced = "PRODUCER_FENCED",
        /// The partition no longer knows the producer.
        UnknownProducer = "UNKNOWN_PRODUCER",
        /// An idempotent batch must not be sent without asking for an answer.
        AcksNoneIdempotent = "ACKS_NONE_IDEMPOTENT",
        /// The member's epoch is not the one that it was given last: it must give up its partitions and join again.
        FencedMemberEpoch = "FENCED_MEMBER_EPOCH",
        /// The commit has another epoch than its member: a heartbeat gives the right one.
        StaleMemberEpoch = "STALE_MEMBER_EPOCH",
        /// Another process has taken the static member's place.
        FencedInstanceId = "FENCED_INSTANCE_ID",
        /// A live member has the instance id.
        UnreleasedInstanceId = "UNRELEASED_INSTANCE_ID",
        /// The member committed for a partition that it does not own.
        PartitionNotOwned = "PARTITION_NOT_OWNED",
        /// The group has members.
        GroupNotEmpty = "GROUP_NOT_EMPTY",
        /// The end offset, or the last offset of the key, is not the one that the batch expects.
        ConditionFailed = "CONDITION_FAILED",
        /// The batch expects an offset of its key, and the topic keeps no index of keys.
        NoKeyIndex = "NO_KEY_INDEX",
        /// The call is not for queues of this kind, or not for the topic of a queue.
        WrongQueueKind = "WRONG_QUEUE_KIND",
        /// Queues read the topic.
        TopicHasQueues = "TOPIC_HAS_QUEUES",
        /// The lease of the message has run out, and somebody else has it, or it is dead.
        LeaseLost = "LEASE_LOST",
        /// The message is with a consumer.
        InFlight = "IN_FLIGHT",
        /// The queue hands out nothing.
        QueuePaused = "QUEUE_PAUSED",
        /// The transaction is not in a state in which this can be done to it.
        InvalidTransactionState = "INVALID_TRANSACTION_STATE",
        /// The transaction was aborted: it was open for longer than its timeout, or an operator ended it.
        TransactionTimedOut = "TRANSACTION_TIMED_OUT",
        /// The exchange has bindings, and was to be deleted only without.
        ExchangeInUse = "EXCHANGE_IN_USE",
        /// The exchange takes messages from other exchanges only.
        ExchangeInternal = "EXCHANGE_INTERNAL",
        /// No queue is bound for the message, which was to be in at least one.
        Unroutable = "UNROUTABLE",
    }
    OutOfRange {
        /// The offset is below the log start or above the high watermark.
        OffsetOutOfRange = "OFFSET_OUT_OF_RANGE",
    }
    ResourceExhausted {
        /// The partition's queue is full.
        PartitionBusy = "PARTITION_BUSY",
        /// The broker's memory for requests is used up.
        BrokerBusy = "BROKER_BUSY",
        /// The disk is down to its reserve.
        DiskFull = "DISK_FULL",
        /// The client has too many streams.
        TooManyStreams = "TOO_MANY_STREAMS",
        /// The group has as many members as it may.
        GroupFull = "GROUP_FULL",
        /// The coordinator has as many groups as it may.
        TooManyGroups = "TOO_MANY_GROUPS",
        /// A broker would have more replicas than it may.
        TooManyReplicas = "TOO_MANY_REPLICAS",
        /// The topic, or the cluster, has as many queues as it may.
        TooManyQueues = "TOO_MANY_QUEUES",
        /// The queue has as many messages, or bytes, as it may.
        QueueFull = "QUEUE_FULL",
        /// A consumer group or queue lags more than the topic allows.
        GroupLag = "GROUP_LAG",
        /// The queues of the partition have as much state as they may.
        SlotStateFull = "SLOT_STATE_FULL",
        /// The partition has as many schedules of queues as it may.
        TooManySchedules = "TOO_MANY_SCHEDULES",
        /// The cluster has as many exchanges as it may.
        TooManyExchanges = "TOO_MANY_EXCHANGES",
        /// The exchange, or the cluster, has as many bindings as it may.
        TooManyBindings = "TOO_MANY_BINDINGS",
        /// The coordinator has as many transactional ids as it may, or a transaction as many partitions or groups.
        TooManyTransactionalIds = "TOO_MANY_TRANSACTIONAL_IDS",
    }
    Unavailable {
        /// The partition has no leader at the moment.
        LeaderNotAvailable = "LEADER_NOT_AVAILABLE",
        /// The broker or the leader is still starting.
        NotReady = "NOT_READY",
        /// The broker is stopping.
        ShuttingDown = "SHUTTING_DOWN",
        /// The broker's store failed and takes no more writes.
        StoreFenced = "STORE_FENCED",
        /// The group changed while the request was under way.
        GroupChanged = "GROUP_CHANGED",
        /// The transaction before is still being ended.
        ConcurrentTransactions = "CONCURRENT_TRANSACTIONS",
        /// An open transaction has offsets of the partition.
        UnstableOffsets = "UNSTABLE_OFFSETS",
    }
    DeadlineExceeded {
        /// The quorum did not confirm in time; the outcome is unknown.
        QuorumTimeout = "QUORUM_TIMEOUT",
    }
    DataLoss {
        /// The replica's data is damaged: records that are there on other replicas are missing or unreadable on this one.
        DataCorrupted = "DATA_CORRUPTED",
    }
    Internal {
        /// The broker has a fault.
        Internal = "INTERNAL",
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lead_back_to_their_reason() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse(""), None);
        assert_eq!(Reason::parse("not_leader"), None);
    }

    /// Reads the table in the head of `log.proto`: after each gRPC code come the reasons that have it.
    #[test]
    fn reasons_are_those_of_the_contract_under_the_code_of_their_category() {
        let proto = include_str!("../../../proto/jangada/v1/log.proto");
        let table = proto
            .lines()
            .skip_while(|l| *l != "// Reasons, by code:")
            .skip(1)
            .take_while(|l| l.starts_with("//"));
        let mut code = String::new();
        let mut documented = Vec::new();
        for line in table {
            let (before, reasons) = line.split_at_checked(CODE_COLUMN_END).unwrap_or((line, ""));
            // A code may have several lines.
            match before.trim_start_matches('/').trim() {
                "" => {}
                next => next.clone_into(&mut code),
            }
            let names = reasons
                .split(',')
                .map(|entry| entry.split('(').next().unwrap_or("").trim());
            documented.extend(
                names
                    .filter(|name| !name.is_empty())
                    .map(|name| (name, code.replace('_', ""))),
            );
        }
        let ours = Reason::ALL
            .iter()
            .map(|reason| (reason.as_str(), format!("{:?}", reason.category()).to_uppercase()));
        assert_eq!(documented, ours.collect::<Vec<_>>());
    }

    /// Behind `//   `, a code of 19 letters at most, and two spaces.
    const CODE_COLUMN_END: usize = 2 + 3 + 19 + 2;
}
