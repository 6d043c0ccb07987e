//! An HTTP request becomes a CloudEvent: the HTTP protocol binding of CloudEvents 1.0.2, and the shapes of [`legacy`].
//!
//! An event of type [`MESSAGE_PUBLISHED`] with an id is passed on however bad the rest of it is: its handler can answer the
//! sender, a 400 would only make Pub/Sub deliver it again and again. Attributes of it that cannot be read are left out.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use chrono::DateTime;
use cloudevents::{Data, Event};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use percent_encoding::percent_decode;
use serde_json::{Map, Value};

use crate::json::{self, Members};
use crate::legacy;

/// The type of the events that carry a Pub/Sub message.
pub const MESSAGE_PUBLISHED: &str = "google.cloud.pubsub.topic.v1.messagePublished";

/// The request is no event; the text names what is missing or wrong, without quoting what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no event: {0}")]
pub struct NotAnEvent(String);

impl NotAnEvent {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Reads the event of a request, in this order: structured mode (by its content type), binary mode (by its `ce-` headers),
/// and without either a JSON body that is a structured event, a legacy Pub/Sub event or a Pub/Sub push body.
///
/// Data of a JSON content type becomes [`Data::Json`] where it can be parsed; everything else stays as it came.
pub fn decode(head: &Parts, body: Bytes) -> Result<Event, NotAnEvent> {
    match media_type(&head.headers).as_deref() {
        Some("application/cloudevents+json") => {
            let text = Text::of(&body);
            let members = json::members(&text.text)
                .map_err(|e| NotAnEvent::new(format!("the body is not the JSON of a structured event: {e}")))?;
            structured(members, text.exact)
        }
        Some("application/cloudevents-batch+json") => {
            Err(NotAnEvent::new("batches are not supported, send one event in each request"))
        }
        Some(other) if other.starts_with("application/cloudevents") => {
            Err(NotAnEvent::new("of the structured formats only application/cloudevents+json is supported"))
        }
        _ if REQUIRED.iter().any(|name| head.headers.contains_key(format!("ce-{name}"))) => binary(&head.headers, body),
        _ => unmarked(head.uri.path(), &body),
    }
}

const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// These name the data; the specification forbids them as attributes.
const RESERVED: [&str; 2] = ["data", "data_base64"];

fn binary(headers: &HeaderMap, body: Bytes) -> Result<Event, NotAnEvent> {
    let mut attributes = Map::new();
    for (name, value) in headers {
        if let Some(name) =
            name.as_str().strip_prefix("ce-").filter(|name| !name.is_empty() && !RESERVED.contains(name))
        {
            attributes.entry(name).or_insert_with(|| Value::String(attribute(value)));
        }
    }
    if let Some(value) = headers.get(CONTENT_TYPE) {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        attributes.insert("datacontenttype".into(), Value::String(text));
    }
    let json = match attributes.get("datacontenttype").and_then(Value::as_str) {
        Some(content_type) => is_json(content_type),
        // A Pub/Sub message is JSON by definition; of other data nothing is known.
        None => is_message(&attributes),
    };
    let data = match body.is_empty() {
        true => None,
        false if json => Some(json::data(body)),
        false => Some(Data::Binary(body.into())),
    };
    event(attributes, data)
}

/// A header's value as an attribute's: unquoted, then percent-decoded once (binding, section 3.1.3.2).
fn attribute(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    let unquoted = match bytes {
        [b'"', inner @ .., b'"'] => {
            let mut escaped = false;
            let keep = |byte: &&u8| {
                escaped = !escaped && **byte == b'\\';
                !escaped
            };
            Cow::Owned(inner.iter().filter(keep).copied().collect())
        }
        _ => Cow::Borrowed(bytes),
    };
    percent_decode(&unquoted).decode_utf8_lossy().into_owned()
}

fn unmarked(path: &str, body: &Bytes) -> Result<Event, NotAnEvent> {
    if body.is_empty() {
        return Err(NotAnEvent::new("the body is empty and there are no ce- headers"));
    }
    let text = Text::of(body);
    let members = json::members(&text.text)
        .map_err(|e| NotAnEvent::new(format!("there are no ce- headers, and the body is no JSON object: {e}")))?;
    // Some senders of structured events forget the content type.
    if members.contains_key("specversion") { structured(members, text.exact) } else { legacy::event(path, members) }
}

/// JSON is UTF-8. Other bytes are replaced, for the sake of messages that a handler must answer; `exact` tells.
struct Text<'a> {
    text: Cow<'a, str>,
    exact: bool,
}

impl<'a> Text<'a> {
    fn of(body: &'a [u8]) -> Self {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let text = String::from_utf8_lossy(body);
        Self { exact: matches!(text, Cow::Borrowed(_)), text }
    }
}

