//! How a workflow's end is read from its operation, its graph and its jobs.

use gcloud_sdk::{
    google::{
        cloud::dataproc::v1::{
            ClusterOperation, Job, JobStatus, WorkflowGraph, WorkflowMetadata, WorkflowNode, job_status,
            workflow_metadata::State, workflow_node::NodeState,
        },
        longrunning::{Operation, operation},
        rpc::Status,
    },
    prost::Message,
    prost_types::{Any, Timestamp},
    tonic::Code,
};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use inline_workflow::outcome::{ClusterState, Evidence, JobFacts, Outcome, Shortage, Step, observe, shortage};

fn node(step_id: &str, prerequisites: &[&str], state: NodeState, error: &str) -> WorkflowNode {
    WorkflowNode {
        step_id: step_id.to_owned(),
        prerequisite_step_ids: prerequisites.iter().map(|id| (*id).to_owned()).collect(),
        job_id: match state {
            NodeState::Running | NodeState::Completed | NodeState::Failed => format!("{step_id}-job"),
            _ => String::new(),
        },
        state: state.into(),
        error: error.to_owned(),
    }
}

fn without_job(node: WorkflowNode) -> WorkflowNode {
    WorkflowNode { job_id: String::new(), ..node }
}

fn metadata(nodes: Vec<WorkflowNode>) -> WorkflowMetadata {
    let done = || Some(ClusterOperation { done: true, ..Default::default() });
    WorkflowMetadata {
        create_cluster: done(),
        delete_cluster: done(),
        graph: Some(WorkflowGraph { nodes }),
        state: State::Done.into(),
        cluster_name: "c-0123456789ab-1-x".to_owned(),
        ..Default::default()
    }
}

fn ended(metadata: WorkflowMetadata, error: Option<(Code, &str)>) -> Operation {
    Operation {
        name: "projects/p/regions/r/operations/o".to_owned(),
        metadata: Some(Any { value: metadata.encode_to_vec(), ..Default::default() }),
        done: true,
        result: Some(match error {
            None => operation::Result::Response(Any::default()),
            Some((code, message)) => operation::Result::Error(Status {
                code: code.into(),
                message: message.to_owned(),
                ..Default::default()
            }),
        }),
    }
}

fn job(state: job_status::State, details: &str, at: i64) -> Job {
    Job {
        status: Some(JobStatus {
            state: state.into(),
            details: details.to_owned(),
            state_start_time: Some(Timestamp { seconds: at, nanos: 0 }),
            ..Default::default()
        }),
        driver_output_resource_uri: "gs://b/driveroutput".to_owned(),
        ..Default::default()
    }
}

fn conclude(operation: &Operation, jobs: &[(&str, Job)], cancel_sent: bool) -> (Outcome, Vec<Step>) {
    let jobs = jobs.iter().map(|(id, job)| ((*id).to_owned(), JobFacts::of(job.clone(), 1))).collect();
    let request = RawValue::NULL;
    observe(operation).conclude(&Evidence { jobs: &jobs, cancel_sent, step_count: 0, request })
}

fn causes(steps: &[Step]) -> Vec<(&str, Option<bool>)> {
    steps.iter().map(|step| (step.step_id.as_str(), step.root_cause)).collect()
}

#[test]
fn all_completed_is_success() {
    let operation = ended(
        metadata(vec![node("one", &[], NodeState::Completed, ""), node("two", &["one"], NodeState::Completed, "")]),
        None,
    );
    let (outcome, steps) = conclude(&operation, &[("one-job", job(job_status::State::Done, "", 1))], false);
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(steps[0].driver_output_uri.as_deref(), Some("gs://b/driveroutput"));
    assert_eq!(causes(&steps), [("one", None), ("two", None)]);
}

#[test]
fn a_failed_node_is_a_failure_though_the_operation_claims_success() {
    let operation = ended(
        metadata(vec![
            node("one", &[], NodeState::Completed, ""),
            node("two", &["one"], NodeState::Failed, "Job failed"),
            without_job(node("three", &["two"], NodeState::Failed, "prerequisite failed")),
        ]),
        None,
    );
    let details = "File not found: gs://b/x.py";
    let (outcome, steps) = conclude(&operation, &[("two-job", job(job_status::State::Error, details, 1))], false);
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.step_id.as_deref(), Some("two"));
    assert!(failure.message.contains(details), "{failure:?}");
    assert_eq!(causes(&steps), [("one", None), ("two", Some(true)), ("three", Some(false))]);
}

