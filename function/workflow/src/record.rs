//! A run's record, as `runs/<run_id>.json` holds it, and the parts of it.
//!
//! Every serializable type here is a promise: a later release reads what this one wrote.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    outcome::{Failure, JobFacts, Progress},
    template::FIRST_ATTEMPT,
    violation::Violation,
};

/// The version of the record's form that this program writes, and the only one it touches.
pub const VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A cancel has come before its request.
    Awaited,
    /// Recorded, not yet submitted.
    Accepted,
    /// Refused for now, by Dataproc or by the network.
    Waiting,
    /// Dataproc has it.
    Submitted,
    Succeeded,
    Failed,
    Cancelled,
    /// It will never run.
    Rejected,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Awaited => "awaited",
            State::Accepted => "accepted",
            State::Waiting => "waiting",
            State::Submitted => "submitted",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Rejected => "rejected",
        }
    }

    pub fn is_end(self) -> bool {
        match self {
            State::Awaited | State::Accepted | State::Waiting | State::Submitted => false,
            State::Succeeded | State::Failed | State::Cancelled | State::Rejected => true,
        }
    }
}

/// The last word of an event's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Submitted,
    Progressed,
    Succeeded,
    Failed,
    Cancelled,
    Rejected,
    Validated,
    Answered,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Submitted => "submitted",
            Kind::Progressed => "progressed",
            Kind::Succeeded => "succeeded",
            Kind::Failed => "failed",
            Kind::Cancelled => "cancelled",
            Kind::Rejected => "rejected",
            Kind::Validated => "validated",
            Kind::Answered => "answered",
        }
    }
}

/// Something about a run that is said on the response topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    pub kind: Kind,
    /// Behind the run id; the same for the same fact.
    pub id_suffix: String,
    pub sequence: u64,
    pub time: DateTime<Utc>,
    /// Whether it is known to be published. If not, it is published again.
    pub published: bool,
}

/// Who may submit the run, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Random, of one handling of one event.
    pub writer: String,
    pub until: DateTime<Utc>,
    /// Whether its holder may submit under it as it stands: if it ends without another word, somebody must look.
    #[serde(default)]
    pub may_submit: bool,
}

/// A sender's wish that the run ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    pub message_id: String,
    pub requested: DateTime<Utc>,
    /// Whether Dataproc has been told.
    pub sent: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// When the message was published, or else when it reached us.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub received: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub submitted: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<DateTime<Utc>>,
}

/// Which message an event answers, and what of it goes back to the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correlation {
    pub run_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub job_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    pub message_id: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub traceparent: Option<String>,
    /// The request message's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub attributes: BTreeMap<String, String>,
}

/// What the jobs of an ended workflow show, as far as it has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// By job id.
    pub jobs: BTreeMap<String, JobFacts>,
    /// Of the listing, empty at its beginning.
    pub next_page: String,
    /// Whether the listing has told all that it will.
    pub listed: bool,
    /// Whether the jobs that it does not tell of have been asked for.
    pub asked: bool,
    /// When the reading began.
    pub since: DateTime<Utc>,
}

/// All that is known of a run, as `runs/<run_id>.json` holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    #[serde(flatten)]
    pub correlation: Correlation,
    /// Of the request; a repeated request_id must come with the same.
    pub digest: String,
    /// For people to read.
    pub request: Box<RawValue>,
    /// The WorkflowTemplate as it was rendered, serialized.
    #[serde(with = "base64_text")]
    pub template: Bytes,
    /// The attempt whose cluster's name it bears.
    pub template_attempt: u32,
    /// How many jobs it has.
    pub step_count: usize,
    pub cluster_base_name: String,
    /// The request itself names the zone, so that a stockout must not drop it.
    #[serde(default)]
    pub zone_from_request: bool,
    pub config_entry: String,
    pub config_generation: i64,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<Violation>,
    /// Why it was rejected without an attempt.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub violations: Vec<Violation>,
    pub recorded: DateTime<Utc>,
    pub times: Times,
    pub state: State,
    /// From 1; a part of the cluster's name and of Dataproc's request_id.
    pub attempt: u32,
    /// No workflow of this attempt has begun before.
    pub attempt_began: DateTime<Utc>,
    /// Whether an earlier attempt had a workflow.
    #[serde(default)]
    pub had_workflow: bool,
    /// Attempts that ended for want of capacity.
    #[serde(default)]
    pub capacity_failures: u32,
    /// The next attempt leaves the zone to Dataproc.
    #[serde(default)]
    pub leave_zone: bool,
    /// Transient failures of this attempt's submission.
    #[serde(default)]
    pub submit_failures: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_before: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lease: Option<Lease>,
    /// Until then a submission of this attempt, whose answer nobody saw, can have been under way.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unsettled_until: Option<DateTime<Utc>>,
    /// Dataproc says that this attempt's workflow exists, and not what it is.
    #[serde(default)]
    pub exists: bool,
    /// Since when Dataproc has not told what has become of the submission, or of the workflow.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub blind_since: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operation: Option<String>,
    /// Since when Dataproc does not know the operation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub missing_since: Option<DateTime<Utc>>,
    #[serde(default)]
    pub progress: Progress,
    /// What has been learnt of the jobs of a workflow that has ended, until the run has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub findings: Option<Findings>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cancel: Option<Cancel>,
    #[serde(default)]
    pub sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_event: Option<Announcement>,
}

impl Correlation {
    /// Of a run of which no more than its id can be told.
    pub fn of_run(run_id: Uuid) -> Correlation {
        Correlation {
            run_id,
            job_name: None,
            request_id: None,
            message_id: String::new(),
            traceparent: None,
            attributes: BTreeMap::new(),
        }
    }
}

impl Record {
    /// A run at its beginning. The request and what it was rendered to are the caller's to add.
    pub fn accepted(correlation: Correlation, published: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Record {
        Record {
            version: VERSION,
            correlation,
            digest: String::new(),
            request: RawValue::NULL.to_owned(),
            template: Bytes::new(),
            template_attempt: FIRST_ATTEMPT,
            step_count: 0,
            cluster_base_name: String::new(),
            zone_from_request: false,
            config_entry: String::new(),
            config_generation: 0,
            warnings: Vec::new(),
            violations: Vec::new(),
            recorded: now,
            times: Times { received: published.or(Some(now)), ..Times::default() },
            state: State::Accepted,
            attempt: FIRST_ATTEMPT,
            attempt_began: now,
            had_workflow: false,
            capacity_failures: 0,
            leave_zone: false,
            submit_failures: 0,
            not_before: None,
            lease: None,
            unsettled_until: None,
            exists: false,
            blind_since: None,
            operation: None,
            missing_since: None,
            progress: Progress::default(),
            findings: None,
            failure: None,
            cancel: None,
            sequence: 0,
            last_event: None,
        }
    }

    pub fn run_id(&self) -> Uuid {
        self.correlation.run_id
    }

    /// About how long its text is.
    pub fn size_hint(&self) -> usize {
        2048 + self.request.get().len() + self.template.len() * 4 / 3
    }
}

mod base64_text {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
    }
}
