//! What the log says about a run: a line for each state that it comes to, in fields that metrics can count
//! (`tf/metrics.tf`; the test `observability` holds the two together).

use tracing::info;

use crate::{
    record::{Record, State},
    response::cut,
    violation::{Document, Violation},
};

/// Of a text that others wrote, in bytes: an entry of Cloud Logging holds 256 KB.
const LONGEST_TEXT: usize = 1_024;

/// To be called when `record` has been written in the place of `before`. Whoever writes a record names the generation
/// that it replaces, so that each change is told once.
pub fn written(before: Option<&Record>, record: &Record) {
    let known = before.is_some_and(|before| before.state == record.state && before.attempt == record.attempt);
    // Of an accepted run the request's own line tells.
    if known || matches!(record.state, State::Awaited | State::Accepted) {
        return;
    }
    let rejected_by = (record.state == State::Rejected).then(|| rejected_by(&record.violations));
    let waits_for = (record.state == State::Waiting).then(|| waits_for(before, record));
    let failure = record.failure.as_ref();
    info!(
        run_id = %record.run_id(),
        job_name = record.correlation.job_name.as_deref().map(beginning),
        state = record.state.word(),
        attempt = record.attempt,
        operation = record.operation,
        rejected_by,
        waits_for,
        code = failure.map(|failure| failure.code.as_str()),
        step_id = failure.and_then(|failure| failure.step_id.as_deref()).map(beginning),
        reason = failure.map(|failure| beginning(&failure.message)),
        "run {}", record.state.word()
    );
}

/// Who says that a run will not be: the rules for requests, the operator's configuration, or else the service, to which
/// it was sent, or would have been.
pub fn rejected_by(violations: &[Violation]) -> &'static str {
    match violations {
        [] => "service",
        // Nothing is the sender's to mend before the operator has mended this.
        _ if violations.iter().any(|violation| violation.document == Document::Config) => "config",
        _ => "request",
    }
}

/// Only for lack of capacity there is a next attempt; otherwise the same one is made again.
fn waits_for(before: Option<&Record>, record: &Record) -> &'static str {
    match before {
        Some(before) if before.capacity_failures < record.capacity_failures => "capacity",
        _ => "retry",
    }
}

/// As much of a text as a line of the log has room for.
pub fn beginning(text: &str) -> &str {
    cut(text, LONGEST_TEXT)
}
