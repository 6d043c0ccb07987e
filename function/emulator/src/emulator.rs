//! The handle on the emulator: its options, and what a test can ask of it and arrange.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gcloud_sdk::google::longrunning::Operation;
use gcloud_sdk::google::pubsub::v1::PubsubMessage;
use gcloud_sdk::google::storage::v2::Object;
use http::StatusCode;
use prost_reflect::DynamicMessage;
use tokio::sync::watch;
use tonic::Code;

use crate::arrangements::{DataprocOptions, Mishap, Outcome, Trouble};
use crate::clock::{Clock, add};
use crate::dag::{self, Phase};
use crate::dataproc::Dataproc;
use crate::descriptor::{labels, message};
use crate::fault::{Fault, When};
use crate::pubsub::{Disorder, PubSub, PushSubscription};
use crate::push::{self, Delivery, Form, Push};
use crate::state::{Shared, State, Ticks};
use crate::storage::Storage;

/// How an emulator begins.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides every id and every probability.
    pub seed: u64,
    /// The services' time at the start; the machine's time if none is given.
    pub now: Option<DateTime<Utc>>,
    /// How many times faster than the real services clusters, jobs, redelivery and ticks are.
    pub speed: f64,
    /// Whether publishing to a topic that is not there creates it.
    pub auto_create_topics: bool,
    /// Whether writing to a bucket that is not there creates it; listing one is an empty list then.
    pub auto_create_buckets: bool,
    /// The limit of the service: one object name takes one write a second, the next is RESOURCE_EXHAUSTED.
    pub one_write_a_second: bool,
    /// The form of push subscriptions that are created through the API.
    pub push_form: Form,
    pub dataproc: DataprocOptions,
    /// How many calls, and how many messages a topic, are kept for inspection.
    pub keep: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 0,
            now: None,
            speed: 1.0,
            auto_create_topics: true,
            auto_create_buckets: true,
            one_write_a_second: false,
            push_form: Form::Eventarc,
            dataproc: DataprocOptions::default(),
            keep: 100_000,
        }
    }
}

/// A call as it was received.
#[derive(Clone, Debug)]
pub struct Call {
    /// `/google.pubsub.v1.Publisher/Publish`.
    pub path: String,
    /// The request's metadata; binary values are left out.
    pub headers: BTreeMap<String, String>,
    /// Bytes of its messages.
    pub size: usize,
    pub at: DateTime<Utc>,
    /// None while it is not answered; a hanging or broken call never is.
    pub answer: Option<Code>,
}

/// A workflow as it stands.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// The operation's full name.
    pub name: String,
    /// `projects/P/regions/R`.
    pub parent: String,
    pub request_id: String,
    /// The InstantiateInline request as it came, byte for byte.
    pub request: Bytes,
    /// The managed cluster's name in the template, and the cluster's real one.
    pub requested_cluster: String,
    pub cluster_name: String,
    pub phase: Phase,
    /// The operation as operations.get would answer it now.
    pub operation: Operation,
    pub created: DateTime<Utc>,
    pub ended: Option<DateTime<Utc>>,
    /// Labels of the managed cluster.
    pub labels: BTreeMap<String, String>,
    /// Whether it was begun by [`Emulator::begin_foreign_workflow`].
    pub is_foreign: bool,
    message: DynamicMessage,
}

impl Workflow {
    /// The whole request by Dataproc's own descriptor, newer fields included.
    pub fn request_message(&self) -> &DynamicMessage {
        &self.message
    }

    /// The request's template in protobuf JSON.
    pub fn template_json(&self) -> serde_json::Value {
        message(&self.message, "template").and_then(|template| serde_json::to_value(template).ok()).unwrap_or_default()
    }

    pub fn is_alive(&self) -> bool {
        self.phase != Phase::Done
    }
}

/// A running emulator. A cheap handle: clones are the same emulator, and it lives as long as one of them.
#[derive(Clone)]
pub struct Emulator {
    pub(crate) shared: Arc<Shared>,
}

impl Emulator {
    /// Starts the emulator; nothing listens yet.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(options: Options) -> Emulator {
        let clock = Clock::new(options.now.unwrap_or_else(Utc::now), options.speed);
        let state = State {
            now: clock.now(),
            clock: clock.clone(),
            rng: fastrand::Rng::with_seed(options.seed),
            pubsub: PubSub::new(options.auto_create_topics, options.keep, options.push_form),
            storage: Storage::new(options.auto_create_buckets, options.one_write_a_second),
            dataproc: Dataproc::new(options.dataproc),
            faults: Vec::new(),
            standing_faults: Vec::new(),
            calls: VecDeque::new(),
            forgotten_calls: 0,
            keep: options.keep,
            push: Push::default(),
            ticks: BTreeMap::new(),
            audit_topic: None,
        };
        let shared = Arc::new(Shared { clock, state: Mutex::new(state), changed: watch::Sender::new(()) });
        tokio::spawn(push::pump(Arc::downgrade(&shared)));
        Emulator { shared }
    }

    /// Listens on a free port of 127.0.0.1 for as long as the runtime lives.
    ///
    /// # Errors
    /// No port could be bound.
    pub async fn start(&self) -> std::io::Result<SocketAddr> {
        let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let emulator = self.clone();
        tokio::spawn(async move { emulator.serve(listener).await });
        Ok(address)
    }

    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The services' time.
    pub fn now(&self) -> DateTime<Utc> {
        self.shared.clock.now()
    }
}

