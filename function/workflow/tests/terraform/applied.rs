//! What is applied, from an empty state: by the real Terraform, with providers that make nothing but plan and refuse as the
//! real ones do. Values that an API rewrites, replacements and leftovers show nowhere else.
//!
//! `TF_CLI_CONFIG_FILE` must name such providers, for with real ones this would make real things.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    module::{path, read},
    text,
};

const PROJECT: [&str; 2] = ["-var=project=my-project", "-var=region=us-central1"];
const IMAGE: &str = "-var=image=us-central1-docker.pkg.dev/my-project/inline-workflow/function:0.1.0";
const ANOTHER: &str = "-var=image=us-central1-docker.pkg.dev/my-project/inline-workflow/function:0.2.0";
const FORCE: &str = "-var=force_destroy=true";
/// What every plan of the function's own changes touches, and nothing else.
const SERVICE: &str = "google_cloud_run_v2_service.function[0]";

/// Stand-ins are scripts, and the real providers are programs: only with the former is anything applied.
fn check_providers() {
    let file = env::var("TF_CLI_CONFIG_FILE").expect("TF_CLI_CONFIG_FILE names providers that make nothing");
    let config = hcl::parse(&fs::read_to_string(&file).expect("a file")).expect("Terraform's configuration");
    let installation = config.blocks().find(|block| block.identifier() == "provider_installation");
    let body = installation.expect("provider_installation").body();
    assert!(
        body.blocks().all(|block| block.identifier() == "filesystem_mirror") && body.blocks().count() == 1,
        "{file} must have a filesystem_mirror and nothing else: with real providers this would make real things"
    );
    let mirror = body.blocks().next().unwrap().body().attributes().find(|attribute| attribute.key() == "path");
    let hcl::Expression::String(mirror) = &mirror.expect("a path").expr else {
        panic!("{file}: the path is no string")
    };
    let mut providers = Vec::new();
    find(Path::new(mirror), "terraform-provider-google", &mut providers);
    assert!(!providers.is_empty(), "no provider under {mirror}");
    for provider in providers {
        let content = fs::read(&provider).unwrap();
        assert!(content.starts_with(b"#!"), "{} is a real provider, which makes real things", provider.display());
    }
}

fn find(folder: &Path, start: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => find(&entry.path(), start, found),
            false if entry.file_name().to_string_lossy().starts_with(start) => found.push(entry.path()),
            false => {}
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        // What was initialised or applied there is not taken along.
        if name.starts_with('.') || name.starts_with("terraform.tfstate") || name == "terraform.tfvars" {
            continue;
        }
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(name)),
            false => drop(fs::copy(entry.path(), to.join(name)).unwrap()),
        }
    }
}

/// A copy of what is deployed from, and a root module in it.
struct Root {
    repository: PathBuf,
    /// Where Terraform is run.
    folder: PathBuf,
}