#[test]
fn a_peer_that_was_cancelled_with_the_rest_is_not_the_cause() {
    let operation = ended(
        metadata(vec![
            node("slow", &[], NodeState::Failed, "cancelled"),
            node("broken", &[], NodeState::Failed, "exit 1"),
            without_job(node("never", &[], NodeState::Failed, "not started")),
        ]),
        Some((Code::Aborted, "Workflow failed")),
    );
    let jobs = [
        ("slow-job", job(job_status::State::Cancelled, "", 2)),
        ("broken-job", job(job_status::State::Error, "exit 1", 1)),
    ];
    let (outcome, steps) = conclude(&operation, &jobs, false);
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.step_id.as_deref(), Some("broken"));
    assert_eq!(failure.code, "ABORTED");
    assert_eq!(causes(&steps), [("slow", Some(false)), ("broken", Some(true)), ("never", Some(false))]);
}

#[test]
fn of_several_causes_the_first_in_time_is_named() {
    let operation = ended(
        metadata(vec![node("late", &[], NodeState::Failed, "late"), node("early", &[], NodeState::Failed, "early")]),
        None,
    );
    let jobs =
        [("late-job", job(job_status::State::Error, "", 20)), ("early-job", job(job_status::State::Error, "", 10))];
    let (outcome, steps) = conclude(&operation, &jobs, false);
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.step_id.as_deref(), Some("early"));
    assert_eq!(causes(&steps), [("late", Some(true)), ("early", Some(true))]);
}

#[test]
fn a_cluster_that_was_not_deleted_is_a_failure() {
    let mut metadata = metadata(vec![node("one", &[], NodeState::Completed, "")]);
    metadata.delete_cluster =
        Some(ClusterOperation { error: "permission denied".to_owned(), done: true, ..Default::default() });
    let operation = ended(metadata, None);
    assert_eq!(observe(&operation).delete_error(), Some("permission denied"));
    let cluster = observe(&operation).progress.cluster.unwrap();
    assert_eq!(cluster.error.as_deref(), Some("not deleted: permission denied"));
    let (outcome, _) = conclude(&operation, &[], false);
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert!(failure.message.contains("was not deleted"), "{failure:?}");
}

#[test]
fn a_cluster_that_was_not_created_blames_no_step() {
    let mut metadata = metadata(vec![without_job(node("one", &[], NodeState::Failed, "no cluster"))]);
    metadata.create_cluster =
        Some(ClusterOperation { error: "bad image".to_owned(), done: true, ..Default::default() });
    let (outcome, steps) = conclude(&ended(metadata, Some((Code::Internal, "failed"))), &[], false);
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.step_id, None);
    assert!(failure.message.contains("bad image"), "{failure:?}");
    assert_eq!(causes(&steps), [("one", Some(false))]);
}

#[test]
fn cancelled_is_told_from_failed() {
    let cancelled = ended(
        metadata(vec![node("one", &[], NodeState::Failed, "cancelled")]),
        Some((Code::Cancelled, "Operation cancelled")),
    );
    assert!(matches!(conclude(&cancelled, &[], false).0, Outcome::Cancelled(_)));
    // DONE means completed or cancelled, and a step that never ran was not completed.
    let silent = ended(metadata(vec![node("one", &[], NodeState::Runnable, "")]), None);
    assert!(matches!(conclude(&silent, &[], false).0, Outcome::Cancelled(_)));
    let asked = ended(metadata(vec![node("one", &[], NodeState::Failed, "x")]), None);
    assert!(matches!(conclude(&asked, &[], true).0, Outcome::Cancelled(_)));
    // The end was faster than the cancel.
    let done = ended(metadata(vec![node("one", &[], NodeState::Completed, "")]), None);
    assert_eq!(conclude(&done, &[], true).0, Outcome::Succeeded);
}

#[test]
fn want_of_capacity_counts_only_before_the_first_job() {
    let quota = "Insufficient 'N2_CPUS' quota. Requested 48.0, available 24.0.";
    let before =
        ended(metadata(vec![without_job(node("one", &[], NodeState::Failed, ""))]), Some((Code::Aborted, quota)));
    assert!(matches!(conclude(&before, &[], false).0, Outcome::NoCapacity { stockout: false, .. }));
    let after = ended(metadata(vec![node("one", &[], NodeState::Failed, quota)]), Some((Code::Aborted, quota)));
    assert!(matches!(conclude(&after, &[], false).0, Outcome::Failed(_)));
    let mut stockout = metadata(vec![]);
    stockout.create_cluster = Some(ClusterOperation {
        error: "ZONE_RESOURCE_POOL_EXHAUSTED: The zone does not have enough resources available".to_owned(),
        done: true,
        ..Default::default()
    });
    let operation = ended(stockout, Some((Code::Unavailable, "")));
    assert!(matches!(conclude(&operation, &[], false).0, Outcome::NoCapacity { stockout: true, .. }));
}

