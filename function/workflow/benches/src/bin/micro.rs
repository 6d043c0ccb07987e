//! What the parts of an event cost that are the function's own: what it computes between the calls that it makes.
//!
//! Inputs are those of the other tables: a request of 2 jobs and one of 100, a configuration of one entry and one of 5,000.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has no better way to say so")]

use std::sync::LazyLock;

use bytes::Bytes;
use cloudevents::Event;
use divan::{Bencher, black_box};
use functions_framework::decode;
use http::{Request, request::Parts};
use inline_workflow::{
    cluster_config::{self, ClusterConfig},
    identity::Deployment,
    json, proto_json,
    record::{Announcement, Correlation, Kind, Record, State},
    request::{self, Request as JobRequest},
    response::Speaker,
    template::{self, Options, Rendered},
    trigger::{Message, Trigger, trigger},
    violation::{Document, Faults},
    wire,
};
use inline_workflow_bench::inputs;
use prost::Message as _;
use prost_reflect::DescriptorPool;
use serde_json::value::to_raw_value;
use uuid::Uuid;

const JOBS: [usize; 2] = [2, 100];
const RUN: Uuid = Uuid::from_u128(0x0b51_e8a4_6d0b_5f3c_9a57_6b7a_52f1_9c01);

fn main() {
    // Made at the first use, and not of interest but where it is measured.
    proto_json::pool();
    divan::Divan::default().color(false).run_benches();
}

fn delivery(jobs: usize) -> (Parts, Bytes) {
    let body = inputs::envelope(inputs::request(jobs, 0).as_bytes(), "1", "2026-03-01T12:00:00Z");
    let request = Request::post("/")
        .header("ce-id", "1")
        .header("ce-source", "//pubsub.googleapis.com/projects/p/topics/requests")
        .header("ce-specversion", "1.0")
        .header("ce-type", "google.cloud.pubsub.topic.v1.messagePublished")
        .header("ce-time", "2026-03-01T12:00:00Z")
        .header("content-type", "application/json")
        .body(())
        .unwrap();
    (request.into_parts().0, body.into())
}

fn event(jobs: usize) -> Event {
    let (head, body) = delivery(jobs);
    decode(&head, body).unwrap()
}

fn message(jobs: usize) -> Message {
    match trigger(&event(jobs), "projects/p/topics/ticks", "projects/p/topics/responses") {
        Trigger::Request(message) => message,
        other => panic!("{other:?}"),
    }
}

fn job_request(jobs: usize) -> JobRequest {
    request::decode(message(jobs).data.as_deref().unwrap()).0
}

static SMALL: LazyLock<ClusterConfig> =
    LazyLock::new(|| cluster_config::parse("config", 1, inputs::small_config().as_bytes()).unwrap());

fn options() -> Options {
    Options {
        run_id: RUN,
        deployment: Deployment::new("p", "r", "b"),
        allowed_code_prefixes: Vec::new(),
        allow_inline_queries: false,
        cluster_idle_ttl: None,
        cluster_max_ttl: None,
    }
}

fn rendered(jobs: usize) -> Rendered {
    template::render(&job_request(jobs), &SMALL, &options()).0.unwrap()
}

fn record(jobs: usize) -> Record {
    let correlation =
        Correlation { job_name: Some("word-count".to_owned()), message_id: "1".to_owned(), ..Correlation::of_run(RUN) };
    let now = chrono::Utc::now();
    Record {
        request: to_raw_value(&job_request(jobs).document).unwrap(),
        template: template::encode(&rendered(jobs).template),
        state: State::Submitted,
        operation: Some("projects/p/regions/r/operations/0b51e8a4-6d0b-5f3c-9a57-6b7a52f19c01".to_owned()),
        last_event: Some(Announcement {
            kind: Kind::Submitted,
            id_suffix: "submitted/1".to_owned(),
            sequence: 1,
            time: now,
            published: false,
        }),
        ..Record::accepted(correlation, Some(now), now)
    }
}

#[divan::bench(args = JOBS)]
fn a1_envelope_to_event(bencher: Bencher, jobs: usize) {
    let (head, body) = delivery(jobs);
    bencher.bench(|| decode(&head, body.clone()).unwrap());
}

#[divan::bench(args = JOBS)]
fn a2_event_to_message(bencher: Bencher, jobs: usize) {
    let event = event(jobs);
    bencher.bench(|| trigger(&event, "projects/p/topics/ticks", "projects/p/topics/responses"));
}

#[divan::bench(args = JOBS)]
fn b1_message_to_request(bencher: Bencher, jobs: usize) {
    let data = message(jobs).data.unwrap();
    bencher.bench(|| request::decode(&data));
}

#[divan::bench(args = JOBS)]
fn b2_request_digest(bencher: Bencher, jobs: usize) {
    let request = job_request(jobs);
    bencher.bench(|| request.digest());
}

#[divan::bench(args = JOBS)]
fn c1_jobs_as_messages(bencher: Bencher, jobs: usize) {
    let request = job_request(jobs);
    let json::Value::Object(members) = &request.document else { panic!("an object") };
    let json::Value::Array(jobs) = &members.iter().find(|(key, _)| key == "jobs").unwrap().1 else {
        panic!("an array")
    };
    let descriptor = proto_json::dataproc("OrderedJob");
    bencher.bench(|| {
        let mut faults = Faults::new(Document::Request, "");
        for job in jobs {
            black_box(proto_json::message(job, &descriptor, &mut faults));
        }
    });
}

#[divan::bench(args = JOBS)]
fn c2_request_to_template(bencher: Bencher, jobs: usize) {
    let request = job_request(jobs);
    let options = options();
    bencher.bench(|| template::render(&request, &SMALL, &options));
}

#[divan::bench(args = JOBS)]
fn c3_template_to_wire(bencher: Bencher, jobs: usize) {
    let rendered = rendered(jobs);
    bencher.bench(|| wire::encode(&rendered.template));
}

/// For comparison.
#[divan::bench(args = JOBS)]
fn c4_the_same_by_prost_reflect(bencher: Bencher, jobs: usize) {
    let rendered = rendered(jobs);
    bencher.bench(|| rendered.template.encode_to_vec());
}

#[divan::bench(args = JOBS)]
fn d1_record_to_text(bencher: Bencher, jobs: usize) {
    let record = record(jobs);
    bencher.bench(|| serde_json::to_vec(&record).unwrap());
}

#[divan::bench(args = JOBS)]
fn d2_record_to_event(bencher: Bencher, jobs: usize) {
    let record = record(jobs);
    let speaker = Speaker { source: "//run".to_owned(), project: "p".to_owned(), region: "r".to_owned() };
    let event = record.last_event.clone().unwrap();
    bencher.bench(|| speaker.announcement(&record, &event));
}

#[divan::bench(args = JOBS)]
fn d3_text_to_record(bencher: Bencher, jobs: usize) {
    let text = serde_json::to_vec(&record(jobs)).unwrap();
    bencher.bench(|| serde_json::from_slice::<Record>(&text).unwrap());
}

#[divan::bench]
fn e1_configuration_of_5000_entries(bencher: Bencher) {
    let text = inputs::large_config();
    bencher.bench(|| cluster_config::parse("config", 1, text.as_bytes()).unwrap());
}

#[divan::bench]
fn e2_descriptor_once_in_a_process() -> DescriptorPool {
    DescriptorPool::decode(include_bytes!("../../../data/template.binpb").as_slice()).unwrap()
}
