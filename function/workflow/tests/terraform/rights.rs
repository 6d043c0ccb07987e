//! Who may do what.

use std::{collections::BTreeSet, env, fs};

use crate::{
    module::{path, read},
    resources, text,
};

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
            let condition: String = (values["condition"].as_array().into_iter().flatten())
                .map(|condition| format!(" if {} ({})", text(condition, "expression"), text(condition, "title")))
                .collect();
            lines.insert(format!("{}: {} on {target} {name}{condition}", text(values, "member"), text(values, "role")));
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
    let (file, found) = (format!("tf/tests/grants.{run}.txt"), grants(run));
    if env::var_os("UPDATE_FIXTURES").is_some() {
        fs::write(path(&file), &found).unwrap();
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
