//! What Terraform counts and watches is what the function says: each log-based metric of `tf/metrics.tf` is held against
//! the lines of a running function, and each alert of `tf/alerts.tf` against the metrics.

#[path = "../support/module.rs"]
mod module;
#[path = "../support/mod.rs"]
mod support;

mod age;
mod filter;
mod scenario;
mod terraform;

use std::collections::{BTreeMap, BTreeSet};

use filter::{Entry, Filter};
use scenario::Story;
use serde_json::Value;
use terraform::{Alert, Metric, Module};

/// The metrics of Google's own that alerts may refer to, and the kind and type of their values.
/// Sources: https://cloud.google.com/monitoring/api/metrics_gcp_p_z#gcp-pubsub and #gcp-run
const GOOGLES: [(&str, &str, &str); 2] = [
    ("pubsub.googleapis.com/subscription/oldest_unacked_message_age", "GAUGE", "INT64"),
    ("run.googleapis.com/request_count", "DELTA", "INT64"),
];
/// How a series of values may be aligned. Source: https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alertPolicies#Aligner
const ALIGNERS: [(&str, &str, &[&str]); 3] = [
    ("DELTA", "INT64", &["ALIGN_DELTA", "ALIGN_RATE", "ALIGN_SUM"]),
    ("DELTA", "DISTRIBUTION", &["ALIGN_PERCENTILE_99", "ALIGN_PERCENTILE_95", "ALIGN_PERCENTILE_50"]),
    ("GAUGE", "INT64", &["ALIGN_MAX", "ALIGN_MEAN", "ALIGN_MIN"]),
];

/// What a metric counts, as `<job_name> <label>=<value> ...`, or without the job's name where it is about events; and how
/// often.
type Counted = BTreeMap<String, usize>;

/// What each metric must count of the scenario: this and nothing else.
fn expected(story: &Story) -> BTreeMap<&'static str, Counted> {
    let once = |facts: &[&str]| facts.iter().map(|fact| ((*fact).to_owned(), 1)).collect::<Counted>();
    let runs = once(&[
        "succeeds code= state=succeeded",
        "fails code=ABORTED state=failed",
        "is-cancelled code=CANCELLED state=cancelled",
        "bad-entry code=INVALID_ARGUMENT state=rejected",
        "refused code=INVALID_ARGUMENT state=rejected",
        "short-of-quota code= state=succeeded",
        "denied code= state=succeeded",
        "leaves-a-cluster code=ABORTED state=failed",
        "unreadable code=DATA_LOSS state=failed",
    ]);
    let events = &story.events;
    let trigger = |(trigger, count): (&&str, &usize)| (format!("trigger={trigger}"), *count);
    BTreeMap::from([
        ("runs", runs),
        (
            "rejected",
            once(&[
                "bad-request rejected_by=request",
                "bad-cancel rejected_by=request",
                "bad-entry rejected_by=config",
                "bad-entry-to-validate rejected_by=config",
                "refused rejected_by=service",
            ]),
        ),
        ("waiting", once(&["short-of-quota waits_for=capacity", "denied waits_for=retry"])),
        ("oldest_run_age", Counted::from([(String::new(), story.working_ticks)])),
        ("event_latency", events.iter().map(trigger).collect()),
        ("ticks", Counted::from([(String::new(), story.working_ticks)])),
        ("dead_records", once(&["unreadable"])),
        ("clusters_left_behind", once(&["leaves-a-cluster"])),
    ])
}

const ABOUT_EVENTS: [&str; 3] = ["event_latency", "oldest_run_age", "ticks"];

#[tokio::test]
async fn every_metric_counts_what_it_says_in_the_functions_own_log() {
    let module = terraform::read();
    let story = scenario::play(terraform::SERVICE).await;
    let entries: Vec<Entry> = story.lines.iter().map(|line| Entry::of_cloud_run(line, &module.service)).collect();
    let jobs = job_names(&story.lines);
    let expected = expected(&story);
    assert_eq!(
        module.metrics.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        expected.keys().copied().collect::<BTreeSet<_>>(),
        "metrics.tf and this test know the same metrics"
    );
    for (name, metric) in &module.metrics {
        let filter = Filter::parse(&metric.filter);
        let matching: Vec<&Entry> = entries.iter().filter(|entry| filter.matches(entry)).collect();
        let mut counted = Counted::new();
        for entry in &matching {
            let fact = fact(entry, metric, &jobs, ABOUT_EVENTS.contains(&name.as_str()));
            *counted.entry(fact).or_default() += 1;
            if let Some(extractor) = &metric.value_extractor {
                let value = filter::extract(extractor, entry).and_then(Value::as_f64);
                assert!(value.is_some_and(|value| value >= 0.0), "{name}: no value in {entry:?}");
            }
        }
        assert_eq!(counted, expected[name.as_str()], "{name}: {}", metric.filter);
        // An alert on one value of a label is of no use if there is no such value.
        for (alert, watched) in module.watching(metric) {
            for label in &metric.labels {
                if let Some(value) = watched.equal_to(&format!("metric.labels.{label}")) {
                    let seen =
                        counted.keys().any(|fact| fact.split(' ').any(|word| word == format!("{label}={value}")));
                    assert!(seen, "{alert}: {name} never has {label}={value}");
                }
            }
        }
        // Neither of another service nor of another kind of resource.
        for entry in matching {
            let foreign = [("resource.labels.service_name", "other"), ("resource.type", "cloud_run_job")];
            for (path, value) in foreign {
                assert!(!filter.matches(&entry.with(path, value)), "{name} counts {path}={value}");
            }
        }
    }
}

