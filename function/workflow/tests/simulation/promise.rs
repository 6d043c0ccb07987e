//! What must hold after every schedule, once nothing goes wrong any more. This is the function's promise, whole.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use inline_workflow::identity::{ClusterName, Deployment};
use inline_workflow_emulator::Workflow;

use crate::{
    history::{Asked, History},
    support::{BUCKET, PROJECT, Said},
};

/// An event is dealt with within its budget of 8 s and half a second of overtime.
const LONGEST: u128 = 8_600;

/// A text for each breach of the promise.
pub fn check(history: &History) -> Vec<String> {
    let mut faults = Vec::new();
    let mut hold = |holds: bool, what: String| {
        if !holds {
            faults.push(what);
        }
    };

    // The function itself.
    hold(history.panics.is_empty(), format!("panics: {:?}", history.panics));
    hold(history.slowest <= LONGEST, format!("an event took {} ms", history.slowest));

    // It comes to an end, and leaves nothing to do.
    hold(history.quiet.is_some(), format!("never quiet: markers {:?}", history.markers));
    hold(history.markers.is_empty(), format!("markers are left: {:?}", history.markers));
    hold(history.unacknowledged == 0, format!("{} messages are not acknowledged", history.unacknowledged));
    hold(history.said_late == 0, format!("{} events after everything had ended", history.said_late));

    // Every message is answered.
    for asked in &history.asked {
        hold(is_answered(history, asked), format!("message {} ({}) is not answered", asked.id, asked.action));
    }

    // At most one workflow of a run lives at a time.
    for (run, workflows) in by_run(&history.workflows) {
        let most = most_alive(&workflows);
        hold(most <= 1, format!("{most} workflows of run {run} were alive at once"));
    }

    let runs: BTreeSet<&str> = history.said.iter().map(|(_, said)| said.run()).collect();
    for run in runs {
        let first = first_publications(history, run);
        let of_run: Vec<&(DateTime<Utc>, &Said)> = first.iter().filter(|(_, said)| said.is_of_the_run()).collect();

        // A run's events come in the order of `sequence`, each with its own.
        let numbered: Vec<&Said> = of_run.iter().map(|(_, said)| *said).filter(|said| said.sequence > 0).collect();
        for pair in numbered.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            hold(
                before.sequence < after.sequence,
                format!("{} (sequence {}) comes after {} ({})", after.id, after.sequence, before.id, before.sequence),
            );
        }
        // Nothing new after an end, unless another message began the run anew after a rejection.
        for (index, (_, end)) in of_run.iter().enumerate().filter(|(_, (_, said))| said.is_end()) {
            for (_, later) in &of_run[index + 1..] {
                let anew = end.kind == "rejected" && later.message() != end.message();
                hold(anew, format!("{} was said after {}", later.id, end.id));
            }
        }

        // The end is told when no workflow of the run lives, and none begins afterwards.
        for (index, (at, end)) in of_run.iter().enumerate().filter(|(_, (_, said))| said.is_end()) {
            let until = of_run[index + 1..].first().map(|(at, _)| *at);
            let is_last = until.is_none();
            for workflow in workflows_of(history, run) {
                // A rejection that is no run's may be on its way while another message with its request_id is accepted.
                let on_its_way = match end.sequence {
                    0 => TimeDelta::milliseconds(LONGEST as i64),
                    _ => TimeDelta::zero(),
                };
                let alive = workflow.created + on_its_way < *at && workflow.ended.is_none_or(|ended| ended > *at);
                hold(!alive, format!("{} was said while {} lived", end.id, workflow.requested_cluster));
                hold(
                    !is_last || workflow.created <= *at,
                    format!("{} began after {}", workflow.requested_cluster, end.id),
                );
            }
        }

        // What is recorded is what was said last. A message that was rejected before it was recorded is another's matter.
        let last = numbered.last().copied().or(of_run.last().map(|(_, said)| *said));
        match (history.records.get(run), last) {
            // Only a cancel came, and perhaps a request that was wrong in itself.
            (Some(record), last) if record["state"] == "awaited" => {
                let rejected = last.is_none_or(|last| last.kind == "rejected" && last.sequence == 0);
                hold(rejected, format!("run {run} awaits its request after events"));
            }
            (Some(record), Some(last)) => {
                hold(last.is_end(), format!("the last of run {run} is {}", last.id));
                hold(record["state"] == last.kind.as_str(), format!("the record of run {run} is {}", record["state"]));
                let id = format!("{run}/{}", record["last_event"]["id_suffix"].as_str().unwrap_or_default());
                hold(id == last.id, format!("the record of run {run} says {id}, the last event was {}", last.id));
            }
            (Some(_), None) => hold(false, format!("run {run} is recorded, and nothing of it was said")),
            (None, Some(last)) => hold(last.kind == "rejected", format!("run {run} has no record after {}", last.id)),
            (None, None) => {}
        }

        // It is the truth: succeeded when every step did, and only then.
        if let Some(end) = last.filter(|said| said.is_end()) {
            let workflows = workflows_of(history, run);
            let told = workflows.iter().all(|workflow| !history.forgotten.contains(&workflow.name));
            let succeeded = workflows.iter().any(|workflow| has_succeeded(workflow));
            hold(
                !told || succeeded == (end.kind == "succeeded"),
                format!("run {run} ended {}, its workflow succeeded: {succeeded}", end.kind),
            );
        }
    }

    // The same id is the same event. An answer tells how things stand when it is given; a submission that was found
    // again tells what has become of it since.
    let mut known: BTreeMap<&str, &Said> = BTreeMap::new();
    for (_, said) in history.said.iter().filter(|(_, said)| said.is_of_the_run()) {
        let first = known.entry(&said.id).or_insert(said);
        hold(first.sequence == said.sequence, format!("{} has two sequences", said.id));
        let same = match said.kind.as_str() {
            "submitted" => ["attempt", "operation"].iter().all(|part| first.data[part] == said.data[part]),
            // No record keeps it: it tells the faults of the configuration as it is at each delivery.
            "rejected" if said.sequence == 0 => first.data["state"] == said.data["state"],
            // Published without its details, for the topic had refused it.
            _ if [first, said].iter().any(|said| said.data["left_out"][0] == "*") => {
                ["run_id", "state", "attempt"].iter().all(|part| first.data[part] == said.data[part])
            }
            _ => first.data == said.data,
        };
        hold(same, format!("{} was said with other data:\n    {}\n    {}", said.id, first.data, said.data));
    }

    // Who was told that a cancel is under way has it in the record, for good.
    for asked in history.asked.iter().filter(|asked| asked.action == "cancel") {
        let answer = history
            .said
            .iter()
            .map(|(_, said)| said)
            .find(|said| said.kind == "answered" && said.message() == asked.id);
        let Some(answer) = answer else { continue };
        let state = answer.data["state"].as_str().unwrap_or_default();
        if answer.data["found"] == true && !["succeeded", "failed", "cancelled", "rejected"].contains(&state) {
            let record = &history.records[&asked.run_id];
            let anew = history.said.iter().any(|(_, said)| said.run() == asked.run_id && said.kind == "rejected");
            hold(anew || record["cancel"].is_object(), format!("cancel {} was answered and forgotten", asked.id));
        }
    }
    faults
}

