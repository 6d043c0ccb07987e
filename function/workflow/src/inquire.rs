//! Messages about a run rather than for one: its status, and its cancellation.

use std::time::Duration;

use gcloud_sdk::tonic::Code;
use tracing::warn;

use crate::{
    advance::advance,
    bury::bury,
    clock::after,
    context::Context,
    error::{CallError, Error},
    outcome::Failure,
    record::{Cancel, Correlation, Kind},
    records::{self, Found, Loaded},
    request::{Action, Request},
    response::Answer,
    storage::Written,
    trigger::Message,
};

/// So long after its publication a cancel may have overtaken the request it is meant for.
const OVERTAKING: Duration = Duration::from_secs(60);
/// Who keeps changing the record is the run itself; a redelivery follows.
const MOST_ATTEMPTS: usize = 5;

/// Answers with the run as it stands; a cancel is entered into the record first.
///
/// # Errors
/// While the message is not answered: for want of storage or of the response topic, or because it came too early.
pub async fn inquire(cx: &Context, message: &Message, request: &Request, mut to: Correlation) -> Result<String, Error> {
    if let Some(run_id) = request.run_id {
        to.run_id = run_id;
        // It names the run, not the job.
        to.job_name = None;
    }
    for _ in 0..MOST_ATTEMPTS {
        match records::load(cx, to.run_id).await.map_err(Error::NotRecorded)? {
            Found::Record(run) => {
                if let Some(what) = inquire_recorded(cx, message, request, &mut to, *run).await? {
                    return Ok(what);
                }
            }
            Found::Missing => {
                let published = message.published.unwrap_or_else(|| cx.now());
                if request.action == Action::Cancel && cx.now() < after(published, OVERTAKING) {
                    return Err(Error::Overtaken { run_id: to.run_id });
                }
                let failure = Failure::new(Code::NotFound, "no such run is recorded");
                return answer(cx, &to, unrecorded(false, failure)).await;
            }
            Found::UnknownVersion(version) => {
                let text = format!("the run's record has version {version}, unknown to this release");
                let failure = Failure::new(Code::FailedPrecondition, text);
                return answer(cx, &to, unrecorded(true, failure)).await;
            }
            Found::Unreadable { generation, content, reason } => {
                bury(cx, &to, (generation, content), &reason, None).await.map_err(Error::NotRecorded)?;
            }
        }
    }
    Err(Error::NotRecorded(CallError {
        method: "Storage.WriteObject",
        resource: records::record_object(to.run_id),
        code: Code::Aborted,
        message: "others keep changing the record".to_owned(),
        never_sent: false,
    }))
}

/// Answers about a run that is recorded; none if the record changed meanwhile.
async fn inquire_recorded(
    cx: &Context,
    message: &Message,
    request: &Request,
    to: &mut Correlation,
    mut run: Loaded,
) -> Result<Option<String>, Error> {
    to.job_name = run.record.correlation.job_name.clone();
    to.request_id = run.record.correlation.request_id.clone();
    let cancel = request.action == Action::Cancel && !run.record.state.is_end();
    if cancel && run.record.cancel.is_none() {
        let mut record = run.record.clone();
        record.cancel = Some(Cancel { message_id: message.id.clone(), requested: cx.now(), sent: false });
        match records::store(cx, &record, run.generation).await.map_err(Error::NotRecorded)? {
            Written::At(generation) => run = Loaded { record, generation },
            Written::Lost => return Ok(None),
        }
    }
    let answered = cx.speaker.answered(to, &run.record, (None, &[]), cx.now());
    cx.responses.publish(&answered).await.map_err(Error::NotRecorded)?;
    if cancel {
        let run_id = run.record.run_id();
        if let Err(error) = advance(cx, &cx.writer(), run, None).await {
            warn!(%run_id, %error, "left to the next tick");
        }
        return Ok(Some("answered, cancel requested".to_owned()));
    }
    Ok(Some("answered".to_owned()))
}

fn unrecorded(found: bool, failure: Failure) -> Answer {
    Answer { found: Some(found), failure: Some(failure), ..Answer::default() }
}

/// Publishes the answer to a message whose run cannot be shown.
pub async fn answer(cx: &Context, to: &Correlation, answer: Answer) -> Result<String, Error> {
    let what = match answer.found {
        Some(false) => "answered: not found",
        _ => "answered: the record cannot be read by this release",
    };
    let message = cx.speaker.answer(to, Kind::Answered, answer, cx.now());
    cx.responses.publish(&message).await.map_err(Error::NotRecorded)?;
    Ok(what.to_owned())
}
