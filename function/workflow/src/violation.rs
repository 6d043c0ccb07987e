//! What is wrong with a document, and where.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::json;

/// The document in which a fault lies: the sender's, or the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Document {
    Request,
    Config,
}

/// What kind of fault it is, the gravest first. `RULES=warn` lets broken rules pass, never the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The text does not say which message to send.
    Decoding,
    /// The message is clear, and the operator does not allow it (ALLOWED_CODE_PREFIXES).
    Forbidden,
    /// The message is clear, and the service is known to refuse it.
    Rule,
}

impl Fault {
    /// Whether `RULES=warn` lets it pass.
    pub fn can_be_waived(self) -> bool {
        match self {
            Self::Rule => true,
            Self::Decoding | Self::Forbidden => false,
        }
    }
}

/// One fault. `path` is the place in the author's own document, `jobs[2].pyspark_job.args`;
/// empty for the document as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Violation {
    pub document: Document,
    pub path: String,
    pub reason: String,
    /// Decides whether the request goes on; not part of what the sender sees.
    #[serde(skip, default = "rule")]
    pub fault: Fault,
}

impl Violation {
    /// What the text cannot mean.
    pub fn decoding(document: Document, path: impl Into<String>, reason: impl Into<String>) -> Violation {
        Violation { document, path: path.into(), reason: reason.into(), fault: Fault::Decoding }
    }
}

/// A violation that was kept (as a warning of a run) was a rule's.
fn rule() -> Fault {
    Fault::Rule
}

/// How many violations of one document are kept. An event shows fewer; a hostile document could have a million.
pub const MAX_VIOLATIONS: usize = 1_000;

/// How many violations an event shows.
pub const SHOWN_VIOLATIONS: usize = 100;

/// Gathers the violations of one document, and knows the place at which its reader stands.
pub struct Faults {
    document: Document,
    path: String,
    kept: Vec<Violation>,
    /// How many more there were, and the gravest of them.
    unlisted: usize,
    gravest: Option<Fault>,
}

impl Faults {
    /// Begins at `path`, which is empty for the document itself.
    pub fn new(document: Document, path: &str) -> Self {
        Self { document, path: path.into(), kept: Vec::new(), unlisted: 0, gravest: None }
    }

    /// Reads the member `key` of the object at this place.
    pub fn member<R>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> R) -> R {
        self.step(|path| json::push_key(path, key), read)
    }

    /// Reads the entry `key` of the map at this place.
    pub fn entry<R>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> R) -> R {
        self.step(|path| json::push_map_key(path, key), read)
    }

    /// Reads the element `index` of the list at this place.
    pub fn element<R>(&mut self, index: usize, read: impl FnOnce(&mut Self) -> R) -> R {
        self.step(|path| json::push_index(path, index), read)
    }

    fn step<R>(&mut self, push: impl FnOnce(&mut String), read: impl FnOnce(&mut Self) -> R) -> R {
        let here = self.path.len();
        push(&mut self.path);
        let result = read(self);
        self.path.truncate(here);
        result
    }

    pub fn decoding(&mut self, reason: impl Into<String>) {
        self.add(Fault::Decoding, reason.into());
    }

    pub fn rule(&mut self, reason: impl Into<String>) {
        self.add(Fault::Rule, reason.into());
    }

    pub fn forbidden(&mut self, reason: impl Into<String>) {
        self.add(Fault::Forbidden, reason.into());
    }

    /// Reports a second key of the field `name`: at that key, or, of two spellings, at the one that is not its name.
    pub fn repetition(&mut self, key: &str, first: &str, name: &str) {
        let (odd, other) = if first == name { (key, first) } else { (first, key) };
        let reason =
            if odd == other { "repeated key".into() } else { format!("the same field as {other}, which is given too") };
        self.member(odd, |faults| faults.decoding(reason));
    }

    fn add(&mut self, fault: Fault, reason: String) {
        if self.kept.len() < MAX_VIOLATIONS {
            self.kept.push(Violation { document: self.document, path: self.path.clone(), reason, fault });
            return;
        }
        self.unlisted += 1;
        self.gravest = Some(self.gravest.map_or(fault, |gravest| gravest.min(fault)));
    }

    /// How many faults there are so far.
    pub fn count(&self) -> usize {
        self.kept.len() + self.unlisted
    }

    /// Whether there are more than anyone reads, so that further reasons need no care.
    pub fn are_many(&self) -> bool {
        self.kept.len() >= SHOWN_VIOLATIONS
    }

    /// All that were kept, each once. If there were more, the last one says how many, and is as grave as they were.
    pub fn into_violations(self) -> Vec<Violation> {
        let mut violations = self.kept;
        let mut seen = HashSet::new();
        violations.retain(|violation| seen.insert((violation.path.clone(), violation.reason.clone())));
        if let Some(fault) = self.gravest {
            let reason = format!("{} further faults are not listed", self.unlisted);
            violations.push(Violation { document: self.document, path: String::new(), reason, fault });
        }
        violations
    }
}

/// The name most like `given`, if any is like enough to be meant.
pub fn similar<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any name, and the comparison takes quadratic time.
    if given.len() > 80 {
        return None;
    }
    let given = given.trim().replace('-', "_").to_lowercase();
    names
        .map(|name| (strsim::normalized_damerau_levenshtein(&given, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

/// The beginning of a text, short enough for a reason.
pub fn excerpt(text: &str) -> String {
    match text.char_indices().nth(60) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
