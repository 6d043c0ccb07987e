//! A request: from message to record.
//!
//! A message is acked as soon as its record stands in the bucket; from then on nothing depends on its redelivery.

use std::sync::{Arc, PoisonError};

use futures::join;
use gcloud_sdk::tonic::Code;
use serde_json::value::{RawValue, to_raw_value};
use tracing::warn;
use uuid::Uuid;

use crate::{
    advance::{advance, publish_last},
    bury::bury,
    clock::after,
    cluster_config::{self, ClusterConfig},
    context::Context,
    environment::Rules,
    error::{CallError, Error},
    inquire, journal, json,
    outcome::Failure,
    record::{Correlation, Kind, Lease, Record, State},
    records::{self, Found, Loaded},
    request::{self, Action, Request},
    response::{Answer, is_senders_own},
    storage::{Read, Written},
    template::{self, Rendered},
    trigger::Message,
    violation::{Document, Violation},
};

/// What became of a message, for the log.
#[derive(Clone, Debug)]
pub struct Handled {
    pub run_id: Uuid,
    pub job_name: String,
    pub request_id: Option<String>,
    /// Where the fault lies, if it was rejected and nothing recorded.
    pub rejected_by: Option<&'static str>,
    pub what: String,
}

/// Deals with a request message: records the run and takes its first step, or answers why not.
///
/// # Errors
/// Only while nothing is recorded, for want of storage or of the response topic: the message must come again.
pub async fn accept(cx: &Context, message: &Message, traceparent: Option<String>) -> Result<Handled, Error> {
    let (request, faults) = match &message.data {
        Ok(data) => request::decode(data),
        Err(unreadable) => {
            let fault = Violation::decoding(Document::Request, "", unreadable.0.as_str());
            (request::decode(b"{}").0, vec![fault])
        }
    };
    let run_id = request::run_id(&request, &message.topic, &message.id);
    let to = correlation(message, &request, run_id, traceparent);
    let handled = |what: String| Handled {
        run_id: to.run_id,
        job_name: request.job_name.clone(),
        request_id: request.request_id.clone(),
        rejected_by: None,
        what,
    };
    let rejected = |(what, rejected_by): (String, _)| Handled { rejected_by, ..handled(what) };
    if matches!(request.action, Action::Cancel | Action::Status) {
        return match faults.is_empty() {
            true => inquire::inquire(cx, message, &request, to.clone()).await.map(handled),
            false => reject(cx, &to, &request, faults, message).await.map(rejected),
        };
    }
    let config = current_config(cx).await.map_err(Error::NotRecorded)?;
    let (rendered, violations) = render(cx, &request, run_id, config.as_deref(), faults);
    let (refused, warnings) = sort(violations, cx.environment.rules);
    let is_of_config = |violation: &Violation| violation.document == Document::Config;
    if refused.iter().any(is_of_config) {
        let object = cx.environment.config_object.as_str();
        warn!(object, fault = summary(&refused), "the cluster configuration cannot be used");
    }
    let generation = config.map_or(0, |config| config.generation);
    let writer = cx.writer();
    let record = match rendered {
        Some(rendered) if refused.is_empty() && request.action == Action::Validate => {
            let answer = Answer {
                template: Some(template::to_json(&rendered.template)),
                config_entry: Some(rendered.config_entry),
                config_generation: Some(generation),
                warnings,
                received: message.published,
                ..Answer::default()
            };
            let message = cx.speaker.answer(&to, Kind::Validated, answer, cx.now());
            cx.responses.publish(&message).await.map_err(Error::NotRecorded)?;
            return Ok(handled("validated".to_owned()));
        }
        Some(rendered) if refused.is_empty() => {
            new_record(cx, message, &request, &rendered, to.clone(), (generation, warnings), &writer)
        }
        // Once the configuration is mended, the message's next delivery must not become a run: so this is recorded.
        _ if refused.iter().all(is_of_config) && request.action == Action::Run => {
            rejected_record(cx, message, &request, to.clone(), refused)
        }
        _ => return reject(cx, &to, &request, refused, message).await.map(rejected),
    };
    let (stored, ()) = join!(records::store(cx, &record, 0), cx.dataproc.wake());
    match stored.map_err(Error::NotRecorded)? {
        Written::At(generation) => {
            journal::written(None, &record);
            begin(cx, &writer, Loaded { record, generation }).await.map(handled)
        }
        Written::Lost => repeated(cx, &writer, record).await.map(handled),
    }
}

