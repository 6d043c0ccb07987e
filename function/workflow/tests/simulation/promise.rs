//! What must hold after every schedule, once nothing goes wrong any more. This is the function's promise, whole.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use inline_workflow::context::EVENT_BUDGET;
use inline_workflow_emulator::Workflow;
use serde_json::Value;

use crate::{
    history::{Asked, History},
    support::Said,
};

/// An event is dealt with within its budget and half a second of overtime.
const LONGEST: u128 = EVENT_BUDGET.as_millis() + 600;

/// How long a run may last of which Dataproc tells nothing, and one that is to be cancelled; each with some ticks more.
const LONGEST_BLINDNESS: TimeDelta = TimeDelta::hours(73);
const LONGEST_BLINDNESS_OF_A_CANCEL: TimeDelta = TimeDelta::minutes(100);
/// The longest that a call lies on its way and is executed all the same, and the difference of two clocks.
const LONGEST_WAY: TimeDelta = TimeDelta::seconds(60);

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

    let fails = history.notes.iter().find(|(_, note)| note.contains(" fails: ") && history.is_gentle);
    hold(fails.is_none(), format!("nothing goes wrong, and {fails:?}"));

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
        let is_lost = history.deleted.contains_key(run);
        let first = first_publications(history, run);
        let of_run: Vec<&(DateTime<Utc>, &Said)> = first.iter().filter(|(_, said)| said.is_of_the_run()).collect();

        // A run's events come in the order of `sequence`, each with its own.
        let numbered: Vec<&Said> = of_run.iter().map(|(_, said)| *said).filter(|said| said.sequence > 0).collect();
        for pair in numbered.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            hold(
                is_lost || before.sequence < after.sequence,
                format!("{} (sequence {}) comes after {} ({})", after.id, after.sequence, before.id, before.sequence),
            );
        }
        // Nothing new after an end, unless another message began the run anew after a rejection.
        for (index, (_, end)) in of_run.iter().enumerate().filter(|(_, (_, said))| said.is_end()) {
            for (_, later) in &of_run[index + 1..] {
                let anew = is_lost || (end.kind == "rejected" && later.message() != end.message());
                hold(anew, format!("{} was said after {}", later.id, end.id));
            }
        }

        // An unknown outcome needs a reason, and so does an end that comes late.
        for (at, end) in of_run.iter().filter(|(_, said)| said.is_end()) {
            hold(!end.is_unknown() || history.may_hide_outcomes, format!("{} is unknown for no reason", end.id));
            for (limit, what) in longest(history, run) {
                hold(
                    *at <= limit,
                    format!("{} comes {} min after the limit of {what}", end.id, (*at - limit).num_minutes()),
                );
            }
        }
        // A rate limit is no reason to reject before the request is too old.
        for (at, end) in of_run.iter().filter(|(_, said)| said.kind == "rejected") {
            let sent = history.asked.iter().find(|asked| asked.id == end.message()).map(|asked| asked.at);
            let too_early = sent.is_some_and(|sent| *at + LONGEST_WAY < sent + history.max_request_age);
            let of_rate =
                end.data["error"]["message"].as_str().is_some_and(|text| text.starts_with("Quota exceeded for"));
            hold(!(too_early && of_rate), format!("{} was said for a rate limit", end.id));
        }

        // The end is told when no workflow of the run lives, and none begins afterwards.
        for (index, (at, end)) in of_run.iter().enumerate().filter(|(_, (_, said))| said.is_end()) {
            let until = of_run[index + 1..].first().map(|(at, _)| *at);
            let is_last = until.is_none();
            // Without its record nobody knows of the run when another message is rejected.
            let without_record = is_lost && end.sequence == 0;
            if end.is_unknown() || end.is_lost() || without_record {
                continue;
            }
            for workflow in workflows_of(history, run) {
                // A rejection that is no run's may be on its way while another message with its request_id is accepted.
                let on_its_way = match end.sequence {
                    0 => TimeDelta::milliseconds(LONGEST as i64),
                    _ => TimeDelta::zero(),
                };
                let alive = workflow.created + on_its_way < *at && workflow.ended.is_none_or(|ended| ended > *at);
                hold(!alive, format!("{} was said while {} lived", end.id, workflow.requested_cluster));
                hold(
                    !is_last || is_lost || workflow.created <= *at,
                    format!("{} began after {}", workflow.requested_cluster, end.id),
                );
            }
        }

        // What is recorded is what was said last. A message that was rejected before it was recorded is another's matter.
        let last = numbered.last().copied().or(of_run.last().map(|(_, said)| *said));
        match (history.records.get(run), last) {
            // With a record its numbers and the ids of its events are gone: a new life of the run has them again.
            _ if is_lost => {
                let last = history.said.iter().rfind(|(_, said)| said.run() == run && said.is_of_the_run());
                let ended = last.is_some_and(|(_, said)| said.is_end());
                hold(ended, format!("run {run}, whose record was deleted, did not end"));
            }
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
            let told = !end.is_unknown()
                && !end.is_lost()
                && !is_lost
                && workflows.iter().all(|workflow| !history.forgotten.contains(&workflow.name));
            // Of several it is the one that the end tells of.
            let is_told = |it: &&&Workflow| end.data["operation"].as_str().is_none_or(|name| name == it.name);
            let succeeded = workflows.iter().filter(is_told).any(|workflow| has_succeeded(workflow));
            hold(
                !told || succeeded == (end.kind == "succeeded"),
                format!("run {run} ended {}, its workflow succeeded: {succeeded}", end.kind),
            );
        }
    }

    // The same id is the same event. An answer tells how things stand when it is given; a submission that was found
    // again tells what has become of it since.
    let mut known: BTreeMap<&str, &Said> = BTreeMap::new();
    let kept = |said: &Said| said.is_of_the_run() && !history.deleted.contains_key(said.run());
    for (_, said) in history.said.iter().filter(|(_, said)| kept(said)) {
        let first = known.entry(&said.id).or_insert(said);
        hold(first.sequence == said.sequence, format!("{} has two sequences", said.id));
        let same = match said.kind.as_str() {
            "submitted" => ["attempt", "operation"].iter().all(|part| first.data[part] == said.data[part]),
            // No record keeps it: it tells the faults of the configuration as it is at each delivery.
            "rejected" if said.sequence == 0 => first.data["state"] == said.data["state"],
            // Published without its details, for the topic had refused it.
            _ if [first, said].iter().any(|said| said.is_reduced()) => {
                ["run_id", "state", "attempt"].iter().all(|part| first.data[part] == said.data[part])
            }
            _ => first.data == said.data,
        };
        hold(same, format!("{} was said with other data:\n    {}\n    {}", said.id, first.data, said.data));
    }

    check_early_cancels(history, &mut hold);
    check_neighbours(history, &mut hold);

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
            let record = history.records.get(&asked.run_id).unwrap_or(&Value::Null);
            let anew = history.said.iter().any(|(_, said)| said.run() == asked.run_id && said.kind == "rejected");
            let is_lost = history.deleted.contains_key(&asked.run_id);
            hold(
                anew || is_lost || record["cancel"].is_object(),
                format!("cancel {} was answered and forgotten", asked.id),
            );
        }
    }
    faults
}

