//! Settings of a broker's listeners, by name.
//!
//! Every broker has the listeners `public`, `internal` and `http`. Each listener, of these or others, is a table
//! `[listeners.NAME]`. The three can also be written in an older form (`listeners.public = "IP:PORT"`), from the time before there
//! could be others; [`older_form`] maps its keys to the newer ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jangada_types::limits::ADDRESS_BYTES_MAX;
use serde::{Deserialize, Serialize};

use super::schema::join_documentation;
use super::{Bound, Key, Problem, Section, Setting};
use crate::listener::Protocol;

/// The most listeners of one broker. A broker registers an endpoint for each of them in the metadata.
pub(super) const LISTENERS_MAX: usize = 16;
/// The longest name of a listener, bytes. Names are in metrics and in the metadata.
const NAME_BYTES_MAX: usize = 32;
/// Stands for the name of any listener in a declared key.
pub(super) const ANY_NAME: &str = "NAME";

const PUBLIC: &str = "public";
const INTERNAL: &str = "internal";
const HTTP: &str = "http";
/// The listeners that every broker has, in the order in which they are shown: name, protocol, default of `bind`.
const ALWAYS: [(&str, Protocol, &str); 3] = [
    (PUBLIC, Protocol::Grpc, "127.0.0.1:9400"),
    (INTERNAL, Protocol::Internal, "127.0.0.1:9440"),
    (HTTP, Protocol::Http, "127.0.0.1:9480"),
];

/// The keys of the older form, each with the key of the newer form that it means.
const OLDER_KEYS: [(&str, &str); 5] = [
    ("listeners.public", "listeners.public.bind"),
    ("listeners.public_advertised", "listeners.public.advertised"),
    ("listeners.internal", "listeners.internal.bind"),
    ("listeners.internal_advertised", "listeners.internal.advertised"),
    ("listeners.http", "listeners.http.bind"),
];

/// The key that a key of the older form means.
pub(super) fn older_form(key: &str) -> Option<&'static str> {
    OLDER_KEYS
        .iter()
        .find(|(older, _)| *older == key)
        .map(|(_, meant)| *meant)
}

/// The key of the older form that means this key, if there is one.
pub(super) fn in_older_form(key: &str) -> Option<&'static str> {
    OLDER_KEYS
        .iter()
        .find(|(_, meant)| *meant == key)
        .map(|(older, _)| *older)
}

/// The key that a variable `LISTENERS__NAME__FIELD` sets, from its name in lower case and without the prefix of all variables. The
/// name of the listener is all between the first and the last double underscore, since it may have double underscores itself.
pub(super) fn key_of_variable(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix("listeners__")?;
    FIELDS.iter().find_map(|field| {
        let name = rest.strip_suffix(field.name)?.strip_suffix("__")?;
        Some(format!("listeners.{name}.{}", field.name))
    })
}

/// The name in a key `listeners.NAME.FIELD`.
pub(super) fn listener_of(key: &str) -> Option<&str> {
    let (name, _) = key.strip_prefix("listeners.")?.split_once('.')?;
    Some(name)
}

/// Checks a listener's name. The error is the rest of a sentence that begins with the key.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase();
    let is_other = |byte: u8| byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let is_name = name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(is_letter)
        && name.bytes().all(|byte| is_letter(byte) || is_other(byte));
    if is_name {
        return Ok(());
    }
    Err(format!(
        "has {name:?} for a listener's name: give 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _, a letter first"
    ))
}

/// Rewrites the listeners of a settings file from the older form to the newer one.
pub(super) fn modernise(file: &mut toml::Table) {
    let Some(listeners) = file.get_mut("listeners").and_then(toml::Value::as_table_mut) else {
        return;
    };
    for (older, meant) in OLDER_KEYS {
        let older = older.strip_prefix("listeners.").expect("they are all there");
        let name = listener_of(meant).expect("it names one");
        let what = meant.rsplit('.').next().expect("it has a last part");
        if listeners.get(older).is_none_or(toml::Value::is_table) {
            continue;
        }
        let Some(value) = listeners.remove(older) else { continue };
        let listener = listeners
            .entry(name)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let toml::Value::Table(listener) = listener {
            listener.insert(what.to_owned(), value);
        }
    }
}

/// The settings of one listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerSetting {
    /// The protocol of its connections.
    pub protocol: Protocol,
    /// The IP address and port that it is bound to.
    pub bind: String,
    /// The address that clients or other brokers are told, host:port. Empty: the same as `bind`.
    pub advertised: String,
}

impl ListenerSetting {
    /// The address that clients or other brokers are told.
    pub fn address(&self) -> &str {
        if self.advertised.is_empty() {
            &self.bind
        } else {
            &self.advertised
        }
    }

