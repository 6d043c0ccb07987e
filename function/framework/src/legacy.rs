//! Pub/Sub messages in the shapes that came before CloudEvents: the legacy event of Cloud Functions, with its context at the
//! root or under `context`, and the body of a Pub/Sub push. Both become events of type [`MESSAGE_PUBLISHED`].
//!
//! The mapping is that of functions-framework-conformance (docs/mapping.md).

use std::borrow::Cow;

use cloudevents::Event;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::event::{self, MESSAGE_PUBLISHED, NotAnEvent};
use crate::json::{self, Members};

const EVENT_TYPES: [&str; 2] = ["google.pubsub.topic.publish", "providers/cloud.pubsub/eventTypes/topic.publish"];

/// The event of a JSON body without CloudEvents attributes. The `path` of the request may name the topic.
pub(crate) fn event(path: &str, body: Members<'_>) -> Result<Event, NotAnEvent> {
    let context = body.get("context").map(|context| members_or_empty(context)).unwrap_or_default();
    let context_field = |name: &str| context.get(name).or_else(|| body.get(name));
    let event_type = context_field("eventType").and_then(|text| json::string(text));
    let message = body.get("message").map(|message| members_or_empty(message)).unwrap_or_default();
    match event_type.as_deref() {
        Some(event_type) if EVENT_TYPES.contains(&event_type) => {
            let id = context_field("eventId").and_then(|text| json::id(text));
            let time = context_field("timestamp").and_then(|text| json::string(text));
            let resource = context_field("resource").and_then(|text| resource_name(text));
            legacy_event(path, body.get("data").map(Cow::as_ref), id, time, resource)
        }
        _ if message_id(&message).is_some() => push(path, &body, message),
        Some(_) => Err(NotAnEvent::new("of the legacy event types only Pub/Sub's topic.publish is supported")),
        None if body.contains_key("message") => Err(NotAnEvent::new("the message has no messageId")),
        None => Err(NotAnEvent::new(
            "the body is neither a CloudEvent nor a legacy Pub/Sub event nor a Pub/Sub push, and there are no ce- headers",
        )),
    }
}

/// The data of a legacy event is the message. Its context holds the message's id and time.
fn legacy_event(
    path: &str,
    data: Option<&str>,
    id: Option<String>,
    time: Option<String>,
    resource: Option<String>,
) -> Result<Event, NotAnEvent> {
    let data = data.filter(|text| *text != "null").unwrap_or("{}");
    let mut message = json::members(data).ok();
    let id = id
        .or_else(|| message.as_ref().and_then(message_id))
        .ok_or_else(|| NotAnEvent::new("the legacy event has no eventId"))?;
    if let Some(message) = &mut message {
        complete(message, &id, time.as_deref());
    }
    // Data that is not an object is passed on as it is. The event's id still identifies the message.
    let message = message.map_or_else(|| data.to_owned(), |message| json::object(&message));
    published(id, resource.unwrap_or_else(|| topic(path)), time, format!("{{\"message\":{message}}}"))
}

/// The whole body of a push is the event's data.
fn push(path: &str, body: &Members<'_>, mut message: Members<'_>) -> Result<Event, NotAnEvent> {
    let id = message_id(&message).unwrap_or_default();
    let time =
        ["publishTime", "publish_time"].iter().find_map(|name| message.get(*name).and_then(|text| json::string(text)));
    complete(&mut message, &id, time.as_deref());
    let message = json::object(&message);
    let mut data: Members<'_> =
        body.iter().map(|(name, value)| (name.clone(), Cow::Borrowed(value.as_ref()))).collect();
    data.insert("message".into(), Cow::Owned(message));
    published(id, topic(path), time, json::object(&data))
}

fn published(id: String, topic: String, time: Option<String>, data: String) -> Result<Event, NotAnEvent> {
    let attributes = [
        ("specversion", Some("1.0".to_owned())),
        ("id", Some(id)),
        ("source", Some(format!("//pubsub.googleapis.com/{topic}"))),
        ("type", Some(MESSAGE_PUBLISHED.to_owned())),
        ("time", time),
        ("datacontenttype", Some("application/json".to_owned())),
    ];
    let attributes: Map<_, _> =
        attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::String(value?)))).collect();
    event::from_attributes(attributes, Some(json::data(data)))
}

/// Adds the id and the time to a message that lacks them.
fn complete(message: &mut Members<'_>, id: &str, time: Option<&str>) {
    if message.get("messageId").is_none_or(|text| json::id(text).is_none()) {
        message.insert("messageId".into(), Cow::Owned(json::quote(id)));
    }
    if let Some(time) = time
        && message.get("publishTime").is_none_or(|text| json::string(text).is_none())
    {
        message.insert("publishTime".into(), Cow::Owned(json::quote(time)));
    }
}

fn message_id(message: &Members<'_>) -> Option<String> {
    ["messageId", "message_id"].iter().find_map(|name| message.get(*name).and_then(|text| json::id(text)))
}

/// The resource of a context is a name, or an object with a name.
fn resource_name(text: &str) -> Option<String> {
    json::string(text)
        .or_else(|| members_or_empty(text).get("name").and_then(|name| json::string(name)))
        .filter(|name| !name.is_empty())
}

/// `projects/P/topics/T` in the path of a request. A push body does not name its topic, so operators put it into the path of
/// the push endpoint. Otherwise the topic is empty, as in functions-framework-go, -nodejs and -python.
fn topic(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').collect();
    let named =
        segments.windows(4).find(|s| s[0] == "projects" && !s[1].is_empty() && s[2] == "topics" && !s[3].is_empty());
    named.map(|segments| percent_decode_str(&segments.join("/")).decode_utf8_lossy().into_owned()).unwrap_or_default()
}

/// The members of an object; empty for any other value.
fn members_or_empty(text: &str) -> Members<'_> {
    json::members(text).unwrap_or_default()
}

#[cfg(test)]
mod tests;
