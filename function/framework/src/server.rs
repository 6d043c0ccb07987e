//! The server: accepts connections until the shutdown, then waits for the requests in flight.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cloudevents::Event;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::limits::Limits;
use crate::request::{self, Function};
use crate::status::Failure;
use crate::{body, connection};

/// The pause after an accept that failed for lack of descriptors or memory. Connections that end in the meantime free some.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves a function of signature `cloudevent` until `shutdown` resolves, within [`Limits::default`].
///
/// A request that is not an event is answered with 400. The handler's `Ok` becomes 204, its error the status of the
/// [`Failure`] that it converts to, its panic 500. Handlers run concurrently, and
/// [`trace_context`](crate::trace_context) works inside them.
///
/// After the shutdown no connection is accepted, and the requests in flight get [`Limits::drain`] to end.
///
/// # Errors
/// The listener has no local address.
pub async fn serve<H, F, E>(listener: TcpListener, handler: H, shutdown: impl Future<Output = ()>) -> io::Result<()>
where
    H: Fn(Event) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Failure> + 'static,
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
    H: Fn(Event) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Failure> + 'static,
{
    request::report_panics_once();
    let address = listener.local_addr()?;
    tracing::debug!(%address, "listening");
    let function = Arc::new(Function { handler, limits, budget: body::budget(&limits) });
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Responses are short: waiting to fill a packet only delays them.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(error = %error, "connection ended");
                        continue;
                    }
                    let function = function.clone();
                    let respond = move |request, in_flight| request::respond(function.clone(), request, in_flight);
                    connections.spawn(connection::run(stream, limits, stopped.clone(), respond));
                }
                Err(error) if is_of_one_connection(&error) => tracing::debug!(error = %error, "connection ended"),
                Err(error) => {
                    tracing::warn!(error = %error, "cannot accept connections");
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
        tracing::warn!(connections = connections.len(), "the shutdown dropped requests in flight");
    }
    Ok(())
}

/// Resolves at the first SIGTERM (Cloud Run, Docker) or SIGINT (a terminal) after this call.
///
/// # Errors
/// The signal handlers cannot be installed.
///
/// # Panics
/// Outside a tokio runtime.
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

/// Whether a connection ended before it was accepted. The listener itself still works.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
