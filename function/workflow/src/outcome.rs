//! What a workflow's operation says: how far it is, and how it ended.
//!
//! An operation's own word is not enough: Dataproc has reported workflows with failed jobs as successful operations, and
//! `DONE` in the metadata means completed or cancelled. The graph and the cluster operations are looked at too.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use gcloud_sdk::{
    google::{
        cloud::dataproc::v1::{Job, WorkflowMetadata, job_status, workflow_metadata::State as MetadataState},
        longrunning::{Operation, operation},
    },
    prost::Message,
    prost_types::Timestamp,
    tonic::Code,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::error::code_name;

/// What an event has room for. Pub/Sub takes messages of 10 MB, and JSON writes a byte with up to six.
const LONGEST_ERROR: usize = 16 * 1024;
const ERRORS_OF_STEPS: usize = 1_200_000;

/// Why a run ended badly, or why it waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A gRPC code's name.
    pub code: String,
    pub message: String,
    /// The step that is to blame.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step_id: Option<String>,
}

impl Failure {
    /// A message longer than an event has room for is cut.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code: code_name(code).to_owned(), message: shorten(message.into(), LONGEST_ERROR), step_id: None }
    }
}

/// A step of the workflow's graph.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub step_id: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub job_id: Option<String>,
    /// Dataproc's own word: BLOCKED, RUNNABLE, RUNNING, COMPLETED, FAILED.
    pub state: String,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub prerequisite_step_ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// A `gs://` prefix under which the driver's output lies.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub driver_output_uri: Option<String>,
    /// Of a failed step only: whether it failed by itself, or because of another.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub root_cause: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub uuid: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<ClusterState>,
    /// What kept the cluster from being created, or from being deleted: then it is left behind.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// As far as the workflow's two cluster operations show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterState {
    Creating,
    Running,
    Deleting,
    Deleted,
    /// One of the two operations failed.
    Error,
}

/// How far a workflow is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Whether the workflow left PENDING.
    #[serde(default)]
    pub running: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cluster: Option<Cluster>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub steps: Vec<Step>,
}

impl Progress {
    /// The same for the same progress, whoever looks.
    pub fn digest(&self, attempt: u32) -> String {
        let text = serde_json::json!([attempt, self]).to_string();
        short_digest(&text)
    }
}

/// The first 16 hex digits of a SHA-256.
pub fn short_digest(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))[..16].to_owned()
}

/// An operation, read.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    pub name: String,
    pub done: bool,
    /// Whether it tells of a workflow at all. False if its metadata is missing, or cannot be read.
    pub readable: bool,
    /// The cluster's name as the workflow shows it; empty while it shows none.
    pub cluster_name: String,
    pub progress: Progress,
    pub started: Option<DateTime<Utc>>,
    pub ended: Option<DateTime<Utc>>,
    error: Option<(Code, String)>,
    create_error: Option<String>,
    delete_error: Option<String>,
}

/// How a workflow ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Succeeded,
    Failed(Failure),
    Cancelled(Failure),
    /// No job had started when Google Cloud had no room; another attempt makes sense.
    NoCapacity {
        failure: Failure,
        stockout: bool,
    },
}

/// What is known of a job whose workflow has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFacts {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub driver_output_uri: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub details: Option<String>,
    #[serde(default)]
    pub cancelled: bool,
    /// Since when it is in its state.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<DateTime<Utc>>,
}

impl JobFacts {
    /// A text longer than an event of `steps` steps has room for is cut.
    pub fn of(job: Job, steps: usize) -> JobFacts {
        let status = job.status.unwrap_or_default();
        JobFacts {
            driver_output_uri: Some(job.driver_output_resource_uri).filter(|uri| !uri.is_empty()),
            cancelled: status.state() == job_status::State::Cancelled,
            since: status.state_start_time.and_then(time),
            details: Some(status.details)
                .filter(|details| !details.is_empty())
                .map(|details| shorten(details, longest_step_error(steps))),
        }
    }
}

/// What an ended workflow is judged by, beside its operation.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// By job id; those that could be had.
    pub jobs: &'a BTreeMap<String, JobFacts>,
    pub cancel_sent: bool,
    /// How many steps the template has.
    pub step_count: usize,
    /// The request as it was sent: what an error quotes of it says nothing of the service.
    pub request: &'a RawValue,
}