    /// Whether the broker registers an address for this listener. An HTTP listener has one only if `advertised` is set.
    fn is_registered(&self) -> bool {
        self.protocol != Protocol::Http || !self.advertised.is_empty()
    }

    fn default_of(name: &str) -> Self {
        let always = ALWAYS.iter().find(|(always, ..)| *always == name);
        let (protocol, bind) = always.map_or((Protocol::Grpc, ""), |(_, protocol, bind)| (*protocol, *bind));
        Self {
            protocol,
            bind: bind.to_owned(),
            advertised: String::new(),
        }
    }
}

/// The settings of all listeners of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Given>")]
#[serde(into = "BTreeMap<String, ListenerSetting>")]
pub struct ListenerSettings(BTreeMap<String, ListenerSetting>);

/// The keys of one listener that are set.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    protocol: Option<Protocol>,
    bind: Option<String>,
    advertised: Option<String>,
}

impl From<BTreeMap<String, Given>> for ListenerSettings {
    fn from(given: BTreeMap<String, Given>) -> Self {
        let mut settings = Self::default();
        for (name, given) in given {
            let default = ListenerSetting::default_of(&name);
            let listener = ListenerSetting {
                protocol: given.protocol.unwrap_or(default.protocol),
                bind: given.bind.unwrap_or(default.bind),
                advertised: given.advertised.unwrap_or(default.advertised),
            };
            settings.0.insert(name, listener);
        }
        settings
    }
}

impl From<ListenerSettings> for BTreeMap<String, ListenerSetting> {
    fn from(settings: ListenerSettings) -> Self {
        settings.0
    }
}

impl Default for ListenerSettings {
    fn default() -> Self {
        let always = ALWAYS.map(|(name, ..)| (name.to_owned(), ListenerSetting::default_of(name)));
        Self(BTreeMap::from(always))
    }
}

impl ListenerSettings {
    /// All listeners; first the three that every broker has.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ListenerSetting)> {
        let always = ALWAYS.iter().map(|(name, ..)| (*name, self.always(name)));
        let is_other = |name: &str| ALWAYS.iter().all(|(always, ..)| *always != name);
        let others = self.0.iter().map(|(name, listener)| (name.as_str(), listener));
        always.chain(others.filter(move |(name, _)| is_other(name)))
    }

    fn always(&self, name: &str) -> &ListenerSetting {
        self.0.get(name).expect("it is always there")
    }

    /// The listener for clients that every broker has.
    pub fn public(&self) -> &ListenerSetting {
        self.always(PUBLIC)
    }

    /// The listener for other brokers.
    pub fn internal(&self) -> &ListenerSetting {
        self.always(INTERNAL)
    }

    /// The listener for probes and metrics.
    pub fn http(&self) -> &ListenerSetting {
        self.always(HTTP)
    }

    /// The listeners, other than `public` and `internal`, for which the broker registers an endpoint.
    pub fn others_registered(&self) -> impl Iterator<Item = (&str, &ListenerSetting)> {
        self.iter()
            .filter(|(name, listener)| ![PUBLIC, INTERNAL].contains(name) && listener.is_registered())
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let mut problem = |name: &str, what: &str, message: String| {
            problems.push(Problem::new(&format!("listeners.{name}.{what}"), message));
        };
        for (at, (name, listener)) in self.iter().enumerate() {
            let ListenerSetting {
                protocol,
                bind,
                advertised,
            } = listener;
            if let Some((_, always, _)) = ALWAYS.iter().find(|(always, ..)| *always == name)
                && always != protocol
            {
                let message = format!(
                    "is {}, must be {}: give another listener another name",
                    protocol.name(),
                    always.name()
                );
                problem(name, "protocol", message);
            }
            let address = bind.parse::<SocketAddr>();
            match &address {
                Err(_) if bind.is_empty() => problem(
                    name,
                    "bind",
                    "is required: an IP address and a port such as 0.0.0.0:9401".to_owned(),
                ),
                Err(error) => problem(
                    name,
                    "bind",
                    format!("is {bind:?}, must be an IP address and a port such as 127.0.0.1:9400: {error}"),
                ),
                Ok(_) => {}
            }
            let before = self.iter().take(at);
            for (other, _) in
                before.filter(|(_, other)| other.bind == *bind && !bind.is_empty() && !bind.ends_with(":0"))
            {
                problem(name, "bind", format!("is {bind}, which listeners.{other} uses already"));
            }
            if !advertised.is_empty() {
                if let Err(why) = check_address(advertised) {
                    problem(
                        name,
                        "advertised",
                        format!("is {advertised:?}, must be host:port: {why}"),
                    );
                }
            } else if listener.is_registered() && address.is_ok_and(|address| address.ip().is_unspecified()) {
                let message =
                    format!("is required, because listeners.{name} is {bind}, which is not an address to connect to");
                problem(name, "advertised", message);
            }
        }
        if self.0.len() > LISTENERS_MAX {
            let message = format!("has {} listeners, at most {LISTENERS_MAX} are allowed", self.0.len());
            problems.push(Problem::new("listeners", message));
        }
    }
}

