//! What is said of a run on the response topic: CloudEvents 1.0 in Pub/Sub's binary mode.
//!
//! Source of the binding: https://github.com/googleapis/google-cloudevents/blob/main/docs/spec/pubsub.md

use std::{borrow::Cow, collections::HashMap};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    outcome::{Cluster, Failure, Step},
    pubsub::Message,
    record::{Announcement, Correlation, Kind, Record, State, Times},
    violation::{SHOWN_VIOLATIONS, Violation},
};

const SPEC_VERSION: &str = "1.0";
const CONTENT_TYPE: &str = "application/json";
const TYPE_PREFIX: &str = "inlineworkflow.dataproc.run.v1.";
/// Limits of Pub/Sub. Source: https://cloud.google.com/pubsub/quotas#resource_limits
const MOST_ATTRIBUTES: usize = 100;
const LONGEST_KEY: usize = 256;
const LONGEST_VALUE: usize = 1024;
/// A text of the sender's in the data, in bytes.
const LONGEST_TEXT: usize = 64 * 1024;
/// Any text in the smallest form of an event, in bytes.
const LONGEST_TEXT_OF_SMALLEST: usize = 1024;
/// In `left_out`: the event is in its smallest form.
const ALL_DETAILS: &str = "*";

/// Removes a part. Says whether there was one.
type LeaveOut = fn(&mut Data) -> bool;
/// The parts that an event leaves out if it is too large, in this order and no more than needed, by their names in
/// `left_out`.
const PARTS: [(&str, LeaveOut); 6] = [
    ("template", |data| data.template.take().is_some()),
    ("warnings", |data| keep_one(&mut data.warnings, &mut data.warning_count)),
    ("violations", |data| keep_one(&mut data.violations, &mut data.violation_count)),
    ("steps.error", |data| {
        let there_was_one = data.steps.iter().any(|step| step.error.is_some());
        data.steps.to_mut().iter_mut().for_each(|step| step.error = None);
        there_was_one
    }),
    ("steps.details", |data| {
        for step in data.steps.to_mut() {
            let Step { step_id, state, root_cause, .. } = std::mem::take(step);
            *step = Step { step_id, state, root_cause, ..Step::default() };
        }
        !data.steps.is_empty()
    }),
    ("steps", |data| !std::mem::take(&mut data.steps).is_empty()),
];

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
#[derive(Clone, Default, Serialize)]
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
    steps: Cow<'a, [Step]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, Failure>>,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<&'static str>,
}

#[derive(Clone, Serialize)]
struct Links {
    console: String,
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
        data.message_id = cut(&to.message_id, LONGEST_TEXT);
        data.found = Some(true);
        data.error = failure.map(Cow::Owned).or(data.error);
        if !violations.is_empty() {
            (data.violations, data.violation_count) = shown(violations);
        }
        let suffix = format!("answered/{}", to.message_id);
        self.message(to, Kind::Answered, &suffix, record.sequence, now, data)
    }

    /// The answer to a message of which nothing is recorded.
    pub fn answer(&self, to: &Correlation, kind: Kind, answer: Answer, now: DateTime<Utc>) -> Message {
        let (violations, violation_count) = shown(&answer.violations);
        let (warnings, warning_count) = shown(&answer.warnings);
        let times = Times { received: answer.received, ..Times::default() };
        let data = Data {
            found: answer.found,
            state: answer.state.map(State::word),
            error: answer.failure.as_ref().map(Cow::Borrowed),
            violations,
            violation_count,
            warnings,
            warning_count,
            template: answer.template,
            config_entry: answer.config_entry.as_deref().map(|name| cut(name, LONGEST_TEXT)),
            config_generation: answer.config_generation,
            times: answer.received.map(|_| &times),
            ..correlation_data(to)
        };
        let suffix = format!("{}/{}", kind.word(), to.message_id);
        self.message(to, kind, &suffix, 0, now, data)
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
            steps: Cow::Borrowed(&record.progress.steps),
            error: record.failure.as_ref().map(Cow::Borrowed),
            violations,
            violation_count,
            warnings,
            warning_count,
            times: Some(&record.times),
            links,
            ..correlation_data(&record.correlation)
        }
    }

    /// Binary mode: the context in attributes, the data as it is, or as much of it as the service takes.
    fn message(
        &self,
        to: &Correlation,
        kind: Kind,
        id_suffix: &str,
        sequence: u64,
        time: DateTime<Utc>,
        mut data: Data<'_>,
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
        let smallest = data.smallest().to_bytes();
        let mut message = Message { data: data.to_bytes(), attributes, ordering_key: run_id, smallest };
        for (name, leave_out) in PARTS {
            if message.fits() {
                return message;
            }
            if leave_out(&mut data) {
                data.left_out.push(name);
                message.data = data.to_bytes();
            }
        }
        if !message.fits() {
            message.data.clone_from(&message.smallest);
        }
        message
    }
}

impl<'a> Data<'a> {
    fn to_bytes(&self) -> Vec<u8> {
        // Cannot fail: every key is a string.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Which run, its state and its error, in texts of a bounded length.
    fn smallest(&self) -> Data<'_> {
        let short = |text: &'a str| cut(text, LONGEST_TEXT_OF_SMALLEST);
        let error = self.error.as_deref().map(|error| Failure {
            code: error.code.clone(),
            message: cut(&error.message, LONGEST_TEXT_OF_SMALLEST).to_owned(),
            step_id: error.step_id.as_deref().map(|id| cut(id, LONGEST_TEXT_OF_SMALLEST).to_owned()),
        });
        Data {
            run_id: self.run_id,
            job_name: self.job_name.map(short),
            request_id: self.request_id.map(short),
            message_id: short(self.message_id),
            found: self.found,
            attempt: self.attempt,
            state: self.state,
            operation: self.operation.map(short),
            error: error.map(Cow::Owned),
            left_out: vec![ALL_DETAILS],
            ..Data::default()
        }
    }
}

/// The first of them only. Says whether there were more, and how many.
fn keep_one(violations: &mut &[Violation], count: &mut Option<usize>) -> bool {
    let all = *violations;
    let [first, _, ..] = all else { return false };
    count.get_or_insert(all.len());
    *violations = std::slice::from_ref(first);
    true
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