/// Writes the marker of a run that was just recorded, and takes its first step. The marker comes after the record, so that
/// a marker without one tells of a record that was deleted; and both before the message is acknowledged.
async fn begin(cx: &Context, writer: &str, run: Loaded) -> Result<String, Error> {
    let mut run = run;
    let (marker, stood) = records::mark(cx, run.record.run_id()).await.map_err(Error::NotRecorded)?;
    if stood && run.record.attempt == template::FIRST_ATTEMPT && !run.record.state.is_end() {
        // An earlier record of the run was deleted while it was active: its workflow may live.
        run.record.unsettled_until = Some(cx.now());
        match records::store(cx, &run.record, run.generation).await.map_err(Error::NotRecorded)? {
            Written::At(generation) => run.generation = generation,
            Written::Lost => {
                let object = records::record_object(run.record.run_id());
                let text = "another delivery has begun the run";
                return Err(Error::NotRecorded(CallError::overtaken("Storage.WriteObject", object, text)));
            }
        }
    }
    // The message has done its duty, whatever comes of the first step.
    Ok(match advance(cx, writer, run, Some(marker)).await {
        Ok(record) => format!("accepted, {}", describe(&record)),
        Err(error) => format!("accepted, left to the next tick: {error}"),
    })
}

/// The configuration as it stands, downloaded and parsed only when it has changed.
async fn current_config(cx: &Context) -> Result<Result<Arc<ClusterConfig>, Violation>, CallError> {
    let object = &cx.environment.config_object;
    let known = cx.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let generation = known.as_ref().map(|(generation, _)| *generation);
    let (generation, config) = match (cx.storage.read(object, generation, cluster_config::LARGEST).await?, known) {
        (Read::Unchanged, Some((_, config))) => return Ok(config),
        (Read::Missing | Read::Unchanged, _) => {
            let bucket = &cx.environment.staging_bucket;
            let reason = format!("the configuration gs://{bucket}/{object} does not exist");
            return Ok(Err(Violation::decoding(Document::Config, "", reason)));
        }
        (Read::Object { generation, content }, _) => {
            let config = cluster_config::parse(object, generation, &content).map(Arc::new);
            (generation, config)
        }
        (Read::TooLarge { generation, size, .. }, _) => (generation, Err(cluster_config::too_large(object, size))),
    };
    let mut cached = cx.config.lock().unwrap_or_else(PoisonError::into_inner);
    if cached.as_ref().is_none_or(|(known, _)| *known < generation) {
        *cached = Some((generation, config.clone()));
    }
    Ok(config)
}

/// The template, and everything that is wrong with the request and with its configuration.
fn render(
    cx: &Context,
    request: &Request,
    run_id: Uuid,
    config: Result<&ClusterConfig, &Violation>,
    mut violations: Vec<Violation>,
) -> (Option<Rendered>, Vec<Violation>) {
    let options = template::Options {
        run_id,
        deployment: cx.deployment,
        allowed_code_prefixes: cx.environment.allowed_code_prefixes.clone(),
        allow_inline_queries: cx.environment.allow_inline_queries,
        cluster_idle_ttl: cx.environment.cluster_idle_ttl.map(|ttl| ttl.as_secs()),
        cluster_max_ttl: cx.environment.cluster_max_ttl.map(|ttl| ttl.as_secs()),
    };
    match config {
        Ok(config) => {
            let (rendered, more) = template::render(request, config, &options);
            violations.extend(more);
            (rendered, violations)
        }
        Err(fault) => {
            // The sender's own faults are told all the same.
            let (_, more) = template::render(request, &ClusterConfig::stand_in(), &options);
            violations.extend(more.into_iter().filter(|violation| violation.document == Document::Request));
            violations.push(fault.clone());
            (None, violations)
        }
    }
}

/// Those that forbid the run, and those that only warn.
fn sort(violations: Vec<Violation>, rules: Rules) -> (Vec<Violation>, Vec<Violation>) {
    violations.into_iter().partition(|violation| rules == Rules::Enforce || !violation.fault.can_be_waived())
}