/// What goes wrong, and what was called.
impl Emulator {
    pub fn fault(&self, fault: Fault) {
        self.shared.with(|state| state.faults.push(fault));
    }

    /// The faults that stand beside all others until they are set anew. A delay adds to what else happens to a call, half
    /// of it before the call is executed and half after; anything else happens where no other fault is due.
    pub fn set_standing_faults(&self, faults: Vec<Fault>) {
        self.shared.with(|state| state.standing_faults = faults);
    }

    /// The faults of [`fault`](Emulator::fault) are gone; calls that hang already still do.
    pub fn clear_faults(&self) {
        self.shared.with(|state| state.faults.clear());
    }

    /// The last calls, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.with(|state| state.calls.iter().cloned().collect())
    }

    pub fn clear_calls(&self) {
        self.shared.with(|state| {
            state.forgotten_calls += state.calls.len() as u64;
            state.calls.clear();
        });
    }
}

/// Objects, beside all calls.
impl Emulator {
    pub fn create_bucket(&self, bucket: &str) {
        self.shared.with(|state| state.storage.create_bucket(bucket));
    }

    /// Puts an object there, beside all preconditions; creates the bucket. Its generation.
    pub fn put_object(&self, bucket: &str, name: &str, content: impl Into<Bytes>) -> i64 {
        self.shared.with(|state| state.storage.put(state.now, bucket, name, content.into()))
    }

    pub fn object(&self, bucket: &str, name: &str) -> Option<Bytes> {
        self.shared.with(|state| state.storage.content(bucket, name))
    }

    /// An object's metadata as its latest write left it: generation, custom time, checksums.
    pub fn object_metadata(&self, bucket: &str, name: &str) -> Option<Object> {
        self.shared.with(|state| state.storage.metadata(bucket, name))
    }

    /// Every object of a bucket, by name.
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, Bytes> {
        self.shared.with(|state| state.storage.contents(bucket))
    }

    /// Whether it was there.
    pub fn delete_object(&self, bucket: &str, name: &str) -> bool {
        self.shared.with(|state| state.storage.remove(bucket, name))
    }
}

/// Messages, beside all calls; names are full ones.
impl Emulator {
    pub fn create_topic(&self, topic: &str) {
        self.shared.with(|state| state.pubsub.create_topic(topic));
    }

    /// Publishes beside all limits; creates the topic. The message's id.
    pub fn publish(&self, topic: &str, message: PubsubMessage) -> String {
        self.shared.with(|state| state.pubsub.publish(state.now, &mut state.rng, topic, message))
    }

    /// The last messages published to a topic, oldest first.
    pub fn published(&self, topic: &str) -> Vec<PubsubMessage> {
        self.shared.with(|state| state.pubsub.published(topic))
    }

    /// Replaces a subscription of the same name.
    pub fn push_subscription(&self, subscription: &PushSubscription) {
        self.shared.with(|state| state.pubsub.add_push_subscription(subscription));
    }

    /// How many messages of a subscription are not acknowledged yet.
    pub fn unacknowledged(&self, subscription: &str) -> usize {
        self.shared.with(|state| state.pubsub.unacknowledged(subscription))
    }

    /// For messages published from now on.
    pub fn disorder(&self, disorder: Disorder) {
        self.shared.with(|state| state.pubsub.disorder = disorder);
    }

    /// Who carries push deliveries from now on.
    pub fn push(&self, push: Push) {
        self.shared.with(|state| state.push = push);
    }

    /// The push deliveries that are due now, for a test that carries them itself (see [`Push::Held`]).
    pub fn take_deliveries(&self) -> Vec<Delivery> {
        self.shared.with(|state| state.pubsub.take_deliveries(state.now, &state.clock, usize::MAX))
    }

    /// What the endpoint answered to a delivery. One that is never settled comes again after its ack deadline and backoff.
    pub fn settle_delivery(&self, delivery: &Delivery, status: StatusCode) {
        self.shared.settle(delivery, status);
    }

    /// When the next push delivery is due, as far as is known now.
    pub fn next_delivery(&self) -> Option<DateTime<Utc>> {
        self.shared.with(|state| state.pubsub.next_delivery())
    }
}

/// The scheduler and the audit log.
impl Emulator {
    /// Publishes to the topic once a minute, shortened by the clock's speed; the first time after a minute.
    pub fn start_ticks(&self, topic: &str) {
        self.start_ticks_every(topic, self.shared.clock.shortened(Duration::from_secs(60)));
    }

    /// The same in another rhythm, which the clock's speed does not shorten.
    pub fn start_ticks_every(&self, topic: &str, every: Duration) {
        let every = every.max(Duration::from_millis(1));
        self.shared.with(|state| {
            let next = add(state.now, every);
            state.ticks.insert(topic.to_owned(), Ticks { every, next });
        });
    }

