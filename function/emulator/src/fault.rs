//! Faults on demand: which call, what happens to it, and how often.

use std::time::Duration;

use bytes::Bytes;
use gcloud_sdk::google::longrunning::{ListOperationsResponse, Operation};
use h2::Reason;
use http::StatusCode;
use prost::Message;
use tonic::Code;

/// One fault. Several may stand at once; the first that matches a call and is due is the one that happens.
#[derive(Clone, Debug)]
pub struct Fault {
    /// `*`, or whole words of the gRPC path: `Publish`, `Publisher`, `google.storage.v2.Storage`, `Operations/GetOperation`.
    pub method: String,
    pub what: What,
    pub when: When,
}

/// What happens to the call.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Answered with this code and text; the call is not executed.
    Code(Code, String),
    /// Executed, and answered with this code and text all the same.
    CodeAfter(Code, String),
    /// Executed late. A caller that gave up before is gone, and so is its call.
    Delay(Duration),
    /// Executed late, even when the caller has given up by then: a request that was stuck on its way.
    ExecuteLate(Duration),
    /// Neither executed nor answered.
    Hang,
    /// Executed, and then the connection breaks: the caller sees UNAVAILABLE.
    LoseAnswer,
    /// Executed and never answered: the caller sees its own deadline.
    HangAfter,
    /// Not executed, and not answered as gRPC wants it.
    Break(Break),
    /// Executed, and not answered as gRPC wants it.
    BreakAfter(Break),
    /// Executed and answered, as is all that is under way on the connection, which then ends with a GOAWAY.
    Drain(Reason),
    /// Executed, but something is not in the answer.
    Lack(Lack),
    /// A bit of the content is flipped on its way: to the service for a write of an object, to the caller for a read.
    Corrupt,
}

/// How an answer that is not gRPC's looks.
#[derive(Clone, Debug, PartialEq)]
pub enum Break {
    /// RST_STREAM.
    Reset(Reason),
    /// GOAWAY. Of a call that is not executed it says so: its last stream is the one before, and other calls are answered.
    /// After a call that was executed the connection breaks, whatever is under way.
    GoAway(Reason),
    /// An HTTP status as proxies answer it: with a page of HTML, or as `application/grpc`; never with a `grpc-status`.
    Http { status: StatusCode, grpc: bool },
    /// This `grpc-status`, which need not be a number.
    Status(String),
    /// The stream ends where the trailers should be.
    NoTrailers,
}

/// What is not in the operations of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    Name,
    Metadata,
    /// The metadata is there, but not that of a workflow.
    ReadableMetadata,
}

impl Lack {
    /// The answer to a call of `path` without it; one that holds no operations stays as it is.
    pub(crate) fn of(self, path: &str, answer: Vec<Bytes>) -> Vec<Bytes> {
        let without = |mut operation: Operation| {
            match (self, &mut operation.metadata) {
                (Lack::Name, _) => operation.name.clear(),
                (Lack::Metadata, metadata) => *metadata = None,
                // Field 1 of wire type 7, which does not exist.
                (Lack::ReadableMetadata, Some(metadata)) => metadata.value = vec![0x0f],
                (Lack::ReadableMetadata, None) => {}
            }
            operation
        };
        let changed = |message: &Bytes| match path.rsplit('/').next() {
            Some("InstantiateInlineWorkflowTemplate" | "GetOperation") => {
                Some(without(Operation::decode(message.clone()).ok()?).encode_to_vec())
            }
            Some("ListOperations") => {
                let mut list = ListOperationsResponse::decode(message.clone()).ok()?;
                list.operations = list.operations.into_iter().map(without).collect();
                Some(list.encode_to_vec())
            }
            _ => None,
        };
        answer.into_iter().map(|message| changed(&message).map_or(message, Bytes::from)).collect()
    }
}

/// How often it happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// The next k matching calls.
    Times(u64),
    /// Each matching call with this probability, 0 to 1.
    Probability(f64),
    Always,
}

