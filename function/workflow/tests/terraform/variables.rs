//! Which values the module takes, and what it says of the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    sync::{Mutex, PoisonError},
};

use crate::{terraform, written::declared};

/// What `terraform console` says of variables: it checks them without a provider. One at a time, for it locks the state.
fn console(arguments: &[String]) -> String {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = terraform();
    command.args(["console", "-no-color"]).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("terraform runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // Messages are wrapped.
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const REQUIRED: [(&str, &str); 3] =
    [("image", "us-docker.pkg.dev/p/r/function:1"), ("project", "my-project"), ("region", "us-central1")];

const TOGETHER: &str = "function: cpu and memory do not go together";

const WRITABLE: &str = "settings.allowed_code_prefixes must lie where clusters cannot write";
const RECORDS: &str = "settings.allowed_code_prefixes must not cover the records of the runs";

/// As many notification channels.
fn channels(count: usize) -> String {
    format!("[{}]", vec![r#""projects/my-project/notificationChannels/1""#; count].join(", "))
}

fn assigned(variables: &BTreeMap<&str, &str>) -> Vec<String> {
    variables.iter().map(|(name, value)| format!("-var={name}={value}")).collect()
}

/// A variable whose rule looks at another one is not checked while that one is at fault.
fn apart(name: &str) -> &str {
    match name {
        "record_retention_days" => "request_retention_days",
        "history" | "kms_key" => "region",
        "cluster_configs" | "prefix" | "project" => "settings",
        name => name,
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn bad_variables_are_refused_with_a_message_that_helps() {
    let channels = channels(17);
    let cases = [
        ("alerts", "{ error_ratio = 1 }", "alerts.error_ratio must be between 0 and 1"),
        ("alerts", "{ error_ratio = 0 }", "alerts.error_ratio must be between 0 and 1"),
        ("alerts", "{ oldest_run_seconds = 599 }", "oldest_run_seconds must be a whole number of at least 600"),
        ("alerts", "{ oldest_run_seconds = 600.5 }", "oldest_run_seconds must be a whole number of at least 600"),
        ("alerts", "{ unacked_seconds = 59 }", "unacked_seconds one of at least 60"),
        ("alerts", "{ unacked_seconds = 60.5 }", "unacked_seconds one of at least 60"),
        ("alerts", "{ tick_silence_seconds = 540 }", "alerts.tick_silence_seconds must be whole minutes"),
        ("alerts", "{ tick_silence_seconds = 84660 }", "alerts.tick_silence_seconds must be whole minutes"),
        ("alerts", "{ tick_silence_seconds = 610 }", "alerts.tick_silence_seconds must be whole minutes"),
        ("cluster_configs", r#"{ word-count = "cluster" }"#, "cluster_configs must be an object of objects"),
        (
            "cluster_configs",
            r#"{ word-count = { config = "cluster" } }"#,
            "The config of an entry of cluster_configs must be an object",
        ),
        ("function", r#"{ cpu = "0.5" }"#, "function.cpu must be 1, 2, 4, 6 or 8"),
        ("function", r#"{ memory = "1GB" }"#, "function.memory must be a whole number of Mi or Gi"),
        ("function", r#"{ memory = "1.5Gi" }"#, "function.memory must be a whole number of Mi or Gi"),
        ("function", r#"{ memory = "511Mi" }"#, TOGETHER),
        ("function", r#"{ cpu = "1", memory = "4097Mi" }"#, TOGETHER),
        ("function", r#"{ cpu = "2", memory = "511Mi" }"#, TOGETHER),
        ("function", r#"{ cpu = "2", memory = "8193Mi" }"#, TOGETHER),
        ("function", r#"{ cpu = "4", memory = "2047Mi" }"#, TOGETHER),
        ("function", r#"{ cpu = "4", memory = "17Gi" }"#, TOGETHER),
        ("function", r#"{ cpu = "6", memory = "4095Mi" }"#, TOGETHER),
        ("function", r#"{ cpu = "6", memory = "25Gi" }"#, TOGETHER),
        ("function", r#"{ cpu = "8", memory = "3Gi" }"#, TOGETHER),
        ("function", r#"{ cpu = "8", memory = "33Gi" }"#, TOGETHER),
        ("function", "{ concurrency = 1001 }", "function.concurrency must be a whole number from 1 to 1000"),
        ("function", "{ concurrency = 1.5 }", "function.concurrency must be a whole number from 1 to 1000"),
        ("function", "{ max_instances = 0 }", "function.max_instances at least 1"),
        ("function", "{ min_instances = -1 }", "function.min_instances must be at least 0"),
        ("function", "{ max_instances = 2.5 }", "function.max_instances must be whole numbers"),
        ("function", "{ min_instances = 0.5 }", "function.max_instances must be whole numbers"),
        ("function", "{ concurrency = 0 }", "function.concurrency must be a whole number from 1 to 1000"),
        ("function", "{ min_instances = 3, max_instances = 2 }", "not less than min_instances"),
        ("history", "{ expiration_days = 0 }", "history.expiration_days must be a whole number from 1 to 36500"),
        ("history", "{ expiration_days = 1.3 }", "history.expiration_days must be a whole number from 1 to 36500"),
        ("history", "{ expiration_days = 36501 }", "history.expiration_days must be a whole number from 1 to 36500"),
        ("history", r#"{ location = "us" }"#, "history.location must be US, EU or a region"),
        ("history", r#"{ location = "" }"#, "history.location must be US, EU or a region"),
        ("history", r#"{ location = "ASIA" }"#, "history.location must be US, EU or a region"),
        ("history", r#"{ location = "US-CENTRAL1" }"#, "history.location must be US, EU or a region"),
        ("history", r#"{ location = "europe-west99" }"#, "history.location must be US, EU or a region"),
        ("image", "us-docker.pkg.dev/p/r/function", "image must end with a tag or a digest"),
        ("image", "us-docker.pkg.dev/p/r/function@sha256:12", "image must end with a tag or a digest"),
        ("image", "ghcr.io/owner/function:1", "make a remote repository in Artifact Registry"),
        ("image", "quay.io/owner/function:1", "make a remote repository in Artifact Registry"),
        ("image", "registry.example.com:5000/function:1", "make a remote repository in Artifact Registry"),
        ("image", "localhost/function:1", "make a remote repository in Artifact Registry"),
        ("image", "us-docker.pkg.dev.example.com/p/r/function:1", "make a remote repository in Artifact Registry"),
        ("image", "us-docker.pkg.dev/p/function:1", "make a remote repository in Artifact Registry"),
        ("kms_key", "my-key", "kms_key must be projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY"),
        ("kms_key", "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k", "kms_key must be a key in the region"),
        ("kms_key", "projects/p/locations/global/keyRings/r/cryptoKeys/k", "kms_key must be a key in the region"),
        ("labels", r#"{ Team = "data" }"#, "a key is a lower case letter"),
        ("labels", r#"{ team = "" }"#, "a value 1 to 63 of these"),
        ("labels", r#"{ team = null }"#, "a value 1 to 63 of these"),
        ("labels", r#"{ run_id = "1" }"#, "none of them job_name or run_id"),
        ("log_retention_days", "0", "log_retention_days must be a whole number from 1 to 36500"),
        ("log_retention_days", "1.5", "log_retention_days must be a whole number from 1 to 36500"),
        ("log_retention_days", "36501", "log_retention_days must be a whole number from 1 to 36500"),
        ("network", r#"{ network = "a", subnetwork = "b" }"#, "give network or subnetwork, not both"),
        ("notification_channels", r#"["me@example.com"]"#, "each must be projects/PROJECT/notificationChannels/ID"),
        ("notification_channels", &channels, "notification_channels must be at most 16"),
        ("prefix", "Inline", "prefix must be 3 to 20 lower case letters"),
        ("prefix", "a-prefix-of-21-letter", "prefix must be 3 to 20 lower case letters"),
        ("prefix", "goog-jobs", "prefix must not begin with goog or contain google"),
        ("prefix", "my-google-jobs", "prefix must not begin with goog or contain google"),
        ("project", "123456789012", "project must be a project's id"),
        ("project", "Example", "project must be a project's id"),
        (
            "record_retention_days",
            "7",
            "record_retention_days must be a whole number greater than request_retention_days",
        ),
        ("record_retention_days", "7.5", "record_retention_days must be a whole number greater"),
        ("record_retention_days", "36501", "record_retention_days must be a whole number greater"),
        ("region", "us-central1-a", "region must be a region such as us-central1"),
        ("region", "EU", "region must be a region such as us-central1"),
        ("request_retention_days", "0", "request_retention_days must be a whole number from 1 to 31"),
        ("request_retention_days", "1.5", "request_retention_days must be a whole number from 1 to 31"),
        ("request_retention_days", "32", "request_retention_days must be a whole number from 1 to 31"),
        ("requesters", r#"["allUsers"]"#, "not allUsers or allAuthenticatedUsers"),
        ("settings", r#"{ allowed_code_prefixes = ["s3://jars/"] }"#, "each must be a gs:// prefix"),
        ("settings", r#"{ allowed_code_prefixes = ["gs://my-project-inline-workflow-dataproc/scripts/"] }"#, WRITABLE),
        ("settings", r#"{ allowed_code_prefixes = ["gs://jars/", "gs://my-project-inline-workflow-logs"] }"#, WRITABLE),
        ("settings", r#"{ allowed_code_prefixes = ["gs://my-project-inline-workflow-staging"] }"#, RECORDS),
        ("settings", r#"{ allowed_code_prefixes = ["gs://my-project-inline-workflow-staging//"] }"#, RECORDS),
        ("settings", r#"{ allowed_code_prefixes = ["gs://my-project-inline-workflow-staging/runs"] }"#, RECORDS),
        ("settings", r#"{ allowed_code_prefixes = ["gs://my-project-inline-workflow-staging/dead/x/"] }"#, RECORDS),
        ("settings", "{ capacity_retries = 101 }", "capacity_retries is 0 to 100"),
        ("settings", "{ capacity_retry_delay = 0 }", "capacity_retry_delay 1 to 86400 seconds"),
        ("settings", "{ cluster_idle_ttl = 299 }", "cluster_idle_ttl is 300 to 1209600 seconds"),
        ("settings", "{ cluster_max_ttl = 1209601 }", "cluster_max_ttl 600 to 1209600, or 0 for none"),
        ("settings", "{ max_request_age = 604801 }", "max_request_age is 1 to 604800 seconds"),
        ("settings", "{ retry_delay = 1.5 }", "settings: numbers must be whole"),
        ("settings", r#"{ rules = "ignore" }"#, "settings.rules must be enforce or warn"),
        ("settings", "{ submit_lease = 3601 }", "settings.submit_lease must be 1 to 3600 seconds"),
        ("settings", "{ submit_lease = 0 }", "settings.submit_lease must be 1 to 3600 seconds"),
    ];
    // As many as have different variables at once, for each call takes a second.
    let mut waiting: Vec<(&str, &str, &str)> = cases.to_vec();
    let mut faults = Vec::new();
    while !waiting.is_empty() {
        let mut variables = BTreeMap::from(REQUIRED);
        let mut expected = Vec::new();
        let mut taken = BTreeSet::new();
        waiting.retain(|&(name, value, message)| match taken.insert(apart(name)) {
            true => {
                variables.insert(name, value);
                expected.push((name, value, message));
                false
            }
            false => true,
        });
        let said = console(&assigned(&variables));
        faults.extend(expected.into_iter().filter(|(_, _, message)| !said.contains(message)));
    }
    assert!(faults.is_empty(), "no message for {faults:#?}");
    assert_eq!(declared("variables.tf", "variable").len(), 18, "a new variable: is there a rule to break?");
}

/// Whichever way an entry of the cluster configuration names it.
#[test]
#[ignore = "needs terraform: make test-tf"]
fn code_in_a_bucket_of_a_cluster_is_refused() {
    let said = |cluster_configs: &str, bucket: &str| {
        let settings = format!(r#"{{ allowed_code_prefixes = ["gs://jars/", "gs://{bucket}/scripts/"] }}"#);
        let mut variables = BTreeMap::from(REQUIRED);
        variables.extend([("cluster_configs", cluster_configs), ("settings", &settings)]);
        console(&assigned(&variables))
    };
    for key in ["config_bucket", "configBucket", "temp_bucket", "tempBucket"] {
        let entry = format!(r#"{{ empty = {{}}, tiny = {{ config = {{ {key} = "own" }} }} }}"#);
        assert!(said(&entry, "own").contains(WRITABLE), "{key}");
    }
    let entry = r#"{ empty = {}, tiny = { config = { config_bucket = "own", temp_bucket = null } } }"#;
    for bucket in ["another", "own-code", "my-project-inline-workflow-code"] {
        let said = said(entry, bucket);
        assert!(!said.contains("Error"), "{bucket}: {said}");
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn good_variables_are_taken() {
    let said = console(&assigned(&BTreeMap::from(REQUIRED)));
    assert!(!said.contains("Error"), "{said}");
    let said = console(&["-var-file=terraform.tfvars.example".to_owned()]);
    assert!(!said.contains("Error") && !said.contains("undeclared"), "{said}");
    // The other side of each bound. Calls take a second each, so they are few: a value of each variable at a time.
    let channels = channels(16);
    let mut cases = BTreeMap::from([
        (
            "function",
            vec![
                r#"{ cpu = "1", memory = "512Mi", concurrency = 1, max_instances = 1 }"#,
                r#"{ cpu = "1", memory = "4Gi", concurrency = 1000, min_instances = 10 }"#,
                r#"{ cpu = 2, memory = "512Mi" }"#,
                r#"{ cpu = "2", memory = "8Gi" }"#,
                r#"{ cpu = "4", memory = "2Gi" }"#,
                r#"{ cpu = "4", memory = "16384Mi" }"#,
                r#"{ cpu = "6", memory = "4096Mi" }"#,
                r#"{ cpu = "6", memory = "24Gi" }"#,
                r#"{ cpu = "8", memory = "4Gi" }"#,
                r#"{ cpu = "8", memory = "32Gi" }"#,
            ],
        ),
        (
            "history",
            vec![
                "null",
                "{}",
                r#"{ location = "US", expiration_days = 1 }"#,
                r#"{ location = "EU", expiration_days = 36500 }"#,
                r#"{ location = "europe-west12" }"#,
                r#"{ location = "us-central1" }"#,
            ],
        ),
        (
            "image",
            vec![
                "",
                "us-central1-docker.pkg.dev/my-project/inline-workflow/function:0.1.0",
                "docker.pkg.dev/p/r/sub/function:1",
                "us.gcr.io/p/function:1",
                "gcr.io/p/function:1",
                "docker.io/owner/function:1",
                "owner/function:1",
                "us-docker.pkg.dev/p/ghcr/owner/function:1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "us-docker.pkg.dev/p/r/function@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            ],
        ),
        ("kms_key", vec!["projects/p/locations/us-central1/keyRings/r/cryptoKeys/k"]),
        ("labels", vec!["{}", r#"{ team = "d", a-b_c = "0" }"#]),
        (
            "alerts",
            vec![
                "{ error_ratio = 0.999, oldest_run_seconds = 600, unacked_seconds = 60, tick_silence_seconds = 600 }",
                "{ error_ratio = 0.001, tick_silence_seconds = 84600 }",
            ],
        ),
        ("log_retention_days", vec!["1", "36500"]),
        ("notification_channels", vec![&channels]),
        ("record_retention_days", vec!["32", "36500"]),
        ("request_retention_days", vec!["1", "31"]),
        (
            "settings",
            vec![
                r#"{ allowed_code_prefixes = ["gs://my-project-inline-workflow-code/scripts/", "gs://jars"] }"#,
                r#"{ allowed_code_prefixes = ["gs://my-project-inline-workflow-staging/code", "gs://my-project-inline-workflow-staging/runs-code/"] }"#,
            ],
        ),
    ]);
    while cases.values().any(|values| !values.is_empty()) {
        let mut variables = BTreeMap::from(REQUIRED);
        variables.extend(cases.iter_mut().filter_map(|(name, values)| Some((*name, values.pop()?))));
        let said = console(&assigned(&variables));
        assert!(!said.contains("Error"), "{variables:?}: {said}");
    }
}
