//! A host's small files. They outlive a broker, as a disk does.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use jangada_env::files::{Files, ReplaceError};
use parking_lot::Mutex;

/// Files by path, `None` for directories.
pub(crate) type FileTree = BTreeMap<PathBuf, Option<String>>;

/// Files by path; a directory is there once it was made.
#[derive(Debug, Default)]
pub(crate) struct MemoryFiles {
    there: Mutex<FileTree>,
    fails: AtomicBool,
}

impl MemoryFiles {
    /// Whether writes fail from now on.
    pub fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::Relaxed);
    }

    pub fn copy(&self) -> FileTree {
        self.there.lock().clone()
    }

    pub fn put_back(&self, tree: FileTree) {
        *self.there.lock() = tree;
    }

    fn check(&self) -> io::Result<()> {
        match self.fails.load(Ordering::Relaxed) {
            true => Err(io::Error::other("Input/output error")),
            false => Ok(()),
        }
    }
}

impl Files for MemoryFiles {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let mut there = self.there.lock();
        if there.contains_key(path) {
            return Ok(());
        }
        self.check()?;
        for above in path.ancestors() {
            there.entry(above.to_owned()).or_insert(None);
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.there.lock().contains_key(path)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let there = self.there.lock();
        let file = there.get(path).cloned().flatten();
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn replace(&self, path: &Path, text: &str) -> Result<(), ReplaceError> {
        let action = "cannot be written";
        self.check().map_err(|source| ReplaceError { action, source })?;
        self.there.lock().insert(path.to_owned(), Some(text.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        match self.there.lock().remove(path) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
