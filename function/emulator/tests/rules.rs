//! What the service refuses, and with which path.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod support;

use gcloud_sdk::google::cloud::dataproc::v1 as proto;
use gcloud_sdk::google::cloud::dataproc::v1::workflow_template_service_client::WorkflowTemplateServiceClient;
use inline_workflow_emulator::{Emulator, Options};
use support::{channel, request, step};
use tonic::Code;

/// Each case breaks the good request in one place; the answer names it.
#[tokio::test(start_paused = true)]
async fn what_the_service_refuses() {
    type Break = fn(&mut proto::InstantiateInlineWorkflowTemplateRequest);
    fn template(request: &mut proto::InstantiateInlineWorkflowTemplateRequest) -> &mut proto::WorkflowTemplate {
        request.template.as_mut().unwrap()
    }
    fn cluster(request: &mut proto::InstantiateInlineWorkflowTemplateRequest) -> &mut proto::ManagedCluster {
        match template(request).placement.as_mut().unwrap().placement.as_mut().unwrap() {
            proto::workflow_template_placement::Placement::ManagedCluster(cluster) => cluster,
            proto::workflow_template_placement::Placement::ClusterSelector(_) => {
                unreachable!("the request has a cluster")
            }
        }
    }
    let cases: [(&str, Break); 27] = [
        ("parent", |it| it.parent = "projects/p".to_owned()),
        ("request_id", |it| it.request_id = "a b".to_owned()),
        ("request_id", |it| it.request_id = "x".repeat(41)),
        ("template: required", |it| it.template = None),
        ("template.placement", |it| template(it).placement = None),
        ("template.jobs: required", |it| template(it).jobs.clear()),
        ("managed_cluster.cluster_name: required", |it| cluster(it).cluster_name.clear()),
        ("managed_cluster.cluster_name", |it| cluster(it).cluster_name = "Upper".to_owned()),
        ("managed_cluster.cluster_name", |it| cluster(it).cluster_name = "trailing-".to_owned()),
        ("managed_cluster.cluster_name", |it| cluster(it).cluster_name = "a".repeat(36)),
        ("managed_cluster.labels[\"Upper\"]", |it| {
            cluster(it).labels.insert("Upper".to_owned(), String::new());
        }),
        ("template.labels[\"a\"]", |it| {
            template(it).labels.insert("a".to_owned(), "no spaces".to_owned());
        }),
        ("template.labels: 33 labels", |it| {
            template(it).labels = (0..33).map(|n| (format!("k{n}"), String::new())).collect();
        }),
        ("template.dag_timeout", |it| {
            template(it).dag_timeout = Some(prost_types::Duration { seconds: 599, nanos: 0 })
        }),
        ("template.dag_timeout", |it| {
            template(it).dag_timeout = Some(prost_types::Duration { seconds: 86_400, nanos: 1 });
        }),
        ("template.jobs[0].step_id: required", |it| template(it).jobs[0].step_id.clear()),
        ("template.jobs[0].step_id", |it| template(it).jobs[0].step_id = "ab".to_owned()),
        ("template.jobs[0].step_id", |it| template(it).jobs[0].step_id = "_one".to_owned()),
        ("template.jobs[0].step_id", |it| template(it).jobs[0].step_id = "one.two".to_owned()),
        ("template.jobs[0].step_id", |it| template(it).jobs[0].step_id = "x".repeat(51)),
        ("template.jobs[1].step_id: 'one' is not unique", |it| template(it).jobs.push(step("one", &[]))),
        ("template.jobs[0].prerequisite_step_ids[0]", |it| template(it).jobs[0] = step("one", &["none"])),
        ("form a cycle", |it| template(it).jobs = vec![step("one", &["two"]), step("two", &["one"])]),
        ("form a cycle", |it| template(it).jobs = vec![step("one", &["one"])]),
        ("template.jobs[0]: a job type", |it| template(it).jobs[0].job_type = None),
        ("template.jobs[0].pyspark_job.main_python_file_uri: required", |it| {
            let job = proto::ordered_job::JobType::PysparkJob(proto::PySparkJob::default());
            template(it).jobs[0].job_type = Some(job);
        }),
        ("template.jobs[0].scheduling.max_failures_per_hour", |it| {
            let scheduling = proto::JobScheduling { max_failures_per_hour: 1, max_failures_total: 0 };
            template(it).jobs[0].scheduling = Some(scheduling);
        }),
    ];
    let emulator = Emulator::new(Options::default());
    let mut client = WorkflowTemplateServiceClient::new(channel(&emulator));
    for (path, damage) in cases {
        let mut request = request(vec![step("one", &[])]);
        damage(&mut request);
        let refused = client.instantiate_inline_workflow_template(request).await.expect_err(path);
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(path), "{path}: {}", refused.message());
    }
    assert!(emulator.workflows().is_empty());
}
