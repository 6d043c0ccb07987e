//! From a request and a configuration entry to the workflow template that is sent: every part is decoded against its
//! own message, so that each fault has its path in its author's document, and then the messages are merged.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value};
use uuid::Uuid;

use crate::cluster_config::{ClusterConfig, Entry};
use crate::code_prefixes::{self, Guard};
use crate::identity::{ClusterName, Deployment};
use crate::json;
use crate::proto_json::{self, dataproc, field, field_value};
use crate::request::Request;
use crate::rules::{self, Step};
use crate::violation::{Document, Fault, Faults, Violation, excerpt};
use crate::wire;

pub use crate::proto_json::pool;

/// How many jobs a request may have. The service's own limit is not documented; a request of 512 KB holds about as many.
pub const MAX_JOBS: usize = 1_000;

/// Attempts are counted from here.
pub const FIRST_ATTEMPT: u32 = 1;

/// The longest name that an entry may give its cluster.
/// Source: google.cloud.dataproc.v1.ManagedCluster.cluster_name
const MAX_CLUSTER_NAME: usize = 35;

/// What the operator's environment says about every template.
#[derive(Clone, Debug)]
pub struct Options {
    pub run_id: Uuid,
    pub deployment: Deployment,
    /// Where requests may fetch code from, as `gs://bucket/folder`; empty for anywhere.
    pub allowed_code_prefixes: Vec<String>,
    /// With prefixes: whether requests may bring queries and script variables all the same.
    pub allow_inline_queries: bool,
    /// Seconds without a job after which a cluster whose entry has no lifecycle_config deletes itself.
    pub cluster_idle_ttl: Option<u64>,
    /// Seconds after its creation, likewise.
    pub cluster_max_ttl: Option<u64>,
}

impl Options {
    /// What a request may run; none if it may run anything.
    fn guard(&self) -> Option<Guard<'_>> {
        let prefixes = self.allowed_code_prefixes.as_slice();
        (!prefixes.is_empty()).then_some(Guard { prefixes, inline_queries: self.allow_inline_queries })
    }
}

/// A template that can be sent.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// A `google.cloud.dataproc.v1.WorkflowTemplate`, as it is sent first.
    pub template: DynamicMessage,
    pub cluster_base_name: String,
    /// The key of the configuration's entry.
    pub config_entry: String,
    /// The sender wants this zone and no other.
    pub zone_from_request: bool,
    /// How many jobs the template has.
    pub step_count: usize,
}

/// Renders the template of a request. The violations are all there are, apart from those that `request::decode`
/// reported; the template is there unless one of them is a decoding fault.
pub fn render(request: &Request, config: &ClusterConfig, options: &Options) -> (Option<Rendered>, Vec<Violation>) {
    let mut violations = Vec::new();
    let job_name = request.written("job_name").map(|_| request.job_name.as_str());
    let entry = config.entry(job_name).map_err(|violation| violations.push(violation)).ok();

    let place = entry.map(|entry| excerpt(entry.name)).unwrap_or_default();
    let mut of_config = Faults::new(Document::Config, &place);
    let mut cluster = entry
        .map_or_else(|| DynamicMessage::new(dataproc("ManagedCluster")), |entry| read_entry(entry, &mut of_config));

    let mut of_request = Faults::new(Document::Request, "");
    let steps = read_steps(request, options, &mut of_request);
    merge_request(&mut cluster, request, options, &mut of_request);
    let dag_timeout = read_dag_timeout(request, &mut of_request);
    add_lifecycle(&mut cluster, options);
    if !cluster.has_field_by_name("config") && entry.is_some_and(|entry| !entry.has_config()) {
        of_config.member("config", |faults| faults.rule("required"));
    }

    violations.extend(
        of_config
            .into_violations()
            .into_iter()
            .map(|violation| Violation { reason: format!("{} ({})", violation.reason, config.object), ..violation }),
    );
    violations.extend(of_request.into_violations());
    if violations.iter().any(|violation| violation.fault == Fault::Decoding) {
        return (None, violations);
    }
    let rendered = entry.map(|entry| {
        let cluster_base_name = cluster_base_name(&cluster, &request.job_name);
        let run_labels = run_labels(request, options.run_id);
        entries(&mut cluster, "labels").extend(run_labels.clone());
        let name = options.deployment.cluster_name(&cluster_base_name, options.run_id, FIRST_ATTEMPT);
        set(&mut cluster, "cluster_name", Value::String(name.to_string()));
        let step_count = steps.len();
        let steps = steps.into_iter().map(|step| {
            let mut job = step.message;
            entries(&mut job, "labels").extend(run_labels.clone());
            job
        });
        let mut template = DynamicMessage::new(dataproc("WorkflowTemplate"));
        set(&mut template, "jobs", Value::List(steps.map(Value::Message).collect()));
        set(child(&mut template, "placement"), "managed_cluster", Value::Message(cluster));
        if let Some(timeout) = dag_timeout {
            set(&mut template, "dag_timeout", timeout);
        }
        let zone_from_request = request.zone.is_some();
        Rendered { template, cluster_base_name, config_entry: entry.name.into(), zone_from_request, step_count }
    });
    (rendered, violations)
}

