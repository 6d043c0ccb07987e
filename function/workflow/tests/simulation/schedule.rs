//! What a seed means: who asks for what and when, and what goes wrong.

use std::time::Duration;

use chrono::TimeDelta;
use fastrand::Rng;
use inline_workflow::environment;
use inline_workflow_emulator::{
    DataprocOptions, Disorder, Fault, Options, Outcome, RepeatedRequestId, Timing, Trouble, What, When,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    deployment::FIRST,
    dimensions::{self, Dimension, Hardship},
};

pub struct Schedule {
    pub seed: u64,
    pub variables: Vec<(&'static str, String)>,
    pub options: Options,
    /// Of each instance, how far its clock is ahead.
    pub skews: Vec<TimeDelta>,
    pub disorder: Disorder,
    pub audit_events: bool,
    pub habits: Habits,
    /// In the order of time, from the beginning.
    pub acts: Vec<(Duration, Act)>,
    /// From then on nothing goes wrong any more but the hardships.
    pub calm_after: Duration,
    pub dimensions: Vec<Dimension>,
    pub hardships: Vec<Hardship>,
}

/// Probabilities of what befalls each delivery of an event.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// The instance dies while it deals with the event.
    pub crash: f64,
    /// It has dealt with it, and nobody learns of it.
    pub lose_ack: f64,
    /// A tick reaches nobody.
    pub miss_tick: f64,
    /// A tick reaches two instances at once.
    pub double_tick: f64,
}

#[derive(Clone, Debug)]
pub enum Act {
    Send(Value),
    SendText(String),
    /// A status or cancel for one of the requests, by its run id or by its request_id.
    Ask {
        action: &'static str,
        request: usize,
        by_run_id: bool,
        /// Its message does not tell when it was published.
        timeless: bool,
    },
    /// A request that is delivered some minutes late.
    SendLate(Value),
    /// The record of one of the requests is deleted.
    DeleteRecord(usize),
    /// Another team's workflow begins, which is PENDING for so long.
    Foreign(Duration),
    /// The same in the second deployment.
    InSecond(Box<Act>),
    /// A fault beside the standing ones.
    Fault(Fault),
    /// Only the standing faults are left.
    Calm,
    Mishap(Trouble, When),
    Config(Option<String>),
    Restart(usize),
    /// Dataproc forgets all operations that have ended, and that a record names.
    Forget,
}

pub fn draw(seed: u64) -> Schedule {
    let rng = &mut Rng::with_seed(seed);
    // The first seeds are the quiet ones: what is wrong without any misfortune shows there. In others it is the dimensions
    // alone that make the world hard.
    let dimensions = if seed < 10 { Vec::new() } else { dimensions::draw(rng) };
    let wild = if seed < 10 || rng.u8(..5) == 0 { 0.0 } else { rng.f64() };
    let calm_after = Duration::from_secs(rng.u64(120..1500));
    let mut acts = Vec::new();
    for request in 0..rng.usize(1..=3) {
        ask(rng, &mut acts, request, calm_after, &dimensions);
    }
    acts.extend(dimensions::acts(rng, &dimensions, calm_after));
    if wild > 0.0 {
        misfortune(rng, &mut acts, wild, calm_after);
    }
    let hardships = dimensions::hardships(rng, &dimensions, calm_after);
    acts.sort_by_key(|(at, _)| *at);
    let wilder = |rng: &mut Rng, most: f64| if wild > 0.0 && rng.bool() { most * wild * rng.f64() } else { 0.0 };
    Schedule {
        seed,
        variables: variables(rng),
        options: options(rng, seed),
        skews: (0..rng.usize(1..=3))
            .map(|_| TimeDelta::milliseconds(if wild > 0.0 { rng.i64(-5000..=5000) } else { 0 }))
            .collect(),
        disorder: Disorder {
            duplicate: wilder(rng, 0.6),
            reorder: wilder(rng, 0.6),
            spread: Duration::from_secs(*pick(rng, &[1, 5, 60, 600])),
        },
        audit_events: rng.bool(),
        habits: Habits {
            crash: wilder(rng, 0.8),
            lose_ack: wilder(rng, 0.4),
            miss_tick: wilder(rng, 0.4),
            double_tick: wilder(rng, 1.0),
        },
        acts,
        calm_after,
        dimensions,
        hardships,
    }
}

