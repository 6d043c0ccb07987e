//! What is made, where, for how long, and how much of it.

use serde_json::{Value, json};

use crate::{module::read, resource, resources, runs, text};

#[test]
#[ignore = "needs terraform: make test-tf"]
fn everything_is_in_the_region() {
    for resource in resources("minimal") {
        for place in ["location", "region"].iter().filter_map(|key| resource["values"][*key].as_str()) {
            assert_eq!(place, "us-central1", "{}", resource["address"]);
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
                {"days_since_custom_time": 30, "matches_prefix": ["runs/"], "send_age_if_zero": false, "with_state": "LIVE"},
                {
                    "days_since_noncurrent_time": 1,
                    "matches_prefix": ["active/", "dead/", "runs/"],
                    "send_age_if_zero": false,
                    "with_state": "ARCHIVED",
                },
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

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_example_request_names_files_that_are_uploaded() {
    for run in ["minimal", "full"] {
        let bucket = text(resource(run, "google_storage_bucket.code"), "name");
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
    let readme = read("tf/README.md");
    for example in ["minimal", "full"] {
        let changes = runs()[&format!("example_{example}")]["resource_changes"].as_array().unwrap();
        let managed: Vec<&Value> = changes.iter().filter(|change| change["mode"] == "managed").collect();
        assert!(managed.iter().all(|change| change["change"]["actions"] == json!(["create"])));
        let line = format!("`examples/{example}`: {} to add, 0 to change, 0 to destroy", managed.len());
        assert!(readme.contains(&line), "tf/README.md does not say: {line}");
    }
}

#[test]
#[ignore = "needs terraform: make test-tf"]
fn the_smoke_test_finds_the_outputs_that_it_reads() {
    let program = read("tf/smoke.py");
    let line =
        program.lines().find(|line| line.trim_start().starts_with("names = [\"project\"")).expect("a list of names");
    let names: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 3, "{names:?}");
    for name in names {
        assert!(runs()["minimal"]["outputs"][name]["value"].is_string(), "no output {name}");
    }
}
