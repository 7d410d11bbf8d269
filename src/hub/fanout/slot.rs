//! One stream: its socket, its cursor, and what it is at.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::PlainStream;
use super::ready::SlotWaker;
use crate::hub::Hub;
use crate::hub::files::is_refusal;
use crate::hub::matching::FilterId;
use crate::hub::reader::{Notice, Reader, Step};
use crate::hub::segment::{Encoding, Selected};
use crate::hub::wire::{OpenStream, Wire};
use crate::model::Seq;

/// Most runs of events per system call.
const RUNS_AT_ONCE: usize = 64;
/// Ends a chunked body (<https://www.rfc-editor.org/rfc/rfc9112#section-7.1>).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Most reads in a row of what a client sends after its request; one that sends more is disconnected.
const READS_AT_ONCE: usize = 16;

/// The state of a slot in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In the queue for a turn.
    Queued,
    /// Caught up with the shard's tail; at this index in its filter's group.
    AtTail(u32),
    /// Waiting for the socket to become writable.
    Blocked,
    /// Waiting for the next segment to be loaded.
    Loading,
}

/// The outcome of a turn.
#[derive(Debug)]
pub(super) enum Turn {
    /// There may be more to send.
    Again,
    /// Caught up, until the tail moves or a timer is due at this moment.
    AtTail(Option<Instant>),
    /// The socket's buffer is full.
    Blocked,
    /// The next segment must be loaded.
    Load,
    /// The stream has ended, or the client is gone.
    Over,
}

pub(super) struct Slot {
    /// Distinguishes successive streams at the same index.
    pub(super) id: u64,
    pub(super) state: State,
    socket: TcpStream,
    waker: Arc<SlotWaker>,
    reader: Reader,
    wire: Wire,
    open: OpenStream,
    _held: Option<Box<dyn fmt::Debug + Send>>,
    /// Bytes to send first: a notice, or the rest of an event.
    pending: Bytes,
    /// Since when the socket has accepted nothing.
    blocked: Option<Instant>,
    /// Whether the stream ends after `pending`.
    last: bool,
}

impl Slot {
    pub(super) fn new(id: u64, socket: TcpStream, stream: PlainStream, waker: Arc<SlotWaker>) -> Self {
        let PlainStream { reader, mut wire, open, held } = stream;
        let pending = wire.opening().map(|text| chunk(&text)).unwrap_or_default();
        let state = State::Queued;
        Self { id, state, socket, waker, reader, wire, open, _held: held, pending, blocked: None, last: false }
    }

    pub(super) fn filter(&self) -> FilterId {
        self.reader.filter()
    }

    /// The arguments for [`Hub::load`].
    pub(super) fn wanted(&self) -> (Seq, Encoding) {
        (self.reader.cursor(), self.reader.encoding().clone())
    }

    pub(super) fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// Sends until the socket is full, the stream is caught up, or other slots should have their turn.
    pub(super) fn turn(&mut self, hub: &Hub, now: Instant, stopping: bool) -> Turn {
        loop {
            match self.send_pending(now) {
                Ok(true) => {}
                Ok(false) => return Turn::Blocked,
                Err(_) => return Turn::Over,
            }
            if self.last {
                return Turn::Over;
            }
            match self.reader.step(hub, now, stopping) {
                Step::Events(selected) => match self.send(hub, &selected, now) {
                    Ok(false) => return Turn::Blocked,
                    Ok(true) if self.reader.cursor() < hub.tail() => return Turn::Again,
                    Ok(true) => {}
                    Err(_) => return Turn::Over,
                },
                Step::Notice(notice) => self.tell(&notice),
                Step::Again => return Turn::Again,
                Step::Load => return Turn::Load,
                Step::Wait(until) => return Turn::AtTail(until),
                Step::End => return Turn::Over,
            }
        }
    }

    fn tell(&mut self, notice: &Notice) {
        self.open.told(notice);
        let closing = matches!(notice, Notice::Closing(..));
        self.last |= closing;
        match self.wire.notice(notice) {
            Ok(text) => {
                let mut bytes = BytesMut::from(text.map(|text| chunk(&text)).unwrap_or_default());
                if closing {
                    bytes.extend_from_slice(LAST_CHUNK);
                }
                self.pending = bytes.freeze();
            }
            Err(cut_off) => {
                tracing::debug!(%cut_off, "stream ends without HTTP's end");
                self.last = true;
            }
        }
    }

    /// Sends `pending`, and returns whether the socket accepted all of it.
    fn send_pending(&mut self, now: Instant) -> io::Result<bool> {
        if self.pending.is_empty() {
            return Ok(true);
        }
        let sent = write(&self.socket, self.pending.len(), |socket| socket.send(&self.pending))?;
        self.note(sent, sent < self.pending.len(), now);
        let _ = self.pending.split_to(sent);
        Ok(self.pending.is_empty())
    }

