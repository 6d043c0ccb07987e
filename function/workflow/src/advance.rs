//! One run, one step: look, submit, follow, finish. May be called at any time, by anyone, twice.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use gcloud_sdk::google::cloud::dataproc::v1::Job;
use gcloud_sdk::tonic::Code;
use tracing::{error, warn};

use crate::{
    clock::{after, until},
    context::Context,
    dataproc::INSTANTIATE_DEADLINE,
    error::{CallError, Origin},
    journal,
    outcome::{Observation, observe},
    record::{Record, State},
    records::{self, Found, Loaded, marker_object},
    run::{Next, Sighting},
    storage::Written,
    template::{self, InstantiateRequest},
};

/// A run needs a few steps at most: lease, look, submit; or announce, follow, finish. More means that others keep
/// changing the record, and the next tick comes anyway.
const MOST_STEPS: usize = 12;
/// What must be left of the event after a submission: for the event that says so and the record of it.
const AFTER_SUBMISSION: Duration = Duration::from_millis(1500);
/// A submission is not worth trying in less time.
const LEAST_SUBMISSION: Duration = Duration::from_millis(250);
/// The end of a lease is kept clear of, for clocks differ.
const LEASE_MARGIN: Duration = Duration::from_millis(250);
const JOBS_AT_ONCE: usize = 16;
/// So long after a workflow's end its jobs' details are waited for.
const JOBS_PATIENCE: TimeDelta = TimeDelta::minutes(5);

/// Whether the run can be taken further now.
enum Step {
    Again,
    Done,
}

/// Takes a run as far as it goes now. `marker` is the generation of the run's marker as it was before the record was
/// read, where the caller knows it.
///
/// # Errors
/// The call that failed. The record stands, and the next tick goes on from it.
pub async fn advance(cx: &Context, writer: &str, mut run: Loaded, marker: Option<i64>) -> Result<Record, CallError> {
    for _ in 0..MOST_STEPS {
        let next = run.record.next(cx.now(), writer, &cx.patience());
        let step = match next {
            Next::Leave => Step::Done,
            Next::Announce => announce(cx, writer, &mut run).await?,
            Next::TakeLease => take_lease(cx, writer, &mut run).await?,
            Next::Look => look(cx, writer, &mut run).await?,
            Next::Cancel => end(cx, &mut run, |record| record.cancelled(cx.now())).await?,
            Next::Expire => end(cx, &mut run, |record| record.expired(cx.now(), &cx.patience())).await?,
            Next::Submit => submit(cx, writer, &mut run).await?,
            Next::Follow => follow(cx, writer, &mut run).await?,
            Next::Finish => finish(cx, &run, marker).await?,
        };
        if let Step::Done = step {
            break;
        }
    }
    Ok(run.record)
}

/// Records `changed`. If somebody else was there first, takes what stands now; `false` then, and the change is undone.
async fn commit(cx: &Context, run: &mut Loaded, changed: Record) -> Result<bool, CallError> {
    match records::store(cx, &changed, run.generation).await? {
        Written::At(generation) => {
            journal::written(Some(&run.record), &changed);
            run.record = changed;
            run.generation = generation;
            Ok(true)
        }
        Written::Lost => match records::load(cx, run.record.run_id()).await? {
            Found::Record(standing) => {
                *run = *standing;
                Ok(false)
            }
            _ => Err(records::taken_away(run.record.run_id())),
        },
    }
}

async fn take_lease(cx: &Context, writer: &str, run: &mut Loaded) -> Result<Step, CallError> {
    let mut changed = run.record.clone();
    changed.take_lease(writer, cx.now(), &cx.patience());
    commit(cx, run, changed).await?;
    Ok(Step::Again)
}

/// Publishes the last event, which only the one who holds the run may do for the first time.
async fn announce(cx: &Context, writer: &str, run: &mut Loaded) -> Result<Step, CallError> {
    let mine = run
        .record
        .lease
        .as_ref()
        .is_some_and(|lease| lease.writer == writer && until(cx.now(), lease.until) > cx.left());
    if !mine {
        let mut changed = run.record.clone();
        changed.hold_to_announce(writer, cx.now());
        commit(cx, run, changed).await?;
        // Others may have gone on meanwhile: think again, with the lease.
        return Ok(Step::Again);
    }
    publish_last(cx, &run.record).await?;
    let mut changed = run.record.clone();
    changed.announced();
    commit(cx, run, changed).await?;
    Ok(Step::Again)
}

