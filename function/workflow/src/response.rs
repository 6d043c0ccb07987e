//! What is said of a run on the response topic: CloudEvents 1.0 in Pub/Sub's binary mode.
//!
//! Source of the binding: https://github.com/googleapis/google-cloudevents/blob/main/docs/spec/pubsub.md

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use cloudevents::{AttributesReader, Data, Event, EventBuilder, EventBuilderV10};
use serde_json::{Map, Value, json};

use crate::{
    outcome::Failure,
    pubsub::Message,
    record::{Announcement, Correlation, Kind, Record, State},
    violation::{Document, SHOWN_VIOLATIONS, Violation},
};

const TYPE_PREFIX: &str = "inlineworkflow.dataproc.run.v1.";
/// Limits of Pub/Sub. Source: https://cloud.google.com/pubsub/quotas#resource_limits
const MOST_ATTRIBUTES: usize = 100;
const LONGEST_KEY: usize = 256;
const LONGEST_VALUE: usize = 1024;
/// A text of the sender's in the data. The whole message holds 10 MB, and an answer beyond that could never be given.
const LONGEST_TEXT: usize = 64 * 1024;
/// A message holds 10 MB; the template shares it with the rest of the event.
const LARGEST_TEMPLATE: usize = 8 * 1000 * 1000;

/// Who speaks: what is the same in every event of this service.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// The events' `source`.
    pub source: String,
    pub project: String,
    pub region: String,
}

/// The parts of an event that do not come from a record.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub found: Option<bool>,
    pub state: Option<State>,
    pub failure: Option<Failure>,
    pub violations: Vec<Violation>,
    pub warnings: Vec<Violation>,
    pub template: Option<Value>,
    pub config_entry: Option<String>,
    pub config_generation: Option<i64>,
    pub received: Option<DateTime<Utc>>,
}

impl Speaker {
    /// A run's last event.
    pub fn announcement(&self, record: &Record, event: &Announcement) -> Message {
        let data = self.record_data(record, record.warnings_of(event.kind));
        self.message(&record.correlation, event.kind, &event.id_suffix, event.sequence, event.time, data)
    }

    /// The answer to a message about a run that is recorded: the run as it stands, and why the message could not have
    /// its way if it could not.
    pub fn answered(
        &self,
        to: &Correlation,
        record: &Record,
        (failure, violations): (Option<Failure>, &[Violation]),
        now: DateTime<Utc>,
    ) -> Message {
        let mut data = self.record_data(record, &record.warnings);
        data.insert("message_id".to_owned(), json!(cut(&to.message_id, LONGEST_TEXT)));
        data.insert("found".to_owned(), json!(true));
        if let Some(failure) = failure {
            data.insert("error".to_owned(), json!(failure));
        }
        insert_violations(&mut data, "violations", violations);
        let suffix = format!("answered/{}", to.message_id);
        self.message(to, Kind::Answered, &suffix, record.sequence, now, data)
    }

    /// The answer to a message of which nothing is recorded.
    pub fn answer(&self, to: &Correlation, kind: Kind, answer: Answer, now: DateTime<Utc>) -> Message {
        let mut data = correlation_data(to);
        insert(&mut data, "found", answer.found);
        insert(&mut data, "state", answer.state);
        insert(&mut data, "error", answer.failure);
        insert_violations(&mut data, "violations", &answer.violations);
        let mut warnings = answer.warnings;
        if let Some(template) = answer.template {
            match template.to_string().len() <= LARGEST_TEMPLATE {
                true => {
                    data.insert("template".to_owned(), template);
                }
                false => {
                    let reason = "the rendered template is larger than 8 MB, and left out of this event";
                    warnings.push(Violation::decoding(Document::Request, "", reason));
                }
            }
        }
        insert_violations(&mut data, "warnings", &warnings);
        insert(&mut data, "config_entry", answer.config_entry.as_deref().map(|name| cut(name, LONGEST_TEXT)));
        insert(&mut data, "config_generation", answer.config_generation);
        if let Some(received) = answer.received {
            data.insert("times".to_owned(), json!({ "received": rfc3339(received) }));
        }
        let suffix = format!("{}/{}", kind.word(), to.message_id);
        self.message(to, kind, &suffix, 0, now, data)
    }

    fn record_data(&self, record: &Record, warnings: &[Violation]) -> Map<String, Value> {
        let mut data = correlation_data(&record.correlation);
        insert(&mut data, "attempt", Some(record.attempt));
        let state = match (record.state, record.progress.running) {
            (State::Submitted, true) => json!("running"),
            (state, _) => json!(state),
        };
        data.insert("state".to_owned(), state);
        insert(&mut data, "operation", record.operation.as_ref());
        insert(&mut data, "cluster", record.cluster());
        if !record.progress.steps.is_empty() {
            data.insert("steps".to_owned(), json!(record.progress.steps));
        }
        insert(&mut data, "error", record.failure.as_ref());
        insert_violations(&mut data, "violations", &record.violations);
        insert_violations(&mut data, "warnings", warnings);
        let times: Map<String, Value> = [
            ("received", record.times.received),
            ("submitted", record.times.submitted),
            ("started", record.times.started),
            ("ended", record.times.ended),
        ]
        .into_iter()
        .filter_map(|(name, time)| Some((name.to_owned(), json!(rfc3339(time?)))))
        .collect();
        data.insert("times".to_owned(), Value::Object(times));
        if let Some(operation) = &record.operation {
            let id = operation.rsplit('/').next().unwrap_or_default();
            let (project, region) = (&self.project, &self.region);
            let console = format!(
                "https://console.cloud.google.com/dataproc/workflows/instances/{region}/{id}?project={project}"
            );
            data.insert("links".to_owned(), json!({ "console": console }));
        }
        data
    }

