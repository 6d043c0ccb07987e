//! The Terraform module in `tf/` against the function that it deploys, as `terraform test` plans and applies it with
//! mocked providers: grants, environment, cluster configuration, the examples' counts, the variables' messages.
//!
//! `make test-tf`; needs `terraform`, and `tf/` initialised. `UPDATE_FIXTURES=1` rewrites `tf/tests/grants.*.txt`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::PathBuf,
    process::Command,
    sync::OnceLock,
};

use hcl::{
    Block, Body, Expression,
    eval::{Context, Evaluate},
};
use inline_workflow::{cluster_config, environment::*, request, template};
use serde_json::{Value, json};
use uuid::Uuid;

/// Cloud Run sets these by itself.
const OF_CLOUD_RUN: [&str; 2] = [ENV_PORT, ENV_SERVICE];
/// And nothing stands in for anything of Google's there.
const OF_EMULATORS: [&str; 4] = [ENV_DATAPROC_EMULATOR, ENV_PUBSUB_EMULATOR, ENV_STORAGE_EMULATOR, ENV_METADATA_SERVER];

fn tf() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tf")
}

fn read(file: &str) -> String {
    fs::read_to_string(tf().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn terraform() -> Command {
    let mut command = Command::new("terraform");
    command.arg(format!("-chdir={}", tf().display()));
    command
}

/// What each run of `terraform test` planned or made, by its name.
fn runs() -> &'static BTreeMap<String, Value> {
    static RUNS: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
    RUNS.get_or_init(|| {
        let output = terraform().args(["test", "-json", "-verbose"]).output().expect("terraform runs");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let runs: BTreeMap<String, Value> = lines
            .iter()
            .filter_map(|line| {
                let content = line.get("test_state").or(line.get("test_plan"))?;
                Some((line["@testrun"].as_str()?.to_owned(), content.clone()))
            })
            .collect();
        assert!(output.status.success(), "terraform test failed:\n{text}");
        runs
    })
}

/// The resources of a run that was applied.
fn resources(run: &str) -> &'static Vec<Value> {
    let runs = runs();
    let state = runs.get(run).unwrap_or_else(|| panic!("no run {run:?} among {:?}", runs.keys()));
    state["root_module"]["resources"].as_array().expect("resources")
}

fn resource(run: &str, address: &str) -> &'static Value {
    let found = resources(run).iter().find(|resource| resource["address"] == address);
    &found.unwrap_or_else(|| panic!("no {address} in {run}"))["values"]
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}"))
}

