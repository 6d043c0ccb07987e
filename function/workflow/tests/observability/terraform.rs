//! Metrics and alerts as the module's files have them, with its names filled in.

use std::collections::BTreeMap;

use hcl::{
    Block, Body, Expression, Value,
    eval::{Context, Evaluate, FuncArgs, FuncDef, ParamType},
    value::Map,
};

use crate::{
    filter::Filter,
    module::{attribute, blocks, labelled, parse},
};

/// What the service is called.
pub const SERVICE: &str = "some-workflow";
const REGION: &str = "us-central1";
/// Before the name of a log-based metric, in its type.
pub const USER_METRICS: &str = "logging.googleapis.com/user/";

pub struct Module {
    /// The labels of the service's resource in Logging and Monitoring.
    pub service: BTreeMap<&'static str, &'static str>,
    pub metrics: BTreeMap<String, Metric>,
    pub alerts: BTreeMap<String, Alert>,
    /// The names of the metrics that alerts wait for.
    pub waited_for: Vec<String>,
}

pub struct Metric {
    pub name: String,
    pub filter: String,
    pub kind: String,
    pub value_type: String,
    pub labels: Vec<String>,
    pub label_extractors: BTreeMap<String, String>,
    pub value_extractor: Option<String>,
}

pub struct Alert {
    pub severity: String,
    pub conditions: Vec<Condition>,
    /// Whether it goes to the channels that the operator names.
    pub notifies: bool,
    /// As it is written, nothing filled in.
    pub documentation: String,
    /// Whether it waits until Monitoring knows the metrics.
    pub waits: bool,
}

/// What a condition watches: its own filter, or that of its denominator.
pub struct Condition {
    pub filter: String,
    pub aligners: Vec<String>,
}

impl Module {
    /// The alerts on a metric, each with the filter of its condition.
    pub fn watching(&self, metric: &Metric) -> Vec<(&String, Filter)> {
        let conditions = self.alerts.iter().flat_map(|(name, alert)| alert.conditions.iter().map(move |of| (name, of)));
        let filters = conditions.map(|(name, condition)| (name, Filter::parse(&condition.filter)));
        let metric_type = format!("{USER_METRICS}{}", metric.name);
        filters.filter(|(_, filter)| filter.equal_to("metric.type") == Some(&metric_type)).collect()
    }
}

/// Reads `tf/metrics.tf` and `tf/alerts.tf`.
pub fn read() -> Module {
    let (metrics, alerts) = (parse("metrics.tf"), parse("alerts.tf"));
    let mut module = Surroundings::new();
    module.locals(&metrics);
    module.locals(&alerts);
    let read: BTreeMap<String, Metric> =
        resources(&metrics, "google_logging_metric").map(|(key, body)| (key, metric(body, &module))).collect();
    let names = read.iter().map(|(key, metric)| (key.clone(), object([("name", Value::from(metric.name.as_str()))])));
    module.context.declare_var("google_logging_metric", Value::Object(names.collect()));
    let waits = resources(&alerts, "time_sleep").map(|(_, body)| module.strings(body, "triggers"));
    Module {
        service: BTreeMap::from([("service_name", SERVICE), ("location", REGION)]),
        waited_for: waits.flat_map(BTreeMap::into_values).collect(),
        alerts: resources(&alerts, "google_monitoring_alert_policy")
            .map(|(key, body)| (key, alert(body, &module)))
            .collect(),
        metrics: read,
    }
}

fn metric(body: &Body, module: &Surroundings) -> Metric {
    let descriptor = child(body, "metric_descriptor").expect("a metric_descriptor");
    Metric {
        name: module.string(body, "name").expect("a name"),
        filter: module.string(body, "filter").expect("a filter"),
        kind: module.string(descriptor, "metric_kind").expect("a kind"),
        value_type: module.string(descriptor, "value_type").expect("a type"),
        labels: children(descriptor, "labels").map(|label| module.string(label, "key").expect("a key")).collect(),
        label_extractors: module.strings(body, "label_extractors"),
        value_extractor: module.string(body, "value_extractor"),
    }
}

