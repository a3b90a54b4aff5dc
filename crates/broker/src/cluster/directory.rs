//! The identity of a data directory: which broker of which cluster it belongs to. One small TOML file, `broker.toml`,
//! replaced atomically.
//!
//! A directory that lost its data has lost this file too, so an empty directory never passes for the old one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jangada_controller::DirectoryId;
use jangada_env::files::{Files, ReplaceError};
use jangada_storage::StoreFactory;
use jangada_types::{BrokerId, Incarnation};
use serde::{Deserialize, Serialize};

/// Version of the data directory's format; a later one is refused.
const FORMAT: u32 = 1;
const FILE: &str = "broker.toml";

/// The file as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    format: u32,
    broker_id: u32,
    /// 32 hexadecimal digits.
    directory_id: String,
    /// Absent until the broker belongs to a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    /// 0 until the cluster gave one.
    incarnation: u32,
    /// The store has been opened: it must be there from then on.
    #[serde(default)]
    store: bool,
}

/// A data directory that this process may use.
#[derive(Debug)]
pub struct DataDirectory {
    files: Arc<dyn Files>,
    path: PathBuf,
    id: DirectoryId,
    contents: Contents,
    /// This start made it.
    is_new: bool,
}

/// A data directory that this broker must not use.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A file could not be read or written.
    #[error("data directory {}: {action}: {source}", path.display())]
    Io {
        /// The action that failed.
        action: &'static str,
        /// The path of the directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// It belongs to somebody else.
    #[error(
        "data directory {} belongs to broker {found}, but the settings say broker {expected}: correct broker_id or data_dir",
        path.display()
    )]
    OtherBroker {
        /// The path of the directory.
        path: PathBuf,
        /// The owner in `broker.toml`.
        found: u32,
        /// The broker that was started on it.
        expected: u32,
    },
    /// A later build wrote it.
    #[error("data directory {} has format {found}; this build reads format {FORMAT}: upgrade jangada", path.display())]
    Format {
        /// The path of the directory.
        path: PathBuf,
        /// The format's version in `broker.toml`.
        found: u32,
    },
    /// The file is not what was written.
    #[error("{}: {detail}", path.display())]
    Damaged {
        /// The path of `broker.toml`.
        path: PathBuf,
        /// Why it cannot be read.
        detail: String,
    },
    /// The store that was there is gone.
    #[error(
        "data directory {} has lost its store: this broker must not go on with an empty one under its old identity. \
         Restore it, or run `jangada cluster \
         replace-broker {broker}` on another broker, empty the directory and start again", path.display()
    )]
    StoreLost {
        /// The path of the directory.
        path: PathBuf,
        /// The broker that the directory belongs to.
        broker: u32,
    },
    /// No broker has used it.
    #[error("data directory {} has no {FILE}: no broker has used it", path.display())]
    Nobodys {
        /// The path of the directory.
        path: PathBuf,
    },
    /// There is data without an identity: something removed `broker.toml`.
    #[error("data directory {} has data but no {FILE}: restore the file, or empty the directory and replace the broker", path.display())]
    DataWithoutIdentity {
        /// The path of the directory.
        path: PathBuf,
    },
}

