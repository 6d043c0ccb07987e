//! Dataproc, google.cloud.dataproc.v1 and its google.longrunning.Operations: inline workflows and their jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gcloud_sdk::google::cloud::dataproc::v1 as proto;
use gcloud_sdk::google::longrunning;
use gcloud_sdk::google::rpc;
use prost::Message;
use prost_reflect::DynamicMessage;
use tonic::Status;

use crate::arrangements::{DataprocOptions, Mishap, Outcome, RepeatedRequestId, Timing, Trouble};
use crate::audit;
use crate::clock::{Clock, timestamp};
use crate::dag::{Event, Job, Phase, Step, Workflow, World};
use crate::descriptor::{instantiate_inline, text};
use crate::fault::When;
use crate::lists::{Filter, JobFilter, page};
use crate::quota::Usage;
use crate::rules;
use crate::storage::Storage;

/// What the quotas are counted by.
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) struct Dataproc {
    pub(crate) options: DataprocOptions,
    /// In the order of their creation; an index here is what pages of a list count by.
    pub(crate) workflows: Vec<Workflow>,
    by_operation: BTreeMap<String, usize>,
    by_request_id: BTreeMap<(String, String), usize>,
    /// Every job that was started, in that order, as its workflow and its step there.
    jobs: Vec<(usize, usize)>,
    by_job: BTreeMap<String, usize>,
    usage: Usage,
    agenda: BTreeMap<(DateTime<Utc>, u64), (usize, Event)>,
    entries: u64,
    pub(crate) outcomes: BTreeMap<String, Outcome>,
    pub(crate) durations: BTreeMap<String, Duration>,
    pub(crate) mishaps: Vec<Mishap>,
    /// Audit log entries that nobody has fetched yet.
    pub(crate) audit: Vec<audit::Entry>,
}

/// What the calls need of the rest of the emulator.
pub(crate) struct Surroundings<'a> {
    pub(crate) now: DateTime<Utc>,
    pub(crate) clock: &'a Clock,
    pub(crate) rng: &'a mut fastrand::Rng,
    pub(crate) storage: &'a Storage,
}

impl Dataproc {
    pub(crate) fn new(options: DataprocOptions) -> Dataproc {
        Dataproc {
            options,
            workflows: Vec::new(),
            by_operation: BTreeMap::new(),
            by_request_id: BTreeMap::new(),
            jobs: Vec::new(),
            by_job: BTreeMap::new(),
            usage: Usage::default(),
            agenda: BTreeMap::new(),
            entries: 0,
            outcomes: BTreeMap::new(),
            durations: BTreeMap::new(),
            mishaps: Vec::new(),
            audit: Vec::new(),
        }
    }

