//! What is said of a run on the response topic: CloudEvents 1.0 in Pub/Sub's binary mode.
//!
//! Source of the binding: https://github.com/googleapis/google-cloudevents/blob/main/docs/spec/pubsub.md

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    outcome::{Cluster, Failure, Step},
    pubsub::Message,
    record::{Announcement, Correlation, Kind, Record, State, Times},
    violation::{Document, SHOWN_VIOLATIONS, Violation},
};

const SPEC_VERSION: &str = "1.0";
const CONTENT_TYPE: &str = "application/json";
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

/// An event's data.
#[derive(Default, Serialize)]
struct Data<'a> {
    run_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    message_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a Cluster>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    steps: &'a [Step],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Failure>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    violations: &'a [Violation],
    #[serde(skip_serializing_if = "Option::is_none")]
    violation_count: Option<usize>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [Violation],
    #[serde(skip_serializing_if = "Option::is_none")]
    warning_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_entry: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<&'a Times>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Links>,
}

#[derive(Serialize)]
struct Links {
    console: String,
}

impl Speaker {
    /// A run's last event.
    pub fn announcement(&self, record: &Record, event: &Announcement) -> Message {
        let data = self.record_data(record, record.warnings_of(event.kind));
        self.message(&record.correlation, event.kind, &event.id_suffix, event.sequence, event.time, &data)
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
        data.message_id = cut(&to.message_id, LONGEST_TEXT);
        data.found = Some(true);
        data.error = failure.as_ref().or(data.error);
        if !violations.is_empty() {
            (data.violations, data.violation_count) = shown(violations);
        }
        let suffix = format!("answered/{}", to.message_id);
        self.message(to, Kind::Answered, &suffix, record.sequence, now, &data)
    }

    /// The answer to a message of which nothing is recorded.
    pub fn answer(&self, to: &Correlation, kind: Kind, answer: Answer, now: DateTime<Utc>) -> Message {
        let mut warnings = answer.warnings;
        let template = answer.template.filter(|template| {
            let fits = template.to_string().len() <= LARGEST_TEMPLATE;
            if !fits {
                let reason = "the rendered template is larger than 8 MB, and left out of this event";
                warnings.push(Violation::decoding(Document::Request, "", reason));
            }
            fits
        });
        let (violations, violation_count) = shown(&answer.violations);
        let (warnings, warning_count) = shown(&warnings);
        let times = Times { received: answer.received, ..Times::default() };
        let data = Data {
            found: answer.found,
            state: answer.state.map(State::word),
            error: answer.failure.as_ref(),
            violations,
            violation_count,
            warnings,
            warning_count,
            template,
            config_entry: answer.config_entry.as_deref().map(|name| cut(name, LONGEST_TEXT)),
            config_generation: answer.config_generation,
            times: answer.received.map(|_| &times),
            ..correlation_data(to)
        };
        let suffix = format!("{}/{}", kind.word(), to.message_id);
        self.message(to, kind, &suffix, 0, now, &data)
    }

    fn record_data<'a>(&self, record: &'a Record, warnings: &'a [Violation]) -> Data<'a> {
        let (violations, violation_count) = shown(&record.violations);
        let (warnings, warning_count) = shown(warnings);
        let links = record.operation.as_ref().map(|operation| {
            let id = operation.rsplit('/').next().unwrap_or_default();
            let (project, region) = (&self.project, &self.region);
            let console = format!(
                "https://console.cloud.google.com/dataproc/workflows/instances/{region}/{id}?project={project}"
            );
            Links { console }
        });
        Data {
            attempt: Some(record.attempt),
            state: Some(match (record.state, record.progress.running) {
                (State::Submitted, true) => "running",
                (state, _) => state.word(),
            }),
            operation: record.operation.as_deref(),
            cluster: record.cluster(),
            steps: &record.progress.steps,
            error: record.failure.as_ref(),
            violations,
            violation_count,
            warnings,
            warning_count,
            times: Some(&record.times),
            links,
            ..correlation_data(&record.correlation)
        }
    }

    /// Binary mode: the context in attributes, the data as it is.
    fn message(
        &self,
        to: &Correlation,
        kind: Kind,
        id_suffix: &str,
        sequence: u64,
        time: DateTime<Utc>,
        data: &Data<'_>,
    ) -> Message {
        let run_id = to.run_id.to_string();
        let job_name = to.job_name.as_deref().unwrap_or_default();
        let context = [
            ("ce-specversion", SPEC_VERSION),
            ("ce-id", &format!("{run_id}/{id_suffix}")),
            ("ce-source", &self.source),
            ("ce-type", &format!("{TYPE_PREFIX}{}", kind.word())),
            ("ce-time", &time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            ("ce-subject", job_name),
            ("ce-datacontenttype", CONTENT_TYPE),
            ("content-type", CONTENT_TYPE),
            ("ce-runid", &run_id),
            ("ce-jobname", job_name),
            ("ce-requestid", to.request_id.as_deref().unwrap_or_default()),
            ("ce-messageid", &to.message_id),
            ("ce-sequence", &sequence.to_string()),
            ("ce-traceparent", to.traceparent.as_deref().unwrap_or_default()),
        ];
        let senders_own = to.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut attributes = HashMap::with_capacity(context.len() + to.attributes.len());
        for (key, value) in context.into_iter().chain(senders_own) {
            let value = cut(value, LONGEST_VALUE);
            if !value.is_empty() && key.len() <= LONGEST_KEY && attributes.len() < MOST_ATTRIBUTES {
                attributes.entry(key.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
        // Cannot fail: every key is a string.
        let data = serde_json::to_vec(data).unwrap_or_default();
        Message { data, attributes, ordering_key: run_id }
    }
}

/// Whether an attribute of the request message goes back to its sender: not one of ours, not one of Google's.
pub fn is_senders_own(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    !key.is_empty() && !key.starts_with("ce-") && !key.starts_with("goog") && key != "content-type"
}

fn correlation_data(to: &Correlation) -> Data<'_> {
    Data {
        run_id: to.run_id,
        job_name: to.job_name.as_deref().map(|name| cut(name, LONGEST_TEXT)),
        request_id: to.request_id.as_deref().map(|id| cut(id, LONGEST_TEXT)),
        message_id: cut(&to.message_id, LONGEST_TEXT),
        ..Data::default()
    }
}

/// The first of them, and how many there are if that is not all.
fn shown(violations: &[Violation]) -> (&[Violation], Option<usize>) {
    let first = &violations[..violations.len().min(SHOWN_VIOLATIONS)];
    (first, (first.len() < violations.len()).then_some(violations.len()))
}

/// At most `length` bytes of a text, whole characters only.
pub fn cut(text: &str, length: usize) -> &str {
    &text[..text.floor_char_boundary(length)]
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