impl Root {
    /// `provider` is the major version of Google's providers.
    fn new(name: &str, folder: &str, provider: u8) -> Root {
        check_providers();
        let repository = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("applied-{name}-{provider}"));
        if repository.exists() {
            fs::remove_dir_all(&repository).unwrap();
        }
        copy(&path("tf"), &repository.join("tf"));
        copy(&path("fixtures/scripts"), &repository.join("fixtures/scripts"));
        fs::copy(path("Makefile"), repository.join("Makefile")).unwrap();
        let one = |name| format!("{name} = {{\nsource = \"hashicorp/{name}\"\nversion = \"~> {provider}.0\"\n}}\n");
        let both = format!("terraform {{\nrequired_providers {{\n{}{}}}\n}}\n", one("google"), one("google-beta"));
        fs::write(repository.join("tf/provider_override.tf"), both).unwrap();
        let root = Root { folder: repository.join(folder), repository };
        if folder != "." {
            let (code, said) = root.terraform(&["init", "-input=false"], &[]);
            assert_eq!(code, 0, "{said}");
            assert!(said.contains(&format!("Installed hashicorp/google v{provider}.")), "{said}");
        }
        root
    }

    fn terraform(&self, command: &[&str], variables: &[&str]) -> (i32, String) {
        let output = Command::new("terraform")
            .current_dir(&self.folder)
            .args(command)
            .args(variables)
            .stdin(Stdio::null())
            // Should the providers be real ones after all, Google refuses them.
            .env("GOOGLE_OAUTH_ACCESS_TOKEN", "none")
            .output()
            .expect("terraform runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().expect("an end"), said)
    }

    fn apply(&self, variables: &[&str]) {
        let (code, said) = self.terraform(&["apply", "-auto-approve", "-no-color"], variables);
        assert_eq!(code, 0, "{}: {said}", self.folder.display());
    }

    fn assert_settled(&self, variables: &[&str]) {
        let (code, said) = self.terraform(&["plan", "-detailed-exitcode", "-no-color"], variables);
        assert_eq!(code, 0, "{}: {said}", self.folder.display());
    }

    /// What a plan would do, by address: `update`, `create`, `delete`, or both for a replacement.
    fn changes(&self, variables: &[&str]) -> BTreeMap<String, String> {
        let (code, said) = self.terraform(&["plan", "-no-color", "-out=plan"], variables);
        assert_eq!(code, 0, "{said}");
        let (_, said) = self.terraform(&["show", "-json", "plan"], &[]);
        let plan: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        let changes = plan["resource_changes"].as_array().expect("changes").iter();
        let actions = |change: &Value| {
            let words = change["change"]["actions"].as_array().unwrap().iter();
            words.map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        let told = changes.map(|change| (text(change, "address").to_owned(), actions(change)));
        told.filter(|(_, actions)| actions != "no-op" && actions != "read").collect()
    }

    fn addresses(&self) -> BTreeSet<String> {
        let (code, said) = self.terraform(&["state", "list"], &[]);
        if code != 0 {
            assert!(said.contains("No state file was found"), "{said}");
            return BTreeSet::new();
        }
        let resource = |line: &&str| line.contains('.') && !line.starts_with("data.") && !line.contains(".data.");
        said.lines().filter(resource).map(str::to_owned).collect()
    }

    fn destroy(&self, variables: &[&str]) {
        let (code, said) = self.terraform(&["destroy", "-auto-approve", "-no-color"], variables);
        assert_eq!(code, 0, "{said}");
        assert_eq!(self.addresses(), BTreeSet::new(), "left over");
    }

    /// Edits a file of the copy.
    fn replace(&self, file: &str, old: &str, new: &str) {
        let file = self.repository.join(file);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{} has no {old}", file.display());
        fs::write(file, text.replace(old, new)).unwrap();
    }

    /// Runs commands as somebody types them, with a gcloud and a sleep that only note what they are asked for, and says yes to
    /// whatever Terraform asks. How it ended, what was said, and what was noted.
    fn shell(&self, commands: &str) -> (i32, String, String) {
        let (bin, calls) = (self.repository.join("bin"), self.repository.join("calls"));
        fs::create_dir_all(&bin).unwrap();
        fs::write(&calls, "").unwrap();
        for name in ["gcloud", "sleep"] {
            let program = format!("#!/bin/sh\necho \"{name} $*\" >> '{}'\n", calls.display());
            fs::write(bin.join(name), program).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(bin.join(name), mode).unwrap();
        }
        let output = Command::new("bash")
            .args(["-ec", &format!("exec 2>&1 < <(yes yes)\n{commands}")])
            .current_dir(&self.folder)
            .env("PATH", format!("{}:{}", bin.display(), env::var("PATH").unwrap()))
            .env("GOOGLE_OAUTH_ACCESS_TOKEN", "none")
            .env("TF_CLI_ARGS", "-no-color")
            // Of the make that runs this.
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .output()
            .expect("bash runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap_or(-1), said, fs::read_to_string(calls).unwrap())
    }

    fn run(&self, commands: &str) -> (String, String) {
        let (code, said, calls) = self.shell(commands);
        assert_eq!(code, 0, "{commands}: {said}\n{calls}");
        (said, calls)
    }
}

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    PROJECT.into_iter().chain(more.iter().copied()).collect()
}

/// Applied at the first try; nothing to do after that; and another image is the service's alone.
fn check_first_apply(root: &Root, prefix: &str, variables: &[&str]) {
    let image = |image| [variables, &[image]].concat();
    root.apply(&image(IMAGE));
    root.assert_settled(&image(IMAGE));
    let service = BTreeMap::from([(format!("{prefix}{SERVICE}"), "update".to_owned())]);
    assert_eq!(root.changes(&image(ANOTHER)), service);
    root.apply(&image(ANOTHER));
    root.assert_settled(&image(ANOTHER));
}

fn assert_nothing_is_replaced(changes: &BTreeMap<String, String>, least: usize) {
    assert!(changes.len() >= least, "{changes:#?}");
    assert!(changes.values().all(|actions| actions == "update" || actions == "create"), "{changes:#?}");
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_minimal_example_is_applied_changed_and_destroyed() {
    let root = Root::new("minimal", "tf/examples/minimal", 8);
    check_first_apply(&root, "module.inline_workflow.", &PROJECT);
    // Whatever is changed later, nothing is made anew.
    let change = r#"module "inline_workflow" {
        alerts     = { error_ratio = 0.15, unacked_seconds = 60 }
        function   = { cpu = "4", memory = "2Gi", max_instances = 3 }
        history    = {}
        labels     = { team = "data" }
        network    = { network = "clusters", external_ips = true }
        requesters = ["group:jobs@example.com"]
        settings   = { retry_delay = 20, rules = "warn" }
    }"#;
    fs::write(root.folder.join("change_override.tf"), change).unwrap();
    assert_nothing_is_replaced(&root.changes(&with(&[ANOTHER])), 20);
    fs::remove_file(root.folder.join("change_override.tf")).unwrap();

    // The function does not get a configuration that it could write.
    let (file, name, writable) = ("tf/cluster-config.tf", "config/cluster-config.json", "runs/cluster-config.json");
    root.replace(file, name, writable);
    let (code, said) = root.terraform(&["plan", "-no-color"], &with(&[ANOTHER]));
    assert!(code != 0 && said.contains("must not lie in a folder that the function writes"), "{said}");
    root.replace(file, writable, name);

    // Nothing is taken away before it was allowed, not even for another place.
    let before = root.addresses();
    let elsewhere = ["-var=project=my-project", "-var=region=europe-west1", ANOTHER];
    for (command, variables) in [
        // The variable of the destroy itself comes too late for the buckets.
        ("destroy", with(&[ANOTHER, FORCE])),
        ("apply", elsewhere.to_vec()),
    ] {
        let (code, said) = root.terraform(&[command, "-auto-approve", "-no-color"], &variables);
        assert!(code != 0 && said.contains("Nothing was destroyed."), "{command}: {code} {said}");
        assert_eq!(root.addresses(), before, "{command}");
    }
    root.assert_settled(&with(&[ANOTHER]));
    let allowed = with(&[ANOTHER, FORCE]);
    assert_nothing_is_replaced(&root.changes(&allowed), 4);
    root.apply(&allowed);
    root.destroy(&with(&[ANOTHER]));
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_minimal_example_is_applied_with_the_oldest_provider() {
    let root = Root::new("minimal", "tf/examples/minimal", 7);
    check_first_apply(&root, "module.inline_workflow.", &with(&[FORCE]));
    root.destroy(&with(&[IMAGE]));
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_full_example_is_applied_with_the_newest_provider() {
    let root = Root::new("full", "tf/examples/full", 8);
    check_first_apply(&root, "module.inline_workflow.", &PROJECT);
    root.destroy(&with(&[IMAGE]));
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_full_example_is_applied_changed_and_destroyed() {
    let root = Root::new("full", "tf/examples/full", 7);
    check_first_apply(&root, "module.inline_workflow.", &PROJECT);
    let settled = with(&[ANOTHER]);
    let main = "tf/examples/full/main.tf";
    // The end of rows reaches the table that there is, and so does none.
    let address = "module.inline_workflow.google_bigquery_table.history[0]";
    let table = BTreeMap::from([(address.to_owned(), "update".to_owned())]);
    root.replace(main, "expiration_days = 400", "expiration_days = null");
    assert_eq!(root.changes(&settled), table);
    root.replace(main, "expiration_days = null", "expiration_days = 400");
    // Another place leaves the table where it is. A service that is switched on later is waited for, and takes nothing away:
    // not even the key's grants, whose members are not known as long as it is not on.
    root.replace(main, "location = \"US\"", "location = \"EU\"");
    root.replace("tf/apis.tf", "\"compute.googleapis.com\",", "\"compute.googleapis.com\", \"sts.googleapis.com\",");
    let mut changes = root.changes(&settled);
    assert!(changes.remove("module.inline_workflow.time_sleep.apis").is_some(), "{changes:#?}");
    let service = "module.inline_workflow.google_project_service.apis[\"sts.googleapis.com\"]";
    assert_eq!(changes, BTreeMap::from([(service.to_owned(), "create".to_owned())]));
    root.apply(&settled);
    root.assert_settled(&settled);
    root.destroy(&settled);
}

/// Everything that is granted, with what tells a grant from another: Google knows no other difference.
fn grants(root: &Root) -> Vec<(String, String)> {
    let (_, said) = root.terraform(&["show", "-json"], &[]);
    let state: Value = serde_json::from_str(&said).unwrap();
    let mut grants = Vec::new();
    for module in state["values"]["root_module"]["child_modules"].as_array().expect("modules") {
        for resource in module["resources"].as_array().expect("resources") {
            if text(resource, "type").ends_with("_iam_member") {
                let mut values = resource["values"].clone();
                let fields = values.as_object_mut().unwrap();
                fields.retain(|key, _| key != "id" && key != "etag");
                grants.push((format!("{} {values}", text(resource, "type")), text(resource, "address").to_owned()));
            }
        }
    }
    grants
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn one_of_two_deployments_in_a_project_is_destroyed_without_the_other() {
    let root = Root::new("two-deployments", "tf/examples/two-deployments", 8);
    let key = "-var=kms_key=projects/my-project/locations/us-central1/keyRings/data/cryptoKeys/jobs";
    let variables = with(&[IMAGE, key]);
    root.apply(&variables);
    root.assert_settled(&variables);
    // What the one has made is not the other's.
    let grants = grants(&root);
    assert!(grants.len() > 30, "{grants:?}");
    let mut seen = BTreeMap::new();
    for (grant, address) in grants {
        let other = seen.insert(grant, address.clone());
        assert_eq!(
            other, None,
            "{address} is the same grant: destroyed with one deployment, it is taken from the other"
        );
    }
    let before: BTreeSet<String> =
        root.addresses().into_iter().filter(|address| address.starts_with("module.nightly.")).collect();
    let destroy = ["destroy", "-auto-approve", "-no-color", "-target=module.adhoc"];
    let (code, said) = root.terraform(&destroy, &variables);
    assert_eq!(code, 0, "{said}");
    assert_eq!(root.addresses(), before);
    let (code, said) =
        root.terraform(&["plan", "-detailed-exitcode", "-no-color", "-target=module.nightly"], &variables);
    assert_eq!(code, 0, "{said}");
    root.destroy(&variables);
}

/// The commands of a numbered list, as they stand there.
fn commands(file: &str, heading: &str) -> Vec<String> {
    let readme = read(file);
    let section = readme.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading}")).1;
    let section = section.split("\n## ").next().unwrap();
    let steps: Vec<String> = section.split("   ```\n").skip(1).step_by(2).map(str::to_owned).collect();
    assert!(!steps.is_empty(), "{file} has no numbered list of commands in {heading}");
    steps
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_readme_deploys_as_it_says() {
    let root = Root::new("deploy", ".", 8);
    let steps = commands("README.md", "Deploy");
    assert!(steps.len() >= 4, "{steps:#?}");
    let mut calls = String::new();
    for step in &steps {
        calls += &root.run(step).1;
    }
    let first: Vec<&str> =
        calls.lines().filter(|call| call.starts_with("gcloud services") || call.starts_with("sleep")).collect();
    assert_eq!(
        first,
        [
            "gcloud services list --enabled --project=my-project --format=value(config.name)",
            "gcloud services enable cloudresourcemanager.googleapis.com serviceusage.googleapis.com --project=my-project",
            "sleep 120",
        ],
        "the services that Terraform itself needs are switched on, and waited for"
    );
    let module = Root { folder: root.repository.join("tf"), repository: root.repository.clone() };
    let image = module.terraform(&["output", "-raw", "image"], &[]).1;
    let tag = image.strip_prefix("us-central1-docker.pkg.dev/my-project/inline-workflow/function:").expect("the image");
    assert!(tag.len() == 15 && tag.chars().all(|c| c.is_ascii_digit() || c == '-'), "{image}");
    let built = format!(
        "gcloud builds submit . --config=tf/cloudbuild.yaml --substitutions=_IMAGE={image} --project=my-project --region=global \
         --service-account=projects/my-project/serviceAccounts/inline-workflow-build@my-project.iam.gserviceaccount.com \
         --gcs-source-staging-dir=gs://my-project-inline-workflow-build/source"
    );
    assert!(calls.contains(&built), "{calls}");
    assert!(
        calls.contains("gcloud pubsub topics publish inline-workflow-requests --project=my-project --message={"),
        "{calls}"
    );
    let variables = |image: &'static str| with(&["-var=prefix=inline-workflow", image]);
    let deployed = format!("-var=image={image}");
    let settled = [PROJECT.as_slice(), &["-var=prefix=inline-workflow", &deployed]].concat();
    module.assert_settled(&settled);
    let service = BTreeMap::from([(SERVICE.to_owned(), "update".to_owned())]);
    assert_eq!(module.changes(&variables(ANOTHER)), service);

    // A second time: the running service is not touched until there is another image.
    let make = |target: &str| format!("make {target} PROJECT=my-project REGION=us-central1 TF_FLAGS=-auto-approve");
    let (said, _) = root.run(&make("deploy"));
    let ends: Vec<&str> = said.lines().filter(|line| line.starts_with("Apply complete!")).collect();
    assert_eq!(
        ends,
        [
            "Apply complete! Resources: 0 added, 0 changed, 0 destroyed.",
            "Apply complete! Resources: 0 added, 1 changed, 0 destroyed.",
        ]
    );
    let image = module.terraform(&["output", "-raw", "image"], &[]).1;
    let (said, calls) = root.run(&make("apply"));
    assert!(said.contains("Resources: 0 added, 0 changed, 0 destroyed") && calls.is_empty(), "{said}\n{calls}");
    assert_eq!(module.terraform(&["output", "-raw", "image"], &[]).1, image);

    // History that was switched on by a flag alone is destroyed like the rest.
    root.run("make apply PROJECT=my-project REGION=us-central1 TF_FLAGS='-auto-approve -var=history={}'");
    assert!(module.addresses().contains("google_bigquery_table.history[0]"));
    let (said, _) = root.run(&make("destroy"));
    // Before the table is destroyed its protection is taken off.
    let freed = said.find("google_bigquery_table.history[0]: Modifications complete").expect("freed");
    let gone = said.find("google_bigquery_table.history[0]: Destruction complete").expect("destroyed");
    assert!(freed < gone && module.addresses().is_empty(), "{said}");
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn make_destroy_takes_away_what_was_half_made() {
    let root = Root::new("half-made", "tf", 8);
    root.apply(&with(&["-var=image=", "-target=google_storage_bucket_object.cluster_config"]));
    let make = Root { folder: root.repository.clone(), repository: root.repository.clone() };
    make.run("make destroy PROJECT=my-project REGION=us-central1 TF_FLAGS=-auto-approve");
    assert_eq!(root.addresses(), BTreeSet::new());
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn make_deploy_begins_with_what_it_needs() {
    let root = Root::new("needs", ".", 8);
    for (given, missing) in [("REGION=europe-west1", "PROJECT"), ("PROJECT=my-project", "REGION")] {
        let (code, said, calls) = root.shell(&format!("make deploy {given}"));
        assert!(code != 0 && said.contains(&format!("{missing} is needed")) && calls.is_empty(), "{said}\n{calls}");
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_root_module_of_the_readme_is_applied_as_it_says() {
    let readme = read("tf/README.md");
    let snippet = readme.split("```hcl\n").nth(1).expect("a root module").split("```").next().unwrap();
    let example = read("tf/examples/two-steps/main.tf");
    let (comment, example) = example.split_once("\n\n").expect("a comment");
    assert!(comment.starts_with("# The root module of tf/README.md"));
    assert_eq!(snippet.replace("\"./inline-workflow/tf\"", "\"../..\""), example, "tf/examples/two-steps");

    // Beside it, the repository: as the list of commands has it.
    let root = Root::new("two-steps", ".", 8);
    let folder = root.repository.with_extension("root");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    fs::rename(&root.repository, folder.join("inline-workflow")).unwrap();
    fs::write(folder.join("main.tf"), snippet).unwrap();
    let root = Root { folder: folder.clone(), repository: folder };
    let steps = commands("tf/README.md", "A root module of your own");
    let calls: String = steps.iter().map(|step| root.run(step).1).collect();
    assert!(calls.contains("gcloud builds submit . "), "{calls}");
    root.assert_settled(&[IMAGE]);
    assert!(root.addresses().contains(&format!("module.inline_workflow.{SERVICE}")));
    assert_eq!(root.changes(&[ANOTHER]).len(), 1);
    for step in commands("tf/README.md", "Destroying it") {
        root.run(&step);
    }
    assert_eq!(root.addresses(), BTreeSet::new());
}
