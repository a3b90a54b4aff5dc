//! Settings of the cluster as a whole.

settings! {
    /// Defaults and limits of the cluster. Each broker applies its own values, so all brokers should have the same.
    ClusterSettings {
        keys {
            /// Number of partitions of a topic that is created without one. A topic with one partition keeps all records in the
            /// order in which they were written.
            default_partitions: u32 = 1, range(1, 10_000);
            /// Number of replicas of a topic that is created without one; in a cluster with fewer brokers, one on each.
            default_replicas: u32 = 3, range(1, 40);
            /// A partition's leadership moves to the preferred leader, the first of its replicas, once that one has been alive
            /// and in sync under another leader for this long, milliseconds. 0: never, leaderships stay where an election or an
            /// operator put them.
            preferred_leader_after_ms: u64 = 30_000, range(0, 3_600_000);
            /// Replicas that one broker may have. Creating topics or partitions that would give a broker more is refused with
            /// TOO_MANY_REPLICAS. Each replica costs memory and CPU also when it is idle. The coordinator's shards do not count.
            replicas_per_broker_max: u32 = 3_000, range(1, 1_000_000);
        }
        sections {}
    }
}
