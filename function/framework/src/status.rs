//! The responses: what the sender is told about a failure or a rejected request.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

/// What a handler's error asks of the sender. Pub/Sub and Eventarc deliver the event again after each of them.
///
/// An application's error type converts to one through `From`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 429: the function is overloaded, send more slowly.
    TooManyRequests,
    /// 503: a service that the function needs is unavailable.
    Unavailable,
    /// 500: the fault is in the function.
    Internal,
}

/// The event is handled. The status is 204, not 202: Eventarc takes both as an acknowledgement, Google's Pub/Sub emulator
/// only 204.
pub(crate) fn handled() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

pub(crate) fn failed(failure: Failure) -> Response<Bytes> {
    let (status, text) = match failure {
        Failure::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "the function is overloaded"),
        Failure::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "a service that the function needs is unavailable"),
        Failure::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "the function failed"),
    };
    with_function_status(plain(status, text), "error")
}

pub(crate) fn crashed() -> Response<Bytes> {
    with_function_status(plain(StatusCode::INTERNAL_SERVER_ERROR, "the function crashed"), "crash")
}

pub(crate) fn not_an_event(reason: &str) -> Response<Bytes> {
    with_function_status(plain(StatusCode::BAD_REQUEST, reason), "crash")
}

/// A response of the framework itself. The function was not called, so there is no function status.
pub(crate) fn plain(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Tells an HTTP/1 client that the connection closes after this response.
pub(crate) fn closing(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Tells the platform what failed, as functions-framework-go and -php do: `error` if the handler returned an error, `crash`
/// if the handler panicked or its event could not be decoded.
fn with_function_status(mut response: Response<Bytes>, status: &'static str) -> Response<Bytes> {
    response.headers_mut().insert("x-google-status", HeaderValue::from_static(status));
    response
}
