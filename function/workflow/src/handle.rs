//! One event, from its arrival to the line in the log that says what became of it.

use std::time::Duration;

use cloudevents::{AttributesReader, Event};
use functions_framework::{Failure, TraceContext, trace_context};
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use crate::{
    accept::accept,
    context::Context,
    error::{CallError, Error},
    journal::beginning,
    request,
    sweep::{Swept, operation_ended, sweep},
    telemetry,
    trigger::{Message, Trigger, trigger},
};

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
    let environment = cx.environment.clone();
    let handling = handle_event(cx.for_event(), &event, trace.as_ref());
    telemetry::about(event.id(), &environment.project, trace.as_ref(), handling).await
}

async fn handle_event(cx: Context, event: &Event, trace: Option<&TraceContext>) -> Result<(), Error> {
    let began = Instant::now();
    let limit = cx.deadline + OVERTIME;
    match trigger(event, &cx.environment.tick_topic, &cx.environment.response_topic) {
        Trigger::Request(message) => {
            let traceparent = traceparent(event, trace);
            return handle_request(&cx, &message, traceparent, limit).await;
        }
        Trigger::Tick(published) => {
            let swept = timeout_at(limit, sweep(&cx, published)).await.ok();
            report_tick(&cx, swept, began);
        }
        Trigger::OperationEnded(name) => {
            let swept = timeout_at(limit, operation_ended(&cx, &name)).await.ok();
            report_operation(beginning(&name), swept, began);
        }
        Trigger::Foreign(what) => {
            warn!(trigger = "foreign", elapsed_ms = elapsed_ms(began), "{what} is not for this function; ignored");
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
    // On the heap: it is large, and whatever is around it is moved before it is polled.
    let result = timeout_at(limit, Box::pin(accept(cx, message, traceparent)))
        .await
        // Cut off anywhere: if the record stands, the next delivery finds it.
        .unwrap_or(Err(Error::OutOfTime));
    let message_id = message.id.as_str();
    let error = match result {
        Ok(handled) => {
            info!(
                trigger = "request",
                run_id = %handled.run_id,
                job_name = beginning(&handled.job_name),
                request_id = handled.request_id,
                message_id,
                rejected_by = handled.rejected_by,
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
        trigger = "request",
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

/// Ticks are acked whatever came of them: another one comes within a minute.
fn report_tick(cx: &Context, result: Option<Result<Swept, CallError>>, began: Instant) {
    let (trigger, elapsed_ms) = ("tick", elapsed_ms(began));
    match result {
        // Whoever waits for the ticks' work waits for the next one.
        Some(Ok(swept)) if swept.too_late => info!(trigger, elapsed_ms, "tick: too late, ignored"),
        Some(Ok(swept)) => info!(
            trigger,
            seen = swept.seen,
            advanced = swept.advanced,
            failed = swept.failed,
            complete = swept.complete,
            oldest_s = swept.oldest.map_or(0, |since| (cx.now() - since).num_seconds().max(0)),
            elapsed_ms,
            "tick"
        ),
        Some(Err(error)) => warn!(trigger, elapsed_ms, %error, "tick: left to the next tick"),
        None => error!(trigger, elapsed_ms, "tick: ran over its time"),
    }
}

/// The same for the audit log's event: the next tick takes the run further.
fn report_operation(operation: &str, result: Option<Result<Swept, CallError>>, began: Instant) {
    let (trigger, elapsed_ms) = ("operation", elapsed_ms(began));
    match result {
        Some(Ok(Swept { seen, advanced, failed, .. })) => {
            info!(trigger, operation, seen, advanced, failed, elapsed_ms, "operation");
        }
        Some(Err(error)) => warn!(trigger, operation, elapsed_ms, %error, "operation: left to the next tick"),
        None => error!(trigger, operation, elapsed_ms, "operation: ran over its time"),
    }
}

/// What a consumer needs to find the trace of the request again: the event's own, or that of its delivery.
fn traceparent(event: &Event, trace: Option<&TraceContext>) -> Option<String> {
    let own = event.extension("traceparent").map(|value| value.to_string());
    own.or_else(|| {
        let trace = trace?;
        let flags = if trace.sampled { "01" } else { "00" };
        Some(format!("00-{}-{}-{flags}", trace.trace_id, trace.span_id.as_ref()?))
    })
}

fn elapsed_ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
