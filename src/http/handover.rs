//! How a stream leaves hyper: the second door, for plain HTTP/1.1.
//!
//! Every request goes through hyper and the router. The body of a stream that may leave is a [`HandoverBody`]: it gives
//! nothing, but when hyper asks it for its first piece, it puts the stream where the connection's own loop (`serve`)
//! finds it. That loop then takes the socket back from hyper and hands both to the [fan-out](crate::hub::FanOut). So
//! what is parsed, refused, counted and answered is the same for both doors; only the bytes of the body are written by
//! another hand.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Method, Version};
use bytes::Bytes;
use hyper::body::{Body, Frame};

use crate::hub::PlainStream;

/// The slot in which a connection finds a stream that leaves hyper.
#[derive(Clone, Debug, Default)]
pub(super) struct Handover(Arc<Mutex<Option<Box<PlainStream>>>>);

impl Handover {
    /// Takes the stream to be written to this connection, if one was handed over.
    pub(super) fn take(&self) -> Option<Box<PlainStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Who writes the body of a stream.
pub(super) enum Door {
    /// hyper writes the body.
    Hyper,
    /// The fan-out does: a plain HTTP/1.1 GET, on a connection that can be taken from hyper.
    FanOut(Handover),
}

impl<S: Sync> FromRequestParts<S> for Door {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Without chunks, as in HTTP/1.0, hyper tells the end of a body by closing the connection.
        let eligible = parts.method == Method::GET && parts.version == Version::HTTP_11;
        let handover = parts.extensions.get::<Handover>().filter(|_| eligible);
        Ok(handover.cloned().map_or(Self::Hyper, Self::FanOut))
    }
}

/// A body that hands its stream over when it is first polled, and yields nothing itself.
pub(super) struct HandoverBody {
    handover: Handover,
    stream: Option<Box<PlainStream>>,
}

impl HandoverBody {
    pub(super) fn new(handover: Handover, stream: PlainStream) -> Self {
        Self { handover, stream: Some(Box::new(stream)) }
    }
}

impl Body for HandoverBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(stream) = self.stream.take() {
            *self.handover.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        }
        // The connection looks whenever hyper has been polled, so that nobody need be woken.
        Poll::Pending
    }
}