    pub(crate) fn next_event(&self) -> Option<DateTime<Utc>> {
        self.agenda.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets the next thing happen, if it is due by `around.now`; each happens at its own time, not at the caller's.
    pub(crate) fn happen(&mut self, around: &mut Surroundings<'_>) -> bool {
        let Some(entry) = self.agenda.first_entry() else {
            return false;
        };
        let at = entry.key().0;
        if at > around.now {
            return false;
        }
        let (index, event) = entry.remove();
        let around = &mut Surroundings { now: at, clock: around.clock, rng: &mut *around.rng, storage: around.storage };
        self.change(around, index, |workflow, world| workflow.happen(world, event));
        true
    }

    fn change(
        &mut self,
        around: &mut Surroundings<'_>,
        index: usize,
        change: impl FnOnce(&mut Workflow, &mut World<'_>),
    ) {
        let mut world = world(around, &self.options.timing, &self.outcomes, &self.durations);
        let workflow = &mut self.workflows[index];
        let before = workflow.phase;
        change(workflow, &mut world);
        let agenda = world.agenda;
        if let Some(step) = world.started
            && let Some(job) = &workflow.steps[step].job
        {
            self.by_job.insert(job.id.clone(), self.jobs.len());
            self.jobs.push((index, step));
        }
        if before != Phase::Done && workflow.phase == Phase::Done {
            self.audit.push(audit::Entry::last(workflow));
        }
        self.plan(index, agenda);
    }

    fn plan(&mut self, index: usize, agenda: Vec<(DateTime<Utc>, Event)>) {
        for (at, event) in agenda {
            self.entries += 1;
            self.agenda.insert((at, self.entries), (index, event));
        }
    }

    /// `request` is taken as its bytes, so that no field is lost that the generated types do not know.
    pub(crate) fn call_instantiate_inline(
        &mut self,
        around: &mut Surroundings<'_>,
        request: Bytes,
    ) -> Result<longrunning::Operation, Status> {
        let message = DynamicMessage::decode(instantiate_inline(), request.clone())
            .map_err(|error| Status::invalid_argument(format!("request: {error}")))?;
        rules::check_instantiate(&message)?;
        let parent = text(&message, "parent").to_owned();
        let request_id = text(&message, "request_id").to_owned();
        let before = self.by_request_id.get(&(parent.clone(), request_id.clone())).copied();
        if let Some(before) = before.filter(|_| !request_id.is_empty()) {
            let running = self.workflows[before].phase != Phase::Done;
            let answer = if running { self.options.repeat_while_running } else { self.options.repeat_after_end };
            match answer {
                RepeatedRequestId::SameOperation => {
                    return Ok(self.operation(&self.workflows[before]));
                }
                RepeatedRequestId::AlreadyExists => {
                    return Err(Status::already_exists(format!(
                        "Already exists: a workflow with the request id '{request_id}'."
                    )));
                }
                RepeatedRequestId::SecondWorkflow => {}
            }
        }
        let cluster = crate::dag::managed_cluster(&message).map_or("", |cluster| text(cluster, "cluster_name"));
        let trouble = self.troubles(around.rng, cluster);
        if trouble.contains(&Trouble::QuotaRefused) {
            return Err(Status::invalid_argument(
                "Multiple validation errors:\n - Insufficient 'CPUS' quota. Requested 12.0, available 4.0.",
            ));
        }
        // The parent was checked above.
        let place = rules::region(&parent).unwrap_or_default();
        let mut world = world(around, &self.options.timing, &self.outcomes, &self.durations);
        let workflow = Workflow::begin(&mut world, place, request, message, trouble);
        let agenda = world.agenda;
        let index = self.add(workflow, agenda);
        self.by_request_id.insert((parent, request_id), index);
        Ok(self.operation(&self.workflows[index]))
    }

    /// Begins a workflow of one step that the function knows nothing of; its cluster has no name while it is PENDING.
    pub(crate) fn begin_foreign(
        &mut self,
        around: &mut Surroundings<'_>,
        parent: &str,
        cluster: &str,
        pending: Duration,
    ) {
        let request = proto::InstantiateInlineWorkflowTemplateRequest {
            parent: parent.to_owned(),
            template: Some(foreign_template(cluster)),
            ..proto::InstantiateInlineWorkflowTemplateRequest::default()
        };
        let request = Bytes::from(request.encode_to_vec());
        let Ok(message) = DynamicMessage::decode(instantiate_inline(), request.clone()) else { return };
        let timing = Timing { pending, ..self.options.timing };
        let mut world = world(around, &timing, &self.outcomes, &self.durations);
        let place = rules::region(parent).unwrap_or_default();
        let workflow =
            Workflow { is_foreign: true, ..Workflow::begin(&mut world, place, request, message, Vec::new()) };
        let agenda = world.agenda;
        self.add(workflow, agenda);
    }

    fn add(&mut self, workflow: Workflow, agenda: Vec<(DateTime<Utc>, Event)>) -> usize {
        let index = self.workflows.len();
        self.by_operation.insert(workflow.operation.clone(), index);
        self.audit.push(audit::Entry::first(&workflow));
        self.workflows.push(workflow);
        self.plan(index, agenda);
        index
    }

    fn troubles(&mut self, rng: &mut fastrand::Rng, cluster: &str) -> Vec<Trouble> {
        let mut due = Vec::new();
        for mishap in self.mishaps.iter_mut().filter(|mishap| cluster.starts_with(&mishap.cluster)) {
            if mishap.when.comes_true(rng) {
                due.push(mishap.what.clone());
            }
        }
        self.mishaps.retain(|mishap| mishap.when != When::Times(0));
        due
    }

    pub(crate) fn call_get_operation(
        &self,
        request: &longrunning::GetOperationRequest,
    ) -> Result<longrunning::Operation, Status> {
        Ok(self.operation(&self.workflows[self.find(&request.name)?]))
    }

    pub(crate) fn call_list_operations(
        &self,
        request: &longrunning::ListOperationsRequest,
    ) -> Result<longrunning::ListOperationsResponse, Status> {
        let parent = request.name.strip_suffix("/operations").unwrap_or(&request.name);
        if rules::region(parent).is_none() {
            return Err(Status::invalid_argument(format!(
                "name: '{}' must be projects/PROJECT/regions/REGION/operations",
                request.name
            )));
        }
        if self.options.refuse_operation_filters && !request.filter.is_empty() {
            return Err(refused_filter());
        }
        let filter = Filter::parse(&request.filter)?;
        let prefix = format!("{parent}/operations/");
        let listed = self.workflows.iter().enumerate().rev().filter(|(_, workflow)| {
            workflow.operation.starts_with(&prefix)
                && self.by_operation.contains_key(&workflow.operation)
                && filter.admits(state(workflow), self.shown_cluster(workflow))
        });
        let (indexes, next_page_token) =
            page(listed.map(|(index, _)| index), request.page_size, &request.page_token, self.options.operations_page)?;
        Ok(longrunning::ListOperationsResponse {
            operations: indexes.into_iter().map(|index| self.operation(&self.workflows[index])).collect(),
            next_page_token,
            unreachable: Vec::new(),
        })
    }

    pub(crate) fn call_cancel_operation(
        &mut self,
        around: &mut Surroundings<'_>,
        request: &longrunning::CancelOperationRequest,
    ) -> Result<(), Status> {
        let index = self.find(&request.name)?;
        self.change(around, index, |workflow, world| workflow.cancel(world));
        Ok(())
    }

    pub(crate) fn call_get_job(&self, request: &proto::GetJobRequest) -> Result<proto::Job, Status> {
        let found = self.by_job.get(&request.job_id).and_then(|index| self.started_job(*index));
        let found = found.filter(|(it, _)| it.project == request.project_id && it.region == request.region);
        found.map(|(workflow, job)| self.job(workflow, job)).ok_or_else(|| {
            Status::not_found(format!(
                "Not found: Job projects/{}/regions/{}/jobs/{}",
                request.project_id, request.region, request.job_id
            ))
        })
    }

    /// Newest first.
    pub(crate) fn call_list_jobs(&self, request: &proto::ListJobsRequest) -> Result<proto::ListJobsResponse, Status> {
        if self.options.refuse_job_filters && !request.filter.is_empty() {
            return Err(refused_filter());
        }
        let filter = JobFilter::parse(&request.filter, request.job_state_matcher())?;
        let listed = (0..self.jobs.len()).rev().filter(|index| {
            self.started_job(*index).is_some_and(|(workflow, job)| {
                workflow.project == request.project_id
                    && workflow.region == request.region
                    && (request.cluster_name.is_empty() || request.cluster_name == workflow.cluster_name)
                    && filter.admits(job.state, &job.labels)
            })
        });
        let (indexes, next_page_token) = page(listed, request.page_size, &request.page_token, self.options.jobs_page)?;
        let jobs = indexes.into_iter().filter_map(|index| self.started_job(index));
        Ok(proto::ListJobsResponse {
            jobs: jobs.map(|(workflow, job)| self.job(workflow, job)).collect(),
            next_page_token,
            ..proto::ListJobsResponse::default()
        })
    }

    fn started_job(&self, index: usize) -> Option<(&Workflow, &Job)> {
        let (workflow, step) = *self.jobs.get(index)?;
        let workflow = &self.workflows[workflow];
        Some((workflow, workflow.steps[step].job.as_ref()?))
    }

    /// Counts a call against its quota.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if that is used up.
    pub(crate) fn count_call(&mut self, now: DateTime<Utc>, clock: &Clock, path: &str) -> Result<(), Status> {
        let Some(quota) = self.options.quota else { return Ok(()) };
        self.usage.count(quota, now, clock.shortened(MINUTE), path)
    }

    /// Makes the service know nothing of an operation any more, as it does long after its end.
    pub(crate) fn forget(&mut self, operation: &str) -> bool {
        self.by_operation.remove(operation).is_some()
    }

    fn find(&self, name: &str) -> Result<usize, Status> {
        let missing = || Status::not_found(format!("Operation not found: {name}"));
        self.by_operation.get(name).copied().ok_or_else(missing)
    }

    fn shown_cluster<'a>(&self, workflow: &'a Workflow) -> &'a str {
        let hides = self.options.hide_pending_cluster || workflow.is_foreign;
        let hidden = hides && workflow.phase == Phase::Pending;
        if hidden { "" } else { &workflow.cluster_name }
    }