pub fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(..of.len())]
}

fn variables(rng: &mut Rng) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    let mut set = |rng: &mut Rng, name, values: &[u64]| {
        if rng.bool() {
            variables.push((name, pick(rng, values).to_string()));
        }
    };
    set(rng, environment::ENV_SUBMIT_LEASE, &[5, 10, 20, 60]);
    set(rng, environment::ENV_RETRY_DELAY, &[1, 10, 60]);
    set(rng, environment::ENV_CAPACITY_RETRIES, &[0, 1, 2, 3]);
    set(rng, environment::ENV_MAX_REQUEST_AGE, &[30, 120, 600, 21_600]);
    variables.push((environment::ENV_CAPACITY_RETRY_DELAY, pick(rng, &[1, 30, 120]).to_string()));
    variables
}

fn options(rng: &mut Rng, seed: u64) -> Options {
    // A second workflow while the first runs is what a request_id prevents, by its documentation.
    let repeats =
        [RepeatedRequestId::SameOperation, RepeatedRequestId::AlreadyExists, RepeatedRequestId::SecondWorkflow];
    let timing = Timing::default();
    let pending = Duration::from_secs(*pick(rng, &[1, 1, 20, 100]));
    Options {
        seed,
        one_write_a_second: rng.u8(..3) == 0,
        dataproc: DataprocOptions {
            timing: match rng.bool() {
                true => Timing { pending, ..timing },
                // Over within a few seconds: what follows happens at once.
                false => Timing {
                    pending,
                    create_cluster: Duration::from_secs(rng.u64(1..20)),
                    job: Duration::from_secs(rng.u64(1..20)),
                    delete_cluster: Duration::from_secs(rng.u64(1..10)),
                    ..timing
                },
            },
            hide_pending_cluster: rng.bool(),
            repeat_while_running: *pick(rng, &repeats[..2]),
            repeat_after_end: *pick(rng, &repeats),
            operations_page: *pick(rng, &[1, 2, 1000]),
            ..DataprocOptions::default()
        },
        ..Options::default()
    }
}

