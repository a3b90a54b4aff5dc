//! A host's small files. They outlive a broker, as a disk does.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jangada_env::files::{Files, ReplaceError};
use parking_lot::Mutex;

/// Files by path; a directory is there once it was made.
#[derive(Debug, Default)]
pub(crate) struct MemoryFiles(Mutex<BTreeMap<PathBuf, Option<String>>>);

impl Files for MemoryFiles {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let mut there = self.0.lock();
        for above in path.ancestors() {
            there.entry(above.to_owned()).or_insert(None);
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.lock().contains_key(path)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let there = self.0.lock();
        let file = there.get(path).cloned().flatten();
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn replace(&self, path: &Path, text: &str) -> Result<(), ReplaceError> {
        self.0.lock().insert(path.to_owned(), Some(text.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.0.lock().remove(path) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
