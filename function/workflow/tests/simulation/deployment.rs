//! One deployment of the function: its instances, what reaches them, and what is sent to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use cloudevents::{AttributesReader, Event};
use fastrand::Rng;
use futures::FutureExt;
use gcloud_sdk::google::pubsub::v1::PubsubMessage;
use http::{Request, StatusCode, request::Parts};
use inline_workflow::{
    clock::Clock,
    context::{Context, Reaches},
    environment::{self, Environment},
    handle::handle,
    request,
};
use inline_workflow_emulator::{Disorder, Emulator, PushSubscription};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    dimensions,
    history::Asked,
    schedule::{Habits, Schedule, config, pick},
    support::{BUCKET, CONFIG, REQUESTS, RESPONSES, TICKS, World},
};

/// What a deployment does not share with another.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub name: &'static str,
    pub bucket: &'static str,
    pub requests: &'static str,
    pub responses: &'static str,
    pub ticks: &'static str,
    pub subscription: &'static str,
}

pub const FIRST: Places = Places {
    name: "first",
    bucket: BUCKET,
    requests: REQUESTS,
    responses: RESPONSES,
    ticks: TICKS,
    subscription: "projects/test-project/subscriptions/requests",
};
pub const SECOND: Places = Places {
    name: "second",
    bucket: "second-staging",
    requests: "projects/test-project/topics/second-requests",
    responses: "projects/test-project/topics/second-responses",
    ticks: "projects/test-project/topics/second-ticks",
    subscription: "projects/test-project/subscriptions/second-requests",
};

pub struct Deployment {
    pub places: Places,
    pub fleet: Shared,
    pub asked: Vec<Asked>,
    emulator: Emulator,
    disorder: Disorder,
    job_name: &'static str,
}

impl Deployment {
    /// Starts its instances, and the deliveries to it.
    pub fn start(world: &mut World, schedule: &Schedule, places: Places, start: Instant) -> Deployment {
        let emulator = world.emulator.clone();
        emulator.put_object(places.bucket, CONFIG, config("default", places.name));
        emulator.create_topic(places.responses);
        world.set(environment::ENV_STAGING_BUCKET, places.bucket);
        world.set(environment::ENV_RESPONSE_TOPIC, places.responses);
        world.set(environment::ENV_TICK_TOPIC, places.ticks);
        let reach = world.reach();
        let seed = schedule.seed.wrapping_mul(7919).wrapping_add(places.name.len() as u64);
        let mut fleet = Fleet {
            instances: Vec::new(),
            environment: world.environment(),
            reaches: Reaches { storage: reach.clone(), dataproc: reach.clone(), pubsub: reach },
            habits: schedule.habits,
            rng: Rng::with_seed(seed),
            slowest: 0,
            timeless: BTreeSet::new(),
            handled: BTreeMap::new(),
            notes: Vec::new(),
            base: world.base,
            start,
        };
        for skew in &schedule.skews {
            let clock = Clock::Runtime { base: world.base + *skew, start };
            let cx = fleet.context(clock);
            fleet.instances.push(Instance { clock, cx, life: watch::Sender::new(0) });
        }
        let endpoint = places.endpoint();
        let ticks = places.ticks.replace("/topics/", "/subscriptions/");
        emulator.push_subscription(&PushSubscription::eventarc(places.subscription, places.requests, &endpoint));
        emulator.push_subscription(&PushSubscription::eventarc(&ticks, places.ticks, &endpoint));
        emulator.start_ticks(places.ticks);
        Deployment {
            places,
            fleet: Arc::new(Mutex::new(fleet)),
            asked: Vec::new(),
            emulator,
            disorder: schedule.disorder,
            job_name: dimensions::job_name(&schedule.dimensions),
        }
    }

    pub fn send(&mut self, text: String) {
        let message = PubsubMessage { data: text.clone().into_bytes(), ..PubsubMessage::default() };
        let id = self.emulator.publish(self.places.requests, message);
        let (request, faults) = request::decode(text.as_bytes());
        let run = request.run_id.unwrap_or_else(|| request::run_id(&request, self.places.requests, &id));
        self.asked.push(Asked {
            id,
            at: self.emulator.now(),
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
        });
    }

    /// Sends what is delivered some minutes later.
    pub fn send_late(&mut self, text: String) {
        self.emulator.disorder(Disorder { duplicate: 0.0, reorder: 1.0, spread: Duration::from_secs(600) });
        self.send(text);
        self.emulator.disorder(self.disorder);
    }

