//! Puts the layers together: defaults, file, environment, flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, File, FileFormat};

use super::source::Declared;
use super::{BrokerSettings, Problem, Section, SettingsError};

/// Variables that begin with this set a key: `JANGADA__RAFT__HEARTBEAT_MS` sets `raft.heartbeat_ms`.
pub const ENVIRONMENT_PREFIX: &str = "JANGADA__";

/// Where settings come from, besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without [`ENVIRONMENT_PREFIX`] are ignored.
    pub environment: Vec<(String, String)>,
    /// Flags, each `section.key=value`.
    pub flags: Vec<String>,
}

/// Settings that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: BrokerSettings,
    /// Where the keys that are not at their default were set.
    places: BTreeMap<String, String>,
}

/// One line of the table of effective settings.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// The key, `section.key`.
    pub key: String,
    /// Its value, as TOML text.
    pub value: String,
    /// The value with its unit, for people: `604800000 (7d)`.
    #[serde(skip)]
    pub readable: String,
    /// Its default, as TOML text.
    pub default: String,
    /// The values that are allowed.
    pub bound: String,
    /// Where the value was set: `default`, `FILE:LINE`, a variable, a flag.
    pub source: String,
    /// What it does.
    pub documentation: String,
}

impl Layers {
    /// A file, the process's own environment, and flags.
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
        let mut places = BTreeMap::new();
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
            places.extend(checked.places);
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
            builder = builder.add_source(layer(checked.with_units)?);
        }

        let mut variables = Vec::new();
        for (name, value) in &self.environment {
            let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else {
                continue;
            };
            let key = rest.to_lowercase().replace("__", ".");
            let place = format!("environment {name}");
            match declared.parse(&key, value, &place) {
                Ok(value) => variables.push((key.clone(), value)),
                Err(problem) => problems.push(problem),
            }
            places.insert(key, place);
        }
        builder = builder.add_source(layer(variables)?);

        for flag in &self.flags {
            let place = format!("flag --set {flag}");
            let Some((key, value)) = flag.split_once('=') else {
                problems.push(Problem::new(flag, "has no value: write section.key=value".to_owned()).at(&place));
                continue;
            };
            match declared.parse(key.trim(), value, &place) {
                Ok(value) => builder = builder.set_override(key.trim(), value)?,
                Err(problem) => problems.push(problem),
            }
            places.insert(key.trim().to_owned(), place);
        }

        if !problems.is_empty() {
            return Err(SettingsError::Invalid(problems));
        }
        let mut settings: BrokerSettings = builder.build()?.try_deserialize()?;
        problems = settings.problems();
        if !problems.is_empty() {
            let place = |key: &str| places.get(key).cloned().unwrap_or_default();
            return Err(SettingsError::Invalid(
                problems
                    .into_iter()
                    .map(|problem| {
                        let place = place(&problem.key);
                        problem.at(&place)
                    })
                    .collect(),
            ));
        }
        settings.data_dir = self.beside_file(&settings.data_dir);
        Ok(Loaded { settings, places })
    }

    /// A relative path starts at the settings file's directory, so that a directory with both can be moved and used
    /// from anywhere.
    fn beside_file(&self, path: &Path) -> PathBuf {
        let directory = self.file.as_deref().and_then(Path::parent);
        directory.map_or_else(|| path.to_owned(), |directory| directory.join(path))
    }
}

/// Values by key, to be laid over what comes before.
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
        let keys = BrokerSettings::keys("");
        let values = self.settings.values();
        assert_eq!(keys.len(), values.len(), "each declared key has a value");
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
        keys.into_iter().zip(values).map(row).collect()
    }
}
