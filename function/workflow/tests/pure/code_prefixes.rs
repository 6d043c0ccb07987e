//! ALLOWED_CODE_PREFIXES.

use inline_workflow::template::Options;
use serde_json::{Value, json};

use super::{PLAIN_CONFIG, lines, options, render};

fn guarded() -> Options {
    Options { allowed_code_prefixes: vec!["gs://b/code".into(), "gs://lib/".into()], ..options() }
}

/// The places that are refused, of a request with these members beside a plain step.
fn refused_places(members: Value) -> Vec<String> {
    let mut request = json!({"jobs": [{"step_id": "one", "pig_job": {}}]});
    request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    let (_, rendered, violations) = render(&request.to_string(), PLAIN_CONFIG, &guarded());
    assert!(rendered.is_some(), "the template can be decoded all the same");
    let lines = lines(&violations);
    // Only what a guard rail says, and no RULES=warn lets it pass.
    let guards = lines.into_iter().filter(|line| line.contains("ALLOWED_CODE_PREFIXES"));
    guards.map(|line| line.strip_prefix("!request ").unwrap().split(": ").next().unwrap().to_owned()).collect()
}

fn refused_in_job(job_type: &str, job: Value) -> Vec<String> {
    let prefix = format!("jobs[0].{job_type}.");
    let places = refused_places(json!({"jobs": [{"step_id": "one", job_type: job}]}));
    places.iter().map(|place| place.strip_prefix(&prefix).unwrap().to_owned()).collect()
}

fn is_refused(place: &str) -> bool {
    !refused_in_job("pyspark_job", json!({"main_python_file_uri": place})).is_empty()
}

#[test]
fn a_place_is_inside_by_whole_segments() {
    for inside in [
        "gs://b/code/m.py",
        "gs://b/code",
        "gs://b/code/",
        "gs://lib/x/y.jar",
        "gs://b/code/env.tgz#env",
        "gs://b/code/*.jar",
    ] {
        assert!(!is_refused(inside), "{inside}");
    }
    for outside in [
        "gs://b/code-evil/m.py",
        "gs://b/other/m.py",
        "gs://b",
        "gs://lib",
        "gs://libx/y",
        "GS://b/code/m.py",
        "gs://B/code/m.py",
        "gs://b/Code/m.py",
        "b/code/m.py",
        "/code/m.py",
        "file:///usr/lib/m.py",
        "local:///m.py",
        "hdfs:///m.py",
        "https://evil.example/m.py",
        "m.py",
        "gs://b/code/../evil/m.py",
        "gs://b/code/..",
        "gs://b/code/%2e%2e/evil",
        "gs://b/code/${x}/m.py",
        "gs://b/code/{a,../../evil}",
        "gs://b/code\\..\\evil",
        "gs://b/code/a\u{0}b",
        "gs://b/code/a.jar,gs://evil/b.jar",
        "gs://b/code/a.jar;gs://evil/b.jar",
        "gs://b/code/a.jar gs://evil/b.jar",
        "gs://b/code/a.jar:gs://evil/b.jar",
        "gs://evil/gs://b/code/m.py",
        "gs://b//code/m.py",
    ] {
        assert!(is_refused(outside), "{outside}");
    }
}

#[test]
fn without_prefixes_everything_is_allowed() {
    let request = json!({"jobs": [{"step_id": "one", "pyspark_job": {"main_python_file_uri": "https://x/y"}}], "metadata": {"startup-script": "x"}});
    let (_, _, violations) = render(&request.to_string(), PLAIN_CONFIG, &options());
    assert_eq!(lines(&violations), [""; 0]);
}

#[test]
fn the_reason_names_the_place_and_the_variable() {
    let request = json!({"jobs": [{"step_id": "one", "pyspark_job": {"main_python_file_uri": "gs://evil/m.py"}}]});
    let (_, _, violations) = render(&request.to_string(), PLAIN_CONFIG, &guarded());
    let expected = "!request jobs[0].pyspark_job.main_python_file_uri: \"gs://evil/m.py\" is outside of the allowed places (ALLOWED_CODE_PREFIXES)";
    assert_eq!(lines(&violations), [expected]);
}

#[test]
fn every_field_of_a_request_that_names_code() {
    let evil = "gs://evil/x";
    let spark = json!({"main_jar_file_uri": evil, "jarFileUris": ["gs://b/code/a", evil], "file_uris": [evil], "archive_uris": [evil]});
    assert_eq!(
        refused_in_job("spark_job", spark.clone()),
        ["archive_uris[0]", "file_uris[0]", "jarFileUris[1]", "main_jar_file_uri"]
    );
    assert_eq!(
        refused_in_job("hadoop_job", spark),
        ["archive_uris[0]", "file_uris[0]", "jarFileUris[1]", "main_jar_file_uri"]
    );
    assert_eq!(
        refused_in_job(
            "pyspark_job",
            json!({"main_python_file_uri": evil, "python_file_uris": [evil], "jar_file_uris": [evil]})
        ),
        ["jar_file_uris[0]", "main_python_file_uri", "python_file_uris[0]"]
    );
    for (job_type, fields) in [
        ("hive_job", vec!["query_file_uri"]),
        ("pig_job", vec!["query_file_uri"]),
        ("spark_sql_job", vec!["query_file_uri"]),
        ("presto_job", vec!["query_file_uri"]),
        ("trino_job", vec!["query_file_uri"]),
        ("spark_r_job", vec!["main_r_file_uri"]),
        ("flink_job", vec!["main_jar_file_uri", "savepoint_uri"]),
    ] {
        for field in fields {
            assert_eq!(refused_in_job(job_type, json!({field: evil})), [field], "{job_type}");
        }
    }
    let actions = json!({"cluster_init_actions": [{"executable_file": "gs://b/code/a.sh"}, {"executableFile": evil}]});
    assert_eq!(refused_places(actions), ["cluster_init_actions[1].executableFile"]);
    // Queries are text of the sender's own.
    assert_eq!(refused_in_job("hive_job", json!({"query_list": {"queries": ["SELECT 'gs://evil/x'"]}})), [""; 0]);
}

