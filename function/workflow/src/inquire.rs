//! Messages about a run rather than for one: its status, and its cancellation.

use gcloud_sdk::tonic::Code;

use crate::{
    advance::advance,
    bury::bury,
    context::Context,
    error::{CallError, Error},
    outcome::Failure,
    record::{Cancel, Correlation, Kind, Record, State},
    records::{self, Found, Loaded},
    request::{Action, Request},
    response::Answer,
    storage::Written,
    trigger::Message,
};

/// Who keeps changing the record is the run itself; a redelivery follows.
const MOST_ATTEMPTS: usize = 5;

/// Answers with the run as it stands; a cancel is entered into the record first.
///
/// # Errors
/// While the message is not answered: for lack of storage or of the response topic.
pub async fn inquire(cx: &Context, message: &Message, request: &Request, mut to: Correlation) -> Result<String, Error> {
    if let Some(run_id) = request.run_id {
        to.run_id = run_id;
        // It names the run, not the job.
        to.job_name = None;
    }
    for _ in 0..MOST_ATTEMPTS {
        match records::load(cx, to.run_id).await.map_err(Error::NotRecorded)? {
            Found::Record(run) if run.record.state == State::Awaited => {
                if let Some(what) = inquire_unrecorded(cx, message, request, &to, Some(*run)).await? {
                    return Ok(what);
                }
            }
            Found::Record(run) => {
                if let Some(what) = inquire_recorded(cx, message, request, &mut to, *run).await? {
                    return Ok(what);
                }
            }
            Found::Missing => {
                if let Some(what) = inquire_unrecorded(cx, message, request, &to, None).await? {
                    return Ok(what);
                }
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

/// Answers about a run whose request has not come. A cancel of it is recorded, and followed when the request comes; none
/// if something else was recorded meanwhile.
async fn inquire_unrecorded(
    cx: &Context,
    message: &Message,
    request: &Request,
    to: &Correlation,
    awaited: Option<Loaded>,
) -> Result<Option<String>, Error> {
    let mut text = "no such run is recorded".to_owned();
    if request.action == Action::Cancel {
        text.push_str("; a request of it that was published before this cancel will be cancelled");
        let requested = message.published.unwrap_or_else(|| cx.now());
        let cancel = Cancel { message_id: message.id.clone(), requested, sent: false };
        let (replaced, known) = awaited.map_or((0, None), |awaited| (awaited.generation, awaited.record.cancel));
        if known.is_none_or(|known| known.requested < requested) {
            let record = Record::awaited(to.clone(), cancel, cx.now());
            match records::store(cx, &record, replaced).await.map_err(Error::NotRecorded)? {
                Written::Lost => return Ok(None),
                Written::At(_) => {}
            }
        }
    }
    answer(cx, to, false, Failure::new(Code::NotFound, text)).await?;
    Ok(Some("answered: not found".to_owned()))
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