fn read_entry(entry: Entry<'_>, faults: &mut Faults) -> DynamicMessage {
    let descriptor = dataproc("ManagedCluster");
    let cluster = proto_json::message(entry.value, &descriptor, faults);
    let labels = rules::key_of(entry.value, &descriptor, "labels");
    if let json::Value::Object(members) = entry.value
        && let Some((key, written)) = members.iter().find(|(key, _)| key == labels)
    {
        faults.member(key, |faults| {
            rules::check_labels(written, faults);
            rules::check_label_count(count_own_labels(&cluster), faults);
        });
    }
    cluster
}

fn read_steps<'a>(request: &'a Request, options: &Options, faults: &mut Faults) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    let Some((key, written)) = request.written("jobs") else {
        return steps;
    };
    faults.member(key, |faults| {
        let json::Value::Array(jobs) = written else {
            return faults.decoding(written.mismatch("an array"));
        };
        if jobs.len() > MAX_JOBS {
            return faults.decoding(format!("{} jobs, at most {MAX_JOBS} are taken", jobs.len()));
        }
        let descriptor = dataproc("OrderedJob");
        for (index, written) in jobs.iter().enumerate() {
            faults.element(index, |faults| {
                let message = proto_json::message(written, &descriptor, faults);
                if let Some(guard) = options.guard() {
                    guard.check_message(written, &descriptor, faults);
                }
                if matches!(written, json::Value::Object(_)) {
                    steps.push(Step { index, written, message });
                }
            });
        }
        rules::check_steps(&steps, faults);
    });
    steps
}

/// Adds the request's init actions, labels, metadata and zone to the operator's cluster. Where both have the same key
/// of a map, the request's counts.
fn merge_request(cluster: &mut DynamicMessage, request: &Request, options: &Options, faults: &mut Faults) {
    let guard = options.guard();
    if let Some((key, written)) = request.written("cluster_init_actions") {
        let actions = field(&dataproc("ClusterConfig"), "initialization_actions");
        let read = faults.member(key, |faults| {
            if let (Some(guard), json::Value::Array(elements)) = (&guard, written) {
                for (index, element) in elements.iter().enumerate() {
                    let action = dataproc("NodeInitializationAction");
                    faults.element(index, |faults| guard.check_message(element, &action, faults));
                }
            }
            field_value(written, &actions, faults)
        });
        // An empty list leaves the entry as it is, without a config if it has none.
        if let Some(Value::List(mut read)) = read.filter(|read| read.as_list().is_some_and(|list| !list.is_empty()))
            && let Some(list) = child(cluster, "config").get_field_mut(&actions).as_list_mut()
        {
            list.append(&mut read);
        }
    }
    if let Some((key, written)) = request.written("labels") {
        faults.member(key, |faults| {
            rules::check_labels(written, faults);
            if let Some(Value::Map(read)) = field_value(written, &field(&dataproc("ManagedCluster"), "labels"), faults)
                && !read.is_empty()
            {
                entries(cluster, "labels").extend(read);
                rules::check_label_count(count_own_labels(cluster), faults);
            }
        });
    }
    if let Some((key, written)) = request.written("metadata") {
        faults.member(key, |faults| {
            if guard.is_some() {
                code_prefixes::check_metadata(written, faults);
            }
            let metadata = field(&dataproc("GceClusterConfig"), "metadata");
            if let Some(Value::Map(read)) = field_value(written, &metadata, faults)
                && !read.is_empty()
            {
                entries(machines(cluster), "metadata").extend(read);
            }
        });
    }
    if let Some(zone) = &request.zone {
        set(machines(cluster), "zone_uri", Value::String(zone.clone()));
    }
}

fn read_dag_timeout(request: &Request, faults: &mut Faults) -> Option<Value> {
    let (key, written) = request.written("dag_timeout")?;
    faults.member(key, |faults| {
        let before = faults.count();
        let timeout = field_value(written, &field(&dataproc("WorkflowTemplate"), "dag_timeout"), faults)?;
        if faults.count() == before {
            rules::check_dag_timeout(timeout.as_message()?, faults);
        }
        Some(timeout)
    })
}

/// A cluster that a crashed workflow leaves behind costs money until someone sees it.
fn add_lifecycle(cluster: &mut DynamicMessage, options: &Options) {
    let ttls = [("idle_delete_ttl", options.cluster_idle_ttl), ("auto_delete_ttl", options.cluster_max_ttl)];
    if ttls.iter().all(|(_, ttl)| ttl.is_none()) || at(cluster, &["config", "lifecycle_config"]).is_some() {
        return;
    }
    let lifecycle = child(child(cluster, "config"), "lifecycle_config");
    for (name, ttl) in ttls {
        if let Some(seconds) = ttl.and_then(|seconds| i64::try_from(seconds).ok()) {
            set(child(lifecycle, name), "seconds", Value::I64(seconds));
        }
    }
}

