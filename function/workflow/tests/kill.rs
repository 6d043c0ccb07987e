//! The function's binary, killed again and again under a load of requests. In the end every request has its one end.

#![allow(clippy::print_stdout, reason = "the seed, and how much the kills struck, belong into the report")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use gcloud_sdk::google::pubsub::v1::PubsubMessage;
use inline_workflow::{environment::*, identity::ClusterName};
use inline_workflow_emulator::{Emulator, Fault, PushSubscription, What, When};
use serde_json::json;
use support::{
    BUCKET, PROJECT,
    binary::{Function, emulator, variables},
    official::Official,
    one_step,
};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

const REQUESTS: &str = "projects/test-project/topics/chaos-requests";
const RESPONSES: &str = "projects/test-project/topics/chaos-responses";
const TICKS: &str = "projects/test-project/topics/chaos-ticks";

const REQUESTS_SENT: usize = 40;
const KILLS: usize = 30;
/// After a submission whose answer nobody saw, the function looks for it for a minute before it submits again.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whose Pub/Sub carries the messages.
enum Front {
    Ours(Emulator),
    Googles { official: Box<Official>, received: Vec<PubsubMessage> },
}

impl Front {
    async fn subscribe(&mut self, endpoint: &str) {
        match self {
            Front::Ours(emulator) => {
                for topic in [REQUESTS, TICKS] {
                    let name = topic.replace("topics", "subscriptions");
                    emulator.push_subscription(&PushSubscription::eventarc(&name, topic, endpoint));
                }
                emulator.start_ticks_every(TICKS, Duration::from_millis(300));
            }
            Front::Googles { official, .. } => {
                for topic in [REQUESTS, TICKS, RESPONSES] {
                    official.create_topic(topic).await;
                }
                official.push(REQUESTS, endpoint).await;
                official.push(TICKS, endpoint).await;
                official.keep(RESPONSES).await;
            }
        }
    }

    /// The message's id.
    async fn publish(&mut self, data: &[u8]) -> String {
        match self {
            Front::Ours(emulator) => {
                emulator.publish(REQUESTS, PubsubMessage { data: data.to_vec(), ..Default::default() })
            }
            Front::Googles { official, .. } => official.publish(REQUESTS, data).await,
        }
    }

    /// All events said so far. Lets the scheduler tick where it does not do so by itself.
    async fn said(&mut self) -> Vec<PubsubMessage> {
        match self {
            Front::Ours(emulator) => emulator.published(RESPONSES),
            Front::Googles { official, received } => {
                official.publish(TICKS, b"tick").await;
                received.extend(official.pull(RESPONSES).await);
                received.clone()
            }
        }
    }
}

/// What a message must be answered with: the end of the run of this request_id, or the rejection of this message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Request(String),
    Message(String),
}

/// By whose end, the ids of the terminal events said.
fn ends(said: &[PubsubMessage]) -> BTreeMap<Key, BTreeSet<String>> {
    let mut ends: BTreeMap<Key, BTreeSet<String>> = BTreeMap::new();
    for message in said {
        let attributes = &message.attributes;
        let kind = attributes["ce-type"].rsplit('.').next().unwrap_or_default();
        if !["succeeded", "failed", "cancelled", "rejected"].contains(&kind) {
            continue;
        }
        let key = match attributes.get("ce-requestid") {
            Some(id) => Key::Request(id.clone()),
            None => Key::Message(attributes["ce-messageid"].clone()),
        };
        ends.entry(key).or_default().insert(attributes["ce-id"].clone());
    }
    ends
}

/// Publishes one request of the load; whose end must come of it.
async fn publish(front: &mut Front, number: usize) -> Key {
    let mut request = one_step();
    let id = format!("r{number}");
    request["request_id"] = json!(id);
    match number % 10 {
        3 => request["jobs"][0]["pyspark_job"]["main_python_file_uri"] = json!("gs://staging/scripts/missing.py"),
        7 => return Key::Message(front.publish(b"{\"jobs\": [}").await),
        _ => {}
    }
    let text = request.to_string();
    front.publish(text.as_bytes()).await;
    if number.is_multiple_of(5) {
        front.publish(text.as_bytes()).await;
    }
    Key::Request(id)
}

/// How many calls have no answer, and those of functions that were killed never will.
fn unanswered(emulator: &Emulator) -> usize {
    emulator.calls().iter().filter(|call| call.answer.is_none()).count()
}

