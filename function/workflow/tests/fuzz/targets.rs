//! What an input is given to, and what must hold of it.

use std::{cell::RefCell, fs, path::PathBuf, sync::LazyLock};

use bytes::Bytes;
use cloudevents::{AttributesReader, Event};
use http::{HeaderName, HeaderValue, Request, request::Parts};
use inline_workflow::{
    cluster_config::{self, ClusterConfig},
    identity::Deployment,
    json, proto_json, request as requests,
    template::{self, Options},
    trigger::{self, Trigger},
    violation::{Fault, MAX_VIOLATIONS, Violation},
};
use prost::Message;
use prost_reflect::DynamicMessage;
use uuid::Uuid;

use crate::support::{BUCKET, CONFIG, World, deliver};

const TICKS: &str = "projects/p/topics/ticks";
const RESPONSES: &str = "projects/p/topics/responses";
const OBJECT: &str = "config/cluster-config.json";
const RUN_ID: Uuid = Uuid::from_u128(0x0b51_e8a4_6d0b_5f3c_9a57_6b7a_52f1_9c01);
/// Paths and reasons of violations go into an event, which has its limits.
const LONGEST_LINE: usize = 16 << 10;

/// A path, headers, an empty line, a body: through the framework to what it asks for.
pub fn event(input: &[u8]) -> String {
    let end = input.windows(2).position(|two| two == b"\n\n").unwrap_or(input.len());
    let body = Bytes::copy_from_slice(input.get(end + 2..).unwrap_or_default());
    let mut lines = input[..end].split(|byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    let mut request = Request::new(());
    *request.uri_mut() = std::str::from_utf8(path).ok().and_then(|path| path.parse().ok()).unwrap_or_default();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
        // What is no header does not come this far.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value)) {
            request.headers_mut().append(name, value);
        }
    }
    match functions_framework::decode(&request.into_parts().0, body) {
        Ok(event) => {
            assert!(!event.id().is_empty() && !event.ty().is_empty());
            let attributes = event.iter_attributes().count() + event.iter_extensions().count();
            format!("{} {attributes}", asks(&event))
        }
        Err(error) => words(&error.to_string()),
    }
}

/// The body of a Pub/Sub event, which must be passed on whatever is in it.
pub fn envelope(input: &[u8]) -> String {
    let head = head("google.cloud.pubsub.topic.v1.messagePublished", "//pubsub.googleapis.com/projects/p/topics/t");
    let event = functions_framework::decode(&head, Bytes::copy_from_slice(input)).expect("the handler's to answer");
    match trigger::trigger(&event, TICKS, RESPONSES) {
        Trigger::Request(message) => {
            assert!(!message.id.is_empty());
            assert_eq!(message.topic, "projects/p/topics/t");
            match &message.data {
                Ok(data) => format!("{} attributes, data {}", message.attributes.len().min(5), data.is_empty()),
                Err(why) => words(&why.0),
            }
        }
        other => panic!("a message became {other:?}"),
    }
}

/// The body of an audit log's event.
pub fn audit(input: &[u8]) -> String {
    let source = "//cloudaudit.googleapis.com/projects/p/logs/activity";
    let head = head("google.cloud.audit.log.v1.written", source);
    let decoded = functions_framework::decode(&head, Bytes::copy_from_slice(input));
    asks(&decoded.expect("its headers make an event"))
}

fn head(ty: &str, source: &str) -> Parts {
    let request = Request::builder()
        .header("ce-id", "7")
        .header("ce-source", source)
        .header("ce-specversion", "1.0")
        .header("ce-type", ty)
        .header("content-type", "application/json");
    request.body(()).unwrap().into_parts().0
}

fn asks(event: &Event) -> String {
    match trigger::trigger(event, TICKS, RESPONSES) {
        Trigger::Request(message) => format!("request {} {}", message.data.is_ok(), message.published.is_some()),
        Trigger::Tick(published) => format!("tick {}", published.is_some()),
        Trigger::OperationEnded(name) => {
            assert!(!name.is_empty());
            "operation".to_owned()
        }
        Trigger::Foreign(_) => "foreign".to_owned(),
    }
}

/// A message's data.
pub fn request(input: &[u8]) -> String {
    static CONFIG: LazyLock<ClusterConfig> = LazyLock::new(|| {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/cluster-config.json");
        cluster_config::parse(OBJECT, 7, &fs::read(file).unwrap()).unwrap()
    });
    render(input, &CONFIG)
}

