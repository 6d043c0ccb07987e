//! Workflows through the generated clients, in memory and in paused time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod support;

use std::time::Duration;

use gcloud_sdk::google::cloud::dataproc::v1 as proto;
use gcloud_sdk::google::cloud::dataproc::v1::job_controller_client::JobControllerClient;
use gcloud_sdk::google::cloud::dataproc::v1::workflow_metadata::State;
use gcloud_sdk::google::cloud::dataproc::v1::workflow_template_service_client::WorkflowTemplateServiceClient;
use gcloud_sdk::google::longrunning::operation::Result as Ended;
use gcloud_sdk::google::longrunning::operations_client::OperationsClient;
use gcloud_sdk::google::longrunning::{CancelOperationRequest, ListOperationsRequest, Operation};
use inline_workflow_emulator::{
    DataprocOptions, Emulator, Options, Outcome, Phase, Quota, RepeatedRequestId, Trouble, When,
};
use prost::Message;
use support::{PARENT, channel, end, get, metadata, request, states, step};
use tonic::transport::Channel;
use tonic::{Code, Status};

struct World {
    emulator: Emulator,
    channel: Channel,
}

fn world() -> World {
    let emulator = Emulator::new(Options::default());
    let channel = channel(&emulator);
    World { emulator, channel }
}

impl World {
    async fn instantiate(&self, request: proto::InstantiateInlineWorkflowTemplateRequest) -> Result<Operation, Status> {
        let mut client = WorkflowTemplateServiceClient::new(self.channel.clone());
        client.instantiate_inline_workflow_template(request).await.map(tonic::Response::into_inner)
    }

    async fn list(&self, filter: &str, page_size: i32, page_token: &str) -> (Vec<String>, String) {
        let request = ListOperationsRequest {
            name: format!("{PARENT}/operations"),
            filter: filter.to_owned(),
            page_size,
            page_token: page_token.to_owned(),
            ..ListOperationsRequest::default()
        };
        let answer = OperationsClient::new(self.channel.clone()).list_operations(request).await.unwrap().into_inner();
        (answer.operations.into_iter().map(|it| it.name).collect(), answer.next_page_token)
    }

    async fn job(&self, job_id: &str) -> Result<proto::Job, Status> {
        let request = proto::GetJobRequest {
            project_id: "p".to_owned(),
            region: "us-central1".to_owned(),
            job_id: job_id.to_owned(),
        };
        JobControllerClient::new(self.channel.clone()).get_job(request).await.map(tonic::Response::into_inner)
    }
}

/// All pages of a list of jobs, newest first, and how many pages there were.
async fn jobs(world: &World, filter: &str, page_size: i32) -> (Vec<proto::Job>, usize) {
    let mut request = proto::ListJobsRequest {
        project_id: "p".to_owned(),
        region: "us-central1".to_owned(),
        filter: filter.to_owned(),
        page_size,
        ..proto::ListJobsRequest::default()
    };
    let (mut jobs, mut pages) = (Vec::new(), 0);
    loop {
        let mut client = JobControllerClient::new(world.channel.clone());
        let answer = client.list_jobs(request.clone()).await.unwrap().into_inner();
        jobs.extend(answer.jobs);
        pages += 1;
        if answer.next_page_token.is_empty() {
            return (jobs, pages);
        }
        request.page_token = answer.next_page_token;
    }
}

fn error(operation: &Operation) -> (Code, String) {
    match operation.result.as_ref().unwrap() {
        Ended::Error(status) => (Code::from_i32(status.code), status.message.clone()),
        Ended::Response(_) => panic!("the operation succeeded"),
    }
}