/// Finds out whether an earlier submission was executed.
async fn look(cx: &Context, writer: &str, run: &mut Loaded) -> Result<Step, CallError> {
    let now = cx.now();
    let sighting =
        cx.dataproc.workflows().await.map(|operations| run.record.recognise(operations.iter().map(observe).collect()));
    let mut changed = run.record.clone();
    match sighting {
        Ok(Sighting::Found(workflow)) => return take_in(cx, writer, run, &workflow).await,
        // The look began at `now`; only what was settled then is settled.
        Ok(Sighting::Absent) => changed.not_found(now),
        Ok(Sighting::Unsure) => changed.look_again(now, &cx.patience()),
        Err(error) => {
            changed.look_again(now, &cx.patience());
            commit(cx, run, changed).await?;
            return Err(error);
        }
    }
    let settled = changed.unsettled_until.is_none();
    commit(cx, run, changed).await?;
    match settled {
        true => Ok(Step::Again),
        false => Ok(Step::Done),
    }
}

/// Submits the workflow. Only the holder of the lease comes here, and only when nothing of the run can be under way.
async fn submit(cx: &Context, writer: &str, run: &mut Loaded) -> Result<Step, CallError> {
    let record = &run.record;
    let now = cx.now();
    let lease_left = record.lease.as_ref().map_or(Duration::ZERO, |lease| until(now, lease.until));
    let deadline = INSTANTIATE_DEADLINE
        .min(lease_left.saturating_sub(LEASE_MARGIN))
        .min(cx.left().saturating_sub(AFTER_SUBMISSION));
    if deadline < LEAST_SUBMISSION {
        // Nothing was submitted: whoever comes next need not look.
        let mut changed = record.clone();
        changed.release();
        commit(cx, run, changed).await?;
        return Ok(Step::Done);
    }
    let request = match request(cx, record) {
        Ok(request) => request,
        Err(reason) => {
            let error = CallError {
                method: "WorkflowTemplate",
                resource: records::record_object(record.run_id()),
                code: Code::InvalidArgument,
                message: format!("the record's template cannot be read: {reason}"),
                origin: Origin::NotExecuted,
            };
            return refuse(cx, writer, run, &error, now).await;
        }
    };
    match cx.dataproc.instantiate(&request, deadline).await {
        Ok(operation) => take_in(cx, writer, run, &observe(&operation)).await,
        Err(error) => {
            warn!(run_id = %record.run_id(), attempt = record.attempt, %error, "workflow not submitted");
            refuse(cx, writer, run, &error, after(now, deadline)).await
        }
    }
}

fn request(cx: &Context, record: &Record) -> Result<InstantiateRequest, prost::DecodeError> {
    let (run_id, attempt) = (record.run_id(), record.attempt);
    let base = &record.cluster_base_name;
    let template = template::for_attempt(&record.template, base, run_id, attempt, record.leave_zone)?;
    Ok(template::instantiate_request(&cx.environment.project, &cx.environment.region, template, run_id, attempt))
}

/// Records that Dataproc has the workflow, and says so. Others may have changed the record meanwhile (a cancel); as long
/// as the lease is ours the workflow is entered into what stands.
async fn take_in(cx: &Context, writer: &str, run: &mut Loaded, workflow: &Observation) -> Result<Step, CallError> {
    let attempt = run.record.attempt;
    let now = cx.now();
    let submitted = |record: &Record| {
        let mut changed = record.clone();
        changed.submitted(now, workflow);
        changed
    };
    let mut changed = submitted(&run.record);
    let published = publish_last(cx, &changed).await;
    loop {
        if published.is_ok() {
            changed.announced();
        }
        if commit(cx, run, changed).await? || !is_submitting(&run.record, writer, attempt) {
            break;
        }
        changed = submitted(&run.record);
    }
    // What could not be said is said by the next tick.
    published.map(|()| Step::Done)
}

fn is_submitting(record: &Record, writer: &str, attempt: u32) -> bool {
    matches!(record.state, State::Accepted | State::Waiting)
        && record.attempt == attempt
        && record.lease.as_ref().is_some_and(|lease| lease.writer == writer)
}

/// Records a refusal, and what comes of it.
async fn refuse(
    cx: &Context,
    writer: &str,
    run: &mut Loaded,
    error: &CallError,
    called_until: chrono::DateTime<chrono::Utc>,
) -> Result<Step, CallError> {
    let attempt = run.record.attempt;
    loop {
        let mut changed = run.record.clone();
        let patience = cx.patience();
        let waiter = (writer, &patience, cx.jitter());
        changed.refused(cx.now(), error, called_until, waiter);
        if commit(cx, run, changed).await? {
            return Ok(Step::Again);
        }
        if !is_submitting(&run.record, writer, attempt) {
            return Ok(Step::Done);
        }
    }
}

