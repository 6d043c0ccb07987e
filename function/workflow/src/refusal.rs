//! What it means that Dataproc, or the way to it, refused a submission.

use std::time::Duration;

use gcloud_sdk::tonic::Code;

use crate::{
    error::{CallError, Origin},
    outcome::{Shortage, shortage},
};

/// What a refusal of InstantiateInline means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Permanent,
    Capacity {
        stockout: bool,
    },
    /// `executed`: the workflow may have been made all the same.
    Transient {
        executed: bool,
    },
    AlreadyThere,
}

/// Sorts the errors of InstantiateInline.
pub fn refusal(error: &CallError) -> Refusal {
    if let Some(shortage) = shortage(&error.message).filter(|_| error.origin != Origin::NotExecuted) {
        return Refusal::Capacity { stockout: shortage == Shortage::Stockout };
    }
    match error.code {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange | Code::Unimplemented => {
            Refusal::Permanent
        }
        Code::ResourceExhausted => Refusal::Capacity { stockout: false },
        Code::AlreadyExists => Refusal::AlreadyThere,
        // IAM takes minutes.
        Code::PermissionDenied | Code::Unauthenticated => Refusal::Transient { executed: false },
        _ => Refusal::Transient { executed: error.origin != Origin::NotExecuted },
    }
}

/// Doubles with each failure up to `longest`; its last quarter is jitter.
pub fn backoff(first: Duration, failures: u32, longest: Duration, jitter: f64) -> Duration {
    let whole = first.saturating_mul(2u32.saturating_pow(failures.min(20))).min(longest.max(first));
    whole.mul_f64(0.75 + 0.25 * jitter.clamp(0.0, 1.0))
}
