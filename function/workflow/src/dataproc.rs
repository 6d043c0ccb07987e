//! Workflows, operations and jobs, over google.cloud.dataproc.v1 and google.longrunning.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gcloud_sdk::{
    google::{
        cloud::dataproc::v1::{
            GetJobRequest, Job, ListJobsRequest, ListJobsResponse, job_controller_client::JobControllerClient,
        },
        longrunning::{
            CancelOperationRequest, GetOperationRequest, ListOperationsRequest, ListOperationsResponse, Operation,
            operations_client::OperationsClient,
        },
    },
    tonic::{Code, client::Grpc, codegen::http::uri::PathAndQuery},
};
use tokio::time::Instant;
use tonic_prost::ProstCodec;
use uuid::Uuid;

use crate::{
    error::{CallError, Origin},
    google::{Method, Repeat, SAFE_DEADLINE, Service, routed},
    template::InstantiateRequest,
};

/// How long an InstantiateInline call may take; design bounds the lease and the wait before a second call by it.
pub const INSTANTIATE_DEADLINE: Duration = Duration::from_secs(4);
const INSTANTIATE_NAME: &str = "WorkflowTemplateService.InstantiateInlineWorkflowTemplate";
const INSTANTIATE_PATH: &str = "/google.cloud.dataproc.v1.WorkflowTemplateService/InstantiateInlineWorkflowTemplate";
/// Of jobs: as many as a request has.
const JOBS_PAGE_SIZE: i32 = 1000;
/// After the service's rate limit refused a submission, no other is sent for so long.
const SUBMISSION_PAUSE: Duration = Duration::from_secs(10);
/// An operation's metadata holds a node for each step of a workflow.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

const fn safe(name: &'static str) -> Method {
    Method { name, deadline: SAFE_DEADLINE, repeat: Repeat::Safe }
}
const GET_OPERATION: Method = safe("Operations.GetOperation");
const LIST_OPERATIONS: Method = safe("Operations.ListOperations");
/// Cancelling twice is cancelling.
const CANCEL_OPERATION: Method = safe("Operations.CancelOperation");
const GET_JOB: Method = safe("JobController.GetJob");
const LIST_JOBS: Method = safe("JobController.ListJobs");

/// Dataproc of one project and region, for the time of an event.
#[derive(Clone)]
pub struct Dataproc {
    service: Service,
    project: Arc<str>,
    region: Arc<str>,
    until: Instant,
    /// Until then the service's rate limit admits no submission.
    paused_until: Arc<Mutex<Option<Instant>>>,
}

impl Dataproc {
    pub fn new(service: Service, project: &str, region: &str, until: Instant) -> Dataproc {
        Dataproc { service, project: project.into(), region: region.into(), until, paused_until: Arc::default() }
    }

    /// The same with another deadline.
    pub fn until(self, until: Instant) -> Dataproc {
        Dataproc { until, ..self }
    }

    /// Connects, if that is not done.
    pub async fn connect(&self) {
        self.service.connect(self.until).await;
    }

    /// Makes sure that a connection is there that a submission can be sent over.
    pub async fn wake(&self) {
        self.service.wake(self.until).await;
    }

    fn parent(&self) -> String {
        format!("projects/{}/regions/{}", self.project, self.region)
    }

    /// Submits a workflow. Not as the generated type, which lacks the fields that are newer than it, and would drop them.
    /// Never repeated, unless it was certainly not executed.
    ///
    /// # Errors
    /// Also if the answer's operation has no name: the workflow may exist, and nobody can follow it.
    pub async fn instantiate(&self, request: &InstantiateRequest, deadline: Duration) -> Result<Operation, CallError> {
        let parent = self.parent();
        let method = Method { name: INSTANTIATE_NAME, deadline, repeat: Repeat::Never };
        let operation = self
            .service
            .call(method, &parent, self.until, |channel, deadline| {
                let request = routed(request.clone(), &[("parent", &parent)], deadline);
                async move {
                    let mut grpc = Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER);
                    grpc.ready().await?;
                    let codec: ProstCodec<InstantiateRequest, Operation> = ProstCodec::default();
                    grpc.unary(request, PathAndQuery::from_static(INSTANTIATE_PATH), codec).await
                }
            })
            .await?
            .into_inner();
        if operation.name.is_empty() {
            return Err(CallError {
                method: INSTANTIATE_NAME,
                resource: parent,
                code: Code::Unknown,
                message: "the answer's operation has no name".to_owned(),
                origin: Origin::Unknown,
            });
        }
        Ok(operation)
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
            Err(error) if error.code == Code::NotFound && error.origin == Origin::Service => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A page of the region's operations, in the service's order; all kinds of operations without a filter.
    pub async fn operations(
        &self,
        filter: &str,
        page_size: i32,
        page_token: &str,
        until: Instant,
    ) -> Result<ListOperationsResponse, CallError> {
        let name = format!("{}/operations", self.parent());
        let answer = self
            .service
            .call(LIST_OPERATIONS, &name, until.min(self.until), |channel, deadline| {
                let message = ListOperationsRequest {
                    name: name.clone(),
                    filter: filter.to_owned(),
                    page_size,
                    page_token: page_token.to_owned(),
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
            .await?;
        Ok(answer.into_inner())
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
            Err(error)
                if error.origin == Origin::Service
                    && matches!(error.code, Code::NotFound | Code::FailedPrecondition) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A page of the jobs with the label `run_id`.
    pub async fn jobs(&self, run_id: Uuid, page_token: &str, until: Instant) -> Result<ListJobsResponse, CallError> {
        let (project, region) = (&*self.project, &*self.region);
        let answer = self
            .service
            .call(LIST_JOBS, &run_id.to_string(), until.min(self.until), |channel, deadline| async move {
                let message = ListJobsRequest {
                    project_id: project.to_owned(),
                    region: region.to_owned(),
                    filter: format!("labels.run_id = {run_id}"),
                    page_size: JOBS_PAGE_SIZE,
                    page_token: page_token.to_owned(),
                    ..Default::default()
                };
                JobControllerClient::new(channel)
                    .max_decoding_message_size(LARGEST_ANSWER)
                    .list_jobs(routed(message, &[("project_id", project), ("region", region)], deadline))
                    .await
            })
            .await?;
        Ok(answer.into_inner())
    }

    /// A job by its id; none if the service does not know it.
    pub async fn job(&self, job_id: &str, until: Instant) -> Result<Option<Job>, CallError> {
        let (project, region) = (&*self.project, &*self.region);
        let answer = self
            .service
            .call(GET_JOB, job_id, until.min(self.until), |channel, deadline| async move {
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
            Err(error) if error.code == Code::NotFound && error.origin == Origin::Service => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether no submission is to be sent now: the service's rate limit has just refused one.
    pub fn submissions_are_paused(&self) -> bool {
        self.paused_until().is_some_and(|until| until > Instant::now())
    }

    /// The service's rate limit refused a submission.
    pub fn pause_submissions(&self) {
        *self.paused_until() = Some(Instant::now() + SUBMISSION_PAUSE);
    }

    fn paused_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
