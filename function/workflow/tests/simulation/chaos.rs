//! Lets a schedule happen: one thread, a clock that only moves when everybody waits, and every draw from one seed.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use cloudevents::{AttributesReader, Event};
use fastrand::Rng;
use futures::FutureExt;
use gcloud_sdk::google::pubsub::v1::PubsubMessage;
use http::{Request, StatusCode};
use inline_workflow::{
    clock::Clock,
    context::{Context, Reaches},
    environment::Environment,
    handle::handle,
    request,
};
use inline_workflow_emulator::{Options, Phase, Push, PushSubscription};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    history::{Asked, History},
    schedule::{Act, Habits, Schedule, arranged, config, pick},
    support::{BUCKET, CONFIG, PROJECT, REQUESTS, RESPONSES, TICKS, World},
};

const SUBSCRIPTION: &str = "projects/test-project/subscriptions/requests";
/// By then everything must have ended: the longest waits are the retries' of capacity, six hours the oldest request.
const PATIENCE: Duration = Duration::from_secs(12 * 3600);
/// Ticks after the end, in which nothing must happen any more.
const AFTERWARDS: Duration = Duration::from_secs(300);

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

pub fn run(schedule: Schedule) -> History {
    watch_for_panics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let history = runtime.expect("a runtime").block_on(live(schedule));
    let panics = PANICS.take().unwrap_or_default();
    History { panics, ..history }
}

/// An instance of the function: what it was started with, and what is lost when it dies.
struct Instance {
    clock: Clock,
    cx: Context,
    /// Counts its lives.
    life: watch::Sender<u64>,
}

/// All that deliveries share.
struct Fleet {
    instances: Vec<Instance>,
    environment: Environment,
    reaches: Reaches,
    habits: Habits,
    rng: Rng,
    slowest: u128,
    notes: Vec<(DateTime<Utc>, String)>,
    base: DateTime<Utc>,
    start: Instant,
}

type Shared = Arc<Mutex<Fleet>>;

