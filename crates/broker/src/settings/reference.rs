//! Generates `docs/settings.md` from the declarations; a test checks that the file is up to date.

use std::fmt::Write as _;

use super::{
    BrokerSettings, ClusterSettings, GroupSettings, Key, LimitSettings, ListenerSettings, LogSettings, MetricsSettings,
    ProduceSettings, RaftSettings, RepairSettings, RetentionSettings, Section, ShutdownSettings, StorageSettings,
    TransactionSettings,
};

const INTRODUCTION: &str = "\
# Settings of a broker

Made from the declarations in `crates/broker/src/settings` by `jangada server reference`; a test holds this file equal to them.

A broker takes its settings from, later ones winning: the defaults below, a TOML file (`jangada server --config FILE`), the environment
(`JANGADA__SECTION__KEY`, such as `JANGADA__RAFT__HEARTBEAT_MS=150`; lists separated by commas), and flags (`--set section.key=value`).
A time or a size may have a unit: `\"7d\"`, `\"1h30min\"`, `\"500ms\"`, `\"1GiB\"` (quoted in a file; without a unit the number is
milliseconds or bytes, as the key's name says). Units of time are ms, s, min, h, d and w; of size B, KiB, MiB, GiB, TiB, PiB (powers of
1024) and kB, MB, GB, TB, PB (powers of 1000). Others, such as `5m` or `1G`, are refused because they are ambiguous.
An unknown key, a value out of bounds and values that contradict each other are refused, each with the place where it was set.
`jangada server check-config FILE` checks a file and shows every setting with its source.
";

/// The whole reference as Markdown.
pub fn markdown_reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    let own = BrokerSettings::keys("")
        .into_iter()
        .filter(|key| !key.name.contains('.'))
        .collect();
    section(&mut text, "Top level", &BrokerSettings::documentation(), own);
    inner::<ListenerSettings>(&mut text, "listeners");
    inner::<RaftSettings>(&mut text, "raft");
    inner::<ClusterSettings>(&mut text, "cluster");
    inner::<StorageSettings>(&mut text, "storage");
    inner::<RepairSettings>(&mut text, "repair");
    inner::<LimitSettings>(&mut text, "limits");
    inner::<ProduceSettings>(&mut text, "produce");
    inner::<GroupSettings>(&mut text, "groups");
    inner::<TransactionSettings>(&mut text, "transactions");
    inner::<RetentionSettings>(&mut text, "retention");
    inner::<MetricsSettings>(&mut text, "metrics");
    inner::<ShutdownSettings>(&mut text, "shutdown");
    inner::<LogSettings>(&mut text, "log");
    text
}

fn inner<S: Section>(text: &mut String, name: &str) {
    section(text, &format!("`[{name}]`"), &S::documentation(), S::keys(""));
}

/// The default with its unit, such as ` (7d)`, if it is a time or a size; otherwise empty.
fn default_with_unit(key: &Key) -> String {
    let readable = key
        .default
        .parse()
        .ok()
        .and_then(|value| key.quantity()?.readable(value));
    readable.map_or_else(String::new, |readable| format!(" ({readable})"))
}

fn section(text: &mut String, title: &str, documentation: &str, keys: Vec<Key>) {
    let written = write!(
        text,
        "\n## {title}\n\n{documentation}\n\n| key | type | default | bound | meaning |\n|---|---|---|---|---|\n"
    );
    written.expect("writing to a string does not fail");
    for key in keys {
        let readable = default_with_unit(&key);
        let Key {
            name,
            kind,
            default,
            documentation,
            ..
        } = &key;
        let written = writeln!(
            text,
            "| `{name}` | {} | `{default}`{readable} | {} | {documentation} |",
            kind.name(),
            key.bound_text()
        );
        written.expect("writing to a string does not fail");
    }
}
