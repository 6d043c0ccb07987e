//! What else the world of a schedule is like, beside the faults of a few calls.
//!
//! Each dimension is in a schedule or not, by its weight; `DIMENSION=SlowCalls` puts that one into every schedule.

use std::time::Duration;

use fastrand::Rng;
use inline_workflow_emulator::{Break, DataprocOptions, Fault, Quota, Reason, What, When};
use serde_json::{Value, json};
use tonic::Code;

use crate::schedule::{Act, CODES, METHODS, job, pick};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Every call, or every call of one method, takes long.
    SlowCalls,
    /// Lists of operations, of jobs, or both fail.
    FailingLists,
    FailingGets,
    FailingCancels,
    /// Streams and connections that break, answers of proxies, answers that lack something.
    BrokenAnswers,
    /// Errors after the execution, in the words of a quota or a stockout; requests that contain such words.
    MisleadingTexts,
    /// Another deployment in the same project and region, with the same requests.
    SecondDeployment,
    SmallQuotas,
    /// Cancels that come before their requests.
    EarlyCancels,
    DeletedRecords,
    /// Another team's workflows.
    ForeignWorkflows,
    HundredsOfSteps,
    /// The topic of responses refuses events.
    RefusedEvents,
}

/// Of 100 schedules, how many have the dimension.
const WEIGHTS: [(Dimension, u8); 13] = [
    (Dimension::SlowCalls, 8),
    (Dimension::FailingLists, 8),
    (Dimension::FailingGets, 8),
    (Dimension::FailingCancels, 6),
    (Dimension::BrokenAnswers, 25),
    (Dimension::MisleadingTexts, 15),
    (Dimension::SecondDeployment, 10),
    (Dimension::SmallQuotas, 8),
    (Dimension::EarlyCancels, 15),
    (Dimension::DeletedRecords, 8),
    (Dimension::ForeignWorkflows, 10),
    (Dimension::HundredsOfSteps, 1),
    (Dimension::RefusedEvents, 8),
];

/// The function stops to wait for Dataproc's answers after an hour at the earliest, and other faults may have added to it.
pub const LONG: Duration = Duration::from_secs(1800);

/// Something that lasts: hours, or for ever.
#[derive(Clone, Debug)]
pub struct Hardship {
    pub what: Hard,
    pub from: Duration,
    /// None: for ever.
    pub until: Option<Duration>,
}

#[derive(Clone, Debug)]
pub enum Hard {
    Fault(Fault),
    RefusedFilters,
    Quota(Quota),
}

impl Hardship {
    pub fn stands(&self, at: Duration) -> bool {
        self.from <= at && self.until.is_none_or(|until| until > at)
    }

    pub fn is_of_dataproc(&self) -> bool {
        match &self.what {
            Hard::Fault(fault) => is_of_dataproc(&fault.method),
            Hard::RefusedFilters | Hard::Quota(_) => true,
        }
    }

    /// Whether it can keep Dataproc's answers from the function for so long that it stops to wait for them.
    pub fn may_hide_outcomes(&self, calm_after: Duration) -> bool {
        self.until.is_none_or(|until| until.saturating_sub(calm_after.min(self.from)) >= LONG)
    }
}

fn is_of_dataproc(method: &str) -> bool {
    METHODS[..6].contains(&method) || method == "JobController"
}

pub fn draw(rng: &mut Rng) -> Vec<Dimension> {
    let forced = std::env::var("DIMENSION").ok();
    // Drawn in any case: with and without the variable the rest of a seed is the same.
    let drawn: Vec<_> = WEIGHTS.iter().map(|(it, weight)| (*it, rng.u8(..100) < *weight)).collect();
    let is_in = |(dimension, is_in): &(Dimension, bool)| *is_in || forced.as_deref() == Some(&format!("{dimension:?}"));
    drawn.iter().filter(|it| is_in(it)).map(|(dimension, _)| *dimension).collect()
}

/// Until when something lasts that began at `from`.
fn lasting(rng: &mut Rng, from: Duration, calm_after: Duration, may_be_for_ever: bool) -> Option<Duration> {
    match rng.u8(..4) {
        0 => Some(calm_after.max(from)),
        1 if may_be_for_ever => None,
        _ => Some(from + Duration::from_secs(rng.u64(600..8 * 3600))),
    }
}

