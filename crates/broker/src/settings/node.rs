//! The whole of a broker's settings: who it is, and the sections.

use std::path::PathBuf;

use super::{
    ClusterSettings, GroupSettings, LimitSettings, ListenerSettings, LogSettings, MetricsSettings, Problem,
    ProduceSettings, RaftSettings, RepairSettings, RetentionSettings, Section, ShutdownSettings, StorageSettings,
    listeners,
};

/// Seeds that one broker may list.
const SEEDS_MAX: usize = 100;

settings! {
    /// Who the broker is and where its data lies.
    BrokerSettings {
        keys {
            /// The broker's id, unique in the cluster and for good: the data directory remembers it. Required.
            broker_id: u32 = 0, range(1, 2_147_483_647);
            /// The directory for everything that the broker keeps. A relative path starts at the settings file's
            /// directory (without a file: at the working directory). Required.
            data_dir: PathBuf = PathBuf::new(), said("a directory that belongs to this broker alone");
            /// The failure domain (rack, zone) that replicas are spread over. Empty: none.
            rack: String = String::new(), said("at most 255 bytes");
            /// Internal addresses (host:port) of the brokers that form the cluster, the same list on each of them; the
            /// first of them that reaches all the others forms it. A broker that joins later lists any live ones. A
            /// cluster of one lists its own internal address. Required.
            seeds: Vec<String> = Vec::new(), said("1 to 100 addresses host:port, none twice");
        }
        sections {
            /// Where it listens.
            listeners: ListenerSettings;
            /// Timing of replication.
            raft: RaftSettings;
            /// What the brokers see to together.
            cluster: ClusterSettings;
            /// Memory and disk of the store.
            storage: StorageSettings;
            /// Damage on the disk: how it is looked for, and what is done about it.
            repair: RepairSettings;
            /// What clients may ask for at once.
            limits: LimitSettings;
            /// Defaults of producing.
            produce: ProduceSettings;
            /// Consumer groups.
            groups: GroupSettings;
            /// When old records go.
            retention: RetentionSettings;
            /// What `/metrics` shows of what there may be many of.
            metrics: MetricsSettings;
            /// How it stops.
            shutdown: ShutdownSettings;
            /// What it logs.
            log: LogSettings;
        }
    }
}

impl BrokerSettings {
    /// Everything that is wrong with the values, bounds and relations.
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
