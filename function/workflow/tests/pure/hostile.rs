//! Documents that were written to do harm: what comes of them is bounded.

use inline_workflow::violation::{Fault, MAX_VIOLATIONS};

use inline_workflow::template::Options;

use super::{PLAIN_CONFIG, lines, options, render, with};

#[test]
fn only_so_many_violations_are_kept_and_the_rest_is_counted() {
    let keys: Vec<_> = (0..50_000).map(|index| format!("\"unknown_key_{index}\": {index}")).collect();
    let (_, rendered, violations) = render(&with(&keys.join(", ")), PLAIN_CONFIG, &options());
    assert_eq!(violations.len(), MAX_VIOLATIONS + 1);
    assert_eq!(lines(&violations[MAX_VIOLATIONS..]), ["!request : 49000 further faults are not listed"]);
    assert!(rendered.is_some());
    // The same inside of a job.
    let request = format!(r#"{{"jobs": [{{"step_id": "one", "pig_job": {{{}}}}}]}}"#, keys.join(", "));
    let (_, rendered, violations) = render(&request, PLAIN_CONFIG, &options());
    assert_eq!(violations.len(), MAX_VIOLATIONS + 1);
    assert!(rendered.is_none());
}

#[test]
fn a_grave_fault_behind_many_light_ones_is_not_forgotten() {
    let labels: Vec<_> = (0..2_000).map(|index| format!("\"A{index}\": \"\"")).collect();
    let request = format!(
        r#"{{"jobs": [{{"step_id": "one", "pig_job": {{}}, "labels": {{{}}}}}], "dag_timeout": "x"}}"#,
        labels.join(", ")
    );
    let (_, rendered, violations) = render(&request, PLAIN_CONFIG, &options());
    assert_eq!(violations.last().map(|violation| violation.fault), Some(Fault::Decoding));
    assert!(rendered.is_none());
    let light = request.replace("\"x\"", "\"600s\"");
    let (_, rendered, violations) = render(&light, PLAIN_CONFIG, &options());
    assert!(violations.iter().all(|violation| violation.fault == Fault::Rule));
    assert!(rendered.is_some());
}

#[test]
fn the_gravest_of_those_not_listed_counts() {
    let places = vec![r#""gs://evil/x""#; 2_000].join(", ");
    let request = format!(
        r#"{{"jobs": [{{"step_id": "one", "pig_job": {{"jar_file_uris": [{places}]}}}}], "dag_timeout": TIMEOUT}}"#
    );
    let guarded = Options { allowed_code_prefixes: vec!["gs://b".into()], ..options() };
    let gravest = |timeout: &str| {
        let (_, rendered, violations) = render(&request.replace("TIMEOUT", timeout), PLAIN_CONFIG, &guarded);
        (rendered.is_some(), violations.last().map(|violation| violation.fault))
    };
    assert_eq!(gravest("1"), (true, Some(Fault::Forbidden)));
    assert_eq!(gravest("\"x\""), (false, Some(Fault::Decoding)));
}

#[test]
fn each_violation_is_told_once() {
    let (_, _, violations) = render(&with(r#""a": 1, "a": 2, "a": 3"#), PLAIN_CONFIG, &options());
    assert_eq!(lines(&violations), ["!request a: unknown field"]);
}

#[test]
fn the_number_of_jobs_is_bounded() {
    let jobs = |count: usize| {
        let jobs: Vec<_> =
            (0..count).map(|index| format!(r#"{{"step_id": "s{index:04}", "pig_job": {{}}}}"#)).collect();
        format!(r#"{{"jobs": [{}]}}"#, jobs.join(", "))
    };
    let (_, rendered, violations) = render(&jobs(1_000), PLAIN_CONFIG, &options());
    assert_eq!((rendered.is_some(), lines(&violations)), (true, vec![]));
    let (_, rendered, violations) = render(&jobs(1_001), PLAIN_CONFIG, &options());
    assert_eq!(
        (rendered.is_some(), lines(&violations)),
        (false, vec!["!request jobs: 1001 jobs, at most 1000 are taken".into()])
    );
}

#[test]
fn a_thousand_steps_that_all_wait_for_each_other() {
    let ids: Vec<_> = (0..600).map(|index| format!("\"s{index:04}\"")).collect();
    let jobs: Vec<_> = ids
        .iter()
        .map(|id| format!(r#"{{"step_id": {id}, "pig_job": {{}}, "prerequisite_step_ids": [{}]}}"#, ids.join(",")))
        .collect();
    let (_, _, violations) = render(&format!(r#"{{"jobs": [{}]}}"#, jobs.join(",")), PLAIN_CONFIG, &options());
    let cycles = violations.iter().filter(|violation| violation.reason.contains("wait for each other")).count();
    let selves = violations.iter().filter(|violation| violation.reason.contains("wait for itself")).count();
    assert!((1..=300).contains(&cycles), "{cycles}");
    assert_eq!(selves, 600);
}

#[test]
fn long_texts_do_not_multiply() {
    let long = "x".repeat(400_000);
    let texts = [
        with(&format!(r#""{long}": 1"#)),
        with(&format!(r#""job_name": "{long}""#)),
        with(&format!(r#""action": "{long}""#)),
        with(&format!(r#""dag_timeout": "{long}""#)),
        with(&format!(r#""dag_timeout": {}"#, "9".repeat(400_000))),
        with(&format!(r#""dag_timeout": 0.{}"#, "9".repeat(400_000))),
        with(&format!(r#""dag_timeout": 1e{}"#, "9".repeat(400_000))),
        with(&format!(r#""labels": {{"{long}": "{long}"}}"#)),
        format!(
            r#"{{"jobs": [{{"step_id": "{long}", "prerequisite_step_ids": ["{long}"], "pig_job": {{"{long}": 1}}}}]}}"#
        ),
        format!(
            r#"{{"jobs": [{{"step_id": "one", "spark_job": {{"logging_config": {{"driver_log_levels": {{"a": "{long}"}}}}}}}}]}}"#
        ),
    ];
    for text in texts {
        for config in [PLAIN_CONFIG, "{}"] {
            let (_, _, violations) = render(&text, config, &options());
            assert!(violations.len() < 10);
            let told: usize = violations.iter().map(|violation| violation.path.len() + violation.reason.len()).sum();
            assert!(told < 4_000, "{told} bytes about {}", &text[..100]);
        }
    }
}

#[test]
fn any_bytes_are_answered() {
    // Cut and changed versions of a good request: none may panic, and a cut one is no JSON.
    let good = with(r#""labels": {"é": "\ud83d\ude80"}, "dag_timeout": 1.5e3, "metadata": {"a": "b"}"#).into_bytes();
    for end in 0..good.len() {
        let (_, violations) = inline_workflow::request::decode(&good[..end]);
        assert_ne!(violations, []);
    }
    for at in 0..good.len() {
        for byte in [0, b'"', b'\\', b'{', b']', b',', b'0', b'-', 0xc3, 0xff] {
            let mut bad = good.clone();
            bad[at] = byte;
            let (request, _) = inline_workflow::request::decode(&bad);
            let config = inline_workflow::cluster_config::parse("o", 1, PLAIN_CONFIG.as_bytes()).unwrap();
            let _ = inline_workflow::template::render(&request, &config, &options());
            let _ = inline_workflow::cluster_config::parse("o", 1, &bad);
        }
    }
}

#[test]
fn an_entry_of_a_long_name_is_named_by_its_beginning() {
    let name = "x".repeat(1 << 20);
    let config = format!(r#"{{"{name}": {{"config": {{"worker": 1}}}}, "twice": {{}}, "twice": {{}}}}"#);
    for request in [with(&format!(r#""job_name": "{name}""#)), with(r#""job_name": "twice""#)] {
        let (_, _, violations) = render(&request, &config, &options());
        assert!(!violations.is_empty());
        assert!(violations.iter().all(|violation| violation.path.len() < 200), "{}", violations[0].path.len());
    }
}
