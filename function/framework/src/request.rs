//! One request: reject it by its head, or read its body, decode its event and call the handler.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};

use bytes::Bytes;
use cloudevents::Event;
use futures::FutureExt;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use tokio::sync::Semaphore;

use crate::activity::{InFlight, ResponseBody};
use crate::body::{self, ReadError};
use crate::decode::decode;
use crate::limits::Limits;
use crate::status::{self, Failure};
use crate::trace;

/// What the requests of a server share.
pub(crate) struct Function<H> {
    pub(crate) handler: H,
    pub(crate) limits: Limits,
    /// [`body::budget`] of the limits.
    pub(crate) budget: Arc<Semaphore>,
}

/// The response to a request. A panic of the handler is logged once, becomes a 500, and ends only this request.
pub(crate) async fn respond<H, F, E>(
    function: Arc<Function<H>>,
    request: Request<Incoming>,
    in_flight: InFlight,
) -> Response<ResponseBody>
where
    H: Fn(Event) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Failure>,
{
    let (head, body) = request.into_parts();
    let version = head.version;
    // The rest of a body would be read as the next request of an HTTP/1 connection; HTTP/2 resets only the stream.
    let leave_unread = |response: Response<Bytes>| {
        if version > Version::HTTP_11 {
            return response;
        }
        in_flight.leave_body_unread();
        status::closing(response)
    };
    let response = if let Some(rejection) = rejection(&head) {
        if body.is_end_stream() { rejection } else { leave_unread(rejection) }
    } else {
        let trace = trace::from_headers(&head.headers);
        let responding = async {
            match body::read(body, &function.limits, &function.budget).await {
                Ok((body, _reservation)) => handle(&function.handler, &head, body).await,
                Err(error) => leave_unread(not_read(&error)),
            }
        };
        trace::scope(trace, catch(responding)).await
    };
    in_flight.until_sent(response)
}

/// The response to a request that is rejected by its head alone.
fn rejection(head: &Parts) -> Option<Response<Bytes>> {
    // The contract: what browsers and crawlers request on their own does not reach a function.
    if matches!(head.uri.path(), "/robots.txt" | "/favicon.ico") {
        return Some(status::plain(StatusCode::NOT_FOUND, "not found"));
    }
    if head.method != Method::POST {
        return Some(status::not_an_event("not an event: events are sent with POST"));
    }
    None
}

fn not_read(error: &ReadError) -> Response<Bytes> {
    let (code, text) = match error {
        ReadError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        ReadError::TooManyInFlight => (StatusCode::TOO_MANY_REQUESTS, "too many bodies are in flight, try again"),
        ReadError::TimedOut => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
        ReadError::Broken(error) => {
            tracing::debug!(error = %error, "body ended early");
            return status::plain(StatusCode::BAD_REQUEST, "the body could not be read");
        }
    };
    tracing::warn!(status = code.as_u16(), "request rejected: {text}");
    status::plain(code, text)
}

async fn handle<H, F, E>(handler: &H, head: &Parts, body: Bytes) -> Response<Bytes>
where
    H: Fn(Event) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Failure>,
{
    let event = match decode(head, body) {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!("request rejected: {error}");
            return status::not_an_event(&error.to_string());
        }
    };
    // Boxed, because the futures around it are moved several times before they are polled.
    match Box::pin(handler(event)).await {
        Ok(()) => status::handled(),
        Err(error) => status::failed(error.into()),
    }
}

async fn catch(responding: impl Future<Output = Response<Bytes>>) -> Response<Bytes> {
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
    literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(the payload is not text)")
}

thread_local! {
    static PANIC_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Silences the default report on stderr for panics that [`catch`] logs. It would be a second report of the same panic, in a
/// format that log tools do not parse.
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