    pub(crate) fn operation(&self, workflow: &Workflow) -> longrunning::Operation {
        let metadata = proto::WorkflowMetadata {
            create_cluster: workflow.create.clone(),
            delete_cluster: workflow.delete.clone(),
            graph: Some(proto::WorkflowGraph { nodes: workflow.steps.iter().map(node).collect() }),
            state: state(workflow).into(),
            cluster_name: self.shown_cluster(workflow).to_owned(),
            cluster_uuid: workflow.cluster_uuid.clone(),
            start_time: Some(timestamp(workflow.created)),
            end_time: workflow.ended.map(timestamp),
            dag_timeout: workflow.dag_timeout().and_then(|timeout| timeout.try_into().ok()),
            dag_start_time: workflow.dag_started.map(timestamp),
            dag_end_time: workflow.dag_ended.map(timestamp),
            ..proto::WorkflowMetadata::default()
        };
        let result = match (&workflow.error, workflow.phase) {
            (_, Phase::Pending | Phase::Creating | Phase::Running | Phase::Deleting) => None,
            (None, Phase::Done) => Some(longrunning::operation::Result::Response(prost_types::Any {
                type_url: "type.googleapis.com/google.protobuf.Empty".to_owned(),
                value: Vec::new(),
            })),
            (Some((code, message)), Phase::Done) => Some(longrunning::operation::Result::Error(rpc::Status {
                code: *code as i32,
                message: message.clone(),
                details: Vec::new(),
            })),
        };
        longrunning::Operation {
            name: workflow.operation.clone(),
            metadata: Some(prost_types::Any {
                type_url: "type.googleapis.com/google.cloud.dataproc.v1.WorkflowMetadata".to_owned(),
                value: metadata.encode_to_vec(),
            }),
            done: workflow.phase == Phase::Done,
            result,
        }
    }

