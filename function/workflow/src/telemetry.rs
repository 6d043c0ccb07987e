//! Logs: one JSON object a line where Cloud Logging reads them, readable text elsewhere.

use std::io::{self, IsTerminal, Write};

use serde_json::{Map, Value};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

/// Google's client library logs every failed call as an error of its own; we log what comes of it, once.
const QUIET: &str = "gcloud_sdk=off,google_cloud_auth=warn,hyper=warn,h2=warn,tower=warn";
const REPORTED_ERROR: &str = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent";

/// Sends all logs to standard output, as JSON for Cloud Logging (`structured`) or as text. `filter` is a `tracing`
/// filter, `info` by default.
///
/// # Errors
/// A filter that cannot be read.
pub fn init(structured: bool, filter: Option<&str>) -> Result<(), String> {
    let directives = format!("{},{QUIET}", filter.unwrap_or("info"));
    let filter = EnvFilter::try_new(&directives).map_err(|error| format!("{directives:?} is not a filter: {error}"))?;
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

/// The line with Cloud Logging's and Error Reporting's special fields.
/// Sources: https://cloud.google.com/logging/docs/structured-logging#special-payload-fields and
/// https://cloud.google.com/error-reporting/docs/formatting-error-messages#log-text
fn cloud_logging(line: &[u8]) -> Vec<u8> {
    let Ok(mut entry) = serde_json::from_slice::<Map<String, Value>>(line) else {
        return line.to_vec();
    };
    entry.remove("spans");
    if let Some(Value::Object(span)) = entry.remove("span") {
        let special = [
            ("trace", "logging.googleapis.com/trace"),
            ("span_id", "logging.googleapis.com/spanId"),
            ("spanId", "logging.googleapis.com/spanId"),
        ];
        for (name, key) in special {
            if let Some(value) = span.get(name) {
                entry.insert(key.to_owned(), value.clone());
            }
        }
        if let Some(id) = span.get("id") {
            entry.insert("event_id".to_owned(), id.clone());
        }
    }
    entry = entry.into_iter().map(|(key, value)| (snake_case(key), value)).collect();
    let labels: Map<String, Value> = ["run_id", "job_name"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), entry.get(name)?.clone())))
        .filter(|(_, value)| value.is_string())
        .collect();
    if !labels.is_empty() {
        entry.insert("logging.googleapis.com/labels".to_owned(), Value::Object(labels));
    }
    if entry.get("severity").and_then(Value::as_str) == Some("ERROR") {
        entry.insert("@type".to_owned(), Value::from(REPORTED_ERROR));
    }
    let mut text = Value::Object(entry).to_string().into_bytes();
    text.push(b'\n');
    text
}

/// The name of a field as it stands in the code. Cloud Logging's own keys are left alone.
fn snake_case(key: String) -> String {
    if key.contains('/') || !key.contains(|c: char| c.is_ascii_uppercase()) {
        return key;
    }
    let mut snake = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
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
