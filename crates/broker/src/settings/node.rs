//! The top level of a broker's settings: its identity, and the sections.

use std::path::PathBuf;

use super::{
    ClusterSettings, CompactionSettings, GroupSettings, LimitSettings, ListenerSettings, LogSettings, MetricsSettings,
    Problem, ProduceSettings, RaftSettings, RepairSettings, RetentionSettings, Section, ShutdownSettings,
    StorageSettings, TransactionSettings, listeners,
};

/// The most seeds that a broker may list.
const SEEDS_MAX: usize = 100;

settings! {
    /// The broker's identity, its data directory and its cluster.
    BrokerSettings {
        keys {
            /// The broker's id, unique in the cluster. It is stored in the data directory and cannot be changed later. Required.
            broker_id: u32 = 0, range(1, 2_147_483_647);
            /// The directory for all data of the broker. A relative path is relative to the settings file's directory (without a
            /// file: to the working directory). Required.
            data_dir: PathBuf = PathBuf::new(), said("a directory that belongs to this broker alone");
            /// The failure domain (rack, zone) of the broker; the replicas of a partition are spread over racks. Empty: none.
            rack: String = String::new(), said("at most 255 bytes");
            /// Internal addresses (host:port) of the brokers that form the cluster, the same list on each of them. The first of
            /// them that reaches all the others forms the cluster. A broker that joins later lists any live brokers. A cluster of
            /// one lists its own internal address. Required.
            seeds: Vec<String> = Vec::new(), said("1 to 100 addresses host:port, none twice");
        }
        sections {
            /// The addresses where the broker listens.
            listeners: ListenerSettings;
            /// Timing of replication.
            raft: RaftSettings;
            /// Defaults and limits of the cluster.
            cluster: ClusterSettings;
            /// Memory and disk of the store.
            storage: StorageSettings;
            /// Detection and repair of damaged data.
            repair: RepairSettings;
            /// Limits of what clients may use at once.
            limits: LimitSettings;
            /// Defaults of producing.
            produce: ProduceSettings;
            /// Timing of consumer groups.
            groups: GroupSettings;
            /// Limits of transactions.
            transactions: TransactionSettings;
            /// Timing of retention.
            retention: RetentionSettings;
            /// Rate and memory of compaction by key.
            compaction: CompactionSettings;
            /// Limits of the number of series in `/metrics`.
            metrics: MetricsSettings;
            /// Timing of a clean stop.
            shutdown: ShutdownSettings;
            /// The broker's log lines.
            log: LogSettings;
        }
    }
}

impl BrokerSettings {
    /// All problems of the values: those out of bounds, and those that contradict each other.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_bounds("", &mut problems);
        self.check_own(&mut problems);
        self.listeners.check(&mut problems);
        self.raft.check(&mut problems);
        self.storage.check(&mut problems);
        self.limits.check(&mut problems);
        self.groups.check(&mut problems);
        self.log.check(&mut problems);
        problems
    }

    fn check_own(&self, problems: &mut Vec<Problem>) {
        if self.broker_id == 0 {
            problems.retain(|problem| problem.key != "broker_id");
            problems.push(Problem::new(
                "broker_id",
                "is required: the broker's id, 1 or more".to_owned(),
            ));
        }
        if self.data_dir.as_os_str().is_empty() {
            problems.push(Problem::new(
                "data_dir",
                "is required: the directory for the broker's data".to_owned(),
            ));
        }
        if self.rack.len() > 255 {
            problems.push(Problem::new(
                "rack",
                format!("has {} bytes, at most 255 are allowed", self.rack.len()),
            ));
        }
        if self.seeds.is_empty() {
            let message = "is required: the internal addresses of the brokers that form the cluster; a cluster of one lists its own";
            problems.push(Problem::new("seeds", message.to_owned()));
        }
        if self.seeds.len() > SEEDS_MAX {
            problems.push(Problem::new(
                "seeds",
                format!("lists {} addresses, at most {SEEDS_MAX} are allowed", self.seeds.len()),
            ));
        }
        for (i, seed) in self.seeds.iter().enumerate() {
            if let Err(why) = listeners::check_address(seed) {
                problems.push(Problem::new(
                    "seeds",
                    format!("lists {seed:?}, which is not an address host:port: {why}"),
                ));
            }
            if self.seeds[..i].contains(seed) {
                problems.push(Problem::new("seeds", format!("lists {seed} twice")));
            }
        }
    }
}
