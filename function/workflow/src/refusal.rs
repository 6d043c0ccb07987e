//! What it means that Dataproc, or the way to it, refused a submission.

use std::time::Duration;

use gcloud_sdk::tonic::Code;
use serde_json::value::RawValue;

use crate::{
    error::{CallError, Origin},
    outcome::{Shortage, shortage},
};

/// What a refusal of InstantiateInline means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The service will not take it, whenever it is sent.
    Permanent,
    /// Quota or machines are short.
    Capacity { stockout: bool },
    /// Too many submissions at the time: not a matter of this run, and not an attempt.
    RateLimited,
    /// For now. `executed`: the workflow may have been created all the same.
    Transient { executed: bool },
    /// A workflow with this attempt's request_id exists.
    AlreadyThere,
}

/// Sorts the errors of InstantiateInline. Who made the error and its code say whether the call may have been executed;
/// its text only says more of one that was certainly not.
pub fn refusal(error: &CallError, request: &RawValue) -> Refusal {
    match error.origin {
        Origin::NotExecuted => return Refusal::Transient { executed: false },
        Origin::Unknown => return Refusal::Transient { executed: true },
        Origin::Service => {}
    }
    let short = || shortage(&error.message, request);
    match error.code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::ResourceExhausted if let Some(shortage) = short() => {
            Refusal::Capacity { stockout: shortage == Shortage::Stockout }
        }
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange | Code::Unimplemented => {
            Refusal::Permanent
        }
        // 400 submissions a minute. Source: https://cloud.google.com/dataproc/quotas#api_requests
        Code::ResourceExhausted => Refusal::RateLimited,
        Code::AlreadyExists => Refusal::AlreadyThere,
        // IAM takes minutes.
        Code::PermissionDenied | Code::Unauthenticated => Refusal::Transient { executed: false },
        _ => Refusal::Transient { executed: true },
    }
}

/// Doubles with each failure up to `longest`; its last quarter is jitter.
pub fn backoff(first: Duration, failures: u32, longest: Duration, jitter: f64) -> Duration {
    let whole = first.saturating_mul(2u32.saturating_pow(failures.min(20))).min(longest.max(first));
    whole.mul_f64(0.75 + 0.25 * jitter.clamp(0.0, 1.0))
}
