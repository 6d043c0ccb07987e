//! A function on Cloud Run to which everything happens that a metric counts, and what it logs meanwhile.

use std::{collections::BTreeMap, time::Duration};

use inline_workflow::environment::*;
use inline_workflow_emulator::{Emulator, Fault, Outcome, Trouble, What, When};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::support::{
    BUCKET, CONFIG, REQUESTS, RESPONSES, TICKS,
    binary::{Function, LONG, emulator, variables},
};

/// What happened, and every line that the function wrote about it.
pub struct Story {
    pub lines: Vec<Value>,
    /// How many events of each kind came in.
    pub events: BTreeMap<&'static str, usize>,
    /// Ticks that came in time and found the bucket.
    pub working_ticks: usize,
}

struct Scene {
    emulator: Emulator,
    function: Function,
    events: BTreeMap<&'static str, usize>,
    working_ticks: usize,
}

pub async fn play(service: &str) -> Story {
    let emulator = emulator();
    let address = emulator.start().await.expect("it listens");
    let mut variables = variables(address);
    variables.insert(ENV_SERVICE, service.to_owned());
    for name in [ENV_RETRY_DELAY, ENV_CAPACITY_RETRY_DELAY] {
        variables.insert(name, "1".to_owned());
    }
    let function = Function::start(&variables).await;
    let mut scene = Scene { emulator, function, events: BTreeMap::new(), working_ticks: 0 };
    scene.ends().await;
    scene.rejections().await;
    scene.waits().await;
    scene.troubles().await;
    scene.other_events().await;
    scene.story().await
}

fn step(step_id: &str, script: &str) -> Value {
    json!([{ "step_id": step_id, "pyspark_job": { "main_python_file_uri": format!("gs://{BUCKET}/scripts/{script}") } }])
}

fn run(job_name: &str) -> Value {
    json!({ "job_name": job_name, "jobs": step("count", "ok.py") })
}

fn endless_run(job_name: &str) -> Value {
    json!({ "job_name": job_name, "request_id": "r", "jobs": step("endless", "ok.py") })
}

impl Scene {
    async fn ends(&mut self) {
        self.emulator.on_step("endless", Outcome::Hang);
        self.request(&run("succeeds"), 204).await;
        self.request(&json!({ "job_name": "fails", "jobs": step("count", "missing.py") }), 204).await;
        self.request(&endless_run("is-cancelled"), 204).await;
        let cancel = json!({ "action": "cancel", "job_name": "is-cancelled", "request_id": "r" });
        self.request(&cancel, 204).await;
        self.until_all_have_ended().await;
        // A repetition is no second run.
        self.request(&cancel, 204).await;
    }

    async fn rejections(&mut self) {
        // Not said at first: rejected once all the same.
        self.emulator.fault(Fault { method: "Publish".to_owned(), what: unavailable(), when: When::Always });
        let bad = json!({ "job_name": "bad-request", "jobs": [] });
        self.request(&bad, 503).await;
        self.emulator.clear_faults();
        self.request(&bad, 204).await;
        self.request(&json!({ "action": "cancel", "job_name": "bad-cancel", "jobs": [] }), 204).await;

        let good = self.emulator.object(BUCKET, CONFIG).expect("it is there");
        let mut config: Value = serde_json::from_slice(&good).expect("JSON");
        for job_name in ["bad-entry", "bad-entry-to-validate"] {
            config[job_name] = json!({ "cluster_name": "c", "no_such_field": 1 });
        }
        self.emulator.put_object(BUCKET, CONFIG, config.to_string());
        self.request(&run("bad-entry"), 204).await;
        let mut validate = run("bad-entry-to-validate");
        validate["action"] = json!("validate");
        self.request(&validate, 204).await;

        let refused = What::Code(Code::InvalidArgument, "no such image version".to_owned());
        self.emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", refused, 1));
        self.request(&run("refused"), 204).await;
    }

    async fn waits(&mut self) {
        self.emulator.mishap(Trouble::QuotaRefused, When::Times(1));
        self.request(&run("short-of-quota"), 204).await;
        let denied = What::Code(Code::PermissionDenied, "not yet".to_owned());
        self.emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", denied, 1));
        self.request(&run("denied"), 204).await;
        self.until_all_have_ended().await;
    }

    async fn troubles(&mut self) {
        self.emulator.mishap(Trouble::DeleteFails("still in use".to_owned()), When::Times(1));
        self.request(&run("leaves-a-cluster"), 204).await;
        self.until_all_have_ended().await;

        self.request(&endless_run("unreadable"), 204).await;
        let active = self.active().pop().expect("it has not ended");
        let object = active.replace("active/", "runs/") + ".json";
        let content = self.emulator.object(BUCKET, &object).expect("it is recorded");
        let mut record: Value = serde_json::from_slice(&content).expect("JSON");
        record["state"] = json!("no such state");
        self.emulator.put_object(BUCKET, &object, record.to_string());
        self.until_all_have_ended().await;
    }

    async fn other_events(&mut self) {
        self.tick(Duration::from_secs(600)).await;
        self.emulator.fault(Fault { method: "ListObjects".to_owned(), what: unavailable(), when: When::Always });
        self.tick(Duration::ZERO).await;
        self.emulator.clear_faults();
        // Neither did its work.
        self.working_ticks -= 2;

        assert_eq!(self.function.deliver(RESPONSES, "foreign", b"{}").await, 204);
        *self.events.entry("foreign").or_default() += 1;
        let operation = self.emulator.workflows()[0].name.clone();
        let headers = [
            ("ce-id", "audit"),
            ("ce-source", "//cloudaudit.googleapis.com/projects/test-project/logs/activity"),
            ("ce-specversion", "1.0"),
            ("ce-type", "google.cloud.audit.log.v1.written"),
            ("content-type", "application/json"),
        ];
        let entry = json!({ "operation": { "id": operation, "last": true } }).to_string();
        assert_eq!(self.function.post(&headers, entry.as_bytes()).await, 204);
        *self.events.entry("operation").or_default() += 1;
    }

    async fn request(&mut self, request: &Value, status: u16) {
        let count = self.events.entry("request").or_default();
        *count += 1;
        let id = format!("m{count}");
        let answer = self.function.deliver(REQUESTS, &id, request.to_string().as_bytes()).await;
        assert_eq!(answer, status, "{request}");
    }

    async fn tick(&mut self, age: Duration) {
        *self.events.entry("tick").or_default() += 1;
        self.working_ticks += 1;
        let status = self.function.deliver_late(TICKS, "tick", b"tick", age).await;
        assert_eq!(status, 204);
    }

    fn active(&self) -> Vec<String> {
        self.emulator.objects(BUCKET).into_keys().filter(|name| name.starts_with("active/")).collect()
    }

    async fn until_all_have_ended(&mut self) {
        let limit = Instant::now() + LONG;
        while !self.active().is_empty() {
            assert!(Instant::now() < limit, "waited too long for {:?}", self.active());
            sleep(Duration::from_millis(100)).await;
            self.tick(Duration::ZERO).await;
        }
    }

    /// All lines, up to that of a last event.
    async fn story(mut self) -> Story {
        self.request(&json!({ "action": "status", "job_name": "the-last", "request_id": "r" }), 204).await;
        let mut lines: Vec<Value> = Vec::new();
        while lines.last().is_none_or(|line| line["job_name"] != "the-last") {
            let line = self.function.log_line().await;
            lines.push(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}")));
        }
        Story { lines, events: self.events, working_ticks: self.working_ticks }
    }
}

fn unavailable() -> What {
    What::Code(Code::Unavailable, "out for lunch".to_owned())
}