    /// A message about a run, by the id that its sender would know it by.
    pub fn ask(&mut self, action: &str, number: usize, by_run_id: bool, timeless: bool) {
        self.send(about(action, (self.job_name, number), by_run_id, &self.asked).to_string());
        if let Some(asked) = self.asked.last().filter(|_| timeless) {
            with(&self.fleet, |fleet| fleet.timeless.insert(asked.id.clone()));
        }
    }

    /// Deletes the record of a request, if there is one. Of which run.
    pub fn delete_record(&self, number: usize) -> Option<String> {
        let asked = self.asked.iter().filter(|asked| asked.action == "run").nth(number)?;
        let deleted = self.emulator.delete_object(self.places.bucket, &format!("runs/{}.json", asked.run_id));
        deleted.then(|| asked.run_id.clone())
    }

    pub fn objects(&self, prefix: &str) -> Vec<String> {
        self.emulator.objects(self.places.bucket).into_keys().filter(|name| name.starts_with(prefix)).collect()
    }

    pub fn unacknowledged(&self) -> usize {
        self.emulator.unacknowledged(self.places.subscription)
    }
}

impl Places {
    pub fn endpoint(&self) -> String {
        format!("http://{}/", self.name)
    }
}

/// An instance of the function: what it was started with, and what is lost when it dies.
struct Instance {
    clock: Clock,
    cx: Context,
    /// Counts its lives.
    life: watch::Sender<u64>,
}

/// All that deliveries to one deployment share.
pub struct Fleet {
    instances: Vec<Instance>,
    environment: Environment,
    reaches: Reaches,
    pub habits: Habits,
    rng: Rng,
    pub slowest: u128,
    /// Messages that do not tell when they were published.
    timeless: BTreeSet<String>,
    /// When the function was first done with a message.
    pub handled: BTreeMap<String, DateTime<Utc>>,
    pub notes: Vec<(DateTime<Utc>, String)>,
    base: DateTime<Utc>,
    start: Instant,
}

pub type Shared = Arc<Mutex<Fleet>>;

pub fn with<T>(fleet: &Shared, act: impl FnOnce(&mut Fleet) -> T) -> T {
    act(&mut fleet.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Fleet {
    fn now(&self) -> DateTime<Utc> {
        self.base + TimeDelta::from_std(self.start.elapsed()).expect("a short time")
    }

    pub fn note(&mut self, text: String) {
        self.notes.push((self.now(), text));
    }

    fn context(&mut self, clock: Clock) -> Context {
        let random = Rng::with_seed(self.rng.u64(..));
        Context::new(self.environment.clone(), self.reaches.clone(), clock, random)
    }

    /// A new life: no connection, no cache, and everything under way is cut off.
    pub fn restart(&mut self, index: usize) {
        let index = index % self.instances.len();
        self.note(format!("instance {index} dies and starts anew"));
        let cx = self.context(self.instances[index].clock);
        let instance = &mut self.instances[index];
        instance.cx = cx;
        instance.life.send_modify(|life| *life += 1);
    }

    /// Takes the time out of a message that shall not have one.
    fn without_time(&self, mut head: Parts, body: Bytes) -> (Parts, Bytes) {
        let id = head.headers.get("ce-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        if !self.timeless.contains(id) {
            return (head, body);
        }
        head.headers.remove("ce-time");
        let mut content: Value = serde_json::from_slice(&body).expect("a push body");
        if let Some(message) = content["message"].as_object_mut() {
            message.retain(|key, _| !matches!(key.as_str(), "publishTime" | "publish_time"));
        }
        (head, content.to_string().into())
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.rng.f64() < probability
    }
}

/// A message about a run, by the id that its sender would know it by.
fn about(action: &str, (job_name, number): (&str, usize), by_run_id: bool, asked: &[Asked]) -> Value {
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
        _ => json!({ "action": action, "job_name": job_name, "request_id": request_id }),
    }
}

/// An event reaches the deployment. The answer that the one who delivers it sees.
pub async fn delivered(fleet: Shared, request: Request<Bytes>) -> StatusCode {
    let (head, body) = request.into_parts();
    let (head, body) = with(&fleet, |fleet| fleet.without_time(head, body));
    let event = match functions_framework::decode(&head, body) {
        Ok(event) => event,
        Err(error) => panic!("the emulator sends what is no event: {error}"),
    };
    let is_tick = event.source().as_str().ends_with("ticks");
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
    let (id, is_tick) = (event.id().to_owned(), event.source().as_str().ends_with("ticks"));
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
        if status.is_success() && !is_tick {
            let now = fleet.now();
            fleet.handled.entry(id).or_insert(now);
        }
        fleet.note(format!("instance {index} with {name} {end}"));
    });
    status
}
