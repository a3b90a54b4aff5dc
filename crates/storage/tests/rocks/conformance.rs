//! The conformance scenarios on RocksDB.

use jangada_storage::conformance::rows::TABLES;
use jangada_storage::conformance::{Disk, check_all};
use jangada_storage::{RocksStore, StoreOptions};

use crate::directory::{Directory, open_with};

struct DefaultSettings(Directory);

impl Disk for DefaultSettings {
    type Store = RocksStore;

    fn open(&self) -> RocksStore {
        open_with(StoreOptions {
            tables: TABLES.to_vec(),
            ..StoreOptions::new(self.0.path())
        })
        .0
    }
}

#[test]
fn rocks_store_conforms() {
    check_all(Directory::new);
}

#[test]
fn rocks_store_conforms_with_default_settings() {
    check_all(|| DefaultSettings(Directory::new()));
}
