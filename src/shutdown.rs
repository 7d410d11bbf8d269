//! Shutdown signals: the first one starts a graceful stop, the second ends the process.

use std::fmt;
use std::io;

use tokio::signal::unix::{self, SignalKind};
use tokio_util::sync::CancellationToken;

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, sent by a supervisor.
    Terminate,
    /// SIGINT, sent by Ctrl-C.
    Interrupt,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

/// The process's SIGTERM and SIGINT signals. After [`listen`](Signals::listen) they no longer end the process by
/// themselves.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    /// Installs the handlers. Must be called within a runtime.
    ///
    /// # Errors
    /// When a handler can't be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}

/// Cancels `stop` on the first signal, and returns on the second, upon which the process is to end at once. `next`
/// returns the signals: [`Signals::next`], or a test's own.
pub async fn watch(mut next: impl AsyncFnMut() -> Signal, stop: &CancellationToken) -> Signal {
    let first = next().await;
    tracing::info!(signal = %first, "stopping; a second signal ends the process at once");
    stop.cancel();
    let second = next().await;
    tracing::warn!(signal = %second, "ended by a second signal; unfinished work was abandoned");
    second
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_asks_and_the_second_insists() {
        let (send, mut signals) = mpsc::channel(2);
        let stop = CancellationToken::new();
        let next = async || match signals.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        };
        let script = async {
            tokio::task::yield_now().await;
            assert!(!stop.is_cancelled());
            send.send(Signal::Terminate).await.unwrap();
            stop.cancelled().await;
            send.send(Signal::Interrupt).await.unwrap();
        };
        let both = async { tokio::join!(watch(next, &stop), script) };
        let (signal, ()) = tokio::time::timeout(Duration::from_secs(1), both).await.unwrap();
        assert_eq!(signal, Signal::Interrupt);
    }
}