/// Whether somebody who waits for the answer to a message gets one.
fn is_answered(history: &History, asked: &Asked) -> bool {
    let to_it = |kinds: &[&str]| {
        history.said.iter().any(|(_, said)| said.message() == asked.id && kinds.contains(&said.kind.as_str()))
    };
    match asked.action {
        // Its faults are answered, not rejected, while a run of its name stands.
        "validate" => to_it(&["validated", "rejected", "answered"]),
        "cancel" | "status" => to_it(&["answered", "rejected"]),
        _ if !asked.legible => to_it(&["answered", "rejected"]),
        _ => {
            // The run that it is, or was the repetition of, has come to its end since.
            let same = |said: &Said| {
                history.asked.iter().any(|other| other.id == said.message() && other.digest == asked.digest)
            };
            let mut ends = history.said.iter().filter(|(_, said)| said.run() == asked.run_id && said.is_end());
            to_it(&["answered", "rejected"]) || ends.any(|(at, said)| *at >= asked.at && same(said))
        }
    }
}

impl Said {
    fn run(&self) -> &str {
        &self.attributes["ce-runid"]
    }

    fn message(&self) -> &str {
        self.attributes.get("ce-messageid").map_or("", String::as_str)
    }

    /// Whether it tells of the run, rather than answers a message about it.
    fn is_of_the_run(&self) -> bool {
        !matches!(self.kind.as_str(), "answered" | "validated")
    }

    fn is_end(&self) -> bool {
        matches!(self.kind.as_str(), "succeeded" | "failed" | "cancelled" | "rejected")
    }
}

fn first_publications<'a>(history: &'a History, run: &str) -> Vec<(DateTime<Utc>, &'a Said)> {
    let mut known = BTreeSet::new();
    let of_run = history.said.iter().filter(|(_, said)| said.run() == run);
    of_run.filter(|(_, said)| known.insert(&said.id)).map(|(at, said)| (*at, said)).collect()
}

fn by_run(workflows: &[Workflow]) -> BTreeMap<String, Vec<&Workflow>> {
    let mut runs: BTreeMap<String, Vec<&Workflow>> = BTreeMap::new();
    for workflow in workflows {
        let name = ClusterName::parse(&workflow.requested_cluster).expect("a cluster of ours");
        runs.entry(name.digits).or_default().push(workflow);
    }
    runs
}

fn workflows_of<'a>(history: &'a History, run: &str) -> Vec<&'a Workflow> {
    let deployment = Deployment::new(PROJECT, "us-central1", BUCKET);
    let digits = deployment.digits(run.parse().expect("a run's id"));
    let name = |workflow: &Workflow| ClusterName::parse(&workflow.requested_cluster);
    let of_run = |workflow: &&Workflow| name(workflow).is_some_and(|name| name.digits == digits);
    history.workflows.iter().filter(of_run).collect()
}

fn most_alive(workflows: &[&Workflow]) -> usize {
    let alive_at = |at: DateTime<Utc>| {
        workflows.iter().filter(|it| it.created <= at && it.ended.is_none_or(|ended| ended > at)).count()
    };
    workflows.iter().map(|workflow| alive_at(workflow.created)).max().unwrap_or(0)
}

/// As the emulator knows it, not as the operation claims.
fn has_succeeded(workflow: &Workflow) -> bool {
    use gcloud_sdk::google::{cloud::dataproc::v1::WorkflowMetadata, longrunning::operation::Result};
    use gcloud_sdk::prost::Message;
    let metadata = workflow.operation.metadata.as_ref().map(|any| WorkflowMetadata::decode(any.value.as_slice()));
    let Some(Ok(metadata)) = metadata else { return false };
    let nodes = metadata.graph.map(|graph| graph.nodes).unwrap_or_default();
    let deleted = metadata.delete_cluster.is_some_and(|delete| delete.done && delete.error.is_empty());
    let error = matches!(workflow.operation.result, Some(Result::Error(_)));
    !error && deleted && nodes.iter().all(|node| node.state().as_str_name() == "COMPLETED")
}
