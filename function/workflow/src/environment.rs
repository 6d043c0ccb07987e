//! What the operator has set: every variable read in one place, every fault of them reported at once.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

pub const ENV_PORT: &str = "PORT";
pub const ENV_PROJECT: &str = "GOOGLE_CLOUD_PROJECT";
pub const ENV_REGION: &str = "REGION";
pub const ENV_STAGING_BUCKET: &str = "STAGING_BUCKET";
pub const ENV_RESPONSE_TOPIC: &str = "RESPONSE_TOPIC";
pub const ENV_TICK_TOPIC: &str = "TICK_TOPIC";
pub const ENV_CONFIG_OBJECT: &str = "CONFIG_OBJECT";
pub const ENV_RULES: &str = "RULES";
pub const ENV_MAX_REQUEST_AGE: &str = "MAX_REQUEST_AGE";
pub const ENV_SUBMIT_LEASE: &str = "SUBMIT_LEASE";
pub const ENV_RETRY_DELAY: &str = "RETRY_DELAY";
pub const ENV_CAPACITY_RETRIES: &str = "CAPACITY_RETRIES";
pub const ENV_CAPACITY_RETRY_DELAY: &str = "CAPACITY_RETRY_DELAY";
pub const ENV_ALLOWED_CODE_PREFIXES: &str = "ALLOWED_CODE_PREFIXES";
pub const ENV_ALLOW_INLINE_QUERIES: &str = "ALLOW_INLINE_QUERIES";
pub const ENV_CLUSTER_IDLE_TTL: &str = "CLUSTER_IDLE_TTL";
pub const ENV_CLUSTER_MAX_TTL: &str = "CLUSTER_MAX_TTL";
pub const ENV_DATAPROC_EMULATOR: &str = "DATAPROC_EMULATOR_HOST";
pub const ENV_PUBSUB_EMULATOR: &str = "PUBSUB_EMULATOR_HOST";
pub const ENV_STORAGE_EMULATOR: &str = "STORAGE_EMULATOR_HOST_GRPC";
pub const ENV_METADATA_SERVER: &str = "GCE_METADATA_HOST";
pub const ENV_SERVICE: &str = "K_SERVICE";
pub const ENV_LOG: &str = "RUST_LOG";

/// Dataproc's lifecycle TTLs lie between 5 minutes and 14 days; so do the defaults we fill in.
/// Source: google.cloud.dataproc.v1.LifecycleConfig (idle_delete_ttl, auto_delete_ttl).
const CLUSTER_IDLE_TTL_SECONDS: std::ops::RangeInclusive<u64> = 300..=1_209_600;
const CLUSTER_MAX_TTL_SECONDS: std::ops::RangeInclusive<u64> = 600..=1_209_600;

/// What to do with a request that breaks a rule of the service, as far as we know the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Reject it.
    Enforce,
    /// Send it on with warnings: Dataproc has the last word.
    Warn,
}

/// The environment, read and checked.
#[derive(Clone, Debug)]
pub struct Environment {
    pub port: u16,
    pub project: String,
    pub region: String,
    /// The bucket's bare name.
    pub staging_bucket: String,
    /// `projects/P/topics/T`
    pub response_topic: String,
    /// `projects/P/topics/T`
    pub tick_topic: String,
    pub config_object: String,
    pub rules: Rules,
    /// From a message's publish time; what could not be submitted within is rejected.
    pub max_request_age: Duration,
    /// How long a submitter owns a run.
    pub submit_lease: Duration,
    /// First backoff of a transient failure.
    pub retry_delay: Duration,
    /// Further attempts after a quota or a stockout refused one.
    pub capacity_retries: u32,
    /// First delay of such an attempt.
    pub capacity_retry_delay: Duration,
    /// `gs://` prefixes inside which a request's code must lie; empty: anywhere.
    pub allowed_code_prefixes: Vec<String>,
    /// With prefixes: whether a request may bring queries and script variables all the same.
    pub allow_inline_queries: bool,
    /// Given as `idle_delete_ttl` to clusters whose entry has no lifecycle_config.
    pub cluster_idle_ttl: Option<Duration>,
    /// Given as `auto_delete_ttl` to clusters whose entry has no lifecycle_config.
    pub cluster_max_ttl: Option<Duration>,
    /// `host:port`, plaintext and without credentials.
    pub dataproc_emulator: Option<String>,
    pub pubsub_emulator: Option<String>,
    pub storage_emulator: Option<String>,
    /// `host:port`, in the place of the metadata server that gives access tokens.
    pub metadata_server: Option<String>,
    /// The Cloud Run service, set there and only there.
    pub service: Option<String>,
    /// A `tracing` filter, `info` when unset.
    pub log: Option<String>,
}