/// Whether an operation is one of another kind, such as the creation of a cluster.
pub fn is_foreign(operation: &Operation) -> bool {
    let type_url = operation.metadata.as_ref().map_or("", |any| any.type_url.as_str());
    !type_url.is_empty() && !type_url.ends_with(".WorkflowMetadata")
}

/// Reads an operation and its `WorkflowMetadata`.
pub fn observe(operation: &Operation) -> Observation {
    let metadata = operation.metadata.as_ref().filter(|_| !is_foreign(operation));
    let metadata = metadata.and_then(|any| WorkflowMetadata::decode(any.value.as_slice()).ok());
    let readable = metadata.is_some();
    let metadata = metadata.unwrap_or_default();
    let error_of = |cluster_operation: &Option<_>| {
        let operation: &gcloud_sdk::google::cloud::dataproc::v1::ClusterOperation = cluster_operation.as_ref()?;
        Some(operation.error.clone()).filter(|error| !error.is_empty())
    };
    let create_error = error_of(&metadata.create_cluster);
    let delete_error = error_of(&metadata.delete_cluster);
    let cluster_state = match (&metadata.create_cluster, &metadata.delete_cluster) {
        _ if create_error.is_some() || delete_error.is_some() => Some(ClusterState::Error),
        (_, Some(delete)) if delete.done => Some(ClusterState::Deleted),
        (_, Some(_)) => Some(ClusterState::Deleting),
        (Some(create), None) if create.done => Some(ClusterState::Running),
        (Some(_), None) => Some(ClusterState::Creating),
        (None, None) => None,
    };
    let nodes = metadata.graph.map(|graph| graph.nodes).unwrap_or_default();
    let longest = longest_step_error(nodes.len());
    let steps = nodes
        .into_iter()
        .map(|node| Step {
            state: node.state().as_str_name().to_owned(),
            step_id: node.step_id,
            job_id: Some(node.job_id).filter(|id| !id.is_empty()),
            prerequisite_step_ids: node.prerequisite_step_ids,
            error: Some(node.error).filter(|error| !error.is_empty()).map(|error| shorten(error, longest)),
            driver_output_uri: None,
            root_cause: None,
        })
        .collect();
    let cluster = (!metadata.cluster_name.is_empty()).then(|| Cluster {
        name: metadata.cluster_name.clone(),
        uuid: metadata.cluster_uuid.clone(),
        state: cluster_state,
        error: match (&delete_error, &create_error) {
            (Some(error), _) => Some(format!("not deleted: {error}")),
            (None, Some(error)) => Some(format!("not created: {error}")),
            (None, None) => None,
        }
        .map(|error| shorten(error, LONGEST_ERROR)),
    });
    Observation {
        name: operation.name.clone(),
        done: operation.done,
        readable,
        cluster_name: metadata.cluster_name,
        progress: Progress {
            running: matches!(
                MetadataState::try_from(metadata.state),
                Ok(MetadataState::Running | MetadataState::Done)
            ),
            cluster,
            steps,
        },
        started: metadata.start_time.and_then(time),
        ended: metadata.end_time.and_then(time),
        error: match &operation.result {
            Some(operation::Result::Error(status)) => Some((Code::from(status.code), status.message.clone())),
            _ => None,
        },
        create_error,
        delete_error,
    }
}

/// How long the error of each of so many steps may be.
fn longest_step_error(steps: usize) -> usize {
    LONGEST_ERROR.min(ERRORS_OF_STEPS / steps.max(1))
}

fn shorten(mut text: String, longest: usize) -> String {
    if text.len() > longest {
        text.truncate(text.floor_char_boundary(longest));
        text.push('…');
    }
    text
}

impl Observation {
    /// Why the cluster may still be there, if its deletion failed.
    pub fn delete_error(&self) -> Option<&str> {
        self.delete_error.as_deref()
    }

