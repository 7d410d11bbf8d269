//! Ownership of what root creates in another user's data directory, so that the service of that user can use it.
//!
//! That user may exchange anything in the directory at any moment. So files are changed by their descriptors, links are
//! not followed, and only what belongs to root and has no other name is given away.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Gid, Mode, OFlags, Uid, fchown, fstat, openat};
use rustix::path::Arg;
use rustix::process::geteuid;

/// The user to whom root gives what it creates in a directory.
#[derive(Debug)]
pub(super) struct Owner {
    uid: Uid,
    gid: Gid,
    /// The topmost directory that was missing.
    missing: Option<PathBuf>,
}

impl Owner {
    /// The owner of a directory, or of the nearest one above it that exists. `None` if this process is not root, which
    /// alone can give files away, or if the owner is root.
    pub(super) fn of(directory: &Path) -> io::Result<Option<Self>> {
        let mut missing = None;
        for path in directory.ancestors().filter(|_| geteuid().is_root()) {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            match fs::metadata(path) {
                Ok(found) if found.uid() == Uid::ROOT.as_raw() => return Ok(None),
                Ok(found) => {
                    let (uid, gid) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
                    return Ok(Some(Self { uid, gid, missing }));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => missing = Some(path.to_owned()),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Gives entries of the directory to its owner, or the directory itself if it was missing, with all that is in them.
    pub(super) fn give(&self, directory: &Path, entries: &[&str]) -> io::Result<()> {
        let given = match &self.missing {
            Some(missing) => self.give_entry(CWD, missing),
            None => openat(CWD, directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .and_then(|directory| entries.iter().try_for_each(|entry| self.give_entry(&directory, *entry))),
        };
        given.map_err(|error| {
            let uid = self.uid.as_raw();
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("give it to its owner, user {uid}: {error}; run this as that user"))
        })
    }

    fn give_entry(&self, folder: impl AsFd, name: impl Arg) -> rustix::io::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(folder, name, flags, Mode::empty())?;
        let found = fstat(&file)?;
        match FileType::from_raw_mode(found.st_mode) {
            _ if found.st_uid != Uid::ROOT.as_raw() => return Ok(()),
            // Before the folder itself, so that nobody else can change what is in it.
            FileType::Directory => {
                for entry in Dir::read_from(&file)? {
                    let entry = entry?;
                    if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                        self.give_entry(&file, entry.file_name())?;
                    }
                }
            }
            FileType::RegularFile if found.st_nlink == 1 => {}
            _ => return Ok(()),
        }
        fchown(&file, Some(self.uid), Some(self.gid))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    const NOBODY: u32 = 65_534;

    #[test]
    fn nothing_is_given_away_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (data, outside) = (folder.path().join("data"), folder.path().join("outside"));
        fs::create_dir(&data).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        if !geteuid().is_root() {
            assert!(Owner::of(&data).unwrap().is_none(), "who is not root gives nothing away");
            return;
        }
        assert!(Owner::of(&data).unwrap().is_none(), "it is root's");
        chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        let owner = Owner::of(&data.join("new").join("er")).unwrap().unwrap();
        assert_eq!((owner.uid.as_raw(), owner.missing.as_deref()), (NOBODY, Some(&*data.join("new"))));
        let owner = Owner::of(&data).unwrap().unwrap();
        fs::hard_link(outside.join("file"), data.join("lock")).unwrap();
        owner.give(&data, &["lock"]).unwrap();
        fs::create_dir(data.join("log.new")).unwrap();
        symlink(&outside, data.join("log.new").join("tables")).unwrap();
        assert!(owner.give(&data, &["log.new"]).unwrap_err().to_string().contains("run this as that user"));
        for path in [outside.clone(), outside.join("file")] {
            assert_eq!(fs::metadata(&path).unwrap().uid(), 0, "{}", path.display());
        }
        fs::remove_file(data.join("log.new").join("tables")).unwrap();
        fs::write(data.join("log.new").join("table"), "").unwrap();
        owner.give(&data, &["log.new"]).unwrap();
        assert_eq!(fs::metadata(data.join("log.new").join("table")).unwrap().uid(), NOBODY);
    }
}
