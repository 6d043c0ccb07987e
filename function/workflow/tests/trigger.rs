//! What an event asks for, in every shape in which it comes.

use cloudevents::{Data, Event, EventBuilder, EventBuilderV10};
use inline_workflow::trigger::{Message, Trigger, Unreadable, trigger};
use serde_json::{Value, json};

const TICKS: &str = "projects/p/topics/ticks";
const RESPONSES: &str = "projects/p/topics/responses";

fn event(ty: &str, source: &str, data: impl Into<Data>) -> Event {
    EventBuilderV10::new()
        .id("event-1")
        .source(source)
        .ty(ty)
        .time("2026-03-01T12:00:00Z")
        .data("application/json", data)
        .build()
        .expect("an event")
}

fn published(data: impl Into<Data>) -> Event {
    event("google.cloud.pubsub.topic.v1.messagePublished", "//pubsub.googleapis.com/projects/p/topics/requests", data)
}

fn request(data: impl Into<Data>) -> Message {
    match trigger(&published(data), TICKS, RESPONSES) {
        Trigger::Request(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_is_read_in_either_case_of_its_keys() {
    let camel = json!({ "messageId": "7", "publishTime": "2026-03-01T11:00:00.25Z", "data": "aGk=", "attributes": { "a": "b" } });
    let snake = json!({ "message_id": "7", "publish_time": "2026-03-01T11:00:00.25Z", "data": "aGk", "attributes": { "a": "b" } });
    for message in [camel, snake] {
        let message = request(json!({ "message": message, "subscription": "s" }));
        assert_eq!(message.id, "7");
        assert_eq!(message.topic, "projects/p/topics/requests");
        assert_eq!(message.published, Some("2026-03-01T11:00:00.25Z".parse().unwrap()));
        assert_eq!(message.data.as_deref(), Ok(b"hi".as_slice()));
        assert_eq!(message.attributes["a"], "b");
    }
}

#[test]
fn an_envelope_may_come_as_text_and_with_a_byte_order_mark() {
    let envelope = json!({ "message": { "messageId": "7", "data": "aGk=" } }).to_string();
    for data in [Data::Json(envelope.clone().into()), format!("\u{feff}{envelope}").into()] {
        let message = request(data);
        assert_eq!((message.id.as_str(), message.data.as_deref()), ("7", Ok(b"hi".as_slice())));
    }
}

#[test]
fn what_a_message_lacks_comes_from_the_event() {
    let message = request(json!({ "message": { "attributes": { "a": "b", "n": 1 } } }));
    assert_eq!(message.id, "event-1");
    assert_eq!(message.published, Some("2026-03-01T12:00:00Z".parse().unwrap()));
    assert_eq!(message.data, Ok(Vec::new()));
    assert_eq!(message.attributes.len(), 1);
}

#[test]
fn data_that_cannot_be_read_says_why() {
    let cases: [(Data, &str); 6] = [
        (json!({ "message": { "data": "%%%" } }).into(), "base64"),
        (json!({ "message": { "data": 17 } }).into(), "not a string"),
        (json!({ "message": "text" }).into(), ""),
        (json!([1, 2]).into(), "no message"),
        ("{\"message\":".to_owned().into(), "not JSON"),
        (b"\xff\xff".to_vec().into(), "not JSON"),
    ];
    for (data, reason) in cases {
        let message = request(data);
        if reason.is_empty() {
            assert_eq!(message.data, Ok(Vec::new()));
        } else {
            let Err(Unreadable(text)) = message.data else { panic!("{message:?}") };
            assert!(text.contains(reason), "{text}");
        }
    }
}

#[test]
fn topics_tell_ticks_requests_and_our_own_answers_apart() {
    let ty = "google.cloud.pubsub.topic.v1.messagePublished";
    let of = |topic: &str| {
        let data = json!({ "message": { "messageId": "1", "publishTime": "2026-03-01T11:00:00Z" } });
        trigger(&event(ty, &format!("//pubsub.googleapis.com/{topic}"), data), TICKS, RESPONSES)
    };
    assert_eq!(of(TICKS), Trigger::Tick(Some("2026-03-01T11:00:00Z".parse().unwrap())));
    assert!(matches!(of(RESPONSES), Trigger::Foreign(_)));
    assert!(matches!(of(""), Trigger::Request(message) if message.topic.is_empty()));
    assert!(matches!(of("projects/other/topics/ticks"), Trigger::Request(_)));
}

#[test]
fn the_audit_log_wakes_up_for_an_operation() {
    let entry = json!({
        "operation": { "id": "projects/p/regions/r/operations/o", "first": true },
        "protoPayload": { "serviceName": "dataproc.googleapis.com" },
    });
    let of = |data: Value| {
        let source = "//cloudaudit.googleapis.com/projects/p/logs/activity";
        trigger(&event("google.cloud.audit.log.v1.written", source, data), TICKS, RESPONSES)
    };
    assert_eq!(of(entry), Trigger::OperationEnded("projects/p/regions/r/operations/o".to_owned()));
    for other in [json!({}), json!({ "operation": {} }), json!({ "operation": { "id": 3 } }), json!(null)] {
        assert!(matches!(of(other), Trigger::Foreign(_)));
    }
}

#[test]
fn google_s_own_samples_are_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/events/cloudevents");
    let mut read = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains("MessagePublishedData") || name.contains("schema") {
            continue;
        }
        let sample: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let data = if name.contains("structured") { sample["data"].clone() } else { sample };
        let message = request(data);
        assert_eq!(message.id, "message-id", "{name}");
        assert!(message.data.is_ok_and(|data| !data.is_empty()), "{name}");
        read += 1;
    }
    assert!(read >= 5, "{read} samples in {folder}");
}
