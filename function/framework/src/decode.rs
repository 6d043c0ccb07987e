//! An HTTP request becomes a CloudEvent: the HTTP protocol binding of CloudEvents 1.0.2, and the shapes of [`legacy`].
//!
//! An event that has an id and carries a Pub/Sub message is never rejected, whatever else is wrong with it: the handler can
//! tell the sender, while a 400 would only make Pub/Sub deliver it again and again. Such an event loses the attributes that
//! cannot be read.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cloudevents::{Data, Event};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use percent_encoding::percent_decode;
use serde_json::{Map, Value};

use crate::event::{self, MESSAGE_PUBLISHED, NotAnEvent};
use crate::json::{self, Members};
use crate::legacy;

/// The event of a request. The first that applies:
///
/// 1. the content type is `application/cloudevents+json`: structured mode,
/// 2. there is a required attribute among the `ce-` headers: binary mode,
/// 3. a JSON body: a structured event without its content type, a legacy Pub/Sub event, or a Pub/Sub push body.
///
/// Data of a JSON content type becomes [`Data::Json`] if it can be parsed. Other data remains as it was sent.
///
/// # Errors
/// The request is not an event, or it is an event in a format that is not supported (batches, other structured formats).
pub fn decode(head: &Parts, body: Bytes) -> Result<Event, NotAnEvent> {
    match media_type(&head.headers).as_deref() {
        Some("application/cloudevents+json") => {
            let json = Text::of(&body);
            let members = json::members(&json.text).map_err(|error| {
                NotAnEvent::new(format!("the body is not the JSON object of a structured event: {error}"))
            })?;
            structured(members, json.is_utf8)
        }
        Some("application/cloudevents-batch+json") => {
            Err(NotAnEvent::new("batches are not supported, send one event in each request"))
        }
        Some(other) if other.starts_with("application/cloudevents") => {
            Err(NotAnEvent::new("of the structured formats only application/cloudevents+json is supported"))
        }
        _ if event::REQUIRED.iter().any(|name| head.headers.contains_key(format!("ce-{name}"))) => {
            binary(&head.headers, body)
        }
        _ => unmarked(head.uri.path(), &body),
    }
}

/// Names of the data. The specification forbids attributes of these names.
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
        // The data of a message event is JSON by definition. Nothing is known about other data.
        None => event::is_message(&attributes),
    };
    let data = match body.is_empty() {
        true => None,
        false if json => Some(json::data(body)),
        false => Some(Data::Binary(body.into())),
    };
    event::from_attributes(attributes, data)
}

/// The attribute in a header's value: unquoted, then percent-decoded once (binding, section 3.1.3.2).
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

/// The event of a request whose headers do not say that it is one.
fn unmarked(path: &str, body: &Bytes) -> Result<Event, NotAnEvent> {
    if body.is_empty() {
        return Err(NotAnEvent::new("the body is empty and there are no ce- headers"));
    }
    let json = Text::of(body);
    let members = json::members(&json.text).map_err(|error| {
        NotAnEvent::new(format!("there are no ce- headers, and the body is not a JSON object: {error}"))
    })?;
    // Some senders of structured events forget the content type.
    if members.contains_key("specversion") { structured(members, json.is_utf8) } else { legacy::event(path, members) }
}

/// A body as text. Bytes that are not UTF-8 are replaced, because messages must reach the handler even then.
struct Text<'a> {
    text: Cow<'a, str>,
    is_utf8: bool,
}

impl<'a> Text<'a> {
    fn of(body: &'a [u8]) -> Self {
        let without_byte_order_mark = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let text = String::from_utf8_lossy(without_byte_order_mark);
        Self { is_utf8: matches!(text, Cow::Borrowed(_)), text }
    }
}

fn structured(mut members: Members<'_>, is_utf8: bool) -> Result<Event, NotAnEvent> {
    let data = members.remove("data");
    // An attribute that is null is absent; data that is null is a value.
    members.retain(|_, text| text != "null");
    let data_base64 = members.remove("data_base64");
    let is_message = members.get("type").and_then(|text| json::string(text)).is_some_and(|ty| ty == MESSAGE_PUBLISHED);
    if !is_utf8 && !is_message {
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

    // In CloudEvents 0.3 `data` itself may be encoded.
    let encoded = attributes.get("specversion").is_some_and(|version| version == "0.3")
        && attributes
            .remove("datacontentencoding")
            .is_some_and(|encoding| encoding.as_str().is_some_and(|name| name.eq_ignore_ascii_case("base64")));
    let json = attributes.get("datacontenttype").and_then(Value::as_str).is_none_or(is_json);
    let data = match (data, data_base64) {
        (Some(_), Some(_)) if !is_message => return Err(NotAnEvent::new("there are both data and data_base64")),
        (Some(text), _) if encoded => Some(from_base64(&text, json, is_message)?),
        (Some(text), _) if json => Some(json::data(text.into_owned())),
        (Some(text), _) => Some(json::string(&text).map_or_else(|| json::data(text.into_owned()), Data::String)),
        (None, Some(text)) => Some(from_base64(&text, json, is_message)?),
        (None, None) => None,
    };
    event::from_attributes(attributes, data)
}

fn from_base64(text: &str, json: bool, is_message: bool) -> Result<Data, NotAnEvent> {
    match json::string(text).and_then(|base64| BASE64_STANDARD.decode(base64).ok()) {
        Some(bytes) if json => Ok(json::data(bytes)),
        Some(bytes) => Ok(Data::Binary(bytes)),
        None if is_message => Ok(Data::String(json::string(text).unwrap_or_else(|| text.to_owned()))),
        None => Err(NotAnEvent::new("the data is not base64")),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    matches!(essence.as_str(), "application/json" | "text/json") || essence.ends_with("+json")
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    headers.get(CONTENT_TYPE).map(|value| essence(&String::from_utf8_lossy(value.as_bytes())))
}

/// A content type without its parameters, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
