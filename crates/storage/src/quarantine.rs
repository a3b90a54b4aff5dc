//! What the store does about a damaged file of its own: it lets no compaction read it again.
//!
//! RocksDB takes a compaction that fails a checksum for the end: it takes no more writes, and after a restart the same
//! compaction fails again. But the replicas whose rows are damaged are filled again from others, and all other rows are
//! sound. So once a damaged file is known, compactions and the moving of blobs are switched off, now and at every later
//! opening: a small file beside the database remembers it. Space of purged records is not given back from then on, and the
//! number of files grows, until the broker is replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::{StoreError, is_lost};

/// What RocksDB says it did when the system refused to read a file of it.
const READ_FAILED: [&str; 2] = ["While pread", "While open a file for random read"];

const FILE: &str = "damaged-files";

/// The note on disk that a file of RocksDB is damaged.
pub(crate) struct Quarantine {
    path: PathBuf,
    cause: OnceLock<String>,
}

impl Quarantine {
    /// What an earlier run found is remembered.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let cause = OnceLock::new();
        match fs::read_to_string(&path) {
            Ok(text) => drop(cause.set(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("read", path, error)),
        }
        Ok(Self { path, cause })
    }

    /// What is damaged, if compactions are off.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.get().map(String::as_str)
    }

    /// Whether damage that a read met is RocksDB's word on a file, and not ours on what its rows say. Words on a blob do not
    /// name it as one.
    pub(crate) fn is_file(what: &str) -> bool {
        what.contains("Corruption:") || is_lost(what)
    }

    /// Whether damage that a read met concerns a file that compactions read: rows lie in SST files. Blobs are read by
    /// compactions only to be moved.
    pub(crate) fn is_table(what: &str) -> bool {
        what.contains(".sst")
    }

    /// Whether the store failed because a file of its own cannot be read any more, and not for want of space, of descriptors or
    /// of a disk that takes writes. What a compaction could not read it cannot read after a restart either.
    pub(crate) fn is_damage(fenced: &str) -> bool {
        let is_file = [".sst", ".blob"].iter().any(|ending| fenced.contains(ending));
        let is_read = READ_FAILED.iter().any(|words| fenced.contains(words));
        fenced.contains("Corruption:") || (is_file && is_read && is_lost(fenced))
    }

    /// Remembers a damaged file. True: it is the first one.
    pub(crate) fn add(&self, what: &str) -> bool {
        if self.cause.set(what.to_owned()).is_err() {
            return false;
        }
        tracing::warn!(
            what,
            "a file of the store is damaged: no compaction will read it again, and space of purged records is not given \
             back until this broker is replaced"
        );
        let written = fs::write(&self.path, what).and_then(|()| fs::File::open(&self.path)?.sync_all());
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "that a file is damaged will be forgotten at the next start");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_told_from_a_disk_that_takes_no_writes() {
        for damage in [
            "damaged data: Corruption: block checksum mismatch in /x/000009.sst",
            "damaged data: IO error: Input/output error: While pread offset 0 len 4096: /x/000009.sst",
            "damaged data: IO error: No such file or directory: While open a file for random read: /x/000012.blob",
        ] {
            assert!(Quarantine::is_damage(damage), "{damage}");
        }
        for other in [
            "RocksDB: IO error: No space left on device: While appending to file: /x/000009.sst",
            "damaged data: IO error: Input/output error: While fsync: /x/000009.sst",
            "damaged data: IO error: Input/output error: While fdatasync: /x/000010.log",
            "RocksDB: IO error: Too many open files: While open a file for random read: /x/000009.sst",
        ] {
            assert!(!Quarantine::is_damage(other), "{other}");
        }
    }

    #[test]
    fn a_damaged_file_is_remembered_by_the_next_opening() {
        let directory = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::open(directory.path()).unwrap();
        assert_eq!(quarantine.cause(), None);
        assert!(quarantine.add("000012.sst"));
        assert!(!quarantine.add("000013.sst"), "the first one counts");
        let again = Quarantine::open(directory.path()).unwrap();
        assert_eq!(again.cause(), Some("000012.sst"));
    }
}