fn named(states: &[(&str, &str)]) -> Vec<(String, String)> {
    states.iter().map(|(step, state)| ((*step).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_workflow_creates_its_cluster_runs_its_steps_and_deletes_it() {
    let world = world();
    let begun = world.instantiate(request(vec![step("one", &[]), step("two", &["one"])])).await.unwrap();
    assert!(!begun.done);
    assert_eq!(metadata(&begun).state(), State::Pending);
    assert!(metadata(&begun).cluster_name.starts_with("word-count-"));
    assert_eq!(states(&begun), named(&[("one", "RUNNABLE"), ("two", "BLOCKED")]));

    tokio::time::sleep(Duration::from_secs(2)).await;
    let creating = metadata(&get(&world.channel, &begun.name).await);
    assert_eq!(creating.state(), State::Running);
    assert!(!creating.create_cluster.as_ref().unwrap().done && !creating.cluster_uuid.is_empty());

    tokio::time::sleep(Duration::from_secs(92)).await;
    let running = get(&world.channel, &begun.name).await;
    assert_eq!(states(&running), named(&[("one", "RUNNING"), ("two", "BLOCKED")]));
    let job_id = metadata(&running).graph.unwrap().nodes[0].job_id.clone();
    assert!(job_id.starts_with("one-"));
    let job = world.job(&job_id).await.unwrap();
    assert_eq!(job.status.as_ref().unwrap().state(), proto::job_status::State::Running);
    let uuid = metadata(&running).cluster_uuid;
    assert_eq!(
        job.driver_output_resource_uri,
        format!("gs://cluster-staging/google-cloud-dataproc-metainfo/{uuid}/jobs/{job_id}/driveroutput")
    );

    let ended = end(&world.channel, &begun.name).await;
    assert!(matches!(ended.result, Some(Ended::Response(_))));
    let ended = metadata(&ended);
    assert_eq!(ended.state(), State::Done);
    assert!(ended.delete_cluster.unwrap().done && ended.end_time.is_some());
    assert!(world.job(&job_id).await.unwrap().done);
    assert_eq!(world.job("none").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn branches_run_beside_each_other_and_join() {
    let world = world();
    world.emulator.step_takes("left", Duration::from_secs(60));
    let jobs =
        vec![step("root", &[]), step("left", &["root"]), step("right", &["root"]), step("join", &["left", "right"])];
    let name = world.instantiate(request(jobs)).await.unwrap().name;
    tokio::time::sleep(Duration::from_secs(1 + 90 + 21 + 30)).await;
    let half = get(&world.channel, &name).await;
    let expected = [("root", "COMPLETED"), ("left", "RUNNING"), ("right", "COMPLETED"), ("join", "BLOCKED")];
    assert_eq!(states(&half), named(&expected));
    let ended = end(&world.channel, &name).await;
    assert!(states(&ended).iter().all(|(_, state)| state == "COMPLETED"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_script_fails_its_step_its_dependants_and_the_workflow() {
    let world = world();
    world.emulator.put_object("scripts", "first.py", "pass");
    let jobs =
        vec![step("first", &[]), step("second", &["first"]), step("third", &["second"]), step("fourth", &["third"])];
    let name = world.instantiate(request(jobs)).await.unwrap().name;
    let ended = end(&world.channel, &name).await;
    assert_eq!(error(&ended).0, Code::Aborted);
    let nodes = metadata(&ended).graph.unwrap().nodes;
    let expected = [("first", "COMPLETED"), ("second", "FAILED"), ("third", "FAILED"), ("fourth", "FAILED")];
    assert_eq!(states(&ended), named(&expected));
    assert!(nodes[1].error.contains("File not found : gs://scripts/second.py"), "{}", nodes[1].error);
    assert!(nodes[2].error.contains("prerequisite step 'second'"), "{}", nodes[2].error);
    assert!(nodes[3].error.contains("prerequisite step 'third'") && nodes[3].job_id.is_empty());
    let status = world.job(&nodes[1].job_id).await.unwrap().status.unwrap();
    assert_eq!(status.state(), proto::job_status::State::Error);
    assert_eq!(status.details, nodes[1].error);
    assert!(metadata(&ended).delete_cluster.unwrap().done);
}

#[tokio::test(start_paused = true)]
async fn a_failure_cancels_the_jobs_beside_it() {
    let world = world();
    world.emulator.on_step("bad", Outcome::Fail("boom".to_owned()));
    world.emulator.on_step("good", Outcome::Hang);
    let name = world.instantiate(request(vec![step("bad", &[]), step("good", &[])])).await.unwrap().name;
    let nodes = metadata(&end(&world.channel, &name).await).graph.unwrap().nodes;
    assert!(nodes[0].error.contains("Job failed with message [boom]"));
    let beside = world.job(&nodes[1].job_id).await.unwrap().status.unwrap();
    assert_eq!(beside.state(), proto::job_status::State::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn the_operation_can_claim_success_although_a_step_failed() {
    let world = world();
    world.emulator.on_step("bad", Outcome::Fail(String::new()));
    world.emulator.mishap(Trouble::SuccessDespiteFailure, When::Times(1));
    let name = world.instantiate(request(vec![step("bad", &[])])).await.unwrap().name;
    let ended = end(&world.channel, &name).await;
    assert!(matches!(ended.result, Some(Ended::Response(_))));
    assert_eq!(states(&ended), named(&[("bad", "FAILED")]));
    // It was for one workflow only.
    let name = world.instantiate(request(vec![step("bad", &[])])).await.unwrap().name;
    assert_eq!(error(&end(&world.channel, &name).await).0, Code::Aborted);
}

#[tokio::test(start_paused = true)]
async fn troubles_of_the_cluster() {
    let world = world();
    for (trouble, code, text) in [
        (Trouble::Stockout, Code::Unavailable, "ZONE_RESOURCE_POOL_EXHAUSTED"),
        (Trouble::QuotaAtCreation, Code::Aborted, "Insufficient 'N2_CPUS' quota"),
        (Trouble::CreateFails("no network".to_owned()), Code::Internal, "no network"),
    ] {
        world.emulator.mishap(trouble, When::Times(1));
        let name = world.instantiate(request(vec![step("one", &[])])).await.unwrap().name;
        let ended = end(&world.channel, &name).await;
        let (is, message) = error(&ended);
        assert_eq!(is, code);
        assert!(message.contains(text), "{message}");
        let create = metadata(&ended).create_cluster.unwrap();
        assert!(create.done && create.error.contains(text));
        assert_eq!(states(&ended), named(&[("one", "RUNNABLE")]));
    }

    world.emulator.mishap(Trouble::QuotaRefused, When::Times(1));
    let refused = world.instantiate(request(vec![step("one", &[])])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("Insufficient 'CPUS' quota. Requested 12.0, available 4.0."));

    world.emulator.mishap_for("word", Trouble::DeleteFails("stuck".to_owned()), When::Always);
    let name = world.instantiate(request(vec![step("one", &[])])).await.unwrap().name;
    assert_eq!(metadata(&end(&world.channel, &name).await).delete_cluster.unwrap().error, "stuck");
}

#[tokio::test(start_paused = true)]
async fn a_missing_initialization_action_fails_the_creation() {
    let world = world();
    world.emulator.create_bucket("scripts");
    let mut request = request(vec![step("one", &[])]);
    let template = request.template.as_mut().unwrap();
    let Some(proto::workflow_template_placement::Placement::ManagedCluster(cluster)) =
        &mut template.placement.as_mut().unwrap().placement
    else {
        unreachable!("the request has a managed cluster")
    };
    cluster.config.as_mut().unwrap().initialization_actions.push(proto::NodeInitializationAction {
        executable_file: "gs://scripts/setup.sh".to_owned(),
        execution_timeout: None,
    });
    let name = world.instantiate(request).await.unwrap().name;
    let create = metadata(&end(&world.channel, &name).await).create_cluster.unwrap();
    assert!(create.error.contains("gs://scripts/setup.sh"), "{}", create.error);
}

#[tokio::test(start_paused = true)]
async fn cancel_in_every_phase() {
    let world = world();
    for (wait, phase) in
        [(0, Phase::Pending), (5, Phase::Creating), (100, Phase::Running), (115, Phase::Deleting), (500, Phase::Done)]
    {
        let name = world.instantiate(request(vec![step("one", &[])])).await.unwrap().name;
        tokio::time::sleep(Duration::from_secs(wait)).await;
        assert_eq!(world.emulator.workflows().last().unwrap().phase, phase);
        let cancel = CancelOperationRequest { name: name.clone() };
        for _ in 0..2 {
            OperationsClient::new(world.channel.clone()).cancel_operation(cancel.clone()).await.unwrap();
        }
        let ended = end(&world.channel, &name).await;
        assert_eq!(metadata(&ended).state(), State::Done);
        if phase == Phase::Done {
            assert!(matches!(ended.result, Some(Ended::Response(_))));
        } else {
            assert_eq!(error(&ended).0, Code::Cancelled, "{phase:?}");
        }
        if phase == Phase::Running {
            let node = &metadata(&ended).graph.unwrap().nodes[0];
            let job = world.job(&node.job_id).await.unwrap();
            assert_eq!(job.status.unwrap().state(), proto::job_status::State::Cancelled);
        }
    }
    let cancel = CancelOperationRequest { name: format!("{PARENT}/operations/none") };
    let unknown = OperationsClient::new(world.channel.clone()).cancel_operation(cancel).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn dag_timeout_ends_the_workflow() {
    let world = world();
    world.emulator.on_step("one", Outcome::Hang);
    let mut request = request(vec![step("one", &[])]);
    request.template.as_mut().unwrap().dag_timeout = Some(prost_types::Duration { seconds: 600, nanos: 0 });
    let name = world.instantiate(request).await.unwrap().name;
    let ended = end(&world.channel, &name).await;
    assert_eq!(error(&ended).0, Code::DeadlineExceeded);
    let metadata = metadata(&ended);
    let span = metadata.dag_end_time.unwrap().seconds - metadata.dag_start_time.unwrap().seconds;
    assert_eq!(span, 600);
}

#[tokio::test(start_paused = true)]
async fn lists_are_filtered_paged_and_newest_first() {
    let world = world();
    let mut names = Vec::new();
    for _ in 0..5 {
        names.insert(0, world.instantiate(request(vec![step("one", &[])])).await.unwrap().name);
    }
    end(&world.channel, &names[4]).await;
    names.insert(0, world.instantiate(request(vec![step("one", &[])])).await.unwrap().name);

    assert_eq!(world.list("", 0, "").await, (names.clone(), String::new()));
    let active = "status.state = ACTIVE AND operationType = WORKFLOW";
    assert_eq!(world.list(active, 0, "").await.0, [names[0].clone()]);
    assert_eq!(world.list("status.state = DONE", 0, "").await.0, names[1..]);
    assert_eq!(world.list("operationType = CREATE", 0, "").await.0, Vec::<String>::new());
    let cluster = world.emulator.workflows()[2].cluster_name.clone();
    assert_eq!(world.list(&format!("clusterName = {cluster}"), 0, "").await.0, [names[3].clone()]);

    let (first, token) = world.list("", 4, "").await;
    assert_eq!(first, names[..4]);
    assert_eq!(world.list("", 4, &token).await, (names[4..].to_vec(), String::new()));
    world.emulator.dataproc_options(|options| options.operations_page = 1);
    assert_eq!(world.list("", 4, "").await.0.len(), 1);

    assert!(world.emulator.forget_operation(&names[1]));
    world.emulator.dataproc_options(|options| options.operations_page = 1000);
    assert!(!world.list("", 0, "").await.0.contains(&names[1]));
}

#[tokio::test(start_paused = true)]
async fn a_repeated_request_id_is_answered_as_configured() {
    let world = world();
    let request = proto::InstantiateInlineWorkflowTemplateRequest {
        request_id: "same".to_owned(),
        ..request(vec![step("one", &[])])
    };
    let first = world.instantiate(request.clone()).await.unwrap().name;
    assert_eq!(world.instantiate(request.clone()).await.unwrap().name, first);
    world.emulator.dataproc_options(|options| options.repeat_while_running = RepeatedRequestId::AlreadyExists);
    assert_eq!(world.instantiate(request.clone()).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(world.emulator.most_alive(|workflow| workflow.request_id.clone())["same"], 1);

    world.emulator.dataproc_options(|options| options.repeat_while_running = RepeatedRequestId::SecondWorkflow);
    let second = world.instantiate(request.clone()).await.unwrap().name;
    assert_ne!(second, first);
    assert_eq!(world.emulator.most_alive(|workflow| workflow.request_id.clone())["same"], 2);

    end(&world.channel, &second).await;
    let third = world.instantiate(request.clone()).await.unwrap().name;
    assert!(third != second && third != first);
    end(&world.channel, &third).await;
    world.emulator.dataproc_options(|options| options.repeat_after_end = RepeatedRequestId::SameOperation);
    assert_eq!(world.instantiate(request).await.unwrap().name, third);
    assert_eq!(world.emulator.most_alive(|workflow| workflow.request_id.clone())["same"], 2);
}

#[tokio::test(start_paused = true)]
async fn the_cluster_can_be_hidden_while_pending() {
    let world = world();
    world.emulator.dataproc_options(|options| options.hide_pending_cluster = true);
    let begun = world.instantiate(request(vec![step("one", &[])])).await.unwrap();
    assert_eq!(metadata(&begun).cluster_name, "");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(metadata(&get(&world.channel, &begun.name).await).cluster_name.starts_with("word-count-"));
}

#[tokio::test(start_paused = true)]
async fn the_request_is_kept_to_the_last_byte() {
    let world = world();
    let request = request(vec![step("one", &[])]);
    world.instantiate(request.clone()).await.unwrap();
    let workflow = &world.emulator.workflows()[0];
    assert_eq!(workflow.request, request.encode_to_vec());
    assert_eq!(workflow.requested_cluster, "word-count");
    assert_eq!(workflow.template_json()["jobs"][0]["pysparkJob"]["mainPythonFileUri"], "gs://scripts/one.py");
}

#[tokio::test(start_paused = true)]
async fn jobs_are_listed_by_label_newest_first_and_as_they_are() {
    let world = world();
    for run in ["a", "b"] {
        let mut jobs = vec![step("one", &[]), step("two", &["one"])];
        for job in &mut jobs {
            job.labels.insert("run_id".to_owned(), run.to_owned());
        }
        let begun = world.instantiate(request(jobs)).await.unwrap();
        end(&world.channel, &begun.name).await;
    }
    let (of_run, pages) = jobs(&world, "labels.run_id = a", 1).await;
    let ids: Vec<_> = of_run.iter().map(|job| job.reference.as_ref().unwrap().job_id.clone()).collect();
    assert!(ids.len() == 2 && ids[0].starts_with("two-") && ids[1].starts_with("one-"), "{ids:?}");
    assert_eq!((pages, &of_run[0]), (2, &world.job(&ids[0]).await.unwrap()));
    world.emulator.dataproc_options(|options| options.jobs_page = 3);
    let (all, pages) = jobs(&world, "", 0).await;
    assert_eq!((all.len(), pages), (4, 2));
    assert!(jobs(&world, "labels.run_id = a AND status.state = ACTIVE", 0).await.0.is_empty());
}

#[tokio::test(start_paused = true)]
async fn lists_can_be_made_to_take_no_filter() {
    let world = world();
    world.emulator.dataproc_options(|options| {
        options.refuse_operation_filters = true;
        options.refuse_job_filters = true;
    });
    let list = |filter: &str| ListOperationsRequest {
        name: format!("{PARENT}/operations"),
        filter: filter.to_owned(),
        ..ListOperationsRequest::default()
    };
    let mut client = OperationsClient::new(world.channel.clone());
    let refused = client.list_operations(list("operationType = WORKFLOW")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    client.list_operations(list("")).await.unwrap();
    let filter = "labels.run_id = a".to_owned();
    let request = proto::ListJobsRequest { filter, ..proto::ListJobsRequest::default() };
    let refused = JobControllerClient::new(world.channel.clone()).list_jobs(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(jobs(&world, "", 0).await.0.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_foreign_workflow_has_no_cluster_name_while_it_is_pending() {
    let world = world();
    world.emulator.begin_foreign_workflow(PARENT, "theirs", Duration::from_secs(3600));
    let (names, _) = world.list("operationType = WORKFLOW", 0, "").await;
    let operation = get(&world.channel, &names[0]).await;
    assert_eq!((metadata(&operation).state(), metadata(&operation).cluster_name.as_str()), (State::Pending, ""));
    tokio::time::sleep(Duration::from_secs(3601)).await;
    let operation = get(&world.channel, &names[0]).await;
    assert!(metadata(&operation).cluster_name.starts_with("theirs-"));
    end(&world.channel, &names[0]).await;
    let workflow = &world.emulator.workflows()[0];
    assert!(workflow.is_foreign && !workflow.is_alive());
}

#[tokio::test(start_paused = true)]
async fn calls_above_the_quota_are_refused_until_the_next_minute() {
    let quota = Some(Quota { workflows: 2, others: 3 });
    let dataproc = DataprocOptions { quota, ..DataprocOptions::default() };
    let now = Some("2026-03-01T12:00:00Z".parse().unwrap());
    let emulator = Emulator::new(Options { now, dataproc, ..Options::default() });
    let channel = channel(&emulator);
    let world = World { emulator, channel };
    let one = || world.instantiate(request(vec![step("one", &[])]));
    for _ in 0..2 {
        one().await.unwrap();
    }
    let refused = one().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("Quota exceeded for quota metric 'Workflow operation requests'"));
    for _ in 0..3 {
        world.list("", 0, "").await;
    }
    assert_eq!(world.job("any").await.unwrap_err().code(), Code::ResourceExhausted);
    tokio::time::sleep(Duration::from_secs(60)).await;
    one().await.unwrap();
    assert_eq!(world.job("any").await.unwrap_err().code(), Code::NotFound);
}