/// One request, and the messages about it.
fn ask(rng: &mut Rng, acts: &mut Vec<(Duration, Act)>, number: usize, calm_after: Duration, dimensions: &[Dimension]) {
    let at = Duration::from_millis(rng.u64(0..60_000));
    let first = acts.len();
    let mut request = json!({ "job_name": dimensions::job_name(dimensions), "jobs": jobs(rng), "dag_timeout": 600 });
    if rng.u8(..3) > 0 {
        request["request_id"] = json!(format!("request-{number}"));
    }
    if rng.u8(..4) == 0 {
        request["zone"] = json!("us-central1-b");
    }
    dimensions::change(rng, dimensions, &mut request);
    if dimensions.contains(&Dimension::EarlyCancels) && rng.bool() {
        acts.push((at, Act::SendLate(request.clone())));
        // Before it is sent, or before it is delivered.
        let cancelled = (at + Duration::from_millis(rng.u64(0..60_000))).saturating_sub(Duration::from_secs(10));
        let cancel = Act::Ask { action: "cancel", request: number, by_run_id: false, timeless: rng.bool() };
        acts.push((cancelled, cancel));
    } else {
        acts.push((at, Act::Send(request.clone())));
    }
    let latest = calm_after.as_millis() as u64;
    let often = |rng: &mut Rng, weights: [u8; 3]| {
        let draw = rng.u8(..100);
        weights.iter().filter(|weight| draw < **weight).count()
    };
    // Near the request, near a workflow's end, or anywhere.
    let when = |rng: &mut Rng| match rng.u8(..4) {
        0 => (at + Duration::from_millis(rng.u64(0..10_000))).saturating_sub(Duration::from_secs(5)),
        1 => at + Duration::from_millis(rng.u64(0..40_000)),
        2 => at + Duration::from_millis(rng.u64(100_000..200_000)),
        _ => Duration::from_millis(rng.u64(0..latest)),
    };
    for _ in 0..often(rng, [40, 15, 0]) {
        acts.push((when(rng), Act::Send(request.clone())));
    }
    if often(rng, [25, 0, 0]) > 0 {
        let mut other = request.clone();
        other["labels"] = json!({ "other": "yes" });
        acts.push((when(rng), Act::Send(other)));
    }
    if often(rng, [20, 0, 0]) > 0 {
        let mut invalid = request.clone();
        invalid["jobs"][0]["no_such_field"] = json!(1);
        acts.push((when(rng), Act::Send(invalid)));
    }
    if often(rng, [15, 0, 0]) > 0 {
        let mut validate = request.clone();
        validate["action"] = json!("validate");
        acts.push((when(rng), Act::Send(validate)));
    }
    for _ in 0..often(rng, [45, 20, 5]) {
        acts.push((when(rng), Act::Ask { action: "cancel", request: number, by_run_id: rng.bool(), timeless: false }));
    }
    for _ in 0..often(rng, [30, 10, 0]) {
        acts.push((when(rng), Act::Ask { action: "status", request: number, by_run_id: rng.bool(), timeless: false }));
    }
    if often(rng, [10, 0, 0]) > 0 {
        let text = pick(rng, &["", "[]", "{\"jobs\": [}", "{}", "{\"action\": \"cancel\"}", "\u{feff}nonsense"]);
        acts.push((when(rng), Act::SendText((*text).to_owned())));
    }
    if dimensions.contains(&Dimension::SecondDeployment) {
        let of_first: Vec<_> = acts[first..].to_vec();
        for (at, act) in of_first {
            let is_send = matches!(act, Act::Send(_) | Act::SendLate(_));
            if is_send || rng.bool() {
                acts.push((at + Duration::from_millis(rng.u64(0..30_000)), Act::InSecond(Box::new(act))));
            }
        }
    }
}

pub fn job(id: &str, script: &str, after: &[&str]) -> Value {
    json!({
        "step_id": id,
        "pyspark_job": { "main_python_file_uri": format!("gs://staging/scripts/{script}.py") },
        "prerequisite_step_ids": after,
    })
}

fn jobs(rng: &mut Rng) -> Value {
    match rng.u8(..8) {
        0..4 => json!([job("count", "ok", &[])]),
        4 => json!([job("first", "ok", &[]), job("second", "ok", &["first"])]),
        5 => json!([
            job("left", "ok", &[]),
            job("right", "ok", &[]),
            job("both", "ok", &["left", "right"]),
            job("last", "ok", &["both"]),
        ]),
        6 => json!([job("first", "ok", &[]), job("fails", "missing", &["first"]), job("never", "ok", &["fails"])]),
        _ => json!([job(HANGING, "ok", &[]), job("beside", "ok", &[])]),
    }
}

/// Steps of this id never end by themselves.
pub const HANGING: &str = "hangs";

