//! What of the request and of the configuration goes where in the template.

use inline_workflow::template::{self, Options};
use inline_workflow::{cluster_config, violation::Document};
use serde_json::json;

use super::{OBJECT, PLAIN_CONFIG, RUN_ID, assert_violations, deployment, options, render, rendered, sent, with};

fn cluster(request: &str, config: &str) -> serde_json::Value {
    rendered(request, config, &options())["placement"]["managedCluster"].clone()
}

#[test]
fn the_whole_template() {
    let request = with(
        r#""job_name": "Daily Report", "labels": {"team": "a", "env": "test"}, "metadata": {"k": "v", "m": "n"},
        "zone": "us-central1-b", "dag_timeout": 3600, "cluster_init_actions": [{"executable_file": "gs://b/2.sh"}]"#,
    );
    let config = r#"{"Daily Report": {"cluster_name": "special", "labels": {"team": "b", "cost": "c"}, "config": {
        "gce_cluster_config": {"zone_uri": "us-central1-a", "metadata": {"k": "old", "o": "p"}},
        "initialization_actions": [{"executable_file": "gs://b/1.sh"}]}}}"#;
    let run_id = RUN_ID.to_string();
    let expected = json!({
        "dagTimeout": "3600s",
        "jobs": [{
            "stepId": "one",
            "pysparkJob": {"mainPythonFileUri": "gs://b/m.py"},
            "labels": {"job_name": "daily_report", "run_id": run_id},
        }],
        "placement": {"managedCluster": {
            "clusterName": deployment().cluster_name("special", RUN_ID, 1).to_string(),
            "labels": {"team": "a", "env": "test", "cost": "c", "job_name": "daily_report", "run_id": run_id},
            "config": {
                "gceClusterConfig": {"zoneUri": "us-central1-b", "metadata": {"k": "v", "m": "n", "o": "p"}},
                "initializationActions": [{"executableFile": "gs://b/1.sh"}, {"executableFile": "gs://b/2.sh"}],
            },
        }},
    });
    assert_eq!(rendered(&request, config, &options()), expected);
    let (_, rendered, _) = render(&request, config, &options());
    let rendered = rendered.unwrap();
    assert_eq!(rendered.config_entry, "Daily Report");
    assert!(rendered.zone_from_request);
}