impl When {
    /// Whether it happens this time; counts down.
    pub(crate) fn comes_true(&mut self, rng: &mut fastrand::Rng) -> bool {
        match self {
            When::Times(0) => false,
            When::Times(times) => {
                *times -= 1;
                true
            }
            When::Probability(probability) => rng.f64() < *probability,
            When::Always => true,
        }
    }
}

impl Fault {
    /// `what` for the next `times` calls of `method`.
    pub fn times(method: &str, what: What, times: u64) -> Fault {
        Fault { method: method.to_owned(), what, when: When::Times(times) }
    }

    /// `METHOD:WHAT[:WHEN]`, as the flags of the binary write it (see [`SYNTAX`]).
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Fault, String> {
        let (method, rest) = text.split_once(':').ok_or_else(|| format!("fault `{text}`: what happens is missing"))?;
        if method.is_empty() {
            return Err(format!("fault `{text}`: the method is missing"));
        }
        let (what, when) = match rest.rsplit_once(':') {
            Some((what, when)) => (what, parse_when(when)),
            None => (rest, Ok(When::Times(1))),
        };
        let wrong = |why| format!("fault `{text}`: {why}");
        let (what, when) = (parse_what(what).map_err(wrong)?, when.map_err(wrong)?);
        Ok(Fault { method: method.to_owned(), what, when })
    }
}

/// The syntax of [`Fault::parse`], for a help text.
pub const SYNTAX: &str = "\
METHOD:WHAT[:WHEN]
      METHOD  * or whole words of the gRPC path: Publish, Storage, Operations/GetOperation
      WHEN    how many times (default 1), a percentage (5%), or always; needed after a text with a colon
      WHAT    executed:
                delay=SECONDS, late=SECONDS (even when the caller has given up)
                lose-answer (then UNAVAILABLE)
                drain=REASON (and answered; then GOAWAY on the connection)
                no-name, no-metadata, bad-metadata (of the operations in the answer)
                corrupt (a bit of an object that is written or read is flipped on its way)
              not executed, or executed before with -after (hang-after, UNAVAILABLE-after=TEXT):
                a gRPC code, with a text or without (UNAVAILABLE, INTERNAL=TEXT)
                hang
                reset=REASON, goaway=REASON (an error code of HTTP/2: ENHANCE_YOUR_CALM)
                http=STATUS (403; with a page of HTML), grpc-http=STATUS (as application/grpc)
                grpc-status=TEXT (may be no number)
                no-trailers";

fn parse_when(text: &str) -> Result<When, String> {
    let when = match (text, text.strip_suffix('%')) {
        ("always", _) => Some(When::Always),
        (_, Some(percent)) => percent
            .parse()
            .ok()
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(|percent: f64| When::Probability(percent / 100.0)),
        (times, None) => times.parse().ok().map(When::Times),
    };
    when.ok_or_else(|| format!("`{text}` is not a count, a percentage or `always`"))
}

fn parse_what(text: &str) -> Result<What, String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let (kind, after) = name.strip_suffix("-after").map_or((name, false), |kind| (kind, true));
    let broken = |how| if after { What::BreakAfter(how) } else { What::Break(how) };
    Ok(match (kind, value, after) {
        ("delay", Some(value), false) => What::Delay(seconds(value)?),
        ("late", Some(value), false) => What::ExecuteLate(seconds(value)?),
        ("lose-answer", None, false) => What::LoseAnswer,
        ("drain", Some(value), false) => What::Drain(reason(value)?),
        ("no-name", None, false) => What::Lack(Lack::Name),
        ("no-metadata", None, false) => What::Lack(Lack::Metadata),
        ("bad-metadata", None, false) => What::Lack(Lack::ReadableMetadata),
        ("corrupt", None, false) => What::Corrupt,
        ("hang", None, false) => What::Hang,
        ("hang", None, true) => What::HangAfter,
        ("reset", Some(value), _) => broken(Break::Reset(reason(value)?)),
        ("goaway", Some(value), _) => broken(Break::GoAway(reason(value)?)),
        ("http", Some(value), _) => broken(Break::Http { status: status(value)?, grpc: false }),
        ("grpc-http", Some(value), _) => broken(Break::Http { status: status(value)?, grpc: true }),
        ("grpc-status", Some(value), _) => broken(Break::Status(value.to_owned())),
        ("no-trailers", None, _) => broken(Break::NoTrailers),
        (code, text, _) => {
            let code =
                code_named(code).ok_or_else(|| format!("`{name}` is neither a gRPC code nor a kind of fault"))?;
            let text = text.unwrap_or("injected by the emulator").to_owned();
            if after { What::CodeAfter(code, text) } else { What::Code(code, text) }
        }
    })
}

