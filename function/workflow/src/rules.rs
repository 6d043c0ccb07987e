//! What Dataproc is known to refuse in a workflow, checked before it is asked: everything at once, with its path.
//! The sources are the service's reference pages for `OrderedJob`, `WorkflowTemplate` and labels.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, MessageDescriptor, OneofDescriptor, ReflectMessage};

use crate::json::Value;
use crate::proto_json::field_named;
use crate::violation::{Faults, excerpt};

/// The labels that every run puts on its cluster and its jobs.
pub const RUN_LABELS: [&str; 2] = ["job_name", "run_id"];

/// How many labels the service takes on one resource.
pub const MAX_LABELS: usize = 32;

const MIN_STEP_ID: usize = 3;
const MAX_STEP_ID: usize = 50;
const MAX_LABEL: usize = 63;
/// Seconds.
const MIN_DAG_TIMEOUT: i64 = 600;
const MAX_DAG_TIMEOUT: i64 = 86_400;

/// A step of the request: as it was written, and as it was read.
pub struct Step<'a> {
    /// Its place among the jobs.
    pub index: usize,
    pub written: &'a Value,
    pub message: DynamicMessage,
}

impl Step<'_> {
    fn step_id(&self) -> String {
        text_of(&self.message, "step_id")
    }

    fn prerequisites(&self) -> Vec<String> {
        let list = self.message.get_field_by_name("prerequisite_step_ids");
        let list = list.as_ref().and_then(|list| list.as_list()).unwrap_or_default();
        list.iter().map(|step_id| step_id.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The key with which the sender wrote a field, in snake_case or camelCase.
    fn key<'a>(&'a self, name: &'a str) -> &'a str {
        key_of(self.written, &self.message.descriptor(), name)
    }
}

/// The key with which a field of an object was written; its name if it was not.
pub fn key_of<'a>(written: &'a Value, descriptor: &MessageDescriptor, name: &'a str) -> &'a str {
    let (Value::Object(members), Some(field)) = (written, descriptor.get_field_by_name(name)) else {
        return name;
    };
    let mut keys = members.iter().map(|(key, _)| key.as_str());
    keys.find(|key| *key == name || *key == field.json_name()).unwrap_or(name)
}

fn text_of(message: &DynamicMessage, name: &str) -> String {
    let value = message.get_field_by_name(name);
    value.as_ref().and_then(|value| value.as_str()).unwrap_or_default().to_owned()
}

/// Checks each step, and how they depend on each other. `faults` stands at the list of jobs.
pub fn check_steps(steps: &[Step<'_>], faults: &mut Faults) {
    let step_ids: Vec<String> = steps.iter().map(Step::step_id).collect();
    let mut first_with: HashMap<&str, usize> = HashMap::new();
    for (position, step) in steps.iter().enumerate() {
        let step_id = &step_ids[position];
        faults.element(step.index, |faults| {
            if !step_id.is_empty() {
                let first = *first_with.entry(step_id).or_insert(position);
                faults.member(step.key("step_id"), |faults| {
                    check_step_id(step_id, faults);
                    if first != position {
                        let index = steps[first].index;
                        faults.rule(format!("jobs[{index}] has this step_id too, each step needs its own"));
                    }
                });
            }
            check_job_type(step, faults);
            check_scheduling(step, faults);
            check_step_labels(step, faults);
        });
    }
    let prerequisites = check_prerequisites(steps, &step_ids, &first_with, faults);
    report_cycles(steps, &step_ids, &prerequisites, faults);
}

fn check_step_id(step_id: &str, faults: &mut Faults) {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let length = step_id.chars().count();
    if !(MIN_STEP_ID..=MAX_STEP_ID).contains(&length) {
        faults.rule(format!("a step_id has {MIN_STEP_ID} to {MAX_STEP_ID} characters, this one has {length}"));
    }
    if !step_id.bytes().all(is_legal) {
        faults.rule("a step_id has only letters a-z and A-Z, digits, '_' and '-'");
    }
    if step_id.starts_with(['_', '-']) || step_id.ends_with(['_', '-']) {
        faults.rule("a step_id neither begins nor ends with '_' or '-'");
    }
}

fn check_job_type(step: &Step<'_>, faults: &mut Faults) {
    let descriptor = step.message.descriptor();
    let Some(job_type) = descriptor.oneofs().find(|oneof| oneof.name() == "job_type") else {
        return;
    };
    if !is_given(step.written, &descriptor, &job_type) {
        let names: Vec<_> = job_type.fields().map(|field| field.name().to_owned()).collect();
        faults.rule(format!("the step has no job: one of {} is needed", names.join(", ")));
    }
}

/// Whether a member of the oneof was written, be it readable or not.
fn is_given(written: &Value, descriptor: &MessageDescriptor, oneof: &OneofDescriptor) -> bool {
    let Value::Object(members) = written else {
        return true;
    };
    let mut given = members.iter().filter(|(_, value)| !matches!(value, Value::Null));
    given
        .any(|(key, _)| field_named(descriptor, key).and_then(|field| field.containing_oneof()).as_ref() == Some(oneof))
}

/// A driver that is started again on failure would hide the failure from the workflow; the service refuses it there.
fn check_scheduling(step: &Step<'_>, faults: &mut Faults) {
    if !step.message.has_field_by_name("scheduling") {
        return;
    }
    let scheduling = step.message.get_field_by_name("scheduling");
    let Some(scheduling) = scheduling.as_ref().and_then(|value| value.as_message()) else {
        return;
    };
    let key = step.key("scheduling");
    let Some(written) = member(step.written, key) else {
        return;
    };
    for name in ["max_failures_per_hour", "max_failures_total"] {
        if scheduling.has_field_by_name(name) {
            faults.member(key, |faults| {
                faults.member(key_of(written, &scheduling.descriptor(), name), |faults| {
                    faults.rule("restartable jobs are not allowed in workflows");
                });
            });
        }
    }
}

fn check_step_labels(step: &Step<'_>, faults: &mut Faults) {
    let key = step.key("labels");
    if let Some(labels) = member(step.written, key) {
        faults.member(key, |faults| {
            check_labels(labels, faults);
            check_label_count(count(labels), faults);
        });
    }
}

fn member<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let Value::Object(members) = object else {
        return None;
    };
    members.iter().find(|(other, _)| other == key).map(|(_, value)| value)
}

/// The prerequisites of each step by position, without those that name no other step.
fn check_prerequisites(
    steps: &[Step<'_>],
    step_ids: &[String],
    first_with: &HashMap<&str, usize>,
    faults: &mut Faults,
) -> Vec<Vec<usize>> {
    let mut found = vec![Vec::new(); steps.len()];
    for (position, step) in steps.iter().enumerate() {
        for (index, prerequisite) in step.prerequisites().iter().enumerate() {
            let reason = if *prerequisite == step_ids[position] {
                "a step cannot wait for itself".to_owned()
            } else if let Some(other) = first_with.get(prerequisite.as_str()) {
                found[position].push(*other);
                continue;
            } else {
                format!("there is no step {:?}", excerpt(prerequisite))
            };
            faults.element(step.index, |faults| {
                faults.member(step.key("prerequisite_step_ids"), |faults| {
                    faults.element(index, |faults| faults.rule(reason));
                });
            });
        }
    }
    found
}

/// Names each cycle once, at its first step.
fn report_cycles(steps: &[Step<'_>], step_ids: &[String], prerequisites: &[Vec<usize>], faults: &mut Faults) {
    let stuck = steps_that_never_start(prerequisites);
    let mut visited = vec![false; steps.len()];
    for start in 0..steps.len() {
        // A step that never starts has a prerequisite that never starts: following them must come round.
        let mut walk = Vec::new();
        let mut here = start;
        while stuck[here] && !visited[here] {
            visited[here] = true;
            walk.push(here);
            here = prerequisites[here].iter().copied().find(|other| stuck[*other]).unwrap_or(here);
        }
        // A walk that ends in an earlier one found no cycle of its own.
        let Some(begin) = walk.iter().position(|step| *step == here) else {
            continue;
        };
        let mut cycle = walk.split_off(begin);
        let first = cycle.iter().enumerate().min_by_key(|(_, step)| **step).map_or(0, |(at, _)| at);
        cycle.rotate_left(first);
        let step = &steps[cycle[0]];
        faults.element(step.index, |faults| {
            faults.member(step.key("prerequisite_step_ids"), |faults| faults.rule(describe(&cycle, step_ids)));
        });
    }
}

/// Which steps wait, directly or not, for a cycle.
fn steps_that_never_start(prerequisites: &[Vec<usize>]) -> Vec<bool> {
    let mut dependants = vec![Vec::new(); prerequisites.len()];
    let mut waits_for: Vec<usize> = prerequisites.iter().map(Vec::len).collect();
    for (step, others) in prerequisites.iter().enumerate() {
        for other in others {
            dependants[*other].push(step);
        }
    }
    let mut stuck = vec![true; prerequisites.len()];
    let mut ready: Vec<usize> = (0..prerequisites.len()).filter(|step| waits_for[*step] == 0).collect();
    while let Some(step) = ready.pop() {
        stuck[step] = false;
        for dependant in &dependants[step] {
            waits_for[*dependant] -= 1;
            if waits_for[*dependant] == 0 {
                ready.push(*dependant);
            }
        }
    }
    stuck
}

fn describe(cycle: &[usize], step_ids: &[String]) -> String {
    const SHOWN: usize = 10;
    let mut names: Vec<String> = cycle.iter().take(SHOWN).map(|step| excerpt(&step_ids[*step])).collect();
    if cycle.len() > SHOWN {
        names.push("…".into());
    }
    names.push(excerpt(&step_ids[cycle[0]]));
    format!("the steps wait for each other: {}", names.join(" waits for "))
}

/// Checks keys and values of an object of labels, of a cluster or of a step. `faults` stands at the object.
pub fn check_labels(labels: &Value, faults: &mut Faults) {
    let Value::Object(members) = labels else {
        return;
    };
    for (key, value) in members {
        let Value::String(value) = value else {
            continue;
        };
        faults.entry(key, |faults| {
            if RUN_LABELS.contains(&key.as_str()) {
                faults.rule("every run sets this label itself");
            }
            if !key.starts_with(is_label_letter) || !is_label_text(key) {
                faults.rule(format!(
                    "a label's key begins with a lower-case letter, and has only these, digits, '_' and '-', at most {MAX_LABEL}"
                ));
            }
            if !is_label_text(value) {
                faults.rule(format!(
                    "a label's value has only lower-case letters, digits, '_' and '-', at most {MAX_LABEL}"
                ));
            }
        });
    }
}

/// Checks how many labels there are; `own` does not count those of the run.
pub fn check_label_count(own: usize, faults: &mut Faults) {
    let most = MAX_LABELS - RUN_LABELS.len();
    if own > most {
        faults.rule(format!("{own} labels, at most {most} are allowed beside the two of the run"));
    }
}

fn count(labels: &Value) -> usize {
    match labels {
        Value::Object(members) => members.iter().filter(|(key, _)| !RUN_LABELS.contains(&key.as_str())).count(),
        _ => 0,
    }
}

fn is_label_text(text: &str) -> bool {
    let is_legal = |character: char| is_label_letter(character) || character.is_numeric() || "_-".contains(character);
    text.chars().count() <= MAX_LABEL && text.chars().all(is_legal)
}

/// A lower-case letter, or one of a script without case.
fn is_label_letter(character: char) -> bool {
    character.is_alphabetic() && character.to_lowercase().eq([character])
}

/// Makes a text a legal label value: lower case, other characters become `_`, the rest is cut off.
pub fn label_value(text: &str) -> String {
    let legal = |character: char| match character.to_ascii_lowercase() {
        character @ ('a'..='z' | '0'..='9' | '_' | '-') => character,
        _ => '_',
    };
    text.chars().take(MAX_LABEL).map(legal).collect()
}

/// Checks the duration of the whole workflow. `faults` stands at it.
pub fn check_dag_timeout(timeout: &DynamicMessage, faults: &mut Faults) {
    let part = |name| timeout.get_field_by_name(name).map(|value| value.into_owned());
    let seconds = part("seconds").and_then(|value| value.as_i64()).unwrap_or_default();
    let nanos = part("nanos").and_then(|value| value.as_i32()).unwrap_or_default();
    if (seconds, nanos) < (MIN_DAG_TIMEOUT, 0) || (seconds, nanos) > (MAX_DAG_TIMEOUT, 0) {
        faults.rule(format!("a workflow's timeout is {MIN_DAG_TIMEOUT} s (10 minutes) to {MAX_DAG_TIMEOUT} s (a day)"));
    }
}