fn with<T>(fleet: &Shared, act: impl FnOnce(&mut Fleet) -> T) -> T {
    act(&mut fleet.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Fleet {
    fn now(&self) -> DateTime<Utc> {
        self.base + TimeDelta::from_std(self.start.elapsed()).expect("a short time")
    }

    fn note(&mut self, text: String) {
        self.notes.push((self.now(), text));
    }

    fn context(&mut self, clock: Clock) -> Context {
        let random = Rng::with_seed(self.rng.u64(..));
        Context::new(self.environment.clone(), self.reaches.clone(), clock, random)
    }

    /// A new life: no connection, no cache, and everything under way is cut off.
    fn restart(&mut self, index: usize) {
        let index = index % self.instances.len();
        self.note(format!("instance {index} dies and starts anew"));
        let cx = self.context(self.instances[index].clock);
        let instance = &mut self.instances[index];
        instance.cx = cx;
        instance.life.send_modify(|life| *life += 1);
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.rng.f64() < probability
    }
}

async fn live(schedule: Schedule) -> History {
    let start = Instant::now();
    let mut world = World::with(Options { ..schedule.options.clone() });
    for (name, value) in &schedule.variables {
        world.set(name, value);
    }
    world.emulator.put_object(BUCKET, CONFIG, config("default"));
    for (step, outcome) in arranged() {
        world.emulator.on_step(step, outcome);
    }
    let reach = world.reach();
    let mut fleet = Fleet {
        instances: Vec::new(),
        environment: world.environment(),
        reaches: Reaches { storage: reach.clone(), dataproc: reach.clone(), pubsub: reach },
        habits: schedule.habits,
        rng: Rng::with_seed(schedule.seed.wrapping_mul(7919)),
        slowest: 0,
        notes: Vec::new(),
        base: world.base,
        start,
    };
    for skew in &schedule.skews {
        let clock = Clock::Runtime { base: world.base + *skew, start };
        let cx = fleet.context(clock);
        fleet.instances.push(Instance { clock, cx, life: watch::Sender::new(0) });
    }
    let fleet = Arc::new(Mutex::new(fleet));

    let emulator = world.emulator.clone();
    emulator.disorder(schedule.disorder);
    emulator.push(Push::with({
        let fleet = fleet.clone();
        move |request| delivered(fleet.clone(), request)
    }));
    emulator.push_subscription(&PushSubscription::eventarc(SUBSCRIPTION, REQUESTS, "http://function/"));
    let ticks = "projects/test-project/subscriptions/ticks";
    emulator.push_subscription(&PushSubscription::eventarc(ticks, TICKS, "http://function/"));
    emulator.start_ticks(TICKS);
    if schedule.audit_events {
        emulator.start_audit_events(PROJECT, "http://function/");
    }

    let mut asked = Vec::new();
    let mut forgotten = Vec::new();
    let mut standing = Vec::new();
    for (at, act) in &schedule.acts {
        sleep_until(start + *at).await;
        match act {
            Act::Send(request) => {
                let request = request.clone();
                asked.push(send(&world, request.to_string()));
            }
            Act::SendText(text) => asked.push(send(&world, text.clone())),
            Act::Ask { action, request, by_run_id } => {
                let text = about(action, *request, *by_run_id, &asked).to_string();
                asked.push(send(&world, text));
            }
            Act::Fault(fault) => {
                emulator.fault(fault.clone());
                if fault.when != inline_workflow_emulator::When::Always {
                    standing.push(fault.clone());
                }
                with(&fleet, |fleet| fleet.note(format!("FAULT {fault:?}")));
            }
            Act::Calm => {
                emulator.clear_faults();
                for fault in &standing {
                    if matches!(fault.when, inline_workflow_emulator::When::Probability(_)) {
                        emulator.fault(fault.clone());
                    }
                }
                with(&fleet, |fleet| fleet.note("the outages are over".to_owned()));
            }
            Act::Mishap(trouble, when) => emulator.mishap(trouble.clone(), *when),
            Act::Config(Some(text)) => {
                emulator.put_object(BUCKET, CONFIG, text.clone());
                with(&fleet, |fleet| fleet.note(format!("the configuration is {text}")));
            }
            Act::Config(None) => {
                emulator.delete_object(BUCKET, CONFIG);
                with(&fleet, |fleet| fleet.note("the configuration is gone".to_owned()));
            }
            Act::Restart(index) => with(&fleet, |fleet| fleet.restart(*index)),
            Act::Forget => {
                // Not the only trace of a submission: nobody could know of it then.
                let recorded: Vec<String> = emulator
                    .objects(BUCKET)
                    .into_iter()
                    .filter(|(name, _)| name.starts_with("runs/"))
                    .map(|(_, content)| String::from_utf8_lossy(&content).into_owned())
                    .collect();
                let known = |name: &str| recorded.iter().any(|record| record.contains(name));
                let workflows = emulator.workflows();
                for workflow in workflows.iter().filter(|it| it.phase == Phase::Done && known(&it.name)) {
                    emulator.forget_operation(&workflow.name);
                    forgotten.push(workflow.name.clone());
                }
                with(&fleet, |fleet| fleet.note("Dataproc forgets what has ended".to_owned()));
            }
        }
    }
    sleep_until(start + schedule.calm_after).await;
    emulator.clear_faults();
    emulator.disorder(Default::default());
    emulator.put_object(BUCKET, CONFIG, config("default"));
    with(&fleet, |fleet| {
        fleet.habits = Habits { crash: 0.0, lose_ack: 0.0, miss_tick: 0.0, double_tick: 0.0 };
        fleet.note("CALM".to_owned());
    });

    let quiet = async {
        loop {
            sleep(Duration::from_secs(30)).await;
            if world.objects("active/").is_empty() && emulator.unacknowledged(SUBSCRIPTION) == 0 {
                return emulator.now();
            }
        }
    };
    let quiet = tokio::time::timeout(PATIENCE, quiet).await.ok();
    let said = world.said().len();
    if quiet.is_some() {
        sleep(AFTERWARDS).await;
    }
    // A call that was stuck on its way may repeat what has been said.
    let all = world.said();
    let (before, late) = all.split_at(said);
    let said_late = late.iter().filter(|said| !before.iter().any(|earlier| earlier.id == said.id)).count();
    // The emulator holds the fleet, and the fleet the emulator.
    emulator.push(Push::Held);

    let (notes, slowest) = with(&fleet, |fleet| (std::mem::take(&mut fleet.notes), fleet.slowest));
    let records = emulator.objects(BUCKET).into_iter().filter_map(|(name, content)| {
        let run = name.strip_prefix("runs/")?.strip_suffix(".json")?.to_owned();
        Some((run, serde_json::from_slice(&content).unwrap_or(Value::Null)))
    });
    let times = emulator.published(RESPONSES).into_iter().map(|message| {
        let time = message.publish_time.unwrap_or_default();
        DateTime::from_timestamp(time.seconds, time.nanos as u32).expect("a time")
    });
    History {
        seed: schedule.seed,
        base: world.base,
        settings: settings(&schedule),
        said: times.zip(world.said()).collect(),
        said_late,
        workflows: emulator.workflows(),
        records: records.collect::<BTreeMap<_, _>>(),
        markers: world.objects("active/"),
        unacknowledged: emulator.unacknowledged(SUBSCRIPTION),
        panics: Vec::new(),
        calls: emulator.calls(),
        asked,
        slowest,
        quiet,
        forgotten,
        notes,
    }
}

fn settings(schedule: &Schedule) -> String {
    let Schedule { variables, options, skews, disorder, habits, calm_after, audit_events, .. } = schedule;
    let one_write_a_second = options.one_write_a_second;
    format!(
        "{variables:?}\n{:?}\nskews {skews:?} {disorder:?} {habits:?} audit events {audit_events}, one write a second \
         {one_write_a_second}, calm after {calm_after:?}",
        options.dataproc
    )
}

fn send(world: &World, text: String) -> Asked {
    let message = PubsubMessage { data: text.clone().into_bytes(), ..PubsubMessage::default() };
    let id = world.emulator.publish(REQUESTS, message);
    let (request, faults) = request::decode(text.as_bytes());
    let run = request.run_id.unwrap_or_else(|| request::run_id(&request, REQUESTS, &id));
    Asked {
        id,
        at: world.emulator.now(),
        action: match request.action {
            request::Action::Run => "run",
            request::Action::Validate => "validate",
            request::Action::Cancel => "cancel",
            request::Action::Status => "status",
        },
        legible: faults.is_empty() && !text.contains("no_such_field"),
        run_id: run.to_string(),
        digest: request.digest(),
        text,
    }
}

/// A message about a run, by the id that its sender would know it by.
fn about(action: &str, number: usize, by_run_id: bool, asked: &[Asked]) -> Value {
    let request_id = format!("request-{number}");
    let sent = asked.iter().filter(|asked| asked.action == "run");
    // Without a request_id only the run's id tells.
    let known = match sent.clone().find(|asked| asked.text.contains(&request_id)) {
        Some(found) => Some(found),
        None => sent.clone().find(|asked| !asked.text.contains("request_id")),
    };
    match known {
        Some(known) if by_run_id || !known.text.contains("request_id") => {
            json!({ "action": action, "run_id": known.run_id })
        }
        _ => json!({ "action": action, "job_name": "word-count", "request_id": request_id }),
    }
}

/// An event reaches the function. The answer that the one who delivers it sees.
async fn delivered(fleet: Shared, request: Request<Bytes>) -> StatusCode {
    let (head, body) = request.into_parts();
    let event = match functions_framework::decode(&head, body) {
        Ok(event) => event,
        Err(error) => panic!("the emulator sends what is no event: {error}"),
    };
    let is_tick = event.source().as_str().ends_with(TICKS);
    let (missed, twice, lost) = with(&fleet, |fleet| {
        let habits = fleet.habits;
        let missed = is_tick && fleet.chance(habits.miss_tick);
        (missed, is_tick && fleet.chance(habits.double_tick), fleet.chance(habits.lose_ack))
    });
    if missed {
        return StatusCode::NO_CONTENT;
    }
    let status = match twice {
        true => {
            let (one, two) = tokio::join!(handled(&fleet, event.clone()), handled(&fleet, event));
            one.max(two)
        }
        false => handled(&fleet, event).await,
    };
    match lost {
        true => StatusCode::BAD_GATEWAY,
        false => status,
    }
}

/// One instance deals with an event, or dies over it.
async fn handled(fleet: &Shared, event: Event) -> StatusCode {
    let name = format!("{} {}", event.source().as_str().rsplit('/').next().unwrap_or_default(), event.id());
    let (index, cx, mut life, polls, lifetime) = with(fleet, |fleet| {
        let index = fleet.rng.usize(..fleet.instances.len());
        let crash = fleet.habits.crash;
        let polls = *pick(&mut fleet.rng, &[8, 30, 90]);
        // At one of its awaits, or at some time.
        let (polls, lifetime) = match (fleet.chance(crash), fleet.rng.bool()) {
            (true, true) => (Some(fleet.rng.u32(0..polls)), None),
            (true, false) => (None, Some(Duration::from_millis(fleet.rng.u64(0..8500)))),
            _ => (None, None),
        };
        fleet.note(format!("instance {index} gets {name}"));
        let instance = &fleet.instances[index];
        (index, instance.cx.clone(), instance.life.subscribe(), polls, lifetime)
    });
    let began = Instant::now();
    let mut polls = polls;
    let mut handling = Box::pin(AssertUnwindSafe(handle(cx, event)).catch_unwind());
    let handling = std::future::poll_fn(move |task| match polls {
        Some(0) => std::task::Poll::Ready(None),
        _ => {
            polls = polls.map(|polls| polls - 1);
            handling.as_mut().poll(task).map(Some)
        }
    });
    let death = async {
        match lifetime {
            Some(lifetime) => sleep(lifetime).await,
            None => std::future::pending().await,
        }
    };
    let (end, status) = tokio::select! {
        biased;
        _ = life.changed() => ("was cut off".to_owned(), StatusCode::BAD_GATEWAY),
        result = handling => match result {
            Some(Ok(Ok(()))) => ("is done".to_owned(), StatusCode::NO_CONTENT),
            Some(Ok(Err(error))) => (format!("fails: {error}"), StatusCode::SERVICE_UNAVAILABLE),
            Some(Err(_)) => ("panicked".to_owned(), StatusCode::INTERNAL_SERVER_ERROR),
            None => {
                with(fleet, |fleet| fleet.restart(index));
                ("crashed".to_owned(), StatusCode::BAD_GATEWAY)
            }
        },
        () = death => {
            with(fleet, |fleet| fleet.restart(index));
            ("crashed".to_owned(), StatusCode::BAD_GATEWAY)
        }
    };
    with(fleet, |fleet| {
        fleet.slowest = fleet.slowest.max(began.elapsed().as_millis());
        fleet.note(format!("instance {index} with {name} {end}"));
    });
    status
}