/// Every variable that cannot be used, with the reason.
#[derive(Debug, PartialEq, Eq)]
pub struct EnvironmentError {
    pub faults: BTreeMap<&'static str, String>,
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the environment cannot be used", self.faults.len())?;
        for (name, reason) in &self.faults {
            write!(f, "\n  {name}: {reason}")?;
        }
        Ok(())
    }
}

impl std::error::Error for EnvironmentError {}

impl Environment {
    /// Reads every variable through `lookup` (a process's environment, or a test's map). An empty
    /// value counts as unset.
    ///
    /// # Errors
    /// All variables that are missing or malformed, at once.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Environment, EnvironmentError> {
        let mut read = Reader { lookup, faults: BTreeMap::new() };
        let project = read.required(ENV_PROJECT, check_project);
        let response_topic = read.required(ENV_RESPONSE_TOPIC, |text| topic(text, &project));
        let tick_topic = read.required(ENV_TICK_TOPIC, |text| topic(text, &project));
        if !tick_topic.is_empty() && tick_topic == response_topic {
            read.faults
                .insert(ENV_TICK_TOPIC, format!("must not be the same topic as {ENV_RESPONSE_TOPIC}, {tick_topic:?}"));
        }
        let staging_bucket = read.required(ENV_STAGING_BUCKET, bucket);
        let environment = Environment {
            port: read.or(ENV_PORT, 8080, |text| number(text, 0..=u16::MAX)),
            region: read.required(ENV_REGION, check_region),
            config_object: read.or(ENV_CONFIG_OBJECT, "config/cluster-config.json".to_owned(), check_object),
            rules: read.or(ENV_RULES, Rules::Enforce, |text| match text {
                "enforce" => Ok(Rules::Enforce),
                "warn" => Ok(Rules::Warn),
                _ => Err(format!("{text:?} is neither enforce nor warn")),
            }),
            max_request_age: read
                .or(ENV_MAX_REQUEST_AGE, Duration::from_secs(21_600), |text| seconds(text, 1..=604_800)),
            submit_lease: read.or(ENV_SUBMIT_LEASE, Duration::from_secs(60), |text| seconds(text, 1..=3_600)),
            retry_delay: read.or(ENV_RETRY_DELAY, Duration::from_secs(10), |text| seconds(text, 1..=600)),
            capacity_retries: read.or(ENV_CAPACITY_RETRIES, 3, |text| number(text, 0..=100)),
            capacity_retry_delay: read
                .or(ENV_CAPACITY_RETRY_DELAY, Duration::from_secs(300), |text| seconds(text, 1..=86_400)),
            allowed_code_prefixes: read
                .or(ENV_ALLOWED_CODE_PREFIXES, Vec::new(), |text| code_prefixes(text, &staging_bucket)),
            allow_inline_queries: read.or(ENV_ALLOW_INLINE_QUERIES, false, |text| {
                text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
            }),
            cluster_idle_ttl: read
                .or(ENV_CLUSTER_IDLE_TTL, None, |text| seconds(text, CLUSTER_IDLE_TTL_SECONDS).map(Some)),
            cluster_max_ttl: read
                .or(ENV_CLUSTER_MAX_TTL, None, |text| seconds(text, CLUSTER_MAX_TTL_SECONDS).map(Some)),
            dataproc_emulator: read.or(ENV_DATAPROC_EMULATOR, None, |text| address(text).map(Some)),
            pubsub_emulator: read.or(ENV_PUBSUB_EMULATOR, None, |text| address(text).map(Some)),
            storage_emulator: read.or(ENV_STORAGE_EMULATOR, None, |text| address(text).map(Some)),
            metadata_server: read.or(ENV_METADATA_SERVER, None, |text| {
                // Google's libraries take a host alone, too.
                address(text).or_else(|fault| address(&format!("{text}:80")).map_err(|_| fault)).map(Some)
            }),
            service: read.or(ENV_SERVICE, None, |text| Ok(Some(text.to_owned()))),
            log: read.or(ENV_LOG, None, |text| Ok(Some(text.to_owned()))),
            project,
            response_topic,
            staging_bucket,
            tick_topic,
        };
        match read.faults.is_empty() {
            true => Ok(environment),
            false => Err(EnvironmentError { faults: read.faults }),
        }
    }

    /// The `source` of our events.
    pub fn event_source(&self) -> String {
        format!(
            "//run.googleapis.com/projects/{}/locations/{}/services/{}",
            self.project,
            self.region,
            self.service.as_deref().unwrap_or("local")
        )
    }
}