#[test]
fn shortages_are_recognised_by_their_texts() {
    let quota = "Multiple validation errors:\n - Insufficient 'CPUS' quota. Requested 12.0, available 4.0.";
    let told = |text: &str, request: &str| shortage(text, &RawValue::from_string(request.to_owned()).unwrap());
    for (text, expected) in [
        (quota, Some(Shortage::Quota)),
        ("The zone 'z' does not have enough resources available to fulfill the request.", Some(Shortage::Stockout)),
        ("code: ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", Some(Shortage::Stockout)),
        ("Insufficient 'x' privileges, see quota", None),
        ("Insufficient 'no metric' quota", None),
        ("job stockout-timeout: STOCKOUT, stockout", None),
        ("File not found: gs://b/stockout/m.py", None),
        ("MY_ZONE_RESOURCE_POOL_EXHAUSTED", None),
    ] {
        assert_eq!(told(text, "null"), expected, "{text}");
    }
    // What the text quotes from the request, whole or in part, says nothing.
    let request = r#"{"jobs": [{"a": "gs://b/ZONE_RESOURCE_POOL_EXHAUSTED/Insufficient 'CPUS' quota"}]}"#;
    for quoted in [
        "no file gs://b/ZONE_RESOURCE_POOL_EXHAUSTED/Insufficient 'CPUS' quota",
        "no file b/ZONE_RESOURCE_POOL_EXHAUSTED",
        "invalid: Insufficient 'CPUS' quota",
    ] {
        assert_eq!(told(quoted, request), None, "{quoted}");
    }
    assert_eq!(
        told("gs://b/ZONE_RESOURCE_POOL_EXHAUSTED: Insufficient 'N2_CPUS' quota", request),
        Some(Shortage::Quota)
    );
}

#[test]
fn an_operation_that_tells_of_fewer_steps_than_the_template_has_is_no_success() {
    let judge = |operation: &Operation, step_count| {
        let evidence = Evidence { jobs: &BTreeMap::new(), cancel_sent: false, step_count, request: RawValue::NULL };
        observe(operation).conclude(&evidence).0
    };
    let whole = ended(metadata(vec![node("one", &[], NodeState::Completed, "")]), None);
    assert_eq!(judge(&whole, 1), Outcome::Succeeded);
    let without = Operation { metadata: None, ..whole.clone() };
    let unreadable =
        Operation { metadata: Some(Any { value: b"\xff\xff".to_vec(), ..Default::default() }), ..whole.clone() };
    for (operation, steps) in [(&whole, 2), (&without, 1), (&unreadable, 1)] {
        let outcome = judge(operation, steps);
        let Outcome::Failed(failure) = &outcome else { panic!("{outcome:?}") };
        assert_eq!(failure.code, "DATA_LOSS");
    }
}

#[test]
fn progress_tells_one_state_from_another_and_nothing_else() {
    let mut running = metadata(vec![node("one", &[], NodeState::Running, "")]);
    running.delete_cluster = None;
    running.state = State::Running.into();
    let operation = Operation { done: false, result: None, ..ended(running, None) };
    let observation = observe(&operation);
    let cluster = observation.progress.cluster.clone().unwrap();
    assert_eq!(cluster.state, Some(ClusterState::Running));
    assert_eq!(observation.progress.digest(1), observe(&operation).progress.digest(1));
    assert_ne!(observation.progress.digest(1), observation.progress.digest(2));
}

#[test]
fn metadata_of_another_kind_is_no_progress() {
    let operation = Operation {
        metadata: Some(Any { value: b"\xff\xff\xff".to_vec(), ..Default::default() }),
        ..Default::default()
    };
    let observation = observe(&operation);
    assert!(observation.cluster_name.is_empty() && observation.progress.steps.is_empty());
}

#[test]
fn endless_errors_leave_room_for_the_event_that_tells_them() {
    // What JSON writes longest: six bytes for one.
    let endless = "\u{1}".repeat(100_000);
    let nodes = (0..500).map(|index| node(&format!("step-{index}"), &[], NodeState::Failed, &endless)).collect();
    let workflow = WorkflowMetadata {
        delete_cluster: Some(ClusterOperation { error: endless.clone(), ..Default::default() }),
        ..metadata(nodes)
    };
    let operation = ended(workflow, Some((Code::Aborted, &endless)));
    let (outcome, steps) = conclude(&operation, &[("step-1-job", job(job_status::State::Error, &endless, 1))], false);
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert!(failure.message.starts_with('\u{1}') && failure.message.ends_with('…'));
    let told = serde_json::json!([failure, steps, observe(&operation).progress.cluster]).to_string();
    assert!(told.len() < 9_000_000, "{} bytes", told.len());
}