/// One key of a listener.
struct Field {
    name: &'static str,
    default: &'static str,
    bound: Bound,
    documentation: &'static str,
    value: fn(&ListenerSetting) -> String,
}

const FIELDS: [Field; 3] = [
    Field {
        name: "protocol",
        default: "grpc",
        bound: Bound::one_of(Protocol::NAMES),
        documentation: "The protocol: `grpc` for clients (package jangada.v1), `internal` for other brokers, `http` for /metrics, \
                        /livez and /readyz. Of the listeners `public`, `internal` and `http` it is fixed: grpc, internal and http.",
        value: |listener| listener.protocol.name().to_owned(),
    },
    Field {
        name: "bind",
        default: "",
        bound: Bound::said("an IP address and a port"),
        documentation: "The address to bind. Required, except for `public` (127.0.0.1:9400), `internal` (127.0.0.1:9440) and \
                        `http` (127.0.0.1:9480).",
        value: |listener| listener.bind.clone(),
    },
    Field {
        name: "advertised",
        default: "",
        bound: Bound::said("empty, or host:port"),
        documentation: "The address that this broker registers in the metadata. Clients are told it if they connected to a listener \
                        of this name on any broker; that of `internal` is for the other brokers. Empty: the same as `bind`, or, \
                        with protocol `http`, none.",
        value: |listener| listener.advertised.clone(),
    },
];

impl Field {
    fn key(&self, prefix: &str, listener: &str, default: &str) -> Key {
        let default = default.to_owned();
        Key {
            name: format!("{prefix}{listener}.{}", self.name),
            kind: default.kind(),
            default: default.show(),
            bound: self.bound.clone(),
            documentation: self.documentation.to_owned(),
        }
    }
}

impl Section for ListenerSettings {
    fn documentation() -> String {
        join_documentation(&[
            "The addresses where the broker listens: a table `[listeners.NAME]` for each listener.",
            "Every broker has `public` (for clients), `internal` (for other brokers; clients are refused there; keep it inside the",
            "cluster's network) and `http` (probes and metrics). Others may be added, also of the same protocol: such as one for",
            "clients inside the network and one for clients outside. A client is told the brokers' addresses of the listener by whose",
            "name it connected (of a broker without such a listener, the public address). `bind` is an IP address and a port,",
            "`advertised` is host:port; if `advertised` is not set, `bind` must be an address that others can reach.",
            "A name has 1 to 32 of a-z, 0-9, - and _, and begins with a letter. The variables of a listener are",
            "`JANGADA__LISTENERS__NAME__BIND` and so on, with the name in upper or lower case and each - and _ in it as it is. Shells",
            "and systemd cannot set a variable with - in its name (`env`, Docker and Kubernetes can): there, use names without it.",
            "`public`, `internal` and `http` may also be written as `listeners.public = \"IP:PORT\"` and",
            "`listeners.public_advertised = \"HOST:PORT\"`, an older form. Neither the file nor the environment nor the flags may have",
            "one listener in both forms; a later layer overrides an earlier one whichever form they have.",
        ])
    }

    fn keys(prefix: &str) -> Vec<Key> {
        let key = |field: &Field| field.key(prefix, ANY_NAME, field.default);
        FIELDS.iter().map(key).collect()
    }

    fn shown(&self, prefix: &str) -> Vec<(Key, String)> {
        let of_listener = |(name, listener): (&str, &ListenerSetting)| {
            let default = ListenerSetting::default_of(name);
            let field = |field: &Field| {
                let key = field.key(prefix, name, &(field.value)(&default));
                (key, (field.value)(listener).show())
            };
            FIELDS.iter().map(field).collect::<Vec<_>>()
        };
        self.iter().flat_map(of_listener).collect()
    }

    /// Does nothing: [`ListenerSettings::check`] checks all bounds, since they depend on other keys.
    fn check_bounds(&self, _prefix: &str, _problems: &mut Vec<Problem>) {}
}

/// Checks an address host:port, whose host is a name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn check_address(text: &str) -> Result<(), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    match port.parse::<u16>() {
        Ok(0) => return Err("port 0 is not an address"),
        Ok(_) => {}
        Err(_) => return Err("the port is not a number from 1 to 65535"),
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if bare.is_empty() {
        return Err("the host is missing");
    }
    if bare == host && host.contains(':') {
        return Err("an IPv6 address needs brackets");
    }
    if text.len() > ADDRESS_BYTES_MAX {
        return Err("the address is longer than a host name and a port can be");
    }
    if bare.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'/') {
        return Err("the host has a character that no host name has");
    }
    Ok(())
}
