//! One workflow: its cluster comes, its steps run when their prerequisites have ended, its cluster goes.
//!
//! No awaiting and no clock in here: `begin`, `cancel` and `happen` take the time and say what happens when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gcloud_sdk::google::cloud::dataproc::v1 as proto;
use gcloud_sdk::google::cloud::dataproc::v1::job_status::State as JobState;
use gcloud_sdk::google::cloud::dataproc::v1::workflow_node::NodeState;
use prost_reflect::DynamicMessage;
use tonic::Code;

use crate::arrangements::{Outcome, Timing, Trouble};
use crate::clock::{Clock, add};
use crate::descriptor::{labels, message, messages, number, of_oneof, text, texts};
use crate::storage::Storage;

/// A stage of a workflow's life; it only moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Pending,
    Creating,
    Running,
    Deleting,
    Done,
}

pub(crate) struct Workflow {
    pub(crate) project: String,
    pub(crate) region: String,
    /// Full name of the operation.
    pub(crate) operation: String,
    pub(crate) request: Bytes,
    pub(crate) message: DynamicMessage,
    pub(crate) request_id: String,
    pub(crate) requested_cluster: String,
    pub(crate) cluster_name: String,
    pub(crate) cluster_uuid: String,
    pub(crate) phase: Phase,
    pub(crate) create: Option<proto::ClusterOperation>,
    pub(crate) delete: Option<proto::ClusterOperation>,
    pub(crate) steps: Vec<Step>,
    pub(crate) created: DateTime<Utc>,
    pub(crate) dag_started: Option<DateTime<Utc>>,
    pub(crate) dag_ended: Option<DateTime<Utc>>,
    pub(crate) ended: Option<DateTime<Utc>>,
    pub(crate) error: Option<(Code, String)>,
    pub(crate) trouble: Vec<Trouble>,
    /// Whether it is another team's, which hides its cluster's name while it is PENDING.
    pub(crate) is_foreign: bool,
}

pub(crate) struct Step {
    pub(crate) id: String,
    pub(crate) prerequisites: Vec<String>,
    pub(crate) state: NodeState,
    pub(crate) error: String,
    pub(crate) job: Option<Job>,
    outcome: Outcome,
}

pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) uuid: String,
    pub(crate) state: JobState,
    pub(crate) details: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) changed: DateTime<Utc>,
}

/// What happens to a workflow by itself as time passes. Steps go by their index.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    CreateCluster,
    ClusterReady,
    StartJob(usize),
    EndJob(usize),
    DagTimeout,
    ClusterDeleted,
}

/// What a workflow sees of the world.
pub(crate) struct World<'a> {
    pub(crate) now: DateTime<Utc>,
    pub(crate) clock: &'a Clock,
    pub(crate) rng: &'a mut fastrand::Rng,
    pub(crate) storage: &'a Storage,
    pub(crate) timing: &'a Timing,
    pub(crate) outcomes: &'a BTreeMap<String, Outcome>,
    pub(crate) durations: &'a BTreeMap<String, Duration>,
    pub(crate) agenda: Vec<(DateTime<Utc>, Event)>,
    /// The step whose job has started.
    pub(crate) started: Option<usize>,
}

impl World<'_> {
    fn later(&mut self, real: Duration, event: Event) {
        self.agenda.push((add(self.now, self.clock.shortened(real)), event));
    }

    pub(crate) fn uuid(&mut self) -> String {
        let mut bytes = [0; 16];
        self.rng.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// What the service appends to the names of clusters and jobs.
    fn suffix(&mut self) -> String {
        std::iter::repeat_with(|| if self.rng.u8(0..3) == 0 { self.rng.digit(10) } else { self.rng.lowercase() })
            .take(13)
            .collect()
    }
}