struct Reader<F> {
    lookup: F,
    faults: BTreeMap<&'static str, String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    fn required(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<String, String>) -> String {
        self.value(name, parse).unwrap_or_else(|| {
            self.faults.entry(name).or_insert_with(|| "is required, and not set".to_owned());
            String::new()
        })
    }

    fn or<T>(&mut self, name: &'static str, default: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        self.value(name, parse).unwrap_or(default)
    }

    fn value<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = (self.lookup)(name).filter(|text| !text.is_empty())?;
        parse(&text).map_err(|reason| self.faults.insert(name, reason)).ok()
    }
}

fn number<T: FromStr + PartialOrd + fmt::Display>(text: &str, range: std::ops::RangeInclusive<T>) -> Result<T, String> {
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("{text:?} is not a whole number from {} to {}", range.start(), range.end()))
}

fn seconds(text: &str, range: std::ops::RangeInclusive<u64>) -> Result<Duration, String> {
    number(text, range).map(Duration::from_secs).map_err(|reason| format!("{reason} (seconds)"))
}

fn check_project(text: &str) -> Result<String, String> {
    // Domain-scoped projects have the form `example.com:name`.
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
    match text.chars().all(legal) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not a project id")),
    }
}

fn check_region(text: &str) -> Result<String, String> {
    // It becomes part of a host name, `REGION-dataproc.googleapis.com`.
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match text.chars().all(legal) && text.starts_with(|c: char| c.is_ascii_lowercase()) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not a region such as us-central1")),
    }
}

fn bucket(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("gs://").unwrap_or(text);
    let name = name.strip_suffix('/').unwrap_or(name);
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    match !name.is_empty() && name.chars().all(legal) {
        true => Ok(name.to_owned()),
        false => Err(format!("{text:?} is not a bucket's name")),
    }
}

/// The folders of the staging bucket that hold the runs.
const RUN_FOLDERS: [&str; 3] = ["runs/", "active/", "dead/"];

fn check_object(text: &str) -> Result<String, String> {
    match RUN_FOLDERS.iter().find(|reserved| text.starts_with(**reserved)) {
        Some(reserved) => Err(format!("{text:?} lies in {reserved}, which holds the runs")),
        None if text.starts_with("gs://") => {
            Err(format!("{text:?} must be an object of the staging bucket, without gs:// and bucket"))
        }
        None => Ok(text.to_owned()),
    }
}

/// A topic's full name, from that or from its short id.
/// Source of the rule: https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names
fn topic(text: &str, project: &str) -> Result<String, String> {
    let legal_id = |id: &str| {
        (3..=255).contains(&id.len())
            && id.starts_with(|c: char| c.is_ascii_alphabetic())
            && !id.starts_with("goog")
            && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~+%".contains(c))
    };
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        [id] if legal_id(id) => Ok(format!("projects/{project}/topics/{id}")),
        ["projects", owner, "topics", id] if !owner.is_empty() && legal_id(id) => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is neither a topic id nor projects/PROJECT/topics/TOPIC")),
    }
}

fn address(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    match bare.parse::<http::uri::Authority>() {
        Ok(authority) if authority.port_u16().is_some() && !authority.host().is_empty() && !bare.contains('@') => {
            Ok(bare.to_owned())
        }
        _ => Err(format!("{text:?} is not host:port")),
    }
}

