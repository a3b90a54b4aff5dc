//! What settings accept and refuse, and how they say it.

use std::path::{Path, PathBuf};

use super::*;

/// A file that passes, as short as it can be.
const MINIMAL: &str = "broker_id = 1\ndata_dir = \"data\"\nseeds = [\"127.0.0.1:9440\"]\n";

struct Scenario {
    directory: tempfile::TempDir,
    layers: Layers,
}

impl Scenario {
    fn new(text: &str) -> Scenario {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("jangada.toml");
        std::fs::write(&path, text).expect("the settings file");
        Scenario {
            directory,
            layers: Layers {
                file: Some(path),
                ..Layers::default()
            },
        }
    }

    fn variable(mut self, name: &str, value: &str) -> Scenario {
        self.layers.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn flag(mut self, flag: &str) -> Scenario {
        self.layers.flags.push(flag.to_owned());
        self
    }

    fn accepted(&self) -> Loaded {
        self.layers.load().expect("the settings are accepted")
    }

    /// The refusal, the directory cut out.
    fn refused(&self) -> String {
        let error = self.layers.load().expect_err("the settings are refused").to_string();
        error.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

#[test]
fn the_defaults_hold_with_the_required_keys() {
    let scenario = Scenario::new(MINIMAL);
    let settings = scenario.accepted().settings;
    assert_eq!(settings.broker_id, 1);
    assert_eq!(settings.data_dir, scenario.directory.path().join("data"));
    assert_eq!(settings.raft, RaftSettings::default());
    assert_eq!(settings.listeners.public().address(), "127.0.0.1:9400");
}

#[test]
fn later_layers_win() {
    let scenario = Scenario::new(&format!(
        "{MINIMAL}[raft]\nheartbeat_ms = 100\nelection_timeout_min_ms = 510\nelection_timeout_max_ms = 900\n"
    ))
    .variable("JANGADA__RAFT__HEARTBEAT_MS", "110")
    .variable("JANGADA__RAFT__ELECTION_TIMEOUT_MIN_MS", "520")
    .variable("JANGADA_BROKERS", "not a setting")
    .flag("raft.heartbeat_ms=120");
    let loaded = scenario.accepted();
    let raft = &loaded.settings.raft;
    assert_eq!(
        (
            raft.heartbeat_ms,
            raft.election_timeout_min_ms,
            raft.election_timeout_max_ms
        ),
        (120, 520, 900)
    );
    let source = |key: &str| {
        loaded
            .rows()
            .into_iter()
            .find(|row| row.key == key)
            .expect("the key has a row")
            .source
    };
    assert_eq!(source("raft.heartbeat_ms"), "flag --set raft.heartbeat_ms=120");
    assert_eq!(
        source("raft.election_timeout_min_ms"),
        "environment JANGADA__RAFT__ELECTION_TIMEOUT_MIN_MS"
    );
    assert!(source("raft.election_timeout_max_ms").ends_with("jangada.toml:7"));
    assert_eq!(source("storage.wal_bytes"), "default");
}

#[test]
fn every_kind_of_value_comes_through_variables_and_flags() {
    let scenario = Scenario::new("")
        .variable("JANGADA__BROKER_ID", "7")
        .variable("JANGADA__SEEDS", "a:1,b:2")
        .variable("JANGADA__RACK", "1")
        .flag("data_dir=/srv/jangada")
        .flag("log.format=json");
    let settings = scenario.accepted().settings;
    assert_eq!(settings.seeds, ["a:1", "b:2"]);
    assert_eq!(settings.rack, "1");
    assert_eq!(settings.data_dir, Path::new("/srv/jangada"));
    assert_eq!(settings.log.format, LogFormat::Json);
    let flags = Scenario::new(MINIMAL).flag("seeds=c:3, d:4").accepted().settings;
    assert_eq!(flags.seeds, ["c:3", "d:4"]);
}

#[test]
fn times_and_sizes_may_have_units_in_every_layer() {
    let scenario = Scenario::new(&format!(
        "{MINIMAL}[storage]\ntail_bytes = \"64MiB\"\nwal_bytes = 268435456\n[groups]\noffsets_retention_ms = \"30d\"\n"
    ))
    .variable("JANGADA__STORAGE__RECLAIM_INTERVAL_MS", "2s")
    .variable("JANGADA__STORAGE__TAIL_BYTES", "32MiB")
    .flag("storage.disk_reserve_bytes=1.5GiB")
    .flag("groups.batch_window_ms_max=3s");
    let loaded = scenario.accepted();
    let (storage, groups) = (&loaded.settings.storage, &loaded.settings.groups);
    assert_eq!(
        (storage.tail_bytes, storage.wal_bytes, storage.disk_reserve_bytes),
        (32 << 20, 256 << 20, 3 << 29)
    );
    assert_eq!(
        (
            storage.reclaim_interval_ms,
            groups.offsets_retention_ms,
            groups.batch_window_ms_max
        ),
        (2000, 2_592_000_000, 3000)
    );
    let rows = loaded.rows();
    let row = rows.iter().find(|row| row.key == "groups.offsets_retention_ms");
    let row = row.expect("the key has a row");
    assert_eq!(
        (row.value.as_str(), row.readable.as_str()),
        ("2592000000", "2592000000 (30d)")
    );
}

#[test]
fn a_wrong_unit_is_refused_with_its_place() {
    let text = format!(
        "{MINIMAL}[storage]\ntail_bytes = \"1G\"\nread_threads = \"4\"\n[groups]\noffsets_retention_ms = \"400d\"\n"
    );
    let refusal = Scenario::new(&text)
        .flag("cluster.preferred_leader_after_ms=5m")
        .refused();
    for expected in [
        "`storage.tail_bytes` is \"1G\": the unit \"G\" is ambiguous, write GiB",
        "(jangada.toml:5)",
        "`storage.read_threads` has a value of the wrong type",
        "`groups.offsets_retention_ms` is 400d, must be 1s to 365d (jangada.toml:8)",
        "`cluster.preferred_leader_after_ms` is \"5m\"",
        "min for minutes",
    ] {
        assert!(refusal.contains(expected), "{expected} is missing from\n{refusal}");
    }
}

/// The name tells whether a value may have a unit, so names and words must agree.
#[test]
fn each_key_is_named_for_what_it_counts() {
    for key in BrokerSettings::keys("")
        .into_iter()
        .filter(|key| key.kind == Kind::Integer)
    {
        let says = |word: &str| key.documentation.to_lowercase().contains(word);
        match key.quantity() {
            Some(jangada_types::Quantity::Time) => assert!(says("milliseconds"), "{} does not say its unit", key.name),
            Some(jangada_types::Quantity::Bytes) => assert!(says("bytes"), "{} does not say its unit", key.name),
            None => assert!(
                !says(", milliseconds") && !says(", bytes"),
                "{} is not named for its unit",
                key.name
            ),
        }
    }
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_one() {
    let text = format!("{MINIMAL}[raft]\nheartbeat_mss = 100\n[wombat]\nx = 1\n");
    let refusal = Scenario::new(&text).refused();
    assert!(
        refusal.contains("`raft.heartbeat_mss` does not exist; did you mean `raft.heartbeat_ms`? (jangada.toml:5)"),
        "{refusal}"
    );
    assert!(refusal.contains("`wombat` does not exist"), "{refusal}");
    assert!(refusal.contains("jangada.toml:6"), "{refusal}");
    let misplaced = Scenario::new(&format!("heartbeat_ms = 5\n{MINIMAL}")).refused();
    assert!(
        misplaced.contains("did you mean `raft.heartbeat_ms`? (jangada.toml:1)"),
        "{misplaced}"
    );
    let variable = Scenario::new(MINIMAL)
        .variable("JANGADA__RAFT__HEARTBEAT", "1")
        .refused();
    assert!(
        variable.contains("did you mean `raft.heartbeat_ms`? (environment JANGADA__RAFT__HEARTBEAT)"),
        "{variable}"
    );
    let flag = Scenario::new(MINIMAL).flag("loggs.format=json").refused();
    assert!(flag.contains("did you mean `log.format`?"), "{flag}");
}

#[test]
fn wrong_types_and_syntax_name_their_line() {
    let text = "broker_id = \"one\"\ndata_dir = 3\nseeds = [1]\nraft = 5\n[limits]\nstreams_max = -1\n";
    let refusal = Scenario::new(text).refused();
    for expected in [
        "`broker_id` has a value of the wrong type, must be a TOML integer (jangada.toml:1)",
        "`data_dir` has a value of the wrong type, must be a TOML string (jangada.toml:2)",
        "`seeds` has a value of the wrong type, must be a TOML list of strings (jangada.toml:3)",
        "`raft` is a section, not a key (jangada.toml:4)",
        "`limits.streams_max` is -1, must be 1 to 1000000 (jangada.toml:6)",
    ] {
        assert!(refusal.contains(expected), "{expected} is missing from\n{refusal}");
    }
    let syntax = Scenario::new("broker_id = 1\nbroker_id = 2\n").refused();
    assert!(
        syntax.contains("not valid TOML") && syntax.contains("line 2"),
        "{syntax}"
    );
    let flag = Scenario::new(MINIMAL).flag("broker_id=x").flag("rack").refused();
    assert!(flag.contains("`broker_id` is \"x\", must be a whole number"), "{flag}");
    assert!(flag.contains("`rack` has no value: write section.key=value"), "{flag}");
}

#[test]
fn bounds_and_relations_are_checked_with_their_place() {
    let text =
        format!("{MINIMAL}[raft]\nheartbeat_ms = 300\nelection_timeout_max_ms = 350\n[storage]\nread_threads = 0\n");
    let refusal = Scenario::new(&text).refused();
    for expected in [
        "`raft.election_timeout_min_ms` is 400, must be at least twice raft.heartbeat_ms (300)",
        "`raft.election_timeout_max_ms` is 350, must be above raft.election_timeout_min_ms (400)",
        "(jangada.toml:6)",
        "`storage.read_threads` is 0, must be 1 to 64 (jangada.toml:8)",
    ] {
        assert!(refusal.contains(expected), "{expected} is missing from\n{refusal}");
    }
}

#[test]
fn required_keys_are_asked_for() {
    let refusal = Scenario::new("").refused();
    for key in ["broker_id", "data_dir", "seeds"] {
        assert!(refusal.contains(&format!("`{key}` is required")), "{refusal}");
    }
    assert!(!refusal.contains("must be 1 to"), "{refusal}");
}

#[test]
fn addresses_are_checked() {
    let base = "broker_id = 1\ndata_dir = \"data\"\n";
    let refusal = Scenario::new(&format!(
        "{base}seeds = [\"a\", \"b:0\", \"c:1\", \"c:1\", \"::1:5\"]\n[listeners]\n\
         public = \"localhost:1\"\ninternal = \"0.0.0.0:9480\"\nhttp = \"0.0.0.0:9480\"\n"
    ))
    .refused();
    for expected in [
        "\"a\", which is not an address host:port: the port is missing",
        "port 0",
        "lists c:1 twice",
        "needs brackets",
        "`listeners.public` is \"localhost:1\"",
        "`listeners.internal_advertised` is required",
        "`listeners.http` is 0.0.0.0:9480, which listeners.internal uses already",
    ] {
        assert!(refusal.contains(expected), "{expected} is missing from\n{refusal}");
    }
    let named = Scenario::new(&format!(
        "{base}seeds = [\"[::1]:5\", \"node-1.example:9440\"]\n[listeners]\n\
         public = \"0.0.0.0:9400\"\npublic_advertised = \"node-1.example:9400\"\n"
    ));
    assert_eq!(
        named.accepted().settings.listeners.public().address(),
        "node-1.example:9400"
    );
}

#[test]
fn the_older_form_of_listeners_means_what_it_did() {
    let older = Scenario::new(&format!(
        "{MINIMAL}[listeners]\npublic = \"0.0.0.0:1\"\npublic_advertised = \"a.example:1\"\ninternal = \"127.0.0.1:2\"\n\
         internal_advertised = \"b.example:2\"\nhttp = \"127.0.0.1:3\"\n"
    ));
    let newer = Scenario::new(&format!(
        "{MINIMAL}[listeners.public]\nbind = \"0.0.0.0:1\"\nadvertised = \"a.example:1\"\n[listeners.internal]\n\
         bind = \"127.0.0.1:2\"\nadvertised = \"b.example:2\"\n[listeners.http]\nbind = \"127.0.0.1:3\"\n"
    ));
    let listeners = older.accepted().settings.listeners;
    assert_eq!(listeners, newer.accepted().settings.listeners);
    assert_eq!(listeners.public().address(), "a.example:1");
    assert_eq!(listeners.internal().address(), "b.example:2");
    let flags = Scenario::new(MINIMAL)
        .variable("JANGADA__LISTENERS__PUBLIC", "0.0.0.0:1")
        .variable("JANGADA__LISTENERS__PUBLIC_ADVERTISED", "a.example:1")
        .flag("listeners.internal=127.0.0.1:2")
        .flag("listeners.internal_advertised=b.example:2")
        .flag("listeners.http=127.0.0.1:3");
    assert_eq!(flags.accepted().settings.listeners, listeners);
    let rows = older.accepted().rows();
    let row = |key: &str| rows.iter().find(|row| row.key == key).expect("the key has a row");
    let advertised = row("listeners.public.advertised");
    assert_eq!(advertised.value, "\"a.example:1\"");
    assert!(advertised.source.ends_with("jangada.toml:6"), "{}", advertised.source);
    assert_eq!(row("listeners.http.protocol").value, "\"http\"");
}

#[test]
fn later_layers_win_over_a_listener_in_either_form() {
    let file = |listeners: &str| Scenario::new(&format!("{MINIMAL}{listeners}"));
    let older = file("[listeners]\npublic = \"127.0.0.1:1\"\n").flag("listeners.public=127.0.0.1:2");
    assert_eq!(older.accepted().settings.listeners.public().bind, "127.0.0.1:2");
    let newer = file("[listeners.public]\nbind = \"127.0.0.1:1\"\n")
        .variable("JANGADA__LISTENERS__PUBLIC__BIND", "127.0.0.1:2");
    assert_eq!(newer.accepted().settings.listeners.public().bind, "127.0.0.1:2");
}

#[test]
fn a_layer_overrides_another_one_that_has_the_other_form_of_a_listener() {
    let public = |scenario: &Scenario| scenario.accepted().settings.listeners.public().clone();
    let older = || {
        Scenario::new(&format!(
            "{MINIMAL}[listeners]\npublic = \"0.0.0.0:1\"\npublic_advertised = \"a.example:1\"\n"
        ))
    };
    let changed = older()
        .variable("JANGADA__LISTENERS__PUBLIC__BIND", "0.0.0.0:2")
        .flag("listeners.public.advertised=b.example:2");
    assert_eq!(
        (public(&changed).bind.as_str(), public(&changed).address()),
        ("0.0.0.0:2", "b.example:2")
    );
    let half = older().variable("JANGADA__LISTENERS__PUBLIC__BIND", "0.0.0.0:2");
    assert_eq!(
        (public(&half).bind.as_str(), public(&half).address()),
        ("0.0.0.0:2", "a.example:1")
    );
    let rows = half.accepted().rows();
    let bind = rows.iter().find(|row| row.key == "listeners.public.bind");
    assert_eq!(
        bind.expect("the key has a row").source,
        "environment JANGADA__LISTENERS__PUBLIC__BIND"
    );
    let newer = Scenario::new(&format!("{MINIMAL}[listeners.public]\nbind = \"0.0.0.0:1\"\n"))
        .variable("JANGADA__LISTENERS__PUBLIC_ADVERTISED", "a.example:1")
        .flag("listeners.public=127.0.0.1:2");
    assert_eq!(
        (public(&newer).bind.as_str(), public(&newer).address()),
        ("127.0.0.1:2", "a.example:1")
    );
}

#[test]
fn a_wrong_listener_is_named_in_the_form_of_the_layer_that_set_it() {
    let refusal = Scenario::new(&format!("{MINIMAL}[listeners]\npublic = \"0.0.0.0:1\"\n"))
        .variable("JANGADA__LISTENERS__PUBLIC__BIND", "localhost:2")
        .refused();
    assert!(
        refusal.starts_with("setting `listeners.public.bind` is \"localhost:2\""),
        "{refusal}"
    );
    assert!(
        refusal.ends_with("(environment JANGADA__LISTENERS__PUBLIC__BIND)"),
        "{refusal}"
    );
    let refusal = Scenario::new(&format!("{MINIMAL}[listeners.public]\nbind = \"127.0.0.1:1\"\n"))
        .flag("listeners.public=0.0.0.0:2")
        .refused();
    assert!(
        refusal.starts_with("setting `listeners.public_advertised` is required"),
        "{refusal}"
    );
}

#[test]
fn a_variable_reaches_a_listener_of_any_name() {
    for name in ["inside", "a__b", "a_", "a__", "a__bind", "a-b", "advertised"] {
        let variable = |field: &str| format!("JANGADA__LISTENERS__{}__{field}", name.to_uppercase());
        let scenario = Scenario::new(&format!("{MINIMAL}[listeners.{name}]\nbind = \"127.0.0.1:1\"\n"))
            .variable(&variable("BIND"), "127.0.0.1:2")
            .variable(&variable("ADVERTISED"), "a.example:2");
        let listeners = scenario.accepted().settings.listeners;
        let others: Vec<_> = listeners.others_registered().collect();
        let [(found, listener)] = others[..] else {
            panic!("{name}: {others:?}")
        };
        assert_eq!(
            (found, listener.bind.as_str(), listener.address()),
            (name, "127.0.0.1:2", "a.example:2")
        );
    }
    let unknown = Scenario::new(MINIMAL)
        .variable("JANGADA__LISTENERS__A-B__BNID", "127.0.0.1:1")
        .refused();
    assert!(
        unknown.contains("`listeners.a-b.bnid` does not exist; did you mean `listeners.a-b.bind`?"),
        "{unknown}"
    );
}

#[test]
fn one_listener_in_both_forms_is_refused() {
    let in_file = Scenario::new(&format!(
        "{MINIMAL}[listeners]\npublic_advertised = \"a.example:1\"\n[listeners.public]\nbind = \"127.0.0.1:1\"\n"
    ));
    let refusal = in_file.refused();
    let expected = "setting `listeners.public.bind` and `listeners.public_advertised` (jangada.toml:5) are the newer and the older \
                    form of settings of one listener: use one of the forms (jangada.toml:7)";
    assert!(refusal.contains(expected), "{refusal}");
    let variables = Scenario::new(MINIMAL)
        .variable("JANGADA__LISTENERS__INTERNAL", "127.0.0.1:1")
        .variable("JANGADA__LISTENERS__INTERNAL__BIND", "127.0.0.1:1")
        .refused();
    assert!(variables.contains("one of the forms"), "{variables}");
    let flags = Scenario::new(MINIMAL)
        .flag("listeners.internal.advertised=a.example:1")
        .flag("listeners.internal=127.0.0.1:1")
        .refused();
    assert!(flags.contains("one of the forms"), "{flags}");
    // Another listener in the other form does no harm.
    let mixed = Scenario::new(&format!(
        "{MINIMAL}[listeners]\npublic = \"127.0.0.1:1\"\n[listeners.http]\nbind = \"127.0.0.1:3\"\n"
    ));
    assert_eq!(mixed.accepted().settings.listeners.http().bind, "127.0.0.1:3");
}

#[test]
fn there_may_be_more_listeners_of_one_protocol() {
    let scenario = Scenario::new(&format!(
        "{MINIMAL}[listeners.inside]\nbind = \"0.0.0.0:9500\"\nadvertised = \"in.example:9500\"\n"
    ))
    .variable("JANGADA__LISTENERS__PROBES__PROTOCOL", "http")
    .variable("JANGADA__LISTENERS__PROBES__BIND", "127.0.0.1:9481");
    let listeners = scenario.accepted().settings.listeners;
    let names: Vec<&str> = listeners.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["public", "internal", "http", "inside", "probes"]);
    let told: Vec<_> = listeners
        .others_registered()
        .map(|(name, listener)| (name, listener.protocol.name(), listener.address()))
        .collect();
    assert_eq!(
        told,
        [("inside", "grpc", "in.example:9500")],
        "an HTTP listener without an advertised address is not registered"
    );
}

#[test]
fn what_is_wrong_with_a_listener_is_said() {
    let refused = |listeners: &str| Scenario::new(&format!("{MINIMAL}{listeners}")).refused();
    for (listeners, expected) in [
        (
            "[listeners.inside]\nadvertised = \"a:1\"\n",
            "`listeners.inside.bind` is required",
        ),
        (
            "[listeners.inside]\nbind = \"0.0.0.0:1\"\n",
            "`listeners.inside.advertised` is required, because listeners.inside is 0.0.0.0:1",
        ),
        (
            "[listeners.inside]\nbind = \"127.0.0.1:9400\"\n",
            "`listeners.inside.bind` is 127.0.0.1:9400, which listeners.public uses already (jangada.toml:5)",
        ),
        (
            "[listeners.inside]\nprotocol = \"kafka\"\nbind = \"127.0.0.1:1\"\n",
            "`listeners.inside.protocol` is \"kafka\", must be grpc or internal or http (jangada.toml:5)",
        ),
        (
            "[listeners.public]\nprotocol = \"http\"\n",
            "`listeners.public.protocol` is http, must be grpc",
        ),
        (
            "[listeners.Inside]\nbind = \"127.0.0.1:1\"\n",
            "has \"Inside\" for a listener's name",
        ),
        (
            "[listeners.inside]\nbnd = \"127.0.0.1:1\"\n",
            "`listeners.inside.bnd` does not exist; did you mean `listeners.inside.bind`?",
        ),
        (
            "[listeners.public.tls]\ncert = \"c\"\n",
            "`listeners.public.tls` does not exist",
        ),
        (
            "[listeners]\ninside = \"127.0.0.1:1\"\n",
            "`listeners.inside` is a section",
        ),
    ] {
        let refusal = refused(listeners);
        assert!(refusal.contains(expected), "{expected} is missing from\n{refusal}");
    }
    let many: String = (0..14)
        .map(|n| format!("[listeners.l{n}]\nbind = \"127.0.0.1:{}\"\n", n + 1))
        .collect();
    assert!(refused(&many).contains("17 listeners, at most 16"));
}

#[test]
fn a_log_filter_must_parse() {
    let refusal = Scenario::new(&format!("{MINIMAL}[log]\nfilter = \"info,x=loud\"\n")).refused();
    assert!(refusal.contains("`log.filter`"), "{refusal}");
    let format = Scenario::new(&format!("{MINIMAL}[log]\nformat = \"xml\"\n")).refused();
    assert!(
        format.contains("log.format") && format.contains("text or json"),
        "{format}"
    );
}

#[test]
fn a_missing_file_is_named() {
    let layers = Layers {
        file: Some(PathBuf::from("/nonexistent/jangada.toml")),
        ..Layers::default()
    };
    let error = layers.load().expect_err("there is no such file").to_string();
    assert!(error.contains("/nonexistent/jangada.toml"), "{error}");
}

#[test]
fn every_default_is_within_its_bound() {
    let settings = BrokerSettings {
        broker_id: 1,
        data_dir: PathBuf::from("data"),
        seeds: vec!["127.0.0.1:9440".to_owned()],
        ..BrokerSettings::default()
    };
    assert_eq!(settings.problems(), []);
}

#[test]
fn the_reference_in_docs_is_what_is_declared() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let declared = markdown_reference();
    assert!(
        written == declared,
        "docs/settings.md is not what the settings declare; write it anew with `jangada server reference > docs/settings.md`"
    );
}
