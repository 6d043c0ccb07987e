//! The reconciler: takes one run as far as it goes now. It is safe to call at any time, concurrently, twice.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::join;
use gcloud_sdk::tonic::Code;
use tracing::{error, warn};

use crate::{
    clock::{after, until},
    context::Context,
    dataproc::INSTANTIATE_DEADLINE,
    error::{CallError, Origin},
    findings, journal,
    outcome::{Evidence, Observation, observe},
    pubsub::is_refused,
    record::{Findings, Record, State},
    records::{self, Found, Loaded, marker_object},
    refusal::{Refusal, refusal},
    run::{Next, Sighting, Turn},
    storage::Written,
    template::{self, InstantiateRequest},
};

/// A run needs a few steps at most: lease, look, submit; or announce, follow, finish. More means that others keep
/// changing the record, and the next tick comes anyway.
const MOST_STEPS: usize = 12;
/// What must be left of the event after a submission: for the record of it.
const AFTER_SUBMISSION: Duration = Duration::from_millis(2250);
/// What must be left after a look among the workflows: for the record of what it found.
const AFTER_LOOK: Duration = Duration::from_millis(2250);
/// With less left after a look, the submission is left to the next event.
const LOOK_AND_SUBMISSION: Duration = Duration::from_millis(4000);
/// A submission is not worth trying in less time.
const LEAST_SUBMISSION: Duration = Duration::from_millis(250);
/// The end of a lease is kept clear of, for clocks differ.
const LEASE_MARGIN: Duration = Duration::from_millis(250);

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
        let turn = cx.turn(writer);
        let step = match run.record.next(&turn) {
            Next::Leave => Step::Done,
            Next::Announce => announce(cx, &mut run).await?,
            Next::Look => look(cx, &turn, &mut run).await?,
            Next::Cancel => change(cx, &mut run, |record| record.cancelled(turn.now)).await?,
            Next::Expire => change(cx, &mut run, |record| record.expired(&turn)).await?,
            Next::TakeLease if cx.dataproc.submissions_are_paused() => Step::Done,
            Next::TakeLease => change(cx, &mut run, |record| record.take_lease(&turn)).await?,
            Next::Submit => submit(cx, &turn, &mut run).await?,
            Next::Follow => follow(cx, &turn, &mut run).await?,
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

/// Records a transition. If the record had changed meanwhile, what comes next is decided anew.
async fn change(cx: &Context, run: &mut Loaded, transition: impl FnOnce(&mut Record)) -> Result<Step, CallError> {
    let mut changed = run.record.clone();
    transition(&mut changed);
    commit(cx, run, changed).await?;
    Ok(Step::Again)
}

/// Publishes the last event. Nothing that comes after it is recorded before, so that events are published in their order;
/// that two instances publish the same one does no harm.
async fn announce(cx: &Context, run: &mut Loaded) -> Result<Step, CallError> {
    publish_last(cx, &run.record).await?;
    change(cx, run, Record::announced).await
}

/// Finds out whether an earlier submission was executed.
async fn look(cx: &Context, turn: &Turn, run: &mut Loaded) -> Result<Step, CallError> {
    let mut changed = run.record.clone();
    let deadline = cx.leaving(AFTER_LOOK);
    let since = run.record.looks_since();
    let looked = match cx.workflows.since(cx, since, deadline).await {
        Ok(listing) => {
            let sighting = run.record.recognise(&listing.workflows, cx.deployment, &turn.writer);
            Ok((sighting, listing.began.unwrap_or(turn.now)))
        }
        Err(error) => Err(error),
    };
    let failed = match looked {
        Ok((Sighting::Found(workflow), _)) => return take_in(cx, turn, run, &workflow).await,
        // What was settled when the listing began is settled.
        Ok((Sighting::Absent, began)) => {
            changed.not_found(began, turn);
            // A lease that is not used would have to be looked after again.
            if cx.left() < LOOK_AND_SUBMISSION {
                changed.release();
            }
            None
        }
        Ok((Sighting::Earlier(operation), _)) => {
            changed.wait_for_earlier(&operation, turn);
            None
        }
        Ok((Sighting::Unsure, _)) => {
            changed.look_failed("a workflow that may be this one does not show its name, or its cluster's", turn);
            None
        }
        Err(error) => {
            changed.look_failed(&error.to_string(), turn);
            Some(error)
        }
    };
    if !commit(cx, run, changed).await? || run.record.state.is_end() {
        return Ok(Step::Again);
    }
    let may_submit = run.record.lease.as_ref().is_some_and(|lease| lease.may_submit);
    match failed {
        // The submission is repeated, although an earlier one may have been executed.
        _ if may_submit && run.record.blind_since.is_some() => submit(cx, turn, run).await,
        _ if may_submit => Ok(Step::Again),
        Some(error) => Err(error),
        None => Ok(Step::Done),
    }
}

/// Submits the workflow. Only the holder of the lease comes here.
async fn submit(cx: &Context, turn: &Turn, run: &mut Loaded) -> Result<Step, CallError> {
    let record = &run.record;
    let now = cx.now();
    let lease_left = record.lease.as_ref().map_or(Duration::ZERO, |lease| until(now, lease.until));
    // Where calls are slow the call has all that is left, and the next event looks for what came of it.
    let reserve = if cx.left() < 2 * AFTER_SUBMISSION { LEASE_MARGIN } else { AFTER_SUBMISSION };
    let deadline =
        INSTANTIATE_DEADLINE.min(lease_left.saturating_sub(LEASE_MARGIN)).min(cx.left().saturating_sub(reserve));
    if deadline < LEAST_SUBMISSION || cx.dataproc.submissions_are_paused() {
        // Nothing was submitted: the next one need not look.
        change(cx, run, Record::release).await?;
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
                origin: Origin::Service,
            };
            return refuse(cx, turn, run, &error, now).await;
        }
    };
    match cx.dataproc.instantiate(&request, deadline).await {
        Ok(operation) => take_in(cx, turn, run, &observe(&operation)).await,
        Err(error) => {
            warn!(run_id = %record.run_id(), attempt = record.attempt, %error, "workflow not submitted");
            if refusal(&error, &record.request) == Refusal::RateLimited {
                cx.dataproc.pause_submissions();
            }
            refuse(cx, turn, run, &error, after(now, deadline)).await
        }
    }
}

