//! What the brokers see to together.

settings! {
    /// What the brokers see to together.
    ClusterSettings {
        keys {
            /// Partitions of a topic that is created without a number. With one, records come in the order in which they were
            /// written.
            default_partitions: u32 = 1, range(1, 10_000);
            /// Replicas of a topic that is created without a number; with fewer brokers, as many as there are.
            default_replicas: u32 = 3, range(1, 40);
            /// A leadership goes to the partition's preferred leader, the first of its replicas, when that one has
            /// been alive and in sync for so long under another leader, milliseconds. 0: never, each leadership stays
            /// where an election or an operator put it.
            preferred_leader_after_ms: u64 = 30_000, range(0, 3_600_000);
            /// Replicas that a broker may have. A topic or more partitions that would give one more are refused with
            /// TOO_MANY_REPLICAS. Each costs memory and CPU also when nobody uses it; the coordinator's shards are not
            /// held to it.
            replicas_per_broker_max: u32 = 3_000, range(1, 1_000_000);
        }
        sections {}
    }
}