#[test]
fn the_entry_of_the_job_name_or_the_default() {
    let config = r#"{"": {"cluster_name": "empty", "config": {}}, "a": {"cluster_name": "for-a", "config": {}},
        "default_cluster_config": {"cluster_name": "other", "config": {}}}"#;
    let base = |members: &str| render(&with(members), config, &options()).1.unwrap().cluster_base_name;
    assert_eq!(base(r#""job_name": "a""#), "for-a");
    assert_eq!(base(r#""job_name": """#), "empty");
    // No trimming, no case folding.
    assert_eq!(base(r#""job_name": "A""#), "other");
    assert_eq!(base(r#""job_name": "a ""#), "other");
    assert_eq!(base(""), "other");
    assert_eq!(base(r#""job_name": "default_cluster_config""#), "other");
    let only = r#"{"a": {"cluster_name": "for-a", "config": {}}}"#;
    assert_eq!(render(&with(r#""job_name": "a""#), only, &options()).1.unwrap().config_entry, "a");
}

#[test]
fn a_configuration_that_cannot_be_used_says_so_itself() {
    let (name, request) = ("(config/cluster-config.json)", with(r#""job_name": "a""#));
    let check = |config: &str, expected: &str| {
        assert_violations(&request, config, &options(), &[&format!("!config {expected} {name}")])
    };
    check("", ": not JSON: line 1, column 1: the document is empty");
    check("{'a':{}}", ": not JSON: line 1, column 2: expected a key in double quotes, found '\\''");
    check("null", ": expected an object, got null");
    check("[]", ": expected an object, got an array");
    check("{}", "default_cluster_config: no configuration: there is neither \"a\" nor \"default_cluster_config\"");
    check(
        r#"{"b": {}}"#,
        "default_cluster_config: no configuration: there is neither \"a\" nor \"default_cluster_config\"",
    );
    check(r#"{"default_cluster_config": 5}"#, "default_cluster_config: expected an object, got an integer");
    // An entry of a wrong type does not fall through to the default.
    check(r#"{"a": null, "default_cluster_config": {}}"#, "a: expected an object, got null");
    check(r#"{"a": {"config": {}}, "a": {"config": {}}}"#, "a: repeated key");
    check(r#"{"a": {"config": 5}}"#, "a.config: expected an object, got an integer");
    check(r#"{"a": {"config": {"x": 1}}}"#, "a.config.x: unknown field");
    check(
        r#"{"a": {"config": {"gke_cluster_config": {}}}}"#,
        "a.config.gke_cluster_config: unknown field, did you mean gce_cluster_config?",
    );
    let violation = cluster_config::parse("other/object.json", 1, b"\xff").unwrap_err();
    assert_eq!((violation.document, violation.path.as_str()), (Document::Config, ""));
    assert_eq!(violation.reason, "not JSON: line 1, column 1: not UTF-8 (byte 0 of the document) (other/object.json)");
}

#[test]
fn a_broken_entry_of_another_job_harms_nobody() {
    let config =
        r#"{"a": {"config": {}}, "b": {"config": {"x": NaN, "y": "\ud800", "z": 1e999}}, "b": 5, "c": {"no_such": 1}}"#;
    assert_violations(&with(r#""job_name": "a""#), config, &options(), &[]);
}

#[test]
fn faults_of_both_documents_are_found_at_once() {
    assert_violations(
        r#"{"jobs": [{"step_id": "one", "pig_job": {"x": 1}}, {"step_id": 2, "pig_job": {}}], "labels": 5, "metadata": {"a": 1},
        "dag_timeout": "x", "cluster_init_actions": [null], "zone": 3}"#,
        r#"{"default_cluster_config": {"config": {"temp_bucket": 1}, "y": 2}}"#,
        &options(),
        &[
            "!request zone: expected a string, got an integer",
            "!config default_cluster_config.config.temp_bucket: expected a string, got an integer (config/cluster-config.json)",
            "!config default_cluster_config.y: unknown field (config/cluster-config.json)",
            "!request jobs[0].pig_job.x: unknown field",
            "!request jobs[1].step_id: expected a string, got an integer",
            "!request cluster_init_actions[0]: expected an object, got null",
            "!request labels: expected an object, got an integer",
            "!request metadata[\"a\"]: expected a string, got an integer",
            "!request dag_timeout: \"x\" is no duration, write it as \"1800s\" or \"0.5s\"",
        ],
    );
}

#[test]
fn init_actions_of_a_wrong_type() {
    for (value, got) in [("\"x\"", "a string"), ("{}", "an object"), ("\"\"", "a string"), ("5", "an integer")] {
        let expected = format!("!request cluster_init_actions: expected an array, got {got}");
        assert_violations(&with(&format!("\"cluster_init_actions\": {value}")), PLAIN_CONFIG, &options(), &[&expected]);
    }
}

#[test]
fn an_entry_gets_a_config_only_if_something_goes_into_it() {
    let required = "config default_cluster_config.config: required (config/cluster-config.json)";
    let bare = r#"{"default_cluster_config": {}}"#;
    for empty in [
        "",
        r#""cluster_init_actions": []"#,
        r#""cluster_init_actions": null"#,
        r#""metadata": {}"#,
        r#""labels": {"a": "b"}"#,
    ] {
        assert_violations(&with(empty), bare, &options(), &[required]);
        // Broken rules do not keep the template from being there.
        let (_, rendered, _) = render(&with(empty), bare, &options());
        let template = template::to_json(&rendered.unwrap().template);
        assert!(template["placement"]["managedCluster"].get("config").is_none());
    }
    assert_eq!(
        cluster(&with(r#""cluster_init_actions": [{"executable_file": "x"}]"#), bare)["config"],
        json!({"initializationActions": [{"executableFile": "x"}]})
    );
    assert_eq!(cluster(&with(r#""zone": "z""#), bare)["config"], json!({"gceClusterConfig": {"zoneUri": "z"}}));
    assert_eq!(
        cluster(&with(r#""metadata": {"a": "b"}"#), bare)["config"],
        json!({"gceClusterConfig": {"metadata": {"a": "b"}}})
    );
    assert_eq!(cluster(&with(""), PLAIN_CONFIG)["config"], json!({}));
}

#[test]
fn the_cluster_base_name_is_the_entrys_or_is_made_from_the_job_name() {
    let base = |cluster_name: &str, job_name: &str| {
        let config = json!({"default_cluster_config": {"cluster_name": cluster_name, "config": {}}}).to_string();
        let request = with(&format!("\"job_name\": {}", json!(job_name)));
        render(&request, &config, &options()).1.unwrap().cluster_base_name
    };
    for legal in ["etl", "a1", "a-b-c", &"x".repeat(35)] {
        assert_eq!(base(legal, "job"), legal);
    }
    for illegal in ["", "a", "A-b", "a_b", "1ab", "ab-", "-ab", "é-b", &"x".repeat(36)] {
        assert_eq!(base(illegal, "job"), "job", "{illegal}");
    }
    assert_eq!(base("", "Daily Report_2"), "daily-report-2");
    assert_eq!(base("", "2nd"), "job-2nd");
    assert_eq!(base("", "été"), "job--t-");
    assert_eq!(base("", ""), "job-");
}

#[test]
fn label_values_of_the_run_are_made_legal() {
    let long = "x".repeat(100);
    for (job_name, label) in
        [("Daily Report.v2", "daily_report_v2"), ("日本", "__"), ("", ""), (long.as_str(), &long[..63])]
    {
        let template = rendered(&with(&format!("\"job_name\": {}", json!(job_name))), PLAIN_CONFIG, &options());
        // An empty value is there, as the entry of a map.
        assert_eq!(template["jobs"][0]["labels"]["job_name"], json!(label));
        assert_eq!(template["placement"]["managedCluster"]["labels"]["job_name"], json!(label));
    }
}

#[test]
fn the_request_of_an_attempt() {
    let (_, rendered, _) = render(&with(r#""job_name": "daily""#), r#"{"daily": {"config": {}}}"#, &options());
    let rendered = rendered.unwrap();
    assert_eq!(rendered.step_count, 1);
    let template = template::encode(&rendered.template);
    let first = sent(&template::instantiate_request("p", "r1", template.clone(), "id-1".to_owned()));
    assert_eq!((&first["parent"], &first["requestId"]), (&json!("projects/p/regions/r1"), &json!("id-1")));
    assert_eq!(first["template"], template::to_json(&rendered.template));
    let name = |attempt| deployment().cluster_name(&rendered.cluster_base_name, RUN_ID, attempt);
    assert_eq!(first["template"]["placement"]["managedCluster"]["clusterName"], name(1).to_string());

    let template = template::renamed(&template, &name(2), false).unwrap();
    let mut second = sent(&template::instantiate_request("p", "r1", template, "id-2".to_owned()));
    assert_eq!(second["template"]["placement"]["managedCluster"]["clusterName"], name(2).to_string());
    second["template"]["placement"]["managedCluster"]["clusterName"] = name(1).to_string().into();
    assert_eq!(second["template"], first["template"]);
    assert!(template::renamed(&b"\xff".as_slice().into(), &name(2), false).is_err());
}

#[test]
fn the_zone_can_be_left_to_the_service() {
    let machines = |config: &str| {
        let rendered = render(&with(""), config, &options()).1.unwrap();
        assert!(!rendered.zone_from_request);
        let template = template::encode(&rendered.template);
        let name = deployment().cluster_name(&rendered.cluster_base_name, RUN_ID, 2);
        let template = template::renamed(&template, &name, true).unwrap();
        let request = template::instantiate_request("p", "r1", template, "id".to_owned());
        sent(&request)["template"]["placement"]["managedCluster"]["config"].clone()
    };
    let zoned =
        r#"{"default_cluster_config": {"config": {"gce_cluster_config": {"zone_uri": "z", "network_uri": "n"}}}}"#;
    assert_eq!(machines(zoned), json!({"gceClusterConfig": {"networkUri": "n"}}));
    // Nothing is made where nothing is.
    assert_eq!(machines(PLAIN_CONFIG), json!({}));
}

#[test]
fn a_cluster_without_a_lifecycle_gets_the_environments() {
    let with_ttls = Options { cluster_idle_ttl: Some(600), cluster_max_ttl: Some(86_400), ..options() };
    let lifecycle = |config: &str, options: &Options| {
        rendered(&with(""), config, options)["placement"]["managedCluster"]["config"]["lifecycleConfig"].clone()
    };
    assert_eq!(lifecycle(PLAIN_CONFIG, &with_ttls), json!({"idleDeleteTtl": "600s", "autoDeleteTtl": "86400s"}));
    let idle_only = Options { cluster_idle_ttl: Some(600), ..options() };
    assert_eq!(lifecycle(PLAIN_CONFIG, &idle_only), json!({"idleDeleteTtl": "600s"}));
    assert_eq!(lifecycle(PLAIN_CONFIG, &options()), json!(null));
    // The operator's own, even if it says nothing.
    let own = r#"{"default_cluster_config": {"config": {"lifecycle_config": {}}}}"#;
    assert_eq!(lifecycle(own, &with_ttls), json!({}));
}

#[test]
fn the_object_of_a_configuration_is_remembered() {
    let config = cluster_config::parse(OBJECT, 7, PLAIN_CONFIG.as_bytes()).unwrap();
    assert_eq!((config.object.as_str(), config.generation), (OBJECT, 7));
}
