//! What happened in a schedule, for the checks and for a reader.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use inline_workflow_emulator::{Call, Workflow};
use serde_json::Value;

use crate::support::Said;

/// A message that somebody published to the topic of requests.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: String,
    pub at: DateTime<Utc>,
    pub action: &'static str,
    /// Whether its data can be decoded, whatever the configuration says.
    pub legible: bool,
    /// The run that it is, or is about.
    pub run_id: String,
    pub digest: String,
    pub text: String,
}

pub struct History {
    pub seed: u64,
    pub base: DateTime<Utc>,
    pub settings: String,
    pub asked: Vec<Asked>,
    /// In the order of their publication.
    pub said: Vec<(DateTime<Utc>, Said)>,
    pub workflows: Vec<Workflow>,
    /// By run id.
    pub records: BTreeMap<String, Value>,
    pub markers: Vec<String>,
    pub unacknowledged: usize,
    pub panics: Vec<String>,
    /// How long the slowest event took, in milliseconds.
    pub slowest: u128,
    /// When nothing was left to do; none if that never came.
    pub quiet: Option<DateTime<Utc>>,
    /// From then on only the hardships remain.
    pub calm: DateTime<Utc>,
    /// Whether a hardship may have kept Dataproc's answers away for so long that an outcome is unknown.
    pub may_hide_outcomes: bool,
    /// Whether nothing goes wrong at all.
    pub is_gentle: bool,
    pub max_request_age: TimeDelta,
    /// When the function was first done with a message, by its id.
    pub handled: BTreeMap<String, DateTime<Utc>>,
    /// Runs whose records were deleted, and when.
    pub deleted: BTreeMap<String, DateTime<Utc>>,
    /// What was said after that.
    pub said_late: usize,
    /// Operations that Dataproc was made to forget.
    pub forgotten: Vec<String>,
    pub calls: Vec<Call>,
    pub notes: Vec<(DateTime<Utc>, String)>,
}

impl History {
    /// One line for each thing that happened, in the order of time.
    pub fn text(&self) -> String {
        let mut lines: Vec<(DateTime<Utc>, u8, String)> = Vec::new();
        for asked in &self.asked {
            lines.push((
                asked.at,
                0,
                format!("message {} {} -> run {}: {}", asked.id, asked.action, asked.run_id, asked.text),
            ));
        }
        for (at, note) in &self.notes {
            lines.push((*at, 2, note.clone()));
        }
        for call in &self.calls {
            let path = call.path.rsplit('/').next().unwrap_or_default();
            // The bucket's and the region's names say nothing new.
            let answer = call.answer.map_or("no answer".to_owned(), |code| format!("{code:?}"));
            lines.push((call.at, 3, format!("    {path} -> {answer}")));
        }
        for (at, said) in &self.said {
            let (error, state) = (&said.data["error"], &said.data["state"]);
            let note = format!(
                "EVENT {} sequence {} {} state {state} error {error} to message {}",
                said.id,
                said.sequence,
                said.kind,
                said.attributes.get("ce-messageid").map_or("-", String::as_str)
            );
            lines.push((*at, 4, note));
        }
        for workflow in &self.workflows {
            let cluster = &workflow.requested_cluster;
            lines.push((workflow.created, 1, format!("WORKFLOW {cluster} begins ({})", workflow.name)));
            if let Some(ended) = workflow.ended {
                lines.push((ended, 1, format!("WORKFLOW {cluster} ends")));
            }
        }
        lines.sort_by_key(|(at, order, _)| (*at, *order));
        let mut text = format!("seed {}: {}\n", self.seed, self.settings);
        for (at, _, line) in lines {
            let after = (at - self.base).num_milliseconds() as f64 / 1000.0;
            text.push_str(&format!("{after:>10.3} {line}\n"));
        }
        for (run, record) in &self.records {
            text.push_str(&format!("record {run}: {}\n", shown(record)));
        }
        text
    }
}

fn shown(record: &Value) -> Value {
    let mut record = record.clone();
    if let Some(members) = record.as_object_mut() {
        members.remove("template");
        members.remove("request");
    }
    record
}
