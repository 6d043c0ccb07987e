//! The trace that a request belongs to, for the logs written while it is handled.

use std::future::Future;

use http::HeaderMap;

/// Where the request being handled stands in its caller's trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// 32 lower-case hex digits.
    pub trace_id: String,
    /// 16 lower-case hex digits; `X-Cloud-Trace-Context` may come without a span.
    pub span_id: Option<String>,
    /// The caller records this trace.
    pub sampled: bool,
}

tokio::task_local! {
    static CURRENT: Option<TraceContext>;
}

/// The trace context of the request being handled: from `traceparent`, else from `X-Cloud-Trace-Context`.
///
/// None outside of a handler, in tasks that a handler spawned, and for requests without a legible context.
pub fn trace_context() -> Option<TraceContext> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Whether the running code belongs to a handler.
pub(crate) fn in_handler() -> bool {
    CURRENT.try_with(|_| ()).is_ok()
}

pub(crate) async fn scope<F: Future>(trace: Option<TraceContext>, handling: F) -> F::Output {
    CURRENT.scope(trace, handling).await
}

/// Malformed contexts are ignored: a trace is no reason to lose an event.
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
    // A span of zero is the root's way to say that there is none.
    let span_id = (span != 0).then(|| format!("{span:016x}"));
    Some(TraceContext { trace_id, span_id, sampled: options & 1 == 1 })
}

fn hex(field: &str, length: usize) -> Option<String> {
    let legal = field.len() == length && field.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    legal.then(|| field.to_owned())
}

/// An id of zeros stands for none.
fn id(field: &str, length: usize) -> Option<String> {
    hex(field, length).filter(|id| id.bytes().any(|b| b != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn read(headers: &[(&'static str, &str)]) -> Option<TraceContext> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        from_headers(&map)
    }

    fn expected(span: Option<&str>, sampled: bool) -> Option<TraceContext> {
        Some(TraceContext { trace_id: TRACE.into(), span_id: span.map(str::to_owned), sampled })
    }

    #[test]
    fn traceparent_is_read() {
        let span = Some("00f067aa0ba902b7");
        assert_eq!(read(&[("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-01"))]), expected(span, true));
        assert_eq!(read(&[("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-02"))]), expected(span, false));
        assert_eq!(read(&[("traceparent", &format!("cc-{TRACE}-00f067aa0ba902b7-03-later"))]), expected(span, true));
    }

    #[test]
    fn cloud_trace_context_is_read() {
        let header = |value: String| read(&[("x-cloud-trace-context", &value)]);
        assert_eq!(header(format!("{TRACE}/67667974448284343;o=1")), expected(Some("00f067aa0ba902b7"), true));
        assert_eq!(header(format!("{TRACE}/67667974448284343;o=0")), expected(Some("00f067aa0ba902b7"), false));
        assert_eq!(header(format!("{TRACE}/18446744073709551615")), expected(Some("ffffffffffffffff"), false));
        assert_eq!(header(format!("{}/0;o=1", TRACE.to_uppercase())), expected(None, true));
        assert_eq!(header(TRACE.into()), expected(None, false));
    }

    #[test]
    fn malformed_contexts_are_ignored() {
        let zeros = "0".repeat(32);
        for value in [
            String::new(),
            "00".into(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{zeros}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-00f067aa0ba902b7-1"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-00f067aa0ba902b7"),
        ] {
            assert_eq!(read(&[("traceparent", &value)]), None, "{value}");
        }
        for value in [
            String::new(),
            "abc/1;o=1".into(),
            format!("{zeros}/1;o=1"),
            format!("{TRACE}/;o=1"),
            format!("{TRACE}/+1;o=1"),
            format!("{TRACE}/18446744073709551616;o=1"),
            format!("{TRACE}/1;p=1"),
            format!("{TRACE}/1;o=yes"),
        ] {
            assert_eq!(read(&[("x-cloud-trace-context", &value)]), None, "{value}");
        }
    }

    #[test]
    fn a_legible_traceparent_comes_first_and_a_malformed_one_gives_way() {
        let cloud = format!("{TRACE}/1;o=1");
        let other = "11111111111111111111111111111111";
        let both =
            read(&[("traceparent", &format!("00-{other}-00f067aa0ba902b7-00")), ("x-cloud-trace-context", &cloud)]);
        assert_eq!(both.unwrap().trace_id, other);
        let fallback = read(&[("traceparent", "00-nonsense"), ("x-cloud-trace-context", &cloud)]);
        assert_eq!(fallback, expected(Some("0000000000000001"), true));
        let twice = format!("00-{TRACE}-00f067aa0ba902b7-01");
        assert_eq!(read(&[("traceparent", &twice), ("traceparent", &twice)]), None);
    }

    #[test]
    fn outside_of_a_handler_there_is_no_context() {
        assert_eq!(trace_context(), None);
        assert!(!in_handler());
    }
}