impl Workflow {
    /// Begins the workflow of a request that passed the checks.
    pub(crate) fn begin(
        world: &mut World<'_>,
        (project, region): (&str, &str),
        request: Bytes,
        request_message: DynamicMessage,
        trouble: Vec<Trouble>,
    ) -> Workflow {
        let template = message(&request_message, "template");
        let steps = template.into_iter().flat_map(|template| messages(template, "jobs"));
        let steps = steps.map(|job| {
            let prerequisites: Vec<_> = texts(job, "prerequisite_step_ids").into_iter().map(str::to_owned).collect();
            Step {
                id: text(job, "step_id").to_owned(),
                state: if prerequisites.is_empty() { NodeState::Runnable } else { NodeState::Blocked },
                prerequisites,
                error: String::new(),
                job: None,
                outcome: Outcome::Succeed,
            }
        });
        let steps = steps.collect();
        let requested_cluster = managed_cluster(&request_message).map_or("", |it| text(it, "cluster_name")).to_owned();
        let request_id = text(&request_message, "request_id").to_owned();
        world.later(world.timing.pending, Event::CreateCluster);
        Workflow {
            project: project.to_owned(),
            region: region.to_owned(),
            operation: format!("projects/{project}/regions/{region}/operations/{}", world.uuid()),
            request,
            request_id,
            cluster_name: format!("{requested_cluster}-{}", world.suffix()),
            requested_cluster,
            message: request_message,
            cluster_uuid: String::new(),
            phase: Phase::Pending,
            create: None,
            delete: None,
            steps,
            created: world.now,
            dag_started: None,
            dag_ended: None,
            ended: None,
            error: None,
            trouble,
            is_foreign: false,
        }
    }

    /// Stops what runs and takes the cluster away. What has ended stays as it is.
    pub(crate) fn cancel(&mut self, world: &mut World<'_>) {
        let error = (Code::Cancelled, "Operation was cancelled by the user.".to_owned());
        match self.phase {
            Phase::Pending => {
                self.stop_steps(world, "The workflow was cancelled.");
                self.finish(world, Some(error));
            }
            Phase::Creating | Phase::Running => {
                self.error = Some(error);
                self.stop_steps(world, "The workflow was cancelled.");
                self.delete_cluster(world);
            }
            Phase::Deleting if self.error.is_none() => self.error = Some(error),
            Phase::Deleting | Phase::Done => {}
        }
    }

    /// An event that the workflow has moved past says nothing any more.
    pub(crate) fn happen(&mut self, world: &mut World<'_>, event: Event) {
        match (self.phase, event) {
            (Phase::Pending, Event::CreateCluster) => self.create_cluster(world),
            (Phase::Creating, Event::ClusterReady) => self.cluster_ready(world),
            (Phase::Running, Event::StartJob(step)) => self.start_job(world, step),
            (Phase::Running, Event::EndJob(step)) => self.end_job(world, step),
            (Phase::Running, Event::DagTimeout) => {
                let timeout = self.dag_timeout().unwrap_or_default().as_secs();
                let text = format!("Workflow timed out: it ran longer than its dag_timeout of {timeout} seconds.");
                self.stop_steps(world, &text);
                self.error = Some((Code::DeadlineExceeded, text));
                self.delete_cluster(world);
            }
            (Phase::Deleting, Event::ClusterDeleted) => self.cluster_deleted(world),
            _ => {}
        }
    }

    fn create_cluster(&mut self, world: &mut World<'_>) {
        self.phase = Phase::Creating;
        self.cluster_uuid = world.uuid();
        self.create = Some(self.cluster_operation(world));
        world.later(world.timing.create_cluster, Event::ClusterReady);
    }

    fn cluster_ready(&mut self, world: &mut World<'_>) {
        let error = self.creation_error(world.storage);
        if let Some(create) = &mut self.create {
            create.done = true;
            create.error = error.as_ref().map(|(_, text)| text.clone()).unwrap_or_default();
        }
        if error.is_some() {
            // The steps stay as they are: none of them ever ran.
            self.error = error;
            return self.delete_cluster(world);
        }
        self.phase = Phase::Running;
        self.dag_started = Some(world.now);
        if let Some(timeout) = self.dag_timeout() {
            world.later(timeout, Event::DagTimeout);
        }
        for step in 0..self.steps.len() {
            if self.steps[step].state == NodeState::Runnable {
                world.later(world.timing.start_job, Event::StartJob(step));
            }
        }
    }

    fn creation_error(&self, storage: &Storage) -> Option<(Code, String)> {
        let zone = self.zone();
        let arranged = self.trouble.iter().find_map(|trouble| match trouble {
            Trouble::QuotaAtCreation => Some((
                Code::Aborted,
                format!("Insufficient 'N2_CPUS' quota. Requested 12.0, available 4.0. (region {})", self.region),
            )),
            Trouble::Stockout => Some((
                Code::Unavailable,
                format!(
                    "The zone 'projects/{}/zones/{zone}' does not have enough resources available to fulfill the request. \
                     (ZONE_RESOURCE_POOL_EXHAUSTED)",
                    self.project
                ),
            )),
            Trouble::CreateFails(text) => Some((Code::Internal, text.clone())),
            _ => None,
        });
        arranged.or_else(|| {
            let config = managed_cluster(&self.message).and_then(|cluster| message(cluster, "config"))?;
            let mut actions = messages(config, "initialization_actions");
            let missing = actions.find(|action| is_missing(storage, text(action, "executable_file")))?;
            let uri = text(missing, "executable_file");
            Some((Code::InvalidArgument, format!("Google Cloud Storage object does not exist '{uri}'.")))
        })
    }

