//! `docs/settings.md`, made from the declarations; a test holds the file equal to it.

use std::fmt::Write as _;

use super::{
    BrokerSettings, GroupSettings, Key, LimitSettings, ListenerSettings, LogSettings, ProduceSettings, RaftSettings,
    RetentionSettings, Section, ShutdownSettings, StorageSettings,
};

const INTRODUCTION: &str = "\
# Settings of a broker

Made from the declarations in `crates/broker/src/settings` by `jangada server reference`; a test holds this file equal to them.

A broker takes its settings from, later ones winning: the defaults below, a TOML file (`jangada server --config FILE`), the environment
(`JANGADA__SECTION__KEY`, such as `JANGADA__RAFT__HEARTBEAT_MS=150`; lists separated by commas), and flags (`--set section.key=value`).
An unknown key, a value out of bounds and values that contradict each other are refused, each with the place it came from.
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
    inner::<StorageSettings>(&mut text, "storage");
    inner::<LimitSettings>(&mut text, "limits");
    inner::<ProduceSettings>(&mut text, "produce");
    inner::<GroupSettings>(&mut text, "groups");
    inner::<RetentionSettings>(&mut text, "retention");
    inner::<ShutdownSettings>(&mut text, "shutdown");
    inner::<LogSettings>(&mut text, "log");
    text
}

fn inner<S: Section>(text: &mut String, name: &str) {
    section(text, &format!("`[{name}]`"), &S::documentation(), S::keys(""));
}

fn section(text: &mut String, title: &str, documentation: &str, keys: Vec<Key>) {
    let written = write!(
        text,
        "\n## {title}\n\n{documentation}\n\n| key | type | default | bound | meaning |\n|---|---|---|---|---|\n"
    );
    written.expect("writing to a string does not fail");
    for Key {
        name,
        kind,
        default,
        bound,
        documentation,
    } in keys
    {
        let written = writeln!(
            text,
            "| `{name}` | {} | `{default}` | {} | {documentation} |",
            kind.name(),
            bound.text()
        );
        written.expect("writing to a string does not fail");
    }
}
