//! What is said on the response topic, to the letter, and within Pub/Sub's limits.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gcloud_sdk::{
    google::pubsub::v1::{PublishRequest, PubsubMessage},
    prost::Message as _,
};
use inline_workflow::{
    outcome::{Failure, Step},
    pubsub::Message,
    record::{Announcement, Correlation, Kind, Record, State},
    response::{Answer, Speaker, is_senders_own},
    violation::{Document, Violation},
};
use serde_json::{Value, json};
use tonic::Code;
use uuid::Uuid;

const RUN: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);

fn speaker() -> Speaker {
    Speaker {
        source: "//run.googleapis.com/projects/p/locations/r/services/s".to_owned(),
        project: "p".to_owned(),
        region: "r".to_owned(),
    }
}

fn correlation() -> Correlation {
    Correlation {
        run_id: RUN,
        job_name: Some("word-count".to_owned()),
        request_id: Some("nightly".to_owned()),
        message_id: "42".to_owned(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        attributes: BTreeMap::from([("order".to_owned(), "4711".to_owned())]),
    }
}

fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00.5Z".parse().expect("a time")
}

fn data(message: &Message) -> Value {
    serde_json::from_slice(&message.data).expect("JSON")
}

#[test]
fn an_event_is_written_in_binary_mode() {
    let mut record = Record::accepted(correlation(), Some(now()), now());
    record.operation = Some("projects/p/regions/r/operations/o-1".to_owned());
    record.state = State::Submitted;
    let event = Announcement {
        kind: Kind::Submitted,
        id_suffix: "submitted/1".to_owned(),
        sequence: 1,
        time: now(),
        published: false,
    };
    let message = speaker().announcement(&record, &event);
    let expected = [
        ("ce-specversion", "1.0"),
        ("ce-id", "01234567-89ab-cdef-0123-456789abcdef/submitted/1"),
        ("ce-source", "//run.googleapis.com/projects/p/locations/r/services/s"),
        ("ce-type", "inlineworkflow.dataproc.run.v1.submitted"),
        ("ce-subject", "word-count"),
        ("ce-time", "2026-03-01T12:00:00.500Z"),
        ("ce-datacontenttype", "application/json"),
        ("content-type", "application/json"),
        ("ce-runid", "01234567-89ab-cdef-0123-456789abcdef"),
        ("ce-jobname", "word-count"),
        ("ce-requestid", "nightly"),
        ("ce-messageid", "42"),
        ("ce-sequence", "1"),
        ("ce-traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("order", "4711"),
    ];
    let expected: BTreeMap<_, _> =
        expected.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    assert_eq!(message.attributes.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(message.ordering_key, RUN.to_string());
    assert_eq!(
        data(&message),
        json!({
            "run_id": RUN, "job_name": "word-count", "request_id": "nightly", "message_id": "42", "attempt": 1,
            "state": "submitted", "operation": "projects/p/regions/r/operations/o-1",
            "times": { "received": "2026-03-01T12:00:00.500Z" },
            "links": { "console": "https://console.cloud.google.com/dataproc/workflows/instances/r/o-1?project=p" },
        })
    );
}

#[test]
fn attributes_stay_within_the_limits_of_the_service() {
    let mut to = correlation();
    to.job_name = Some("ä".repeat(1000));
    to.request_id = Some(String::new());
    to.attributes = (0..200).map(|number| (format!("key-{number:03}"), "x".repeat(2000))).collect();
    to.attributes.insert("k".repeat(300), "value".to_owned());
    to.attributes.insert("empty".to_owned(), String::new());
    let message = speaker().answer(&to, Kind::Rejected, Answer::default(), now());
    assert_eq!(message.attributes.len(), 100);
    for (key, value) in &message.attributes {
        assert!(key.len() <= 256 && value.len() <= 1024 && !value.is_empty(), "{key}");
    }
    assert_eq!(message.attributes["ce-jobname"], "ä".repeat(512));
    assert_eq!(message.attributes["ce-type"], "inlineworkflow.dataproc.run.v1.rejected");
    assert!(!message.attributes.contains_key("ce-requestid") && !message.attributes.contains_key("empty"));
    assert_eq!(data(&message)["job_name"], "ä".repeat(1000));
}

#[test]
fn only_the_senders_own_attributes_go_back() {
    for key in ["ce-id", "CE-Type", "googclient_schemaencoding", "goog-x", "content-type", "Content-Type", ""] {
        assert!(!is_senders_own(key), "{key}");
    }
    for key in ["order", "cell", "x-goog"] {
        assert!(is_senders_own(key), "{key}");
    }
}

#[test]
fn a_hundred_violations_are_shown_and_the_rest_is_counted() {
    let violation = |number: usize| Violation::decoding(Document::Request, format!("jobs[{number}]"), "wrong");
    let answer = Answer {
        state: Some(State::Rejected),
        failure: Some(Failure::new(Code::InvalidArgument, "many")),
        violations: (0..250).map(violation).collect(),
        ..Answer::default()
    };
    let message = speaker().answer(&correlation(), Kind::Rejected, answer, now());
    let data = data(&message);
    assert_eq!(data["violations"].as_array().unwrap().len(), 100);
    assert_eq!(data["violations"][0], json!({ "document": "request", "path": "jobs[0]", "reason": "wrong" }));
    assert_eq!(data["violation_count"], 250);
    assert_eq!(data["error"], json!({ "code": "INVALID_ARGUMENT", "message": "many" }));
}

/// As Pub/Sub measures it. Source: https://cloud.google.com/pubsub/quotas#resource_limits
fn size_of_request(message: &Message) -> usize {
    PublishRequest {
        topic: format!("projects/{}/topics/{}", "p".repeat(30), "t".repeat(255)),
        messages: vec![PubsubMessage {
            data: message.data.clone(),
            attributes: message.attributes.clone(),
            ordering_key: message.ordering_key.clone(),
            ..Default::default()
        }],
    }
    .encoded_len()
}

fn violations(count: usize, length: usize) -> Vec<Violation> {
    let violation = |number| Violation::decoding(Document::Request, format!("jobs[{number}]"), "w".repeat(length));
    (0..count).map(violation).collect()
}

/// The end of a run with each part as large as asked.
fn ended(warnings: usize, violations_of: usize, errors: usize, prerequisites: usize, steps: usize) -> Record {
    let mut to = correlation();
    to.attributes = (0..200).map(|number| (format!("{number:0>256}"), "x".repeat(2000))).collect();
    let mut record = Record::accepted(to, Some(now()), now());
    record.operation = Some("projects/p/regions/r/operations/o-1".to_owned());
    record.state = State::Rejected;
    record.failure = Some(Failure::new(Code::Internal, "\u{1}".repeat(1_000_000)));
    record.warnings = violations(101, warnings);
    record.violations = violations(101, violations_of);
    record.progress.steps = (0..1_000)
        .map(|number| Step {
            step_id: format!("{number:0>steps$}"),
            state: "FAILED".to_owned(),
            error: Some("\u{1}".repeat(errors)),
            prerequisite_step_ids: vec!["p".repeat(50); prerequisites],
            ..Step::default()
        })
        .collect();
    record
}

fn rejected(record: &Record) -> Message {
    let (kind, id_suffix) = (Kind::Rejected, "rejected/42".to_owned());
    speaker().announcement(record, &Announcement { kind, id_suffix, sequence: 3, time: now(), published: false })
}

#[test]
fn an_event_too_large_for_a_message_leaves_out_parts_in_order_until_it_fits() {
    const FULL: usize = 120_000;
    let cases: [(Record, &[&str]); 6] = [
        (ended(10, 10, 10, 10, 50), &[]),
        (ended(FULL, 10, 10, 10, 50), &["warnings"]),
        (ended(FULL, FULL, 10, 10, 50), &["warnings", "violations"]),
        (ended(10, FULL, 2_000, 10, 50), &["warnings", "violations", "steps.error"]),
        (ended(10, 10, 2_000, 200, 50), &["warnings", "violations", "steps.error", "steps.details"]),
        (ended(10, 10, 10, 10, 11_000), &["warnings", "violations", "steps.error", "steps.details", "steps"]),
    ];
    for (record, left_out) in cases {
        let message = rejected(&record);
        assert!(size_of_request(&message) <= 10_000_000, "{left_out:?}: {}", size_of_request(&message));
        let data = data(&message);
        let left: Vec<_> = data.get("left_out").and_then(Value::as_array).cloned().unwrap_or_default();
        assert_eq!(left, left_out, "{left_out:?}");
        for (name, field) in [("warnings", "warning"), ("violations", "violation")] {
            let shown = if left_out.contains(&name) { 1 } else { 100 };
            assert_eq!(data[name].as_array().unwrap().len(), shown, "{name} of {left_out:?}");
            assert_eq!(data[format!("{field}_count")], 101);
        }
        let steps = data.get("steps").and_then(Value::as_array).map_or(0, Vec::len);
        assert_eq!(steps, if left_out.contains(&"steps") { 0 } else { 1_000 });
        if steps > 0 {
            assert_eq!(data["steps"][7].get("error").is_none(), left_out.contains(&"steps.error"));
            assert_eq!(data["steps"][7].get("prerequisite_step_ids").is_none(), left_out.contains(&"steps.details"));
            assert_eq!(data["steps"][7]["state"], "FAILED");
        }
        assert_eq!((&data["state"], &data["error"]["code"]), (&json!("rejected"), &json!("INTERNAL")));
    }
}

#[test]
fn the_same_record_gives_the_same_event_whatever_it_leaves_out() {
    let record = ended(120_000, 10, 10, 10, 50);
    assert_eq!(rejected(&record), rejected(&record));
}

#[test]
fn a_template_too_large_for_a_message_is_left_out() {
    let answer = |length: usize| Answer { template: Some(json!({ "id": "x".repeat(length) })), ..Answer::default() };
    let small = data(&speaker().answer(&correlation(), Kind::Validated, answer(9_000_000), now()));
    assert!(small["template"].is_object() && small.get("left_out").is_none());
    let message = speaker().answer(&correlation(), Kind::Validated, answer(10_000_000), now());
    assert!(message.data.len() < 10_000);
    assert!(data(&message).get("template").is_none());
    assert_eq!(data(&message)["left_out"], json!(["template"]));
}

#[test]
fn the_smallest_form_says_which_run_and_how_it_ended_whatever_else_there_is() {
    let long = "\u{1}".repeat(1_000_000);
    let mut record = ended(10, 10, 10, 10, 50);
    record.correlation.job_name = Some(long.clone());
    record.correlation.request_id = Some(long.clone());
    record.correlation.message_id = long.clone();
    record.violations = vec![Violation::decoding(Document::Request, long.clone(), long)];
    let message = rejected(&record);
    // Nothing but the smallest form is within the limit.
    assert_eq!(message.data, message.smallest);
    assert!(size_of_request(&message) < 200_000, "{}", size_of_request(&message));
    let data = data(&message);
    assert_eq!(data["left_out"], json!(["*"]));
    assert_eq!((&data["run_id"], &data["state"]), (&json!(RUN), &json!("rejected")));
    assert_eq!((&data["error"]["code"], &data["attempt"]), (&json!("INTERNAL"), &json!(1)));
    assert_eq!(data["operation"], "projects/p/regions/r/operations/o-1");
}

#[test]
fn a_text_of_the_sender_is_cut_before_the_answer_is_too_large_to_be_published() {
    let long = "x".repeat(10_000_000);
    let to = Correlation {
        job_name: Some(long.clone()),
        request_id: Some(long.clone()),
        message_id: long.clone(),
        ..correlation()
    };
    let answer = Answer { config_entry: Some(long), ..Answer::default() };
    let refused = speaker().answer(&to, Kind::Rejected, answer, now());
    let shown = speaker().answered(&to, &Record::accepted(to.clone(), None, now()), (None, &[]), now());
    for message in [refused, shown] {
        assert!(message.data.len() < 1_000_000, "{}", message.data.len());
        assert_eq!(data(&message)["job_name"].as_str().map(str::len), Some(65_536));
    }
}
