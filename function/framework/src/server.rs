//! The server: accepts, hands over to connections, drains on shutdown.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloudevents::Event;
use http::request::Parts;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::body::{self, Limits};
use crate::request::{self, Function};
use crate::signature::SignatureType;
use crate::status::{self, Failure};
use crate::{connection, event};

/// After an accept that failed for lack of descriptors or memory; connections that end meanwhile give some back.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves a function of signature `cloudevent` until `shutdown` resolves, within [`Limits::default`].
///
/// A request that is no event is answered 400. The handler's `Ok` is 204, its error the status of the [`Failure`] that it
/// converts to, its panic 500. Handlers run concurrently; [`trace_context`](crate::trace_context) works inside of them.
///
/// Then no connection is accepted any more, requests in flight get [`Limits::drain`] to end, and this returns.
///
/// # Errors
/// The listener has no address: it is no listener.
pub async fn serve<H, F, E>(listener: TcpListener, handler: H, shutdown: impl Future<Output = ()>) -> io::Result<()>
where
    H: Fn(Event) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Failure>,
{
    serve_with(listener, handler, shutdown, Limits::default()).await
}

/// [`serve`] with other limits.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with<H, F, E>(
    listener: TcpListener,
    handler: H,
    shutdown: impl Future<Output = ()>,
    limits: Limits,
) -> io::Result<()>
where
    H: Fn(Event) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Failure>,
{
    let respond = move |head: Parts, body: Bytes| {
        let handler = handler.clone();
        async move {
            match event::decode(&head, body) {
                // On the heap: what is around it is moved several times before it is polled.
                Ok(event) => match Box::pin(handler(event)).await {
                    Ok(()) => status::handled(),
                    Err(error) => status::failed(error.into()),
                },
                Err(error) => {
                    tracing::warn!("request refused: {error}");
                    status::no_event(&error.to_string())
                }
            }
        }
    };
    run(listener, SignatureType::CloudEvent, respond, shutdown, limits).await
}

/// Serves a function of signature `http`: requests with their whole body, on every path and with every method.
///
/// The framework answers in its place only for `/robots.txt`, `/favicon.ico`, bodies beyond the limits, and panics.
/// Shutdown and limits as for [`serve`].
///
/// # Errors
/// As [`serve`].
pub async fn serve_http<H, F>(listener: TcpListener, handler: H, shutdown: impl Future<Output = ()>) -> io::Result<()>
where
    H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Bytes>> + Send + 'static,
{
    serve_http_with(listener, handler, shutdown, Limits::default()).await
}

/// [`serve_http`] with other limits.
///
/// # Errors
/// As [`serve`].
pub async fn serve_http_with<H, F>(
    listener: TcpListener,
    handler: H,
    shutdown: impl Future<Output = ()>,
    limits: Limits,
) -> io::Result<()>
where
    H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Bytes>> + Send + 'static,
{
    let respond = move |head: Parts, body: Bytes| handler(Request::from_parts(head, body));
    run(listener, SignatureType::Http, respond, shutdown, limits).await
}

/// Resolves at the first SIGTERM (Cloud Run, Docker) or SIGINT (a terminal) after this call.
///
/// # Errors
/// The signals cannot be listened to. Panics outside of a tokio runtime.
pub fn shutdown_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn run<R, F>(
    listener: TcpListener,
    signature: SignatureType,
    respond: R,
    shutdown: impl Future<Output = ()>,
    limits: Limits,
) -> io::Result<()>
where
    R: Fn(Parts, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Bytes>> + Send + 'static,
{
    request::report_panics_once();
    let address = listener.local_addr()?;
    tracing::debug!(%address, "listening");
    let function = Arc::new(Function { signature, respond, limits, budget: body::budget(&limits) });
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Answers are short; waiting to fill a packet only delays them.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(error = %error, "connection ended");
                        continue;
                    }
                    let function = function.clone();
                    let answer = move |request, in_flight| request::answer(function.clone(), request, in_flight);
                    connections.spawn(connection::run(stream, limits, stopped.clone(), answer));
                }
                Err(error) if is_the_clients(&error) => tracing::debug!(error = %error, "connection ended"),
                Err(error) => {
                    tracing::warn!(error = %error, "no connection can be accepted");
                    tokio::select! {
                        () = &mut shutdown => break,
                        () = sleep(ACCEPT_PAUSE) => {}
                    }
                }
            },
        }
    }

    drop(listener);
    stop.send_replace(true);
    let drained = timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "requests in flight were given up at shutdown");
    }
    Ok(())
}

/// The connection was gone before it was accepted; the next one is fine.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
