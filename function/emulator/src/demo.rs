//! `emulator run`: one request through the function's real binary, from the topic to the result.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use gcloud_sdk::google::pubsub::v1::publisher_client::PublisherClient;
use gcloud_sdk::google::pubsub::v1::subscriber_client::SubscriberClient;
use gcloud_sdk::google::pubsub::v1::{
    AcknowledgeRequest, DeleteSubscriptionRequest, DeleteTopicRequest, PublishRequest, PubsubMessage, PullRequest,
    PushConfig, Subscription, Topic,
};
use inline_workflow_emulator::Emulator;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::arguments::Run;
use crate::narrate;

const PROJECT: &str = "test-project";
const REGION: &str = "us-central1";
const BUCKET: &str = "inline-workflow-staging";
/// What the platform gives a container to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// The function is up in milliseconds; a debug build on a busy machine may take longer.
const START: Duration = Duration::from_secs(20);
/// The function's last words, shown when a run goes wrong.
const LAST_LINES: usize = 40;

/// Runs the request. Whether it came to a good end.
///
/// # Errors
/// A text for the user: what could not be read, started or reached, or that the time was up.
pub async fn run(run: Run) -> Result<bool, String> {
    let request = crate::read(&run.request)?;
    let emulator = Emulator::new(crate::options(&run.services));
    emulator.put_object(BUCKET, "config/cluster-config.json", crate::read(&run.config)?);
    crate::put_directory(&emulator, BUCKET, "scripts/", &run.scripts)?;
    let services = emulator.start().await.map_err(|error| error.to_string())?;
    let function = free_address().await.map_err(|error| error.to_string())?;
    let topics = Topics::new(&run, services, function)?;

    let log = Log::default();
    let mut child = start_function(&run, services, function, &topics, &log)?;
    let outcome = tokio::select! {
        outcome = converse(&run, &emulator, &mut child, function, &topics, request) => outcome,
        () = interrupted() => Err("interrupted".to_owned()),
    };
    stop(&mut child).await;
    topics.remove().await;
    if outcome.is_err() && !run.verbose {
        log.show();
    }
    outcome
}

/// Ends when the user or the system asks the process to.
pub async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

async fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()
}

/// From the function's start to the request's end: waits for the port, publishes, ticks, and tells each event.
async fn converse(
    run: &Run,
    emulator: &Emulator,
    child: &mut Child,
    function: SocketAddr,
    topics: &Topics,
    request: Vec<u8>,
) -> Result<bool, String> {
    let seconds = run.timeout.as_secs();
    let told = async {
        topics.create().await.map_err(|status| status_text("creating the topics", &status))?;
        timeout(START, listening(function)).await.map_err(|_| format!("the function does not listen on {function}"))?;
        let id = topics.publish(&topics.requests, request).await;
        let id = id.map_err(|status| status_text("publishing the request", &status))?;
        println!("{}  published   {} as message {id}", now(), run.request.display());
        // Now that the setting stands, so that it is the function that meets them.
        for fault in &run.services.faults {
            emulator.fault(fault.clone());
        }
        tokio::select! {
            good = topics.tell_until_the_end() => Ok(good),
            () = topics.tick(run.services.speed) => Err("the ticks ended".to_owned()),
        }
    };
    tokio::select! {
        told = timeout(run.timeout, told) => {
            told.unwrap_or_else(|_| Err(format!("no end of the request within {seconds} seconds")))
        }
        status = child.wait() => Err(ended_early(status)),
    }
}

fn ended_early(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("the function ended early: {status}"),
        Err(error) => format!("the function: {error}"),
    }
}

async fn listening(address: SocketAddr) {
    while TcpStream::connect(address).await.is_err() {
        sleep(Duration::from_millis(10)).await;
    }
}

fn now() -> impl std::fmt::Display {
    Utc::now().format("%H:%M:%S%.3f")
}

fn status_text(what: &str, status: &Status) -> String {
    format!("{what}: {}: {}", status.code(), status.message())
}

fn start_function(
    run: &Run,
    services: SocketAddr,
    function: SocketAddr,
    topics: &Topics,
    log: &Log,
) -> Result<Child, String> {
    let mut child = Command::new(&run.function)
        .env("PORT", function.port().to_string())
        .env("GOOGLE_CLOUD_PROJECT", PROJECT)
        .env("REGION", REGION)
        .env("STAGING_BUCKET", BUCKET)
        .env("RESPONSE_TOPIC", &topics.responses)
        .env("TICK_TOPIC", &topics.ticks)
        .env("DATAPROC_EMULATOR_HOST", services.to_string())
        .env("STORAGE_EMULATOR_HOST_GRPC", services.to_string())
        .env("PUBSUB_EMULATOR_HOST", &topics.host)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{}: {error}", run.function.display()))?;
    if let Some(output) = child.stdout.take() {
        tokio::spawn(log.clone().follow(output, run.verbose));
    }
    if let Some(output) = child.stderr.take() {
        tokio::spawn(log.clone().follow(output, run.verbose));
    }
    Ok(child)
}

/// SIGTERM, some time to finish, SIGKILL: as Cloud Run ends an instance.
async fn stop(child: &mut Child) {
    let Some(id) = child.id() else { return };
    // The shell's own kill: the standard library can only SIGKILL.
    let terminated = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id.to_string()]).status().await;
    if terminated.is_ok_and(|status| status.success()) && timeout(GRACE, child.wait()).await.is_ok() {
        return;
    }
    let _ = child.kill().await;
}

/// What the function writes, shown at once or kept for the case that it is needed.
#[derive(Clone, Default)]
struct Log {
    last: Arc<Mutex<VecDeque<String>>>,
}