/// `role on target to member` for every grant, and the permissions of every role that the module makes.
fn grants(run: &str) -> String {
    let mut lines = BTreeSet::new();
    for resource in resources(run) {
        let (kind, values) = (text(resource, "type"), &resource["values"]);
        if kind == "google_project_iam_custom_role" {
            for permission in values["permissions"].as_array().unwrap() {
                lines.insert(format!("role {}: {}", text(values, "id"), permission.as_str().unwrap()));
            }
        } else if let Some(target) = kind.strip_suffix("_iam_member") {
            let names =
                ["bucket", "topic", "service_account_id", "crypto_key_id", "table_id", "repository", "name", "project"];
            let name = names.iter().find_map(|name| values[*name].as_str()).expect("a target");
            let target = target.trim_start_matches("google_");
            assert!(
                values["condition"].as_array().is_none_or(Vec::is_empty),
                "a condition, which is not listed: {values}"
            );
            lines.insert(format!("{}: {} on {target} {name}", text(values, "member"), text(values, "role")));
        } else {
            let grants = ["_iam_", "_acl", "_access_control"].iter().any(|part| kind.contains(part));
            let access =
                kind == "google_bigquery_dataset" && values["access"].as_array().is_some_and(|a| !a.is_empty());
            assert!(!grants && !access, "{kind} grants something, and is not listed");
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

fn check_grants(run: &str) {
    let (file, found) = (format!("tests/grants.{run}.txt"), grants(run));
    if env::var_os("UPDATE_FIXTURES").is_some() {
        fs::write(tf().join(&file), &found).unwrap();
    }
    let listed = read(&file);
    let of = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<String>>();
    let (found, listed) = (of(&found), of(&listed));
    let missing: Vec<_> = listed.difference(&found).collect();
    let unlisted: Vec<_> = found.difference(&listed).collect();
    assert!(
        missing.is_empty() && unlisted.is_empty(),
        "not granted: {missing:#?}\nnot listed in {file}: {unlisted:#?}"
    );
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn every_grant_is_listed_and_made() {
    check_grants("minimal");
    check_grants("full");
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn nothing_is_public() {
    for run in ["minimal", "full"] {
        for resource in resources(run) {
            let (address, values) = (text(resource, "address"), &resource["values"]);
            let content = values.to_string();
            assert!(
                !content.contains("allUsers") && !content.contains("allAuthenticatedUsers"),
                "{address}: {content}"
            );
            match text(resource, "type") {
                "google_storage_bucket" => {
                    assert_eq!(values["public_access_prevention"], "enforced", "{address}");
                    assert_eq!(values["uniform_bucket_level_access"], true, "{address}");
                }
                "google_cloud_run_v2_service" => {
                    assert_eq!(values["ingress"], "INGRESS_TRAFFIC_INTERNAL_ONLY", "{address}");
                    assert_ne!(values["invoker_iam_disabled"], true, "{address}");
                }
                _ => {}
            }
        }
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn everything_is_in_the_region() {
    for resource in resources("minimal") {
        for place in ["location", "region"].iter().filter_map(|key| resource["values"][*key].as_str()) {
            assert_eq!(place, "us-central1", "{}", resource["address"]);
        }
    }
}

/// Nothing refers to these, and without them an apply in an empty project fails, or what it makes fails at first.
#[test]
fn what_must_be_there_before_is_waited_for() {
    let waits = [
        ("buckets.tf", "google_storage_bucket", "google_kms_crypto_key_iam_member.storage"),
        ("build.tf", "google_storage_bucket", "google_kms_crypto_key_iam_member.storage"),
        ("topics.tf", "google_pubsub_topic", "google_kms_crypto_key_iam_member.pubsub"),
        ("history.tf", "google_pubsub_subscription", "time_sleep.history"),
        ("eventarc.tf", "google_eventarc_trigger", "time_sleep.eventarc_agent"),
        ("eventarc.tf", "google_eventarc_trigger", "google_service_account_iam_member.pubsub_makes_trigger_tokens"),
        ("eventarc.tf", "google_eventarc_trigger", "google_cloud_run_v2_service_iam_member.trigger_invokes_function"),
        ("function.tf", "google_cloud_run_v2_service", "google_storage_bucket_iam_member.function_keeps_records"),
        ("function.tf", "google_cloud_run_v2_service", "google_service_account_iam_member.function_acts_as_dataproc"),
    ];
    for (file, kind, needed) in waits {
        let body = hcl(file);
        let resources: Vec<&Body> = blocks(&body, "resource", kind).collect();
        assert!(!resources.is_empty(), "no {kind} in {file}");
        for resource in resources {
            let waits = attribute(resource, "depends_on").map(ToString::to_string).unwrap_or_default();
            assert!(waits.contains(needed), "{file}: a {kind} does not wait for {needed}");
        }
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn a_bucket_deletes_what_it_should_and_nothing_else() {
    let rules = [
        (
            "staging",
            json!([
                {"age": 30, "matches_prefix": ["runs/"], "with_state": "LIVE"},
                {"days_since_noncurrent_time": 1, "matches_prefix": ["active/", "dead/", "runs/"], "with_state": "ARCHIVED"},
            ]),
        ),
        ("dataproc", json!([{"age": 30, "matches_prefix": ["google-cloud-dataproc-metainfo/"]}])),
        ("logs", json!([{"age": 30, "matches_storage_class": ["STANDARD"]}])),
        ("build", json!([{"age": 1}])),
    ];
    for (bucket, expected) in rules {
        let mut rules = resource("minimal", &format!("google_storage_bucket.{bucket}"))["lifecycle_rule"].clone();
        let conditions: Vec<Value> = (rules.as_array_mut().unwrap().iter_mut())
            .map(|rule| {
                assert_eq!(rule["action"][0]["type"], "Delete", "{bucket}");
                let mut condition = rule["condition"][0].take();
                let fields = condition.as_object_mut().unwrap();
                // Where a rule leaves the state out, the mock makes one up.
                fields.retain(|name, value| match name.as_str() {
                    "with_state" => value == "LIVE" || value == "ARCHIVED",
                    _ => !value.is_null(),
                });
                condition
            })
            .collect();
        assert_eq!(Value::from(conditions), expected, "{bucket}");
    }
}

fn variables(run: &str) -> BTreeMap<String, String> {
    let service = resource(run, "google_cloud_run_v2_service.function");
    let variables = service["template"][0]["containers"][0]["env"].as_array().unwrap();
    variables.iter().map(|variable| (text(variable, "name").to_owned(), text(variable, "value").to_owned())).collect()
}

fn environment(run: &str) -> Environment {
    let variables = variables(run);
    Environment::from_lookup(|name| variables.get(name).cloned()).unwrap_or_else(|error| panic!("{run}: {error}"))
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_function_gets_every_variable_that_it_reads_and_no_other() {
    let asked = RefCell::new(BTreeSet::new());
    let _ = Environment::from_lookup(|name| {
        asked.borrow_mut().insert(name.to_owned());
        None
    });
    let expected: BTreeSet<String> = asked
        .into_inner()
        .into_iter()
        .filter(|name| !OF_CLOUD_RUN.contains(&name.as_str()) && !OF_EMULATORS.contains(&name.as_str()))
        .collect();
    assert!(expected.len() > 10, "{expected:?}");
    for run in ["minimal", "full"] {
        assert_eq!(variables(run).into_keys().collect::<BTreeSet<_>>(), expected, "{run}");
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_function_understands_its_variables() {
    let environment = environment("minimal");
    let defaults = Environment::from_lookup(|name| {
        let value = match name {
            ENV_PROJECT => "my-project",
            ENV_REGION => "us-central1",
            ENV_STAGING_BUCKET => "my-project-inline-workflow-staging",
            ENV_RESPONSE_TOPIC => "projects/my-project/topics/inline-workflow-responses",
            ENV_TICK_TOPIC => "projects/my-project/topics/inline-workflow-ticks",
            // A cluster that nobody deletes costs money until somebody notices.
            ENV_CLUSTER_IDLE_TTL => "1800",
            ENV_CLUSTER_MAX_TTL => "86400",
            ENV_LOG => "info",
            _ => return None,
        };
        Some(value.to_owned())
    });
    assert_eq!(format!("{environment:?}"), format!("{:?}", defaults.unwrap()));
    assert_eq!(resource("minimal", "google_storage_bucket.staging")["name"], environment.staging_bucket.as_str());
    assert_eq!(
        resource("minimal", "google_storage_bucket_object.cluster_config")["name"],
        environment.config_object.as_str()
    );
    assert_eq!(resource("minimal", "google_pubsub_topic.responses")["id"], environment.response_topic.as_str());
    assert_eq!(resource("minimal", "google_pubsub_topic.ticks")["id"], environment.tick_topic.as_str());

    let environment = self::environment("full");
    assert_eq!(environment.rules, Rules::Warn);
    assert_eq!(environment.allowed_code_prefixes.len(), 2);
    assert_eq!(environment.cluster_max_ttl, None, "0 is none");
}

/// The example request of a run, for `job_name`, put through the function's own way. What it would send.
fn render(run: &str, job_name: &str) -> Value {
    let environment = environment(run);
    let content = text(resource(run, "google_storage_bucket_object.cluster_config"), "content");
    let config = cluster_config::parse(&environment.config_object, 1, content.as_bytes()).expect("a configuration");
    let example = text(&runs()[run]["outputs"]["example_request"], "value");
    let mut example: Value = serde_json::from_str(example).unwrap();
    example["job_name"] = json!(job_name);
    let (request, mut violations) = request::decode(example.to_string().as_bytes());
    let options = template::Options {
        run_id: Uuid::nil(),
        allowed_code_prefixes: environment.allowed_code_prefixes.clone(),
        cluster_idle_ttl: environment.cluster_idle_ttl.map(|ttl| ttl.as_secs()),
        cluster_max_ttl: environment.cluster_max_ttl.map(|ttl| ttl.as_secs()),
    };
    let (rendered, more) = template::render(&request, &config, &options);
    violations.extend(more);
    assert!(violations.is_empty(), "{job_name} in {run}: {violations:#?}");
    let rendered = rendered.expect("a template");
    let base = &rendered.cluster_base_name;
    let message = template::instantiate_request(
        &environment.project,
        &environment.region,
        &rendered.template,
        base,
        Uuid::nil(),
        1,
    );
    template::to_json(&message)["template"].take()
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_function_accepts_the_configuration_and_the_example_request() {
    for (run, names) in [("minimal", vec!["word-count"]), ("full", vec!["another", "word-count", "empty", "camel"])] {
        for name in names {
            let cluster = render(run, name)["placement"]["managedCluster"].take();
            let machines = &cluster["config"]["gceClusterConfig"];
            let account = resource(run, "google_service_account.dataproc");
            match name {
                "camel" => assert_eq!(machines["serviceAccount"], "own@my-project.iam.gserviceaccount.com"),
                _ => assert_eq!(
                    machines["serviceAccount"], account["email"],
                    "only as this one the function may start machines"
                ),
            }
            let bucket = resource(run, "google_storage_bucket.dataproc");
            assert_eq!(cluster["config"]["tempBucket"], bucket["name"], "{name} in {run}");
            // Cluster TTLs are settings of the function, for entries without their own.
            let ttl = match run {
                "minimal" => json!({"idleDeleteTtl": "1800s", "autoDeleteTtl": "86400s"}),
                _ => json!({"idleDeleteTtl": "900s"}),
            };
            assert_eq!(cluster["config"]["lifecycleConfig"], ttl, "{name} in {run}");
        }
    }
}

/// As they are written, without the account and buckets that the module adds.
#[test]
fn the_function_accepts_the_cluster_configs_of_the_examples() {
    let full = hcl("examples/full/main.tf");
    let full = blocks(&full, "module", "inline_workflow").next().expect("the module");
    let tfvars = hcl("terraform.tfvars.example");
    let mut context = Context::new();
    let var = [("project", "my-project"), ("region", "us-central1")];
    context.declare_var("var", hcl::Value::from_iter(var));
    for body in [full, &tfvars] {
        let configs = attribute(body, "cluster_configs").expect("an example").evaluate(&context).unwrap();
        let configs: Value = serde_json::to_value(configs).unwrap();
        let config = cluster_config::parse("example", 1, configs.to_string().as_bytes()).expect("a configuration");
        for job_name in configs.as_object().unwrap().keys() {
            let job = json!({"step_id": "job", "pyspark_job": {"main_python_file_uri": "gs://jobs/job.py"}});
            let (request, faults) =
                request::decode(json!({"job_name": job_name, "jobs": [job]}).to_string().as_bytes());
            let options = template::Options {
                run_id: Uuid::nil(),
                allowed_code_prefixes: Vec::new(),
                cluster_idle_ttl: None,
                cluster_max_ttl: None,
            };
            let (_, violations) = template::render(&request, &config, &options);
            assert!(faults.is_empty() && violations.is_empty(), "{job_name}: {faults:#?} {violations:#?}");
        }
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_example_request_names_files_that_are_uploaded() {
    for run in ["minimal", "full"] {
        let bucket = text(resource(run, "google_storage_bucket.dataproc"), "name");
        let example = text(&runs()[run]["outputs"]["example_request"], "value");
        let uploaded: Vec<String> = resources(run)
            .iter()
            .filter(|resource| text(resource, "address").starts_with("google_storage_bucket_object.samples["))
            .map(|sample| {
                let (name, source) = (text(&sample["values"], "name"), text(&sample["values"], "source"));
                assert!(source.ends_with(&format!("/fixtures/{name}")), "{name} is {source}");
                format!("gs://{}/{name}", text(&sample["values"], "bucket"))
            })
            .collect();
        assert_eq!(uploaded.len(), 3);
        for file in &uploaded {
            assert!(example.contains(&format!("\"{file}\"")), "{file} is in no use: {example}");
        }
        assert_eq!(example.matches(&format!("gs://{bucket}/scripts/")).count(), uploaded.len(), "{example}");
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_examples_make_as_much_as_the_readme_says() {
    let readme = read("README.md");
    for example in ["minimal", "full"] {
        let changes = runs()[&format!("example_{example}")]["resource_changes"].as_array().unwrap();
        let managed: Vec<&Value> = changes.iter().filter(|change| change["mode"] == "managed").collect();
        assert!(managed.iter().all(|change| change["change"]["actions"] == json!(["create"])));
        let line = format!("`examples/{example}`: {} to add, 0 to change, 0 to destroy", managed.len());
        assert!(readme.contains(&line), "tf/README.md does not say: {line}");
    }
}

/// Rows of a table of the README, between a heading and the next one.
fn documented(heading: &str) -> BTreeSet<String> {
    let readme = read("README.md");
    let section = readme.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading}")).1;
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

fn hcl(file: &str) -> Body {
    hcl::parse(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn blocks<'a>(body: &'a Body, kind: &'a str, label: &'a str) -> impl Iterator<Item = &'a Body> {
    let is_it = move |block: &&Block| block.identifier() == kind && block.labels()[0].as_str() == label;
    body.blocks().filter(is_it).map(Block::body)
}

fn attribute<'a>(body: &'a Body, key: &str) -> Option<&'a Expression> {
    Some(&body.attributes().find(|attribute| attribute.key() == key)?.expr)
}

fn keys(object: &Expression) -> Option<BTreeSet<String>> {
    let Expression::Object(entries) = object else { return None };
    Some(entries.keys().map(ToString::to_string).collect())
}

/// Terraform drops what a variable's object has and its type does not.
#[test]
fn the_examples_use_no_option_that_there_is_not() {
    let module = hcl("variables.tf");
    let full = hcl("examples/full/main.tf");
    let full = blocks(&full, "module", "inline_workflow").next().expect("the module");
    let tfvars = hcl("terraform.tfvars.example");
    let mut options = 0;
    for (example, body) in [("examples/full", full), ("terraform.tfvars.example", &tfvars)] {
        for variable in body.attributes().filter(|attribute| attribute.key() != "source") {
            let name = variable.key();
            let declared = blocks(&module, "variable", name).next().unwrap_or_else(|| panic!("{example}: {name}"));
            // object({ ... })
            let Some(Expression::FuncCall(of_type)) = attribute(declared, "type") else { continue };
            let Some(known) = of_type.args.first().and_then(keys) else { continue };
            let used = keys(&variable.expr).unwrap_or_else(|| panic!("{example}: {name} is no object"));
            assert!(used.is_subset(&known), "{example}: {name} has no {:?}", used.difference(&known));
            options += used.len();
        }
    }
    assert!(options > 20, "{options}");
    let given: BTreeSet<&str> =
        full.attributes().map(|attribute| attribute.key()).filter(|key| *key != "source").collect();
    let variables = declared("variables.tf", "variable");
    assert_eq!(given, variables.iter().map(String::as_str).collect(), "examples/full has every option");
}

/// The names of the blocks of a kind in a file.
fn declared(file: &str, kind: &str) -> Vec<String> {
    let start = format!("{kind} \"");
    let text = read(file);
    let names = text.lines().filter_map(|line| line.strip_prefix(&start));
    names.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_readme_names_every_variable_and_output() {
    for (heading, file, kind) in [("Variables", "variables.tf", "variable"), ("Outputs", "outputs.tf", "output")] {
        let names = declared(file, kind);
        assert!(names.len() > 10 && names.is_sorted(), "{names:?}");
        assert_eq!(documented(heading), names.into_iter().collect(), "{heading}");
    }
}

#[test]
fn the_readme_says_of_a_variable_what_its_description_and_defaults_say() {
    let readme = read("README.md");
    for block in hcl("variables.tf").blocks() {
        let (name, body) = (block.labels()[0].as_str(), block.body());
        let start = format!("| `{name}` |");
        let row = readme.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no {name}"));
        let description = attribute(body, "description").expect("one").evaluate(&Context::new()).unwrap();
        let words: Vec<&str> = description.as_str().unwrap().split_whitespace().collect();
        assert!(row.contains(&words.join(" ")), "{name}: {row}");
        let default = attribute(body, "default").map_or("required".to_owned(), |default| format!("`{default}`"));
        assert!(row.contains(&format!("| {default} |")), "{name} is {default}: {row}");
        let Some(Expression::FuncCall(of_type)) = attribute(body, "type") else { continue };
        let Some(Expression::Object(fields)) = of_type.args.first() else { continue };
        for (key, field) in fields {
            let Expression::FuncCall(optional) = field else { panic!("{name}: {field}") };
            if let Some(default) = optional.args.get(1) {
                assert!(row.contains(&format!("`{key} = {default}`")), "{name}: {key} is {default}: {row}");
            }
        }
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_smoke_test_finds_the_outputs_that_it_reads() {
    let program = read("smoke.py");
    let line =
        program.lines().find(|line| line.trim_start().starts_with("names = [\"project\"")).expect("a list of names");
    let names: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 3, "{names:?}");
    for name in names {
        assert!(runs()["minimal"]["outputs"][name]["value"].is_string(), "no output {name}");
    }
}

#[test]
fn the_build_pushes_the_image_that_make_deploys() {
    let (build, makefile) = (read("cloudbuild.yaml"), read("../Makefile"));
    for needed in ["--tag, \"${_IMAGE}\"", "\nimages: [\"${_IMAGE}\"]\n"] {
        assert!(build.contains(needed), "cloudbuild.yaml lacks {needed}");
    }
    assert!(makefile.contains("--substitutions=_IMAGE=$(IMAGE)"), "make image gives no _IMAGE");
}

/// What `terraform console` says of variables: it checks them without a provider.
fn console(arguments: &[String]) -> String {
    let mut command = terraform();
    command.args(["console", "-no-color"]).args(arguments).stdin(std::process::Stdio::null());
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