    fn start_job(&mut self, world: &mut World<'_>, step: usize) {
        let id = &self.steps[step].id;
        let job = Job {
            id: format!("{id}-{}", world.suffix()),
            uuid: world.uuid(),
            state: JobState::Running,
            details: String::new(),
            labels: self.ordered_job(step).map(labels).unwrap_or_default(),
            changed: world.now,
        };
        let duration = world.durations.get(id).copied().unwrap_or(world.timing.job);
        let missing = self.ordered_job(step).and_then(|job| missing_main_file(world.storage, job));
        let outcome = match (world.outcomes.get(id), missing) {
            (Some(outcome), _) => outcome.clone(),
            (None, Some(uri)) => Outcome::Fail(format!("FileNotFoundException: File not found : {uri}")),
            (None, None) => Outcome::Succeed,
        };
        if outcome != Outcome::Hang {
            world.later(duration, Event::EndJob(step));
        }
        world.started = Some(step);
        let step = &mut self.steps[step];
        step.outcome = outcome;
        step.state = NodeState::Running;
        step.job = Some(job);
    }

    fn end_job(&mut self, world: &mut World<'_>, at: usize) {
        let links = self.job_links(at);
        let step = &mut self.steps[at];
        let Some(job) = &mut step.job else { return };
        job.changed = world.now;
        if let Outcome::Fail(text) = &step.outcome {
            job.state = JobState::Error;
            job.details = if text.is_empty() {
                format!(
                    "Google Cloud Dataproc Agent reports job failure. If logs are available, they can be found at:\n{links}"
                )
            } else {
                format!("Job failed with message [{text}]. Additional details can be found at:\n{links}")
            };
            step.state = NodeState::Failed;
            step.error = job.details.clone();
            let text = format!("Workflow failed: step '{}' failed: {}", step.id, job.details);
            self.error = Some((Code::Aborted, text));
            self.fail_the_rest(world, at);
            return self.delete_cluster(world);
        }
        job.state = JobState::Done;
        step.state = NodeState::Completed;
        if self.steps.iter().all(|step| step.state == NodeState::Completed) {
            return self.delete_cluster(world);
        }
        let completed = self.steps.iter().filter(|step| step.state == NodeState::Completed);
        let completed: BTreeSet<String> = completed.map(|step| step.id.clone()).collect();
        for (next, step) in self.steps.iter_mut().enumerate() {
            if step.state == NodeState::Blocked && step.prerequisites.iter().all(|id| completed.contains(id)) {
                step.state = NodeState::Runnable;
                world.later(world.timing.start_job, Event::StartJob(next));
            }
        }
    }

    /// A failed step takes its dependants with it, then the jobs beside it, then what would have come later.
    fn fail_the_rest(&mut self, world: &World<'_>, failed: usize) {
        let mut down = vec![self.steps[failed].id.clone()];
        let culprit = down[0].clone();
        while let Some(id) = down.pop() {
            let dependants =
                self.steps.iter_mut().filter(|it| it.state == NodeState::Blocked && it.prerequisites.contains(&id));
            for step in dependants {
                step.state = NodeState::Failed;
                step.error = format!("Job was not run: its prerequisite step '{id}' failed.");
                down.push(step.id.clone());
            }
        }
        self.stop_steps(world, &format!("Cancelled because step '{culprit}' of the workflow failed."));
    }

    fn stop_steps(&mut self, world: &World<'_>, why: &str) {
        for step in &mut self.steps {
            if matches!(step.state, NodeState::Completed | NodeState::Failed) {
                continue;
            }
            if let Some(job) = &mut step.job {
                job.state = JobState::Cancelled;
                job.details = why.to_owned();
                job.changed = world.now;
            }
            step.state = NodeState::Failed;
            step.error = why.to_owned();
        }
    }