fn structured(mut members: Members<'_>, exact: bool) -> Result<Event, NotAnEvent> {
    let data = members.remove("data");
    // Null stands for an absent attribute; as data it is a value.
    members.retain(|_, text| text != "null");
    let data_base64 = members.remove("data_base64");
    let is_message = members.get("type").and_then(|text| json::string(text)).is_some_and(|ty| ty == MESSAGE_PUBLISHED);
    if !exact && !is_message {
        return Err(NotAnEvent::new("the body is not UTF-8"));
    }

    let mut attributes = Map::new();
    for (name, text) in members {
        let value = match name.as_str() {
            "id" if is_message => json::id(&text).map(Value::String),
            _ if text.starts_with(['{', '[']) => None,
            _ => serde_json::from_str(&text).ok(),
        };
        match value {
            Some(value) => drop(attributes.insert(name, value)),
            None if is_message => {}
            None => return Err(NotAnEvent::new("an attribute is neither a string nor a boolean nor an integer")),
        }
    }

    // Only CloudEvents 0.3 encodes `data` itself.
    let encoded = attributes.get("specversion").is_some_and(|version| version == "0.3")
        && attributes
            .remove("datacontentencoding")
            .is_some_and(|e| e.as_str().is_some_and(|e| e.eq_ignore_ascii_case("base64")));
    let json = attributes.get("datacontenttype").and_then(Value::as_str).is_none_or(is_json);
    let data = match (data, data_base64) {
        (Some(_), Some(_)) if !is_message => return Err(NotAnEvent::new("there are both data and data_base64")),
        (Some(text), _) if encoded => Some(decoded(&text, json, is_message)?),
        (Some(text), _) if json => Some(json::data(text.into_owned())),
        (Some(text), _) => Some(json::string(&text).map_or_else(|| json::data(text.into_owned()), Data::String)),
        (None, Some(text)) => Some(decoded(&text, json, is_message)?),
        (None, None) => None,
    };
    event(attributes, data)
}

fn decoded(text: &str, json: bool, is_message: bool) -> Result<Data, NotAnEvent> {
    match json::string(text).and_then(|base64| BASE64_STANDARD.decode(base64).ok()) {
        Some(bytes) if json => Ok(json::data(bytes)),
        Some(bytes) => Ok(Data::Binary(bytes)),
        None if is_message => Ok(Data::String(json::string(text).unwrap_or_else(|| text.to_owned()))),
        None => Err(NotAnEvent::new("the data is not base64")),
    }
}

/// The event of attributes (strings, booleans, integers; `datacontenttype` among them) and data.
pub(crate) fn event(mut attributes: Map<String, Value>, data: Option<Data>) -> Result<Event, NotAnEvent> {
    for name in REQUIRED {
        if attributes.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(NotAnEvent::new(format!("the attribute `{name}` is missing, empty or no string")));
        }
    }
    if !matches!(attributes["specversion"].as_str(), Some("1.0" | "0.3")) {
        return Err(NotAnEvent::new("the specversion is neither 1.0 nor 0.3"));
    }
    // Through the JSON format: it is the one way into `Event` that takes every attribute of both versions.
    let event = serde_json::from_value(Value::Object(attributes.clone())).or_else(|error| {
        if !is_message(&attributes) {
            return Err(NotAnEvent::new(format!("an attribute cannot be read: {error}")));
        }
        attributes.retain(|name, value| is_legible(name, value));
        serde_json::from_value(Value::Object(attributes))
            .map_err(|e| NotAnEvent::new(format!("an attribute cannot be read: {e}")))
    });
    event.map(|mut event: Event| {
        if let Some(data) = data {
            event.set_data_unchecked(data);
        }
        event
    })
}

fn is_legible(name: &str, value: &Value) -> bool {
    match name {
        "time" => value.as_str().is_some_and(|time| DateTime::parse_from_rfc3339(time).is_ok()),
        // No message is understood by its schema, so it goes without a look.
        "dataschema" | "schemaurl" => false,
        "subject" | "datacontenttype" => value.is_string(),
        _ => value.is_string() || value.is_boolean() || value.is_i64(),
    }
}

fn is_message(attributes: &Map<String, Value>) -> bool {
    attributes.get("type").is_some_and(|ty| ty == MESSAGE_PUBLISHED)
}

/// The content type without its parameters, lower case.
fn media_type(headers: &HeaderMap) -> Option<String> {
    headers.get(CONTENT_TYPE).map(|value| essence(&String::from_utf8_lossy(value.as_bytes())))
}

fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    matches!(essence.as_str(), "application/json" | "text/json") || essence.ends_with("+json")
}
