//! The ports and settings of the nodes of `up`. Pure: it does no I/O.

use std::fmt::Write as _;

use super::super::node::ClusterPlan;

/// Distance from a node's public port to its internal one.
const INTERNAL: u16 = 40;

/// Distance from a node's public port to its HTTP one.
const HTTP: u16 = 80;

/// Most nodes whose ports fit between two kinds of ports.
pub const NODES_MAX: u16 = INTERNAL;

const _: () = assert!(
    HTTP >= INTERNAL + NODES_MAX,
    "the internal ports end before the HTTP ports begin"
);

/// The ports of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub public: u16,
    pub internal: u16,
    pub http: u16,
}

impl Ports {
    /// The ports of node `id`, from 1 on.
    pub fn of(plan: ClusterPlan, id: u16) -> Ports {
        assert!((1..=NODES_MAX).contains(&id), "node ids are from 1 to {NODES_MAX}");
        let public = plan.port + id - 1;
        Ports {
            public,
            internal: public + INTERNAL,
            http: public + HTTP,
        }
    }

    /// The addresses to listen on, by key.
    pub fn addresses(self) -> [(&'static str, String); 3] {
        [
            ("public", self.public),
            ("internal", self.internal),
            ("http", self.http),
        ]
        .map(|(key, port)| (key, format!("127.0.0.1:{port}")))
    }
}

/// The text of node `id`'s settings file.
pub fn settings(plan: ClusterPlan, id: u16) -> String {
    let Ports { public, internal, http } = Ports::of(plan, id);
    let seeds = (1..=plan.nodes).map(|node| format!("\"127.0.0.1:{}\"", Ports::of(plan, node).internal));
    let seeds = seeds.collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    let written = write!(
        text,
        "# Node {id} of {}, written by `jangada up` and never again: changes are kept.\n\
         # `jangada server reference` lists all settings.\n\
         broker_id = {id}\n\
         data_dir = \"data\"\n\
         seeds = [{seeds}]\n\
         \n\
         [listeners]\n\
         public = \"127.0.0.1:{public}\"\n\
         internal = \"127.0.0.1:{internal}\"\n\
         http = \"127.0.0.1:{http}\"\n",
        plan.nodes
    );
    written.expect("writing to a string does not fail");
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jangada_broker::settings::Layers;

    use super::*;

    #[test]
    fn node_i_has_the_documented_ports() {
        let plan = ClusterPlan { nodes: 3, port: 9400 };
        assert_eq!(
            Ports::of(plan, 1),
            Ports {
                public: 9400,
                internal: 9440,
                http: 9480
            }
        );
        assert_eq!(
            Ports::of(plan, 3),
            Ports {
                public: 9402,
                internal: 9442,
                http: 9482
            }
        );
    }

    #[test]
    fn no_two_listeners_share_a_port() {
        let plan = ClusterPlan {
            nodes: NODES_MAX,
            port: 9400,
        };
        let ports: BTreeSet<u16> = (1..=NODES_MAX)
            .map(|id| Ports::of(plan, id))
            .flat_map(|p| [p.public, p.internal, p.http])
            .collect();
        assert_eq!(ports.len(), 3 * usize::from(NODES_MAX));
    }

    #[test]
    fn the_settings_pass_the_check() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("jangada.toml");
        let plan = ClusterPlan { nodes: 3, port: 9400 };
        std::fs::write(&file, settings(plan, 2)).expect("the file");
        let loaded = Layers {
            file: Some(file),
            ..Layers::default()
        }
        .load()
        .expect("the settings are valid");
        assert_eq!(loaded.settings.broker_id, 2);
        assert_eq!(loaded.settings.data_dir, directory.path().join("data"));
        assert_eq!(
            loaded.settings.seeds,
            ["127.0.0.1:9440", "127.0.0.1:9441", "127.0.0.1:9442"]
        );
        assert_eq!(loaded.settings.listeners.http().bind, "127.0.0.1:9481");
    }
}
