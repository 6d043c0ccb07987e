//! Requests become events: every shape that is accepted, every one that is not, and messages that are accepted all the same.

use std::path::Path;
use std::{fs, str};

use bytes::Bytes;
use cloudevents::{AttributesReader, Data, Event, event::ExtensionValue};
use functions_framework::decode;
use http::Request;
use serde_json::{Value, json};

use crate::MESSAGE_PUBLISHED;

type Headers<'a> = &'a [(&'a str, &'a str)];

const JSON: (&str, &str) = ("content-type", "application/json");
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");

fn read_at(path: &str, headers: Headers, body: impl Into<Bytes>) -> Result<Event, String> {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    decode(&request.body(()).unwrap().into_parts().0, body.into()).map_err(|error| error.to_string())
}

fn read(headers: Headers, body: impl Into<Bytes>) -> Result<Event, String> {
    read_at("/", headers, body)
}

fn binary(more: Headers, body: impl Into<Bytes>) -> Result<Event, String> {
    let mut headers = vec![
        ("ce-id", "7"),
        ("ce-source", "//pubsub.googleapis.com/projects/p/topics/t"),
        ("ce-specversion", "1.0"),
        ("ce-type", MESSAGE_PUBLISHED),
    ];
    headers.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    headers.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    read(&headers, body)
}

fn structured(event: &Value) -> Result<Event, String> {
    read(&[STRUCTURED], event.to_string())
}

fn message_event(more: Value) -> Value {
    let mut event = json!({"specversion": "1.0", "id": "7", "source": "//s", "type": MESSAGE_PUBLISHED});
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/events").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn fixture_json(name: &str) -> Value {
    serde_json::from_str(&fixture(name)).unwrap()
}

fn as_json(event: &Event) -> Value {
    serde_json::to_value(event).unwrap()
}

fn json_data(event: &Event) -> &Value {
    match event.data() {
        Some(Data::Json(data)) => data,
        other => panic!("the data is not JSON: {other:?}"),
    }
}

fn bytes_data(event: &Event) -> &[u8] {
    match event.data() {
        Some(Data::Binary(data)) => data,
        other => panic!("the data is not binary: {other:?}"),
    }
}

/// A legacy event becomes exactly the expected one; a CloudEvent keeps its subscription, which the expected one leaves out.
fn check_conformance(name: &str) {
    let mut expected = fixture_json(&format!("conformance/{name}-cloudevent-output.json"));
    let legacy = read(&[JSON], fixture(&format!("conformance/{name}-legacy-input.json"))).unwrap();
    assert_eq!(as_json(&legacy), expected);
    let again = read(&[JSON], fixture(&format!("conformance/{name}-legacy-output.json"))).unwrap();
    assert_eq!(as_json(&again), expected, "the other legacy shape is the same event");

    let input = fixture_json(&format!("conformance/{name}-cloudevent-input.json"));
    expected["data"]["subscription"] = input["data"]["subscription"].clone();
    assert_eq!(as_json(&structured(&input).unwrap()), expected);

    let header = |attribute: &str| input[attribute].as_str().unwrap();
    let headers = [
        ("ce-id", header("id")),
        ("ce-source", header("source")),
        ("ce-type", header("type")),
        ("ce-time", header("time")),
        ("ce-specversion", "1.0"),
        JSON,
    ];
    assert_eq!(as_json(&read(&headers, input["data"].to_string()).unwrap()), expected);
}

#[test]
fn conformance_legacy_pubsub() {
    check_conformance("legacy_pubsub");
    let converted = read(&[JSON], fixture("conformance/legacy_pubsub-legacy-output-converted.json")).unwrap();
    assert_eq!(as_json(&converted), fixture_json("conformance/legacy_pubsub-cloudevent-output.json"));
}

#[test]
fn conformance_pubsub_text() {
    check_conformance("pubsub_text");
}

#[test]
fn conformance_pubsub_binary() {
    check_conformance("pubsub_binary");
}

