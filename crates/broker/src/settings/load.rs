//! Merges the layers of settings: defaults, file, environment, flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, File, FileFormat};

use super::source::Declared;
use super::{BrokerSettings, Problem, Section, SettingsError, listeners};

/// Variables that begin with this set a key: `JANGADA__RAFT__HEARTBEAT_MS` sets `raft.heartbeat_ms`.
pub const ENVIRONMENT_PREFIX: &str = "JANGADA__";

/// The layers of settings above the defaults. Later ones override earlier ones, key by key.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The path of a TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without [`ENVIRONMENT_PREFIX`] are ignored.
    pub environment: Vec<(String, String)>,
    /// Flags, each `section.key=value`.
    pub flags: Vec<String>,
}

/// Settings that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The merged and checked settings.
    pub settings: BrokerSettings,
    /// The place where each key that does not have its default was set.
    places: BTreeMap<String, String>,
}

/// One line of the table of effective settings.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// The key, `section.key`.
    pub key: String,
    /// The value as TOML text.
    pub value: String,
    /// The value with its unit, for people: `604800000 (7d)`.
    #[serde(skip)]
    pub readable: String,
    /// The default as TOML text.
    pub default: String,
    /// The values that are allowed.
    pub bound: String,
    /// Where the value was set: `default`, `FILE:LINE`, a variable, or a flag.
    pub source: String,
    /// What the setting does.
    pub documentation: String,
}

impl Layers {
    /// A file, the environment of this process, and flags.
    pub fn of_process(file: Option<&Path>, flags: &[String]) -> Layers {
        let variables = std::env::vars_os().map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        });
        Layers {
            file: file.map(Path::to_owned),
            environment: variables
                .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
                .collect(),
            flags: flags.to_vec(),
        }
    }

    /// Merges the layers and checks the result.
    pub fn load(&self) -> Result<Loaded, SettingsError> {
        let declared = Declared::new(BrokerSettings::keys(""));
        let mut places = Places::default();
        let mut problems = Vec::new();
        let mut builder = Config::builder();

        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
                path: path.clone(),
                source,
            })?;
            let syntax = |error: toml::de::Error| SettingsError::Syntax {
                path: path.clone(),
                message: error.to_string(),
            };
            let checked = declared
                .check_file(&text, &path.display().to_string())
                .map_err(syntax)?;
            problems.extend(checked.problems);
            problems.extend(places.add_layer(checked.places));
            let mut document: toml::Table = text.parse().map_err(syntax)?;
            listeners::modernise(&mut document);
            builder = builder.add_source(File::from_str(&document.to_string(), FileFormat::Toml));
            builder = builder.add_source(layer(checked.with_units)?);
        }

        let mut variables = Vec::new();
        let mut layer_places = BTreeMap::new();
        for (name, value) in &self.environment {
            let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else {
                continue;
            };
            let key = key_of_variable(rest);
            let place = format!("environment {name}");
            match declared.parse(&key, value, &place) {
                Ok(value) => variables.push((meant(&key), value)),
                Err(problem) => problems.push(problem),
            }
            layer_places.insert(key, place);
        }
        builder = builder.add_source(layer(variables)?);
        problems.extend(places.add_layer(layer_places));

        let mut layer_places = BTreeMap::new();
        for flag in &self.flags {
            let place = format!("flag --set {flag}");
            let Some((key, value)) = flag.split_once('=') else {
                problems.push(Problem::new(flag, "has no value: write section.key=value".to_owned()).at(&place));
                continue;
            };
            match declared.parse(key.trim(), value, &place) {
                Ok(value) => builder = builder.set_override(meant(key.trim()), value)?,
                Err(problem) => problems.push(problem),
            }
            layer_places.insert(key.trim().to_owned(), place);
        }
        problems.extend(places.add_layer(layer_places));

        if !problems.is_empty() {
            return Err(SettingsError::Invalid(problems));
        }
        let mut settings: BrokerSettings = builder.build()?.try_deserialize()?;
        problems = settings.problems();
        if !problems.is_empty() {
            return Err(SettingsError::Invalid(
                problems.into_iter().map(|problem| places.locate(problem)).collect(),
            ));
        }
        settings.data_dir = self.beside_file(&settings.data_dir);
        let places = places.by_key.into_iter().map(|(key, written)| (key, written.place));
        Ok(Loaded {
            settings,
            places: places.collect(),
        })
    }

    /// Resolves a relative path against the settings file's directory, so that a directory with the file and the data can be moved,
    /// and used from any working directory.
    fn beside_file(&self, path: &Path) -> PathBuf {
        let directory = self.file.as_deref().and_then(Path::parent);
        directory.map_or_else(|| path.to_owned(), |directory| directory.join(path))
    }
}