/// Answers a message that nothing comes of. If the run that it names is recorded all the same, what stands there counts:
/// a request that was recorded before these rules changed is running, and this is but its repetition; and one that runs
/// under the same request_id has not been rejected. Says where the fault lies only if it was really rejected.
async fn reject(
    cx: &Context,
    to: &Correlation,
    request: &Request,
    violations: Vec<Violation>,
    message: &Message,
) -> Result<(String, Option<&'static str>), Error> {
    let failure = Failure::new(Code::InvalidArgument, summary(&violations));
    let what = format!("rejected: {}", failure.message);
    match records::load(cx, to.run_id).await.map_err(Error::NotRecorded)? {
        Found::Missing => {}
        Found::Record(run) if run.record.state == State::Awaited => {}
        Found::Record(run) => {
            let rejected = run.record.state == State::Rejected;
            let its_own = run.record.correlation.message_id == to.message_id;
            let the_same = request.action == Action::Run && run.record.digest == request.digest();
            if its_own || (the_same && !rejected) {
                return Ok((repeat(cx, &cx.writer(), *run).await?, None));
            }
            if !rejected {
                let message = cx.speaker.answered(to, &run.record, (Some(failure), &violations), cx.now());
                cx.responses.publish(&message).await.map_err(Error::NotRecorded)?;
                return Ok((format!("answered, for there is a run of that name; {what}"), None));
            }
        }
        other => return Ok((illegible(cx, to, other).await?, None)),
    }
    let rejected_by = journal::rejected_by(&violations);
    let answer = Answer {
        state: Some(State::Rejected),
        failure: Some(failure),
        violations,
        received: message.published,
        ..Answer::default()
    };
    let message = cx.speaker.answer(to, Kind::Rejected, answer, cx.now());
    cx.responses.publish(&message).await.map_err(Error::NotRecorded)?;
    Ok((what, Some(rejected_by)))
}

/// One line for those who do not read the list.
fn summary(violations: &[Violation]) -> String {
    match violations {
        [] => "the request cannot be run".to_owned(),
        [first, rest @ ..] => {
            let place = match first.path.is_empty() {
                true => String::new(),
                false => format!("{}: ", first.path),
            };
            let more = match rest.len() {
                0 => String::new(),
                count => format!(" (and {count} more)"),
            };
            format!("{place}{}{more}", first.reason)
        }
    }
}

