//! Everything between a message's bytes and the message that is sent, without any service.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod code_prefixes;
mod every_field;
mod forms;
mod hostile;
mod json;
mod merge;
mod request;
mod rules;
mod wire;

use inline_workflow::request::Request;
use inline_workflow::template::{InstantiateRequest, Options, Rendered};
use inline_workflow::violation::{Document, Fault, Violation};
use inline_workflow::{cluster_config, identity::Deployment, proto_json, request as requests, template};
use prost::Message;
use prost_reflect::DynamicMessage;
use uuid::Uuid;

const RUN_ID: Uuid = Uuid::from_u128(0x0b51_e8a4_6d0b_5f3c_9a57_6b7a_52f1_9c01);
const OBJECT: &str = "config/cluster-config.json";
const PLAIN_CONFIG: &str = r#"{"default_cluster_config": {"cluster_name": "etl", "config": {}}}"#;

fn deployment() -> Deployment {
    Deployment::new("p", "r1", "b")
}

fn options() -> Options {
    Options {
        run_id: RUN_ID,
        deployment: deployment(),
        allowed_code_prefixes: Vec::new(),
        allow_inline_queries: false,
        cluster_idle_ttl: None,
        cluster_max_ttl: None,
    }
}

/// A request of one step, with further members of the request.
fn with(members: &str) -> String {
    let comma = if members.is_empty() { "" } else { ", " };
    format!(
        r#"{{"jobs": [{{"step_id": "one", "pyspark_job": {{"main_python_file_uri": "gs://b/m.py"}}}}]{comma}{members}}}"#
    )
}

/// Puts a request through everything that is done before a call.
fn render(request: &str, config: &str, options: &Options) -> (Request, Option<Rendered>, Vec<Violation>) {
    let (request, mut violations) = requests::decode(request.as_bytes());
    let config = match cluster_config::parse(OBJECT, 7, config.as_bytes()) {
        Ok(config) => config,
        Err(violation) => {
            violations.push(violation);
            return (request, None, violations);
        }
    };
    let (rendered, more) = template::render(&request, &config, options);
    violations.extend(more);
    (request, rendered, violations)
}

/// The template in protobuf's JSON form; there must be no violation.
#[track_caller]
fn rendered(request: &str, config: &str, options: &Options) -> serde_json::Value {
    let (_, rendered, violations) = render(request, config, options);
    assert_eq!(violations, []);
    let rendered = rendered.unwrap();
    // Through the wire, so that what is not sent does not count.
    sent(&template::instantiate_request("p", "r1", template::encode(&rendered.template), "id".to_owned()))["template"]
        .take()
}

/// The request of a call as the service reads it.
#[track_caller]
fn sent(request: &InstantiateRequest) -> serde_json::Value {
    let descriptor = proto_json::dataproc("InstantiateInlineWorkflowTemplateRequest");
    template::to_json(&DynamicMessage::decode(descriptor, request.encode_to_vec().as_slice()).unwrap())
}

/// Each violation as `document path: reason`, with `!` in front of what `RULES=warn` does not let pass.
fn lines(violations: &[Violation]) -> Vec<String> {
    let line = |violation: &Violation| {
        let gravity = if violation.fault == Fault::Rule { "" } else { "!" };
        let document = if violation.document == Document::Config { "config" } else { "request" };
        format!("{gravity}{document} {}: {}", violation.path, violation.reason)
    };
    violations.iter().map(line).collect()
}

#[track_caller]
fn assert_violations(request: &str, config: &str, options: &Options, expected: &[&str]) {
    let (_, _, violations) = render(request, config, options);
    assert_eq!(lines(&violations), expected, "{request} with {config}");
}
