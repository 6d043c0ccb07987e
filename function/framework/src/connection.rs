//! One connection: HTTP/1 or h2c, and the clocks that keep a silent client from holding it.
//!
//! Neither hyper's HTTP/2 nor the detection of the protocol knows a timeout, and hyper's timeout for HTTP/1 heads would also
//! end healthy connections that wait for their next request. So the clocks are kept here, over what was read and how many
//! requests are in flight.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::body::Limits;
use crate::request::ResponseBody;

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A peer that vanished without a word is found out after these two.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// For a last answer to leave, and for an HTTP/2 client to say goodbye, once nothing is in flight on a closing connection.
const GOODBYE: Duration = Duration::from_secs(1);

/// After a body was unread its rest is read and thrown away for so long, and so much of it, before the socket is closed:
/// closing with unread bytes resets the connection, and the client may never see the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;

/// Serves requests until the client leaves, a clock runs out, or `stopped` changes and nothing is in flight any more.
pub(crate) async fn run<S, F>(stream: TcpStream, limits: Limits, mut stopped: watch::Receiver<bool>, respond: S)
where
    S: Fn(Request<Incoming>, InFlight) -> F,
    F: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let clock = Arc::new(Clock::new());
    let io = TokioIo::new(Watched { stream, clock: clock.clone(), linger: None });
    let service = service_fn(|request| {
        let responding = respond(request, clock.begin());
        async move { Ok::<_, Infallible>(responding.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A sender that closes its half after the request still wants the answer.
    builder.http1().half_close(true);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(io, service));

    let mut closing = None;
    loop {
        let check = clock.next_check(&limits, closing);
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(error = %error, "connection ended");
                }
                return;
            }
            _ = stopped.wait_for(|stopped| *stopped), if closing.is_none() => {
                closing = Some(Instant::now());
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(check) => {
                if clock.expiry(&limits, closing).is_none_or(|expiry| Instant::now() < expiry) {
                    continue;
                }
                if closing.is_some() {
                    tracing::debug!("connection dropped: its client does not leave");
                    return;
                }
                closing = Some(Instant::now());
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// What the clocks of a connection go by.
pub(crate) struct Clock(Mutex<Progress>);

struct Progress {
    in_flight: usize,
    /// The last change: connected, became HTTP/2, a request in flight ended, or (HTTP/1) a piece of an answer was sent.
    since: Instant,
    /// When the first byte of a head came that is not whole yet (HTTP/1; HTTP/2 has frames of its own between requests).
    partial: Option<Instant>,
    served: bool,
    /// How much of the HTTP/2 preface has come; None once it is clear that it does not come.
    preface: Option<usize>,
    unread: bool,
}

/// A request in flight, from its head until its answer is handed over.
pub(crate) struct InFlight(Arc<Clock>);

impl InFlight {
    /// The body of this request is not read: what is left of it must not reset the connection before the answer is read.
    pub(crate) fn leave_unread(&self) {
        self.0.progress().unread = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut progress = self.0.progress();
        progress.in_flight -= 1;
        progress.since = Instant::now();
    }
}

impl Clock {
    fn new() -> Self {
        let since = Instant::now();
        Self(Mutex::new(Progress {
            in_flight: 0,
            since,
            partial: None,
            served: false,
            preface: Some(0),
            unread: false,
        }))
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>) -> InFlight {
        let mut progress = self.progress();
        progress.in_flight += 1;
        progress.partial = None;
        progress.served = true;
        InFlight(self.clone())
    }

    fn received(&self, bytes: &[u8]) {
        let mut progress = self.progress();
        let now = Instant::now();
        if let Some(before) = progress.preface.filter(|before| *before < H2_PREFACE.len()) {
            let rest = &H2_PREFACE[before..];
            let length = rest.len().min(bytes.len());
            progress.preface = (rest[..length] == bytes[..length]).then_some(before + length);
            if progress.is_http2() {
                progress.since = now;
                progress.partial = None;
            }
        }
        if progress.in_flight == 0 && progress.partial.is_none() && !progress.is_http2() {
            progress.partial = Some(now);
        }
    }

    /// HTTP/2 writes frames of its own, pings among them: they are no reason to keep a connection.
    fn sent(&self) {
        let mut progress = self.progress();
        if !progress.is_http2() {
            progress.since = Instant::now();
        }
    }

    /// When the connection has had its time; None while a request is in flight: the body and the handler have limits of
    /// their own.
    fn expiry(&self, limits: &Limits, closing: Option<Instant>) -> Option<Instant> {
        let progress = self.progress();
        if progress.in_flight > 0 {
            return None;
        }
        Some(match (closing, progress.partial) {
            (Some(closing), _) => progress.since.max(closing) + if progress.unread { LINGER } else { GOODBYE },
            (None, Some(partial)) => partial + limits.header_read,
            (None, None) if progress.served || progress.is_http2() => progress.since + limits.idle,
            (None, None) => progress.since + limits.header_read,
        })
    }

    /// Expiries move while nobody is told, so they are looked at again and again.
    fn next_check(&self, limits: &Limits, closing: Option<Instant>) -> Instant {
        let soon = if closing.is_some() { GOODBYE } else { limits.header_read.min(limits.idle) };
        let soon = Instant::now() + soon;
        self.expiry(limits, closing).map_or(soon, |expiry| expiry.min(soon))
    }
}

impl Progress {
    fn is_http2(&self) -> bool {
        self.preface == Some(H2_PREFACE.len())
    }
}

/// The socket, telling the clock what is read, and lingering when it is closed on a unread body.
struct Watched {
    stream: TcpStream,
    clock: Arc<Clock>,
    linger: Option<Linger>,
}

struct Linger {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let received = &buf.filled()[before..];
        if !received.is_empty() {
            self.clock.received(received);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.clock.sent();
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.clock.sent();
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.clock.progress().unread {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger.get_or_insert_with(|| Linger { until: Box::pin(sleep(LINGER)), left: LINGER_BYTES });
        let mut scrap = [0; 8192];
        while linger.left > 0 && linger.until.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => linger.left = linger.left.saturating_sub(buf.filled().len()),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
