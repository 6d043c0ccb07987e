//! A client's channel into an emulator, and the requests that tests have in common.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::time::Duration;

use gcloud_sdk::google::cloud::dataproc::v1 as dataproc;
use gcloud_sdk::google::cloud::dataproc::v1::ordered_job::JobType;
use gcloud_sdk::google::cloud::dataproc::v1::workflow_template_placement::Placement;
use gcloud_sdk::google::longrunning::Operation;
use gcloud_sdk::google::longrunning::operations_client::OperationsClient;
use hyper_util::rt::TokioIo;
use inline_workflow_emulator::Emulator;
use prost::Message;
use tonic::transport::{Channel, Endpoint};

pub const PARENT: &str = "projects/p/regions/us-central1";

/// A channel whose connections are pipes in memory.
pub fn channel(emulator: &Emulator) -> Channel {
    let emulator = emulator.clone();
    Endpoint::from_static("http://emulator").connect_with_connector_lazy(tower::service_fn(move |_| {
        let (client, server) = tokio::io::duplex(1 << 16);
        let emulator = emulator.clone();
        tokio::spawn(async move { emulator.serve_connection(server).await });
        async move { Ok::<_, std::io::Error>(TokioIo::new(client)) }
    }))
}

pub fn step(id: &str, prerequisites: &[&str]) -> dataproc::OrderedJob {
    dataproc::OrderedJob {
        step_id: id.to_owned(),
        prerequisite_step_ids: prerequisites.iter().map(|it| (*it).to_owned()).collect(),
        job_type: Some(JobType::PysparkJob(dataproc::PySparkJob {
            main_python_file_uri: format!("gs://scripts/{id}.py"),
            ..dataproc::PySparkJob::default()
        })),
        ..dataproc::OrderedJob::default()
    }
}

pub fn request(jobs: Vec<dataproc::OrderedJob>) -> dataproc::InstantiateInlineWorkflowTemplateRequest {
    let cluster = dataproc::ManagedCluster {
        cluster_name: "word-count".to_owned(),
        config: Some(dataproc::ClusterConfig {
            config_bucket: "cluster-staging".to_owned(),
            ..dataproc::ClusterConfig::default()
        }),
        ..dataproc::ManagedCluster::default()
    };
    dataproc::InstantiateInlineWorkflowTemplateRequest {
        parent: PARENT.to_owned(),
        request_id: String::new(),
        template: Some(dataproc::WorkflowTemplate {
            placement: Some(dataproc::WorkflowTemplatePlacement {
                placement: Some(Placement::ManagedCluster(cluster)),
            }),
            jobs,
            ..dataproc::WorkflowTemplate::default()
        }),
    }
}

pub fn metadata(operation: &Operation) -> dataproc::WorkflowMetadata {
    let any = operation.metadata.as_ref().unwrap();
    assert_eq!(any.type_url, "type.googleapis.com/google.cloud.dataproc.v1.WorkflowMetadata");
    dataproc::WorkflowMetadata::decode(&any.value[..]).unwrap()
}

pub fn states(operation: &Operation) -> Vec<(String, String)> {
    let nodes = metadata(operation).graph.unwrap().nodes;
    nodes.iter().map(|node| (node.step_id.clone(), node.state().as_str_name().to_owned())).collect()
}

pub async fn get(channel: &Channel, name: &str) -> Operation {
    let request = gcloud_sdk::google::longrunning::GetOperationRequest { name: name.to_owned() };
    OperationsClient::new(channel.clone()).get_operation(request).await.unwrap().into_inner()
}

/// Asks once in a (paused, so free) second until the operation is done.
pub async fn end(channel: &Channel, name: &str) -> Operation {
    for _ in 0..100_000 {
        let operation = get(channel, name).await;
        if operation.done {
            return operation;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("{name} does not end");
}