#[test]
fn the_operators_configuration_is_not_restricted() {
    let config = r#"{"default_cluster_config": {"config": {"initialization_actions": [{"executable_file": "gs://other/a.sh"}],
        "gce_cluster_config": {"metadata": {"startup-script": "x"}}}}}"#;
    let (_, _, violations) = render(r#"{"jobs": [{"step_id": "one", "pig_job": {}}]}"#, config, &guarded());
    assert_eq!(lines(&violations), [""; 0]);
}

#[test]
fn properties_that_bring_code() {
    let refused = |key: &str, value: &str| !refused_in_job("spark_job", json!({"properties": {key: value}})).is_empty();
    let listed = [
        "spark.jars",
        "spark.files",
        "spark.archives",
        "spark.submit.pyFiles",
        "spark.yarn.dist.jars",
        "spark.yarn.jars",
        "spark.driver.extraClassPath",
        "spark.hadoop.mapreduce.job.jar",
        "mapreduce.job.jar",
        "mapreduce.job.cache.files",
        "tmpjars",
        "hive.aux.jars.path",
        "pig.additional.jars",
        "pipeline.jars",
        "spark:spark.jars",
    ];
    for key in listed {
        assert!(refused(key, "gs://evil/a.jar"), "{key}");
        assert!(refused(key, "gs://b/code/a.jar, gs://evil/a.jar"), "{key}");
        assert!(!refused(key, "gs://b/code/a.jar, gs://lib/b.jar,"), "{key}");
    }
    for key in ["spark.jars.packages", "spark.jars.repositories", "spark.jars.ivySettings"] {
        assert!(refused(key, "gs://b/code/a.jar"), "{key}");
    }
    assert!(refused("spark.driver.extraJavaOptions", "-Xmx1g -javaagent:/tmp/x.jar"));
    assert!(refused("mapreduce.map.java.opts", "-XX:OnOutOfMemoryError=curl"));
    for (key, value) in [
        ("spark.executor.memory", "4g"),
        ("spark.driver.extraJavaOptions", "-Xmx1g"),
        ("spark.eventLog.dir", "gs://logs/x"),
    ] {
        assert!(!refused(key, value), "{key}");
    }
    let places = refused_in_job(
        "pyspark_job",
        json!({"main_python_file_uri": "gs://b/code/m", "properties": {"spark.jars": "x"}}),
    );
    assert_eq!(places, ["properties[\"spark.jars\"]"]);
}

#[test]
fn options_of_hadoops_command_line() {
    let refused = |args: &[&str]| refused_in_job("hadoop_job", json!({"main_class": "X", "args": args}));
    assert_eq!(refused(&["wordcount", "-libjars", "gs://evil/a.jar", "gs://in"]), ["args[2]"]);
    assert_eq!(refused(&["-libjars=gs://evil/a.jar"]), ["args[0]"]);
    assert_eq!(refused(&["-files", "gs://b/code/a,gs://evil/b"]), ["args[1]"]);
    assert_eq!(refused(&["-archives", "gs://b/code/a"]), [""; 0]);
    assert_eq!(refused(&["-D", "tmpjars=gs://evil/a"]), ["args[1]"]);
    assert_eq!(refused(&["-Dmapreduce.job.jar=gs://evil/a", "-Dmapreduce.job.reduces=2"]), ["args[0]"]);
    assert_eq!(refused(&["-conf", "gs://b/code/x.xml"]), ["args[0]"]);
    assert_eq!(refused(&["-D"]), [""; 0]);
    // Spark's own arguments come before the application's.
    assert_eq!(refused_in_job("spark_job", json!({"main_class": "X", "args": ["-libjars", "gs://evil/a"]})), [""; 0]);
}

#[test]
fn metadata_that_brings_code_or_access() {
    for key in [
        "startup-script",
        "startup-script-url",
        "Startup-Script",
        "shutdown-script",
        "windows-startup-script-ps1",
        "ssh-keys",
        "sshKeys",
        "user-data",
        "PIP_PACKAGES",
        "dataproc-initialization-script-0",
    ] {
        assert_eq!(refused_places(json!({"metadata": {key: "x"}})), [format!("metadata[\"{key}\"]")], "{key}");
    }
    assert_eq!(
        refused_places(json!({"metadata": {"spark-connector-url": "https://evil/a.jar"}})),
        ["metadata[\"spark-connector-url\"]"]
    );
    assert_eq!(refused_places(json!({"metadata": {"spark-connector-url": "gs://lib/a.jar", "team": "a"}})), [""; 0]);
}