impl DataDirectory {
    /// Opens the directory, or makes a new one with `new_id`.
    pub fn open(
        files: &Arc<dyn Files>,
        path: &Path,
        broker: BrokerId,
        new_id: DirectoryId,
    ) -> Result<Self, DirectoryError> {
        let io_error = |action| {
            move |source| DirectoryError::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        files.make_directory(path).map_err(io_error("cannot be made"))?;
        if let Some(directory) = Self::load(files, path, broker)? {
            return Ok(directory);
        }
        if files.exists(&path.join("store")) {
            return Err(DirectoryError::DataWithoutIdentity { path: path.to_owned() });
        }
        let contents = Contents {
            format: FORMAT,
            broker_id: broker.get(),
            directory_id: new_id.to_string(),
            cluster_id: None,
            incarnation: 0,
            store: false,
        };
        let directory = Self {
            files: files.clone(),
            path: path.to_owned(),
            id: new_id,
            contents,
            is_new: true,
        };
        directory.save()?;
        Ok(directory)
    }

    /// Opens the directory of a broker that has been there before. Makes nothing.
    pub fn open_existing(files: &Arc<dyn Files>, path: &Path, broker: BrokerId) -> Result<Self, DirectoryError> {
        Self::load(files, path, broker)?.ok_or_else(|| DirectoryError::Nobodys { path: path.to_owned() })
    }

    /// `None`: nobody has used it.
    fn load(files: &Arc<dyn Files>, path: &Path, broker: BrokerId) -> Result<Option<Self>, DirectoryError> {
        let file = path.join(FILE);
        let text = match files.read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(DirectoryError::Io {
                    action: "cannot be read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let contents: Contents = toml::from_str(&text).map_err(|error| DirectoryError::Damaged {
            path: file.clone(),
            detail: error.to_string(),
        })?;
        if contents.format != FORMAT {
            return Err(DirectoryError::Format {
                path: path.to_owned(),
                found: contents.format,
            });
        }
        if contents.broker_id != broker.get() {
            return Err(DirectoryError::OtherBroker {
                path: path.to_owned(),
                found: contents.broker_id,
                expected: broker.get(),
            });
        }
        // Another id would pass for somebody else's directory.
        let id = parse_id(&contents.directory_id).ok_or_else(|| DirectoryError::Damaged {
            path: file,
            detail: format!("directory_id is {:?}, not 32 hexadecimal digits", contents.directory_id),
        })?;
        Ok(Some(Self {
            files: files.clone(),
            path: path.to_owned(),
            id,
            contents,
            is_new: false,
        }))
    }

    /// Where the store is.
    pub fn store_path(&self) -> PathBuf {
        self.path.join("store")
    }

    /// The directory's id.
    pub fn id(&self) -> DirectoryId {
        self.id
    }

    /// The cluster that it belongs to.
    pub fn cluster_id(&self) -> Option<&str> {
        self.contents.cluster_id.as_deref()
    }

    /// The incarnation that the cluster gave; 0: none yet.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.contents.incarnation)
    }

    /// To be called before the store is opened. An error when it was there and is gone: with its log it lost its
    /// votes.
    pub fn expect_store(&self, stores: &dyn StoreFactory) -> Result<(), DirectoryError> {
        if self.contents.store && !stores.exists(&self.store_path()) {
            return Err(DirectoryError::StoreLost {
                path: self.path.clone(),
                broker: self.contents.broker_id,
            });
        }
        Ok(())
    }

    /// Remembers, durably, that the store is there.
    pub fn store_opened(&mut self) -> Result<(), DirectoryError> {
        if self.contents.store {
            return Ok(());
        }
        self.contents.store = true;
        self.save()
    }

    /// Binds the directory to a cluster, durably. `incarnation` 0 keeps the one that is there.
    pub fn bind(&mut self, cluster_id: &str, incarnation: Incarnation) -> Result<(), DirectoryError> {
        self.contents.cluster_id = Some(cluster_id.to_owned());
        if incarnation.get() != 0 {
            self.contents.incarnation = incarnation.get();
        }
        self.save()
    }

    /// Leaves nothing of a start that was refused: the next one may have another broker id. Only what this start made, and
    /// what belongs to no cluster.
    pub fn forget(&self) -> Result<(), DirectoryError> {
        if !self.is_new || self.contents.cluster_id.is_some() {
            return Ok(());
        }
        let file = self.path.join(FILE);
        self.files.remove(&file).map_err(|source| DirectoryError::Io {
            action: "cannot be removed",
            path: file,
            source,
        })
    }

