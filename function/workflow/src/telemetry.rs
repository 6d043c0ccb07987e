//! Logs: one JSON object a line where Cloud Logging reads them, readable text elsewhere.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
};

use serde::ser::{SerializeMap, Serializer as _};
use serde_json::value::RawValue;
use tracing_subscriber::{filter::Targets, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

/// Google's client library logs every failed call as an error of its own; we log what comes of it, once.
const QUIET: &str = "gcloud_sdk=off,google_cloud_auth=warn,hyper=warn,h2=warn,tower=warn";
/// What a run's lines are found by in the log's explorer.
const LABELS: [&str; 2] = ["run_id", "job_name"];
const REPORTED_ERROR: &str = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent";

/// Sends all logs to standard output, as JSON for Cloud Logging (`structured`) or as text. `filter` is a level, `info` by
/// default, and levels of modules, as `info,inline_workflow::channel=debug`.
///
/// # Errors
/// A filter that cannot be read.
pub fn init(structured: bool, filter: Option<&str>) -> Result<(), String> {
    let directives = format!("{},{QUIET}", filter.unwrap_or("info"));
    let filter: Targets = directives.parse().map_err(|error| format!("{directives:?} is not a filter: {error}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let result = match structured {
        true => registry.with(tracing_stackdriver::layer().with_writer(CloudLogging)).try_init(),
        false => registry
            .with(tracing_subscriber::fmt::layer().with_target(false).with_ansi(io::stdout().is_terminal()))
            .try_init(),
    };
    result.map_err(|error| error.to_string())
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

/// The members of an object, each with the text of its value.
type Members<'a> = BTreeMap<&'a str, &'a RawValue>;

/// The line with Cloud Logging's and Error Reporting's special fields. Values pass through as they are written.
/// Sources: https://cloud.google.com/logging/docs/structured-logging#special-payload-fields and
/// https://cloud.google.com/error-reporting/docs/formatting-error-messages#log-text
fn cloud_logging(line: &[u8]) -> Vec<u8> {
    // What is no object of this form is better written as it is than not at all.
    rewritten(line).unwrap_or_else(|_| line.to_vec())
}

fn rewritten(line: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut entry: Members = serde_json::from_slice(line)?;
    entry.remove("spans");
    let span = entry.remove("span").map(|span| serde_json::from_str::<Members>(span.get())).transpose()?;
    let is_error = entry.get("severity").is_some_and(|severity| severity.get() == "\"ERROR\"");
    let mut text = Vec::with_capacity(line.len());
    let mut serializer = serde_json::Serializer::new(&mut text);
    let mut line = serializer.serialize_map(None)?;
    let mut labels = BTreeMap::new();
    for (key, value) in entry {
        let key = snake_case(key);
        line.serialize_entry(&key, value)?;
        if LABELS.contains(&&*key) && value.get().starts_with('"') {
            labels.insert(key, value);
        }
    }
    let special =
        [("trace", "logging.googleapis.com/trace"), ("span_id", "logging.googleapis.com/spanId"), ("id", "event_id")];
    for (name, key) in special {
        if let Some(value) = span.as_ref().and_then(|span| span.get(name)) {
            line.serialize_entry(key, value)?;
        }
    }
    if !labels.is_empty() {
        line.serialize_entry("logging.googleapis.com/labels", &labels)?;
    }
    if is_error {
        line.serialize_entry("@type", REPORTED_ERROR)?;
    }
    SerializeMap::end(line)?;
    text.push(b'\n');
    Ok(text)
}

/// The name of a field as it stands in the code. Cloud Logging's own keys are left alone.
fn snake_case(key: &str) -> Cow<'_, str> {
    if key.contains('/') || !key.contains(|c: char| c.is_ascii_uppercase()) {
        return Cow::Borrowed(key);
    }
    let mut snake = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    Cow::Owned(snake)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_line_gets_cloud_loggings_own_keys() {
        let line = br#"{"severity":"ERROR","message":"m","runId":"r1","oldestS":7,"logging.googleapis.com/sourceLocation":{},"span":{"name":"event","trace":"projects/p/traces/t","id":"7"},"spans":[]}"#;
        let text = cloud_logging(line);
        let entry: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(entry["logging.googleapis.com/trace"], "projects/p/traces/t");
        assert_eq!(entry["logging.googleapis.com/labels"]["run_id"], "r1");
        assert_eq!((&entry["run_id"], &entry["oldest_s"]), (&Value::from("r1"), &Value::from(7)));
        assert!(entry["logging.googleapis.com/sourceLocation"].is_object());
        assert_eq!(entry["event_id"], "7");
        assert_eq!(entry["@type"], REPORTED_ERROR);
        assert!(entry.get("span").is_none());
    }

    #[test]
    fn what_is_no_object_is_written_as_it_is() {
        assert_eq!(cloud_logging(b"plain\n"), b"plain\n");
    }
}
