//! Logs: one JSON object a line where Cloud Logging reads them, readable text elsewhere.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use functions_framework::TraceContext;
use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use tracing::{Instrument, debug_span};
use tracing_subscriber::{filter::Targets, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

/// Google's client library logs every failed call as an error of its own; we log what comes of it, once.
const QUIET: &str = "gcloud_sdk=off,google_cloud_auth=warn,hyper=warn,h2=warn,tower=warn";
const REPORTED_ERROR: &str = "\"type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent\"";

/// Sends all logs to standard output, as JSON for Cloud Logging (`structured`) or as text. `filter` is a level, `info` by
/// default, and levels of modules, as `info,inline_workflow::channel=debug`.
///
/// # Errors
/// A filter that cannot be read.
pub fn init(structured: bool, filter: Option<&str>) -> Result<(), String> {
    let filter = targets(filter.unwrap_or("info"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let result = match structured {
        true => registry.with(tracing_stackdriver::layer().with_writer(CloudLogging)).try_init(),
        false => registry
            .with(tracing_subscriber::fmt::layer().with_target(false).with_ansi(io::stdout().is_terminal()))
            .try_init(),
    };
    result.map_err(|error| error.to_string())
}

fn targets(filter: &str) -> Result<Targets, String> {
    // An empty part would be taken for a level, and leave nothing but errors.
    let parts: Vec<_> = filter.split(',').chain(QUIET.split(',')).filter(|part| !part.is_empty()).collect();
    parts.join(",").parse().map_err(|error| format!("{filter:?} is not a filter: {error}"))
}

tokio::task_local! {
    /// What the lines about the event say of it, as members of their JSON.
    static EVENT: String;
}

/// Handles an event. Meanwhile each line for Cloud Logging says which one, and where it stands in its caller's trace. The
/// formatter would write a span, read it and write it again for every line, so there is one only for who debugs.
pub fn about<F: Future>(
    event_id: &str,
    project: &str,
    trace: Option<&TraceContext>,
    handling: F,
) -> impl Future<Output = F::Output> + use<F> {
    let mut members = Members::default();
    members.write("event_id", &Value::from(event_id).to_string());
    if let Some(trace) = trace {
        let name = format!("projects/{project}/traces/{}", trace.trace_id);
        members.write("logging.googleapis.com/trace", &Value::from(name).to_string());
        if let Some(span_id) = &trace.span_id {
            members.write("logging.googleapis.com/spanId", &Value::from(span_id.as_str()).to_string());
        }
    }
    EVENT.scope(members.0, handling.instrument(debug_span!("event", id = event_id)))
}

/// Writes each line to standard output, with the keys that the formatter cannot write: it camel-cases every key, and
/// Cloud Logging's own have dots and slashes.
struct CloudLogging;

struct Line(Vec<u8>);

impl<'a> MakeWriter<'a> for CloudLogging {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let line = cloud_logging(&self.0);
        // There is nowhere to report to that standard output cannot be written.
        let _ = io::stdout().lock().write_all(&line);
    }
}

/// The line with Cloud Logging's and Error Reporting's special fields. Values pass through as they are written.
/// Sources: https://cloud.google.com/logging/docs/structured-logging#special-payload-fields and
/// https://cloud.google.com/error-reporting/docs/formatting-error-messages#log-text
fn cloud_logging(line: &[u8]) -> Vec<u8> {
    let mut members = Members(String::with_capacity(2 * line.len()));
    members.0.push('{');
    // What is no object of this form is better written as it is than not at all.
    if serde_json::Deserializer::from_slice(line).deserialize_map(&mut members).is_err() {
        return line.to_vec();
    }
    let _ = EVENT.try_with(|event| members.append(event));
    members.0.push_str("}\n");
    members.0.into_bytes()
}

/// Members of a JSON object, while they are written.
#[derive(Default)]
struct Members(String);

impl Members {
    /// A key needs no escapes: it is a name in the code, or one of Cloud Logging's.
    fn write(&mut self, key: &str, value: &str) {
        self.append("\"");
        push_snake_case(key, &mut self.0);
        self.0.push_str("\":");
        self.0.push_str(value);
    }

    fn append(&mut self, members: &str) {
        if !self.0.is_empty() && !self.0.ends_with('{') {
            self.0.push(',');
        }
        self.0.push_str(members);
    }
}

impl<'a> Visitor<'a> for &mut Members {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a line of the log")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut line: M) -> Result<(), M::Error> {
        let mut labels = Members("{".to_owned());
        while let Some((key, value)) = line.next_entry::<&str, &RawValue>()? {
            let value = value.get();
            match key {
                "span" | "spans" => continue,
                _ => self.write(key, value),
            }
            match key {
                "severity" if value == "\"ERROR\"" => self.write("@type", REPORTED_ERROR),
                "runId" | "jobName" if value.starts_with('"') => labels.write(key, value),
                _ => {}
            }
        }
        if labels.0.len() > 1 {
            labels.0.push('}');
            self.write("logging.googleapis.com/labels", &labels.0);
        }
        Ok(())
    }
}

/// The name of a field as it stands in the code. Cloud Logging's own keys are left alone.
fn push_snake_case(key: &str, text: &mut String) {
    let mut rest = key;
    while let Some(place) = rest.find(|c: char| c.is_ascii_uppercase()).filter(|_| !key.contains('/')) {
        let (before, capital) = rest.split_at(place);
        text.push_str(before);
        text.push('_');
        text.push_str(&capital[..1].to_ascii_lowercase());
        rest = &capital[1..];
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_gets_cloud_loggings_own_keys() {
        let line = br#"{"severity":"ERROR","span":{"name":"n"},"spans":[],"message":"m \"q\"","runId":"r1","oldestS":7,"logging.googleapis.com/sourceLocation":{}}"#;
        let trace = TraceContext { trace_id: "t".to_owned(), span_id: Some("s".to_owned()), sampled: true };
        let text = about("7\"", "p", Some(&trace), async { cloud_logging(line) }).await;
        assert!(text.ends_with(b"}\n"));
        let entry: Value = serde_json::from_slice(&text).unwrap();
        let expected = serde_json::json!({
            "severity": "ERROR",
            "message": "m \"q\"",
            "run_id": "r1",
            "oldest_s": 7,
            "logging.googleapis.com/sourceLocation": {},
            "logging.googleapis.com/labels": { "run_id": "r1" },
            "logging.googleapis.com/trace": "projects/p/traces/t",
            "logging.googleapis.com/spanId": "s",
            "event_id": "7\"",
            "@type": "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent",
        });
        assert_eq!(entry, expected);
    }

    #[test]
    fn a_filter_is_a_level_and_levels_of_modules() {
        use tracing::Level;
        let enables = |filter: &str, target: &str, level: Level| targets(filter).unwrap().would_enable(target, &level);
        assert!(enables("info", "inline_workflow", Level::INFO));
        assert!(!enables("info", "inline_workflow", Level::DEBUG));
        assert!(!enables("info", "hyper::proto", Level::INFO));
        for filter in ["info,", ",info", "info,,inline_workflow::advance=debug"] {
            assert!(enables(filter, "inline_workflow::sweep", Level::INFO), "{filter}");
        }
        assert!(enables("info,inline_workflow::advance=debug", "inline_workflow::advance", Level::DEBUG));
        assert!(targets("inline_workflow=loud").unwrap_err().starts_with("\"inline_workflow=loud\" is not a filter"));
    }

    #[test]
    fn outside_of_an_event_a_line_says_nothing_of_one() {
        assert_eq!(cloud_logging(br#"{"severity":"INFO","n":1}"#), b"{\"severity\":\"INFO\",\"n\":1}\n");
    }

    #[test]
    fn what_is_no_object_is_written_as_it_is() {
        assert_eq!(cloud_logging(b"plain\n"), b"plain\n");
    }
}
