//! One request, from its head to its answer.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Semaphore;

use crate::body::{self, Limits, Refusal};
use crate::connection::InFlight;
use crate::signature::SignatureType;
use crate::{status, trace};

/// What all requests of a server have in common.
pub(crate) struct Function<R> {
    pub(crate) signature: SignatureType,
    /// From a request that may be handled to its response.
    pub(crate) respond: R,
    pub(crate) limits: Limits,
    pub(crate) budget: Arc<Semaphore>,
}

/// Refuses, or reads the body and lets the function respond; a panic is answered, logged once and ends nothing else.
pub(crate) async fn answer<R, F>(
    function: Arc<Function<R>>,
    request: Request<Incoming>,
    in_flight: InFlight,
) -> Response<Answer>
where
    R: Fn(Parts, Bytes) -> F,
    F: Future<Output = Response<Bytes>>,
{
    let (head, body) = request.into_parts();
    let version = head.version;
    // What is left of a body stands between an HTTP/1 connection and its next request; HTTP/2 resets only the stream.
    let leave_unread = |response: Response<Bytes>| {
        if version > Version::HTTP_11 {
            return response;
        }
        in_flight.refuse();
        status::closing(response)
    };
    let response = if let Some(refusal) = refusal(function.signature, &head) {
        if body.is_end_stream() { refusal } else { leave_unread(refusal) }
    } else {
        let trace = trace::from_headers(&head.headers);
        let responding = async {
            match body::read(body, &function.limits, &function.budget).await {
                Ok((body, _reservation)) => (function.respond)(head, body).await,
                Err(refusal) => leave_unread(unread(&refusal)),
            }
        };
        trace::scope(trace, caught(responding)).await
    };
    response.map(|body| Answer { body: Full::new(body), _in_flight: in_flight })
}

/// What is refused by its head alone.
fn refusal(signature: SignatureType, head: &Parts) -> Option<Response<Bytes>> {
    // The contract keeps what browsers and crawlers ask for by themselves from reaching a function.
    if matches!(head.uri.path(), "/robots.txt" | "/favicon.ico") {
        return Some(status::plain(StatusCode::NOT_FOUND, "not found"));
    }
    if signature == SignatureType::CloudEvent && head.method != Method::POST {
        return Some(status::no_event("no event: events are sent with POST"));
    }
    None
}

fn unread(refusal: &Refusal) -> Response<Bytes> {
    let (code, text) = match refusal {
        Refusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        Refusal::TooManyInFlight => (StatusCode::TOO_MANY_REQUESTS, "too many bodies are in flight, try again"),
        Refusal::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
        Refusal::Broken(error) => {
            tracing::debug!(error = %error, "body ended early");
            return status::plain(StatusCode::BAD_REQUEST, "the body could not be read");
        }
    };
    tracing::warn!(status = code.as_u16(), "request refused: {text}");
    status::plain(code, text)
}

async fn caught(responding: impl Future<Output = Response<Bytes>>) -> Response<Bytes> {
    match AssertUnwindSafe(responding).catch_unwind().await {
        Ok(response) => response,
        Err(payload) => {
            let place = PANIC_PLACE.take().unwrap_or_default();
            tracing::error!(place = %place, "the function panicked: {}", panic_text(payload.as_ref()));
            status::crashed()
        }
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(a value that is no text)")
}

thread_local! {
    static PANIC_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the default report off stderr for panics that [`caught`] logs: it would be a second line about the same thing, and
/// one that no log reader understands.
pub(crate) fn report_panics_once() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if trace::in_handler() {
                PANIC_PLACE.set(panic.location().map(ToString::to_string));
            } else {
                report(panic);
            }
        }));
    });
}

/// A response's body; the request counts as in flight until it is handed over.
pub(crate) struct Answer {
    body: Full<Bytes>,
    _in_flight: InFlight,
}

impl Body for Answer {
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
