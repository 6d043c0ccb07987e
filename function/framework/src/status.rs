//! What a failure or a refusal is answered with.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

/// Tells the platform who failed: `error` when the function said so, `crash` when it, or the reading of its event, broke
/// down (as functions-framework-go and -php do).
const FUNCTION_STATUS: &str = "x-google-status";

/// What a handler's error asks the sender to do. Pub/Sub and Eventarc deliver again after each of them.
///
/// An application's own error type becomes one through `From`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 429: too much at once, slow down.
    TooManyRequests,
    /// 503: something this function needs is away for now.
    Unavailable,
    /// 500: the function is at fault.
    Internal,
}

impl From<std::convert::Infallible> for Failure {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// The event is handled. 204 and not 202: Eventarc takes both for an acknowledgement, Google's Pub/Sub emulator only 204.
pub(crate) fn handled() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

pub(crate) fn failed(failure: Failure) -> Response<Bytes> {
    let (status, text) = match failure {
        Failure::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "the function has too much to do"),
        Failure::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "the function lacks a service that it needs"),
        Failure::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "the function failed"),
    };
    marked(plain(status, text), "error")
}

pub(crate) fn crashed() -> Response<Bytes> {
    marked(plain(StatusCode::INTERNAL_SERVER_ERROR, "the function crashed"), "crash")
}

pub(crate) fn no_event(reason: &str) -> Response<Bytes> {
    marked(plain(StatusCode::BAD_REQUEST, reason), "crash")
}

/// A refusal by the framework: the function was never asked, so no function status.
pub(crate) fn plain(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Asks an HTTP/1 client to leave.
pub(crate) fn closing(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn marked(mut response: Response<Bytes>, mark: &'static str) -> Response<Bytes> {
    response.headers_mut().insert(FUNCTION_STATUS, HeaderValue::from_static(mark));
    response
}
