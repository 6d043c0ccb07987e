//! The forms in which each kind of field may be written: the table of `fixtures/corpus/README.md`, line by line.

use inline_workflow::violation::{Document, Fault, Faults};
use inline_workflow::{json, proto_json, template};
use prost_reflect::{DynamicMessage, ReflectMessage};

/// Reads `value` as the field at the end of a path of a `ClusterConfig`: its protobuf JSON, or the faults.
fn read(path: &str, value: &str) -> Result<String, Vec<String>> {
    read_message("ClusterConfig", path, value)
}

fn read_message(message: &str, path: &str, value: &str) -> Result<String, Vec<String>> {
    let (open, close) =
        path.split('.').fold((String::new(), String::new()), |(open, close), key| match key.strip_suffix("[]") {
            Some(key) => (format!("{open}{{\"{key}\": ["), format!("]}}{close}")),
            None => (format!("{open}{{\"{key}\": "), format!("}}{close}")),
        });
    let document = json::parse(format!("{open}{value}{close}").as_bytes()).unwrap();
    let mut faults = Faults::new(Document::Config, "");
    let message = proto_json::message(&document, &proto_json::dataproc(message), &mut faults);
    let mut violations = faults.into_violations();
    violations.retain(|violation| violation.fault == Fault::Decoding);
    if !violations.is_empty() {
        return Err(violations
            .into_iter()
            .map(|violation| format!("{}: {}", violation.path, violation.reason))
            .collect());
    }
    let bytes = template::encode(&message);
    let sent = DynamicMessage::decode(message.descriptor(), bytes).unwrap();
    let sent = template::to_json(&sent);
    let leaf = path.split('.').try_fold(&sent, |at, key| {
        let list = key.ends_with("[]");
        let found = at.get(camel(key.trim_end_matches("[]")))?;
        if list { found.get(0) } else { Some(found) }
    });
    Ok(leaf.map_or_else(|| "absent".to_owned(), ToString::to_string))
}

fn camel(key: &str) -> String {
    let mut parts = key.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + &part[..1].to_uppercase() + &part[1..])
}

#[track_caller]
fn taken(path: &str, forms: &[(&str, &str)]) {
    for (form, expected) in forms {
        assert_eq!(read(path, form).as_deref(), Ok(*expected), "{path} as {form}");
    }
}

/// Refused, with the fault at the field itself.
#[track_caller]
fn refused(path: &str, forms: &[(&str, &str)]) {
    for (form, reason) in forms {
        let place = path.replace("[]", "[0]");
        assert_eq!(read(path, form), Err(vec![format!("{place}: {reason}")]), "{path} as {form}");
    }
}