/// A record holds its request, so that a sender could run what it sent: a prefix does not cover the runs.
fn code_prefixes(text: &str, staging_bucket: &str) -> Result<Vec<String>, String> {
    let covers_runs = |place: &str| {
        let (bucket, folder) = place.split_once('/').unwrap_or((place, ""));
        let folder = folder.trim_matches('/').to_owned() + "/";
        bucket == staging_bucket && (folder == "/" || RUN_FOLDERS.iter().any(|runs| folder.starts_with(runs)))
    };
    let prefixes: Vec<String> = text
        .split(',')
        .map(str::trim)
        .filter(|prefix| !prefix.is_empty())
        .map(|prefix| match prefix.strip_prefix("gs://") {
            Some(rest) if covers_runs(rest) => Err(format!("{prefix:?} covers the records of the runs")),
            Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(prefix.to_owned()),
            _ => Err(format!("{prefix:?} is not a gs:// prefix")),
        })
        .collect::<Result<_, _>>()?;
    // None at all would mean that code may come from anywhere.
    if prefixes.is_empty() { Err(format!("{text:?} has no prefix")) } else { Ok(prefixes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(pairs: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        let required = [
            (ENV_PROJECT, "p1"),
            (ENV_REGION, "us-central1"),
            (ENV_STAGING_BUCKET, "staging"),
            (ENV_RESPONSE_TOPIC, "responses"),
            (ENV_TICK_TOPIC, "ticks"),
        ];
        Environment::from_lookup(|name| {
            pairs.iter().chain(&required).find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_are_those_of_the_readme() {
        let environment = lookup(&[]).unwrap();
        assert_eq!(environment.port, 8080);
        assert_eq!(environment.config_object, "config/cluster-config.json");
        assert_eq!(environment.rules, Rules::Enforce);
        assert_eq!(environment.max_request_age.as_secs(), 21_600);
        assert_eq!(environment.submit_lease.as_secs(), 60);
        assert_eq!(environment.retry_delay.as_secs(), 10);
        assert_eq!(environment.capacity_retries, 3);
        assert_eq!(environment.capacity_retry_delay.as_secs(), 300);
        assert_eq!(environment.allowed_code_prefixes, [""; 0]);
        assert!(!environment.allow_inline_queries);
        assert_eq!(environment.response_topic, "projects/p1/topics/responses");
        assert_eq!(environment.event_source(), "//run.googleapis.com/projects/p1/locations/us-central1/services/local");
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let error = Environment::from_lookup(|name| {
            let value = match name {
                ENV_PORT => "65536",
                ENV_REGION => "us central1",
                ENV_RULES => "maybe",
                ENV_SUBMIT_LEASE => "-1",
                ENV_RESPONSE_TOPIC => "projects/x/topics/",
                ENV_CONFIG_OBJECT => "runs/x.json",
                ENV_DATAPROC_EMULATOR => ":8085",
                ENV_PUBSUB_EMULATOR => "localhost",
                ENV_ALLOWED_CODE_PREFIXES => "gs://good/,s3://bad",
                ENV_ALLOW_INLINE_QUERIES => "yes",
                ENV_CLUSTER_IDLE_TTL => "10",
                _ => return None,
            };
            Some(value.to_owned())
        })
        .unwrap_err();
        let names: Vec<_> = error.faults.keys().copied().collect();
        let mut expected = [
            ENV_PORT,
            ENV_PROJECT,
            ENV_REGION,
            ENV_STAGING_BUCKET,
            ENV_RESPONSE_TOPIC,
            ENV_TICK_TOPIC,
            ENV_RULES,
            ENV_SUBMIT_LEASE,
            ENV_CONFIG_OBJECT,
            ENV_DATAPROC_EMULATOR,
            ENV_PUBSUB_EMULATOR,
            ENV_ALLOWED_CODE_PREFIXES,
            ENV_ALLOW_INLINE_QUERIES,
            ENV_CLUSTER_IDLE_TTL,
        ];
        expected.sort();
        assert_eq!(names, expected);
        assert!(error.to_string().contains("PORT: \"65536\""), "{error}");
    }

    #[test]
    fn prefixes_are_some_and_do_not_cover_the_runs() {
        for text in
            [",", " ", " , ", "gs://staging", "gs://staging/", "gs://lib,gs://staging/runs", "gs://staging//dead/x"]
        {
            let error = lookup(&[(ENV_ALLOWED_CODE_PREFIXES, text)]).unwrap_err();
            assert!(error.faults.contains_key(ENV_ALLOWED_CODE_PREFIXES), "{text:?}");
        }
        let guarded =
            [(ENV_ALLOWED_CODE_PREFIXES, "gs://staging/code, gs://staging-lib/,"), (ENV_ALLOW_INLINE_QUERIES, "true")];
        let environment = lookup(&guarded).unwrap();
        assert_eq!(environment.allowed_code_prefixes, ["gs://staging/code", "gs://staging-lib/"]);
        assert!(environment.allow_inline_queries);
    }

    #[test]
    fn emulators_are_named_each_on_its_own() {
        let environment = lookup(&[(ENV_STORAGE_EMULATOR, "http://[::1]:9000/")]).unwrap();
        assert_eq!(environment.storage_emulator.as_deref(), Some("[::1]:9000"));
        assert_eq!(environment.dataproc_emulator, None);
        assert_eq!(environment.pubsub_emulator, None);
    }

    #[test]
    fn the_tick_topic_is_not_the_response_topic() {
        let error = lookup(&[(ENV_TICK_TOPIC, "projects/p1/topics/responses")]).unwrap_err();
        assert!(error.faults.contains_key(ENV_TICK_TOPIC));
    }
}