    fn delete_cluster(&mut self, world: &mut World<'_>) {
        self.phase = Phase::Deleting;
        self.dag_ended = self.dag_started.map(|_| world.now);
        if let Some(create) = &mut self.create {
            create.done = true;
        }
        self.delete = Some(self.cluster_operation(world));
        world.later(world.timing.delete_cluster, Event::ClusterDeleted);
    }

    fn cluster_deleted(&mut self, world: &World<'_>) {
        let text = self.trouble.iter().find_map(|trouble| match trouble {
            Trouble::DeleteFails(text) => Some(text.clone()),
            _ => None,
        });
        if let Some(delete) = &mut self.delete {
            delete.done = true;
            delete.error = text.unwrap_or_default();
        }
        let error = self.error.take();
        self.finish(world, error);
    }

    fn finish(&mut self, world: &World<'_>, error: Option<(Code, String)>) {
        self.phase = Phase::Done;
        self.ended = Some(world.now);
        let hidden = self.trouble.contains(&Trouble::SuccessDespiteFailure);
        self.error = error.filter(|(code, _)| !(hidden && *code == Code::Aborted));
    }

    fn cluster_operation(&self, world: &mut World<'_>) -> proto::ClusterOperation {
        proto::ClusterOperation {
            operation_id: format!("projects/{}/regions/{}/operations/{}", self.project, self.region, world.uuid()),
            error: String::new(),
            done: false,
        }
    }

    fn ordered_job(&self, step: usize) -> Option<&DynamicMessage> {
        messages(message(&self.message, "template")?, "jobs").nth(step)
    }

    pub(crate) fn dag_timeout(&self) -> Option<Duration> {
        let timeout = message(message(&self.message, "template")?, "dag_timeout")?;
        Some(Duration::from_secs(u64::try_from(number(timeout, "seconds")).unwrap_or(0)))
    }

    fn zone(&self) -> String {
        let zone = managed_cluster(&self.message)
            .and_then(|cluster| message(message(cluster, "config")?, "gce_cluster_config"))
            .map_or("", |config| text(config, "zone_uri"));
        let zone = zone.rsplit('/').next().unwrap_or_default();
        if zone.is_empty() { format!("{}-a", self.region) } else { zone.to_owned() }
    }

    /// Where the agent puts the driver's output: a prefix of objects in the cluster's staging bucket.
    pub(crate) fn driver_output(&self, job: &Job) -> String {
        let bucket = managed_cluster(&self.message)
            .and_then(|cluster| message(cluster, "config"))
            .map(|config| text(config, "config_bucket"))
            .filter(|bucket| !bucket.is_empty())
            .map_or_else(|| format!("dataproc-staging-{}", self.region), str::to_owned);
        let (cluster, job) = (&self.cluster_uuid, &job.id);
        format!("gs://{bucket}/google-cloud-dataproc-metainfo/{cluster}/jobs/{job}/driveroutput")
    }

    fn job_links(&self, step: usize) -> String {
        let Some(job) = &self.steps[step].job else {
            return String::new();
        };
        let Workflow { project, region, .. } = self;
        let (id, output) = (&job.id, self.driver_output(job));
        format!(
            "https://console.cloud.google.com/dataproc/jobs/{id}?project={project}&region={region}\n\
             gcloud dataproc jobs wait '{id}' --region '{region}' --project '{project}'\n\
             {output}.*"
        )
    }
}

pub(crate) fn managed_cluster(request: &DynamicMessage) -> Option<&DynamicMessage> {
    message(message(message(request, "template")?, "placement")?, "managed_cluster")
}

/// The job's main file, where it is in a bucket that exists here and is not there.
fn missing_main_file(storage: &Storage, job: &DynamicMessage) -> Option<String> {
    let of_type = of_oneof(job)?;
    let main_files = ["main_python_file_uri", "main_jar_file_uri", "main_r_file_uri", "query_file_uri"];
    let mut uris = main_files.into_iter().map(|field| text(of_type, field));
    uris.find(|uri| is_missing(storage, uri)).map(str::to_owned)
}

/// A bucket that the emulator does not have is somebody else's, and whatever is said to be in it is.
fn is_missing(storage: &Storage, uri: &str) -> bool {
    uri.strip_prefix("gs://")
        .and_then(|path| path.split_once('/'))
        .is_some_and(|(bucket, name)| storage.has_bucket(bucket) && storage.content(bucket, name).is_none())
}