/// What lasts in a schedule of these dimensions.
pub fn hardships(rng: &mut Rng, dimensions: &[Dimension], calm_after: Duration) -> Vec<Hardship> {
    let mut hardships = Vec::new();
    for dimension in dimensions {
        let from = Duration::from_secs(*pick(rng, &[0, 0, 20, 60, 150]));
        let always = |method: &str, what| Hard::Fault(Fault { method: method.to_owned(), what, when: When::Always });
        let codes = |rng: &mut Rng, codes: &[Code]| What::Code(*pick(rng, codes), "not now".to_owned());
        let (whats, may_be_for_ever) = match dimension {
            Dimension::SlowCalls => match rng.bool() {
                true => (vec![always("*", What::Delay(Duration::from_millis(rng.u64(0..2000))))], false),
                false => {
                    let delay = What::Delay(Duration::from_millis(rng.u64(1500..3000)));
                    let method = *pick(rng, &METHODS[..METHODS.len() - 2]);
                    // Without its records and its topic the function can end nothing.
                    (vec![always(method, delay)], is_of_dataproc(method))
                }
            },
            Dimension::FailingLists if rng.u8(..3) == 0 => (vec![Hard::RefusedFilters], true),
            Dimension::FailingLists => {
                let of = *pick(rng, &[&["ListOperations"][..], &["ListJobs"], &["ListOperations", "ListJobs"]]);
                let refusals = [
                    Code::PermissionDenied,
                    Code::InvalidArgument,
                    Code::Unimplemented,
                    Code::Unavailable,
                    Code::Internal,
                ];
                let what = codes(rng, &refusals);
                (of.iter().map(|method| always(method, what.clone())).collect(), true)
            }
            Dimension::FailingGets => {
                let told = |code: &&Code| **code != Code::NotFound;
                let what = codes(rng, &CODES.iter().filter(told).copied().collect::<Vec<_>>());
                let method = *pick(rng, &["GetOperation", "GetOperation", "GetJob", "JobController"]);
                (vec![always(method, what)], true)
            }
            Dimension::FailingCancels => {
                let refusals = [Code::PermissionDenied, Code::InvalidArgument, Code::Unimplemented, Code::Unavailable];
                (vec![always("CancelOperation", codes(rng, &refusals))], true)
            }
            Dimension::SmallQuotas => {
                (vec![Hard::Quota(Quota { workflows: rng.u32(1..4), others: rng.u32(20..200) })], false)
            }
            _ => continue,
        };
        let until = lasting(rng, from, calm_after, may_be_for_ever);
        hardships.extend(whats.into_iter().map(|what| Hardship { what, from, until }));
    }
    hardships
}

/// Makes the emulator's world that of the hardships which stand at `at`.
pub fn arrange(emulator: &inline_workflow_emulator::Emulator, hardships: &[Hardship], at: Duration) {
    let stand: Vec<&Hard> = hardships.iter().filter(|it| it.stands(at)).map(|it| &it.what).collect();
    let faults = stand.iter().filter_map(|hard| match hard {
        Hard::Fault(fault) => Some(fault.clone()),
        _ => None,
    });
    emulator.set_standing_faults(faults.collect());
    let refused = stand.iter().any(|hard| matches!(hard, Hard::RefusedFilters));
    let quota = stand.iter().find_map(|hard| match hard {
        Hard::Quota(quota) => Some(*quota),
        _ => None,
    });
    emulator.dataproc_options(|options| {
        let DataprocOptions { refuse_operation_filters, refuse_job_filters, quota: of_service, .. } = options;
        (*refuse_operation_filters, *refuse_job_filters, *of_service) = (refused, refused, quota);
    });
}