fn request(cx: &Context, record: &Record) -> Result<InstantiateRequest, prost::DecodeError> {
    let (run_id, attempt) = (record.run_id(), record.attempt);
    let template = match attempt == record.template_attempt && !record.leave_zone {
        true => record.template.clone(),
        false => {
            let name = cx.deployment.cluster_name(&record.cluster_base_name, run_id, attempt);
            template::renamed(&record.template, &name, record.leave_zone)?
        }
    };
    let environment = &cx.environment;
    let request_id = cx.deployment.request_id(run_id, attempt);
    Ok(template::instantiate_request(&environment.project, &environment.region, template, request_id))
}

/// Records that Dataproc has the workflow, then publishes that. Others may have changed the record meanwhile (a cancel);
/// as long as the lease is the writer's, the workflow is entered into what they wrote.
async fn take_in(cx: &Context, turn: &Turn, run: &mut Loaded, workflow: &Observation) -> Result<Step, CallError> {
    let attempt = run.record.attempt;
    let turn = &cx.turn(&turn.writer);
    let older = !run.record.can_have_begun(workflow);
    loop {
        let mut changed = run.record.clone();
        match older {
            true => changed.answered_with_older(workflow, turn),
            false => changed.submitted(workflow, turn),
        }
        if commit(cx, run, changed).await? {
            break;
        }
        if !is_submitting(&run.record, &turn.writer, attempt) {
            return Ok(Step::Again);
        }
    }
    if older {
        return Ok(Step::Again);
    }
    announce(cx, run).await?;
    Ok(Step::Done)
}

fn is_submitting(record: &Record, writer: &str, attempt: u32) -> bool {
    matches!(record.state, State::Accepted | State::Waiting)
        && record.attempt == attempt
        && record.lease.as_ref().is_some_and(|lease| lease.writer == writer)
}

/// Records a refusal, and what comes of it.
async fn refuse(
    cx: &Context,
    turn: &Turn,
    run: &mut Loaded,
    error: &CallError,
    called_until: DateTime<Utc>,
) -> Result<Step, CallError> {
    let attempt = run.record.attempt;
    let turn = cx.turn(&turn.writer);
    loop {
        let mut changed = run.record.clone();
        changed.refused(error, called_until, &turn);
        if commit(cx, run, changed).await? {
            return Ok(Step::Again);
        }
        if !is_submitting(&run.record, &turn.writer, attempt) {
            return Ok(Step::Done);
        }
    }
}