    /// How the workflow ended, and its steps with what their jobs add: error texts, driver output, root cause.
    pub fn conclude(&self, evidence: &Evidence<'_>) -> (Outcome, Vec<Step>) {
        let mut steps = self.progress.steps.clone();
        let longest = longest_step_error(steps.len());
        for step in &mut steps {
            let Some(job) = step.job_id.as_ref().and_then(|id| evidence.jobs.get(id)) else {
                continue;
            };
            step.driver_output_uri.clone_from(&job.driver_output_uri);
            if let Some(details) = job.details.as_deref()
                && step.state == FAILED
            {
                // The node's error often only points to the job; the job's details say what happened.
                let error = match step.error.take() {
                    Some(error) if error.contains(details) => error,
                    Some(error) if !details.contains(&error) => format!("{error}: {details}"),
                    _ => details.to_owned(),
                };
                step.error = Some(shorten(error, longest));
            }
        }
        let causes = match self.create_error {
            // Without a cluster every step fails, and none is to blame.
            Some(_) => BTreeSet::new(),
            None => root_causes(&steps, evidence.jobs),
        };
        for (index, step) in steps.iter_mut().enumerate() {
            step.root_cause = (step.state == FAILED).then(|| causes.contains(&index));
        }
        let outcome = self.outcome(&steps, evidence);
        (outcome, steps)
    }

    fn outcome(&self, steps: &[Step], evidence: &Evidence<'_>) -> Outcome {
        let failed_step = first_cause(steps, evidence.jobs);
        let unfinished = steps.iter().find(|step| step.state != FAILED && step.state != COMPLETED);
        let error_text = self.error.as_ref().map(|(_, message)| message.as_str());
        let code = self.error.as_ref().map(|(code, _)| *code);
        let failure = if let Some((Code::Cancelled, message)) = &self.error {
            return Outcome::Cancelled(Failure::new(Code::Cancelled, message));
        } else if let Some(create_error) = &self.create_error {
            let message = format!("the cluster was not created: {create_error}");
            Failure::new(code.unwrap_or(Code::Aborted), message)
        } else if let Some(step) = failed_step {
            let message = step.error.as_deref().or(error_text);
            let message = message.map_or_else(|| format!("step {} failed", step.step_id), str::to_owned);
            Failure { step_id: Some(step.step_id.clone()), ..Failure::new(code.unwrap_or(Code::Aborted), message) }
        } else if let Some((code, message)) = &self.error {
            Failure::new(*code, message)
        } else if let Some(delete_error) = &self.delete_error {
            let name = &self.cluster_name;
            let message = format!("the cluster {name} was not deleted: {delete_error}");
            Failure::new(Code::Aborted, message)
        } else if let Some(step) = unfinished {
            // DONE without an error means completed or cancelled, and this is not completed.
            let message = format!("the workflow ended before step {} did", step.step_id);
            return Outcome::Cancelled(Failure {
                step_id: Some(step.step_id.clone()),
                ..Failure::new(Code::Cancelled, message)
            });
        } else if steps.len() < evidence.step_count || !self.readable {
            let (told, all) = (steps.len(), evidence.step_count);
            let message = format!("the operation ended, and its metadata tell of {told} steps of {all}");
            Failure::new(Code::DataLoss, message)
        } else {
            return Outcome::Succeeded;
        };
        if evidence.cancel_sent {
            return Outcome::Cancelled(failure);
        }
        let texts = [Some(failure.message.as_str()), error_text, self.create_error.as_deref()];
        let no_job_started =
            steps.iter().all(|step| step.job_id.is_none() && step.state != RUNNING && step.state != COMPLETED);
        if self.readable && no_job_started && self.delete_error.is_none() {
            let told = texts.into_iter().flatten().find_map(|text| shortage(text, evidence.request));
            let shortage = told.or(match code {
                Some(Code::ResourceExhausted) => Some(Shortage::Quota),
                // Compute Engine's answer when a zone is out of machines.
                Some(Code::Unavailable) => Some(Shortage::Stockout),
                _ => None,
            });
            if let Some(shortage) = shortage {
                return Outcome::NoCapacity {
                    failure: Failure { step_id: None, ..failure },
                    stockout: shortage == Shortage::Stockout,
                };
            }
        }
        Outcome::Failed(failure)
    }
}

const RUNNING: &str = "RUNNING";
const COMPLETED: &str = "COMPLETED";
pub const FAILED: &str = "FAILED";