pub fn arranged() -> [(&'static str, Outcome); 1] {
    [(HANGING, Outcome::Hang)]
}

pub const METHODS: [&str; 14] = [
    "InstantiateInlineWorkflowTemplate",
    "GetOperation",
    "ListOperations",
    "CancelOperation",
    "GetJob",
    "ListJobs",
    "Publish",
    "ReadObject",
    "GetObject",
    "WriteObject",
    "ListObjects",
    "DeleteObject",
    "Storage",
    "*",
];

pub const CODES: [Code; 16] = [
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// The longest that a submission lies on its way and is executed all the same. The code allows for a minute after the
/// caller's deadline, by clocks that may differ by ten seconds here.
const LONGEST_WAY: u64 = 45;

fn misfortune(rng: &mut Rng, acts: &mut Vec<(Duration, Act)>, wild: f64, calm_after: Duration) {
    let seconds = calm_after.as_secs();
    let most = 1 + (wild * 8.0) as usize;
    for _ in 0..rng.usize(0..=most) {
        let fault = fault(rng);
        acts.push((Duration::from_secs(rng.u64(0..seconds)).mul_f64(rng.f64()), Act::Fault(fault)));
    }
    if rng.bool() {
        // The call that must not be made twice.
        let what = trouble_on_the_way(rng);
        let fault = Fault { method: METHODS[0].to_owned(), what, when: When::Times(rng.u64(1..=3)) };
        acts.push((Duration::ZERO, Act::Fault(fault)));
    }
    for _ in 0..rng.usize(0..=3) {
        // An outage of one service, or of all.
        let method = *pick(rng, &["Storage", "Publisher", "WorkflowTemplateService", "Operations", "*"]);
        let what = match rng.u8(..3) {
            0 => What::Hang,
            _ => What::Code(Code::Unavailable, "down".to_owned()),
        };
        let begins = rng.u64(0..seconds);
        let fault = Fault { method: method.to_owned(), what, when: When::Always };
        acts.push((Duration::from_secs(begins), Act::Fault(fault)));
        acts.push((Duration::from_secs(begins + rng.u64(1..300)), Act::Calm));
    }
    for _ in 0..rng.usize(0..=3) {
        let mishap = match rng.u8(..6) {
            0 => Trouble::SuccessDespiteFailure,
            1 => Trouble::QuotaRefused,
            2 => Trouble::QuotaAtCreation,
            3 => Trouble::Stockout,
            4 => Trouble::CreateFails("the image cannot be found".to_owned()),
            _ => Trouble::DeleteFails("an instance is in use".to_owned()),
        };
        acts.push((Duration::from_secs(rng.u64(0..60)), Act::Mishap(mishap, When::Times(rng.u64(1..=4)))));
    }
    for _ in 0..rng.usize(0..=2) {
        let config = match rng.u8(..4) {
            0 => None,
            1 => Some("{\"default_cluster_config\": {\"config\": {\"worker\": 1}}}".to_owned()),
            2 => Some(config("other", FIRST.name)),
            _ => Some("{".to_owned()),
        };
        let at = rng.u64(0..seconds);
        acts.push((Duration::from_secs(at), Act::Config(config)));
        acts.push((Duration::from_secs(at + rng.u64(1..120)), Act::Config(Some(self::config("again", FIRST.name)))));
    }
    for _ in 0..rng.usize(0..=2) {
        acts.push((Duration::from_millis(rng.u64(0..1000 * seconds)), Act::Restart(rng.usize(..3))));
    }
    if rng.u8(..20) == 0 {
        acts.push((Duration::from_secs(rng.u64(0..seconds)), Act::Forget));
    }
}

/// A configuration whose clusters bear the deployment's name in a label.
pub fn config(cluster: &str, deployment: &str) -> String {
    let config = json!({ "gce_cluster_config": { "zone_uri": "us-central1-a" } });
    let labels = json!({ "deployment": deployment });
    json!({ "default_cluster_config": { "cluster_name": cluster, "config": config, "labels": labels } }).to_string()
}

fn fault(rng: &mut Rng) -> Fault {
    let method = *pick(rng, &METHODS);
    let what = trouble_on_the_way(rng);
    let when = match rng.bool() {
        true => When::Times(rng.u64(1..=4)),
        false => When::Probability(rng.f64() * 0.5),
    };
    // Lies that nobody can see through: that an object or an operation is not there.
    let lie = matches!(what, What::Code(Code::NotFound, _))
        && !matches!(method, "InstantiateInlineWorkflowTemplate" | "Publish");
    let what = if lie { What::Code(Code::Internal, "injected".to_owned()) } else { what };
    Fault { method: method.to_owned(), what, when }
}

fn trouble_on_the_way(rng: &mut Rng) -> What {
    match rng.u8(..9) {
        0..2 => What::Code(*pick(rng, &CODES), "injected".to_owned()),
        2 => What::Delay(Duration::from_millis(rng.u64(0..6000))),
        3 => What::ExecuteLate(Duration::from_millis(rng.u64(0..1000 * LONGEST_WAY))),
        4 => What::Hang,
        5..7 => What::LoseAnswer,
        7 => What::Corrupt,
        _ => What::HangAfter,
    }
}
