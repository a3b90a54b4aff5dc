//! Damage to the files of a node that is down, chosen at random.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use rand::rngs::StdRng;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Wal,
    Table,
    Blob,
    Mark,
    Manifest,
}

impl Target {
    pub const ALL: [Target; 5] = [Target::Wal, Target::Table, Target::Blob, Target::Mark, Target::Manifest];

    /// The files of this kind that have anything in them, by name: the last is the newest.
    pub fn files(self, data: &Path) -> Vec<PathBuf> {
        let store = data.join("store");
        let folder = if self == Target::Mark {
            store
        } else {
            store.join("rocksdb")
        };
        let is_meant = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match self {
                Target::Wal => name.ends_with(".log"),
                Target::Table => name.ends_with(".sst"),
                Target::Blob => name.ends_with(".blob"),
                Target::Mark => name == "commit-mark",
                Target::Manifest => name.starts_with("MANIFEST"),
            }
        };
        let files = fs::read_dir(folder).expect("the store is there");
        let mut files: Vec<PathBuf> = files
            .map(|file| file.expect("it can be listed").path())
            .filter(|path| is_meant(path) && fs::metadata(path).is_ok_and(|file| file.len() > 0))
            .collect();
        files.sort();
        files
    }
}

/// A damage to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// One bit is flipped.
    Flip,
    /// The file is cut at a random place.
    Cut,
    Delete,
    Empty,
    Zero,
}

impl Harm {
    pub const ALL: [Harm; 5] = [Harm::Flip, Harm::Cut, Harm::Delete, Harm::Empty, Harm::Zero];

    pub fn to(self, path: &Path, random: &mut StdRng) {
        let file = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .expect("the file is there")
        };
        let length = fs::metadata(path).expect("the file is there").len();
        let at = random.random_range(0..length.max(1));
        match self {
            Harm::Flip => {
                let mut byte = [0];
                file().read_exact_at(&mut byte, at).expect("it is as long");
                let flipped = byte[0] ^ (1 << random.random_range(0..8));
                file().write_all_at(&[flipped], at).expect("it can be written");
            }
            Harm::Cut => file().set_len(at).expect("it can be cut"),
            Harm::Delete => fs::remove_file(path).expect("it can be removed"),
            Harm::Empty => file().set_len(0).expect("it can be cut"),
            Harm::Zero => {
                let zeros = vec![0; usize::try_from(length).expect("small")];
                file().write_all_at(&zeros, 0).expect("it can be written");
            }
        }
    }
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the temporary folder is writable");
    for entry in fs::read_dir(from).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it is there").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}
