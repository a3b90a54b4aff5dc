//! What can be called, under one name in metrics and, with each protocol, under its own.

macro_rules! operations {
    ($($variant:ident = $name:literal $access:ident $($carries:ident)?,)*) => {
        /// A method of the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Operation {
            $(#[doc = concat!("`", $name, "` of the contract.")] $variant,)*
        }

        impl Operation {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Service and method in the contract, which is how metrics name it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Whether it changes something: then a call that was not answered cannot be called refused.
            pub const fn changes(self) -> bool {
                match self {
                    $(Self::$variant => operations!(@$access),)*
                }
            }

            /// Whether its messages carry records. Those of all others only say what to do.
            pub const fn carries_records(self) -> bool {
                match self {
                    $(Self::$variant => operations!(@$($carries)?),)*
                }
            }
        }
    };
    (@changes) => { true };
    (@carries) => { true };
    (@reads) => { false };
    (@) => { false };
}

operations! {
    Produce = "LogService/Produce" changes carries,
    ProduceStream = "LogService/ProduceStream" changes carries,
    Fetch = "LogService/Fetch" reads,
    FetchStream = "LogService/FetchStream" reads,
    ListOffsets = "LogService/ListOffsets" reads,
    InitProducer = "LogService/InitProducer" changes,
    FindCoordinator = "GroupService/FindCoordinator" reads,
    Heartbeat = "GroupService/Heartbeat" changes,
    CommitOffsets = "GroupService/CommitOffsets" changes,
    FetchOffsets = "GroupService/FetchOffsets" reads,
    ListGroups = "GroupService/ListGroups" reads,
    DescribeGroup = "GroupService/DescribeGroup" reads,
    DeleteGroup = "GroupService/DeleteGroup" changes,
    DeleteOffsets = "GroupService/DeleteOffsets" changes,
    CreateTopic = "AdminService/CreateTopic" changes,
    ListTopics = "AdminService/ListTopics" reads,
    DescribeTopic = "AdminService/DescribeTopic" reads,
    AlterTopic = "AdminService/AlterTopic" changes,
    CreatePartitions = "AdminService/CreatePartitions" changes,
    DeleteTopic = "AdminService/DeleteTopic" changes,
    TrimPartition = "AdminService/TrimPartition" changes,
    DescribeCluster = "AdminService/DescribeCluster" reads,
    DescribePartitions = "AdminService/DescribePartitions" reads,
    TransferLeader = "AdminService/TransferLeader" changes,
    ReplaceBroker = "AdminService/ReplaceBroker" changes,
    RemoveBroker = "AdminService/RemoveBroker" changes,
    FindQueue = "QueueService/FindQueue" reads,
    Send = "QueueService/Send" changes carries,
    SendStream = "QueueService/SendStream" changes,
    Receive = "QueueService/Receive" changes,
    Settle = "QueueService/Settle" changes,
    Consume = "QueueService/Consume" changes,
    Cancel = "QueueService/Cancel" changes,
    Peek = "QueueService/Peek" reads,
    FindTransactionCoordinator = "TransactionService/FindTransactionCoordinator" reads,
    InitTransactions = "TransactionService/InitTransactions" changes,
    EndTransaction = "TransactionService/EndTransaction" changes,
    DescribeTransaction = "TransactionService/DescribeTransaction" reads,
    ListTransactions = "TransactionService/ListTransactions" reads,
    AbortTransaction = "TransactionService/AbortTransaction" changes,
    DescribeProducers = "TransactionService/DescribeProducers" reads,
    GetMetadata = "MetadataService/GetMetadata" reads,
    CreateQueue = "QueueAdminService/CreateQueue" changes,
    ListQueues = "QueueAdminService/ListQueues" reads,
    DescribeQueue = "QueueAdminService/DescribeQueue" reads,
    AlterQueue = "QueueAdminService/AlterQueue" changes,
    DeleteQueue = "QueueAdminService/DeleteQueue" changes,
    PurgeQueue = "QueueAdminService/PurgeQueue" changes,
    SeekQueue = "QueueAdminService/SeekQueue" changes,
    ListDead = "QueueAdminService/ListDead" reads,
    RedriveDead = "QueueAdminService/RedriveDead" changes,
    PurgeDead = "QueueAdminService/PurgeDead" changes,
    PutSchedule = "QueueAdminService/PutSchedule" changes,
    DeleteSchedule = "QueueAdminService/DeleteSchedule" changes,
    ListSchedules = "QueueAdminService/ListSchedules" reads,
    CreateExchange = "ExchangeService/CreateExchange" changes,
    ListExchanges = "ExchangeService/ListExchanges" reads,
    DescribeExchange = "ExchangeService/DescribeExchange" reads,
    DeleteExchange = "ExchangeService/DeleteExchange" changes,
    Bind = "ExchangeService/Bind" changes,
    Unbind = "ExchangeService/Unbind" changes,
    TraceMessage = "ExchangeService/TraceMessage" reads,
    Publish = "ExchangeService/Publish" changes carries,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jangada_proto::shape::Contract;

    use super::*;

    #[test]
    fn every_method_of_the_contract_is_an_operation() {
        let contract = Contract::new();
        let methods = contract.methods();
        let methods: BTreeSet<&str> = methods
            .iter()
            .map(|method| method.name.as_str())
            .filter(|name| !name.starts_with("InternalService/"))
            .collect();
        let operations = Operation::ALL.iter().map(|operation| operation.name());
        assert_eq!(methods, operations.collect());
    }
}
