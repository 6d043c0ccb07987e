//! What a test can arrange about Dataproc: how long things take, how they go, and what is unconfirmed of the real service.

use std::time::Duration;

use crate::fault::When;
use crate::quota::Quota;

/// What the service answers to a `request_id` that it has seen; its documentation leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepeatedRequestId {
    /// The operation that the first call began.
    SameOperation,
    AlreadyExists,
    /// A new workflow, as if it had been another id.
    SecondWorkflow,
}

/// A trouble for the workflows whose managed cluster's name begins with `cluster` (empty: for any).
#[derive(Clone, Debug)]
pub struct Mishap {
    pub cluster: String,
    pub what: Trouble,
    pub when: When,
}

/// What is configurable about the service, most of it unconfirmed of the real one.
#[derive(Clone, Debug)]
pub struct DataprocOptions {
    pub timing: Timing,
    /// Whether `cluster_name` and the cluster in the operation's metadata stay empty while it is PENDING.
    pub hide_pending_cluster: bool,
    /// A repeated `request_id` while the first workflow runs, and after it has ended.
    pub repeat_while_running: RepeatedRequestId,
    pub repeat_after_end: RepeatedRequestId,
    /// The most operations on one page of a list, whatever the caller asks for.
    pub operations_page: usize,
    /// The same for jobs.
    pub jobs_page: usize,
    /// Whether a list of operations, or of jobs, with a filter is refused with INVALID_ARGUMENT.
    pub refuse_operation_filters: bool,
    pub refuse_job_filters: bool,
    /// None: calls are not counted.
    pub quota: Option<Quota>,
}

impl Default for DataprocOptions {
    fn default() -> DataprocOptions {
        DataprocOptions {
            timing: Timing::default(),
            hide_pending_cluster: false,
            repeat_while_running: RepeatedRequestId::SameOperation,
            repeat_after_end: RepeatedRequestId::SecondWorkflow,
            operations_page: 1000,
            jobs_page: 500,
            refuse_operation_filters: false,
            refuse_job_filters: false,
            quota: None,
        }
    }
}

/// What the stages of a workflow take in the real service, about; shortened by the clock's speed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Until the operation leaves PENDING.
    pub pending: Duration,
    pub create_cluster: Duration,
    /// From RUNNABLE to RUNNING.
    pub start_job: Duration,
    pub job: Duration,
    pub delete_cluster: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            pending: Duration::from_secs(1),
            create_cluster: Duration::from_secs(90),
            start_job: Duration::from_secs(1),
            job: Duration::from_secs(20),
            delete_cluster: Duration::from_secs(30),
        }
    }
}

/// How a step goes, where a test wants it to go otherwise than well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeed,
    /// The job's driver ends with this message.
    Fail(String),
    /// The job never ends by itself.
    Hang,
}

/// What can go wrong with a workflow beside its steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The operation ends without an error although a node failed; reported of the real service.
    SuccessDespiteFailure,
    /// The call itself is refused with INVALID_ARGUMENT for want of quota.
    QuotaRefused,
    /// The quota is found wanting when the cluster is created; the operation ends with ABORTED.
    QuotaAtCreation,
    /// The zone has no machines; the operation ends with UNAVAILABLE.
    Stockout,
    CreateFails(String),
    DeleteFails(String),
}