/// What a line tells, as the metric's labels have it.
fn fact(entry: &Entry, metric: &Metric, jobs: &BTreeMap<String, String>, about_event: bool) -> String {
    let mut words = Vec::new();
    if !about_event {
        let run = entry.get("jsonPayload.run_id").and_then(Value::as_str).expect("a line about a run names it");
        words.push(jobs.get(run).cloned().unwrap_or_else(|| run.to_owned()));
    }
    for (label, extractor) in &metric.label_extractors {
        // Of a field that is not there, a label is empty.
        let value = filter::extract(extractor, entry).and_then(Value::as_str).unwrap_or_default();
        words.push(format!("{label}={value}"));
    }
    words.join(" ")
}

/// Of each run, from the lines that tell it.
fn job_names(lines: &[Value]) -> BTreeMap<String, String> {
    let names = |line: &Value| Some((line["run_id"].as_str()?.to_owned(), line["job_name"].as_str()?.to_owned()));
    lines.iter().filter_map(names).collect()
}

#[test]
fn every_label_of_a_metric_has_an_extractor_and_every_field_its_place() {
    for (name, metric) in terraform::read().metrics {
        let extracted: BTreeSet<&String> = metric.label_extractors.keys().collect();
        assert_eq!(metric.labels.iter().collect::<BTreeSet<_>>(), extracted, "{name}");
        assert_eq!(metric.kind, "DELTA", "{name}");
        let value_type = if metric.value_extractor.is_some() { "DISTRIBUTION" } else { "INT64" };
        assert_eq!(metric.value_type, value_type, "{name}");
    }
}

#[test]
fn every_alert_watches_a_metric_that_there_is() {
    let module = terraform::read();
    assert!(!module.alerts.is_empty());
    for (name, alert) in &module.alerts {
        assert!(!alert.conditions.is_empty(), "{name}");
        assert!(alert.notifies, "{name}: nobody hears of it");
        assert!(
            alert.documentation.contains("function/docs/operations.md, Troubleshooting"),
            "{name}: what is to be done?"
        );
        for condition in &alert.conditions {
            let filter = Filter::parse(&condition.filter);
            let metric_type = filter.equal_to("metric.type").unwrap_or_else(|| panic!("{name}: no metric.type"));
            let (kind, value_type) = match metric_type.strip_prefix(terraform::USER_METRICS) {
                Some(user) => of_module(name, alert, &module, &filter, user),
                None => {
                    let known = GOOGLES.iter().find(|(google, ..)| *google == metric_type);
                    let (_, kind, value_type) = known.unwrap_or_else(|| panic!("{name}: {metric_type} is unknown"));
                    ((*kind).to_owned(), (*value_type).to_owned())
                }
            };
            let (.., aligners) = ALIGNERS.iter().find(|(k, v, _)| *k == kind && *v == value_type).expect("listed");
            assert!(!condition.aligners.is_empty(), "{name}");
            for aligner in &condition.aligners {
                assert!(aligners.contains(&aligner.as_str()), "{name}: {aligner} of a {kind} {value_type}");
            }
            assert!(filter.equal_to("resource.type").is_some(), "{name}: Monitoring wants a resource.type");
        }
    }
}

/// The kind and type of one of the module's own metrics, to which the filter's labels belong.
fn of_module(name: &str, alert: &Alert, module: &Module, filter: &Filter, user: &str) -> (String, String) {
    let (key, metric) = (module.metrics.iter().find(|(_, metric)| metric.name == user))
        .unwrap_or_else(|| panic!("{name}: the module has no metric {user}"));
    for label in filter.paths().filter_map(|path| path.strip_prefix("metric.labels.")) {
        assert!(metric.labels.iter().any(|known| known == label), "{name}: {key} has no label {label}");
    }
    assert_eq!(filter.equal_to("resource.labels.service_name"), Some(terraform::SERVICE), "{name}");
    assert!(alert.waits, "{name}: it must wait until Monitoring knows the metric");
    assert!(module.waited_for.contains(&metric.name), "{name}: nobody waits until Monitoring knows {key}");
    (metric.kind.clone(), metric.value_type.clone())
}

#[test]
fn the_documents_list_every_metric_and_every_alert() {
    let module = terraform::read();
    let readme = format!("\n{}", module::read("tf/README.md"));
    let metrics: Vec<&String> = module.metrics.keys().collect();
    let alerts: Vec<&String> = module.alerts.keys().collect();
    for (title, names) in [("Metrics", metrics), ("Alerts", alerts)] {
        let section = readme.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title}")).1;
        let section = section.split("\n## ").next().unwrap_or_default();
        let mut rows: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        rows.sort_unstable();
        assert_eq!(rows, names, "{title}");
    }
    for (name, alert) in &module.alerts {
        let row = format!("\n| `{name}` | {} |", alert.severity);
        assert!(readme.contains(&row), "tf/README.md does not say: {row}");
    }
    let troubleshooting = module::read("function/docs/operations.md");
    let troubleshooting = troubleshooting.split_once("\n## Troubleshooting\n").expect("there is one").1;
    for name in module.alerts.keys() {
        assert!(troubleshooting.contains(&format!("`{name}`")), "{name} is in no symptom of operations.md");
    }
}
