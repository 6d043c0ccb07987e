//! A function and the Google Cloud it needs, in one process, in memory and in virtual time.

#![allow(dead_code, reason = "each test program uses its own part of it")]

pub mod binary;
pub mod official;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use cloudevents::{Event, EventBuilder, EventBuilderV10};
use inline_workflow::{
    clock::Clock,
    context::{Context, Reaches},
    environment::{self, Environment},
    error::Error,
    google::{Io, Reach},
    handle::handle,
};
use inline_workflow_emulator::{Emulator, Options};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

pub const PROJECT: &str = "test-project";
pub const BUCKET: &str = "staging";
pub const REQUESTS: &str = "projects/test-project/topics/requests";
pub const RESPONSES: &str = "projects/test-project/topics/responses";
pub const TICKS: &str = "projects/test-project/topics/ticks";
pub const CONFIG: &str = "config/cluster-config.json";

pub struct World {
    pub emulator: Emulator,
    pub base: DateTime<Utc>,
    start: Instant,
    variables: BTreeMap<&'static str, String>,
    instances: u64,
    messages: std::cell::Cell<u64>,
}

/// An event of the response topic.
#[derive(Clone, Debug)]
pub struct Said {
    /// The last word of its type.
    pub kind: String,
    pub id: String,
    pub sequence: u64,
    pub attributes: BTreeMap<String, String>,
    pub data: Value,
}

impl World {
    pub fn new() -> World {
        World::with(Options::default())
    }

    pub fn with(options: Options) -> World {
        let base = "2026-03-01T12:00:00Z".parse().expect("a time");
        let emulator = Emulator::new(Options { now: Some(base), ..options });
        emulator.create_topic(RESPONSES);
        let config = json!({
            "default_cluster_config": { "cluster_name": "default", "config": { "gce_cluster_config": { "zone_uri": "us-central1-a" } } },
        });
        emulator.put_object(BUCKET, CONFIG, config.to_string());
        emulator.put_object(BUCKET, "scripts/ok.py", "print()");
        World {
            emulator,
            base,
            start: Instant::now(),
            variables: BTreeMap::from([
                (environment::ENV_PROJECT, PROJECT.to_owned()),
                (environment::ENV_REGION, "us-central1".to_owned()),
                (environment::ENV_STAGING_BUCKET, BUCKET.to_owned()),
                (environment::ENV_RESPONSE_TOPIC, RESPONSES.to_owned()),
                (environment::ENV_TICK_TOPIC, TICKS.to_owned()),
            ]),
            instances: 0,
            messages: 0.into(),
        }
    }

    /// Sets a variable for the instances that start from now on.
    pub fn set(&mut self, name: &'static str, value: &str) -> &mut World {
        self.variables.insert(name, value.to_owned());
        self
    }

    /// A new instance of the function, with a connection of its own to every service.
    pub fn instance(&mut self) -> Context {
        self.instance_with_skew(TimeDelta::zero())
    }

    /// The same, with a clock that is ahead (or behind) by so much.
    pub fn instance_with_skew(&mut self, skew: TimeDelta) -> Context {
        let reach = self.reach();
        self.instance_with(Reaches { storage: reach.clone(), dataproc: reach.clone(), pubsub: reach }, skew)
    }

    /// The same, with another way to the services.
    pub fn instance_with(&mut self, reaches: Reaches, skew: TimeDelta) -> Context {
        self.instances += 1;
        let environment = self.environment();
        let clock = Clock::Runtime { base: self.base + skew, start: self.start };
        Context::new(environment, reaches, clock, fastrand::Rng::with_seed(self.instances))
    }

    /// What the instances that start now see.
    pub fn environment(&self) -> Environment {
        Environment::from_lookup(|name| self.variables.get(name).cloned()).expect("an environment")
    }

