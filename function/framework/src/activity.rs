//! What has happened on a connection, and the deadline that follows from it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::limits::Limits;

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a closing connection without requests in flight may take to send its last response and to say goodbye (HTTP/2).
const GOODBYE: Duration = Duration::from_secs(1);

/// After a body was left unread, its rest is read and discarded for this long before the socket closes. A socket that closes
/// with unread bytes resets the connection, and the client may lose the response.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// What has happened on a connection so far.
pub(crate) struct Activity(Mutex<State>);

struct State {
    in_flight: usize,
    /// The last change: connected, became HTTP/2, a request in flight ended, or (HTTP/1) a part of a response was sent.
    since: Instant,
    /// When the first byte of a head arrived that is still incomplete. HTTP/1 only: HTTP/2 also sends frames between requests.
    partial_head: Option<Instant>,
    /// Whether there has been a request.
    served: bool,
    /// How much of the HTTP/2 preface has arrived; None once it is clear that the client does not send it.
    preface: Option<usize>,
    body_left_unread: bool,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            in_flight: 0,
            since: Instant::now(),
            partial_head: None,
            served: false,
            preface: Some(0),
            body_left_unread: false,
        }))
    }

    pub(crate) fn received(&self, bytes: &[u8]) {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(before) = state.preface.filter(|before| *before < H2_PREFACE.len()) {
            let rest = &H2_PREFACE[before..];
            let length = rest.len().min(bytes.len());
            state.preface = (rest[..length] == bytes[..length]).then_some(before + length);
            if state.is_http2() {
                state.since = now;
                state.partial_head = None;
            }
        }
        if state.in_flight == 0 && state.partial_head.is_none() && !state.is_http2() {
            state.partial_head = Some(now);
        }
    }

    pub(crate) fn request_began(self: &Arc<Self>) -> InFlight {
        let mut state = self.state();
        state.in_flight += 1;
        state.partial_head = None;
        state.served = true;
        InFlight(self.clone())
    }

    /// Ignored on HTTP/2: it also sends frames of its own, such as pings, and these must not keep a connection open.
    pub(crate) fn sent(&self) {
        let mut state = self.state();
        if !state.is_http2() {
            state.since = Instant::now();
        }
    }

    pub(crate) fn body_left_unread(&self) -> bool {
        self.state().body_left_unread
    }

    /// When the connection has been silent for too long; `closing` is when it began to close. None while a request is in flight:
    /// the body has a limit of its own, and the handler has none.
    pub(crate) fn deadline(&self, limits: &Limits, closing: Option<Instant>) -> Option<Instant> {
        let state = self.state();
        if state.in_flight > 0 {
            return None;
        }
        Some(match (closing, state.partial_head) {
            (Some(closing), _) => state.since.max(closing) + if state.body_left_unread { LINGER } else { GOODBYE },
            (None, Some(partial_head)) => partial_head + limits.header_read,
            (None, None) if state.served || state.is_http2() => state.since + limits.idle,
            (None, None) => state.since + limits.header_read,
        })
    }

    /// When to look at the deadline again. It is polled, because an earlier deadline wakes no task.
    pub(crate) fn next_check(&self, limits: &Limits, closing: Option<Instant>) -> Instant {
        let interval = if closing.is_some() { GOODBYE } else { limits.header_read.min(limits.idle) };
        let latest = Instant::now() + interval;
        self.deadline(limits, closing).map_or(latest, |deadline| deadline.min(latest))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_http2(&self) -> bool {
        self.preface == Some(H2_PREFACE.len())
    }
}

/// A request in flight: from its head until its response is handed over.
pub(crate) struct InFlight(Arc<Activity>);

impl InFlight {
    /// The rest of the request's body is not read. The connection lingers when it closes, so that the client gets the response.
    pub(crate) fn leave_body_unread(&self) {
        self.0.state().body_left_unread = true;
    }

    /// The response. The request remains in flight until its body is handed over.
    pub(crate) fn until_sent(self, response: Response<Bytes>) -> Response<ResponseBody> {
        response.map(|body| ResponseBody { body: Full::new(body), _in_flight: self })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        state.since = Instant::now();
    }
}

/// The body of a response to a request in flight.
pub(crate) struct ResponseBody {
    body: Full<Bytes>,
    _in_flight: InFlight,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
