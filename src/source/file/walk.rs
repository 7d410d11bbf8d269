//! Finds the files of a source, one folder's listing at a time, in the order of their names. CloudTrail's keys
//! (`AWSLogs/<account>/CloudTrail/<region>/<yyyy>/<mm>/<dd>/…`) sort by time within a region.

use std::collections::HashSet;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::vec;

use super::ledger::FileId;

/// Extensions of the files read from a folder. A file configured by path is read whatever its name.
const EXTENSIONS: [&str; 5] = ["json", "jsonl", "ndjson", "log", "gz"];

/// A found file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    pub(super) look: Look,
}

/// Metadata by which a change of a file is noticed without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) size: u64,
    pub(super) modified: Option<SystemTime>,
}

impl Look {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// A path that can't be accessed.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    pub(super) error: io::Error,
}

/// Iterates over a file, or the files of a folder.
#[derive(Debug)]
pub(super) struct Walk {
    /// Inodes that are read under any name: files that were renamed before they were read to their end.
    unfinished: HashSet<u64>,
    pending: Vec<vec::IntoIter<PathBuf>>,
    failed: Option<Unreadable>,
}

impl Walk {
    /// Starts at `root`, a file or folder. A symbolic link to a folder is followed only here.
    pub(super) fn new(root: &Path, unfinished: HashSet<u64>) -> Self {
        let mut walk = Self { unfinished, pending: Vec::new(), failed: None };
        match fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => walk.enter(root),
            Ok(_) => {
                let mut paths = walk.renamed_siblings(root);
                paths.push(root.to_owned());
                walk.pending.push(paths.into_iter());
            }
            Err(error) => walk.failed = Some(Unreadable { path: root.to_owned(), error }),
        }
        walk
    }

    fn enter(&mut self, folder: &Path) {
        match self.list(folder) {
            Ok(paths) => self.pending.push(paths.into_iter()),
            Err(error) => self.failed = Some(Unreadable { path: folder.to_owned(), error }),
        }
    }

    /// Renamed files first, so that a rotated file is finished before the one that took its place.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let wanted = !is_hidden(&path) && (has_extension(&path) || entry.file_type()?.is_dir());
            if wanted || self.is_unfinished(&entry) {
                paths.push((wanted, path));
            }
        }
        paths.sort_unstable();
        Ok(paths.into_iter().map(|(_, path)| path).collect())
    }

    fn is_unfinished(&self, entry: &DirEntry) -> bool {
        self.unfinished.contains(&entry.ino()) && entry.file_type().is_ok_and(|kind| kind.is_file())
    }

    fn renamed_siblings(&self, root: &Path) -> Vec<PathBuf> {
        let folder = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries
            .filter(|entry| self.is_unfinished(entry) && Some(entry.file_name().as_os_str()) != root.file_name())
            .map(|entry| entry.path())
            .collect();
        paths.sort_unstable();
        paths
    }
}

impl Iterator for Walk {
    type Item = Result<Found, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(failed) = self.failed.take() {
                return Some(Err(failed));
            }
            let Some(path) = self.pending.last_mut()?.next() else {
                self.pending.pop();
                continue;
            };
            let is_link = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {
                    let id = FileId { device: metadata.dev(), inode: metadata.ino() };
                    return Some(Ok(Found { path, id, look: Look::of(&metadata) }));
                }
                Ok(metadata) if metadata.is_dir() && !is_link => self.enter(&path),
                Ok(_) => {}
                // Gone since the listing, or a link to nothing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Some(Err(Unreadable { path, error })),
            }
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn has_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path, unfinished: HashSet<u64>) -> Vec<String> {
        Walk::new(root, unfinished)
            .map(|found| {
                let base = if root.is_dir() { root } else { root.parent().unwrap() };
                found.unwrap().path.strip_prefix(base).unwrap().to_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn folders_are_walked_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2.json", "b/1.JSONL", "a.log", "c.json.gz", "b/.3.json", "b/x.txt", "b/d/e.ndjson", ".h/f.json"]
        {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("dangling.json")).unwrap();
        let expected = ["a.log", "b/1.JSONL", "b/2.json", "b/d/e.ndjson", "c.json.gz"];
        assert_eq!(names(folder.path(), HashSet::new()), expected);

        let inode = fs::metadata(folder.path().join("b/x.txt")).unwrap().ino();
        let expected = ["a.log", "b/x.txt", "b/1.JSONL", "b/2.json", "b/d/e.ndjson", "c.json.gz"];
        assert_eq!(names(folder.path(), HashSet::from([inode])), expected);
        assert_eq!(names(&folder.path().join("b/2.json"), HashSet::from([inode])), ["x.txt", "2.json"]);
        assert_eq!(names(&folder.path().join("b/x.txt"), HashSet::from([inode])), ["x.txt"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut walk = Walk::new(Path::new("/nowhere/at/all"), HashSet::new());
        let unreadable = walk.next().unwrap().unwrap_err();
        assert_eq!(unreadable.path, Path::new("/nowhere/at/all"));
        assert_eq!(unreadable.error.kind(), io::ErrorKind::NotFound);
        assert!(walk.next().is_none());
    }
}