fn alert(body: &Body, module: &Surroundings) -> Alert {
    let mut conditions = Vec::new();
    for condition in children(body, "conditions") {
        for (kind, filter, aggregations) in [
            ("condition_threshold", "filter", "aggregations"),
            ("condition_threshold", "denominator_filter", "denominator_aggregations"),
            ("condition_absent", "filter", "aggregations"),
        ] {
            let Some(body) = child(condition, kind) else { continue };
            if let Some(filter) = module.string(body, filter) {
                let aligner = |body| module.string(body, "per_series_aligner").expect("an aligner");
                conditions.push(Condition { filter, aligners: children(body, aggregations).map(aligner).collect() });
            }
        }
    }
    let written = |body, key| attribute(body, key).map(ToString::to_string).unwrap_or_default();
    Alert {
        severity: module.string(body, "severity").expect("a severity"),
        conditions,
        notifies: written(body, "notification_channels") == "var.notification_channels",
        documentation: child(body, "documentation").map(|body| written(body, "content")).unwrap_or_default(),
        waits: written(body, "depends_on").contains("time_sleep.metrics"),
    }
}

/// What the files refer to and do not define.
struct Surroundings {
    context: Context<'static>,
    locals: Map<String, Value>,
}

impl Surroundings {
    fn new() -> Surroundings {
        let mut context = Context::new();
        let alerts = object([("error_ratio", 0.1.into()), ("oldest_run_seconds", 28_800.into())]);
        context.declare_var("var", object([("alerts", alerts), ("prefix", SERVICE.into()), ("region", REGION.into())]));
        let subscription = object([("subscription", "projects/p/subscriptions/eventarc-requests-sub-1".into())]);
        let pubsub = object([("pubsub", Value::Array(vec![subscription]))]);
        let requests = object([("transport", Value::Array(vec![pubsub]))]);
        context.declare_var("google_eventarc_trigger", object([("topics", object([("requests", requests)]))]));
        context.declare_func("basename", FuncDef::builder().param(ParamType::String).build(basename));
        Surroundings { context, locals: Map::new() }
    }

    fn locals(&mut self, body: &Body) {
        for block in blocks(body, "locals") {
            for attribute in block.body().attributes() {
                self.locals.insert(attribute.key().to_owned(), self.value(attribute.key(), &attribute.expr));
            }
        }
        self.context.declare_var("local", Value::Object(self.locals.clone()));
    }

    fn value(&self, key: &str, expression: &Expression) -> Value {
        let value = expression.evaluate(&self.context);
        value.unwrap_or_else(|error| panic!("{key} = {expression}: {error}"))
    }

    fn string(&self, body: &Body, key: &str) -> Option<String> {
        let value = self.value(key, attribute(body, key)?);
        Some(value.as_str().unwrap_or_else(|| panic!("{key} is no string: {value}")).to_owned())
    }

    fn strings(&self, body: &Body, key: &str) -> BTreeMap<String, String> {
        let Some(expression) = attribute(body, key) else { return BTreeMap::new() };
        let Value::Object(entries) = self.value(key, expression) else { panic!("{key} is no object") };
        let text = |value: Value| value.as_str().expect("a string").to_owned();
        entries.into_iter().map(|(key, value)| (key, text(value))).collect()
    }
}

fn basename(args: FuncArgs) -> Result<Value, String> {
    let path = args[0].as_str().unwrap_or_default();
    Ok(Value::from(path.rsplit('/').next().unwrap_or_default()))
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn resources<'a>(body: &'a Body, kind: &'a str) -> impl Iterator<Item = (String, &'a Body)> {
    labelled(body, "resource", kind).map(|block| (block.labels()[1].as_str().to_owned(), block.body()))
}

fn children<'a>(body: &'a Body, name: &'a str) -> impl Iterator<Item = &'a Body> {
    blocks(body, name).map(Block::body)
}

fn child<'a>(body: &'a Body, name: &'a str) -> Option<&'a Body> {
    children(body, name).next()
}
