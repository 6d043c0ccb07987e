//! A response event, told in one line.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// Longer texts of errors are cut; the event itself has them whole.
const MAX_TEXT: usize = 300;

/// What an event says, for a reader and for the exit code.
#[derive(Debug, PartialEq)]
pub struct Told {
    pub text: String,
    /// The event's last word: whether that is what one wished for.
    pub end: Option<bool>,
}

/// Tells the event that a response message carries in binary mode.
pub fn tell(at: DateTime<Utc>, attributes: &HashMap<String, String>, data: &[u8]) -> Told {
    let kind = attributes.get("ce-type").map_or("", String::as_str);
    let word = kind.rsplit('.').next().unwrap_or_default();
    let data: Value = serde_json::from_slice(data).unwrap_or_default();
    let text = |key: &str| data[key].as_str().unwrap_or_default();
    let run: String = text("run_id").chars().take(8).collect();
    let mut line = format!("{}  {word:<10}  {}  {run:<8}", at.format("%H:%M:%S%.3f"), text("job_name"));
    for part in details(word, &data) {
        line.push_str("  ");
        line.push_str(&part);
    }
    for violation in data["violations"].as_array().into_iter().flatten() {
        let part = |key: &str| violation[key].as_str().unwrap_or_default();
        let place = [part("document"), part("path")].join(" ");
        line.push_str(&format!("\n    {}: {}", place.trim_end(), one_line(part("reason"))));
    }
    let end = match word {
        "succeeded" | "validated" => Some(true),
        "failed" | "cancelled" | "rejected" | "answered" => Some(false),
        _ => None,
    };
    Told { text: line.trim_end().to_owned(), end }
}

fn details(word: &str, data: &Value) -> Vec<String> {
    let mut parts = Vec::new();
    let steps = data["steps"].as_array().map_or(&[][..], Vec::as_slice);
    if let Some(cluster) = data["cluster"]["name"].as_str().filter(|name| !name.is_empty()) {
        parts.push(format!("cluster {cluster}"));
    }
    let told: Vec<String> = steps
        .iter()
        .map(|step| {
            format!(
                "{} {}",
                step["step_id"].as_str().unwrap_or("?"),
                step["state"].as_str().unwrap_or("?").to_lowercase()
            )
        })
        .collect();
    if !told.is_empty() {
        parts.push(told.join(", "));
    }
    let cause = steps.iter().find(|step| step["root_cause"] == true);
    if let Some(cause) = cause {
        let step = cause["step_id"].as_str().unwrap_or("?");
        parts.push(format!("root cause {step}: {}", one_line(cause["error"].as_str().unwrap_or_default())));
        if let Some(output) = cause["driver_output_uri"].as_str() {
            parts.push(format!("driver output {output}"));
        }
    } else if let Some(error) = data["error"].as_object().filter(|_| data["violations"].is_null()) {
        let part = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
        parts.push(format!("{}: {}", part("code"), one_line(part("message"))));
    }
    if word == "validated" {
        parts.push("nothing was started".to_owned());
    }
    parts
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(kind: &str, data: &Value) -> Told {
        let attributes = HashMap::from([("ce-type".to_owned(), format!("inlineworkflow.dataproc.run.v1.{kind}"))]);
        let at = DateTime::<Utc>::from_timestamp_millis(1_234).unwrap_or_default();
        tell(at, &attributes, data.to_string().as_bytes())
    }

    #[test]
    fn a_failure_shows_its_root_cause_in_one_line() {
        let told = told(
            "failed",
            &json!({
                "run_id": "0123456789", "job_name": "word-count", "cluster": {"name": "c"},
                "error": {"code": "ABORTED", "message": "Workflow failed"},
                "steps": [
                    {"step_id": "one", "state": "FAILED", "error": "no\nfile", "driver_output_uri": "gs://b/o", "root_cause": true},
                    {"step_id": "two", "state": "FAILED"},
                ],
            }),
        );
        assert_eq!(
            told.text,
            "00:00:01.234  failed      word-count  01234567  cluster c  one failed, two failed  \
             root cause one: no file  driver output gs://b/o"
        );
        assert_eq!(told.end, Some(false));
    }

    #[test]
    fn a_rejection_lists_every_violation() {
        let violations = json!([
            {"document": "request", "path": "jobs", "reason": "required"},
            {"document": "config", "path": "", "reason": "not JSON"},
        ]);
        let error = json!({"code": "INVALID_ARGUMENT", "message": "jobs: required (and 1 more)"});
        let told = told("rejected", &json!({"job_name": "x", "violations": violations, "error": error}));
        assert_eq!(
            told.text,
            "00:00:01.234  rejected    x          \n    request jobs: required\n    config: not JSON"
        );
    }

    #[test]
    fn only_an_end_ends() {
        for (word, end) in [
            ("submitted", None),
            ("progressed", None),
            ("succeeded", Some(true)),
            ("validated", Some(true)),
            ("cancelled", Some(false)),
        ] {
            assert_eq!(told(word, &json!({})).end, end, "{word}");
        }
        assert_eq!(tell(DateTime::default(), &HashMap::new(), b"\xff").end, None);
    }
}
