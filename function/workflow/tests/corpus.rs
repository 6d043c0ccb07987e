//! Parity with Google's Python client: `fixtures/corpus` holds what it makes of a configuration and a request
//! (its README: the format, and how it treats each form), and here each case is put through the same way as an event.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::fs;
use std::path::PathBuf;

use base64::Engine;
use inline_workflow::violation::{Document, Fault, Faults, Violation};
use inline_workflow::{cluster_config, identity::Deployment, json, proto_json, request, template};
use prost::Message;
use prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value};
use serde_json::Value as Json;
use uuid::Uuid;

const RUN_ID: Uuid = Uuid::from_u128(0x0b51_e8a4_6d0b_5f3c_9a57_6b7a_52f1_9c01);
const OBJECT: &str = "config/cluster-config.json";

/// What came of a case that does not contradict its expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// An equal message.
    Agreed,
    /// An equal message, with broken rules of the service.
    AgreedWithRules,
    /// Refused there and here, at the same place.
    Refused,
    /// Refused there, taken here: camelCase keys, and durations as numbers.
    TakenBeyond,
    /// Taken there by leniency only, refused here.
    QuirkRefused,
    /// Taken there by leniency only, and here with an equal message.
    QuirkAgreed,
    /// Taken there, refused here since the last of two equal keys must not win silently.
    RepeatedKey,
}

#[test]
fn every_case_of_a_config_and_a_request() {
    check("cases.jsonl", case);
}

#[test]
fn every_case_of_a_whole_template() {
    check("template_cases.jsonl", template_case);
}

fn check(file: &str, run: fn(&Json) -> Result<Outcome, String>) {
    let mut outcomes = std::collections::BTreeMap::new();
    let mut failures = Vec::new();
    for line in read(file).lines() {
        let case: Json = serde_json::from_str(line).unwrap();
        match run(&case) {
            Ok(outcome) => *outcomes.entry(outcome).or_insert(0) += 1,
            Err(why) => failures.push(format!("{}: {why}", case["id"].as_str().unwrap())),
        }
    }
    println!("{file}: {outcomes:?}, {} failed", failures.len());
    assert!(outcomes.values().sum::<i32>() > 0, "{file} has no cases");
    assert!(failures.is_empty(), "{} cases of {file}:\n{}", failures.len(), failures.join("\n"));
}

fn read(file: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/corpus");
    fs::read_to_string(folder.join(file)).unwrap()
}

/// The text of a document: as the case has it, or written from its JSON value.
fn text(case: &Json, key: &str) -> String {
    match &case[format!("{key}_raw")] {
        Json::String(raw) => raw.clone(),
        _ => case[key].to_string(),
    }
}

fn case(case: &Json) -> Result<Outcome, String> {
    let (project, region) = (case["env"]["project"].as_str().unwrap(), case["env"]["region"].as_str().unwrap());
    let (request, mut violations) = request::decode(text(case, "request").as_bytes());
    let rendered = match cluster_config::parse(OBJECT, 1, text(case, "config").as_bytes()) {
        Ok(config) => {
            let options = template::Options {
                run_id: RUN_ID,
                deployment: Deployment::new(project, region, "b"),
                allowed_code_prefixes: Vec::new(),
                allow_inline_queries: false,
                cluster_idle_ttl: None,
                cluster_max_ttl: None,
            };
            let (rendered, more) = template::render(&request, &config, &options);
            violations.extend(more);
            rendered
        }
        Err(violation) => {
            violations.push(violation);
            None
        }
    };
    for violation in violations.iter().filter(|violation| violation.document == Document::Config) {
        if !violation.reason.contains(OBJECT) {
            return Err(format!("a fault of the configuration that does not name its object: {violation:?}"));
        }
    }
    let refused = violations.iter().any(|violation| violation.fault == Fault::Decoding);
    let sent = rendered.filter(|_| !refused).map(|rendered| {
        let template = template::encode(&rendered.template);
        let request = template::instantiate_request(project, region, template, "id".to_owned());
        let descriptor = proto_json::dataproc("InstantiateInlineWorkflowTemplateRequest");
        DynamicMessage::decode(descriptor, request.encode_to_vec().as_slice()).unwrap()
    });
    judge(case, sent, &violations)
}

fn template_case(case: &Json) -> Result<Outcome, String> {
    let document = json::parse(text(case, "template").as_bytes()).map_err(|error| error.to_string())?;
    let mut faults = Faults::new(Document::Request, "");
    let template = proto_json::message(&document, &proto_json::dataproc("WorkflowTemplate"), &mut faults);
    let violations = faults.into_violations();
    let refused = violations.iter().any(|violation| violation.fault == Fault::Decoding);
    let sent = (!refused).then(|| {
        let parent = format!(
            "projects/{}/regions/{}",
            case["env"]["project"].as_str().unwrap(),
            case["env"]["region"].as_str().unwrap()
        );
        let mut request = DynamicMessage::new(proto_json::dataproc("InstantiateInlineWorkflowTemplateRequest"));
        request.set_field_by_name("parent", Value::String(parent));
        request.set_field_by_name("template", Value::Message(template));
        request
    });
    judge(case, sent, &violations)
}

