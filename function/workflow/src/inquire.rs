//! Messages about a run rather than for one: its status, and its cancellation.

use std::time::Duration;

use gcloud_sdk::tonic::Code;

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
                answer(cx, &to, false, failure).await?;
                return Ok("answered: not found".to_owned());
            }
            Found::UnknownVersion(version) => return answer_unknown_version(cx, &to, version).await,
            Found::Unreadable { generation, content, reason } => {
                bury(cx, &to, (generation, content), &reason, None).await.map_err(Error::NotRecorded)?;
            }
        }
    }
    let object = records::record_object(to.run_id);
    Err(Error::NotRecorded(CallError::overtaken("Storage.WriteObject", object, "others keep changing the record")))
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
        let what = "answered, cancel requested";
        return Ok(Some(match advance(cx, &cx.writer(), run, None).await {
            Ok(_) => what.to_owned(),
            Err(error) => format!("{what}, left to the next tick: {error}"),
        }));
    }
    Ok(Some("answered".to_owned()))
}

/// Answers a message whose run's record was written by a program that knows more than this one.
pub async fn answer_unknown_version(cx: &Context, to: &Correlation, version: u64) -> Result<String, Error> {
    let text = format!("the run's record has version {version}, unknown to this release");
    answer(cx, to, true, Failure::new(Code::FailedPrecondition, text)).await?;
    Ok("answered: the record cannot be read by this release".to_owned())
}

async fn answer(cx: &Context, to: &Correlation, found: bool, failure: Failure) -> Result<(), Error> {
    let answer = Answer { found: Some(found), failure: Some(failure), ..Answer::default() };
    let message = cx.speaker.answer(to, Kind::Answered, answer, cx.now());
    cx.responses.publish(&message).await.map_err(Error::NotRecorded)
}