fn seconds(value: &str) -> Result<Duration, String> {
    let seconds = value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("`{value}` is not a number of seconds"))
}

/// An error code by its name in RFC 9113, 7.
fn reason(value: &str) -> Result<Reason, String> {
    let mut reasons = (0..=0x0d).map(Reason::from);
    let found = reasons.find(|reason| format!("{reason:?}") == value);
    found.ok_or_else(|| format!("`{value}` is not an error code of HTTP/2"))
}

fn status(value: &str) -> Result<StatusCode, String> {
    value.parse().map_err(|_| format!("`{value}` is not an HTTP status"))
}

fn code_named(name: &str) -> Option<Code> {
    Some(match name {
        "CANCELLED" => Code::Cancelled,
        "UNKNOWN" => Code::Unknown,
        "INVALID_ARGUMENT" => Code::InvalidArgument,
        "DEADLINE_EXCEEDED" => Code::DeadlineExceeded,
        "NOT_FOUND" => Code::NotFound,
        "ALREADY_EXISTS" => Code::AlreadyExists,
        "PERMISSION_DENIED" => Code::PermissionDenied,
        "RESOURCE_EXHAUSTED" => Code::ResourceExhausted,
        "FAILED_PRECONDITION" => Code::FailedPrecondition,
        "ABORTED" => Code::Aborted,
        "OUT_OF_RANGE" => Code::OutOfRange,
        "UNIMPLEMENTED" => Code::Unimplemented,
        "INTERNAL" => Code::Internal,
        "UNAVAILABLE" => Code::Unavailable,
        "DATA_LOSS" => Code::DataLoss,
        "UNAUTHENTICATED" => Code::Unauthenticated,
        _ => return None,
    })
}

/// Takes the fault that is due for a call of `path`, and counts it down.
pub(crate) fn take(faults: &mut Vec<Fault>, rng: &mut fastrand::Rng, path: &str) -> Option<What> {
    let due = faults.iter_mut().position(|fault| matches(&fault.method, path) && fault.when.comes_true(rng))?;
    let what = faults[due].what.clone();
    faults.retain(|fault| fault.when != When::Times(0));
    Some(what)
}

/// What the standing faults make of a call of `path`: how much longer it takes, and what else happens to it.
pub(crate) fn standing(faults: &mut [Fault], rng: &mut fastrand::Rng, path: &str) -> (Duration, Option<What>) {
    let (mut latency, mut other) = (Duration::ZERO, None);
    for fault in faults.iter_mut().filter(|fault| matches(&fault.method, path)) {
        if !fault.when.comes_true(rng) {
            continue;
        }
        match &fault.what {
            What::Delay(delay) => latency += *delay,
            what => other = other.or(Some(what.clone())),
        }
    }
    (latency, other)
}