/// A cancel that the function was done with before the run's request came to it keeps the run from having a workflow.
fn check_early_cancels(history: &History, hold: &mut impl FnMut(bool, String)) {
    for cancel in history.asked.iter().filter(|asked| asked.action == "cancel") {
        let Some(done) = history.handled.get(&cancel.id) else { continue };
        let mut sent = history.asked.iter().filter(|asked| asked.action == "run" && asked.run_id == cancel.run_id);
        if history.deleted.contains_key(&cancel.run_id) || !sent.clone().all(|asked| asked.at <= cancel.at) {
            continue;
        }
        let first = sent.clone().filter_map(|asked| history.handled.get(&asked.id).copied()).min();
        if sent.next().is_none() || first.is_none_or(|first| first - TimeDelta::milliseconds(LONGEST as i64) < *done) {
            continue;
        }
        for workflow in workflows_of(history, &cancel.run_id) {
            let late = workflow.created > *done + LONGEST_WAY;
            hold(!late, format!("{} began after its cancel {}", workflow.requested_cluster, cancel.id));
        }
    }
}

/// A deployment follows its own workflows only, and those that are cancelled are cancelled by its own run.
fn check_neighbours(history: &History, hold: &mut impl FnMut(bool, String)) {
    for (_, said) in &history.said {
        let Some(operation) = said.data["operation"].as_str() else { continue };
        let own = history.workflows.iter().any(|workflow| workflow.name == operation);
        hold(own, format!("{} tells of {operation}, which is not the deployment's", said.id));
    }
    for workflow in &history.workflows {
        use gcloud_sdk::google::longrunning::operation::Result;
        let error = workflow.operation.result.as_ref();
        let cancelled = matches!(error, Some(Result::Error(error)) if error.code == tonic::Code::Cancelled as i32);
        let run = &workflow.labels["run_id"];
        let asked = history.asked.iter().any(|asked| asked.action == "cancel" && asked.run_id == *run);
        hold(!cancelled || asked, format!("{} was cancelled by nobody", workflow.requested_cluster));
    }
}

