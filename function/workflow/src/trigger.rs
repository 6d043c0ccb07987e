//! What an event asks for: a request, a tick, or a look at a workflow that began or ended.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use chrono::{DateTime, Utc};
use cloudevents::{AttributesReader, Data, Event};
use serde_json::Value;

const MESSAGE_PUBLISHED: &str = "google.cloud.pubsub.topic.v1.messagePublished";
const AUDIT_LOG_WRITTEN: &str = "google.cloud.audit.log.v1.written";
const PUBSUB_SOURCE: &str = "//pubsub.googleapis.com/";

/// Takes base64 with or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What an event asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    Request(Message),
    /// The scheduler's, with the time of its publication.
    Tick(Option<DateTime<Utc>>),
    /// The name of an operation that began or ended, as the audit log has it.
    OperationEnded(String),
    /// An event that is not meant for this function.
    Foreign(String),
}

/// A Pub/Sub message that asks for a run, or about one.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub id: String,
    /// `projects/P/topics/T`; empty where the delivery does not tell.
    pub topic: String,
    pub published: Option<DateTime<Utc>>,
    /// The message's data, or why it could not be read.
    pub data: Result<Vec<u8>, Unreadable>,
    pub attributes: BTreeMap<String, String>,
}

/// Why a message's data could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

/// Reads an event. The topics are full names: of that whose messages are ticks, and of that which carries our own answers.
pub fn trigger(event: &Event, tick_topic: &str, response_topic: &str) -> Trigger {
    match event.ty() {
        MESSAGE_PUBLISHED => {
            let message = message(event);
            match message.topic.as_str() {
                topic if topic == tick_topic => Trigger::Tick(message.published),
                // An answer to an answer would go round for ever.
                topic if topic == response_topic => Trigger::Foreign("a message of the response topic".to_owned()),
                _ => Trigger::Request(message),
            }
        }
        AUDIT_LOG_WRITTEN => match operation_name(event) {
            Some(name) => Trigger::OperationEnded(name),
            None => Trigger::Foreign("an audit log entry without an operation".to_owned()),
        },
        other => Trigger::Foreign(format!("an event of type {other}")),
    }
}

fn message(event: &Event) -> Message {
    let source = event.source().as_str();
    let body = json(event);
    let message = body.as_ref().and_then(|body| body.get("message"));
    // Eventarc and the emulators write some fields twice, in either case.
    let text = |camel: &str, snake: &str| {
        let message = message?;
        let value = message.get(camel).or_else(|| message.get(snake))?;
        value.as_str().filter(|text| !text.is_empty())
    };
    let published = text("publishTime", "publish_time")
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .map(|time| time.to_utc())
        .or_else(|| event.time().copied());
    let attributes = message
        .and_then(|message| message.get("attributes")?.as_object())
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    Message {
        id: text("messageId", "message_id").unwrap_or(event.id()).to_owned(),
        topic: source.strip_prefix(PUBSUB_SOURCE).unwrap_or_default().to_owned(),
        published,
        data: match (body.is_some(), message) {
            (false, _) => Err(Unreadable("the event's data is not JSON".to_owned())),
            (true, None) => Err(Unreadable("the event holds no message".to_owned())),
            (true, Some(message)) => data(message),
        },
        attributes,
    }
}

fn data(message: &Value) -> Result<Vec<u8>, Unreadable> {
    match message.get("data") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => {
            BASE64.decode(text).map_err(|error| Unreadable(format!("the message's data is not base64: {error}")))
        }
        Some(_) => Err(Unreadable("the message's data is not a string".to_owned())),
    }
}

fn json(event: &Event) -> Option<Cow<'_, Value>> {
    match event.data()? {
        // A structured event may carry its data as text.
        Data::Json(Value::String(text)) | Data::String(text) => parse(text.as_bytes()),
        Data::Json(value) => Some(Cow::Borrowed(value)),
        Data::Binary(bytes) => parse(bytes),
    }
}

/// JSON, with or without a byte order mark.
fn parse(text: &[u8]) -> Option<Cow<'static, Value>> {
    let value = serde_json::from_slice(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
    value.ok().map(Cow::Owned)
}

fn operation_name(event: &Event) -> Option<String> {
    let entry = json(event)?;
    let id = entry.get("operation")?.get("id")?.as_str()?;
    (!id.is_empty()).then(|| id.to_owned())
}
