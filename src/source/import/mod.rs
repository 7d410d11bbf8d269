//! Import: files with states of assets (`job.rs`), delivered item by item.
//!
//! A job is repeated as a whole after a crash; what it has changed already does not change again.

mod job;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use self::job::{FileReport, Job, JobFile, Place, Report, folder};
use super::{Clock, Delivery, Intake, Source, SourceError, StatusHandle};
use crate::decode::{self, DocumentError, KEPT_BYTES};
use crate::model::{Origin, RawRecord, Rejected, SeedDocument, SourceId, TallyCounts};

/// The kind, in `/v1/sources`.
pub const KIND: &str = "import";

/// Largest expansion ratio of a compressed file.
const MAX_EXPANSION: u32 = 200;
/// Most items in a delivery.
const ITEMS: usize = 200;
/// Bytes of items after which a delivery is full.
const DELIVERY_BYTES: usize = 4 << 20;
/// Longest item in bytes: a Terraform resource with all its instances.
const MAX_ITEM_BYTES: usize = 16 << 20;
/// Deliveries read ahead.
const READ_AHEAD: usize = 2;
/// How often the folder of jobs is scanned.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A job for the server to start.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The source's name: `import-` and the job's.
    pub id: SourceId,
    /// The job.
    pub job: Job,
    /// Its folder.
    pub place: Place,
}

