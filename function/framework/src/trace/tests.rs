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
fn traceparent_has_precedence_unless_it_is_malformed() {
    let cloud = format!("{TRACE}/1;o=1");
    let other = "11111111111111111111111111111111";
    let both = read(&[("traceparent", &format!("00-{other}-00f067aa0ba902b7-00")), ("x-cloud-trace-context", &cloud)]);
    assert_eq!(both.unwrap().trace_id, other);
    let fallback = read(&[("traceparent", "00-nonsense"), ("x-cloud-trace-context", &cloud)]);
    assert_eq!(fallback, expected(Some("0000000000000001"), true));
    let twice = format!("00-{TRACE}-00f067aa0ba902b7-01");
    assert_eq!(read(&[("traceparent", &twice), ("traceparent", &twice)]), None);
}

#[test]
fn outside_a_handler_there_is_no_context() {
    assert_eq!(trace_context(), None);
    assert!(!in_handler());
}