    pub fn stop_ticks(&self) {
        self.shared.with(|state| state.ticks.clear());
    }

    /// Posts the audit log's event to the endpoint at each workflow's start and end from now on, as Eventarc does.
    pub fn start_audit_events(&self, project: &str, endpoint: &str) {
        let topic = format!("projects/{project}/topics/eventarc-audit-log");
        let name = format!("projects/{project}/subscriptions/eventarc-audit-log");
        let subscription =
            PushSubscription { form: Form::Event, ..PushSubscription::eventarc(&name, &topic, endpoint) };
        self.shared.with(|state| {
            state.pubsub.add_push_subscription(&subscription);
            state.audit_topic = Some(topic);
        });
    }
}

/// Workflows: what became of them, and what shall.
impl Emulator {
    /// Every workflow there ever was, in the order of its creation.
    pub fn workflows(&self) -> Vec<Workflow> {
        self.shared.with(|state| {
            let dataproc = &state.dataproc;
            dataproc.workflows.iter().map(|workflow| inspect(dataproc, workflow)).collect()
        })
    }

    /// The most workflows that were alive at the same time, by a key of yours.
    pub fn most_alive<K: Ord>(&self, key: impl Fn(&Workflow) -> K) -> BTreeMap<K, usize> {
        let mut spans: BTreeMap<K, Vec<(DateTime<Utc>, i32)>> = BTreeMap::new();
        for workflow in self.workflows() {
            let changes = spans.entry(key(&workflow)).or_default();
            changes.push((workflow.created, 1));
            // An end sorts before a beginning at the same instant.
            changes.extend(workflow.ended.map(|ended| (ended, -1)));
        }
        let most = |mut changes: Vec<(DateTime<Utc>, i32)>| {
            changes.sort_unstable();
            let (_, most) = changes.into_iter().fold((0, 0), |(alive, most), (_, change)| {
                let alive = alive + change;
                (alive, most.max(alive))
            });
            usize::try_from(most).unwrap_or(0)
        };
        spans.into_iter().map(|(key, changes)| (key, most(changes))).collect()
    }

    /// Begins a workflow of another team in `parent` (`projects/P/regions/R`), which is PENDING for so long, and has no
    /// cluster name until then. It runs one step and has no request_id.
    pub fn begin_foreign_workflow(&self, parent: &str, cluster: &str, pending: Duration) {
        self.shared.with(|state| {
            state.dataproc(|dataproc, around| dataproc.begin_foreign(around, parent, cluster, pending));
        });
    }

    /// How every step of this id goes from now on, in any workflow.
    pub fn on_step(&self, step_id: &str, outcome: Outcome) {
        self.shared.with(|state| state.dataproc.outcomes.insert(step_id.to_owned(), outcome));
    }

    /// How long the job of every step of this id takes, before the clock's speed.
    pub fn step_takes(&self, step_id: &str, duration: Duration) {
        self.shared.with(|state| state.dataproc.durations.insert(step_id.to_owned(), duration));
    }

    /// A trouble for workflows that begin from now on.
    pub fn mishap(&self, what: Trouble, when: When) {
        self.mishap_for("", what, when);
    }

    /// The same, for those whose managed cluster's name begins with `cluster`.
    pub fn mishap_for(&self, cluster: &str, what: Trouble, when: When) {
        let mishap = Mishap { cluster: cluster.to_owned(), what, when };
        self.shared.with(|state| state.dataproc.mishaps.push(mishap));
    }

    /// No step, duration or workflow is arranged any more.
    pub fn clear_arrangements(&self) {
        self.shared.with(|state| {
            state.dataproc.outcomes.clear();
            state.dataproc.durations.clear();
            state.dataproc.mishaps.clear();
        });
    }

    /// `change` runs under the emulator's lock: it must not use the handle itself.
    pub fn dataproc_options(&self, change: impl FnOnce(&mut DataprocOptions)) {
        self.shared.with(|state| change(&mut state.dataproc.options));
    }

    /// The service does not know the operation any more. Whether it did.
    pub fn forget_operation(&self, name: &str) -> bool {
        self.shared.with(|state| state.dataproc.forget(name))
    }
}

fn inspect(dataproc: &Dataproc, workflow: &dag::Workflow) -> Workflow {
    Workflow {
        name: workflow.operation.clone(),
        parent: format!("projects/{}/regions/{}", workflow.project, workflow.region),
        request_id: workflow.request_id.clone(),
        request: workflow.request.clone(),
        requested_cluster: workflow.requested_cluster.clone(),
        cluster_name: workflow.cluster_name.clone(),
        phase: workflow.phase,
        operation: dataproc.operation(workflow),
        created: workflow.created,
        ended: workflow.ended,
        labels: dag::managed_cluster(&workflow.message).map(labels).unwrap_or_default(),
        is_foreign: workflow.is_foreign,
        message: workflow.message.clone(),
    }
}
