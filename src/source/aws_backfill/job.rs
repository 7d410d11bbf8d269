//! Requested backfills: a file for each, in the folder `backfill` of the data directory. `catchment backfill` writes
//! it; the server reads it, now or at its next start, and deletes it when the backfill is complete. Deleting it earlier
//! cancels the backfill.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const EXTENSION: &str = "json";

/// A backfill: the part of a trail's bucket to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The bucket.
    pub bucket: String,
    /// The trail's key prefix before `AWSLogs/`, including its `/`; may be empty.
    pub prefix: String,
    /// The first day, by the bucket's folders (UTC).
    pub from: jiff::civil::Date,
    /// The last day.
    pub to: jiff::civil::Date,
    /// Accounts to read; if empty, all in the bucket.
    pub accounts: Vec<String>,
    /// Regions to read; if empty, all in the bucket.
    pub regions: Vec<String>,
    /// Most records read per second.
    pub records_per_second: u32,
    /// The queue source whose credentials, role and endpoints to use; without it, the environment's credentials.
    pub source: Option<String>,
}

/// The folder of jobs in a data directory.
#[must_use]
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("backfill")
}

impl Job {
    /// Writes the job's file atomically, and returns the job's name and the file.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn write(&self, folder: &Path) -> io::Result<(String, PathBuf)> {
        fs::create_dir_all(folder)?;
        let name = format!("{:08x}", fastrand::u32(..));
        let path = folder.join(&name).with_extension(EXTENSION);
        let part = folder.join(format!(".{name}.part"));
        let mut file = fs::File::create(&part)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        Ok((name, path))
    }
}

/// A job's file, and the job or an error message.
pub(crate) type Found = (PathBuf, Result<Job, String>);

/// The jobs of a folder by name; none if it does not exist.
///
/// # Errors
/// When the folder exists and can't be read.
pub(crate) fn list(folder: &Path) -> io::Result<BTreeMap<String, Found>> {
    let mut jobs = BTreeMap::new();
    for path in crate::source::entries(folder)? {
        let (Some(name), true) =
            (path.file_stem().and_then(|name| name.to_str()), path.extension().is_some_and(|e| e == EXTENSION))
        else {
            continue;
        };
        let read = || serde_json::from_slice(&fs::read(&path).map_err(|e| e.to_string())?).map_err(|e| e.to_string());
        jobs.insert(name.to_owned(), (path.clone(), read()));
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_as_it_was_written() {
        let data = tempfile::tempdir().unwrap();
        let folder = folder(data.path());
        assert_eq!(list(&folder).unwrap().len(), 0, "no folder is no job");
        let job = Job {
            bucket: "trail".to_owned(),
            prefix: "logs/".to_owned(),
            from: jiff::civil::date(2026, 1, 31),
            to: jiff::civil::date(2026, 2, 2),
            accounts: vec!["111122223333".to_owned()],
            regions: Vec::new(),
            records_per_second: 100,
            source: None,
        };
        let (name, path) = job.write(&folder).unwrap();
        fs::write(folder.join("broken.json"), "{").unwrap();
        fs::write(folder.join("note.txt"), "{").unwrap();
        let jobs = list(&folder).unwrap();
        assert_eq!(jobs[&name], (path, Ok(job)));
        assert!(jobs["broken"].1.is_err());
        assert_eq!(jobs.len(), 2);
    }
}