#[test]
fn googles_sample_events_are_accepted() {
    for name in [
        "examples-binary-pubsub-MessagePublishedData-complex.json",
        "examples-binary-pubsub-MessagePublishedData-simple.json",
        "testdata-google-events-cloud-pubsub-v1-MessagePublishedData-binary.json",
        "testdata-google-events-cloud-pubsub-v1-MessagePublishedData-duplicatedFields.json",
        "testdata-google-events-cloud-pubsub-v1-MessagePublishedData-text.json",
    ] {
        let body = fixture(&format!("cloudevents/{name}"));
        let sent: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json_data(&binary(&[JSON], body.clone()).unwrap()), &sent, "{name}");
        // The same body, pushed without an envelope.
        let pushed = read(&[JSON], body).unwrap();
        assert_eq!((pushed.id(), pushed.ty()), ("message-id", MESSAGE_PUBLISHED), "{name}");
        assert_eq!(json_data(&pushed), &sent, "{name}");
    }
    let whole = fixture_json("cloudevents/examples-structured-pubsub-MessagePublishedData.json");
    assert_eq!(as_json(&structured(&whole).unwrap()), whole);

    let audit = fixture("cloudevents/examples-binary-audit-LogEntryData-pubsubCreateTopic.json");
    let headers = [
        ("ce-type", "google.cloud.audit.log.v1.written"),
        ("ce-methodname", "google.pubsub.v1.Publisher.CreateTopic"),
        JSON,
    ];
    let event = binary(&headers, audit.clone()).unwrap();
    assert_eq!(event.ty(), "google.cloud.audit.log.v1.written");
    assert_eq!(event.extension("methodname"), Some(&"google.pubsub.v1.Publisher.CreateTopic".into()));
    assert_eq!(json_data(&event), &serde_json::from_str::<Value>(&audit).unwrap());
}

