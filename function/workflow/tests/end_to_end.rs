//! The function's binary, over real sockets: our emulator in front, or Google's own Pub/Sub emulator.

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    time::Duration,
};

use gcloud_sdk::google::pubsub::v1::PubsubMessage;
use inline_workflow::environment::*;
use inline_workflow_emulator::{Emulator, Fault, PushSubscription, What};
use serde_json::{Value, json};
use support::{
    BUCKET, PROJECT, REQUESTS, RESPONSES, TICKS,
    binary::{Function, LONG, command, emulator, kinds, variables},
    official::Official,
    one_step,
};
use tokio::{
    net::TcpListener,
    process::Command,
    time::{sleep, timeout},
};

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + LONG;
    while !holds() {
        assert!(tokio::time::Instant::now() < limit, "waited too long for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn subscribe(emulator: &Emulator, function: &Function) {
    for topic in [REQUESTS, TICKS] {
        let name = topic.replace("topics", "subscriptions");
        emulator.push_subscription(&PushSubscription::eventarc(&name, topic, &function.endpoint()));
    }
    emulator.start_ticks_every(TICKS, Duration::from_millis(300));
    emulator.start_audit_events(PROJECT, &function.endpoint());
}

fn publish(emulator: &Emulator, request: &Value) {
    let message = PubsubMessage { data: request.to_string().into_bytes(), ..Default::default() };
    emulator.publish(REQUESTS, message);
}

#[tokio::test]
async fn a_message_on_the_topic_becomes_a_workflow_and_its_result() {
    let emulator = emulator();
    let address = emulator.start().await.unwrap();
    let function = Function::start(&variables(address)).await;
    subscribe(&emulator, &function);
    publish(&emulator, &one_step());
    until("the end", || kinds(&emulator).iter().any(|kind| kind == "succeeded")).await;
    assert_eq!(kinds(&emulator)[0], "submitted");
    assert_eq!(emulator.workflows().len(), 1);
    until("the marker to go", || !emulator.objects(BUCKET).keys().any(|name| name.starts_with("active/"))).await;

    // Every call is routed.
    let expected: HashMap<&str, &str> = HashMap::from([
        ("ReadObject", "bucket=projects%2F_%2Fbuckets%2Fstaging"),
        ("WriteObject", "bucket=projects%2F_%2Fbuckets%2Fstaging"),
        ("ListObjects", "bucket=projects%2F_%2Fbuckets%2Fstaging"),
        ("DeleteObject", "bucket=projects%2F_%2Fbuckets%2Fstaging"),
        ("GetObject", "bucket=projects%2F_%2Fbuckets%2Fstaging"),
        ("Publish", "topic=projects%2Ftest-project%2Ftopics%2Fresponses"),
        ("InstantiateInlineWorkflowTemplate", "parent=projects%2Ftest-project%2Fregions%2Fus-central1"),
        ("GetOperation", "name=projects%2Ftest-project%2Fregions%2Fus-central1%2Foperations%2F"),
        ("ListJobs", "project_id=test-project&region=us-central1"),
        ("GetJob", "project_id=test-project&region=us-central1&job_id=count-"),
    ]);
    for call in emulator.calls() {
        let method = call.path.rsplit('/').next().unwrap();
        let params = call.headers.get("x-goog-request-params").unwrap_or_else(|| panic!("{call:?}"));
        let prefix = expected.get(method).unwrap_or_else(|| panic!("unexpected {method}"));
        assert!(params.starts_with(prefix), "{method}: {params}");
        assert!(call.headers.contains_key("grpc-timeout"), "{call:?}");
    }
}

#[tokio::test]
async fn it_listens_before_the_services_are_there_and_works_once_they_are() {
    // A port that nobody listens on yet.
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let function = Function::start(&variables(address)).await;
    let request = one_step().to_string();
    assert_eq!(function.deliver(REQUESTS, "1", request.as_bytes()).await, 503);
    assert_eq!(function.deliver(TICKS, "2", b"").await, 204);
    let emulator = emulator();
    let listener = TcpListener::bind(address).await.unwrap();
    let serving = emulator.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    assert_eq!(function.deliver(REQUESTS, "1", request.as_bytes()).await, 204);
    assert_eq!(kinds(&emulator), ["submitted"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_termination_lets_the_event_in_flight_finish() {
    let emulator = emulator();
    let address = emulator.start().await.unwrap();
    let mut function = Function::start(&variables(address)).await;
    let slow = What::Delay(Duration::from_millis(1500));
    emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", slow, 1));
    let pid = function.child.id().expect("it runs");
    let request = one_step().to_string();
    let (status, ()) = tokio::join!(function.deliver(REQUESTS, "1", request.as_bytes()), async {
        until("the submission", || {
            emulator.calls().iter().any(|call| call.path.ends_with("InstantiateInlineWorkflowTemplate"))
        })
        .await;
        let killed = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await.unwrap();
        assert!(killed.success());
    });
    assert_eq!(status, 204);
    let exit = timeout(LONG, function.child.wait()).await.expect("in time").unwrap();
    assert_eq!(exit.code(), Some(0));
    assert_eq!(emulator.workflows().len(), 1);
    assert_eq!(kinds(&emulator), ["submitted"]);
}

#[tokio::test]
async fn a_bad_environment_is_reported_whole_with_exit_code_64() {
    let mut variables = variables("127.0.0.1:1".parse().unwrap());
    variables.insert(ENV_SUBMIT_LEASE, "soon".to_owned());
    variables.remove(ENV_REGION);
    variables.insert(ENV_LOG, String::new());
    let no_text = OsString::from_vec(vec![0xff]);
    let output = command(&variables).env(ENV_RULES, no_text).output().await.unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    for variable in [ENV_SUBMIT_LEASE, ENV_REGION, ENV_RULES] {
        assert!(text.contains(variable), "{text}");
    }
}

#[tokio::test]
async fn what_is_to_be_delivered_again_is_logged_with_its_names() {
    let nothing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut variables = variables(nothing.local_addr().unwrap());
    drop(nothing);
    variables.insert(ENV_SERVICE, "workflows".to_owned());
    let mut function = Function::start(&variables).await;
    let request = json!({ "job_name": "daily", "request_id": "r-1", "jobs": [] }).to_string();
    assert_eq!(function.deliver(REQUESTS, "m-1", request.as_bytes()).await, 503);
    let line: Value = serde_json::from_str(&function.log_line().await).unwrap();
    for (key, value) in [("job_name", "daily"), ("request_id", "r-1"), ("message_id", "m-1")] {
        assert_eq!(line[key], value, "{line}");
    }
    assert!(line["run_id"].is_string() && line["elapsed_ms"].is_number(), "{line}");
}

#[tokio::test]
async fn noise_is_refused_or_rejected_and_never_delivered_again() {
    let emulator = emulator();
    let address = emulator.start().await.unwrap();
    let function = Function::start(&variables(address)).await;
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let length = random.usize(0..400);
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        let status = function.post(&[("content-type", "application/json")], &noise).await;
        assert_eq!(status, 400, "{noise:?}");
        let id = format!("noise-{round}");
        assert_eq!(function.deliver(REQUESTS, &id, &noise).await, 204);
        let headers = [
            ("ce-id", id.as_str()),
            ("ce-source", "//pubsub.googleapis.com/projects/p/topics/t"),
            ("ce-specversion", "1.0"),
            ("ce-type", "google.cloud.pubsub.topic.v1.messagePublished"),
            ("content-type", "application/json"),
        ];
        assert_eq!(function.post(&headers, &noise).await, 204);
    }
    let kinds = kinds(&emulator);
    assert_eq!(kinds.len(), 120);
    assert!(kinds.iter().all(|kind| kind == "rejected"));
}

#[tokio::test]
async fn on_cloud_run_the_log_is_one_json_object_a_line() {
    let emulator = emulator();
    let address = emulator.start().await.unwrap();
    let mut variables = variables(address);
    variables.insert(ENV_SERVICE, "inline-workflow".to_owned());
    let mut function = Function::start(&variables).await;
    let body = json!({ "message": { "data": "e30=", "messageId": "7" }, "subscription": "s" }).to_string();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(function.post(&[("traceparent", trace)], body.as_bytes()).await, 204);
    let line: Value = serde_json::from_str(&function.log_line().await).unwrap();
    assert_eq!(line["severity"], "INFO");
    assert_eq!(line["logging.googleapis.com/trace"], "projects/test-project/traces/0af7651916cd43dd8448eb211c80319c");
    assert!(line["run_id"].is_string() && line["job_name"].is_string() && line["elapsed_ms"].is_number(), "{line}");
    let said = emulator.published(RESPONSES).pop().unwrap();
    assert_eq!(said.attributes["ce-traceparent"], trace);
}

/// Needs `OFFICIAL_PUBSUB_EMULATOR`, which `make test-emulator` sets.
#[tokio::test]
#[ignore = "needs Google's Pub/Sub emulator: make test-emulator"]
async fn official_pubsub_emulator_carries_requests_and_results() {
    let mut official = Official::connect().await;
    let emulator = emulator();
    let address = emulator.start().await.unwrap();
    let mut variables = variables(address);
    variables.insert(ENV_PUBSUB_EMULATOR, official.address.clone());
    let function = Function::start(&variables).await;
    for topic in [REQUESTS, TICKS, RESPONSES] {
        official.create_topic(topic).await;
    }
    official.push(REQUESTS, &function.endpoint()).await;
    official.push(TICKS, &function.endpoint()).await;
    official.keep(RESPONSES).await;
    let mut requests = vec![b"no request at all".to_vec()];
    for number in 0..10 {
        let mut request = one_step();
        request["request_id"] = json!(format!("r{number}"));
        requests.push(request.to_string().into_bytes());
    }
    for data in requests {
        official.publish(REQUESTS, &data).await;
    }
    let mut ended: BTreeMap<String, String> = BTreeMap::new();
    let limit = tokio::time::Instant::now() + LONG;
    while ended.len() < 11 {
        assert!(tokio::time::Instant::now() < limit, "waited too long: {ended:?}");
        official.publish(TICKS, b"tick").await;
        for message in official.pull(RESPONSES).await {
            let kind = message.attributes["ce-type"].rsplit('.').next().unwrap().to_owned();
            if ["succeeded", "rejected", "failed"].contains(&kind.as_str()) {
                ended.insert(message.attributes["ce-runid"].clone(), kind);
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ended.values().filter(|kind| *kind == "succeeded").count(), 10, "{ended:?}");
    assert_eq!(ended.values().filter(|kind| *kind == "rejected").count(), 1, "{ended:?}");
    assert_eq!(emulator.workflows().len(), 10);
}
