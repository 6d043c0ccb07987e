//! What the function gets: its environment, the cluster configuration, the example request.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use hcl::eval::{Context, Evaluate};
use inline_workflow::{cluster_config, environment::*, request, template};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    module::{attribute, labelled, parse},
    resource, runs, text,
};

/// Cloud Run sets these by itself.
const OF_CLOUD_RUN: [&str; 2] = [ENV_PORT, ENV_SERVICE];
/// And nothing stands in for anything of Google's there.
const OF_EMULATORS: [&str; 4] = [ENV_DATAPROC_EMULATOR, ENV_PUBSUB_EMULATOR, ENV_STORAGE_EMULATOR, ENV_METADATA_SERVER];

fn variables(run: &str) -> BTreeMap<String, String> {
    let service = resource(run, "google_cloud_run_v2_service.function[0]");
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
    assert!(environment.allow_inline_queries);
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
        deployment: inline_workflow::identity::Deployment::new("p", "r", "b"),
        allowed_code_prefixes: environment.allowed_code_prefixes.clone(),
        allow_inline_queries: environment.allow_inline_queries,
        cluster_idle_ttl: environment.cluster_idle_ttl.map(|ttl| ttl.as_secs()),
        cluster_max_ttl: environment.cluster_max_ttl.map(|ttl| ttl.as_secs()),
    };
    let (rendered, more) = template::render(&request, &config, &options);
    violations.extend(more);
    assert!(violations.is_empty(), "{job_name} in {run}: {violations:#?}");
    template::to_json(&rendered.expect("a template").template)
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
    let full = parse("examples/full/main.tf");
    let full = labelled(&full, "module", "inline_workflow").next().expect("the module").body();
    let tfvars = parse("terraform.tfvars.example");
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
                deployment: inline_workflow::identity::Deployment::new("p", "r", "b"),
                allowed_code_prefixes: Vec::new(),
                allow_inline_queries: false,
                cluster_idle_ttl: None,
                cluster_max_ttl: None,
            };
            let (_, violations) = template::render(&request, &config, &options);
            assert!(faults.is_empty() && violations.is_empty(), "{job_name}: {faults:#?} {violations:#?}");
        }
    }
}
