//! The walk through a trail's bucket: day by day, and within a day by account and region, so that changes of one asset
//! are delivered in the order in which CloudTrail logged them.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::job::Job;
use crate::source::aws::AwsError;
use crate::source::aws::object::{Listing, ObjectRef, Objects};
use crate::source::aws::reader::Progress;
use crate::source::aws::trail_key::{TrailObject, classify};

/// The position of a backfill; everything before it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    pub(super) version: u32,
    pub(super) day: Date,
    /// The lane: `AWSLogs/111122223333/CloudTrail/eu-west-1/`.
    pub(super) lane: String,
    /// The object being read, or read last.
    pub(super) key: String,
    /// The ETag of its content, and the number of pieces delivered.
    pub(super) etag: String,
    pub(super) pieces: u64,
    /// Whether that is all of the object.
    pub(super) done: bool,
}

/// An object to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) day: Date,
    pub(super) lane: String,
    pub(super) object: ObjectRef,
    /// How far it has been delivered before.
    pub(super) progress: Progress,
}

/// Iterates over the log files of a bucket in order.
pub(super) struct Walk {
    job: Job,
    lanes: Vec<String>,
    /// The position to resume at.
    from: Option<Position>,
    day: Date,
    lane: usize,
    /// The rest of the current page, reversed, and the token of the next.
    page: Vec<String>,
    more: More,
}

enum More {
    /// The lane's current day has not been listed yet.
    Begin,
    Token(String),
    No,
}

impl Walk {
    /// Lists the accounts and regions of the bucket, and resumes after `from`.
    pub(super) async fn begin(job: Job, from: Option<Position>, objects: &dyn Objects) -> Result<Self, AwsError> {
        let lanes = lanes(&job, objects).await?;
        let day = from.as_ref().map_or(job.from, |from| from.day.max(job.from));
        let first = from.as_ref().filter(|from| from.day == day);
        let lane = first.map_or(0, |from| lanes.partition_point(|lane| *lane < from.lane));
        Ok(Self { job, lanes, from, day, lane, page: Vec::new(), more: More::Begin })
    }

    /// The number of folders of accounts and regions.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// The next log file; `None` at the end.
    pub(super) async fn next(&mut self, objects: &dyn Objects) -> Result<Option<Stop>, AwsError> {
        loop {
            while let Some(key) = self.page.pop() {
                if matches!(classify(&key), TrailObject::Log { .. }) {
                    return Ok(self.stop(key));
                }
            }
            if self.day > self.job.to {
                return Ok(None);
            }
            let Some(lane) = self.lanes.get(self.lane).cloned() else {
                (self.day, self.lane) = (self.day.saturating_add(jiff::Span::new().days(1)), 0);
                continue;
            };
            let more = std::mem::replace(&mut self.more, More::No);
            let token = match more {
                More::Begin => None,
                More::Token(token) => Some(token),
                More::No => {
                    (self.lane, self.more) = (self.lane + 1, More::Begin);
                    continue;
                }
            };
            self.list(&lane, token, objects).await?;
        }
    }

    async fn list(&mut self, lane: &str, token: Option<String>, objects: &dyn Objects) -> Result<(), AwsError> {
        let prefix = format!("{lane}{}/", self.day.strftime("%Y/%m/%d"));
        let from = self.from.as_ref().filter(|from| from.day == self.day && from.lane == lane);
        let listing = Listing {
            bucket: &self.job.bucket,
            prefix: &prefix,
            start_after: from.filter(|from| from.done).map(|from| from.key.as_str()),
            folders: false,
        };
        let mut listed = objects.list(listing, token).await?;
        // A partly read object is read on; everything before it has been read.
        let passed =
            from.filter(|from| !from.done).map_or(0, |from| listed.names.partition_point(|key| *key < from.key));
        listed.names.drain(..passed.min(listed.names.len()));
        listed.names.reverse();
        self.page = listed.names;
        self.more = listed.more.map_or(More::No, More::Token);
        Ok(())
    }

    fn stop(&self, key: String) -> Option<Stop> {
        let lane = self.lanes.get(self.lane)?.clone();
        let begun = self.from.as_ref().filter(|from| from.day == self.day && from.key == key && !from.done);
        let progress = begun.map(|from| Progress { etag: from.etag.clone(), pieces: from.pieces }).unwrap_or_default();
        let object = ObjectRef { bucket: self.job.bucket.clone(), key, region: None };
        Some(Stop { day: self.day, lane, object, progress })
    }
}

/// The folders of accounts and regions below `AWSLogs/`, in order, including those of an organization's trail.
async fn lanes(job: &Job, objects: &dyn Objects) -> Result<Vec<String>, AwsError> {
    let root = format!("{}AWSLogs/", job.prefix);
    let mut accounts = Vec::new();
    for folder in folders(job, &root, objects).await? {
        let name = last_segment(&folder);
        if is_account(name) {
            accounts.push(folder);
        } else if name.starts_with("o-") {
            let inner = folders(job, &folder, objects).await?;
            accounts.extend(inner.into_iter().filter(|folder| is_account(last_segment(folder))));
        }
    }
    let mut lanes = Vec::new();
    for account in accounts {
        if !job.accounts.is_empty() && !job.accounts.iter().any(|wanted| wanted == last_segment(&account)) {
            continue;
        }
        let regions = folders(job, &format!("{account}CloudTrail/"), objects).await?;
        let wanted = |lane: &String| job.regions.is_empty() || job.regions.iter().any(|r| r == last_segment(lane));
        lanes.extend(regions.into_iter().filter(wanted));
    }
    lanes.sort_unstable();
    Ok(lanes)
}

async fn folders(job: &Job, prefix: &str, objects: &dyn Objects) -> Result<Vec<String>, AwsError> {
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let listing = Listing { bucket: &job.bucket, prefix, start_after: None, folders: true };
        let listed = objects.list(listing, token).await?;
        found.extend(listed.names);
        token = listed.more;
        if token.is_none() {
            return Ok(found);
        }
    }
}

fn last_segment(folder: &str) -> &str {
    folder.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

fn is_account(name: &str) -> bool {
    name.len() == 12 && name.bytes().all(|b| b.is_ascii_digit())
}