fn run_labels(request: &Request, run_id: Uuid) -> [(MapKey, Value); 2] {
    let [job_name, run] = rules::RUN_LABELS.map(|key| MapKey::String(key.into()));
    [(job_name, Value::String(rules::label_value(&request.job_name))), (run, Value::String(run_id.to_string()))]
}

fn count_own_labels(cluster: &DynamicMessage) -> usize {
    let labels = cluster.get_field_by_name("labels");
    let labels = labels.as_ref().and_then(|labels| labels.as_map());
    let is_own = |key: &&MapKey| key.as_str().is_none_or(|key| !rules::RUN_LABELS.contains(&key));
    labels.map_or(0, |labels| labels.keys().filter(is_own).count())
}

/// The entry's cluster_name if the service would take it, else the job_name made legal.
fn cluster_base_name(cluster: &DynamicMessage, job_name: &str) -> String {
    let name = cluster.get_field_by_name("cluster_name");
    let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default();
    let is_legal = (2..=MAX_CLUSTER_NAME).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if is_legal {
        return name.into();
    }
    let legal = job_name.chars().take(MAX_CLUSTER_NAME).map(|character| match character.to_ascii_lowercase() {
        character @ ('a'..='z' | '0'..='9') => character,
        _ => '-',
    });
    let legal: String = legal.collect();
    if legal.starts_with(|first: char| first.is_ascii_lowercase()) { legal } else { format!("job-{legal}") }
}

/// A `google.cloud.dataproc.v1.InstantiateInlineWorkflowTemplateRequest` whose template lies ready on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstantiateRequest {
    #[prost(string, tag = "1")]
    pub parent: String,
    /// An embedded message and bytes look the same on the wire.
    #[prost(bytes = "bytes", tag = "2")]
    pub template: Bytes,
    #[prost(string, tag = "3")]
    pub request_id: String,
}

/// The call's request. Its `request_id` makes an attempt of a run the only one of its kind.
pub fn instantiate_request(project: &str, region: &str, template: Bytes, request_id: String) -> InstantiateRequest {
    InstantiateRequest { parent: format!("projects/{project}/regions/{region}"), template, request_id }
}

/// A rendered template with another name of its cluster. `leave_zone` lets Dataproc choose the zone, after the one that was
/// asked for had no machines.
///
/// # Errors
/// The bytes are not a template.
pub fn renamed(template: &Bytes, cluster_name: &ClusterName, leave_zone: bool) -> Result<Bytes, prost::DecodeError> {
    let mut template = DynamicMessage::decode(dataproc("WorkflowTemplate"), template.clone())?;
    let cluster = child(child(&mut template, "placement"), "managed_cluster");
    set(cluster, "cluster_name", Value::String(cluster_name.to_string()));
    if leave_zone {
        leave_zone_to_service(&mut template);
    }
    // With the fields that only a later release knows.
    Ok(template.encode_to_vec().into())
}

fn leave_zone_to_service(template: &mut DynamicMessage) {
    let path = ["placement", "managed_cluster", "config", "gce_cluster_config"];
    if at(template, &path).is_some() {
        let machines = path.into_iter().fold(template, child);
        machines.clear_field_by_name("zone_uri");
    }
}

/// The rendered template on the wire.
pub fn encode(template: &DynamicMessage) -> Bytes {
    wire::encode(template).into()
}

/// The message in protobuf's JSON form, for people to read; null if it has none.
pub fn to_json(message: &DynamicMessage) -> serde_json::Value {
    serde_json::to_value(message).unwrap_or_default()
}

/// The message at a path of set fields, if all of them are.
fn at<'a>(message: &'a DynamicMessage, path: &[&str]) -> Option<&'a DynamicMessage> {
    path.iter().try_fold(message, |message, name| {
        match message.get_field_by_name(name)? {
            Cow::Borrowed(Value::Message(inner)) => Some(inner),
            // A default that was made up for a field that is not set.
            _ => None,
        }
    })
}

fn set(message: &mut DynamicMessage, name: &str, value: Value) {
    let field = field(&message.descriptor(), name);
    message.set_field(&field, value);
}

/// The message in a field, made if it is not there.
fn child<'a>(message: &'a mut DynamicMessage, name: &str) -> &'a mut DynamicMessage {
    let field = field(&message.descriptor(), name);
    // The descriptor says that it is a message; every test of a merge comes here.
    message.get_field_mut(&field).as_message_mut().expect("the field holds a message")
}

/// The entries of a map.
fn entries<'a>(message: &'a mut DynamicMessage, name: &str) -> &'a mut HashMap<MapKey, Value> {
    let field = field(&message.descriptor(), name);
    // As in `child`.
    message.get_field_mut(&field).as_map_mut().expect("the field holds a map")
}

/// The configuration of a cluster's machines, made if it is not there.
fn machines(cluster: &mut DynamicMessage) -> &mut DynamicMessage {
    child(child(cluster, "config"), "gce_cluster_config")
}
