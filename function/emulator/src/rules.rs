//! What the services refuse: names, labels, step ids, and the shape of a workflow template.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{DynamicMessage, Kind, ReflectMessage, Value};
use tonic::Status;

use crate::descriptor::{self, labels, message, messages, number, text, texts};

/// Annotated REQUIRED, but not asked for by the inline call: the service gives the template an id of its own.
const NOT_ASKED_FOR: &str = "google.cloud.dataproc.v1.WorkflowTemplate.id";

/// Names of Pub/Sub: `projects/P/KIND/NAME`, NAME of 3 to 255 characters, a letter first, not beginning with `goog`.
pub(crate) fn resource_name(name: &str, kind: &str) -> Result<(), Status> {
    let id = match name.split('/').collect::<Vec<_>>()[..] {
        ["projects", project, of, id] if !project.is_empty() && of == kind => id,
        _ => "",
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.~+%".contains(c);
    if (3..=255).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(legal)
        && !id.starts_with("goog")
    {
        Ok(())
    } else {
        Err(Status::invalid_argument(format!(
            "Invalid [{kind}] name: (name={name}), want projects/PROJECT/{kind}/NAME"
        )))
    }
}

/// Project and region of a `projects/P/regions/R`.
pub(crate) fn region(parent: &str) -> Option<(&str, &str)> {
    match parent.split('/').collect::<Vec<_>>()[..] {
        ["projects", project, "regions", region] if !project.is_empty() && !region.is_empty() => {
            Some((project, region))
        }
        _ => None,
    }
}

/// The checks of InstantiateInlineWorkflowTemplate.
///
/// # Errors
/// INVALID_ARGUMENT with the path of every fault.
pub(crate) fn check_instantiate(request: &DynamicMessage) -> Result<(), Status> {
    let mut faults = Vec::new();
    if region(text(request, "parent")).is_none() {
        faults.push("parent: must be projects/PROJECT/regions/REGION".to_owned());
    }
    let request_id = text(request, "request_id");
    if request_id.len() > 40 || !request_id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        faults
            .push(format!("request_id: '{request_id}' must have at most 40 letters, digits, underscores and hyphens"));
    }
    check_required(request, "", &mut faults);
    if let Some(template) = message(request, "template") {
        check_template(template, &mut faults);
    }
    match &faults[..] {
        [] => Ok(()),
        [fault] => Err(Status::invalid_argument(format!("Invalid value for field {fault}"))),
        many => {
            let list: String = many.iter().map(|fault| format!("\n - {fault}")).collect();
            Err(Status::invalid_argument(format!("Multiple validation errors:{list}")))
        }
    }
}

fn check_template(template: &DynamicMessage, faults: &mut Vec<String>) {
    let placed = |field| message(template, "placement").and_then(|placement| message(placement, field));
    match (placed("managed_cluster"), placed("cluster_selector")) {
        (Some(cluster), _) => {
            let name = text(cluster, "cluster_name");
            if !name.is_empty() && !is_cluster_name(name) {
                faults.push(format!(
                    "template.placement.managed_cluster.cluster_name: '{name}' must match [a-z][a-z0-9-]*, end with no \
                     hyphen and have 2 to 35 characters"
                ));
            }
            check_labels(cluster, "template.placement.managed_cluster.labels", faults);
        }
        (None, Some(_)) => faults.push("template.placement.cluster_selector: no cluster matches the labels".to_owned()),
        (None, None) => {
            faults.push("template.placement: a managed_cluster or a cluster_selector is required".to_owned())
        }
    }
    check_labels(template, "template.labels", faults);
    if let Some(timeout) = message(template, "dag_timeout") {
        let seconds = number(timeout, "seconds");
        let nanos = number(timeout, "nanos");
        // 10 minutes to 24 hours.
        if !(600..=86_400).contains(&seconds) || (seconds == 86_400 && nanos > 0) {
            faults.push(format!("template.dag_timeout: {seconds} s is not between 600 s and 86400 s"));
        }
    }
    check_jobs(&messages(template, "jobs").collect::<Vec<_>>(), faults);
}

