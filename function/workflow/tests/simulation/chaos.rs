//! Lets a schedule happen: one thread, a clock that only moves when everybody waits, and every draw from one seed.

use std::{cell::RefCell, collections::BTreeMap, sync::Once, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::Request;
use inline_workflow_emulator::{Emulator, Fault, Options, Phase, Push, When, Workflow};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    deployment::{Deployment, FIRST, SECOND, delivered, with},
    dimensions::{self, Dimension},
    history::History,
    schedule::{Act, Habits, Schedule, arranged, config},
    support::{BUCKET, CONFIG, PROJECT, World},
};

/// After the last hardship, by then everything must have ended: the longest waits are the retries' of capacity, six hours
/// the oldest request.
const PATIENCE: Duration = Duration::from_secs(12 * 3600);
/// A hardship that is there for ever: the longest that a run may wait for Dataproc is 72 hours.
const PATIENCE_FOR_EVER: Duration = Duration::from_secs(76 * 3600);
/// While hours pass, not every minute is of interest.
const RARE_TICKS: Duration = Duration::from_secs(600);
/// Ticks after the end, in which nothing must happen any more.
const TICKS_AFTERWARDS: u32 = 5;

thread_local! {
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Panics within a schedule are written down, wherever they are caught.
fn watch_for_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let noted = PANICS.with_borrow_mut(|panics| panics.as_mut().map(|panics| panics.push(info.to_string())));
            if noted.is_none() {
                usual(info);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
}

/// What happened in each deployment.
pub fn run(schedule: Schedule) -> Vec<History> {
    watch_for_panics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let mut histories = runtime.expect("a runtime").block_on(live(schedule));
    histories[0].panics = PANICS.take().unwrap_or_default();
    histories
}

async fn live(schedule: Schedule) -> Vec<History> {
    let start = Instant::now();
    let mut world = World::with(Options { ..schedule.options.clone() });
    for (name, value) in &schedule.variables {
        world.set(name, value);
    }
    for (step, outcome) in arranged() {
        world.emulator.on_step(step, outcome);
    }
    let mut deployments = vec![Deployment::start(&mut world, &schedule, FIRST, start)];
    if schedule.dimensions.contains(&Dimension::SecondDeployment) {
        deployments.push(Deployment::start(&mut world, &schedule, SECOND, start));
    }
    let emulator = world.emulator.clone();
    emulator.disorder(schedule.disorder);
    let fleets: Vec<_> = deployments.iter().map(|it| (it.places.name, it.fleet.clone())).collect();
    emulator.push(Push::with(move |request: Request<Bytes>| {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let fleet = fleets.iter().find(|(name, _)| *name == host).expect("a deployment").1.clone();
        delivered(fleet, request)
    }));
    if schedule.audit_events {
        emulator.start_audit_events(PROJECT, &FIRST.endpoint());
    }
    let story = tell(&schedule, &emulator, &mut deployments, start);
    let ending = tokio::select! {
        biased;
        ending = story => ending,
        () = endure(&schedule, &emulator, start) => unreachable!("hardships are awaited for ever"),
    };
    // The emulator holds the fleets, and the fleets the emulator.
    emulator.push(Push::Held);

    let workflows = emulator.workflows();
    let calls = emulator.calls();
    deployments
        .into_iter()
        .map(|deployment| history(&schedule, &world, deployment, &ending, &workflows, &calls))
        .collect()
}

/// How a schedule ended.
struct Ending {
    forgotten: Vec<String>,
    /// By deployment: its run, and when its record was deleted.
    deleted: BTreeMap<String, DateTime<Utc>>,
    quiet: Option<DateTime<Utc>>,
    /// How many events each deployment had said by then.
    said: Vec<usize>,
}

/// The hardships begin and end. Never returns.
async fn endure(schedule: &Schedule, emulator: &Emulator, start: Instant) {
    let mut changes: Vec<Duration> =
        schedule.hardships.iter().flat_map(|hardship| [Some(hardship.from), hardship.until]).flatten().collect();
    changes.sort_unstable();
    for at in changes {
        sleep_until(start + at).await;
        dimensions::arrange(emulator, &schedule.hardships, at);
    }
    std::future::pending().await
}

/// Everything that the schedule says, and then the calm.
async fn tell(schedule: &Schedule, emulator: &Emulator, deployments: &mut [Deployment], start: Instant) -> Ending {
    let mut forgotten = Vec::new();
    let mut deleted = BTreeMap::new();
    let mut standing: Vec<Fault> = Vec::new();
    for (at, act) in &schedule.acts {
        sleep_until(start + *at).await;
        let (deployment, act) = match act {
            Act::InSecond(act) => (&mut deployments[1], &**act),
            act => (&mut deployments[0], act),
        };
        let note = |text: String| with(&deployment.fleet, |fleet| fleet.note(text));
        match act {
            Act::Send(request) => deployment.send(request.to_string()),
            Act::SendText(text) => deployment.send(text.clone()),
            Act::SendLate(request) => deployment.send_late(request.to_string()),
            Act::Ask { action, request, by_run_id, timeless } => {
                deployment.ask(action, *request, *by_run_id, *timeless);
            }
            Act::Fault(fault) => {
                emulator.fault(fault.clone());
                if fault.when != When::Always {
                    standing.push(fault.clone());
                }
                note(format!("FAULT {fault:?}"));
            }
            Act::Calm => {
                emulator.clear_faults();
                for fault in &standing {
                    if matches!(fault.when, When::Probability(_)) {
                        emulator.fault(fault.clone());
                    }
                }
                note("the outages are over".to_owned());
            }
            Act::Mishap(trouble, when) => emulator.mishap(trouble.clone(), *when),
            Act::Config(Some(text)) => {
                emulator.put_object(BUCKET, CONFIG, text.clone());
                note(format!("the configuration is {text}"));
            }
            Act::Config(None) => {
                emulator.delete_object(BUCKET, CONFIG);
                note("the configuration is gone".to_owned());
            }
            Act::Restart(index) => with(&deployment.fleet, |fleet| fleet.restart(*index)),
            Act::Forget => {
                forgotten.extend(forget(emulator));
                note("Dataproc forgets what has ended".to_owned());
            }
            Act::DeleteRecord(number) => {
                if let Some(run) = deployment.delete_record(*number) {
                    note(format!("the record of {run} is deleted"));
                    deleted.insert(run, emulator.now());
                }
            }
            Act::Foreign(pending) => {
                emulator.begin_foreign_workflow("projects/test-project/regions/us-central1", "theirs", *pending);
            }
            Act::InSecond(_) => unreachable!("not within itself"),
        }
    }
    sleep_until(start + schedule.calm_after).await;
    emulator.clear_faults();
    emulator.disorder(Default::default());
    emulator.put_object(BUCKET, CONFIG, config("default", FIRST.name));
    for deployment in &*deployments {
        with(&deployment.fleet, |fleet| {
            fleet.habits = Habits { crash: 0.0, lose_ack: 0.0, miss_tick: 0.0, double_tick: 0.0 };
            fleet.note("CALM".to_owned());
        });
    }
    let patience = patience(schedule);
    let every = if patience > PATIENCE { RARE_TICKS } else { Duration::from_secs(60) };
    for deployment in &*deployments {
        emulator.start_ticks_every(deployment.places.ticks, every);
    }
    let quiet = async {
        loop {
            sleep(every / 2).await;
            if deployments.iter().all(|it| it.objects("active/").is_empty() && it.unacknowledged() == 0) {
                return emulator.now();
            }
        }
    };
    let quiet = tokio::time::timeout(patience, quiet).await.ok();
    let said = deployments.iter().map(|it| emulator.published(it.places.responses).len()).collect();
    if quiet.is_some() {
        sleep(every * TICKS_AFTERWARDS).await;
    }
    Ending { forgotten, deleted, quiet, said }
}

/// From the calm to the time when everything must have ended.
fn patience(schedule: &Schedule) -> Duration {
    let last = schedule.hardships.iter().map(|hardship| hardship.until.unwrap_or(Duration::MAX)).max();
    match last {
        Some(Duration::MAX) => PATIENCE_FOR_EVER,
        last => PATIENCE + last.unwrap_or_default().saturating_sub(schedule.calm_after),
    }
}

/// Dataproc knows nothing any more of what has ended. Not of the only trace of a submission: nobody could know of it then.
fn forget(emulator: &Emulator) -> Vec<String> {
    let recorded: Vec<String> = [FIRST, SECOND]
        .iter()
        .flat_map(|places| emulator.objects(places.bucket))
        .filter(|(name, _)| name.starts_with("runs/"))
        .map(|(_, content)| String::from_utf8_lossy(&content).into_owned())
        .collect();
    let known = |it: &Workflow| recorded.iter().any(|record| record.contains(&it.name));
    let workflows = emulator.workflows();
    let ended = workflows.iter().filter(|it| it.phase == Phase::Done && known(it));
    ended.filter(|it| emulator.forget_operation(&it.name)).map(|it| it.name.clone()).collect()
}

fn history(
    schedule: &Schedule,
    world: &World,
    deployment: Deployment,
    ending: &Ending,
    workflows: &[Workflow],
    calls: &[inline_workflow_emulator::Call],
) -> History {
    let Deployment { places, fleet, .. } = &deployment;
    let emulator = &world.emulator;
    let (notes, slowest, handled) =
        with(fleet, |fleet| (std::mem::take(&mut fleet.notes), fleet.slowest, std::mem::take(&mut fleet.handled)));
    let records = emulator.objects(places.bucket).into_iter().filter_map(|(name, content)| {
        let run = name.strip_prefix("runs/")?.strip_suffix(".json")?.to_owned();
        Some((run, serde_json::from_slice(&content).unwrap_or(Value::Null)))
    });
    let times = emulator.published(places.responses).into_iter().map(|message| {
        let time = message.publish_time.unwrap_or_default();
        DateTime::from_timestamp(time.seconds, time.nanos as u32).expect("a time")
    });
    let said: Vec<_> = times.zip(world.said_on(places.responses)).collect();
    // A call that was stuck on its way may repeat what has been said.
    let (before, late) = said.split_at(ending.said[usize::from(places.name == SECOND.name)]);
    let said_late = late.iter().filter(|(_, said)| !before.iter().any(|(_, earlier)| earlier.id == said.id)).count();
    let is_own = |it: &&Workflow| it.labels.get("deployment").is_some_and(|name| name == places.name);
    let is_hidden = |it: &dimensions::Hardship| it.may_hide_outcomes(schedule.calm_after);
    // A workflow that has no name for so long may be any run's.
    let is_foreign = |(_, act): &(Duration, Act)| matches!(act, Act::Foreign(pending) if *pending >= dimensions::LONG);
    History {
        seed: schedule.seed,
        base: world.base,
        settings: settings(schedule),
        said_late,
        said,
        workflows: workflows.iter().filter(is_own).cloned().collect(),
        records: records.collect(),
        markers: deployment.objects("active/"),
        unacknowledged: deployment.unacknowledged(),
        panics: Vec::new(),
        calls: calls.to_vec(),
        slowest,
        handled,
        quiet: ending.quiet,
        calm: world.base + TimeDelta::from_std(calm(schedule)).expect("a short time"),
        may_hide_outcomes: schedule.hardships.iter().any(is_hidden) || schedule.acts.iter().any(is_foreign),
        is_gentle: is_gentle(schedule),
        max_request_age: max_request_age(schedule),
        forgotten: ending.forgotten.clone(),
        deleted: if places.name == FIRST.name { ending.deleted.clone() } else { BTreeMap::new() },
        notes,
        asked: deployment.asked,
    }
}

/// From then on nothing goes wrong any more but with Dataproc.
fn calm(schedule: &Schedule) -> Duration {
    let of_others = schedule.hardships.iter().filter(|hardship| !hardship.is_of_dataproc());
    of_others.filter_map(|hardship| hardship.until).chain([schedule.calm_after]).max().unwrap_or_default()
}

/// Whether no call and no instance fails, and nothing is taken away.
fn is_gentle(schedule: &Schedule) -> bool {
    let is_hard = |(_, act): &(Duration, Act)| {
        matches!(act, Act::Fault(_) | Act::Config(_) | Act::Restart(_) | Act::DeleteRecord(_) | Act::Forget)
    };
    let Habits { crash, .. } = schedule.habits;
    schedule.hardships.is_empty()
        && crash == 0.0
        && !schedule.options.one_write_a_second
        && !schedule.acts.iter().any(is_hard)
}

/// How old a request becomes at most, as the schedule or the code says.
fn max_request_age(schedule: &Schedule) -> TimeDelta {
    let name = inline_workflow::environment::ENV_MAX_REQUEST_AGE;
    let set = schedule.variables.iter().find(|(variable, _)| *variable == name);
    TimeDelta::seconds(set.map_or(21_600, |(_, seconds)| seconds.parse().expect("a number")))
}

fn settings(schedule: &Schedule) -> String {
    let Schedule {
        variables, options, skews, disorder, habits, calm_after, audit_events, dimensions, hardships, ..
    } = schedule;
    let one_write_a_second = options.one_write_a_second;
    format!(
        "{dimensions:?} {hardships:#?}\n{variables:?}\n{:?}\nskews {skews:?} {disorder:?} {habits:?} audit events {audit_events}, one write a second \
         {one_write_a_second}, calm after {calm_after:?}",
        options.dataproc
    )
}
