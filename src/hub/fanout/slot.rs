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
use crate::hub::matching::FilterId;
use crate::hub::reader::{Notice, Reader, Step};
use crate::hub::segment::{Encoding, Selected};
use crate::hub::wire::{OpenStream, Wire};
use crate::model::Seq;

/// Runs of events that go out in one system call.
const RUNS_AT_ONCE: usize = 64;
/// Ends a chunked body (<https://www.rfc-editor.org/rfc/rfc9112#section-7.1>).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Reads of what a client sends after its request, in a row. It has nothing to say.
const READS_AT_ONCE: usize = 16;

/// Where a slot stands in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In the queue: it gets a turn.
    Queued,
    /// In its filter's group, at this place: it has got everything up to the shard's tail.
    AtTail(u32),
    /// Its socket takes no more.
    Blocked,
    /// What follows is being read.
    Loading,
}

/// What a turn came to.
#[derive(Debug)]
pub(super) enum Turn {
    /// There may be more to send.
    Again,
    /// It has got everything, until the tail moves or this moment comes.
    AtTail(Option<Instant>),
    /// The socket takes no more.
    Blocked,
    /// What follows has to be read.
    Load,
    /// The stream is over, or the client is gone.
    Over,
}

pub(super) struct Slot {
    /// Tells the users of one place in the array apart.
    pub(super) id: u64,
    pub(super) state: State,
    socket: TcpStream,
    waker: Arc<SlotWaker>,
    reader: Reader,
    wire: Wire,
    open: OpenStream,
    _held: Option<Box<dyn fmt::Debug + Send>>,
    /// Goes out before anything else: a notice, or the rest of an event.
    pending: Bytes,
    /// Since when the socket has taken nothing.
    blocked: Option<Instant>,
    /// Nothing follows `pending`.
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

    /// What [`Hub::load`] is to be asked for.
    pub(super) fn wanted(&self) -> (Seq, Encoding) {
        (self.reader.cursor(), self.reader.encoding().clone())
    }

    pub(super) fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// Sends what there is, once around.
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
                Step::Events(selected) => match self.send(&selected, now) {
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

    /// Whether all of it was taken.
    fn send_pending(&mut self, now: Instant) -> io::Result<bool> {
        if self.pending.is_empty() {
            return Ok(true);
        }
        let sent = write(&self.socket, self.pending.len(), |socket| socket.send(&self.pending))?;
        self.note(sent, sent < self.pending.len(), now);
        let _ = self.pending.split_to(sent);
        Ok(self.pending.is_empty())
    }

    /// Whether all of it was taken, or as much as is sent at once.
    fn send(&mut self, selected: &Selected, now: Instant) -> io::Result<bool> {
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
        let progress = self.reader.sent(selected, sent);
        self.wire.sent(progress.sum);
        self.open.count(progress.events, sent + progress.rest.len());
        self.pending = progress.rest;
        self.note(sent, sent < offered, now);
        Ok(sent == offered)
    }

    fn note(&mut self, sent: usize, blocked: bool, now: Instant) {
        if !blocked {
            self.blocked = None;
        } else if sent > 0 || self.blocked.is_none() {
            self.blocked = Some(now);
        }
    }

    /// Before it is looked at after a wake-up.
    pub(super) fn woken(&self) {
        self.waker.unlist();
    }

    /// Whether the client is still there. It is waited for to go, or to say something, which is thrown away: nothing
    /// follows a request whose answer is the connection's last.
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

    /// Whether the socket may take more; if not, it is waited for.
    pub(super) fn is_writable(&self) -> bool {
        let waker = Waker::from(Arc::clone(&self.waker));
        self.socket.poll_write_ready(&mut Context::from_waker(&waker)).is_ready()
    }

    /// When the client has taken nothing for so long.
    pub(super) fn stalled_at(&self, stalled_after: Duration) -> Option<Instant> {
        self.blocked.and_then(|since| since.checked_add(stalled_after))
    }

    /// Keeps no shared memory while the socket takes nothing: what is held would not be dropped for as long.
    pub(super) fn shed(&mut self) {
        self.pending = Bytes::copy_from_slice(&self.pending);
        self.reader.shed();
    }

    /// Ends the connection. With `reset` the kernel drops what it still holds for the client.
    pub(super) fn close(self, reset: bool) {
        if reset {
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Gives how much the socket took of `offered` bytes. A socket that took less has no more room: tokio is told, so that
/// it need not be asked again to find out.
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
