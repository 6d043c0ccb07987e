//! A CloudEvent, made of its attributes and its data.

use chrono::DateTime;
use cloudevents::{Data, Event};
use serde_json::{Map, Value};

/// The type of the events that carry a Pub/Sub message.
pub(crate) const MESSAGE_PUBLISHED: &str = "google.cloud.pubsub.topic.v1.messagePublished";

/// The attributes that every event has.
pub(crate) const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// The request is not an event. The text says what is missing or wrong, without quoting what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event: {0}")]
pub struct NotAnEvent(String);

impl NotAnEvent {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// The event with these attributes (strings, booleans, integers; `datacontenttype` among them) and this data.
///
/// If an optional attribute cannot be read, the event is rejected, or, if it carries a message, loses that attribute.
pub(crate) fn from_attributes(mut attributes: Map<String, Value>, data: Option<Data>) -> Result<Event, NotAnEvent> {
    for name in REQUIRED {
        if attributes.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(NotAnEvent::new(format!("the attribute `{name}` is missing, empty or not a string")));
        }
    }
    if !matches!(attributes["specversion"].as_str(), Some("1.0" | "0.3")) {
        return Err(NotAnEvent::new("the specversion is neither 1.0 nor 0.3"));
    }
    // Through the JSON format, because no other constructor of `Event` takes every attribute of both versions.
    let event = serde_json::from_value(Value::Object(attributes.clone())).or_else(|error| {
        if !is_message(&attributes) {
            return Err(NotAnEvent::new(format!("an attribute cannot be read: {error}")));
        }
        attributes.retain(|name, value| is_readable(name, value));
        serde_json::from_value(Value::Object(attributes))
            .map_err(|error| NotAnEvent::new(format!("an attribute cannot be read: {error}")))
    });
    event.map(|mut event: Event| {
        if let Some(data) = data {
            event.set_data_unchecked(data);
        }
        event
    })
}

/// Whether an event with these attributes carries a Pub/Sub message.
pub(crate) fn is_message(attributes: &Map<String, Value>) -> bool {
    attributes.get("type").is_some_and(|ty| ty == MESSAGE_PUBLISHED)
}

fn is_readable(name: &str, value: &Value) -> bool {
    match name {
        "time" => value.as_str().is_some_and(|time| DateTime::parse_from_rfc3339(time).is_ok()),
        // Handlers of messages do not use the schema, so it is dropped without a check.
        "dataschema" | "schemaurl" => false,
        "subject" | "datacontenttype" => value.is_string(),
        _ => value.is_string() || value.is_boolean() || value.is_i64(),
    }
}
