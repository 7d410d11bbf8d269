//! `GET /v1/backup`: the whole log as of one moment, in the format of `catchment restore`.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::access::Caller;
use super::error::ApiError;
use super::params::NoParams;

/// Pieces queued for the client, and the size of one.
const PIECES: usize = 4;
const PIECE_BYTES: usize = 256 << 10;

/// `GET /v1/backup`. A backup that fails midway ends without the last HTTP chunk and without the backup's own trailer,
/// so that the client notices.
pub(super) async fn backup(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
) -> Result<Response, ApiError> {
    caller.sees_everything()?;
    if !app.state.log.is_durable() {
        return Err(ApiError::NoBackup);
    }
    let permit = Arc::clone(&app.backups).try_acquire_owned().map_err(|_| ApiError::BackupUnderWay)?;
    let (pieces, body) = mpsc::channel(PIECES);
    let (log, now, stop) = (Arc::clone(&app.state.log), (app.state.clock)(), app.state.stop.clone());
    let writing = move || {
        let mut output = BufWriter::with_capacity(PIECE_BYTES, Pieces { pieces: pieces.clone(), stop });
        let outcome = log.back_up(now, &mut output);
        // Before the client sees the end, so that it may ask again.
        drop(permit);
        match outcome {
            Ok(summary) => tracing::info!(events_to = %summary.tail, entries = summary.entries, "backup sent"),
            Err(error) => {
                tracing::warn!(%error, "a backup was not completed");
                // Who asked may have gone.
                let _ = pieces.blocking_send(Err(io::Error::other(error.to_string())));
            }
        }
    };
    // It ends with the client, with the server, or when it is done.
    drop(spawn_blocking(writing));
    const TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");
    const NAME: HeaderValue = HeaderValue::from_static("attachment; filename=\"catchment.backup\"");
    const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    let headers =
        [(header::CONTENT_TYPE, TYPE), (header::CONTENT_DISPOSITION, NAME), (header::CACHE_CONTROL, NO_STORE)];
    Ok((headers, Body::from_stream(ReceiverStream::new(body))).into_response())
}

/// A writer into the response body; blocks while the client does not read.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    stop: CancellationToken,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the server is stopping"));
        }
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.pieces.blocking_send(piece).map_err(|_| io::Error::other("the client has disconnected"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