    /// Sends the selected events, or the first of them, and returns whether the socket accepted all that was offered.
    fn send(&mut self, hub: &Hub, selected: &Selected, now: Instant) -> io::Result<bool> {
        let (offered, sent) = match self.send_file_part(hub, selected)? {
            Some(progress) => progress,
            None => self.send_slices(selected)?,
        };
        let progress = self.reader.sent(selected, sent);
        self.wire.sent(progress.sum);
        self.open.count(progress.events, sent + progress.rest.len());
        self.pending = progress.rest;
        self.note(sent, sent < offered, now);
        Ok(sent == offered)
    }

    /// Sends the first run from a file, if that is better, and returns how many bytes were offered and accepted.
    fn send_file_part(&self, hub: &Hub, selected: &Selected) -> io::Result<Option<(usize, usize)>> {
        let Some(part) = selected.file_part(&hub.files) else { return Ok(None) };
        match write(&self.socket, part.len(), |socket| part.send(&*socket)) {
            Err(error) if is_refusal(&error) => {
                hub.files.refuse(&error);
                Ok(None)
            }
            sent => Ok(Some((part.len(), sent?))),
        }
    }

    /// Sends up to [`RUNS_AT_ONCE`] runs, and returns how many bytes were offered and accepted.
    fn send_slices(&self, selected: &Selected) -> io::Result<(usize, usize)> {
        let mut slices = [IoSlice::new(&[]); RUNS_AT_ONCE];
        let (mut runs, mut offered) = (0, 0);
        for (slice, run) in slices.iter_mut().zip(selected.chunks()) {
            *slice = IoSlice::new(run);
            (runs, offered) = (runs + 1, offered + run.len());
        }
        let slices = slices.get(..runs).unwrap_or_default();
        let sent = write(&self.socket, offered, |socket| match slices {
            [run] => socket.send(run),
            runs => socket.send_vectored(runs),
        })?;
        Ok((offered, sent))
    }

    fn note(&mut self, sent: usize, blocked: bool, now: Instant) {
        if !blocked {
            self.blocked = None;
        } else if sent > 0 || self.blocked.is_none() {
            self.blocked = Some(now);
        }
    }

    /// To be called before the slot is examined after a wake-up.
    pub(super) fn woken(&self) {
        self.waker.unlist();
    }

    /// Whether the client is still connected; registers for wake-up when it disconnects or sends. What it sends is
    /// discarded: the response said that no further request is read.
    pub(super) fn is_connected(&self, scratch: &mut [u8]) -> bool {
        let waker = Waker::from(Arc::clone(&self.waker));
        let mut context = Context::from_waker(&waker);
        for _ in 0..READS_AT_ONCE {
            match self.socket.poll_read_ready(&mut context) {
                Poll::Pending => return true,
                Poll::Ready(Err(_)) => return false,
                Poll::Ready(Ok(())) => match self.socket.try_read(scratch) {
                    Ok(0) => return false,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return false,
                },
            }
        }
        false
    }

    /// Whether the socket is writable; if not, registers for wake-up.
    pub(super) fn is_writable(&self) -> bool {
        let waker = Waker::from(Arc::clone(&self.waker));
        self.socket.poll_write_ready(&mut Context::from_waker(&waker)).is_ready()
    }

    /// When the client will have been stalled for `stalled_after`.
    pub(super) fn stalled_at(&self, stalled_after: Duration) -> Option<Instant> {
        self.blocked.and_then(|since| since.checked_add(stalled_after))
    }

    /// Releases shared segments while the socket is blocked, since the slot would keep them in memory for as long.
    pub(super) fn shed(&mut self) {
        self.pending = Bytes::copy_from_slice(&self.pending);
        self.reader.shed();
    }

    /// Closes the connection. With `reset` the kernel discards unsent bytes.
    pub(super) fn close(self, reset: bool) {
        if reset {
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Writes, and returns how many of the `offered` bytes the socket accepted. After a partial write tokio's readiness is
/// cleared, which saves a further system call to learn that the socket is full.
fn write(socket: &TcpStream, offered: usize, send: impl Fn(SockRef<'_>) -> io::Result<usize>) -> io::Result<usize> {
    let mut sent = 0;
    let outcome = socket.try_io(Interest::WRITABLE, || {
        sent = send(SockRef::from(socket))?;
        if sent < offered { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match outcome {
        Ok(()) => Ok(sent),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(sent),
        Err(error) => Err(error),
    }
}

fn chunk(text: &[u8]) -> Bytes {
    [format!("{:x}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat().into()
}