/// The configuration, for a request with each of its first entries' names.
pub fn config(input: &[u8]) -> String {
    let config = match cluster_config::parse(OBJECT, 7, input) {
        Ok(config) => config,
        Err(violation) => {
            check(std::slice::from_ref(&violation));
            return words(&violation.reason);
        }
    };
    let names = match json::parse(input) {
        Ok(json::Value::Object(entries)) => entries.into_iter().take(3).map(|(name, _)| Some(name)).collect(),
        _ => Vec::new(),
    };
    let outcomes = names.into_iter().chain([None]).map(|name| {
        let job = serde_json::json!({ "step_id": "one", "pig_job": { "query_file_uri": "gs://b/q" } });
        render(serde_json::json!({ "job_name": name, "jobs": [job] }).to_string().as_bytes(), &config)
    });
    outcomes.collect()
}

fn render(input: &[u8], config: &ClusterConfig) -> String {
    let (request, mut violations) = requests::decode(input);
    assert_eq!(request.digest(), requests::decode(input).0.digest());
    let is_decoded = violations.iter().all(|violation| violation.fault != Fault::Decoding);
    // Both ways, so that neither is left out.
    for prefixes in [vec!["gs://staging/scripts".to_owned()], Vec::new()] {
        let options = Options {
            run_id: RUN_ID,
            deployment: Deployment::new("p", "us-central1", "b"),
            allowed_code_prefixes: prefixes,
            allow_inline_queries: false,
            cluster_idle_ttl: Some(600),
            cluster_max_ttl: Some(86_400),
        };
        let (rendered, more) = template::render(&request, config, &options);
        check(&more);
        let readable = more.iter().all(|violation| violation.fault != Fault::Decoding);
        assert_eq!(rendered.is_some(), readable, "{more:?}");
        if let Some(rendered) = rendered {
            // A record holds it.
            let recorded = template::encode(&rendered.template);
            let request = template::instantiate_request("p", "us-central1", recorded.clone(), "id".to_owned());
            let descriptor = proto_json::dataproc("InstantiateInlineWorkflowTemplateRequest");
            let sent = DynamicMessage::decode(descriptor, request.encode_to_vec().as_slice()).unwrap();
            assert_eq!(template::to_json(&sent)["template"], template::to_json(&rendered.template));
            let name = options.deployment.cluster_name(&rendered.cluster_base_name, RUN_ID, 2);
            template::renamed(&recorded, &name, true).unwrap();
        }
        if options.allowed_code_prefixes.is_empty() {
            violations.extend(more);
        }
    }
    check(&violations);
    // And the request.
    serde_json::to_vec(&request.document).unwrap();
    let reasons: Vec<_> = violations.iter().take(3).map(|violation| words(&violation.reason)).collect();
    format!("{:?} {is_decoded} {}", request.action, reasons.join("|"))
}

fn check(violations: &[Violation]) {
    assert!(violations.len() <= 2 * (MAX_VIOLATIONS + 1), "{} violations", violations.len());
    for violation in violations {
        assert!(!violation.reason.is_empty());
        let length = violation.path.len() + violation.reason.len();
        assert!(length <= LONGEST_LINE, "a violation of {length} bytes");
    }
}

/// The words of a text that are always the same.
fn words(text: &str) -> String {
    let is_word = |word: &&str| word.len() < 20 && word.bytes().all(|byte| byte.is_ascii_lowercase());
    text.split(' ').filter(is_word).take(12).collect::<Vec<_>>().join(" ")
}

/// The whole function: whatever a message says, it is acked and answered.
pub struct Answering {
    runtime: tokio::runtime::Runtime,
    world: RefCell<Option<(World, usize)>>,
}

impl Answering {
    /// Inputs for one emulator, which forgets nothing.
    const ONE_WORLD: usize = 100;

    pub fn new() -> Answering {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        Answering { runtime, world: RefCell::new(None) }
    }

    pub fn target(self) -> impl Fn(&[u8]) -> String {
        move |input| self.runtime.block_on(self.answer(input))
    }

    async fn answer(&self, input: &[u8]) -> String {
        let (mut world, used) = self.world.take().unwrap_or_else(|| (World::new(), 0));
        let cx = world.instance();
        let before = world.said().len();
        let event = world.request_text(input);
        // A cancel may be early by a minute; then it is answered, too.
        if deliver(&cx, &event).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_secs(61)).await;
            deliver(&cx, &event).await.expect("acked");
        }
        let said = world.said();
        assert!(said.len() > before, "not answered");
        assert!(world.emulator.object(BUCKET, CONFIG).is_some());
        let outcome = format!("{} {}", said[before].kind, words(&said[before].data["error"]["message"].to_string()));
        if used < Answering::ONE_WORLD {
            self.world.replace(Some((world, used + 1)));
        }
        outcome
    }
}