impl Log {
    async fn follow(self, output: impl AsyncRead + Unpin, show: bool) {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if show {
                eprintln!("function | {line}");
                continue;
            }
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.push_back(line);
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
    }

    fn show(&self) {
        for line in self.last.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            eprintln!("function | {line}");
        }
    }
}

/// The topics and subscriptions of one run, on whichever Pub/Sub it uses.
struct Topics {
    host: String,
    channel: Channel,
    /// Full names.
    requests: String,
    responses: String,
    ticks: String,
    endpoint: String,
    googles: bool,
}

impl Topics {
    fn new(run: &Run, services: SocketAddr, function: SocketAddr) -> Result<Topics, String> {
        let host = run.pubsub_emulator.clone().unwrap_or_else(|| services.to_string());
        let channel = Endpoint::from_shared(format!("http://{host}"))
            .map_err(|error| format!("--pubsub-emulator {host}: {error}"))?
            .connect_timeout(Duration::from_secs(5))
            .connect_lazy();
        // Google's emulator outlives a run, and what an earlier run left there must not meddle with this one.
        let googles = run.pubsub_emulator.is_some();
        let suffix = if googles { format!("-{}-{}", std::process::id(), function.port()) } else { String::new() };
        let topic = |name: &str| format!("projects/{PROJECT}/topics/{name}{suffix}");
        Ok(Topics {
            host,
            channel,
            requests: topic("requests"),
            responses: topic("responses"),
            ticks: topic("ticks"),
            endpoint: format!("http://{function}/"),
            googles,
        })
    }

    fn names(&self) -> [&String; 3] {
        [&self.requests, &self.responses, &self.ticks]
    }

    async fn create(&self) -> Result<(), Status> {
        for name in self.names() {
            let topic = Topic { name: name.clone(), ..Topic::default() };
            existing(PublisherClient::new(self.channel.clone()).create_topic(topic).await)?;
            let push_config = (*name != self.responses).then(|| PushConfig {
                // A raw push body does not name its topic; the path does, by the framework's contract.
                push_endpoint: if self.googles { format!("{}{name}", self.endpoint) } else { self.endpoint.clone() },
                ..PushConfig::default()
            });
            let subscription = Subscription {
                name: subscription(name),
                topic: name.clone(),
                push_config,
                ack_deadline_seconds: 10,
                ..Subscription::default()
            };
            existing(SubscriberClient::new(self.channel.clone()).create_subscription(subscription).await)?;
        }
        Ok(())
    }

    /// Leaves Google's emulator as it was; ours ends anyway.
    async fn remove(&self) {
        for name in self.names().into_iter().filter(|_| self.googles) {
            let request = DeleteSubscriptionRequest { subscription: subscription(name) };
            let _ = SubscriberClient::new(self.channel.clone()).delete_subscription(request).await;
            let request = DeleteTopicRequest { topic: name.clone() };
            let _ = PublisherClient::new(self.channel.clone()).delete_topic(request).await;
        }
    }

    async fn publish(&self, topic: &str, data: Vec<u8>) -> Result<String, Status> {
        let attributes = if data.is_empty() {
            // Pub/Sub refuses a message with nothing in it; the function shall see the empty data.
            HashMap::from([("empty".to_owned(), "true".to_owned())])
        } else {
            HashMap::new()
        };
        let messages = vec![PubsubMessage { data, attributes, ..PubsubMessage::default() }];
        let request = PublishRequest { topic: topic.to_owned(), messages };
        let answer = PublisherClient::new(self.channel.clone())
            .max_encoding_message_size(usize::MAX)
            .publish(request)
            .await?
            .into_inner();
        Ok(answer.message_ids.into_iter().next().unwrap_or_default())
    }

    /// Ticks for ever, faster than the scheduler by the services' speed, and at least once a second.
    async fn tick(&self, speed: f64) {
        let every = (60.0 / speed).clamp(0.1, 1.0);
        loop {
            sleep(Duration::from_secs_f64(every)).await;
            // A lost one is made up for by the next.
            let _ = self.publish(&self.ticks, b"tick".to_vec()).await;
        }
    }

    /// Tells every response event once, up to the one that ends the request. Whether that is a good end.
    async fn tell_until_the_end(&self) -> bool {
        let mut client = SubscriberClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let mut told = BTreeSet::new();
        loop {
            let subscription = subscription(&self.responses);
            let request =
                PullRequest { subscription: subscription.clone(), max_messages: 10, ..PullRequest::default() };
            let received = match client.pull(request).await {
                Ok(answer) => answer.into_inner().received_messages,
                Err(status) => {
                    tracing::debug!(%status, "pull");
                    sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let ack_ids: Vec<_> = received.iter().map(|message| message.ack_id.clone()).collect();
            if !ack_ids.is_empty() {
                // What is not acknowledged comes again and is known by its id.
                let _ = client.acknowledge(AcknowledgeRequest { subscription, ack_ids }).await;
            }
            for message in received.into_iter().filter_map(|received| received.message) {
                if !told.insert(message.attributes.get("ce-id").cloned()) {
                    continue;
                }
                let event = narrate::tell(Utc::now(), &message.attributes, &message.data);
                println!("{}", event.text);
                if let Some(good) = event.end {
                    return good;
                }
            }
        }
    }
}

fn subscription(topic: &str) -> String {
    topic.replacen("/topics/", "/subscriptions/", 1)
}

fn existing<T>(answer: Result<T, Status>) -> Result<(), Status> {
    match answer {
        Err(status) if status.code() != Code::AlreadyExists => Err(status),
        _ => Ok(()),
    }
}
