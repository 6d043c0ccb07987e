use inline_workflow::request::{Action, decode, run_id};

use super::{PLAIN_CONFIG, assert_violations, lines, options, with};

#[track_caller]
fn assert_faults(request: &str, expected: &[&str]) {
    assert_eq!(lines(&decode(request.as_bytes()).1), expected, "{request}");
}

#[test]
fn every_member_is_read() {
    let (request, violations) = decode(
        with(r#""job_name": "daily", "request_id": "r-1", "zone": "europe-west1-b", "action": "validate""#).as_bytes(),
    );
    assert_eq!(violations, []);
    assert_eq!(request.action, Action::Validate);
    assert_eq!(request.job_name, "daily");
    assert_eq!(request.request_id.as_deref(), Some("r-1"));
    assert_eq!(request.zone.as_deref(), Some("europe-west1-b"));
}

#[test]
fn absent_and_null_are_the_same() {
    for members in ["", r#""job_name": null, "request_id": null, "action": null, "zone": null, "run_id": null"#] {
        let (request, violations) = decode(with(members).as_bytes());
        assert_eq!(violations, []);
        assert_eq!((request.action, request.job_name.as_str()), (Action::Run, "dataproc-workflow"));
        assert_eq!((request.request_id, request.run_id, request.zone), (None, None, None));
    }
    let nulls = r#""cluster_init_actions": null, "labels": null, "metadata": null, "dag_timeout": null"#;
    assert_violations(&with(nulls), PLAIN_CONFIG, &options(), &[]);
}

#[test]
fn camel_case_keys_are_taken() {
    let (request, violations) = decode(with(r#""jobName": "daily", "requestId": "r-1""#).as_bytes());
    assert_eq!(violations, []);
    assert_eq!((request.job_name.as_str(), request.request_id.as_deref()), ("daily", Some("r-1")));
}

#[test]
fn a_document_that_is_no_request() {
    assert_faults("", &["!request : the message has no data"]);
    assert_faults("  ", &["!request : not JSON: line 1, column 3: the document is empty"]);
    assert_faults("[]", &["!request : expected an object, got an array"]);
    assert_faults("5", &["!request : expected an object, got an integer"]);
    assert_faults("null", &["!request : expected an object, got null"]);
    assert_faults("{\"a\": [}", &["!request : not JSON: line 1, column 8: expected a value, found '}' (in a[0])"]);
    let (_, violations) = decode(b"\x80");
    assert_eq!(lines(&violations), ["!request : not JSON: line 1, column 1: not UTF-8 (byte 0 of the document)"]);
    let (_, violations) = decode(&vec![b' '; 10 * 1024 * 1024 + 1]);
    assert_eq!(lines(&violations), ["!request : the request has 10485761 bytes, at most 10485760 are taken"]);
}

#[test]
fn unknown_and_repeated_keys() {
    assert_faults(
        r#"{"job": [], "jobs": null, "x": 1, "x-y": null}"#,
        &[
            "!request job: unknown field, did you mean jobs?",
            "!request x: unknown field",
            "!request [\"x-y\"]: unknown field",
            "request jobs: no jobs: at least one is needed",
        ],
    );
    assert_faults(&with(r#""zone": "a", "zone": "b""#), &["!request zone: repeated key"]);
    assert_faults(
        &with(r#""job_name": "a", "jobName": "b""#),
        &["!request jobName: the same field as job_name, which is given too"],
    );
    assert_faults(
        &with(r#""jobName": "a", "job_name": "b""#),
        &["!request jobName: the same field as job_name, which is given too"],
    );
}

#[test]
fn wrong_types() {
    for (member, path, got) in [
        (r#""job_name": true"#, "job_name", "a boolean"),
        (r#""job_name": ["x"]"#, "job_name", "an array"),
        (r#""request_id": 5"#, "request_id", "an integer"),
        (r#""action": {}"#, "action", "an object"),
        (r#""zone": 1.5"#, "zone", "a number with a fraction or an exponent"),
    ] {
        assert_faults(&with(member), &[format!("!request {path}: expected a string, got {got}").as_str()]);
    }
    assert_faults(
        &with(r#""job_name": "\ud800""#),
        &["!request job_name: the text has half of a surrogate pair, which is no character"],
    );
}

#[test]
fn values_that_mean_nothing() {
    assert_faults(
        &with(r#""action": "Run""#),
        &["!request action: \"Run\" is no action (run, validate, cancel, status)"],
    );
    assert_faults(
        &with(r#""request_id": """#),
        &["!request request_id: empty; leave it out, or give each request its own"],
    );
    assert_faults(
        &with(&format!(r#""request_id": "{}""#, "x".repeat(1025))),
        &["!request request_id: longer than 1024 bytes"],
    );
    assert_faults(&with(&format!(r#""request_id": "{}""#, "x".repeat(1024))), &[]);
    assert_faults(&with(r#""zone": """#), &["request zone: empty"]);
    assert_faults(r#"{"action": "status", "run_id": "7"}"#, &["!request run_id: \"7\" is no UUID"]);
}

#[test]
fn jobs_are_needed_to_run() {
    assert_faults("{}", &["!request jobs: required: the steps to run, at least one"]);
    assert_faults(r#"{"action": "validate"}"#, &["!request jobs: required: the steps to run, at least one"]);
    assert_faults(r#"{"jobs": []}"#, &["request jobs: no jobs: at least one is needed"]);
    assert_faults(r#"{"jobs": null}"#, &["request jobs: no jobs: at least one is needed"]);
    assert_violations(
        r#"{"jobs": {}}"#,
        PLAIN_CONFIG,
        &options(),
        &["!request jobs: expected an array, got an object"],
    );
    assert_violations(
        r#"{"jobs": "x"}"#,
        PLAIN_CONFIG,
        &options(),
        &["!request jobs: expected an array, got a string"],
    );
}

#[test]
fn cancel_and_status_name_a_run_and_nothing_else() {
    let id = "0b51e8a4-6d0b-5f3c-9a57-6b7a52f19c01";
    for action in ["cancel", "status"] {
        let request = |members: &str| format!(r#"{{"action": "{action}", {members}}}"#);
        let (read, violations) = decode(request(&format!(r#""run_id": "{id}""#)).as_bytes());
        assert_eq!((read.run_id.unwrap().to_string().as_str(), violations), (id, vec![]));
        assert_faults(&request(r#""job_name": "daily", "request_id": "r-1""#), &[]);
        assert_faults(
            &request(r#""job_name": "daily""#),
            &[format!("!request run_id: required with action {action}, or else job_name and request_id").as_str()],
        );
        assert_faults(
            &request(&format!(r#""run_id": "{id}", "jobs": [], "zone": "a""#)),
            &[
                format!("!request jobs: has no meaning with action {action}").as_str(),
                format!("!request zone: has no meaning with action {action}").as_str(),
            ],
        );
        assert_faults(
            &request(&format!(r#""run_id": "{id}", "request_id": "r-1""#)),
            &["!request run_id: names another run than job_name and request_id do"],
        );
        // The run of daily and 2026-11-24, see below.
        assert_faults(
            &request(
                r#""run_id": "de0fa1b6-595f-53ee-9178-e38fa648512f", "job_name": "daily-report", "request_id": "2026-11-24""#,
            ),
            &[],
        );
    }
    assert_faults(&with(&format!(r#""run_id": "{id}""#)), &["!request run_id: has no meaning with action run"]);
}

#[test]
fn what_can_be_read_is_read_despite_violations() {
    let (request, violations) =
        decode(br#"{"job_name": "daily", "request_id": "r-1", "action": "validate", "oops": 1}"#);
    assert_eq!(violations.len(), 2);
    assert_eq!(request.action, Action::Validate);
    assert_eq!((request.job_name.as_str(), request.request_id.as_deref()), ("daily", Some("r-1")));
}

#[test]
fn the_digest_is_of_what_is_said_not_of_how() {
    let digest = |text: &str| decode(text.as_bytes()).0.digest();
    let one = r#"{"job_name": "é", "jobs": [{"step_id": "a", "pig_job": {}}], "dag_timeout": 600.50}"#;
    let same =
        "{ \"dag_timeout\":600.5,\n\"jobs\":[{\"pig_job\":{},\"step_id\":\"\\u0061\"}],\"job_name\":\"\\u00e9\" }";
    assert_eq!(digest(one), digest(same));
    assert_eq!(digest(one), digest(&one.replacen('{', r#"{"action": "validate", "#, 1)));
    assert_ne!(digest(one), digest(&one.replace("600.50", "601")));
    assert_ne!(digest(one), digest(&one.replace("\"a\"", "\"b\"")));
    // sha256sum of `{"jobs":[]}`
    assert_eq!(digest(r#"{"jobs": []}"#), "0a5796e93f9b57ddf7c45f860485cbb7353fc0eda3dca753a444d0fd2a1573fe");
}

/// Expected values from Python: `uuid.uuid5(namespace, json.dumps(parts, separators=(",", ":"), ensure_ascii=False))`.
#[test]
fn a_run_is_named_by_its_request_or_by_its_message() {
    let id = |members: &str| {
        run_id(&decode(with(members).as_bytes()).0, "projects/p/topics/requests", "1234567890").to_string()
    };
    assert_eq!(id(r#""job_name": "daily-report", "request_id": "2026-11-24""#), "de0fa1b6-595f-53ee-9178-e38fa648512f");
    assert_eq!(
        id(r#""job_name": "Tägliche \"Läufe\"\n", "request_id": "日本""#),
        "8cc85794-8410-50a2-afa8-9cb81b3e23b7"
    );
    assert_eq!(id(r#""job_name": "daily-report""#), "2a282ac0-366f-5074-be5f-e51fc2919dff");
}