fn judge(case: &Json, sent: Option<DynamicMessage>, violations: &[Violation]) -> Result<Outcome, String> {
    let is_quirk = !case["quirks"].is_null();
    let expect = &case["expect"];
    if let Some(rule) = violations.iter().find(|violation| violation.fault == Fault::Rule && violation.path.is_empty())
    {
        return Err(format!("a broken rule without a path: {rule:?}"));
    }
    let Some(expected) = expect["request_b64"].as_str() else {
        return judge_refusal(&expect["error"], sent.is_some(), violations);
    };
    let Some(sent) = sent else {
        let mut faults = violations.iter().filter(|violation| violation.fault == Fault::Decoding);
        return if is_quirk {
            Ok(Outcome::QuirkRefused)
        } else if faults.all(|violation| violation.reason.starts_with("repeated key")) {
            Ok(Outcome::RepeatedKey)
        } else {
            Err(format!("refused, but Google's client takes it: {violations:?}"))
        };
    };
    let expected = base64::engine::general_purpose::STANDARD.decode(expected).unwrap();
    let expected =
        DynamicMessage::decode(proto_json::dataproc("InstantiateInlineWorkflowTemplateRequest"), expected.as_slice())
            .unwrap();
    let (sent, expected) = (without_differences_by_design(sent), without_differences_by_design(expected));
    if sent != expected {
        return Err(format!("sent {sent}\n  not {expected}"));
    }
    Ok(match (is_quirk, violations.is_empty()) {
        (true, _) => Outcome::QuirkAgreed,
        (false, true) => Outcome::Agreed,
        (false, false) => Outcome::AgreedWithRules,
    })
}

fn judge_refusal(error: &Json, taken: bool, violations: &[Violation]) -> Result<Outcome, String> {
    let places: Vec<String> = match error["source_paths"].as_array() {
        Some(places) => places.iter().map(|place| place.as_str().unwrap().to_owned()).collect(),
        None => vec![format!("{}:{}", error["source"].as_str().unwrap(), error["source_path"].as_str().unwrap())],
    };
    if taken {
        let is_number =
            error["message"].as_str().unwrap().contains("convert to Duration. Expected a timedelta object got")
                && !error["message"].as_str().unwrap().ends_with("bool");
        return if is_number || places.iter().all(|place| is_camel_case(place)) {
            Ok(Outcome::TakenBeyond)
        } else {
            Err(format!("taken, but Google's client refuses {places:?}"))
        };
    }
    let found = violations.iter().filter(|violation| violation.fault == Fault::Decoding).any(|violation| {
        let document = if violation.document == Document::Config { "config" } else { "request" };
        ["template", document].iter().any(|document| places.contains(&format!("{document}:{}", violation.path)))
    });
    if found { Ok(Outcome::Refused) } else { Err(format!("refused at {violations:?}, not at {places:?}")) }
}

/// Whether the last key of a place is camelCase.
fn is_camel_case(place: &str) -> bool {
    let key = place.rsplit('.').next().unwrap();
    key.starts_with(|first: char| first.is_ascii_lowercase())
        && key.contains(|letter: char| letter.is_ascii_uppercase())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The message as the wire carries it, without the cluster's name, the request_id and the labels of the run.
fn without_differences_by_design(mut message: DynamicMessage) -> DynamicMessage {
    message.clear_field_by_name("request_id");
    if let Some(Value::Message(template)) = message.get_field_by_name_mut("template") {
        if let Some(Value::List(jobs)) = template.get_field_by_name_mut("jobs") {
            for job in jobs {
                remove_run_labels(job.as_message_mut().unwrap());
            }
        }
        if template.has_field_by_name("placement")
            && let Some(Value::Message(placement)) = template.get_field_by_name_mut("placement")
            && placement.has_field_by_name("managed_cluster")
            && let Some(Value::Message(cluster)) = placement.get_field_by_name_mut("managed_cluster")
        {
            cluster.clear_field_by_name("cluster_name");
            remove_run_labels(cluster);
        }
    }
    DynamicMessage::decode(message.descriptor(), message.encode_to_vec().as_slice()).unwrap()
}

fn remove_run_labels(message: &mut DynamicMessage) {
    if let Some(Value::Map(labels)) = message.get_field_by_name_mut("labels") {
        for key in ["job_name", "run_id"] {
            labels.remove(&MapKey::String(key.into()));
        }
    }
}
