//! As much of Logging's (and Monitoring's) filter language as the module uses, and the log entries that Cloud Run makes
//! of a container's lines.
//! Sources: https://cloud.google.com/logging/docs/view/logging-query-language and
//! https://cloud.google.com/logging/docs/structured-logging#special-payload-fields

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// An entry of Cloud Logging, with the field names of LogEntry.
#[derive(Clone, Debug)]
pub struct Entry(Value);

impl Entry {
    /// What a line of a service's container becomes.
    pub fn of_cloud_run(line: &Value, service: &BTreeMap<&'static str, &'static str>) -> Entry {
        let mut payload = line.as_object().expect("one object a line").clone();
        let mut entry = json!({ "resource": { "type": "cloud_run_revision", "labels": service } });
        for (special, field) in [
            ("severity", "severity"),
            ("time", "timestamp"),
            ("logging.googleapis.com/labels", "labels"),
            ("logging.googleapis.com/trace", "trace"),
            ("logging.googleapis.com/spanId", "spanId"),
            ("logging.googleapis.com/sourceLocation", "sourceLocation"),
            ("logging.googleapis.com/insertId", "insertId"),
            ("httpRequest", "httpRequest"),
        ] {
            if let Some(value) = payload.remove(special) {
                entry[field] = value;
            }
        }
        let (key, payload) = match payload.get("message") {
            Some(message) if payload.len() == 1 => ("textPayload", message.clone()),
            _ => ("jsonPayload", Value::Object(payload)),
        };
        entry[key] = payload;
        Entry(entry)
    }

    /// The value at a path of keys with dots between them.
    pub fn get(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.0, |value, key| value.get(key))
    }

    /// The same with another value at a path.
    pub fn with(&self, path: &str, value: &str) -> Entry {
        let mut entry = self.clone();
        let (parents, last) = path.rsplit_once('.').expect("two keys");
        let parent = parents.split('.').try_fold(&mut entry.0, |value, key| value.get_mut(key)).expect("there is one");
        parent.as_object_mut().unwrap_or(&mut Map::new()).insert(last.to_owned(), Value::from(value));
        entry
    }
}

/// What `EXTRACT(path)` finds.
pub fn extract<'a>(extractor: &str, entry: &'a Entry) -> Option<&'a Value> {
    let path = extractor.strip_prefix("EXTRACT(").and_then(|rest| rest.strip_suffix(')'));
    entry.get(path.unwrap_or_else(|| panic!("not in the subset: {extractor}")))
}

/// Comparisons that must all hold.
#[derive(Debug)]
pub struct Filter(Vec<Comparison>);

#[derive(Debug)]
struct Comparison {
    path: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    /// `:*`
    Present,
    /// `=`, with one value or some in parentheses.
    Equal(Vec<String>),
    /// `>=` with a number.
    AtLeast(f64),
}

impl Filter {
    /// Panics at everything that is not in the subset: a filter that is not understood is not tested.
    pub fn parse(text: &str) -> Filter {
        Filter(split(text, " AND ").into_iter().map(comparison).collect())
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        self.0.iter().all(|Comparison { path, test }| {
            let Some(value) = entry.get(path) else { return false };
            match test {
                Test::Present => true,
                // Comparisons of text do not tell upper from lower case.
                Test::Equal(values) => values.iter().any(|known| known.eq_ignore_ascii_case(&plain(value))),
                Test::AtLeast(least) => value.as_f64().is_some_and(|value| value >= *least),
            }
        })
    }

    /// The only value that the filter lets pass there.
    pub fn equal_to(&self, path: &str) -> Option<&str> {
        self.0.iter().filter(|comparison| comparison.path == path).find_map(|comparison| match &comparison.test {
            Test::Equal(values) if values.len() == 1 => Some(values[0].as_str()),
            _ => None,
        })
    }

    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|comparison| comparison.path.as_str())
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn comparison(text: &str) -> Comparison {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(text.len());
    let (path, rest) = (text[..end].to_owned(), text[end..].trim_start());
    let test = if rest == ":*" {
        Test::Present
    } else if let Some(number) = rest.strip_prefix(">=") {
        Test::AtLeast(number.parse().unwrap_or_else(|_| panic!("not in the subset: {text}")))
    } else if let Some(list) = rest.strip_prefix("=(").and_then(|list| list.strip_suffix(')')) {
        Test::Equal(split(list, " OR ").into_iter().map(value).collect())
    } else if let Some(one) = rest.strip_prefix('=') {
        Test::Equal(vec![value(one)])
    } else {
        panic!("not in the subset: {text}");
    };
    Comparison { path, test }
}

/// A word, or a text in quotes without escapes.
fn value(text: &str) -> String {
    let word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(quoted) if !quoted.contains(['"', '\\']) => quoted.to_owned(),
        None if !text.is_empty() && word(text) => text.to_owned(),
        _ => panic!("not in the subset: {text}"),
    }
}

/// Splits where the separator stands outside of quotes.
fn split<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let quoted_before = |end: usize| text[..end].matches('"').count() % 2 == 1;
    let mut parts = Vec::new();
    let mut begin = 0;
    for (at, _) in text.match_indices(separator).filter(|(at, _)| !quoted_before(*at)) {
        parts.push(&text[begin..at]);
        begin = at + separator.len();
    }
    parts.push(&text[begin..]);
    parts
}

#[test]
fn a_filter_means_what_it_says() {
    let line =
        json!({ "severity": "ERROR", "message": "lost AND found", "target": "t", "count": 3, "state": "Failed" });
    let entry = Entry::of_cloud_run(&line, &BTreeMap::from([("service_name", "s")]));
    for (filter, matches) in [
        ("severity=ERROR AND jsonPayload.message=\"lost AND found\"", true),
        ("severity=ERROR AND jsonPayload.message=\"lost\"", false),
        ("resource.labels.service_name=\"s\" AND jsonPayload.state=(\"succeeded\" OR \"failed\")", true),
        ("jsonPayload.state=(\"succeeded\" OR \"cancelled\")", false),
        ("jsonPayload.count:*", true),
        ("jsonPayload.severity:*", false),
        ("jsonPayload.count>=3", true),
        ("jsonPayload.count>=4", false),
    ] {
        assert_eq!(Filter::parse(filter).matches(&entry), matches, "{filter}");
    }
    for outside in ["jsonPayload.a=~\"x\"", "NOT severity=ERROR", "severity>WARNING", "a=\"b", "a=b c"] {
        let parsed = std::panic::catch_unwind(|| Filter::parse(outside));
        assert!(parsed.is_err(), "{outside}");
    }
    let only_text = Entry::of_cloud_run(&json!({ "severity": "INFO", "message": "m" }), &BTreeMap::new());
    assert!(only_text.get("jsonPayload").is_none() && only_text.get("textPayload").is_some());
}
