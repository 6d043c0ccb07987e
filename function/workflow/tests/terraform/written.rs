//! What the module's files say: of each other, of the README, of the Makefile.

use std::collections::{BTreeMap, BTreeSet};

use hcl::{
    Block, Body, Expression,
    eval::{Context, Evaluate},
};

use crate::{
    module::{attribute, labelled, parse, read},
    resource, terraform,
};

/// Nothing refers to these, and without them an apply in an empty project fails, or what it makes fails at first.
#[test]
fn what_must_be_there_before_is_waited_for() {
    let waits = [
        ("buckets.tf", "google_storage_bucket", "time_sleep.kms"),
        ("build.tf", "google_storage_bucket", "time_sleep.kms"),
        ("topics.tf", "google_pubsub_topic", "time_sleep.kms"),
        ("history.tf", "google_pubsub_subscription", "time_sleep.history"),
        ("eventarc.tf", "google_eventarc_trigger", "time_sleep.eventarc"),
        ("eventarc.tf", "google_eventarc_trigger", "google_cloud_run_v2_service_iam_member.trigger_invokes_function"),
        ("function.tf", "google_cloud_run_v2_service", "google_storage_bucket_iam_member.function_keeps_records"),
        ("function.tf", "google_cloud_run_v2_service", "google_storage_bucket_iam_member.function_reads_configuration"),
        ("function.tf", "google_cloud_run_v2_service", "google_service_account_iam_member.function_acts_as_dataproc"),
    ];
    for (file, kind, needed) in waits {
        let body = parse(file);
        let resources: Vec<&Body> = labelled(&body, "resource", kind).map(Block::body).collect();
        assert!(!resources.is_empty(), "no {kind} in {file}");
        for resource in resources {
            let waits = attribute(resource, "depends_on").map(ToString::to_string).unwrap_or_default();
            assert!(waits.contains(needed), "{file}: a {kind} does not wait for {needed}");
        }
    }
}

/// The function may write in these alone, and the module refuses code that lies there.
#[test]
fn the_folders_of_the_runs_are_those_of_the_function() {
    let source = read("function/workflow/src/environment.rs");
    let line = source.lines().find(|line| line.contains("const RUN_FOLDERS")).expect("the function's folders");
    let of_the_function: BTreeSet<&str> =
        line.split('"').skip(1).step_by(2).map(|folder| folder.trim_end_matches('/')).collect();
    let module = read("tf/buckets.tf");
    let line = module.lines().find(|line| line.contains("run_folders = [")).expect("the module's folders");
    assert_eq!(line.split('"').skip(1).step_by(2).collect::<BTreeSet<&str>>(), of_the_function);
}

/// What each resource of the module needs, directly: `terraform graph` tells it of references and of depends_on alike.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let output = terraform().arg("graph").output().expect("terraform runs");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        let names: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        match (names.as_slice(), line.contains("->")) {
            ([from, to], true) => drop(graph.entry((*from).to_owned()).or_default().insert((*to).to_owned())),
            ([name, ..], false) if line.contains("[label=") => drop(graph.entry((*name).to_owned()).or_default()),
            _ => {}
        }
    }
    assert!(graph.len() > 60, "{text}");
    graph
}

