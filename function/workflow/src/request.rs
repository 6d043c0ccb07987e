//! The request: what a sender may write at its top level. The parts that Dataproc's messages describe (jobs, init
//! actions, labels, ...) are read against those in `template`.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::json::{self, Value};
use crate::violation::{Document, Faults, Violation, excerpt, similar};

/// The largest request, in bytes. Pub/Sub takes 10 MB; Eventarc carries 512 KB, so that on Cloud Run no larger one
/// comes.
pub const MAX_REQUEST_BYTES: usize = 10 * 1024 * 1024;

/// The longest request_id, in bytes: it is an attribute of every event, and Pub/Sub takes no longer value.
pub const MAX_REQUEST_ID_BYTES: usize = 1_024;

/// The job_name of a request that has none.
pub const DEFAULT_JOB_NAME: &str = "dataproc-workflow";

/// The namespace of run ids. Changing it would run every remembered request a second time.
const RUN_NAMESPACE: Uuid = Uuid::from_u128(0x3b9bf381_1a68_5b24_b98f_b7e103449df9);

/// The keys of a request, and the same in camelCase.
const KEYS: [(&str, &str); 10] = [
    ("action", "action"),
    ("cluster_init_actions", "clusterInitActions"),
    ("dag_timeout", "dagTimeout"),
    ("job_name", "jobName"),
    ("jobs", "jobs"),
    ("labels", "labels"),
    ("metadata", "metadata"),
    ("request_id", "requestId"),
    ("run_id", "runId"),
    ("zone", "zone"),
];

/// What the sender wants done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Run the jobs.
    #[default]
    Run,
    /// Say what would be sent to Dataproc, and start nothing.
    Validate,
    /// Stop an earlier run.
    Cancel,
    /// Tell how an earlier run stands.
    Status,
}

impl Action {
    fn named(name: &str) -> Option<Self> {
        match name {
            "run" => Some(Self::Run),
            "validate" => Some(Self::Validate),
            "cancel" => Some(Self::Cancel),
            "status" => Some(Self::Status),
            _ => None,
        }
    }

    /// Whether it comes with jobs, or names an earlier run.
    fn has_jobs(self) -> bool {
        match self {
            Self::Run | Self::Validate => true,
            Self::Cancel | Self::Status => false,
        }
    }
}

/// A request. If it came with violations, it holds what could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub action: Action,
    /// [`DEFAULT_JOB_NAME`] if the sender named none.
    pub job_name: String,
    pub request_id: Option<String>,
    /// The run that cancel or status is about.
    pub run_id: Option<Uuid>,
    /// The zone of the cluster's machines.
    pub zone: Option<String>,
    /// The whole request, as it was written.
    pub document: Value,
    /// Where in the document each known key stands first.
    places: Vec<(&'static str, usize)>,
}

impl Request {
    /// A key as it was written, in snake_case or camelCase, and its value; none if it is absent or null.
    pub(crate) fn written(&self, key: &str) -> Option<(&str, &Value)> {
        self.written_or_null(key).filter(|(_, value)| !matches!(value, Value::Null))
    }

    fn written_or_null(&self, key: &str) -> Option<(&str, &Value)> {
        let Value::Object(members) = &self.document else { return None };
        let (_, index) = self.places.iter().find(|(known, _)| *known == key)?;
        members.get(*index).map(|(written, value)| (written.as_str(), value))
    }

    /// Hexadecimal SHA-256 of what the request says, apart from its action: the same for the same request written
    /// differently (order of keys, space, escapes), another one for everything else.
    pub fn digest(&self) -> String {
        let said = match &self.document {
            Value::Object(members) => json::canonical_object(members.iter().filter(|(key, _)| key != "action")),
            other => other.canonical(),
        };
        format!("{:x}", Sha256::digest(said))
    }
}

/// The run that a request is: by its request_id, which is an idempotency key within its job_name, else by the message.
/// Both are stable over every delivery of the message.
pub fn run_id(request: &Request, topic: &str, message_id: &str) -> Uuid {
    match &request.request_id {
        Some(request_id) => run_of_request(&request.job_name, request_id),
        None => name_run(["message", topic, message_id]),
    }
}

fn run_of_request(job_name: &str, request_id: &str) -> Uuid {
    name_run(["request", job_name, request_id])
}

fn name_run(parts: [&str; 3]) -> Uuid {
    let name = serde_json::Value::from(parts.map(serde_json::Value::from).to_vec()).to_string();
    Uuid::new_v5(&RUN_NAMESPACE, name.as_bytes())
}

/// Reads the data of a message. The request is there even if it has violations, so that the answer can name its
/// job_name, its request_id and what it wanted.
pub fn decode(data: &[u8]) -> (Request, Vec<Violation>) {
    let mut faults = Faults::new(Document::Request, "");
    let mut request = Request {
        action: Action::Run,
        job_name: DEFAULT_JOB_NAME.into(),
        request_id: None,
        run_id: None,
        zone: None,
        document: Value::Null,
        places: Vec::new(),
    };
    if let Some(members) = parse(data, &mut faults) {
        read_members(&mut request, &members, &mut faults);
        request.document = Value::Object(members);
        check_members(&request, &mut faults);
    }
    (request, faults.into_violations())
}

