//! One event, from its arrival to the line in the log that says what became of it.

use std::time::Duration;

use cloudevents::{AttributesReader, Event};
use functions_framework::{Failure, TraceContext, trace_context};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, error, info, info_span, warn};

use crate::{
    accept::accept,
    context::Context,
    error::{CallError, Error},
    request,
    sweep::{Swept, operation_ended, sweep},
    trigger::{Message, Trigger, trigger},
};

/// Of a job_name in the log, in bytes.
const LONGEST_NAME: usize = 1_024;
/// A call that was begun within the budget may end this much after it.
const OVERTIME: Duration = Duration::from_millis(500);

impl From<Error> for Failure {
    /// Every error asks for another delivery.
    fn from(_: Error) -> Failure {
        Failure::Unavailable
    }
}

/// Deals with an event.
///
/// # Errors
/// Only what another delivery can mend.
pub async fn handle(cx: Context, event: Event) -> Result<(), Error> {
    let trace = trace_context();
    let span = match &trace {
        Some(trace) => {
            let name = format!("projects/{}/traces/{}", cx.environment.project, trace.trace_id);
            info_span!("event", id = event.id(), trace = name, span_id = trace.span_id)
        }
        None => info_span!("event", id = event.id()),
    };
    handle_traced(cx.for_event(), event, trace).instrument(span).await
}

async fn handle_traced(cx: Context, event: Event, trace: Option<TraceContext>) -> Result<(), Error> {
    let began = Instant::now();
    let limit = cx.deadline + OVERTIME;
    match trigger(&event, &cx.environment.tick_topic, &cx.environment.response_topic) {
        Trigger::Request(message) => {
            let traceparent = traceparent(&event, trace);
            return handle_request(&cx, &message, traceparent, limit).await;
        }
        Trigger::Tick(published) => {
            report("tick", timeout_at(limit, sweep(&cx, published)).await.ok(), began);
        }
        Trigger::OperationEnded(name) => {
            report(&name, timeout_at(limit, operation_ended(&cx, &name)).await.ok(), began);
        }
        Trigger::Foreign(what) => {
            warn!(elapsed_ms = elapsed_ms(began), "{what} is not for this function; ignored");
        }
    }
    Ok(())
}

async fn handle_request(
    cx: &Context,
    message: &Message,
    traceparent: Option<String>,
    limit: Instant,
) -> Result<(), Error> {
    let began = Instant::now();
    let result = timeout_at(limit, accept(cx, message, traceparent))
        .await
        // Cut off anywhere: if the record stands, the next delivery finds it.
        .unwrap_or(Err(Error::OutOfTime));
    let message_id = message.id.as_str();
    let error = match result {
        Ok(handled) => {
            info!(
                run_id = %handled.run_id,
                job_name = beginning(&handled.job_name),
                request_id = handled.request_id,
                message_id,
                elapsed_ms = elapsed_ms(began),
                "{}", handled.what
            );
            return Ok(());
        }
        Err(error) => error,
    };
    // Read once more: what was read is gone with the call that failed, or was cut off.
    let (request, _) = request::decode(message.data.as_deref().unwrap_or(b"{}"));
    warn!(
        run_id = %request::run_id(&request, &message.topic, message_id),
        job_name = beginning(&request.job_name),
        request_id = request.request_id,
        message_id,
        elapsed_ms = elapsed_ms(began),
        %error,
        "to be delivered again"
    );
    Err(error)
}

/// Of a sender's text, which is of any length: an entry of Cloud Logging holds 256 KB.
fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_NAME)]
}

/// Ticks are acked whatever came of them: another one comes within a minute.
fn report(what: &str, result: Option<Result<Swept, CallError>>, began: Instant) {
    let elapsed_ms = elapsed_ms(began);
    match result {
        Some(Ok(swept)) => info!(
            seen = swept.seen,
            advanced = swept.advanced,
            failed = swept.failed,
            complete = swept.complete,
            elapsed_ms,
            "{what}"
        ),
        Some(Err(error)) => warn!(elapsed_ms, %error, "{what}: left to the next tick"),
        None => error!(elapsed_ms, "{what}: ran over its time"),
    }
}

/// What a consumer needs to find the trace of the request again: the event's own, or that of its delivery.
fn traceparent(event: &Event, trace: Option<TraceContext>) -> Option<String> {
    let own = event.extension("traceparent").map(|value| value.to_string());
    own.or_else(|| {
        let trace = trace?;
        let flags = if trace.sampled { "01" } else { "00" };
        Some(format!("00-{}-{}-{flags}", trace.trace_id, trace.span_id?))
    })
}

fn elapsed_ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
