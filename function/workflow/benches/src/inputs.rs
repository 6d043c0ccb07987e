//! The requests and configurations that everything is measured with.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

pub const PROJECT: &str = "test-project";
const ENTRIES: usize = 5_000;

/// A request for a workflow of so many jobs, with so much text in one of them.
pub fn request(jobs: usize, padding: usize) -> String {
    let step = |number: usize| {
        json!({ "step_id": format!("step-{number}"), "pyspark_job": {
            "main_python_file_uri": "gs://staging/ok.py", "args": ["--day", "2026-03-01"],
        } })
    };
    let mut jobs: Vec<Value> = (0..jobs).map(step).collect();
    if padding > 0 {
        jobs[0]["pyspark_job"]["args"] = json!(["x".repeat(padding)]);
    }
    json!({ "job_name": "word-count", "jobs": jobs }).to_string()
}

/// The body of a delivery, as Pub/Sub and Eventarc make it.
pub fn envelope(data: &[u8], message_id: &str, published: &str) -> String {
    let body = json!({
        "message": { "data": BASE64.encode(data), "messageId": message_id, "publishTime": published },
        "subscription": format!("projects/{PROJECT}/subscriptions/requests"),
    });
    body.to_string()
}

fn cluster() -> Value {
    json!({ "cluster_name": "default", "config": {
        "gce_cluster_config": { "zone_uri": "us-central1-a" },
        "master_config": { "num_instances": 1, "machine_type_uri": "n1-standard-4" },
        "worker_config": { "num_instances": 2, "machine_type_uri": "n1-standard-4" },
        "software_config": { "image_version": "2.2-debian12" },
    } })
}

/// One entry.
pub fn small_config() -> String {
    json!({ "default_cluster_config": cluster() }).to_string()
}

/// 5,000 entries and the default, about 1 MB.
pub fn large_config() -> String {
    let mut entries: serde_json::Map<_, _> = (0..ENTRIES)
        .map(|number| {
            let mut entry = cluster();
            entry["cluster_name"] = json!(format!("c{number}"));
            (format!("team-{number:04}"), entry)
        })
        .collect();
    entries.insert("default_cluster_config".to_owned(), cluster());
    Value::Object(entries).to_string()
}