/// Sees how far Dataproc is, passes a cancel on, and reads on about the jobs of a workflow that has ended: side by side.
async fn follow(cx: &Context, turn: &Turn, run: &mut Loaded) -> Result<Step, CallError> {
    let name = run.record.operation.clone().unwrap_or_default();
    let (run_id, step_count) = (run.record.run_id(), run.record.step_count);
    let mut changed = run.record.clone();
    let Record { cancel, findings, .. } = &mut changed;
    let pass_cancel_on = async {
        match cancel.as_mut().filter(|cancel| !cancel.sent) {
            Some(cancel) => cx.dataproc.cancel(&name).await.map(|()| cancel.sent = true),
            None => Ok(()),
        }
    };
    let read_on = async {
        if let Some(findings) = findings {
            findings::list(cx, findings, run_id, step_count).await;
        }
    };
    let (seen, cancelled, ()) = join!(see(cx, &run.record, &name), pass_cancel_on, read_on);
    if let Err(error) = cancelled {
        warn!(%run_id, %error, "cancel not sent");
    }
    let cancel_sent = changed.cancel.as_ref().is_some_and(|cancel| cancel.sent);
    let newly_sent = cancel_sent && !run.record.cancel.as_ref().is_some_and(|cancel| cancel.sent);
    let workflow = match seen {
        Ok(Some(workflow)) => workflow,
        Ok(None) => {
            if changed.missing(cx.now()) || newly_sent {
                commit(cx, run, changed).await?;
            }
            return Ok(after_change(&run.record));
        }
        Err(error) => {
            if changed.lost_sight(&error.to_string(), turn) || newly_sent {
                commit(cx, run, changed).await?;
            }
            return match after_change(&run.record) {
                Step::Again => Ok(Step::Again),
                Step::Done => Err(error),
            };
        }
    };
    if workflow.done {
        return conclude(cx, turn, run, changed, &workflow).await;
    }
    if !(changed.progressed(&workflow, turn) || newly_sent) {
        return Ok(Step::Done);
    }
    if !commit(cx, run, changed).await? {
        return Ok(Step::Again);
    }
    // It will not have progressed again within this event.
    if run.record.has_news() {
        announce(cx, run).await?;
    }
    Ok(Step::Done)
}

/// The workflow by its operation, or where that is not told for long, from the listing.
async fn see(cx: &Context, record: &Record, name: &str) -> Result<Option<Observation>, CallError> {
    let error = match cx.dataproc.operation(name).await {
        Ok(operation) => return Ok(operation.as_ref().map(observe)),
        Err(error) => error,
    };
    let Some(_) = record.blind_since else { return Err(error) };
    let deadline = cx.leaving(AFTER_LOOK);
    let Ok(listing) = cx.workflows.since(cx, record.attempt_began, deadline).await else { return Err(error) };
    // Nothing tells how long an ended operation is listed.
    listing.workflows.iter().find(|workflow| workflow.name == name).cloned().map(Some).ok_or(error)
}

fn after_change(record: &Record) -> Step {
    if record.state.is_end() { Step::Again } else { Step::Done }
}

/// The workflow has ended: so does the run, as soon as enough is known of its jobs.
async fn conclude(
    cx: &Context,
    turn: &Turn,
    run: &mut Loaded,
    mut changed: Record,
    workflow: &Observation,
) -> Result<Step, CallError> {
    let run_id = changed.run_id();
    let mut findings = changed.findings.take().unwrap_or_else(|| Findings { since: cx.now(), ..Findings::default() });
    findings::list(cx, &mut findings, run_id, workflow.progress.steps.len()).await;
    if !findings::complete(cx, &mut findings, run_id, workflow).await {
        changed.findings = Some(findings);
        if changed.findings != run.record.findings {
            commit(cx, run, changed).await?;
        }
        return Ok(Step::Done);
    }
    let evidence = Evidence {
        jobs: &findings.jobs,
        cancel_sent: changed.cancel.as_ref().is_some_and(|cancel| cancel.sent),
        step_count: changed.step_count,
        request: &changed.request,
    };
    let (outcome, steps) = workflow.conclude(&evidence);
    changed.concluded(workflow, outcome, steps, turn);
    if commit(cx, run, changed).await?
        && let Some(reason) = workflow.delete_error()
    {
        let cluster = workflow.cluster_name.as_str();
        error!(run_id = %run.record.run_id(), cluster, reason, "cluster left behind: its deletion failed");
    }
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

/// Publishes a run's last event. One that the topic refuses in every form must not stop its run, and counts as published;
/// but not the last event of all, for it is promised, and nothing of the run waits for it.
pub async fn publish_last(cx: &Context, record: &Record) -> Result<(), CallError> {
    match &record.last_event {
        Some(event) => {
            let message = cx.speaker.announcement(record, event);
            match cx.responses.publish(&message).await {
                Err(error) if is_refused(&error) && !record.state.is_end() => {
                    let (run_id, event) = (record.run_id(), &event.id_suffix);
                    error!(%run_id, event, %error, "the topic refuses an event; the run continues without it");
                    Ok(())
                }
                answer => answer,
            }
        }
        None => Ok(()),
    }
}
