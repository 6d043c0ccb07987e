//! The operator's configuration: one JSON object with a managed cluster for each job_name, and one for all others.

use crate::json::{self, Value};
use crate::violation::{Document, Fault, Violation, excerpt};

/// The entry for every job_name that has none of its own.
pub const DEFAULT_ENTRY: &str = "default_cluster_config";

/// In bytes; a request has at most as many.
pub const LARGEST: usize = 10 * 1024 * 1024;

/// The configuration as it stood in the bucket. Its entries are decoded one by one, when a request needs them, so that
/// a broken one harms no other job.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The object's name in the bucket, for whoever has to mend it.
    pub object: String,
    /// The object's generation.
    pub generation: i64,
    /// By their names, repeated ones included.
    entries: Vec<(String, Value)>,
}

/// The managed cluster that a request gets.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its key in the configuration, and the beginning of the paths of its faults.
    pub name: &'a str,
    /// What stands there; an object if the operator made no mistake.
    pub value: &'a Value,
}

impl Entry<'_> {
    /// Whether `config` is given, be it readable or not; an entry that is no object has other faults.
    pub fn has_config(&self) -> bool {
        match self.value {
            Value::Object(members) => members.iter().any(|(key, value)| key == "config" && *value != Value::Null),
            _ => true,
        }
    }
}

/// Reads the configuration's text. It is cached by the caller, by generation.
///
/// # Errors
///
/// The text is not UTF-8, not JSON, or no object.
pub fn parse(object: &str, generation: i64, bytes: &[u8]) -> Result<ClusterConfig, Violation> {
    match json::parse(bytes) {
        Ok(Value::Object(mut entries)) => {
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            Ok(ClusterConfig { object: object.into(), generation, entries })
        }
        Ok(other) => Err(fault(object, "", other.mismatch("an object"))),
        Err(error) => Err(fault(object, "", error.reason())),
    }
}

/// What is wrong with a configuration of `size` bytes, more than [`LARGEST`].
pub fn too_large(object: &str, size: usize) -> Violation {
    fault(object, "", format!("the configuration has {size} bytes, the limit is {LARGEST}"))
}

impl ClusterConfig {
    /// In the place of one that cannot be read: a default entry that says nothing.
    pub fn stand_in() -> Self {
        let nothing = Value::Object(vec![("config".into(), Value::Object(Vec::new()))]);
        Self { object: String::new(), generation: 0, entries: vec![(DEFAULT_ENTRY.into(), nothing)] }
    }

    /// The entry `job_name`, else [`DEFAULT_ENTRY`], which is also that of a request without a job_name. Names are
    /// compared as they are: no trimming, no case folding.
    ///
    /// # Errors
    ///
    /// There is neither, or the one that counts is there twice.
    pub fn entry(&self, job_name: Option<&str>) -> Result<Entry<'_>, Violation> {
        let mut names = job_name.into_iter().chain([DEFAULT_ENTRY]);
        let Some(name) = names.find(|name| self.named(name).next().is_some()) else {
            let reason = match job_name.map(excerpt) {
                Some(job_name) => format!("no configuration: there is neither {job_name:?} nor {DEFAULT_ENTRY:?}"),
                None => format!("no configuration: there is no {DEFAULT_ENTRY:?}"),
            };
            return Err(self.fault(DEFAULT_ENTRY, reason));
        };
        let mut found = self.named(name);
        match (found.next(), found.next()) {
            (Some((name, value)), None) => Ok(Entry { name, value }),
            _ => Err(self.fault(name, "repeated key".into())),
        }
    }

    fn named<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a (String, Value)> {
        let first = self.entries.partition_point(|(key, _)| key.as_str() < name);
        self.entries[first..].iter().take_while(move |(key, _)| key == name)
    }

    fn fault(&self, path: &str, reason: String) -> Violation {
        fault(&self.object, &excerpt(path), reason)
    }
}

fn fault(object: &str, path: &str, reason: String) -> Violation {
    let reason = format!("{reason} ({object})");
    Violation { document: Document::Config, path: path.into(), reason, fault: Fault::Decoding }
}
