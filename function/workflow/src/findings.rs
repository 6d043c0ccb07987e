//! What the jobs of an ended workflow show: their errors and where their drivers' output is.
//!
//! One listing tells of all of a run's jobs; single jobs are asked for only where it does not. What was learnt is kept in
//! the record, so that a run with many steps ends after a few events, however slow the calls are.

use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join_all;
use gcloud_sdk::tonic::Code;
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use crate::{
    context::Context,
    error::{CallError, Origin},
    outcome::{FAILED, JobFacts, Observation},
    record::Findings,
};

/// What must be left of the event: for the record of what was learnt, or of the end.
const FOR_THE_RECORD: Duration = Duration::from_millis(2250);
/// So long the jobs are waited for; then the end is told without the details that could not be had.
const LONGEST_READING: TimeDelta = TimeDelta::minutes(5);
/// Of the jobs that the listing does not tell of, no more are asked for.
const MOST_SINGLE_JOBS: usize = 16;

/// Reads the listing of the run's jobs, from where the last event left it, as far as there is time. `steps` is how many
/// jobs there are.
pub async fn list(cx: &Context, findings: &mut Findings, run_id: Uuid, steps: usize) {
    let until = cx.leaving(FOR_THE_RECORD);
    while !findings.listed && Instant::now() < until {
        match cx.dataproc.jobs(run_id, &findings.next_page, until).await {
            Ok(page) => {
                findings.listed = page.next_page_token.is_empty();
                findings.next_page = page.next_page_token;
                for job in page.jobs {
                    let id = job.reference.as_ref().map(|reference| reference.job_id.clone()).unwrap_or_default();
                    findings.jobs.insert(id, JobFacts::of(job, steps));
                }
            }
            // A page's token is not valid for ever.
            Err(error) if error.code == Code::InvalidArgument && !findings.next_page.is_empty() => {
                return findings.next_page.clear();
            }
            Err(error) => {
                warn!(%run_id, %error, "jobs not listed");
                findings.listed = is_refused(&error);
                return;
            }
        }
    }
}

/// Asks for what the listing did not tell. Says whether the run can end with what is known now.
pub async fn complete(cx: &Context, findings: &mut Findings, run_id: Uuid, workflow: &Observation) -> bool {
    let until = cx.leaving(FOR_THE_RECORD);
    let steps = workflow.progress.steps.len();
    if steps == 0 || findings.since + LONGEST_READING < cx.now() {
        return true;
    }
    if !findings.listed {
        return false;
    }
    let mut missing: Vec<_> = workflow.progress.steps.iter().filter(|step| step.job_id.is_some()).collect();
    // Those that failed say why the run did.
    missing.sort_by_key(|step| step.state != FAILED);
    let ids = missing.into_iter().filter_map(|step| step.job_id.as_deref());
    let unknown: Vec<&str> = ids.filter(|id| !findings.jobs.contains_key(*id)).take(MOST_SINGLE_JOBS).collect();
    if findings.asked || unknown.is_empty() {
        return true;
    }
    let answers = join_all(unknown.iter().map(|id| cx.dataproc.job(id, until))).await;
    let mut complete = true;
    for (id, answer) in unknown.into_iter().zip(answers) {
        match answer {
            Ok(job) => {
                let facts = job.map(|job| JobFacts::of(job, steps)).unwrap_or_default();
                findings.jobs.insert(id.to_owned(), facts);
            }
            Err(error) => {
                warn!(%run_id, %error, "a job's details could not be read");
                complete &= is_refused(&error);
            }
        }
    }
    findings.asked = complete;
    complete
}

/// The service does not tell this function, or not in this way: asking again is of no use.
fn is_refused(error: &CallError) -> bool {
    error.origin == Origin::Service
        && matches!(error.code, Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented)
}
