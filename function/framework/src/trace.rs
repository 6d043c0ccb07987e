//! The trace that a request belongs to, for the logs written while it is handled.

use std::future::Future;

use http::HeaderMap;

/// The place of a request in its caller's trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// 32 lower-case hex digits.
    pub trace_id: String,
    /// 16 lower-case hex digits. `X-Cloud-Trace-Context` may lack it.
    pub span_id: Option<String>,
    /// Whether the caller records this trace.
    pub sampled: bool,
}

tokio::task_local! {
    static CURRENT: Option<TraceContext>;
}

/// The trace context of the request being handled: from `traceparent`, else from `X-Cloud-Trace-Context`.
///
/// None outside a handler, in tasks that a handler spawned, and for requests without a well-formed context.
pub fn trace_context() -> Option<TraceContext> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Whether the running code is called by a handler.
pub(crate) fn in_handler() -> bool {
    CURRENT.try_with(|_| ()).is_ok()
}

/// Runs `handling` with this trace as its [`trace_context`].
pub(crate) async fn scope<F: Future>(trace: Option<TraceContext>, handling: F) -> F::Output {
    CURRENT.scope(trace, handling).await
}

/// The context in a request's headers. A malformed one is ignored, because an event must not be lost over a trace.
pub(crate) fn from_headers(headers: &HeaderMap) -> Option<TraceContext> {
    let single = |name| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    single("traceparent")
        .and_then(traceparent)
        .or_else(|| single("x-cloud-trace-context").and_then(cloud_trace_context))
}

/// W3C Trace Context, section 3.2: `version-traceid-parentid-flags`; later versions may append fields.
fn traceparent(value: &str) -> Option<TraceContext> {
    let mut fields = value.trim().split('-');
    let version = hex(fields.next()?, 2).filter(|version| version != "ff")?;
    let trace_id = id(fields.next()?, 32)?;
    let span_id = id(fields.next()?, 16)?;
    let flags = u8::from_str_radix(&hex(fields.next()?, 2)?, 16).ok()?;
    if version == "00" && fields.next().is_some() {
        return None;
    }
    Some(TraceContext { trace_id, span_id: Some(span_id), sampled: flags & 1 == 1 })
}

/// Google's older header: `TRACE_ID/SPAN_ID;o=OPTIONS`, the span a decimal number; span and options may be absent.
fn cloud_trace_context(value: &str) -> Option<TraceContext> {
    let (ids, options) = match value.trim().split_once(';') {
        Some((ids, options)) => (ids, options.strip_prefix("o=")?.parse::<u32>().ok()?),
        None => (value.trim(), 0),
    };
    let (trace_id, span) = match ids.split_once('/') {
        Some((trace_id, span)) => (trace_id, Some(span)),
        None => (ids, None),
    };
    let trace_id = id(&trace_id.to_ascii_lowercase(), 32)?;
    let span = match span {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<u64>().ok()?,
        Some(_) => return None,
        None => 0,
    };
    // A span id of zero means that there is no span.
    let span_id = (span != 0).then(|| format!("{span:016x}"));
    Some(TraceContext { trace_id, span_id, sampled: options & 1 == 1 })
}

fn hex(field: &str, length: usize) -> Option<String> {
    let legal = field.len() == length && field.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    legal.then(|| field.to_owned())
}

/// An id of zeros means that there is no id.
fn id(field: &str, length: usize) -> Option<String> {
    hex(field, length).filter(|id| id.bytes().any(|b| b != b'0'))
}

#[cfg(test)]
mod tests;