/// Calls `begin` once for every job of a folder. Runs until `stop` is cancelled.
pub async fn watch(folder: PathBuf, stop: CancellationToken, mut begin: impl FnMut(Begun)) {
    let (mut begun, mut unreadable) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let looked_at = folder.clone();
        let jobs = match spawn_blocking(move || job::list(&looked_at)).await {
            Ok(Ok(jobs)) => jobs,
            other => {
                tracing::warn!(folder = %folder.display(), ?other, "can't look for imports");
                BTreeMap::new()
            }
        };
        for (name, (place, job)) in jobs {
            match job {
                Ok(job) if begun.insert(name.clone()) => {
                    begin(Begun { id: format!("import-{name}").as_str().into(), job, place });
                }
                Ok(_) => {}
                Err(error) if unreadable.insert(name.clone()) => tracing::warn!(name, error, "not an import"),
                Err(_) => {}
            }
        }
        if stop.run_until_cancelled(sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// The job of this name, if it exists and is not finished.
///
/// # Errors
/// When the folder can't be read.
pub fn find(folder: &Path, name: &str) -> std::io::Result<Option<Begun>> {
    let found = job::list(folder)?.remove(name);
    let id = format!("import-{name}").as_str().into();
    Ok(found.and_then(|(place, job)| Some(Begun { id, job: job.ok()?, place })))
}

/// The source that executes an import.
#[derive(Debug)]
pub struct ImportSource {
    begun: Begun,
    clock: Clock,
}

/// Items of one list of one document.
struct Chunk {
    document: Arc<SeedDocument>,
    records: Vec<RawRecord>,
    rejected: Vec<Rejected>,
}

impl ImportSource {
    /// Creates the source for a job.
    #[must_use]
    pub fn new(begun: Begun, clock: Clock) -> Self {
        Self { begun, clock }
    }

    fn failed(cause: impl ToString) -> SourceError {
        SourceError::Upstream { action: "import".to_owned(), cause: cause.to_string() }
    }

    async fn work(&self, intake: &Intake, status: &StatusHandle) -> Result<(), SourceError> {
        let Begun { job, place, .. } = &self.begun;
        let mut files = Vec::with_capacity(job.files.len());
        for (number, file) in job.files.iter().enumerate() {
            status.update(|status| status.position = Some(file.name.clone()));
            files.push(self.file(number, file, intake, status).await?);
        }
        let (place, report) = (place.clone(), Report { files });
        let concluded = spawn_blocking(move || place.conclude(&report)).await.map_err(Self::failed)?;
        concluded.map_err(|error| Self::failed(format!("write the report: {error}")))
    }

    async fn file(
        &self,
        number: usize,
        file: &JobFile,
        intake: &Intake,
        status: &StatusHandle,
    ) -> Result<FileReport, SourceError> {
        let (sender, mut chunks) = mpsc::channel(READ_AHEAD);
        let reader = Reader {
            source: self.begun.id.clone(),
            file: file.clone(),
            job: self.begun.job.clone(),
            clock: self.clock.clone(),
            sender,
            next: 0,
        };
        let path = self.begun.place.content(number);
        let reading = spawn_blocking(move || reader.read(&path));
        let (mut counts, mut documents): (_, Vec<Arc<SeedDocument>>) = (TallyCounts::default(), Vec::new());
        while let Some(Chunk { document, records, rejected }) = chunks.recv().await {
            if documents.last().is_none_or(|last| !Arc::ptr_eq(last, &document)) {
                // The items of earlier documents are durable, and counted.
                documents.drain(..).for_each(|document| counts.add(&document.tally.counts()));
                documents.push(Arc::clone(&document));
            }
            let handed_over = records.len() as u64;
            document.tally.count(|counts| counts.rejected += rejected.len() as u64);
            let delivery = Delivery { source: self.begun.id.clone(), records, rejected, cursor: None };
            intake.seeding(document).submit(delivery).await?;
            status.update(|status| status.records += handed_over);
        }
        documents.drain(..).for_each(|document| counts.add(&document.tally.counts()));
        let error = reading.await.map_err(Self::failed)?.err().map(|error| error.to_string());
        Ok(FileReport { name: file.name.clone(), counts, error })
    }
}

#[async_trait]
impl Source for ImportSource {
    async fn run(&mut self, intake: Intake, status: StatusHandle, stop: CancellationToken) -> Result<(), SourceError> {
        stop.run_until_cancelled(Box::pin(self.work(&intake, &status))).await.unwrap_or(Ok(()))
    }
}

/// Splits a file into chunks, on a blocking thread.
struct Reader {
    source: SourceId,
    file: JobFile,
    job: Job,
    clock: Clock,
    sender: mpsc::Sender<Chunk>,
    next: u64,
}

impl Reader {
    fn read(mut self, path: &Path) -> Result<(), DocumentError> {
        let outlines = decode::outline(File::open(path)?, MAX_EXPANSION)?;
        let mut chunk: Option<Chunk> = None;
        let mut bytes = 0;
        decode::items::<DocumentError>(File::open(path)?, MAX_EXPANSION, &outlines, &mut |item| {
            let full = |chunk: &Chunk| chunk.records.len() >= ITEMS || bytes >= DELIVERY_BYTES;
            let elsewhere = |chunk: &Chunk| !is_of(&chunk.document, &item);
            if chunk.as_ref().is_some_and(|chunk| full(chunk) || elsewhere(chunk)) {
                let document =
                    chunk.as_ref().filter(|chunk| !elsewhere(chunk)).map(|chunk| Arc::clone(&chunk.document));
                self.send(&mut chunk)?;
                chunk = document.map(Chunk::of);
                bytes = 0;
            }
            let chunk = chunk.get_or_insert_with(|| Chunk::of(Arc::new(self.document(&item))));
            bytes += item.bytes.len();
            self.take(chunk, item);
            Ok(())
        })?;
        self.send(&mut chunk)
    }

    fn document(&self, item: &decode::Item<'_>) -> SeedDocument {
        SeedDocument {
            as_of: self.file.as_of,
            account: self.job.account.clone(),
            region: self.job.region.clone(),
            member: item.member.to_owned(),
            members: item.members.cloned().unwrap_or_default(),
            events: self.job.events,
            ..SeedDocument::default()
        }
    }

    fn take(&mut self, chunk: &mut Chunk, item: decode::Item<'_>) {
        let (source, location) = (self.source.clone(), self.file.name.as_str().into());
        let origin = Origin { source, location, index: self.next };
        self.next += 1;
        if item.bytes.len() <= MAX_ITEM_BYTES {
            chunk.records.push(RawRecord { bytes: item.bytes, origin });
            return;
        }
        let reason = format!("an item of {} bytes; the most allowed is {MAX_ITEM_BYTES}", item.bytes.len());
        let (bytes, observed) = (item.bytes.slice(..KEPT_BYTES), self.clock.now());
        chunk.rejected.push(Rejected { origin, code: "too_large", reason, bytes, observed });
    }

    fn send(&self, chunk: &mut Option<Chunk>) -> Result<(), DocumentError> {
        let Some(chunk) = chunk.take() else { return Ok(()) };
        let stopped = |_| DocumentError::Unreadable(std::io::Error::other("the import was stopped"));
        self.sender.blocking_send(chunk).map_err(stopped)
    }
}

impl Chunk {
    fn of(document: Arc<SeedDocument>) -> Self {
        Self { document, records: Vec::new(), rejected: Vec::new() }
    }
}

/// Whether an item belongs to the document's list.
fn is_of(document: &SeedDocument, item: &decode::Item<'_>) -> bool {
    document.member == item.member && item.members.is_none_or(|members| *members == document.members)
}
