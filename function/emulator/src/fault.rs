//! Faults on demand: which call, what happens to it, and how often.

use std::time::Duration;

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
        let mut parts = text.splitn(3, ':');
        let method = parts.next().unwrap_or_default();
        if method.is_empty() {
            return Err(format!("fault `{text}`: the method is missing"));
        }
        let what = parts.next().ok_or_else(|| format!("fault `{text}`: what happens is missing"))?;
        let when = match parts.next() {
            None => Ok(When::Times(1)),
            Some("always") => Ok(When::Always),
            Some(when) => match when.strip_suffix('%') {
                Some(percent) => percent
                    .parse()
                    .ok()
                    .filter(|percent| (0.0..=100.0).contains(percent))
                    .map(|percent: f64| When::Probability(percent / 100.0)),
                None => when.parse().ok().map(When::Times),
            }
            .ok_or_else(|| format!("fault `{text}`: `{when}` is not a count, a percentage or `always`")),
        }?;
        Ok(Fault {
            method: method.to_owned(),
            what: parse_what(what).map_err(|why| format!("fault `{text}`: {why}"))?,
            when,
        })
    }
}

/// The syntax of [`Fault::parse`], for a help text.
pub const SYNTAX: &str = "\
METHOD:WHAT[:WHEN]
      METHOD  * or whole words of the gRPC path: Publish, Storage, Operations/GetOperation
      WHAT    a gRPC code (UNAVAILABLE), delay=SECONDS, late=SECONDS (executed even when the
              caller has given up), hang, lose-answer (executed, then UNAVAILABLE),
              hang-after (executed, never answered)
      WHEN    how many times (default 1), a percentage (5%), or always";

fn parse_what(text: &str) -> Result<What, String> {
    let seconds = |value: &str| {
        value
            .parse()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| format!("`{value}` is not a number of seconds"))
    };
    match text.split_once('=') {
        Some(("delay", value)) => return seconds(value).map(What::Delay),
        Some(("late", value)) => return seconds(value).map(What::ExecuteLate),
        _ => {}
    }
    match text {
        "hang" => Ok(What::Hang),
        "hang-after" => Ok(What::HangAfter),
        "lose-answer" => Ok(What::LoseAnswer),
        code => code_named(code)
            .map(|code| What::Code(code, "injected by the emulator".to_owned()))
            .ok_or_else(|| format!("`{code}` is neither a gRPC code nor a kind of fault")),
    }
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
    fn flags_are_parsed() {
        let fault = Fault::parse("Publish:UNAVAILABLE:2").unwrap();
        assert!(matches!(fault.what, What::Code(Code::Unavailable, _)));
        assert_eq!(fault.when, When::Times(2));
        assert_eq!(Fault::parse("*:delay=0.5:5%").unwrap().when, When::Probability(0.05));
        assert_eq!(Fault::parse("*:late=2").unwrap().what, What::ExecuteLate(Duration::from_secs(2)));
        for bad in ["", "Publish", "Publish:NOPE", "Publish:hang:often", "Publish:hang:-1", "*:delay=-1", "*:hang:101%"]
        {
            assert!(Fault::parse(bad).is_err(), "{bad}");
        }
    }
}
