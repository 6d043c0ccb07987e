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
    [("image", "a.pkg.dev/p/r/function:1"), ("project", "my-project"), ("region", "us-central1")];

fn assigned(variables: &BTreeMap<&str, &str>) -> Vec<String> {
    variables.iter().map(|(name, value)| format!("-var={name}={value}")).collect()
}

/// A variable whose rule looks at another one is not checked while that one is at fault.
fn apart(name: &str) -> &str {
    match name {
        "record_retention_days" => "request_retention_days",
        name => name,
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn bad_variables_are_refused_with_a_message_that_helps() {
    let cases = [
        ("alerts", "{ error_ratio = 1 }", "alerts.error_ratio must be between 0 and 1"),
        ("alerts", "{ oldest_run_seconds = 599 }", "oldest_run_seconds must be at least 600"),
        ("alerts", "{ unacked_seconds = 59 }", "unacked_seconds at least 60"),
        ("alerts", "{ tick_silence_seconds = 610 }", "alerts.tick_silence_seconds must be whole minutes"),
        ("cluster_configs", r#"{ word-count = "cluster" }"#, "cluster_configs must be an object of objects"),
        (
            "cluster_configs",
            r#"{ word-count = { config = "cluster" } }"#,
            "The config of an entry of cluster_configs must be an object",
        ),
        ("function", r#"{ cpu = "0.5" }"#, "function.cpu must be 1, 2, 4, 6 or 8"),
        ("function", r#"{ memory = "511Mi" }"#, "function.memory must be 512Mi or more"),
        ("function", r#"{ memory = "1GB" }"#, "function.memory must be 512Mi or more"),
        ("function", "{ concurrency = 0 }", "function.concurrency must be a whole number from 1 to 1000"),
        ("function", "{ min_instances = 3, max_instances = 2 }", "not less than min_instances"),
        ("history", "{ expiration_days = 0 }", "history.expiration_days must be at least 1"),
        ("image", "a.pkg.dev/p/r/function", "image must end with a tag or a digest"),
        ("image", "a.pkg.dev/p/r/function@sha256:12", "image must end with a tag or a digest"),
        ("kms_key", "my-key", "kms_key must be projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY"),
        ("labels", r#"{ Team = "data" }"#, "a key is a lower case letter"),
        ("labels", r#"{ run_id = "1" }"#, "none of them job_name or run_id"),
        ("log_retention_days", "0", "log_retention_days must be a whole number of at least 1"),
        ("network", r#"{ network = "a", subnetwork = "b" }"#, "give network or subnetwork, not both"),
        ("notification_channels", r#"["me@example.com"]"#, "each must be projects/PROJECT/notificationChannels/ID"),
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
        ("region", "us-central1-a", "region must be a region such as us-central1"),
        ("region", "EU", "region must be a region such as us-central1"),
        ("request_retention_days", "32", "request_retention_days must be a whole number from 1 to 31"),
        ("requesters", r#"["allUsers"]"#, "not allUsers or allAuthenticatedUsers"),
        ("settings", r#"{ allowed_code_prefixes = ["s3://jars/"] }"#, "each must be a gs:// prefix"),
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

#[test]
#[ignore = "needs terraform: make test-tf"]
fn good_variables_are_taken() {
    let said = console(&assigned(&BTreeMap::from(REQUIRED)));
    assert!(!said.contains("Error"), "{said}");
    let said = console(&["-var-file=terraform.tfvars.example".to_owned()]);
    assert!(!said.contains("Error") && !said.contains("undeclared"), "{said}");
}