    fn job(&self, workflow: &Workflow, job: &Job) -> proto::Job {
        use proto::job_status::State;
        proto::Job {
            reference: Some(proto::JobReference { project_id: workflow.project.clone(), job_id: job.id.clone() }),
            placement: Some(proto::JobPlacement {
                cluster_name: workflow.cluster_name.clone(),
                cluster_uuid: workflow.cluster_uuid.clone(),
                ..proto::JobPlacement::default()
            }),
            status: Some(proto::JobStatus {
                state: job.state.into(),
                details: job.details.clone(),
                state_start_time: Some(timestamp(job.changed)),
                ..proto::JobStatus::default()
            }),
            driver_output_resource_uri: workflow.driver_output(job),
            labels: job.labels.clone().into_iter().collect(),
            job_uuid: job.uuid.clone(),
            done: matches!(job.state, State::Done | State::Error | State::Cancelled),
            ..proto::Job::default()
        }
    }
}

fn foreign_template(cluster: &str) -> proto::WorkflowTemplate {
    use proto::{ordered_job::JobType, workflow_template_placement::Placement};
    let script =
        proto::PySparkJob { main_python_file_uri: "gs://foreign/job.py".to_owned(), ..proto::PySparkJob::default() };
    let job = proto::OrderedJob {
        step_id: "foreign".to_owned(),
        job_type: Some(JobType::PysparkJob(script)),
        ..proto::OrderedJob::default()
    };
    let cluster = proto::ManagedCluster {
        cluster_name: cluster.to_owned(),
        config: Some(proto::ClusterConfig::default()),
        ..proto::ManagedCluster::default()
    };
    proto::WorkflowTemplate {
        placement: Some(proto::WorkflowTemplatePlacement { placement: Some(Placement::ManagedCluster(cluster)) }),
        jobs: vec![job],
        ..proto::WorkflowTemplate::default()
    }
}

fn refused_filter() -> Status {
    Status::invalid_argument("filter: not supported")
}

fn world<'a>(
    around: &'a mut Surroundings<'_>,
    timing: &'a Timing,
    outcomes: &'a BTreeMap<String, Outcome>,
    durations: &'a BTreeMap<String, Duration>,
) -> World<'a> {
    World {
        now: around.now,
        clock: around.clock,
        rng: around.rng,
        storage: around.storage,
        timing,
        outcomes,
        durations,
        agenda: Vec::new(),
        started: None,
    }
}

fn state(workflow: &Workflow) -> proto::workflow_metadata::State {
    use proto::workflow_metadata::State;
    match workflow.phase {
        Phase::Pending => State::Pending,
        Phase::Creating | Phase::Running | Phase::Deleting => State::Running,
        Phase::Done => State::Done,
    }
}

fn node(step: &Step) -> proto::WorkflowNode {
    proto::WorkflowNode {
        step_id: step.id.clone(),
        prerequisite_step_ids: step.prerequisites.clone(),
        job_id: step.job.as_ref().map(|job| job.id.clone()).unwrap_or_default(),
        state: step.state.into(),
        error: step.error.clone(),
    }
}