async fn killed_at_any_moment(mut front: Front, emulator: Emulator, mut variables: BTreeMap<&'static str, String>) {
    let seed = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut random = fastrand::Rng::with_seed(seed);
    println!("CHAOS_SEED={seed}");
    // So that most kills strike in the midst of an event.
    emulator.fault(Fault { method: "*".to_owned(), what: What::Delay(Duration::from_millis(10)), when: When::Always });
    let reserved = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = reserved.local_addr().expect("bound").port();
    drop(reserved);
    variables.insert(ENV_PORT, port.to_string());
    variables.insert(ENV_RESPONSE_TOPIC, RESPONSES.to_owned());
    variables.insert(ENV_TICK_TOPIC, TICKS.to_owned());
    variables.insert(ENV_SUBMIT_LEASE, "2".to_owned());
    variables.insert(ENV_RETRY_DELAY, "1".to_owned());
    let endpoint = format!("http://127.0.0.1:{port}/");
    front.subscribe(&endpoint).await;
    emulator.start_audit_events(PROJECT, &endpoint);

    let mut expected = BTreeSet::new();
    for kill in 0..KILLS {
        let function = Function::start(&variables).await;
        let cut_before = unanswered(&emulator);
        for number in (kill * REQUESTS_SENT / KILLS)..((kill + 1) * REQUESTS_SENT / KILLS) {
            expected.insert(publish(&mut front, number).await);
            sleep(Duration::from_millis(random.u64(..60))).await;
        }
        front.said().await;
        sleep(Duration::from_millis(random.u64(..300))).await;
        // Pub/Sub may take a while to try again, and a function at rest has nothing to lose: every other kill waits for
        // a call to be under way.
        let limit = Instant::now() + Duration::from_secs(if random.bool() { 3 } else { 0 });
        while unanswered(&emulator) == cut_before && Instant::now() < limit {
            sleep(Duration::from_millis(1)).await;
        }
        function.kill().await;
    }
    let cut_short = unanswered(&emulator);
    println!("{KILLS} kills, {cut_short} of {} calls under way at one", emulator.calls().len());
    assert!(cut_short > 0, "no kill struck a call");

    let _function = Function::start(&variables).await;
    let limit = Instant::now() + PATIENCE;
    let said = loop {
        let said = front.said().await;
        let ended: BTreeSet<Key> = ends(&said).into_keys().collect();
        let markers: Vec<_> = emulator.objects(BUCKET).into_keys().filter(|name| name.starts_with("active/")).collect();
        if ended.is_superset(&expected) && markers.is_empty() {
            break said;
        }
        let missing: Vec<_> = expected.difference(&ended).collect();
        assert!(Instant::now() < limit, "no end of {missing:?}; markers {markers:?}");
        sleep(Duration::from_millis(300)).await;
    };
    let ends = ends(&said);
    assert_eq!(ends.keys().cloned().collect::<BTreeSet<_>>(), expected);
    for (key, ids) in &ends {
        assert_eq!(ids.len(), 1, "{key:?} ended more than once: {ids:?}");
    }
    // A cluster's name shows the run, whatever the attempt.
    let most =
        emulator.most_alive(|workflow| ClusterName::parse(&workflow.requested_cluster).expect("one of ours").digits);
    assert_eq!(most.len(), expected.iter().filter(|key| matches!(key, Key::Request(_))).count());
    assert!(most.values().all(|most| *most == 1), "two workflows of a run at once: {most:?}");
    // None of them failed for want of capacity, so none was to be submitted twice.
    assert_eq!(emulator.workflows().len(), most.len());
    println!("{} requests, {} events, {} workflows", expected.len(), said.len(), most.len());
}

#[tokio::test]
#[ignore = "takes minutes: make test-chaos"]
async fn killed_at_any_moment_every_request_ends_once() {
    let emulator = emulator();
    let address = emulator.start().await.unwrap();
    killed_at_any_moment(Front::Ours(emulator.clone()), emulator, variables(address)).await;
}

/// Needs `OFFICIAL_PUBSUB_EMULATOR`, which `make test-chaos` sets.
#[tokio::test]
#[ignore = "takes minutes and needs Google's Pub/Sub emulator: make test-chaos"]
async fn killed_behind_the_official_pubsub_emulator_every_request_ends_once() {
    let official = Official::connect().await;
    let emulator = emulator();
    let address = emulator.start().await.unwrap();
    let mut variables = variables(address);
    variables.insert(ENV_PUBSUB_EMULATOR, official.address.clone());
    let front = Front::Googles { official: Box::new(official), received: Vec::new() };
    killed_at_any_moment(front, emulator, variables).await;
}