/// All that a resource waits for.
fn before(graph: &BTreeMap<String, BTreeSet<String>>, name: &str) -> BTreeSet<String> {
    let (mut found, mut waiting) = (BTreeSet::new(), vec![name.to_owned()]);
    while let Some(name) = waiting.pop() {
        waiting.extend(graph[&name].iter().filter(|needed| found.insert((*needed).clone())).cloned());
    }
    found
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn nothing_of_googles_is_made_before_its_service_answers() {
    let graph = graph();
    for name in graph.keys() {
        let service = match name.as_str() {
            "google_project_service.apis" | "google_project_service.bigquery" => continue,
            "time_sleep.apis" => "google_project_service.apis",
            "time_sleep.bigquery" => "google_project_service.bigquery",
            name if name.starts_with("google_bigquery_") && !name.contains("_iam_") => "time_sleep.bigquery",
            _ => "time_sleep.apis",
        };
        assert!(before(&graph, name).contains(service), "{name} does not wait for {service}");
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn grants_that_take_time_are_waited_for_by_what_needs_them() {
    let graph = graph();
    let waits = [
        ("time_sleep.kms", vec!["google_kms_crypto_key_iam_member.pubsub", "google_kms_crypto_key_iam_member.storage"]),
        (
            "time_sleep.eventarc",
            vec![
                "google_project_iam_member.eventarc_agent",
                "google_project_iam_member.trigger_receives_events",
                "google_service_account_iam_member.pubsub_makes_trigger_tokens",
            ],
        ),
        (
            "time_sleep.build",
            vec![
                "google_artifact_registry_repository_iam_member.build_pushes_images",
                "google_project_iam_member.build_logs",
                "google_storage_bucket_iam_member.build_reads_sources",
            ],
        ),
        ("time_sleep.history", vec!["google_bigquery_table_iam_member.pubsub_writes_history"]),
    ];
    for (wait, grants) in waits {
        let before = before(&graph, wait);
        for grant in grants {
            assert!(before.contains(grant), "{wait} does not wait for {grant}");
        }
    }
    // As long as Google says that each may take.
    assert_eq!(resource("full", "time_sleep.apis")["create_duration"], "120s");
    assert_eq!(resource("full", "time_sleep.bigquery[0]")["create_duration"], "120s");
    assert_eq!(resource("full", "time_sleep.metrics")["create_duration"], "660s");
    for wait in ["time_sleep.build", "time_sleep.eventarc", "time_sleep.history[0]", "time_sleep.kms[0]"] {
        assert_eq!(resource("full", wait)["create_duration"], "420s", "{wait}");
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn a_destroy_is_stopped_before_anything_else_goes() {
    let graph = graph();
    let before = before(&graph, "terraform_data.destroy");
    for name in graph.keys().filter(|name| *name != "terraform_data.destroy") {
        assert!(before.contains(name), "{name} can be destroyed before it is known whether it may be");
    }
}

fn keys(object: &Expression) -> Option<BTreeSet<String>> {
    let Expression::Object(entries) = object else { return None };
    Some(entries.keys().map(ToString::to_string).collect())
}

/// Terraform drops what a variable's object has and its type does not.
#[test]
fn the_examples_use_no_option_that_there_is_not() {
    let module = parse("variables.tf");
    let full = parse("examples/full/main.tf");
    let full = labelled(&full, "module", "inline_workflow").next().expect("the module").body();
    let tfvars = parse("terraform.tfvars.example");
    let mut options = 0;
    for (example, body) in [("examples/full", full), ("terraform.tfvars.example", &tfvars)] {
        for variable in body.attributes().filter(|attribute| attribute.key() != "source") {
            let name = variable.key();
            let declared = labelled(&module, "variable", name).next().unwrap_or_else(|| panic!("{example}: {name}"));
            let declared = declared.body();
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
pub fn declared(file: &str, kind: &str) -> Vec<String> {
    let start = format!("{kind} \"");
    let text = read(&format!("tf/{file}"));
    let names = text.lines().filter_map(|line| line.strip_prefix(&start));
    names.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

/// Rows of a table of the README, between a heading and the next one.
fn documented(heading: &str) -> BTreeSet<String> {
    let readme = read("tf/README.md");
    let section = readme.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading}")).1;
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
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
    let readme = read("tf/README.md");
    for block in parse("variables.tf").blocks() {
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
fn the_build_pushes_the_image_that_make_deploys() {
    let (build, makefile) = (read("tf/cloudbuild.yaml"), read("Makefile"));
    for needed in ["--tag, \"${_IMAGE}\"", "\nimages: [\"${_IMAGE}\"]\n"] {
        assert!(build.contains(needed), "cloudbuild.yaml lacks {needed}");
    }
    assert!(makefile.contains("--substitutions=_IMAGE=$(IMAGE)"), "make image gives no _IMAGE");
}