/// The members of the document.
fn parse(data: &[u8], faults: &mut Faults) -> Option<Vec<(String, Value)>> {
    if data.is_empty() {
        faults.decoding("the message has no data");
        return None;
    }
    if data.len() > MAX_REQUEST_BYTES {
        faults.decoding(format!("the request has {} bytes, at most {MAX_REQUEST_BYTES} are taken", data.len()));
        return None;
    }
    match json::parse(data) {
        Ok(Value::Object(members)) => Some(members),
        Ok(other) => {
            faults.decoding(other.mismatch("an object"));
            None
        }
        Err(error) => {
            faults.decoding(error.reason());
            None
        }
    }
}

/// The key that is meant.
fn key_named(written: &str) -> Option<&'static str> {
    let known = KEYS.iter().find(|(name, camel)| *name == written || *camel == written);
    known.map(|(name, _)| *name)
}

/// Reports unknown and repeated keys, and reads those that are no part of a template.
fn read_members(request: &mut Request, members: &[(String, Value)], faults: &mut Faults) {
    for (index, (written, value)) in members.iter().enumerate() {
        let Some(key) = key_named(written) else {
            let names = KEYS.iter().map(|(name, _)| *name);
            let suggestion = if faults.are_many() { None } else { similar(written, names) };
            let suggestion = suggestion.map_or(String::new(), |key| format!(", did you mean {key}?"));
            faults.member(written, |faults| faults.decoding(format!("unknown field{suggestion}")));
            continue;
        };
        if let Some((_, first)) = request.places.iter().find(|(other, _)| *other == key) {
            faults.repetition(written, &members[*first].0, key);
            continue;
        }
        request.places.push((key, index));
        if !matches!(value, Value::Null) {
            faults.member(written, |faults| read_member(request, key, value, faults));
        }
    }
}

fn read_member(request: &mut Request, key: &str, value: &Value, faults: &mut Faults) {
    let is_text = matches!(key, "action" | "job_name" | "request_id" | "run_id" | "zone");
    let text = match (is_text, value) {
        (false, _) => return,
        (true, Value::String(text)) => text.clone(),
        (true, other) => return faults.decoding(other.mismatch("a string")),
    };
    match key {
        "action" => match Action::named(&text) {
            Some(action) => request.action = action,
            None => faults.decoding(format!("{:?} is no action (run, validate, cancel, status)", excerpt(&text))),
        },
        "job_name" => request.job_name = text,
        "request_id" if text.is_empty() => faults.decoding("empty; leave it out, or give each request its own"),
        "request_id" if text.len() > MAX_REQUEST_ID_BYTES => {
            faults.decoding(format!("longer than {MAX_REQUEST_ID_BYTES} bytes"));
        }
        "request_id" => request.request_id = Some(text),
        "run_id" => match Uuid::parse_str(&text) {
            Ok(run_id) => request.run_id = Some(run_id),
            Err(_) => faults.decoding(format!("{:?} is no UUID", excerpt(&text))),
        },
        _ if text.is_empty() => faults.rule("empty"),
        _ => request.zone = Some(text),
    }
}

/// Checks that the action has what it needs, and nothing that it does not use.
fn check_members(request: &Request, faults: &mut Faults) {
    // An action that could not be read needs nothing.
    if request.written("action").is_some_and(|(_, value)| !is_action(value)) {
        return;
    }
    let unused: &[&str] = if request.action.has_jobs() {
        &["run_id"]
    } else {
        &["cluster_init_actions", "dag_timeout", "jobs", "labels", "metadata", "zone"]
    };
    for key in unused {
        if let Some((written, _)) = request.written(key) {
            let reason = format!("has no meaning with action {}", action_name(request.action));
            faults.member(written, |faults| faults.decoding(reason));
        }
    }
    if request.action.has_jobs() { check_jobs(request, faults) } else { check_target(request, faults) }
}

fn is_action(value: &Value) -> bool {
    matches!(value, Value::String(name) if Action::named(name).is_some())
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Run => "run",
        Action::Validate => "validate",
        Action::Cancel => "cancel",
        Action::Status => "status",
    }
}

fn check_jobs(request: &Request, faults: &mut Faults) {
    let is_empty = match request.written_or_null("jobs") {
        None => {
            let reason = "required: the steps to run, at least one";
            return faults.member("jobs", |faults| faults.decoding(reason));
        }
        Some((_, Value::Null)) => true,
        Some((_, Value::Array(jobs))) => jobs.is_empty(),
        // Everything else is read by the template, with the jobs themselves.
        Some(_) => false,
    };
    if is_empty {
        faults.member("jobs", |faults| faults.rule("no jobs: at least one is needed"));
    }
}

fn check_target(request: &Request, faults: &mut Faults) {
    match (request.run_id, &request.request_id) {
        (Some(run_id), Some(request_id)) if run_id != run_of_request(&request.job_name, request_id) => {
            faults.member("run_id", |faults| faults.decoding("names another run than job_name and request_id do"));
        }
        (None, None) if request.written("run_id").is_none() && request.written("request_id").is_none() => {
            let reason =
                format!("required with action {}, or else job_name and request_id", action_name(request.action));
            faults.member("run_id", |faults| faults.decoding(reason));
        }
        _ => {}
    }
}