    /// The way to the emulator's services, over streams in memory.
    pub fn reach(&self) -> Reach {
        let emulator = self.emulator.clone();
        Reach::Memory(Arc::new(move || {
            let emulator = emulator.clone();
            Box::pin(async move {
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move { emulator.serve_connection(theirs).await });
                Ok(Box::new(ours) as Box<dyn Io>)
            })
        }))
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.base + TimeDelta::from_std(self.start.elapsed()).expect("a short test")
    }

    /// The event of a new request message.
    pub fn request(&self, request: &Value) -> Event {
        self.request_text(request.to_string().as_bytes())
    }

    pub fn request_text(&self, data: &[u8]) -> Event {
        self.messages.set(self.messages.get() + 1);
        message(REQUESTS, &format!("m{}", self.messages.get()), data, self.now())
    }

    /// The events said so far, in the order of their publication.
    pub fn said(&self) -> Vec<Said> {
        self.said_on(RESPONSES)
    }

    /// The same on another topic of responses.
    pub fn said_on(&self, topic: &str) -> Vec<Said> {
        self.emulator
            .published(topic)
            .into_iter()
            .map(|message| {
                let attributes: BTreeMap<String, String> = message.attributes.into_iter().collect();
                Said {
                    kind: attributes["ce-type"].rsplit('.').next().unwrap_or_default().to_owned(),
                    id: attributes["ce-id"].clone(),
                    sequence: attributes["ce-sequence"].parse().expect("a number"),
                    data: serde_json::from_slice(&message.data).expect("JSON"),
                    attributes,
                }
            })
            .collect()
    }

    /// The kinds of the events said so far.
    pub fn kinds(&self) -> Vec<String> {
        self.said().into_iter().map(|said| said.kind).collect()
    }

    /// How many events of that kind were said.
    pub fn count(&self, kind: &str) -> usize {
        self.kinds().iter().filter(|said| *said == kind).count()
    }

    /// One minute passes, and the scheduler's tick comes.
    pub async fn tick(&self, cx: &Context) {
        sleep(Duration::from_secs(60)).await;
        handle(cx.clone(), message(TICKS, "tick", b"", self.now())).await.expect("ticks are acked");
    }

    pub async fn ticks(&self, cx: &Context, count: usize) {
        for _ in 0..count {
            self.tick(cx).await;
        }
    }

    /// The names of the objects below a prefix.
    pub fn objects(&self, prefix: &str) -> Vec<String> {
        self.emulator.objects(BUCKET).into_keys().filter(|name| name.starts_with(prefix)).collect()
    }

    /// The only record there is.
    pub fn record(&self) -> Value {
        let names = self.objects("runs/");
        assert_eq!(names.len(), 1, "{names:?}");
        let content = self.emulator.object(BUCKET, &names[0]).expect("just listed");
        serde_json::from_slice(&content).expect("JSON")
    }
}

/// Hands an event to an instance.
pub async fn deliver(cx: &Context, event: &Event) -> Result<(), Error> {
    handle(cx.clone(), event.clone()).await
}

/// A Pub/Sub message as Eventarc delivers it.
pub fn message(topic: &str, id: &str, data: &[u8], published: DateTime<Utc>) -> Event {
    let published = published.to_rfc3339_opts(SecondsFormat::Millis, true);
    let data = json!({
        "message": { "data": BASE64.encode(data), "messageId": id, "publishTime": published, "attributes": { "caller": "test" } },
        "subscription": "projects/test-project/subscriptions/s",
    });
    EventBuilderV10::new()
        .id(id)
        .source(format!("//pubsub.googleapis.com/{topic}"))
        .ty("google.cloud.pubsub.topic.v1.messagePublished")
        .time(published.as_str())
        .data("application/json", data)
        .build()
        .expect("an event")
}

/// A request of one step that succeeds.
pub fn one_step() -> Value {
    json!({
        "job_name": "word-count",
        "jobs": [{ "step_id": "count", "pyspark_job": { "main_python_file_uri": "gs://staging/scripts/ok.py" } }],
    })
}