#[test]
fn strings() {
    let path = "config_bucket";
    taken(
        path,
        &[
            (r#""a""#, r#""a""#),
            (r#""""#, "absent"),
            ("null", "absent"),
            (r#""\u0000""#, r#""\u0000""#),
            (r#""é🚀""#, r#""é🚀""#),
        ],
    );
    refused(
        path,
        &[
            ("5", "expected a string, got an integer"),
            ("1.5", "expected a string, got a number with a fraction or an exponent"),
            ("true", "expected a string, got a boolean"),
            ("[]", "expected a string, got an array"),
            (r#"["a"]"#, "expected a string, got an array"),
            ("{}", "expected a string, got an object"),
            (r#""\ud800""#, "the text has half of a surrogate pair, which is no character"),
            ("NaN", "NaN and Infinity are no JSON numbers"),
        ],
    );
}

#[test]
fn integers_of_32_bits() {
    let path = "master_config.num_instances";
    taken(
        path,
        &[
            ("5", "5"),
            ("0", "absent"),
            ("-0", "absent"),
            ("-2147483648", "-2147483648"),
            ("2147483647", "2147483647"),
            ("null", "absent"),
        ],
    );
    let range = |number: &str| format!("{number} is out of range (-2147483648 to 2147483647)");
    refused(
        path,
        &[
            (r#""1""#, "expected an integer, got a string"),
            ("1.0", "expected an integer, got a number with a fraction or an exponent"),
            ("1e2", "expected an integer, got a number with a fraction or an exponent"),
            ("true", "expected an integer, got a boolean"),
            ("[1]", "expected an integer, got an array"),
            ("{}", "expected an integer, got an object"),
            ("-Infinity", "NaN and Infinity are no JSON numbers"),
            ("2147483648", &range("2147483648")),
            ("-2147483649", &range("-2147483649")),
            ("1000000000000000019884624838656", &range("1000000000000000019884624838656")),
        ],
    );
}

#[test]
fn integers_of_64_bits() {
    let path = "worker_config.disk_config.boot_disk_provisioned_iops";
    taken(
        path,
        &[
            ("5", r#""5""#),
            (r#""5""#, r#""5""#),
            (r#""-5""#, r#""-5""#),
            ("9223372036854775807", r#""9223372036854775807""#),
            (r#""9223372036854775807""#, r#""9223372036854775807""#),
            ("-9223372036854775808", r#""-9223372036854775808""#),
            ("9007199254740993", r#""9007199254740993""#),
            ("null", "absent"),
        ],
    );
    let range = |number: &str| format!("{number} is out of range (-9223372036854775808 to 9223372036854775807)");
    refused(
        path,
        &[
            ("9223372036854775808", &range("9223372036854775808")),
            (r#""-9223372036854775809""#, &range("-9223372036854775809")),
        ],
    );
    let got = |kind: &str| format!("expected an integer, or its decimal digits as a string, got {kind}");
    for text in [r#"" 5 ""#, r#""1_000""#, r#""+5""#, "\"٥\"", r#""5.0""#, r#""1e3""#, r#""0x10""#, r#""""#, r#""-""#]
    {
        refused(path, &[(text, &got("a string"))]);
    }
    let fraction = got("a number with a fraction or an exponent");
    refused(path, &[("5.9", &fraction), ("5.0", &fraction), ("1e3", &fraction), ("1e400", &fraction)]);
    refused(path, &[("true", &got("a boolean")), ("NaN", "NaN and Infinity are no JSON numbers")]);
}

#[test]
fn booleans() {
    let path = "endpoint_config.enable_http_port_access";
    taken(path, &[("true", "true"), ("false", "absent"), ("null", "absent")]);
    for form in ["0", "1", "1.0", r#""true""#, "[]", "{}"] {
        assert!(read(path, form).is_err(), "{form}");
    }
}

#[test]
fn fields_with_presence_keep_their_zero() {
    taken("gce_cluster_config.internal_ip_only", &[("false", "false"), ("true", "true"), ("null", "absent")]);
    let base = "secondary_worker_config.instance_flexibility_policy.provisioning_model_mix.standard_capacity_base";
    taken(base, &[("0", "0"), ("7", "7"), ("null", "absent")]);
}

#[test]
fn floating_point_numbers() {
    let path = "master_config.startup_config.required_registration_fraction";
    taken(
        path,
        &[
            ("0.5", "0.5"),
            ("1", "1.0"),
            ("1e-3", "0.001"),
            ("0", "0.0"),
            ("-0.0", "-0.0"),
            ("1e308", "1e+308"),
            ("1e-400", "0.0"),
            ("null", "absent"),
        ],
    );
    let large = format!("1{}", "0".repeat(309));
    refused(
        path,
        &[
            ("true", "expected a number, got a boolean"),
            (r#""0.5""#, "expected a number, got a string"),
            ("NaN", "NaN and Infinity are no JSON numbers"),
            ("1e400", "1e400 is too large for a number of 64 bits"),
            (&large, &format!("1{}… is too large for a number of 64 bits", "0".repeat(59))),
        ],
    );
}

#[test]
fn enums() {
    let path = "gce_cluster_config.private_ipv6_google_access";
    taken(
        path,
        &[
            (r#""OUTBOUND""#, r#""OUTBOUND""#),
            ("2", r#""OUTBOUND""#),
            ("77", "77"),
            ("-1", "-1"),
            ("0", "absent"),
            ("null", "absent"),
        ],
    );
    let legal = "(legal: PRIVATE_IPV6_GOOGLE_ACCESS_UNSPECIFIED, INHERIT_FROM_SUBNETWORK, OUTBOUND, BIDIRECTIONAL)";
    refused(
        path,
        &[
            (r#""NOPE""#, &format!("unknown name \"NOPE\" {legal}")),
            (r#""outbound""#, &format!("unknown name \"outbound\", did you mean OUTBOUND? {legal}")),
            (r#""1""#, &format!("unknown name \"1\" {legal}")),
            (r#""""#, &format!("unknown name \"\" {legal}")),
            ("1.0", "expected a name or a number of an enum, got a number with a fraction or an exponent"),
            ("true", "expected a name or a number of an enum, got a boolean"),
            ("[1]", "expected a name or a number of an enum, got an array"),
            ("2147483648", "2147483648 is out of range (-2147483648 to 2147483647)"),
        ],
    );
    taken("software_config.optional_components", &[(r#"["JUPYTER", 8, 9999]"#, r#"["JUPYTER","ZOOKEEPER",9999]"#)]);
    let reason = read("software_config.optional_components[]", r#""jupyter""#).unwrap_err().remove(0);
    assert!(reason.starts_with(
        "software_config.optional_components[0]: unknown name \"jupyter\", did you mean JUPYTER? (legal: "
    ));
}

#[test]
fn durations() {
    let path = "lifecycle_config.idle_delete_ttl";
    taken(
        path,
        &[
            (r#""1800s""#, r#""1800s""#),
            (r#""1.5s""#, r#""1.500s""#),
            (r#""-0.5s""#, r#""-0.500s""#),
            (r#""0s""#, r#""0s""#),
            (r#""1.123456789s""#, r#""1.123456789s""#),
            (r#""315576000000s""#, r#""315576000000s""#),
            (r#"{"seconds": 5}"#, r#""5s""#),
            (r#"{"seconds": 5, "nanos": 7}"#, r#""5.000000007s""#),
            (r#"{"seconds": -5, "nanos": -7}"#, r#""-5.000000007s""#),
            (r#"{"seconds": null}"#, r#""0s""#),
            ("{}", r#""0s""#),
            ("null", "absent"),
            // Beyond Google's client: numbers of seconds.
            ("1800", r#""1800s""#),
            ("0", r#""0s""#),
            ("-1", r#""-1s""#),
            ("1800.5", r#""1800.500s""#),
            ("1800.50", r#""1800.500s""#),
            ("-0.5", r#""-0.500s""#),
            ("0.000000001", r#""0.000000001s""#),
            ("1.8e3", r#""1800s""#),
            ("18E+2", r#""1800s""#),
            ("5e-1", r#""0.500s""#),
            ("315576000000", r#""315576000000s""#),
            // What is finer than a nanosecond is rounded.
            ("0.30000000000000004", r#""0.300s""#),
            ("0.0000000005", r#""0.000000001s""#),
            ("0.00000000049", r#""0s""#),
            ("1e-30", r#""0s""#),
            ("0e999999999999999999", r#""0s""#),
        ],
    );
    let no_duration = |text: &str| format!("{text:?} is no duration, write it as \"1800s\" or \"0.5s\"");
    for text in [
        "",
        "1800",
        "30m",
        "1S",
        "s",
        ".5s",
        "1.s",
        "+1s",
        " 1s",
        "1s ",
        "1 s",
        "01s",
        "1_0s",
        "1e3s",
        "nans",
        "1.1234567891s",
        "-s",
        "--1s",
        "1.5.5s",
    ] {
        refused(path, &[(&format!("{text:?}"), &no_duration(text))]);
    }
    refused(
        path,
        &[
            ("true", "expected a duration, as \"1800s\" or 1800, got a boolean"),
            ("[]", "expected a duration, as \"1800s\" or 1800, got an array"),
            ("NaN", "NaN and Infinity are no JSON numbers"),
            (r#""315576000001s""#, "315576000001 s is out of range (-315576000000 to 315576000000)"),
            ("315576000001", "315576000001 s is out of range (-315576000000 to 315576000000)"),
            ("1e30", "1e30 s is out of range (-315576000000 to 315576000000)"),
            ("1e99999999999999999999", "1e99999999999999999999 s is out of range (-315576000000 to 315576000000)"),
            (r#"{"seconds": -315576000001}"#, "-315576000001 s is out of range (-315576000000 to 315576000000)"),
            (r#"{"nanos": 1000000000}"#, "nanos is out of range (-999999999 to 999999999)"),
            (r#"{"nanos": -2147483648}"#, "nanos is out of range (-999999999 to 999999999)"),
            (r#"{"seconds": 1, "nanos": -1}"#, "seconds and nanos must have the same sign"),
        ],
    );
    let inside = |form: &str| read(path, form).unwrap_err();
    assert_eq!(inside(r#"{"seconds": "5"}"#), [format!("{path}.seconds: expected an integer, got a string")]);
    assert_eq!(
        inside(r#"{"seconds": 5.0, "nanos": true}"#),
        [
            format!("{path}.seconds: expected an integer, got a number with a fraction or an exponent"),
            format!("{path}.nanos: expected an integer, got a boolean"),
        ]
    );
    assert_eq!(inside(r#"{"extra": null}"#), [format!("{path}.extra: unknown field, did you mean seconds or nanos?")]);
    assert_eq!(inside(r#"{"seconds": 1, "seconds": 1}"#), [format!("{path}.seconds: repeated key")]);
}

#[test]
fn timestamps() {
    let path = "lifecycle_config.auto_delete_time";
    taken(
        path,
        &[
            (r#""2030-01-31T23:59:59Z""#, r#""2030-01-31T23:59:59Z""#),
            (r#""2030-01-01T00:00:00+02:00""#, r#""2029-12-31T22:00:00Z""#),
            (r#""2030-01-01T00:00:00-08:30""#, r#""2030-01-01T08:30:00Z""#),
            (r#""2030-01-01T00:00:00.1Z""#, r#""2030-01-01T00:00:00.100Z""#),
            (r#""2030-01-01T00:00:00.123456789+00:00""#, r#""2030-01-01T00:00:00.123456789Z""#),
            (r#""0001-01-01T00:00:00Z""#, r#""0001-01-01T00:00:00Z""#),
            (r#""9999-12-31T23:59:59.999999999Z""#, r#""9999-12-31T23:59:59.999999999Z""#),
            (r#""2028-02-29T00:00:00Z""#, r#""2028-02-29T00:00:00Z""#),
            (r#"{"seconds": 5, "nanos": 7}"#, r#""1970-01-01T00:00:05.000000007Z""#),
            (r#"{"seconds": -1}"#, r#""1969-12-31T23:59:59Z""#),
            ("{}", r#""1970-01-01T00:00:00Z""#),
            ("null", "absent"),
        ],
    );
    for text in [
        "",
        "x",
        "2030-01-01",
        "2030-01-01T00:00:00",
        "2030-01-01t00:00:00Z",
        "2030-01-01T00:00:00z",
        "2030-01-01 00:00:00Z",
        "2030-1-1T0:0:0Z",
        "2030-02-30T00:00:00Z",
        "2029-02-29T00:00:00Z",
        "2030-13-01T00:00:00Z",
        "2030-01-01T24:00:00Z",
        "2030-01-01T00:60:00Z",
        "2030-01-01T00:00:60Z",
        "2030-01-01T00:00:00.Z",
        "2030-01-01T00:00:00.1234567891Z",
        "2030-01-01T00:00:00-0800",
        "2030-01-01T00:00:00+2:00",
        "2030-01-01T00:00:00+25:00",
        "2030-01-01T00:00:00+02:60",
        "2030-01-01T00:00:00Zx",
        "2030-01-01T00:00:00.5",
        "02030-01-01T00:00:00Z",
        "-030-01-01T00:00:00Z",
        "2030-01-01T00:00:00Ｚ",
        "+030-01-01T00:00:00Z",
        "2030-01-01T00:00:00+-2:00",
    ] {
        let reason = format!("{text:?} is no time, write it as \"2030-01-31T23:59:59Z\" or with an offset as +02:00");
        refused(path, &[(&format!("{text:?}"), &reason)]);
    }
    let range = "the time is out of range (years 1 to 9999)";
    refused(
        path,
        &[
            ("5", "expected a time, as \"2030-01-31T23:59:59Z\", got an integer"),
            ("true", "expected a time, as \"2030-01-31T23:59:59Z\", got a boolean"),
            (r#""0000-01-01T00:00:00Z""#, range),
            (r#""0001-01-01T00:00:00+01:00""#, range),
            (r#"{"seconds": 253402300800}"#, range),
            (r#"{"nanos": -1}"#, "nanos is out of range (0 to 999999999)"),
            (r#"{"nanos": 1000000000}"#, "nanos is out of range (0 to 999999999)"),
        ],
    );
    assert_eq!(
        read(path, r#"{"seconds": "5"}"#).unwrap_err(),
        [format!("{path}.seconds: expected an integer, got a string")]
    );
}

#[test]
fn messages() {
    taken("master_config", &[("{}", "{}"), ("null", "absent"), (r#"{"num_instances": null}"#, "{}")]);
    for (form, got) in
        [("5", "an integer"), ("\"\"", "a string"), ("[]", "an array"), ("[{}]", "an array"), ("false", "a boolean")]
    {
        refused("master_config", &[(form, &format!("expected an object, got {got}"))]);
    }
}

#[test]
fn lists() {
    taken("gce_cluster_config.tags", &[(r#"["a", ""]"#, r#"["a",""]"#), ("[]", "absent"), ("null", "absent")]);
    taken("initialization_actions", &[("[{}, {}]", "[{},{}]"), ("[]", "absent")]);
    for path in ["gce_cluster_config.tags", "initialization_actions", "software_config.optional_components"] {
        for (form, got) in [
            ("\"abc\"", "a string"),
            ("{\"a\": 1}", "an object"),
            ("{}", "an object"),
            ("\"\"", "a string"),
            ("5", "an integer"),
        ] {
            refused(path, &[(form, &format!("expected an array, got {got}"))]);
        }
    }
    refused(
        "gce_cluster_config.tags[]",
        &[("null", "expected a string, got null"), ("5", "expected a string, got an integer")],
    );
    refused(
        "initialization_actions[]",
        &[("null", "expected an object, got null"), ("[]", "expected an object, got an array")],
    );
    refused("software_config.optional_components[]", &[("null", "expected a name or a number of an enum, got null")]);
}

#[test]
fn maps() {
    let path = "software_config.properties";
    taken(
        path,
        &[(r#"{"a": "b"}"#, r#"{"a":"b"}"#), (r#"{"": ""}"#, r#"{"":""}"#), ("{}", "absent"), ("null", "absent")],
    );
    for (form, got) in [
        ("[]", "an array"),
        (r#"[["a", "b"]]"#, "an array"),
        (r#"["ab"]"#, "an array"),
        ("\"\"", "a string"),
        ("5", "an integer"),
    ] {
        refused(path, &[(form, &format!("expected an object, got {got}"))]);
    }
    // What only looks like the escape of a lone surrogate is escaped as any text.
    let faults = read(path, r#"{"C:\\udata": 1, "\\ud8": 1}"#).unwrap_err();
    let expected = [r#"["C:\\udata"]"#, r#"["\\ud8"]"#];
    assert_eq!(faults, expected.map(|key| format!("{path}{key}: expected a string, got an integer")));
    let faults = read(path, r#"{"a": 1, "b.c": null, "d\"e": true, "f": "g", "f": "h", "\ud800": "x"}"#).unwrap_err();
    let expected = [
        r#"["a"]: expected a string, got an integer"#,
        r#"["b.c"]: expected a string, got null"#,
        r#"["d\"e"]: expected a string, got a boolean"#,
        r#"["f"]: repeated key"#,
        r#"["\ud800"]: the key has half of a surrogate pair, which is no character"#,
    ];
    assert_eq!(faults, expected.map(|fault| format!("{path}{fault}")));
}

#[test]
fn maps_of_enums() {
    let path = "spark_job.logging_config.driver_log_levels";
    let read = |form: &str| read_message("OrderedJob", path, form);
    assert_eq!(read(r#"{"root": "INFO", "a": 7, "b": 99}"#).unwrap(), r#"{"a":"FATAL","b":99,"root":"INFO"}"#);
    for form in [r#""NOPE""#, r#""info""#, "1.0", "true", "[1]", "null"] {
        let fault = read(&format!("{{\"root\": {form}}}")).unwrap_err().remove(0);
        assert!(fault.starts_with(&format!("{path}[\"root\"]: ")), "{fault}");
    }
    assert_eq!(read("[\"root\"]").unwrap_err(), [format!("{path}: expected an object, got an array")]);
}

#[test]
fn oneofs_take_one_member() {
    let excludes = |form: &str| read_message("OrderedJob", "spark_job", form).unwrap_err();
    let reason = |key: &str, other: &str| {
        [format!("spark_job.{key}: {key} and {other} exclude each other, only one of them may be given")]
    };
    assert_eq!(excludes(r#"{"main_class": "a", "main_jar_file_uri": "b"}"#), reason("main_jar_file_uri", "main_class"));
    assert_eq!(excludes(r#"{"mainJarFileUri": "", "main_class": ""}"#), reason("main_class", "mainJarFileUri"));
    let read = |form: &str| read_message("OrderedJob", "spark_job", form);
    assert_eq!(read(r#"{"main_class": "a", "main_jar_file_uri": null}"#).unwrap(), r#"{"mainClass":"a"}"#);
    assert_eq!(read(r#"{"main_class": null, "main_jar_file_uri": ""}"#).unwrap(), r#"{"mainJarFileUri":""}"#);
    assert_eq!(
        self::read("lifecycle_config", r#"{"auto_delete_time": "2030-01-01T00:00:00Z", "auto_delete_ttl": "5s"}"#)
            .unwrap_err(),
        [
            "lifecycle_config.auto_delete_ttl: auto_delete_ttl and auto_delete_time exclude each other, only one of them may be given"
        ]
    );
}

#[test]
fn keys() {
    let read_job = |form: &str| read_message("OrderedJob", "pyspark_job", form);
    // camelCase, at every depth.
    assert_eq!(
        read_job(r#"{"mainPythonFileUri": "a", "loggingConfig": {"driverLogLevels": {}}}"#).unwrap(),
        r#"{"loggingConfig":{},"mainPythonFileUri":"a"}"#
    );
    let fault = |form: &str| read_job(form).unwrap_err();
    assert_eq!(
        fault(r#"{"main_python_file_ur": "a"}"#),
        ["pyspark_job.main_python_file_ur: unknown field, did you mean main_python_file_uri?"]
    );
    assert_eq!(fault(r#"{"ARGS": null}"#), ["pyspark_job.ARGS: unknown field, did you mean args?"]);
    assert_eq!(fault(r#"{"étiquette": 1}"#), ["pyspark_job[\"étiquette\"]: unknown field"]);
    assert_eq!(fault(r#"{"": 1}"#), ["pyspark_job[\"\"]: unknown field"]);
    assert_eq!(fault(r#"{" args": 1}"#), ["pyspark_job[\" args\"]: unknown field, did you mean args?"]);
    assert_eq!(fault(r#"{"x-y": 1}"#), ["pyspark_job[\"x-y\"]: unknown field"]);
    assert_eq!(
        fault(r#"{"driver_log_levels": {}}"#),
        ["pyspark_job.driver_log_levels: unknown field here, logging_config has one of this name"]
    );
    assert_eq!(fault(r#"{"args": [], "args": ["a"]}"#), ["pyspark_job.args: repeated key"]);
    assert_eq!(fault(r#"{"args": null, "args": null}"#), ["pyspark_job.args: repeated key"]);
    for form in [r#"{"fileUris": [], "file_uris": []}"#, r#"{"file_uris": [], "fileUris": []}"#] {
        assert_eq!(fault(form), ["pyspark_job.fileUris: the same field as file_uris, which is given too"]);
    }
    // An earlier wrong value is seen, and a later one too.
    assert_eq!(
        fault(r#"{"args": 1, "args": [2]}"#),
        [
            "pyspark_job.args: expected an array, got an integer",
            "pyspark_job.args: repeated key",
            "pyspark_job.args[0]: expected a string, got an integer"
        ]
    );
    for key in ["self", "_pb", "__class__", "ignore_unknown_fields", "gke_cluster_config", "id_"] {
        let faults = read_message("ClusterConfig", key, "1").unwrap_err();
        assert!(faults[0].starts_with(&format!("{key}: unknown field")), "{faults:?}");
    }
}

#[test]
fn a_long_key_is_cut_in_the_path() {
    let fault = read("software_config.properties", &format!("{{\"{}\": 1}}", "é".repeat(300))).unwrap_err().remove(0);
    assert_eq!(
        fault,
        format!("software_config.properties[\"{}…\"]: expected a string, got an integer", "é".repeat(256))
    );
}