/// What happens once in a schedule of these dimensions.
pub fn acts(rng: &mut Rng, dimensions: &[Dimension], calm_after: Duration) -> Vec<(Duration, Act)> {
    let mut acts = Vec::new();
    for dimension in dimensions {
        match dimension {
            Dimension::BrokenAnswers => {
                for _ in 0..rng.usize(1..=6) {
                    let method = if rng.bool() { METHODS[0] } else { pick(rng, &METHODS) };
                    let what = broken(rng);
                    acts.push(Act::Fault(Fault::times(method, what, rng.u64(1..=3))));
                }
            }
            Dimension::MisleadingTexts => {
                for _ in 0..rng.usize(1..=3) {
                    let what = misleading(rng);
                    acts.push(Act::Fault(Fault::times(METHODS[0], what, rng.u64(1..=3))));
                }
            }
            Dimension::DeletedRecords => {
                for _ in 0..rng.usize(1..=2) {
                    acts.push(Act::DeleteRecord(rng.usize(..3)));
                }
            }
            Dimension::ForeignWorkflows => {
                for _ in 0..rng.usize(1..=30) {
                    let pending = *pick(rng, &[1, 60, 3600, 6 * 3600]);
                    acts.push(Act::Foreign(Duration::from_secs(pending)));
                }
            }
            Dimension::RefusedEvents => {
                for _ in 0..rng.usize(1..=3) {
                    let what = What::Code(Code::InvalidArgument, "the message is too large".to_owned());
                    acts.push(Act::Fault(Fault::times("Publish", what, rng.u64(1..=4))));
                }
            }
            _ => {}
        }
    }
    let latest = calm_after.as_millis() as u64;
    let at = |rng: &mut Rng| Duration::from_millis(rng.u64(0..latest)).mul_f64(rng.f64());
    acts.into_iter().map(|act| (at(rng), act)).collect()
}

fn broken(rng: &mut Rng) -> What {
    let reason = Reason::from(rng.u32(0..=0x0d));
    let statuses = [200, 204, 400, 401, 403, 404, 407, 413, 429, 499, 500, 502, 503, 504];
    let status = http::StatusCode::from_u16(*pick(rng, &statuses)).expect("a status");
    let broken = match rng.u8(..7) {
        0..2 => Break::Reset(reason),
        2 => Break::GoAway(reason),
        3 => Break::Http { status, grpc: rng.bool() },
        4 => Break::Status((*pick(rng, &["", "x", "-1", "17", "3.5", "999999999999"])).to_owned()),
        5 => Break::NoTrailers,
        _ => return What::Lack(*pick(rng, &LACKS)),
    };
    // The service's own sign that a call was not executed. Source: RFC 9113, 8.7
    let refused = broken == Break::Reset(Reason::REFUSED_STREAM);
    match rng.u8(..4) {
        0 => What::Drain(reason),
        1..3 if !refused => What::BreakAfter(broken),
        _ => What::Break(broken),
    }
}

const LACKS: [inline_workflow_emulator::Lack; 3] = [
    inline_workflow_emulator::Lack::Name,
    inline_workflow_emulator::Lack::Metadata,
    inline_workflow_emulator::Lack::ReadableMetadata,
];

const MISLEADING_PATH: &str = "gs://staging/STOCKOUT/Insufficient 'CPUS' quota.py";

fn misleading(rng: &mut Rng) -> What {
    let text = *pick(
        rng,
        &[
            "Insufficient 'N2_CPUS' quota. Requested 12.0, available 4.0.",
            "The zone 'projects/p/zones/us-central1-a' does not have enough resources available to fulfill the request. \
             (ZONE_RESOURCE_POOL_EXHAUSTED)",
            "Quota exceeded for quota metric 'Workflow operation requests'",
            "Multiple validation errors:\n - Insufficient 'CPUS' quota. Requested 12.0, available 4.0.",
        ],
    );
    if rng.u8(..4) == 0 {
        // The request's own words, of a call that was not executed.
        return What::Code(Code::InvalidArgument, format!("job 'stockout-timeout': {MISLEADING_PATH} does not exist"));
    }
    let codes = [Code::Unavailable, Code::Internal, Code::Unknown, Code::DeadlineExceeded];
    What::CodeAfter(*pick(rng, &codes), text.to_owned())
}

/// What requests are called.
pub fn job_name(dimensions: &[Dimension]) -> &'static str {
    if dimensions.contains(&Dimension::MisleadingTexts) { "stockout-timeout" } else { "word-count" }
}

/// Makes a request one that the dimensions ask for.
pub fn change(rng: &mut Rng, dimensions: &[Dimension], request: &mut Value) {
    if dimensions.contains(&Dimension::MisleadingTexts) {
        request["jobs"][0]["labels"] = json!({ "stockout": "quota" });
        request["jobs"][0]["pyspark_job"]["args"] = json!([MISLEADING_PATH]);
    }
    if dimensions.contains(&Dimension::HundredsOfSteps) {
        let steps = rng.usize(100..600);
        request["jobs"] = (0..steps).map(|step| job(&format!("step-{step}"), "ok", &[])).collect();
    }
}