fn matches(method: &str, path: &str) -> bool {
    let bound = |c: Option<char>| c.is_none_or(|c| c == '/' || c == '.');
    method == "*"
        || path
            .match_indices(method)
            .any(|(at, found)| bound(path[..at].chars().next_back()) && bound(path[at + found.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISH: &str = "/google.pubsub.v1.Publisher/Publish";

    #[test]
    fn a_method_matches_whole_words_of_the_path() {
        for method in ["*", "Publish", "Publisher", "google.pubsub.v1.Publisher", "Publisher/Publish", PUBLISH] {
            assert!(matches(method, PUBLISH), "{method}");
        }
        for method in ["Pub", "ublish", "Subscriber", "publish", "Storage"] {
            assert!(!matches(method, PUBLISH), "{method}");
        }
    }

    #[test]
    fn a_counted_fault_ends_after_its_count() {
        let mut faults = vec![Fault::times("Publish", What::Hang, 2)];
        let mut rng = fastrand::Rng::with_seed(1);
        let taken: Vec<_> = (0..3).map(|_| take(&mut faults, &mut rng, PUBLISH)).collect();
        assert_eq!(taken, [Some(What::Hang), Some(What::Hang), None]);
    }

    #[test]
    fn standing_delays_add_up_beside_another_fault() {
        let always = |what| Fault { method: "Publish".to_owned(), what, when: When::Always };
        let second = Duration::from_secs(1);
        let mut faults = [always(What::Delay(second)), always(What::Hang), always(What::Delay(second))];
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(standing(&mut faults, &mut rng, PUBLISH), (2 * second, Some(What::Hang)));
        assert_eq!(standing(&mut faults, &mut rng, "/a/b"), (Duration::ZERO, None));
    }

    #[test]
    fn flags_are_parsed() {
        let reset = Break::Reset(Reason::ENHANCE_YOUR_CALM);
        let forbidden = |grpc| What::Break(Break::Http { status: StatusCode::FORBIDDEN, grpc });
        for (text, what, when) in [
            ("*:INTERNAL", What::Code(Code::Internal, "injected by the emulator".to_owned()), When::Times(1)),
            ("*:ABORTED=a: b:2", What::Code(Code::Aborted, "a: b".to_owned()), When::Times(2)),
            ("*:UNKNOWN-after=x", What::CodeAfter(Code::Unknown, "x".to_owned()), When::Times(1)),
            ("*:delay=0.5:5%", What::Delay(Duration::from_millis(500)), When::Probability(0.05)),
            ("*:late=2:always", What::ExecuteLate(Duration::from_secs(2)), When::Always),
            ("*:hang-after", What::HangAfter, When::Times(1)),
            ("*:reset=ENHANCE_YOUR_CALM", What::Break(reset.clone()), When::Times(1)),
            ("*:reset-after=ENHANCE_YOUR_CALM", What::BreakAfter(reset), When::Times(1)),
            ("*:goaway=NO_ERROR", What::Break(Break::GoAway(Reason::NO_ERROR)), When::Times(1)),
            ("*:drain=NO_ERROR", What::Drain(Reason::NO_ERROR), When::Times(1)),
            ("*:http=403", forbidden(false), When::Times(1)),
            ("*:grpc-http=403", forbidden(true), When::Times(1)),
            ("*:grpc-status=odd", What::Break(Break::Status("odd".to_owned())), When::Times(1)),
            ("*:no-trailers-after", What::BreakAfter(Break::NoTrailers), When::Times(1)),
            ("*:bad-metadata", What::Lack(Lack::ReadableMetadata), When::Times(1)),
        ] {
            let fault = Fault::parse(text).unwrap();
            assert_eq!((fault.method.as_str(), fault.what, fault.when), ("*", what, when), "{text}");
        }
        for bad in [
            "",
            "Publish",
            "Publish:NOPE",
            "Publish:hang:often",
            "Publish:hang:-1",
            "*:delay=-1",
            "*:hang:101%",
            "*:reset=CALM",
            "*:http=9",
            "*:delay-after=1",
            "*:hang=1",
            ":hang",
            "*:ABORTED=a: b",
        ] {
            assert!(Fault::parse(bad).is_err(), "{bad}");
        }
    }
}
