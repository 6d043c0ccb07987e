//! The Terraform module in `tf/` against the function that it deploys: as `terraform test` plans and applies it with mocked
//! providers, and as it is written.
//!
//! `make test-tf`; what is ignored needs `terraform`, and `tf/` initialised. `UPDATE_FIXTURES=1` rewrites
//! `tf/tests/grants.*.txt`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../support/module.rs"]
mod module;

mod applied;
mod function;
mod made;
mod rights;
mod variables;
mod written;

use std::{collections::BTreeMap, process::Command, sync::OnceLock};

use module::path;
use serde_json::Value;

fn terraform() -> Command {
    let mut command = Command::new("terraform");
    command.arg(format!("-chdir={}", path("tf").display()));
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
