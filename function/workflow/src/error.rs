//! What can fail, and what keeps an event from being dealt with.

use gcloud_sdk::tonic::Code;

/// A call to Google that failed, or did not answer in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{method} {resource}: {}: {message}", code_name(*code))]
pub struct CallError {
    /// `Storage.ReadObject`
    pub method: &'static str,
    /// What was called upon: an object, a topic, an operation.
    pub resource: String,
    pub code: Code,
    pub message: String,
    pub origin: Origin,
}

/// Who says that a call failed, and so whether it may have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The service: the status arrived in its own trailers. Its code says whether the call may have been executed.
    Service,
    /// This side of the wire, or something on the way: whatever the code, the call may have been executed.
    Unknown,
    /// This side, and the service never began: no connection, no credentials, no time, or a stream that the service
    /// refused before processing it. Source: RFC 9113, 8.7 and 6.8.
    NotExecuted,
}

impl CallError {
    /// What others did between two calls of ours left this one nothing to do.
    pub fn overtaken(method: &'static str, resource: String, message: &str) -> CallError {
        CallError { method, resource, code: Code::Aborted, message: message.to_owned(), origin: Origin::Service }
    }
}

/// Why an event could not be dealt with. Another delivery of it can mend each of these; what it cannot mend is answered,
/// and what the next tick makes up for is acked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of the request is kept yet, and it cannot be: for want of storage or of the response topic.
    #[error("nothing is recorded yet: {0}")]
    NotRecorded(CallError),
    /// The event's time is used up, and nobody knows how far it got.
    #[error("the event's time is used up")]
    OutOfTime,
}

/// A gRPC code by the name that the specification gives it.
/// Source: google/rpc/code.proto.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
