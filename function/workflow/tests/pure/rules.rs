use super::{PLAIN_CONFIG, assert_violations, options, with};

/// A request of steps, each given as its members beside the job.
fn steps(steps: &[&str]) -> String {
    let steps: Vec<_> = steps.iter().map(|members| format!(r#"{{{members}, "pig_job": {{}}}}"#)).collect();
    format!(r#"{{"jobs": [{}]}}"#, steps.join(", "))
}

#[track_caller]
fn check(request: &str, expected: &[&str]) {
    assert_violations(request, PLAIN_CONFIG, &options(), expected);
}

#[test]
fn step_ids() {
    let legal = ["a-1", "A_b", "0x0", &"x".repeat(50)];
    for step_id in legal {
        check(&steps(&[&format!(r#""step_id": "{step_id}""#)]), &[]);
    }
    let characters = "request jobs[0].step_id: a step_id has only letters a-z and A-Z, digits, '_' and '-'";
    let ends = "request jobs[0].step_id: a step_id neither begins nor ends with '_' or '-'";
    let length =
        |length: usize| format!("request jobs[0].step_id: a step_id has 3 to 50 characters, this one has {length}");
    let cases: [(&str, &[&str]); 7] = [
        ("ab", &[&length(2)]),
        (&"x".repeat(51), &[&length(51)]),
        ("a b", &[characters]),
        ("été", &[characters]),
        ("-ab", &[ends]),
        ("ab_", &[ends]),
        ("_", &[&length(1), ends]),
    ];
    for (step_id, expected) in cases {
        check(&steps(&[&format!(r#""step_id": "{step_id}""#)]), expected);
    }
    check(&steps(&[r#""labels": {}"#]), &["request jobs[0].step_id: required"]);
    check(&steps(&[r#""step_id": """#]), &["request jobs[0].step_id: required"]);
    check(&steps(&[r#""stepId": "a""#]), &["request jobs[0].stepId: a step_id has 3 to 50 characters, this one has 1"]);
    check(
        &steps(&[r#""step_id": "one""#, r#""step_id": "two""#, r#""step_id": "one""#]),
        &["request jobs[2].step_id: jobs[0] has this step_id too, each step needs its own"],
    );
}

#[test]
fn a_step_has_one_job() {
    let types = "hadoop_job, spark_job, pyspark_job, hive_job, pig_job, spark_r_job, spark_sql_job, presto_job, trino_job, flink_job";
    let none = format!("request jobs[0]: the step has no job: one of {types} is needed");
    check(r#"{"jobs": [{"step_id": "one"}]}"#, &[&none]);
    check(r#"{"jobs": [{"step_id": "one", "pig_job": null}]}"#, &[&none]);
    check(
        r#"{"jobs": [{"step_id": "one", "pig_job": {}, "hive_job": {}}]}"#,
        &["!request jobs[0].hive_job: hive_job and pig_job exclude each other, only one of them may be given"],
    );
    check(
        r#"{"jobs": [{"step_id": "one", "hiveJob": {}, "pig_job": {}}]}"#,
        &["!request jobs[0].pig_job: pig_job and hiveJob exclude each other, only one of them may be given"],
    );
    // One that cannot be read is there all the same.
    check(
        r#"{"jobs": [{"step_id": "one", "pig_job": 5}]}"#,
        &["!request jobs[0].pig_job: expected an object, got an integer"],
    );
    check(r#"{"jobs": [null]}"#, &["!request jobs[0]: expected an object, got null"]);
}

#[test]
fn prerequisites() {
    let one = r#""step_id": "one""#;
    check(&steps(&[one, r#""step_id": "two", "prerequisite_step_ids": ["one"]"#]), &[]);
    // The order of the steps does not matter.
    check(&steps(&[r#""step_id": "two", "prerequisite_step_ids": ["one"]"#, one]), &[]);
    check(
        &steps(&[one, r#""step_id": "two", "prerequisiteStepIds": ["one", "On", "two"]"#]),
        &[
            "request jobs[1].prerequisiteStepIds[1]: there is no step \"On\"",
            "request jobs[1].prerequisiteStepIds[2]: a step cannot wait for itself",
        ],
    );
}

#[test]
fn a_cycle_is_named_once() {
    let step = |step_id: &str, after: &str| format!(r#""step_id": "{step_id}", "prerequisite_step_ids": [{after}]"#);
    let of = |all: &[(&str, &str)]| {
        let all: Vec<_> = all.iter().map(|(step_id, after)| step(step_id, after)).collect();
        steps(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let place = "request jobs[0].prerequisite_step_ids: the steps wait for each other: ";
    check(&of(&[("aaa", r#""bbb""#), ("bbb", r#""aaa""#)]), &[&format!("{place}aaa waits for bbb waits for aaa")]);
    // What waits for a cycle is in none.
    check(
        &of(&[("aaa", r#""ccc""#), ("bbb", r#""aaa""#), ("ccc", r#""aaa", "ddd""#), ("ddd", "")]),
        &[&format!("{place}aaa waits for ccc waits for aaa")],
    );
    // Entered from outside, it is still named from its first step on.
    check(
        &of(&[("aaa", r#""ccc""#), ("bbb", r#""ccc""#), ("ccc", r#""bbb""#)]),
        &["request jobs[1].prerequisite_step_ids: the steps wait for each other: bbb waits for ccc waits for bbb"],
    );
    check(
        &of(&[("aaa", r#""bbb""#), ("bbb", r#""aaa""#), ("ccc", r#""ddd""#), ("ddd", r#""ccc""#)]),
        &[
            &format!("{place}aaa waits for bbb waits for aaa"),
            "request jobs[2].prerequisite_step_ids: the steps wait for each other: ccc waits for ddd waits for ccc",
        ],
    );
    // A diamond is none.
    check(&of(&[("aaa", ""), ("bbb", r#""aaa""#), ("ccc", r#""aaa""#), ("ddd", r#""bbb", "ccc""#)]), &[]);
    check(&of(&[("aaa", r#""bbb", "bbb""#), ("bbb", "")]), &[]);
}

#[test]
fn labels() {
    let key = "a label's key begins with a lower-case letter, and has only these, digits, '_' and '-', at most 63";
    let value = "a label's value has only lower-case letters, digits, '_' and '-', at most 63";
    let own = "every run sets this label itself";
    let long = "x".repeat(63);
    let legal = format!(r#"{{"a": "", "é-1_": "straße", "日本": "0", "{long}": "{long}"}}"#);
    let illegal = format!(
        r#"{{"": "", "A": "ok", "1a": "ok", "a.b": "ok", "a": "Ok", "b": "o k", "{long}x": "{long}x", "job_name": "x"}}"#
    );
    let faults = |place: &str, document: &str, suffix: &str| -> Vec<String> {
        [
            ("", key),
            ("A", key),
            ("1a", key),
            ("a.b", key),
            ("a", value),
            ("b", value),
            (&format!("{long}x"), key),
            (&format!("{long}x"), value),
            ("job_name", own),
        ]
        .map(|(label, reason)| format!("{document} {place}[\"{label}\"]: {reason}{suffix}"))
        .to_vec()
    };
    let assert = |request: &str, config: &str, expected: Vec<String>| {
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        assert_violations(request, config, &options(), &expected);
    };
    let in_request = |labels: &str| with(&format!(r#""labels": {labels}"#));
    let in_step = |labels: &str| steps(&[&format!(r#""step_id": "one", "labels": {labels}"#)]);
    let in_config = |labels: &str| format!(r#"{{"default_cluster_config": {{"config": {{}}, "labels": {labels}}}}}"#);
    assert(&in_request(&legal), PLAIN_CONFIG, vec![]);
    assert(&in_step(&legal), PLAIN_CONFIG, vec![]);
    assert(&with(""), &in_config(&legal), vec![]);
    assert(&in_request(&illegal), PLAIN_CONFIG, faults("labels", "request", ""));
    assert(&in_step(&illegal), PLAIN_CONFIG, faults("jobs[0].labels", "request", ""));
    assert(
        &with(""),
        &in_config(&illegal),
        faults("default_cluster_config.labels", "config", " (config/cluster-config.json)"),
    );
}

#[test]
fn at_most_32_labels_with_those_of_the_run() {
    let labels = |first: usize, count: usize| {
        let labels: Vec<_> = (first..first + count).map(|index| format!(r#""l{index}": """#)).collect();
        format!("{{{}}}", labels.join(", "))
    };
    let config = |labels: &str| format!(r#"{{"default_cluster_config": {{"config": {{}}, "labels": {labels}}}}}"#);
    let reason = "31 labels, at most 30 are allowed beside the two of the run";
    let in_request = |count: usize| with(&format!(r#""labels": {}"#, labels(20, count)));
    assert_violations(&with(""), &config(&labels(0, 30)), &options(), &[]);
    assert_violations(
        &with(""),
        &config(&labels(0, 31)),
        &options(),
        &[&format!("config default_cluster_config.labels: {reason} (config/cluster-config.json)")],
    );
    // Those that both have count once.
    assert_violations(&in_request(10), &config(&labels(0, 25)), &options(), &[]);
    assert_violations(&in_request(11), &config(&labels(0, 25)), &options(), &[&format!("request labels: {reason}")]);
    let step = |count: usize| steps(&[&format!(r#""step_id": "one", "labels": {}"#, labels(0, count))]);
    check(&step(30), &[]);
    check(&step(31), &[&format!("request jobs[0].labels: {reason}")]);
}

#[test]
fn restartable_jobs() {
    let of = |scheduling: &str| steps(&[&format!(r#""step_id": "one", "scheduling": {scheduling}"#)]);
    check(&of("{}"), &[]);
    check(&of(r#"{"max_failures_per_hour": 0}"#), &[]);
    check(
        &of(r#"{"max_failures_per_hour": 1, "maxFailuresTotal": 2}"#),
        &[
            "request jobs[0].scheduling.max_failures_per_hour: restartable jobs are not allowed in workflows",
            "request jobs[0].scheduling.maxFailuresTotal: restartable jobs are not allowed in workflows",
        ],
    );
}

#[test]
fn the_timeout_of_the_workflow() {
    let of = |timeout: &str| with(&format!(r#""dag_timeout": {timeout}"#));
    for legal in [r#""600s""#, "600", r#""86400s""#, r#"{"seconds": 3600}"#, "1800.5"] {
        check(&of(legal), &[]);
    }
    for illegal in ["0", r#""599.999999999s""#, r#""86400.000000001s""#, "{}", r#""-600s""#] {
        check(&of(illegal), &["request dag_timeout: a workflow's timeout is 600 s (10 minutes) to 86400 s (a day)"]);
    }
    check(&of(r#""1h""#), &[r#"!request dag_timeout: "1h" is no duration, write it as "1800s" or "0.5s""#]);
    check(
        &with(r#""dagTimeout": true"#),
        &["!request dagTimeout: expected a duration, as \"1800s\" or 1800, got a boolean"],
    );
}

#[test]
fn required_and_output_only_fields() {
    check(
        r#"{"jobs": [{"step_id": "one", "pyspark_job": {}}], "cluster_init_actions": [{"executable_file": "gs://b/a"}, {"executionTimeout": 5}]}"#,
        &[
            "request jobs[0].pyspark_job.main_python_file_uri: required",
            "request cluster_init_actions[1].executable_file: required",
        ],
    );
    check(
        r#"{"jobs": [{"step_id": "one", "pyspark_job": {"mainPythonFileUri": ""}}]}"#,
        &["request jobs[0].pyspark_job.mainPythonFileUri: required"],
    );
    // What cannot be read is not missing too.
    check(
        r#"{"jobs": [{"step_id": "one", "pyspark_job": {"main_python_file_uri": 5}}]}"#,
        &["!request jobs[0].pyspark_job.main_python_file_uri: expected a string, got an integer"],
    );
    let config = r#"{"default_cluster_config": {"config": {"master_config": {"instance_names": ["x"], "isPreemptible": true},
        "worker_config": {"instance_names": [], "is_preemptible": false}, "metastore_config": {}}}}"#;
    let object = "(config/cluster-config.json)";
    assert_violations(
        &with(""),
        config,
        &options(),
        &[
            &format!(
                "config default_cluster_config.config.master_config.instance_names: only the service sets this field {object}"
            ),
            &format!(
                "config default_cluster_config.config.master_config.isPreemptible: only the service sets this field {object}"
            ),
            &format!(
                "config default_cluster_config.config.metastore_config.dataproc_metastore_service: required {object}"
            ),
        ],
    );
}