#[test]
fn binary_mode_keeps_every_attribute() {
    let headers = [
        ("ce-subject", "a/b"),
        ("ce-time", "2020-09-29T11:32:00.123456789+02:00"),
        ("ce-dataschema", "https://example.com/schema"),
        ("CE-TraceParent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("ce-n", "10"),
        ("content-type", "application/json; charset=utf-8"),
    ];
    let event = as_json(&binary(&headers, "{}").unwrap());
    let expected = message_event(json!({
        "source": "//pubsub.googleapis.com/projects/p/topics/t", "subject": "a/b", "time": "2020-09-29T09:32:00.123456789Z",
        "dataschema": "https://example.com/schema", "n": "10", "data": {}, "datacontenttype": "application/json; charset=utf-8",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }));
    assert_eq!(event, expected);
}

#[test]
fn header_values_are_unquoted_and_percent_decoded_once() {
    for (sent, expected) in [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ("100%25", "100%"),
        ("%2525", "%25"),
        ("50% %zz", "50% %zz"),
        (r#""quoted \"text\" \\ %20""#, r#"quoted "text" \  "#),
        (r#"a"b"#, r#"a"b"#),
        ("%ff", "\u{fffd}"),
    ] {
        assert_eq!(binary(&[("ce-subject", sent)], "").unwrap().subject(), Some(expected), "{sent}");
    }
    let raw = Request::post("/").header("ce-id", &b"caf\xc3\xa9"[..]).header("ce-source", "/s").header("ce-type", "t");
    let head = raw.header("ce-specversion", "1.0").body(()).unwrap().into_parts().0;
    assert_eq!(decode(&head, Bytes::new()).unwrap().id(), "café");
}

#[test]
fn other_types_pass_through_untouched() {
    let bytes: Vec<u8> = (0..=255).collect();
    for content_type in ["application/octet-stream", "text/plain", "application/protobuf", ""] {
        let event = binary(&[("ce-type", "com.example.thing"), ("content-type", content_type)], bytes.clone()).unwrap();
        assert_eq!(bytes_data(&event), bytes, "{content_type}");
        assert_eq!(event.datacontenttype(), Some(content_type).filter(|ct| !ct.is_empty()));
    }
    let odd_json = b"{\"a\": 1e999}".to_vec();
    let event = binary(&[("ce-type", "com.example.thing"), JSON], odd_json.clone()).unwrap();
    assert_eq!(bytes_data(&event), odd_json);
    for content_type in
        ["application/json", "Application/JSON;charset=UTF-8", "text/json", "application/vnd.example+json"]
    {
        let event =
            binary(&[("ce-type", "com.example.thing"), ("content-type", content_type)], r#"{"a":0.1}"#).unwrap();
        assert_eq!(json_data(&event), &json!({"a": 0.1}), "{content_type}");
    }
    assert_eq!(binary(&[("ce-type", "com.example.thing"), JSON], "").unwrap().data(), None);
}

#[test]
fn structured_mode_ignores_the_case_and_parameters_of_the_content_type() {
    let event = message_event(json!({"data": {"message": {}}, "text": "x", "yes": true, "count": 5, "gone": null}));
    for content_type in [
        "application/cloudevents+json",
        "Application/CloudEvents+JSON; charset=UTF-8",
        "application/cloudevents+json;a=b",
    ] {
        // The content type decides, whatever ce- headers are there.
        let event = read(&[("content-type", content_type), ("ce-id", "other")], event.to_string()).unwrap();
        assert_eq!(event.id(), "7");
        assert_eq!(json_data(&event), &json!({"message": {}}));
        assert_eq!(event.extension("text"), Some(&ExtensionValue::String("x".into())));
        assert_eq!(event.extension("yes"), Some(&ExtensionValue::Boolean(true)));
        assert_eq!(event.extension("count"), Some(&ExtensionValue::Integer(5)));
        assert_eq!(event.extension("gone"), None);
    }
    let forgotten = read(&[JSON], format!("\u{feff}{event}")).unwrap();
    assert_eq!(forgotten.id(), "7", "a structured event under another content type, behind a byte order mark");
}

#[test]
fn structured_data_is_accepted_in_every_form() {
    let thing = |more: Value| {
        let mut event = message_event(more);
        event["type"] = "com.example.thing".into();
        structured(&event)
    };
    let json_base64 = json!({"data_base64": "eyJhIjoxfQ=="});
    assert_eq!(json_data(&thing(json_base64).unwrap()), &json!({"a": 1}));
    let binary = json!({"data_base64": "AP8=", "datacontenttype": "application/octet-stream"});
    assert_eq!(bytes_data(&thing(binary).unwrap()), [0, 255]);
    assert_eq!(
        bytes_data(&thing(json!({"data_base64": "AP8="})).unwrap()),
        [0, 255],
        "not JSON, although there is no other content type"
    );
    let text = thing(json!({"data": "plain", "datacontenttype": "text/plain"})).unwrap();
    assert_eq!(text.data(), Some(&Data::String("plain".into())));
    assert_eq!(json_data(&thing(json!({"data": "a string"})).unwrap()), &json!("a string"));
    assert_eq!(thing(json!({})).unwrap().data(), None);
    assert_eq!(thing(json!({"data_base64": null})).unwrap().data(), None);
    for wrong in [json!({"data": 1, "data_base64": "AA=="}), json!({"data_base64": "*"}), json!({"data_base64": 5})] {
        assert!(thing(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn cloudevents_0_3_are_accepted_in_both_modes() {
    let event = binary(&[("ce-specversion", "0.3"), ("ce-schemaurl", "https://example.com/s"), JSON], "{}").unwrap();
    assert_eq!(event.specversion().as_str(), "0.3");
    assert_eq!(event.dataschema().unwrap().as_str(), "https://example.com/s");
    let event = message_event(json!({"specversion": "0.3", "datacontentencoding": "Base64", "data": "eyJhIjoxfQ=="}));
    assert_eq!(json_data(&structured(&event).unwrap()), &json!({"a": 1}));
}

#[test]
fn what_is_not_an_event_is_rejected_with_a_reason() {
    let rejected = |result: Result<Event, String>, reason: &str| {
        let error = result.expect_err(reason);
        assert!(error.contains(reason), "`{error}` does not say `{reason}`");
        assert!(!error.contains("secret"), "{error}");
    };
    for name in ["ce-id", "ce-source", "ce-type", "ce-specversion"] {
        let push = r#"{"message":{"messageId":"1"}}"#;
        rejected(binary(&[(name, ""), JSON], push), &format!("`{}`", &name[3..]));
    }
    rejected(read(&[("ce-id", "%20"), ("ce-source", "\"\"")], ""), "`specversion`");
    rejected(binary(&[("ce-specversion", "2.0-secret")], ""), "specversion");
    rejected(binary(&[("ce-type", "other"), ("ce-time", "secret")], ""), "attribute");
    rejected(binary(&[("ce-type", "other"), ("ce-dataschema", "not a uri")], ""), "attribute");
    rejected(read(&[("content-type", "application/cloudevents-batch+json")], "[]"), "batch");
    rejected(read(&[("content-type", "application/cloudevents+protobuf")], "x"), "application/cloudevents+json");
    for body in ["", "{", "[]", "null", "{\"specversion\":\"1.0\""] {
        rejected(read(&[STRUCTURED], body), "structured event");
    }
    rejected(read(&[STRUCTURED], "{}"), "specversion");
    for name in ["specversion", "id", "source", "type"] {
        for nonsense in [json!(null), json!(""), json!(1.5), json!({"secret": 1}), json!(["secret"])] {
            if let Ok(event) = structured(&message_event(json!({name: nonsense}))) {
                panic!("{name} {nonsense}: {event:?}");
            }
        }
    }
    rejected(
        structured(&json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "x": {"y": 1}})),
        "attribute",
    );

    rejected(read(&[JSON], ""), "empty");
    for body in ["{\"secret\"", "secret", "[1]", "\"secret\"", "{\"message\":{\"messageId\":\"1\"}", "\u{0}\u{1}"] {
        rejected(read(&[JSON], body), "not a JSON object");
    }
    rejected(read(&[], &b"\xff\xfe\x00"[..]), "not a JSON object");
    rejected(read(&[JSON], "{}"), "neither");
    rejected(read(&[JSON], r#"{"message":{"data":"secret"},"subscription":"s"}"#), "messageId");
    rejected(read(&[JSON], r#"{"message":"secret","subscription":"s"}"#), "messageId");
    rejected(read(&[JSON], r#"{"eventType":"google.pubsub.topic.publish","data":{}}"#), "eventId");
    rejected(
        read(&[JSON], r#"{"eventId":"1","eventType":"google.storage.object.finalize","data":{}}"#),
        "topic.publish",
    );
}

#[test]
fn an_event_that_is_not_utf_8_is_rejected_unless_it_is_a_message() {
    let event = |ty: &str| {
        [br#"{"specversion":"1.0","id":"7","source":"s","type":""#, ty.as_bytes(), b"\",\"data\":\"\xff\"}"].concat()
    };
    assert!(read(&[STRUCTURED], event("t")).unwrap_err().contains("UTF-8"));
    assert_eq!(json_data(&read(&[STRUCTURED], event(MESSAGE_PUBLISHED)).unwrap()), &json!("\u{fffd}"));
    let push = read(&[JSON], &b"{\"message\":{\"messageId\":\"7\",\"data\":\"\xff\"}}"[..]).unwrap();
    assert_eq!(push.id(), "7");
}

#[test]
fn a_message_reaches_the_handler_whatever_its_data() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let bodies =
        ["nonsense", "{", "\"\\ud800\"", "1e999", &deep, "{\"message\":{\"messageId\":\"7\",\"data\":\"\\q\"}}"];
    for body in bodies {
        assert_eq!(bytes_data(&binary(&[JSON], body.to_owned()).unwrap()), body.as_bytes());
    }
    for body in ["null", "[]", "7", "{\"message\":[1],\"message\":{}}"] {
        let sent: Value = serde_json::from_str(body).unwrap();
        assert_eq!(json_data(&binary(&[JSON], body).unwrap()), &sent);
        assert_eq!(json_data(&binary(&[], body).unwrap()), &sent, "without a content type");
    }
    assert_eq!(bytes_data(&binary(&[("content-type", "text/plain")], "{}").unwrap()), b"{}");
    assert_eq!(binary(&[JSON], "").unwrap().data(), None);

    let event =
        read(&[STRUCTURED], message_event(json!({"data": "HERE"})).to_string().replace("\"HERE\"", &deep)).unwrap();
    assert_eq!(bytes_data(&event), deep.as_bytes());
    let event = structured(&message_event(json!({"data": 1, "data_base64": "AA=="}))).unwrap();
    assert_eq!(json_data(&event), &json!(1));
    let event = structured(&message_event(json!({"data_base64": "*"}))).unwrap();
    assert_eq!(event.data(), Some(&Data::String("*".into())));
    let event = structured(&message_event(json!({"id": 7}))).unwrap();
    assert_eq!(event.id(), "7");
}

#[test]
fn a_message_loses_attributes_that_cannot_be_read_and_nothing_else() {
    let headers =
        [("ce-time", "yesterday"), ("ce-dataschema", "::"), ("ce-subject", "kept"), ("ce-extra", "kept"), JSON];
    let event = binary(&headers, "{}").unwrap();
    assert_eq!((event.time(), event.dataschema(), event.subject()), (None, None, Some("kept")));
    assert_eq!(event.extension("extra"), Some(&"kept".into()));
    assert_eq!(json_data(&event), &json!({}));

    let bad = json!({"time": 5, "subject": [1], "x": {"y": 1}, "f": 1.5, "big": u64::MAX, "extra": "kept", "data": {}});
    let event = structured(&message_event(bad)).unwrap();
    assert_eq!(as_json(&event), message_event(json!({"extra": "kept", "data": {}})));
}

#[test]
fn of_repeated_keys_the_last_counts() {
    let text =
        r#"{"specversion":"0.3","specversion":"1.0","id":"1","id":"2","source":"s","type":"t","data":1,"data":2}"#;
    let event = read(&[STRUCTURED], text).unwrap();
    assert_eq!((event.id(), json_data(&event)), ("2", &json!(2)));
    let event = read(&[JSON], r#"{"message":{"messageId":"1"},"message":{"messageId":"2","messageId":"3"}}"#).unwrap();
    assert_eq!((event.id(), json_data(&event)), ("3", &json!({"message": {"messageId": "3"}})));
}

/// Escaped slashes, both spellings of each key, and no ce- headers.
#[test]
fn the_push_of_googles_emulator_is_a_message() {
    let body = r#"{"subscription":"projects\/p\/subscriptions\/s","message":{"publishTime":"2026-01-02T03:04:05.678Z",
        "publish_time":"2026-01-02T03:04:05.678Z","data":"","messageId":"1","message_id":"1","attributes":{"a":"b\/c"}}}"#;
    let event = read_at("/projects/p/topics/t", &[JSON], body).unwrap();
    let expected = json!({
        "specversion": "1.0", "id": "1", "type": MESSAGE_PUBLISHED, "source": "//pubsub.googleapis.com/projects/p/topics/t",
        "time": "2026-01-02T03:04:05.678Z", "datacontenttype": "application/json",
        "data": serde_json::from_str::<Value>(body).unwrap(),
    });
    assert_eq!(as_json(&event), expected);
    assert_eq!(read(&[JSON], body).unwrap().source(), "//pubsub.googleapis.com/", "no topic in the path");
    assert_eq!(read(&[], body).unwrap().id(), "1", "no content type");
}

#[test]
fn a_push_gets_what_it_lacks_and_keeps_the_rest() {
    let snake =
        r#"{"message":{"message_id":"5","publish_time":"2026-01-02T03:04:05Z","data":"eA=="},"deliveryAttempt":2}"#;
    let event = read(&[JSON], snake).unwrap();
    assert_eq!((event.id(), event.time().unwrap().to_rfc3339().as_str()), ("5", "2026-01-02T03:04:05+00:00"));
    let expected = json!({"deliveryAttempt": 2, "message": {
        "message_id": "5", "messageId": "5", "publish_time": "2026-01-02T03:04:05Z", "publishTime": "2026-01-02T03:04:05Z",
        "data": "eA==",
    }});
    assert_eq!(json_data(&event), &expected);

    let bare = read(&[JSON], r#"{"message":{"messageId":"5"}}"#).unwrap();
    assert_eq!((bare.time(), json_data(&bare)), (None, &json!({"message": {"messageId": "5"}})));
    let odd =
        read(&[JSON], r#"{"message":{"messageId":{},"message_id":5,"publishTime":"soon","data":[]},"subscription":7}"#)
            .unwrap();
    let expected =
        json!({"message": {"messageId": "5", "message_id": 5, "publishTime": "soon", "data": []}, "subscription": 7});
    assert_eq!((odd.id(), odd.time(), json_data(&odd)), ("5", None, &expected));
}

#[test]
fn a_push_whose_data_cannot_be_parsed_is_a_message() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for data in [deep.as_str(), "1e999", "\"\\ud800\""] {
        let event = read(&[JSON], format!("{{\"message\":{{\"data\":{data},\"messageId\":\"7\"}}}}")).unwrap();
        assert_eq!((event.id(), event.ty()), ("7", MESSAGE_PUBLISHED));
        assert!(str::from_utf8(bytes_data(&event)).unwrap().contains(data));
    }
}

#[test]
fn legacy_events_are_accepted_in_every_shape() {
    for event_type in ["google.pubsub.topic.publish", "providers/cloud.pubsub/eventTypes/topic.publish"] {
        let context = json!({"eventId": "7", "timestamp": "2020-09-29T11:32:00Z", "eventType": event_type,
            "resource": {"service": "pubsub.googleapis.com", "name": "projects/p/topics/t", "type": "x"}});
        let nested = read(&[JSON], json!({"context": context, "data": {"data": "eA=="}}).to_string()).unwrap();
        let mut root = context.clone();
        root["resource"] = "projects/p/topics/t".into();
        root["data"] = json!({"data": "eA=="});
        assert_eq!(nested, read(&[JSON], root.to_string()).unwrap());
        assert_eq!(nested.source(), "//pubsub.googleapis.com/projects/p/topics/t");
    }
}

#[test]
fn a_legacy_event_with_an_id_is_a_message_whatever_the_rest() {
    let legacy = |more: Value| {
        let mut body = json!({"eventId": "7", "eventType": "google.pubsub.topic.publish"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        read_at("/projects/p/topics/t", &[JSON], body.to_string()).unwrap()
    };
    let bare = legacy(json!({}));
    assert_eq!((bare.id(), bare.time(), json_data(&bare)), ("7", None, &json!({"message": {"messageId": "7"}})));
    assert_eq!(bare.source(), "//pubsub.googleapis.com/projects/p/topics/t");
    assert_eq!(json_data(&legacy(json!({"data": null}))), &json!({"message": {"messageId": "7"}}));
    assert_eq!(json_data(&legacy(json!({"data": "text"}))), &json!({"message": "text"}));
    let odd = legacy(json!({"timestamp": "soon", "resource": 5, "data": {"messageId": "own", "publishTime": "own"}}));
    assert_eq!((odd.id(), odd.time()), ("7", None));
    assert_eq!(json_data(&odd), &json!({"message": {"messageId": "own", "publishTime": "own"}}));
    let own = read(&[JSON], r#"{"eventType":"google.pubsub.topic.publish","data":{"messageId":"own"}}"#).unwrap();
    assert_eq!(own.id(), "own");
}