/// Sees how far Dataproc is.
async fn follow(cx: &Context, writer: &str, run: &mut Loaded) -> Result<Step, CallError> {
    let name = run.record.operation.clone().unwrap_or_default();
    let operation = cx.dataproc.operation(&name).await?;
    let mut changed = run.record.clone();
    let Some(operation) = operation else {
        if changed.missing(cx.now()) {
            commit(cx, run, changed).await?;
        }
        return match run.record.state.is_end() {
            true => Ok(Step::Again),
            false => Ok(Step::Done),
        };
    };
    let workflow = observe(&operation);
    if workflow.done {
        let jobs = jobs(cx, &workflow).await?;
        let cancel_sent = changed.cancel.as_ref().is_some_and(|cancel| cancel.sent);
        let conclusion = workflow.conclude(&jobs, cancel_sent);
        let patience = cx.patience();
        let waiter = (writer, &patience, cx.jitter());
        changed.concluded(cx.now(), &workflow, conclusion, waiter);
        if commit(cx, run, changed).await?
            && let Some(reason) = workflow.delete_error()
        {
            let cluster = workflow.cluster_name.as_str();
            error!(run_id = %run.record.run_id(), cluster, reason, "cluster left behind: its deletion failed");
        }
        return Ok(Step::Again);
    }
    if let Some(cancel) = changed.cancel.as_mut().filter(|cancel| !cancel.sent) {
        cx.dataproc.cancel(&name).await?;
        cancel.sent = true;
        changed.progressed(cx.now(), &workflow, writer);
        return record_news(cx, writer, run, changed).await;
    }
    let known_missing = changed.missing_since.is_some();
    match changed.progressed(cx.now(), &workflow, writer) || known_missing {
        true => record_news(cx, writer, run, changed).await,
        false => Ok(Step::Done),
    }
}

/// Records how far a workflow is, says it, and rests: it will not have moved on within this event.
async fn record_news(cx: &Context, writer: &str, run: &mut Loaded, changed: Record) -> Result<Step, CallError> {
    if !commit(cx, run, changed).await? {
        return Ok(Step::Again);
    }
    if run.record.has_news() {
        announce(cx, writer, run).await?;
    }
    Ok(Step::Done)
}

/// The jobs of an ended workflow. Some time after the end the outcome is told without those that cannot be had.
async fn jobs(cx: &Context, workflow: &Observation) -> Result<BTreeMap<String, Job>, CallError> {
    let mut waiting = workflow.job_ids();
    let mut under_way = FuturesUnordered::new();
    let mut jobs = BTreeMap::new();
    loop {
        while under_way.len() < JOBS_AT_ONCE
            && let Some(id) = waiting.next()
        {
            under_way.push(cx.dataproc.job(id).map(move |job| (id, job)));
        }
        match under_way.next().await {
            Some((id, Ok(Some(job)))) => {
                jobs.insert(id.to_owned(), job);
            }
            Some((_, Ok(None))) => {}
            Some((_, Err(error))) => match workflow.ended {
                Some(ended) if ended + JOBS_PATIENCE < cx.now() => {
                    warn!(operation = workflow.name, %error, "a step's outcome is told without its job's details");
                }
                _ => return Err(error),
            },
            None => return Ok(jobs),
        }
    }
}

/// Ends a run that has no workflow.
async fn end(cx: &Context, run: &mut Loaded, transition: impl FnOnce(&mut Record)) -> Result<Step, CallError> {
    let mut changed = run.record.clone();
    transition(&mut changed);
    commit(cx, run, changed).await?;
    Ok(Step::Again)
}

/// The run has ended, and the record says so: tell it, and forget the run.
async fn finish(cx: &Context, run: &Loaded, marker: Option<i64>) -> Result<Step, CallError> {
    publish_last(cx, &run.record).await?;
    let run_id = run.record.run_id();
    let marker = match marker {
        Some(marker) => marker,
        None => {
            let standing = cx.storage.generation(&marker_object(run_id)).await?;
            // Whoever starts the run anew writes the record first: while this one stands, so does its marker.
            let same = matches!(
                records::load(cx, run_id).await?,
                Found::Record(now) if now.generation == run.generation
            );
            match standing {
                Some(marker) if same => marker,
                _ => return Ok(Step::Done),
            }
        }
    };
    // Lost: somebody has started the run anew, and the marker is theirs.
    cx.storage.delete(&marker_object(run_id), marker).await?;
    Ok(Step::Done)
}

/// Publishes a run's last event.
pub async fn publish_last(cx: &Context, record: &Record) -> Result<(), CallError> {
    match &record.last_event {
        Some(event) => {
            let message = cx.speaker.announcement(record, event);
            cx.responses.publish(&message).await
        }
        None => Ok(()),
    }
}