    fn save(&self) -> Result<(), DirectoryError> {
        let text = toml::to_string(&self.contents).expect("plain values");
        let replaced = self.files.replace(&self.path.join(FILE), &text);
        replaced.map_err(|ReplaceError { action, source }| DirectoryError::Io {
            action,
            path: self.path.clone(),
            source,
        })
    }
}

fn parse_id(hex: &str) -> Option<DirectoryId> {
    let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    DirectoryId::from_slice(&bytes?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jangada_env::SystemFiles;

    use super::*;

    fn open_in(path: &Path, broker: BrokerId, new_id: DirectoryId) -> Result<DataDirectory, DirectoryError> {
        let files: Arc<dyn Files> = Arc::new(SystemFiles);
        DataDirectory::open(&files, path, broker, new_id)
    }

    #[test]
    fn a_refused_start_leaves_nothing_unless_the_directory_was_there_or_is_bound() {
        let dir = tempfile::tempdir().unwrap();
        let open = |broker| open_in(dir.path(), BrokerId(broker), DirectoryId::new([7; 16]));
        open(2).unwrap().forget().unwrap();
        let mut first = open(4).unwrap();
        // A second start does not know what the first one was told.
        open(4).unwrap().forget().unwrap();
        assert!(open(5).is_err());
        first.bind("c", Incarnation(1)).unwrap();
        first.forget().unwrap();
        assert_eq!(open(4).unwrap().cluster_id(), Some("c"));
    }

    #[test]
    fn a_directory_remembers_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let id = DirectoryId::new([7; 16]);
        let mut first = open_in(dir.path(), BrokerId(2), id).unwrap();
        assert_eq!(
            (first.cluster_id(), first.incarnation(), first.id()),
            (None, Incarnation(0), id)
        );
        first.bind("c", Incarnation(3)).unwrap();
        let again = open_in(dir.path(), BrokerId(2), DirectoryId::new([8; 16])).unwrap();
        assert_eq!(
            (again.cluster_id(), again.incarnation(), again.id()),
            (Some("c"), Incarnation(3), id)
        );
        let other = open_in(dir.path(), BrokerId(1), id).unwrap_err();
        assert!(
            matches!(
                other,
                DirectoryError::OtherBroker {
                    found: 2,
                    expected: 1,
                    ..
                }
            ),
            "{other}"
        );
    }

    #[test]
    fn data_without_identity_and_damage_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("store")).unwrap();
        let error = open_in(dir.path(), BrokerId(1), DirectoryId::new([1; 16])).unwrap_err();
        assert!(matches!(error, DirectoryError::DataWithoutIdentity { .. }), "{error}");
        fs::write(
            dir.path().join(FILE),
            "format = 2\nbroker_id = 1\ndirectory_id = \"00\"\nincarnation = 0\n",
        )
        .unwrap();
        let error = open_in(dir.path(), BrokerId(1), DirectoryId::new([1; 16])).unwrap_err();
        assert!(matches!(error, DirectoryError::Format { found: 2, .. }), "{error}");
        fs::write(dir.path().join(FILE), "nonsense").unwrap();
        let error = open_in(dir.path(), BrokerId(1), DirectoryId::new([1; 16])).unwrap_err();
        assert!(matches!(error, DirectoryError::Damaged { .. }), "{error}");
        for id in [
            "00",
            "",
            "zz0102030405060708090a0b0c0d0e0f",
            "\u{e4}0102030405060708090a0b0c0d0e0",
        ] {
            let text = format!("format = 1\nbroker_id = 1\ndirectory_id = \"{id}\"\nincarnation = 0\n");
            fs::write(dir.path().join(FILE), text).unwrap();
            let error = open_in(dir.path(), BrokerId(1), DirectoryId::new([1; 16])).unwrap_err();
            assert!(matches!(error, DirectoryError::Damaged { .. }), "{id:?}: {error}");
        }
    }
}