/// A node can be FAILED because an ancestor or a peer failed. The root cause is one whose own prerequisites all
/// completed and whose job, where it is known, was not just cancelled with the rest.
fn root_causes(steps: &[Step], jobs: &BTreeMap<String, JobFacts>) -> BTreeSet<usize> {
    let unfinished: BTreeSet<&str> =
        steps.iter().filter(|step| step.state != COMPLETED).map(|step| step.step_id.as_str()).collect();
    let candidates: Vec<usize> = steps
        .iter()
        .enumerate()
        .filter(|(_, step)| {
            step.state == FAILED && !step.prerequisite_step_ids.iter().any(|id| unfinished.contains(id.as_str()))
        })
        .map(|(index, _)| index)
        .collect();
    let by_itself = |index: &&usize| {
        let job = steps[**index].job_id.as_ref().map(|id| jobs.get(id));
        match job {
            // It never got as far as a job: stopped with the rest.
            None => false,
            Some(None) => true,
            Some(Some(job)) => !job.cancelled,
        }
    };
    let own: BTreeSet<usize> = candidates.iter().filter(by_itself).copied().collect();
    match own.is_empty() {
        true => candidates.into_iter().collect(),
        false => own,
    }
}

/// Of several root causes the one that failed first; any failed step if there is none.
fn first_cause<'a>(steps: &'a [Step], jobs: &BTreeMap<String, JobFacts>) -> Option<&'a Step> {
    let failed_at = |step: &Step| jobs.get(step.job_id.as_ref()?)?.since;
    steps
        .iter()
        .filter(|step| step.root_cause == Some(true))
        .min_by_key(|step| failed_at(step).unwrap_or(DateTime::<Utc>::MAX_UTC))
        .or_else(|| steps.iter().find(|step| step.state == FAILED))
}

/// What Google Cloud was short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The project's quota.
    Quota,
    /// Machines in the zone.
    Stockout,
}

/// Recognises the service's phrases for quota errors (`Insufficient 'N2_CPUS' quota`) and stockouts, which come under
/// several codes, INVALID_ARGUMENT among them. A phrase that the text only quotes from the request does not count.
/// Source: https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-vm-creation#resource_availability
pub fn shortage(text: &str, request: &RawValue) -> Option<Shortage> {
    phrase(text)?;
    phrase(&without_words_of(request, text))
}

fn phrase(text: &str) -> Option<Shortage> {
    let is_metric = |metric: &str| {
        !metric.is_empty() && metric.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
    };
    let quota = text.split("Insufficient '").skip(1).any(|rest| {
        rest.split_once('\'').is_some_and(|(metric, rest)| is_metric(metric) && rest.starts_with(" quota"))
    });
    let mut words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let stockout = text.contains("does not have enough resources available")
        || words
            .any(|word| matches!(word, "ZONE_RESOURCE_POOL_EXHAUSTED" | "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"));
    match (quota, stockout) {
        (_, true) => Some(Shortage::Stockout),
        (true, false) => Some(Shortage::Quota),
        (false, false) => None,
    }
}

/// The text without the request's own strings and keys.
fn without_words_of(request: &RawValue, text: &str) -> String {
    fn collect(value: serde_json::Value, words: &mut Vec<String>) {
        match value {
            serde_json::Value::String(word) => {
                // A path may be quoted in part.
                words.extend(word.split('/').map(str::to_owned));
                words.push(word);
            }
            serde_json::Value::Array(values) => values.into_iter().for_each(|value| collect(value, words)),
            serde_json::Value::Object(members) => members.into_iter().for_each(|(key, value)| {
                words.push(key);
                collect(value, words);
            }),
            _ => {}
        }
    }
    let mut words = Vec::new();
    // It is JSON that this program wrote.
    collect(serde_json::from_str(request.get()).unwrap_or_default(), &mut words);
    // A word that is part of another one goes after it. Shorter ones cannot hold a phrase.
    words.retain(|word| word.len() >= "Insufficient 'C' quota".len());
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    words.iter().fold(text.to_owned(), |text, word| text.replace(word.as_str(), ""))
}

/// A protobuf timestamp as a time; none where it lies outside the calendar.
pub fn time(timestamp: Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(timestamp.seconds, timestamp.nanos.try_into().ok()?)
}
