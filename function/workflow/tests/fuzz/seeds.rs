//! What the inputs are made of: the fixtures, in the shape that each target takes.

use std::{fs, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

/// Of the corpus's cases every so many-th: neighbours are alike.
const EVERY: usize = 7;

fn fixtures(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

fn corpus(part: &str) -> Vec<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/corpus/cases.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let cases = text.lines().step_by(EVERY).map(|line| serde_json::from_str::<Value>(line).unwrap());
    let parts: Vec<_> = cases.filter_map(|case| Some(case.get(part)?.to_string().into_bytes())).collect();
    assert!(!parts.is_empty(), "{part}");
    parts
}

pub fn requests() -> Vec<Vec<u8>> {
    let inquiries = [
        json!({ "action": "status", "run_id": "0b51e8a4-6d0b-5f3c-9a57-6b7a52f19c01" }),
        json!({ "action": "cancel", "job_name": "word-count", "request_id": "nightly" }),
    ];
    let files = fixtures("requests").into_iter().map(|(_, content)| content);
    files.chain(inquiries.map(|inquiry| inquiry.to_string().into_bytes())).chain(corpus("request")).collect()
}

pub fn configs() -> Vec<Vec<u8>> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/cluster-config.json");
    let mut configs = corpus("config");
    configs.push(fs::read(file).unwrap());
    configs
}

/// Bodies of Pub/Sub events.
pub fn envelopes() -> Vec<Vec<u8>> {
    let files = ["events/cloudevents", "events/conformance"].into_iter().flat_map(fixtures);
    let mut envelopes: Vec<_> = files.map(|(_, content)| content).collect();
    envelopes.extend(requests().into_iter().take(6).map(|request| {
        let data = BASE64.encode(request);
        let message = json!({ "data": data, "messageId": "7", "message_id": "7", "publishTime": "2026-03-01T12:00:00.5Z",
            "attributes": { "caller": "test" }, "orderingKey": "k" });
        json!({ "message": message, "subscription": "projects/p/subscriptions/s" }).to_string().into_bytes()
    }));
    envelopes
}

pub fn audit_log() -> Vec<Vec<u8>> {
    let entries = fixtures("events/cloudevents").into_iter().filter(|(name, _)| name.contains("audit"));
    let mut entries: Vec<_> = entries.map(|(_, content)| content).collect();
    let operation = json!({ "id": "projects/p/regions/us-central1/operations/x", "producer": "dataproc.googleapis.com", "last": true });
    entries.push(json!({ "insertId": "1", "operation": operation, "protoPayload": {} }).to_string().into_bytes());
    entries
}

/// Whole requests: a path, headers, an empty line, a body.
pub fn events() -> Vec<Vec<u8>> {
    let with = |head: &str, body: &[u8]| [head.as_bytes(), b"\n\n", body].concat();
    let binary = "/\nce-id: 7\nce-source: //pubsub.googleapis.com/projects/p/topics/t\nce-specversion: 1.0\n\
                  ce-type: google.cloud.pubsub.topic.v1.messagePublished\nce-time: 2026-03-01T12:00:00.5Z\n\
                  ce-traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ncontent-type: application/json";
    let structured = "/\ncontent-type: application/cloudevents+json; charset=utf-8";
    let unmarked = "/projects/p/topics/t?__GCP_CloudEventsMode=GCS_NOTIFICATION\ncontent-type: application/json";
    let mut events = Vec::new();
    for (name, body) in ["events/cloudevents", "events/conformance"].into_iter().flat_map(fixtures) {
        let is_event = name.contains("structured") || name.contains("cloudevent-");
        events.push(with(if is_event { structured } else { binary }, &body));
        events.push(with(unmarked, &body));
    }
    events.push(with(
        "/\nce-id: 1\nce-type: x\nce-source: y\nce-specversion: 0.3\nce-data: z\ncontent-type: text/plain",
        b"\xff",
    ));
    events.push(with("/\nce-id: a%20b\nce-type: x\nce-source: y\nce-specversion: 1.0\nce-dataschema: http://[", b"1"));
    events
}