/// The key that a variable sets, from its name without [`ENVIRONMENT_PREFIX`].
fn key_of_variable(name: &str) -> String {
    let name = name.to_lowercase();
    listeners::key_of_variable(&name).unwrap_or_else(|| name.replace("__", "."))
}

/// The key that is meant: another one only where there is an older form.
fn meant(key: &str) -> String {
    listeners::older_form(key).unwrap_or(key).to_owned()
}

/// The problems of one layer that has a listener in the older and in the newer form: which of them is meant would be a guess.
fn in_both_forms(layer: &BTreeMap<String, String>) -> Vec<Problem> {
    let older_of = |listener: &str| {
        layer.iter().find(|(key, _)| {
            let meant = listeners::older_form(key);
            meant.is_some_and(|meant| listeners::listener_of(meant) == Some(listener))
        })
    };
    let twice = layer.iter().filter_map(|(key, place)| {
        let (older, older_place) = older_of(listeners::listener_of(key)?)?;
        let message = format!(
            "and `{older}` ({older_place}) are the newer and the older form of settings of one listener: use one of the forms"
        );
        Some(Problem::new(key, message).at(place))
    });
    twice.collect()
}

/// How a key was written where it was set last.
struct Written {
    /// The key in the form in which it was written.
    key: String,
    place: String,
}

/// Where keys were set last, by the key that is meant.
#[derive(Default)]
struct Places {
    by_key: BTreeMap<String, Written>,
}

impl Places {
    /// Adds a layer, given by its keys as they are written and their places, above the earlier ones. Returns the problems of keys
    /// that do not go together.
    fn add_layer(&mut self, layer: BTreeMap<String, String>) -> Vec<Problem> {
        let problems = in_both_forms(&layer);
        let written = layer
            .into_iter()
            .map(|(key, place)| (meant(&key), Written { key, place }));
        self.by_key.extend(written);
        problems
    }

    /// Whether a key of this listener was set last in the older form.
    fn is_in_older_form(&self, listener: &str) -> bool {
        let mut keys = self.by_key.iter();
        keys.any(|(meant, written)| *meant != written.key && listeners::listener_of(meant) == Some(listener))
    }

    /// Adds to a problem the place where its key was set, and names the key as it was written there. A key that was not set is
    /// named in the form in which its listener was written.
    fn locate(&self, problem: Problem) -> Problem {
        if let Some(Written { key, place }) = self.by_key.get(&problem.key) {
            return Problem::new(key, problem.message).at(place);
        }
        let is_older = listeners::listener_of(&problem.key).is_some_and(|name| self.is_in_older_form(name));
        match listeners::in_older_form(&problem.key) {
            Some(older) if is_older => Problem::new(older, problem.message),
            _ => problem,
        }
    }
}

/// A layer of these values, to be added above the earlier ones.
fn layer<V: Into<config::Value>>(values: impl IntoIterator<Item = (String, V)>) -> Result<Config, ConfigError> {
    let mut layer = Config::builder();
    for (key, value) in values {
        layer = layer.set_override(key, value)?;
    }
    layer.build()
}

impl Loaded {
    /// Every setting with its value and where it came from.
    pub fn rows(&self) -> Vec<Row> {
        let row = |(key, value): (super::Key, String)| Row {
            source: self
                .places
                .get(&key.name)
                .cloned()
                .unwrap_or_else(|| "default".to_owned()),
            bound: key.bound.text(),
            readable: key.annotated(&value),
            key: key.name,
            value,
            default: key.default,
            documentation: key.documentation,
        };
        self.settings.shown("").into_iter().map(row).collect()
    }
}
