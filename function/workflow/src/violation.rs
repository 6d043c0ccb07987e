//! What is wrong with a document, and where.

use serde::{Deserialize, Serialize};

/// The document in which a fault lies: the sender's, or the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Document {
    Request,
    Config,
}

/// What kind of fault it is. `RULES=warn` lets broken rules pass, never what cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The text does not say which message to send.
    Decoding,
    /// The message is clear, and the service is known to refuse it.
    Rule,
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

/// A violation that was kept (as a warning of a run) was a rule's.
fn rule() -> Fault {
    Fault::Rule
}
