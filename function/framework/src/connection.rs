//! One connection: HTTP/1 or h2c, closed when its client falls silent.
//!
//! hyper has no timeout for HTTP/2 nor for the detection of the protocol, and its timeout for HTTP/1 heads would also close
//! healthy connections that wait for their next request. So the timeouts are here, derived from the [`Activity`].

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
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

use crate::activity::{Activity, InFlight, LINGER, ResponseBody};
use crate::limits::Limits;

/// These two find out that an HTTP/2 client has vanished.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of an unread body is discarded within [`LINGER`].
const LINGER_BYTES: usize = 64 << 20;

/// Serves requests until the client leaves, a deadline passes, or `stopped` becomes true and no request is in flight.
pub(crate) async fn run<S, F>(stream: TcpStream, limits: Limits, mut stopped: watch::Receiver<bool>, respond: S)
where
    S: Fn(Request<Incoming>, InFlight) -> F,
    F: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let activity = Arc::new(Activity::new());
    let io = TokioIo::new(Observed { stream, activity: activity.clone(), linger: None });
    let service = service_fn(|request| {
        let responding = respond(request, activity.request_began());
        async move { Ok::<_, Infallible>(responding.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A sender that closes its half after the request still expects the response.
    builder.http1().half_close(true);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(io, service));

    let mut closing = None;
    loop {
        let check = activity.next_check(&limits, closing);
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
                if activity.deadline(&limits, closing).is_none_or(|deadline| Instant::now() < deadline) {
                    continue;
                }
                if closing.is_some() {
                    tracing::debug!("connection dropped: the client did not close it");
                    return;
                }
                closing = Some(Instant::now());
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The socket. It records the activity, and lingers when it is closed after a body was left unread.
struct Observed {
    stream: TcpStream,
    activity: Arc<Activity>,
    linger: Option<Linger>,
}

struct Linger {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let received = &buf.filled()[before..];
        if !received.is_empty() {
            self.activity.received(received);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.activity.sent();
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.activity.sent();
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
            if !this.activity.body_left_unread() {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger.get_or_insert_with(|| Linger { until: Box::pin(sleep(LINGER)), left: LINGER_BYTES });
        let mut discarded = [0; 8192];
        while linger.left > 0 && linger.until.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => linger.left = linger.left.saturating_sub(buf.filled().len()),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
