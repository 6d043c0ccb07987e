//! What handling an event needs: the environment, the clients, the clock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::join;
use tokio::time::Instant;

use crate::{
    clock::Clock,
    cluster_config::ClusterConfig,
    credentials::Credentials,
    dataproc::Dataproc,
    environment::Environment,
    google::{Reach, Service},
    identity::Deployment,
    listing::Workflows,
    pubsub::Topic,
    response::Speaker,
    run::{RetryPolicy, Turn},
    storage::Storage,
    violation::Violation,
};

/// For a whole event; Eventarc delivers again what is not acked within 10 s.
pub const EVENT_BUDGET: Duration = Duration::from_millis(8500);

/// How the three services are reached.
#[derive(Clone)]
pub struct Reaches {
    pub storage: Reach,
    pub dataproc: Reach,
    pub pubsub: Reach,
}

/// The configuration file as it was last read: its generation, and what it holds or what is wrong with it.
pub type CachedConfig = Option<(i64, Result<Arc<ClusterConfig>, Violation>)>;

/// One event's means. Clones share the connections and the cache.
#[derive(Clone)]
pub struct Context {
    pub environment: Arc<Environment>,
    pub storage: Storage,
    pub dataproc: Dataproc,
    pub responses: Topic,
    pub speaker: Arc<Speaker>,
    pub config: Arc<Mutex<CachedConfig>>,
    pub deployment: Deployment,
    pub workflows: Workflows,
    pub clock: Clock,
    /// When the event began.
    pub began: DateTime<Utc>,
    /// Until then the event must be dealt with.
    pub deadline: Instant,
    random: Arc<Mutex<fastrand::Rng>>,
}

impl Reaches {
    /// Google's endpoints, or the emulators that the environment names.
    pub fn from_environment(environment: &Environment) -> Reaches {
        let credentials = Credentials::new(environment.metadata_server.as_deref());
        let reach = |emulator: &Option<String>, host: String| match emulator {
            Some(address) => Reach::Emulator(address.clone()),
            None => Reach::Google { host, credentials: credentials.clone() },
        };
        Reaches {
            storage: reach(&environment.storage_emulator, "storage.googleapis.com".to_owned()),
            dataproc: reach(&environment.dataproc_emulator, format!("{}-dataproc.googleapis.com", environment.region)),
            pubsub: reach(&environment.pubsub_emulator, "pubsub.googleapis.com".to_owned()),
        }
    }
}

impl Context {
    /// Connects nothing yet: see [`connect`](Context::connect).
    pub fn new(environment: Environment, reaches: Reaches, clock: Clock, random: fastrand::Rng) -> Context {
        let now = Instant::now();
        Context {
            storage: Storage::new(Service::new(reaches.storage), &environment.staging_bucket, now),
            dataproc: Dataproc::new(Service::new(reaches.dataproc), &environment.project, &environment.region, now),
            responses: Topic::new(Service::new(reaches.pubsub), &environment.response_topic, now),
            speaker: Arc::new(Speaker {
                source: environment.event_source(),
                project: environment.project.clone(),
                region: environment.region.clone(),
            }),
            deployment: Deployment::new(&environment.project, &environment.region, &environment.staging_bucket),
            workflows: Workflows::default(),
            environment: Arc::new(environment),
            config: Arc::default(),
            began: clock.now(),
            clock,
            deadline: now,
            random: Arc::new(Mutex::new(random)),
        }
    }

    /// Makes the connections, with their token, that would otherwise be made by the first calls over them. What goes wrong
    /// is those calls' business.
    pub async fn connect(self) {
        let cx = self.for_event();
        join!(cx.storage.connect(), cx.dataproc.connect(), cx.responses.connect());
    }

    /// The means for an event that begins now.
    pub fn for_event(self) -> Context {
        let deadline = Instant::now() + EVENT_BUDGET;
        Context {
            storage: self.storage.until(deadline),
            dataproc: self.dataproc.until(deadline),
            responses: self.responses.until(deadline),
            began: self.clock.now(),
            deadline,
            ..self
        }
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// How much of the event's time is left.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Until when a call may take, if so much of the event's time is to be left after it.
    pub fn leaving(&self, reserve: Duration) -> Instant {
        self.deadline.checked_sub(reserve).unwrap_or(self.deadline)
    }

    /// A name for whoever handles this event, which nobody else has.
    pub fn writer(&self) -> String {
        format!("{:032x}", self.random().u128(..))
    }

    /// What a transition depends on beside the record, now.
    pub fn turn(&self, writer: &str) -> Turn {
        let environment = &self.environment;
        Turn {
            writer: writer.to_owned(),
            now: self.now(),
            policy: RetryPolicy {
                max_request_age: environment.max_request_age,
                submit_lease: environment.submit_lease,
                retry_delay: environment.retry_delay,
                capacity_retries: environment.capacity_retries,
                capacity_retry_delay: environment.capacity_retry_delay,
            },
            jitter: self.random().f64(),
        }
    }

    fn random(&self) -> std::sync::MutexGuard<'_, fastrand::Rng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
