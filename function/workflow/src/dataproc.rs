//! Workflows, operations and jobs, over google.cloud.dataproc.v1 and google.longrunning.

use std::{sync::Arc, time::Duration};

use gcloud_sdk::{
    google::{
        cloud::dataproc::v1::{GetJobRequest, Job, job_controller_client::JobControllerClient},
        longrunning::{
            CancelOperationRequest, GetOperationRequest, ListOperationsRequest, Operation,
            operations_client::OperationsClient,
        },
    },
    tonic::{Code, Status, client::Grpc, codegen::http::uri::PathAndQuery},
};
use tokio::time::Instant;
use tonic_prost::ProstCodec;

use crate::{
    error::CallError,
    google::{Method, Repeat, Service, routed},
    template::InstantiateRequest,
};

/// How long an InstantiateInline call may take; design bounds the lease and the wait before a second call by it.
pub const INSTANTIATE_DEADLINE: Duration = Duration::from_secs(4);
const INSTANTIATE_NAME: &str = "WorkflowTemplateService.InstantiateInlineWorkflowTemplate";
const INSTANTIATE_PATH: &str = "/google.cloud.dataproc.v1.WorkflowTemplateService/InstantiateInlineWorkflowTemplate";
const PAGE_SIZE: i32 = 500;
/// An operation's metadata holds a node for each step of a workflow.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

const fn read(name: &'static str, milliseconds: u64) -> Method {
    Method { name, deadline: Duration::from_millis(milliseconds), repeat: Repeat::Safe }
}
const GET_OPERATION: Method = read("Operations.GetOperation", 1500);
const LIST_OPERATIONS: Method = read("Operations.ListOperations", 2500);
/// Cancelling twice is cancelling.
const CANCEL_OPERATION: Method = read("Operations.CancelOperation", 2000);
const GET_JOB: Method = read("JobController.GetJob", 1500);

/// Dataproc of one project and region, for the time of an event.
#[derive(Clone)]
pub struct Dataproc {
    service: Service,
    project: Arc<str>,
    region: Arc<str>,
    began: Instant,
    until: Instant,
}

impl Dataproc {
    pub fn new(service: Service, project: &str, region: &str, until: Instant) -> Dataproc {
        Dataproc { service, project: project.into(), region: region.into(), began: Instant::now(), until }
    }

    /// The same for an event that begins now and has until then.
    pub fn until(self, until: Instant) -> Dataproc {
        Dataproc { began: Instant::now(), until, ..self }
    }

    /// Connects, if that is not done.
    pub async fn connect(&self) {
        self.service.connect(self.until).await;
    }

    /// Connects, or makes sure that the connection is alive, so that a submission need not do it.
    pub async fn wake(&self) {
        self.service.wake(self.began, self.until).await;
    }

    fn parent(&self) -> String {
        format!("projects/{}/regions/{}", self.project, self.region)
    }

    /// Submits a workflow. Not as the generated type, which lacks the fields that are newer than it, and would drop them.
    /// Never repeated, unless it was certainly not sent.
    pub async fn instantiate(&self, request: &InstantiateRequest, deadline: Duration) -> Result<Operation, CallError> {
        let parent = self.parent();
        // Before the event the instance may have been frozen, and its connections with it.
        let repeat = Repeat::Never { alive_since: self.began };
        let method = Method { name: INSTANTIATE_NAME, deadline, repeat };
        let answer = self
            .service
            .call(method, &parent, self.until, |channel, deadline| {
                let request = routed(request.clone(), &[("parent", &parent)], deadline);
                async move {
                    let mut grpc = Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER);
                    grpc.ready().await.map_err(Status::from_error)?;
                    let codec: ProstCodec<InstantiateRequest, Operation> = ProstCodec::default();
                    grpc.unary(request, PathAndQuery::from_static(INSTANTIATE_PATH), codec).await
                }
            })
            .await?;
        Ok(answer.into_inner())
    }

    /// An operation by its full name; none if the service does not know it.
    pub async fn operation(&self, name: &str) -> Result<Option<Operation>, CallError> {
        let answer = self
            .service
            .call(GET_OPERATION, name, self.until, |channel, deadline| async move {
                let message = GetOperationRequest { name: name.to_owned() };
                OperationsClient::new(channel)
                    .max_decoding_message_size(LARGEST_ANSWER)
                    .get_operation(routed(message, &[("name", name)], deadline))
                    .await
            })
            .await;
        match answer {
            Ok(operation) => Ok(Some(operation.into_inner())),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every workflow operation of the region in whatever state, all pages of it.
    pub async fn workflows(&self) -> Result<Vec<Operation>, CallError> {
        let name = format!("{}/operations", self.parent());
        let mut operations = Vec::new();
        let mut page_token = String::new();
        loop {
            let answer = self
                .service
                .call(LIST_OPERATIONS, &name, self.until, |channel, deadline| {
                    let message = ListOperationsRequest {
                        name: name.clone(),
                        filter: "operationType = WORKFLOW".to_owned(),
                        page_size: PAGE_SIZE,
                        page_token: page_token.clone(),
                        ..Default::default()
                    };
                    let request = routed(message, &[("name", &name)], deadline);
                    async move {
                        OperationsClient::new(channel)
                            .max_decoding_message_size(LARGEST_ANSWER)
                            .list_operations(request)
                            .await
                    }
                })
                .await?
                .into_inner();
            operations.extend(answer.operations);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(operations);
            }
        }
    }

    /// Asks for an operation's end. One that has ended already, or is gone, needs no cancelling.
    pub async fn cancel(&self, name: &str) -> Result<(), CallError> {
        let answer = self
            .service
            .call(CANCEL_OPERATION, name, self.until, |channel, deadline| async move {
                let message = CancelOperationRequest { name: name.to_owned() };
                OperationsClient::new(channel).cancel_operation(routed(message, &[("name", name)], deadline)).await
            })
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code, Code::NotFound | Code::FailedPrecondition) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A job by its id; none if the service does not know it.
    pub async fn job(&self, job_id: &str) -> Result<Option<Job>, CallError> {
        let (project, region) = (&*self.project, &*self.region);
        let answer = self
            .service
            .call(GET_JOB, job_id, self.until, |channel, deadline| async move {
                let message = GetJobRequest {
                    project_id: project.to_owned(),
                    region: region.to_owned(),
                    job_id: job_id.to_owned(),
                };
                let parameters = [("project_id", project), ("region", region), ("job_id", job_id)];
                JobControllerClient::new(channel)
                    .max_decoding_message_size(LARGEST_ANSWER)
                    .get_job(routed(message, &parameters, deadline))
                    .await
            })
            .await;
        match answer {
            Ok(job) => Ok(Some(job.into_inner())),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