/// By when a run must have ended, whatever Dataproc tells, and for what.
fn longest<'a>(history: &'a History, run: &'a str) -> impl Iterator<Item = (DateTime<Utc>, String)> + 'a {
    let of_run = history.asked.iter().filter(move |asked| asked.run_id == run);
    of_run.filter_map(|asked| {
        let longest = match asked.action {
            "run" => LONGEST_BLINDNESS,
            "cancel" => LONGEST_BLINDNESS_OF_A_CANCEL,
            _ => return None,
        };
        Some((asked.at.max(history.calm) + longest, format!("message {} ({})", asked.id, asked.action)))
    })
}

/// Whether somebody who waits for the answer to a message gets one.
fn is_answered(history: &History, asked: &Asked) -> bool {
    let to_it = |kinds: &[&str]| {
        let tells = |said: &Said| said.message() == asked.id || (said.is_reduced() && said.run() == asked.run_id);
        history.said.iter().any(|(_, said)| tells(said) && kinds.contains(&said.kind.as_str()))
    };
    match asked.action {
        // Its faults are answered, not rejected, while a run of its name stands.
        "validate" => to_it(&["validated", "rejected", "answered"]),
        "cancel" | "status" => to_it(&["answered", "rejected"]),
        _ if !asked.legible => to_it(&["answered", "rejected"]),
        _ => {
            // The run that it is, or was the repetition of, has come to its end since.
            let same = |said: &Said| {
                // Nobody can tell whom the end of a run concerns whose record was deleted.
                said.is_reduced()
                    || history.deleted.contains_key(said.run())
                    || history.asked.iter().any(|other| other.id == said.message() && other.digest == asked.digest)
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

    /// Whether it was published without its details, and without the id of the message: the topic had refused it.
    fn is_reduced(&self) -> bool {
        self.data["left_out"][0] == "*"
    }

    /// Whether it says that the function could not learn what became of the workflow.
    fn is_unknown(&self) -> bool {
        self.kind == "failed" && self.data["error"]["code"] == "UNKNOWN"
    }

    /// Whether it says that the run's record is gone.
    fn is_lost(&self) -> bool {
        self.kind == "failed" && self.data["error"]["code"] == "DATA_LOSS"
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

fn by_run(workflows: &[Workflow]) -> BTreeMap<&str, Vec<&Workflow>> {
    let mut runs: BTreeMap<&str, Vec<&Workflow>> = BTreeMap::new();
    for workflow in workflows {
        runs.entry(&workflow.labels["run_id"]).or_default().push(workflow);
    }
    runs
}

fn workflows_of<'a>(history: &'a History, run: &str) -> Vec<&'a Workflow> {
    history.workflows.iter().filter(|workflow| workflow.labels["run_id"] == run).collect()
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
