//! Requested imports: a folder for each, in the folder `import` of the data directory, with copies of the files and a
//! description. `catchment import` creates it atomically; the process that holds the data directory reads it, writes
//! the report into it and deletes the files. So a running server needs no other interface, and a crash loses nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::{TallyCounts, Time};

const JOB: &str = "job.json";
const REPORT: &str = "report.json";

/// An import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The files, in order.
    pub files: Vec<JobFile>,
    /// The account, subscription or tenant of items that name none.
    pub account: Option<String>,
    /// The region of items that name none.
    pub region: Option<String>,
    /// Whether differences from the inventory become events.
    pub events: bool,
}

/// A file of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    /// The name under which it was passed, for messages.
    pub name: String,
    /// The time of its assets' states, if the file does not say.
    pub as_of: Time,
}

/// The report of a finished job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The report of each file, in order.
    pub files: Vec<FileReport>,
}

/// The report of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// The name under which it was passed.
    pub name: String,
    /// Its items by outcome.
    pub counts: TallyCounts,
    /// Why nothing was imported from it.
    pub error: Option<String>,
}

/// The folder of a job, with its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(PathBuf);

/// The folder of jobs in a data directory.
#[must_use]
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("import")
}

impl Job {
    /// Writes the job with copies of its files atomically, and returns its name and folder.
    ///
    /// # Errors
    /// When a file can't be read or the folder can't be written.
    pub fn write(&self, folder: &Path, contents: Vec<Box<dyn io::Read>>) -> io::Result<(String, Place)> {
        let name = format!("{:08x}", fastrand::u32(..));
        let part = folder.join(format!(".{name}.part"));
        fs::create_dir_all(&part)?;
        let written = self.write_parts(&part, contents).and_then(|()| {
            let place = folder.join(&name);
            fs::rename(&part, &place)?;
            Ok((name, Place(place)))
        });
        if written.is_err() {
            // Remains would do no harm, but may be large.
            let _ = fs::remove_dir_all(&part);
        }
        written
    }

    fn write_parts(&self, part: &Path, contents: Vec<Box<dyn io::Read>>) -> io::Result<()> {
        for (number, mut content) in contents.into_iter().enumerate() {
            let mut file = fs::File::create(part.join(number.to_string()))?;
            io::copy(&mut content, &mut file)?;
            file.sync_all()?;
        }
        let mut file = fs::File::create(part.join(JOB))?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()
    }
}

impl Place {
    /// The path of the copy of a file.
    #[must_use]
    pub fn content(&self, number: usize) -> PathBuf {
        self.0.join(number.to_string())
    }

    /// The report, once the job is finished.
    ///
    /// # Errors
    /// When the report exists and can't be read, or the job is gone.
    pub fn report(&self) -> io::Result<Option<Report>> {
        match fs::read(self.0.join(REPORT)) {
            Ok(report) => Ok(Some(serde_json::from_slice(&report)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.0.is_dir() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the report and deletes the files.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub(super) fn conclude(&self, report: &Report) -> io::Result<()> {
        let part = self.0.join(format!(".{REPORT}"));
        let mut file = fs::File::create(&part)?;
        file.write_all(&serde_json::to_vec_pretty(report)?)?;
        file.sync_all()?;
        fs::rename(&part, self.0.join(REPORT))?;
        for number in 0..report.files.len() {
            fs::remove_file(self.content(number)).or_else(unless_gone)?;
        }
        Ok(())
    }

    /// Deletes the job's folder.
    ///
    /// # Errors
    /// When it can't be deleted.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.0).or_else(unless_gone)
    }
}

fn unless_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// A job's folder, and the job or an error message.
pub(super) type Found = (Place, Result<Job, String>);

/// The unfinished jobs of a folder by name; none if it does not exist.
///
/// # Errors
/// When the folder exists and can't be read.
pub(super) fn list(folder: &Path) -> io::Result<BTreeMap<String, Found>> {
    let mut jobs = BTreeMap::new();
    for path in crate::source::entries(folder)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else {
            continue;
        };
        if path.is_dir() && !path.join(REPORT).exists() {
            let read = || {
                let text = fs::read(path.join(JOB)).map_err(|error| error.to_string())?;
                serde_json::from_slice(&text).map_err(|error| error.to_string())
            };
            jobs.insert(name.to_owned(), (Place(path.clone()), read()));
        }
    }
    Ok(jobs)
}