    fn message(
        &self,
        to: &Correlation,
        kind: Kind,
        id_suffix: &str,
        sequence: u64,
        time: DateTime<Utc>,
        data: Map<String, Value>,
    ) -> Message {
        let mut builder = EventBuilderV10::new()
            .id(format!("{}/{id_suffix}", to.run_id))
            .source(self.source.as_str())
            .ty(format!("{TYPE_PREFIX}{}", kind.word()))
            .time(time)
            .data("application/json", Value::Object(data))
            .extension("runid", to.run_id.to_string())
            .extension("messageid", to.message_id.as_str())
            .extension("sequence", sequence.to_string());
        let optional = [("jobname", &to.job_name), ("requestid", &to.request_id), ("traceparent", &to.traceparent)];
        for (name, value) in optional {
            if let Some(value) = value {
                builder = builder.extension(name, value.as_str());
            }
        }
        if let Some(subject) = to.job_name.as_deref().filter(|subject| !subject.is_empty()) {
            builder = builder.subject(subject);
        }
        // Cannot fail: id, source, type and time are set above, and well-formed.
        let event = builder.build().unwrap_or_default();
        pubsub_message(event, to)
    }
}

/// Binary mode: the context in attributes, the data as it is.
fn pubsub_message(event: Event, to: &Correlation) -> Message {
    let mut attributes = HashMap::new();
    let mut set = |key: String, value: &str| {
        let value = cut(value, LONGEST_VALUE);
        if !value.is_empty() && key.len() <= LONGEST_KEY && attributes.len() < MOST_ATTRIBUTES {
            attributes.entry(key).or_insert_with(|| value.to_owned());
        }
    };
    for (name, value) in event.iter() {
        let value = match name {
            // The SDK writes "+00:00"; "Z" is what the specification's examples and most readers have.
            "time" => event.time().map(|time| rfc3339(*time)).unwrap_or_default(),
            _ => value.to_string(),
        };
        if name == "datacontenttype" {
            set("content-type".to_owned(), &value);
        }
        set(format!("ce-{name}"), &value);
    }
    for (key, value) in &to.attributes {
        set(key.clone(), value);
    }
    let data = match event.data() {
        Some(Data::Json(value)) => value.to_string().into_bytes(),
        Some(Data::String(text)) => text.clone().into_bytes(),
        Some(Data::Binary(bytes)) => bytes.clone(),
        None => Vec::new(),
    };
    Message { data, attributes, ordering_key: to.run_id.to_string() }
}

/// Whether an attribute of the request message goes back to its sender: not one of ours, not one of Google's.
pub fn is_senders_own(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    !key.is_empty() && !key.starts_with("ce-") && !key.starts_with("goog") && key != "content-type"
}

fn correlation_data(to: &Correlation) -> Map<String, Value> {
    let mut data = Map::new();
    data.insert("run_id".to_owned(), json!(to.run_id));
    insert(&mut data, "job_name", to.job_name.as_deref().map(|name| cut(name, LONGEST_TEXT)));
    insert(&mut data, "request_id", to.request_id.as_deref().map(|id| cut(id, LONGEST_TEXT)));
    data.insert("message_id".to_owned(), json!(cut(&to.message_id, LONGEST_TEXT)));
    data
}

fn insert<T: serde::Serialize>(data: &mut Map<String, Value>, name: &str, value: Option<T>) {
    if let Some(value) = value {
        data.insert(name.to_owned(), json!(value));
    }
}

fn insert_violations(data: &mut Map<String, Value>, name: &str, violations: &[Violation]) {
    if violations.is_empty() {
        return;
    }
    let first = &violations[..violations.len().min(SHOWN_VIOLATIONS)];
    data.insert(name.to_owned(), json!(first));
    if first.len() < violations.len() {
        data.insert(format!("{}_count", name.trim_end_matches('s')), json!(violations.len()));
    }
}

/// At most `length` bytes of a text, whole characters only.
pub fn cut(text: &str, length: usize) -> &str {
    &text[..text.floor_char_boundary(length)]
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

impl Record {
    /// The warnings of a request are told with `submitted`, or when Dataproc has refused what they warned of.
    fn warnings_of(&self, kind: Kind) -> &[Violation] {
        match kind {
            Kind::Submitted | Kind::Rejected => &self.warnings,
            _ => &[],
        }
    }
}