fn correlation(message: &Message, request: &Request, run_id: Uuid, traceparent: Option<String>) -> Correlation {
    Correlation {
        run_id,
        job_name: Some(request.job_name.clone()),
        request_id: request.request_id.clone(),
        message_id: message.id.clone(),
        traceparent,
        attributes: message
            .attributes
            .iter()
            .filter(|(key, _)| is_senders_own(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    }
}

fn new_record(
    cx: &Context,
    message: &Message,
    request: &Request,
    rendered: &Rendered,
    to: Correlation,
    (config_generation, warnings): (i64, Vec<Violation>),
    writer: &str,
) -> Record {
    let now = cx.now();
    Record {
        digest: request.digest(),
        request: text_of(&request.document),
        template: template::encode(&rendered.template),
        cluster_base_name: rendered.cluster_base_name.clone(),
        zone_from_request: rendered.zone_from_request,
        config_entry: rendered.config_entry.clone(),
        config_generation,
        step_count: rendered.step_count,
        warnings,
        // It is left to a tick while the service's rate limit admits no submission.
        lease: (!cx.dataproc.submissions_are_paused()).then(|| Lease {
            writer: writer.to_owned(),
            until: after(now, cx.environment.submit_lease),
            may_submit: true,
        }),
        ..Record::accepted(to, message.published, now)
    }
}

fn text_of(document: &json::Value) -> Box<RawValue> {
    // Cannot fail: every key is a string.
    to_raw_value(document).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A run that ends before it begins.
fn rejected_record(
    cx: &Context,
    message: &Message,
    request: &Request,
    to: Correlation,
    violations: Vec<Violation>,
) -> Record {
    let now = cx.now();
    let mut record = Record {
        digest: request.digest(),
        request: text_of(&request.document),
        ..Record::accepted(to, message.published, now)
    };
    record.rejected(now, Failure::new(Code::InvalidArgument, summary(&violations)), violations);
    record
}

/// The run's record stands already: a second delivery, a second message with the same request_id, or a new try after a
/// rejection.
async fn repeated(cx: &Context, writer: &str, fresh: Record) -> Result<String, Error> {
    let found = records::load(cx, fresh.run_id()).await.map_err(Error::NotRecorded)?;
    let run = match found {
        Found::Record(run) => run,
        other => return illegible(cx, &fresh.correlation, other).await,
    };
    if run.record.state == State::Awaited {
        let mut record = fresh;
        record.follow_cancel(&run.record);
        return replace(cx, writer, record, run.generation).await;
    }
    if run.record.state == State::Rejected && fresh.is_newer_than(&run.record) {
        return start_anew(cx, writer, *run, fresh).await;
    }
    if run.record.digest == fresh.digest {
        return repeat(cx, writer, *run).await;
    }
    let id = fresh.correlation.request_id.as_deref().unwrap_or_default();
    let reason = format!("request_id {id:?} belongs to a run with another request");
    let failure = Failure::new(Code::AlreadyExists, reason);
    let message = cx.speaker.answered(&fresh.correlation, &run.record, (Some(failure), &[]), cx.now());
    cx.responses.publish(&message).await.map_err(Error::NotRecorded)?;
    Ok("answered: request_id in use".to_owned())
}

/// Answers a message whose run's record stands, and cannot be shown.
async fn illegible(cx: &Context, to: &Correlation, found: Found) -> Result<String, Error> {
    match found {
        Found::UnknownVersion(version) => inquire::answer_unknown_version(cx, to, version).await,
        Found::Unreadable { generation, content, reason } => {
            bury(cx, to, (generation, content), &reason, None).await.map_err(Error::NotRecorded)?;
            Ok("buried an unreadable record".to_owned())
        }
        // Taken away or mended between two calls; the next delivery finds out what is left.
        Found::Missing | Found::Record(_) => Err(Error::NotRecorded(records::taken_away(to.run_id))),
    }
}

/// A run that was rejected never ran, so its request_id may be used again.
async fn start_anew(cx: &Context, writer: &str, rejected: Loaded, fresh: Record) -> Result<String, Error> {
    // Nobody tells it once its record is replaced.
    publish_last(cx, &rejected.record).await.map_err(Error::NotRecorded)?;
    let mut record = fresh;
    record.take_over(&rejected.record);
    replace(cx, writer, record, rejected.generation).await
}

/// Records a run in the place of what its id stood for before, and begins it.
async fn replace(cx: &Context, writer: &str, record: Record, replaced: i64) -> Result<String, Error> {
    match records::store(cx, &record, replaced).await.map_err(Error::NotRecorded)? {
        // Another message with the same request was faster; the next delivery meets its record.
        Written::Lost => {
            let object = records::record_object(record.run_id());
            let text = "another message has begun the run";
            Err(Error::NotRecorded(CallError::overtaken("Storage.WriteObject", object, text)))
        }
        Written::At(generation) => {
            journal::written(None, &record);
            begin(cx, writer, Loaded { record, generation }).await
        }
    }
}

/// The same request again: publishes the last event again, and takes the run's next step.
async fn repeat(cx: &Context, writer: &str, run: Loaded) -> Result<String, Error> {
    let run_id = run.record.run_id();
    let said = match &run.record.last_event {
        // One that nobody has published yet is published in its turn.
        Some(event) if event.published || run.record.state.is_end() => publish_last(cx, &run.record).await,
        _ => Ok(()),
    };
    if run.record.state.is_end() {
        // It is all the answer that this message gets.
        said.map_err(Error::NotRecorded)?;
        return Ok(format!("repeated, {}", describe(&run.record)));
    }
    if let Err(error) = said {
        warn!(%run_id, %error, "the last event could not be repeated");
    }
    let (marker, _) = records::mark(cx, run_id).await.map_err(Error::NotRecorded)?;
    Ok(match advance(cx, writer, run, Some(marker)).await {
        Ok(record) => format!("repeated, {}", describe(&record)),
        Err(error) => format!("repeated, left to the next tick: {error}"),
    })
}

fn describe(record: &Record) -> String {
    let state = record.state.word();
    match &record.failure {
        Some(failure) => format!("{state}: {}: {}", failure.code, failure.message),
        None => state.to_owned(),
    }
}