fn check_jobs(jobs: &[&DynamicMessage], faults: &mut Vec<String>) {
    let mut prerequisites = BTreeMap::new();
    for (at, job) in jobs.iter().enumerate() {
        let path = format!("template.jobs[{at}]");
        let step = text(job, "step_id");
        if !step.is_empty() && !is_step_id(step) {
            faults.push(format!(
                "{path}.step_id: '{step}' must have 3 to 50 letters, digits, underscores and hyphens, and neither begin nor \
                 end with an underscore or hyphen"
            ));
        }
        if prerequisites.insert(step, texts(job, "prerequisite_step_ids")).is_some() {
            faults.push(format!("{path}.step_id: '{step}' is not unique"));
        }
        if descriptor::of_oneof(job).is_none() {
            faults.push(format!("{path}: a job type is required"));
        }
        check_labels(job, &format!("{path}.labels"), faults);
        if let Some(scheduling) = message(job, "scheduling") {
            for field in ["max_failures_per_hour", "max_failures_total"] {
                if number(scheduling, field) != 0 {
                    faults.push(format!("{path}.scheduling.{field}: not supported in workflow templates"));
                }
            }
        }
    }
    for (at, job) in jobs.iter().enumerate() {
        for (nth, prerequisite) in texts(job, "prerequisite_step_ids").into_iter().enumerate() {
            if !prerequisites.contains_key(prerequisite) {
                faults.push(format!(
                    "template.jobs[{at}].prerequisite_step_ids[{nth}]: there is no step '{prerequisite}'"
                ));
            }
        }
    }
    if let Some(step) = in_a_cycle(&prerequisites) {
        faults.push(format!("template.jobs: the prerequisites of step '{step}' form a cycle"));
    }
}

/// A step that can never start, if there is one: takes away what can start until nothing changes.
fn in_a_cycle<'a>(prerequisites: &BTreeMap<&'a str, Vec<&'a str>>) -> Option<&'a str> {
    let mut waits_for: BTreeMap<&str, usize> = BTreeMap::new();
    let mut dependants: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (step, of_step) in prerequisites {
        let known = of_step.iter().copied().filter(|it| prerequisites.contains_key(it)).collect::<BTreeSet<_>>();
        waits_for.insert(step, known.len());
        for prerequisite in known {
            dependants.entry(prerequisite).or_default().push(step);
        }
    }
    let mut ready: Vec<&str> = waits_for.iter().filter(|(_, count)| **count == 0).map(|(step, _)| *step).collect();
    while let Some(step) = ready.pop() {
        waits_for.remove(step);
        for dependant in dependants.get(step).into_iter().flatten() {
            if let Some(count) = waits_for.get_mut(dependant) {
                *count -= 1;
                if *count == 0 {
                    ready.push(dependant);
                }
            }
        }
    }
    let left = waits_for.into_keys().next()?;
    prerequisites.get_key_value(left).map(|(step, _)| *step)
}

fn check_required(message: &DynamicMessage, path: &str, faults: &mut Vec<String>) {
    for field in message.descriptor().fields() {
        let path = if path.is_empty() { field.name().to_owned() } else { format!("{path}.{}", field.name()) };
        if !message.has_field(&field) {
            let asked_for = descriptor::is_required(field.full_name()) && field.full_name() != NOT_ASKED_FOR;
            // A member of a oneof is required only where it was chosen, and a 0 cannot be told from nothing.
            let tells = field.is_list() || field.is_map() || matches!(field.kind(), Kind::String | Kind::Message(_));
            if asked_for && tells && field.containing_oneof().is_none() {
                faults.push(format!("{path}: required"));
            }
            continue;
        }
        match message.get_field(&field).as_ref() {
            Value::Message(inner) => check_required(inner, &path, faults),
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    if let Value::Message(inner) = item {
                        check_required(inner, &format!("{path}[{at}]"), faults);
                    }
                }
            }
            _ => {}
        }
    }
}

/// At most 32; keys begin with a lower-case letter, both have lower-case letters (international ones too), digits, `_`, `-`.
fn check_labels(owner: &DynamicMessage, path: &str, faults: &mut Vec<String>) {
    let labels = labels(owner);
    if labels.len() > 32 {
        faults.push(format!("{path}: {} labels, at most 32 are allowed", labels.len()));
    }
    let legal = |c: char| (c.is_alphabetic() && !c.is_uppercase()) || c.is_numeric() || c == '_' || c == '-';
    for (key, value) in labels {
        let first = key.chars().next().is_some_and(|c| c.is_alphabetic() && !c.is_uppercase());
        if !first || key.chars().count() > 63 || !key.chars().all(legal) {
            faults.push(format!("{path}[\"{key}\"]: not a legal label key"));
        }
        if value.chars().count() > 63 || !value.chars().all(legal) {
            faults.push(format!("{path}[\"{key}\"]: '{value}' is not a legal label value"));
        }
    }
}

fn is_cluster_name(name: &str) -> bool {
    (2..=35).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.ends_with('-')
}

fn is_step_id(id: &str) -> bool {
    (3..=50).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        && !id.starts_with(['_', '-'])
        && !id.ends_with(['_', '-'])
}
