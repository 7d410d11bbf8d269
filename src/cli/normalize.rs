//! `catchment normalize`: records to events on standard output, without a server.

use std::convert::Infallible;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;

use serde_json::json;

use super::{Failure, records};
use crate::decode::Piece;
use crate::hub::Projection;
use crate::ingest::{Processed, Processor};
use crate::inventory::Inventory;
use crate::normalize::{Engine, Outcome};
use crate::source::Clock;

/// Limit of the inventory, which provides the previous configurations, in bytes. Beyond it, the assets that changed
/// longest ago are forgotten.
const INVENTORY_BYTES: usize = 256 << 20;
/// Number of provider event ids remembered to recognise duplicates.
const RECENT_IDS: usize = 1 << 20;
/// Bytes of records that are normalized and then passed on together,
const CHUNK_BYTES: usize = 64 << 10;
/// and number of such chunks that may wait.
const CHUNKS: usize = 4;

const EXAMPLES: &str = "\
Examples:
  catchment normalize trail.json.gz | jq .data.asset
  catchment normalize /var/log/cloudtrail --omit raw | jq -r '[.time, .subject] | @tsv'
  zcat trail/*.gz | catchment normalize --explain

Reads CloudTrail log files ({\"Records\": [...]}), Azure records ({\"records\": [...]},
{\"value\": [...]}), a JSON array, a single record, or a sequence of records, plain or gzip. Prints
one event per line, in the order of the records. All files share one inventory, which starts
empty. Nothing is stored, and no cloud is contacted.";

/// Turn audit records from files or standard input into events, one per line on standard output
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Files or folders; - is standard input, the default
    #[arg(value_name = "FILES")]
    pub(super) files: Vec<PathBuf>,
    /// Print, instead of events, the outcome of every record and the rule that decided it
    #[arg(long)]
    pub(super) explain: bool,
    /// A folder of rules that add to the built-in ones or override them
    #[arg(long, value_name = "DIR")]
    pub(super) normalizers: Option<PathBuf>,
    /// Prefix of every event type
    #[arg(long, value_name = "PREFIX", default_value = "io.catchment")]
    pub(super) type_prefix: String,
    /// Members of data to leave out, comma-separated: raw,previous_configuration
    #[arg(long, value_name = "MEMBERS", value_delimiter = ',')]
    pub(super) omit: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<(), Failure> {
    records::given(&arguments.files, "normalize")?;
    let mut output = BufWriter::with_capacity(64 * 1024, output);
    normalize(arguments, &mut output)?;
    Ok(output.flush()?)
}

/// Writes the events of all files to `output`, one per line. A failed write is a [`Failure::Output`].
fn normalize(arguments: &Arguments, output: &mut dyn Write) -> Result<(), Failure> {
    let engine = Arc::new(Engine::load(arguments.normalizers.as_deref())?);
    let inventory = Arc::new(Inventory::bounded(INVENTORY_BYTES));
    let processor = Processor::new(Arc::clone(&engine), inventory, arguments.type_prefix.clone(), RECENT_IDS);
    let omit = (!arguments.omit.is_empty()).then(|| arguments.omit.join(","));
    let projection = Projection::parse(omit.as_deref(), None).map_err(|error| Failure::Usage(format!("--{error}")))?;
    let mut run =
        Run { processor, projection, explain: arguments.explain, clock: Clock::system(), quarantined: 0, output };
    // Another thread decodes and normalizes, which needs no state; this one completes and writes, in the same order.
    thread::scope(|scope| {
        let (sender, chunks) = sync_channel(CHUNKS);
        let reader = scope.spawn(|| Ahead::new(engine, sender).read(&arguments.files));
        // The receiver is dropped when this fails, so that the reader ends if writing failed.
        run.take_all(chunks)?;
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    run.rest()?;
    if run.quarantined > 0 && !arguments.explain {
        tracing::warn!(
            records = run.quarantined,
            "some records could not be understood; --explain shows which and why"
        );
    }
    Ok(())
}

/// A piece of a file, and its outcome.
struct Normalized {
    file: Arc<str>,
    index: usize,
    outcome: Outcome,
}

/// Normalizes ahead of the thread that completes.
struct Ahead {
    engine: Arc<Engine>,
    chunks: SyncSender<Vec<Normalized>>,
    chunk: Vec<Normalized>,
    bytes: usize,
}

impl Ahead {
    fn new(engine: Arc<Engine>, chunks: SyncSender<Vec<Normalized>>) -> Self {
        Self { engine, chunks, chunk: Vec::new(), bytes: 0 }
    }

    fn read(mut self, files: &[PathBuf]) -> Result<(), Failure> {
        let mut file: Arc<str> = "".into();
        let outcome = records::each(files, &mut |name, index, piece| {
            if *file != *name {
                file = name.into();
            }
            self.take(Arc::clone(&file), index, piece)
        });
        // What was read before an error is passed on first.
        self.hand_on().and(outcome)
    }

    fn take(&mut self, file: Arc<str>, index: usize, piece: Piece) -> Result<(), Failure> {
        let outcome = match piece {
            Piece::Record { bytes, .. } => {
                self.bytes += bytes.len();
                self.engine.normalize(&bytes)
            }
            Piece::Rejected { code, reason, .. } => Outcome::Rejected { code, reason, rule: None },
        };
        self.bytes += size_of::<Normalized>();
        self.chunk.push(Normalized { file, index, outcome });
        if self.bytes < CHUNK_BYTES { self.offer() } else { self.hand_on() }
    }

    /// Passes on the chunk if the other thread is ready for it, so that no record waits for more input, which may take
    /// long to arrive.
    fn offer(&mut self) -> Result<(), Failure> {
        match self.chunks.try_send(std::mem::take(&mut self.chunk)) {
            Ok(()) => self.bytes = 0,
            Err(TrySendError::Full(chunk)) => self.chunk = chunk,
            Err(TrySendError::Disconnected(_)) => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        }
        Ok(())
    }

    fn hand_on(&mut self) -> Result<(), Failure> {
        self.bytes = 0;
        let chunk = std::mem::take(&mut self.chunk);
        // The other thread has failed and reports the reason itself.
        self.chunks.send(chunk).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe).into())
    }
}

/// The state kept from record to record.
struct Run<'a> {
    processor: Processor,
    projection: Option<Projection>,
    explain: bool,
    clock: Clock,
    quarantined: u64,
    output: &'a mut dyn Write,
}

impl Run<'_> {
    /// Takes all chunks until there are no more. Flushes the output before it waits for the next one.
    fn take_all(&mut self, chunks: Receiver<Vec<Normalized>>) -> Result<(), Failure> {
        loop {
            let chunk = match chunks.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.output.flush()?;
                    chunks.recv().map_err(|_| TryRecvError::Disconnected)
                }
                received => received,
            };
            let Ok(chunk) = chunk else { return Ok(()) };
            chunk.into_iter().try_for_each(|normalized| self.take(normalized))?;
        }
    }

    fn take(&mut self, normalized: Normalized) -> Result<(), Failure> {
        let Normalized { file, index, outcome } = normalized;
        // Nothing is stored: only records of this run can be duplicates.
        let Ok(processed) = self.processor.complete(outcome, self.clock.now(), |_| Ok::<_, Infallible>(false));
        self.told(&file, Some(index), processed)
    }

    /// Called after the last record: processes pending operations with what is known.
    fn rest(&mut self) -> Result<(), Failure> {
        while let Some(records) = self.processor.operations().rest() {
            let Ok(processed) = self.processor.tell(&records, self.clock.now(), |_| Ok::<_, Infallible>(false));
            self.told("-", None, processed)?;
        }
        Ok(())
    }

    fn told(&mut self, name: &str, index: Option<usize>, processed: Processed) -> Result<(), Failure> {
        self.quarantined += u64::from(matches!(processed, Processed::Rejected { .. }));
        if self.explain {
            return self.tell(name, index, &processed);
        }
        let Processed::Changes { events, .. } = processed else { return Ok(()) };
        for event in events {
            self.write(&event.json)?;
            self.output.write_all(b"\n")?;
        }
        Ok(())
    }

    fn write(&mut self, event: &[u8]) -> Result<(), Failure> {
        let Some(projection) = &self.projection else { return Ok(self.output.write_all(event)?) };
        let mut kept = Vec::with_capacity(event.len());
        projection.apply(event, &mut kept).map_err(|error| Failure::run("leave members out", error))?;
        Ok(self.output.write_all(&kept)?)
    }

    /// Writes the outcome of a record as one line of JSON.
    fn tell(&mut self, file: &str, index: Option<usize>, processed: &Processed) -> Result<(), Failure> {
        let (outcome, reason, rule, events) = match processed {
            Processed::Changes { events, rule, .. } => ("changes", None, Some(rule), events.as_slice()),
            Processed::Skipped { reason, rule } => ("skipped", Some(reason.to_string()), rule.as_ref(), &[][..]),
            Processed::Folded => {
                ("folded", Some("part of an operation reported by other records".to_owned()), None, &[][..])
            }
            Processed::Duplicate { event_id } => {
                ("duplicate", Some(format!("event id {event_id} was seen before")), None, &[][..])
            }
            Processed::Rejected { code, reason, rule } => {
                ("quarantined", Some(format!("{code}: {reason}")), rule.as_ref(), &[][..])
            }
        };
        let head =
            json!({ "file": file, "index": index, "outcome": outcome, "reason": reason, "rule": rule }).to_string();
        self.output.write_all(head.trim_end_matches('}').as_bytes())?;
        self.output.write_all(b",\"events\":[")?;
        for (number, event) in events.iter().enumerate() {
            if number > 0 {
                self.output.write_all(b",")?;
            }
            self.write(&event.json)?;
        }
        Ok(self.output.write_all(b"]}\n")?)
    }
}
