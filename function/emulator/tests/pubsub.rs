//! Topics, pulls and pushes through the generated clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use gcloud_sdk::google::pubsub::v1 as proto;
use gcloud_sdk::google::pubsub::v1::publisher_client::PublisherClient;
use gcloud_sdk::google::pubsub::v1::subscriber_client::SubscriberClient;
use http::StatusCode;
use inline_workflow_emulator::{Disorder, Emulator, Form, Options, Push, PushSubscription};
use serde_json::Value;
use support::channel;
use tonic::transport::Channel;
use tonic::{Code, Status};

const TOPIC: &str = "projects/p/topics/requests";
const SUBSCRIPTION: &str = "projects/p/subscriptions/requests";
const ENDPOINT: &str = "http://function/";

struct World {
    emulator: Emulator,
    publisher: PublisherClient<Channel>,
    subscriber: SubscriberClient<Channel>,
}

async fn world() -> World {
    let emulator = Emulator::new(Options { auto_create_topics: false, ..Options::default() });
    let mut publisher = PublisherClient::new(channel(&emulator)).max_encoding_message_size(usize::MAX);
    publisher.create_topic(proto::Topic { name: TOPIC.to_owned(), ..proto::Topic::default() }).await.unwrap();
    World { subscriber: SubscriberClient::new(channel(&emulator)), emulator, publisher }
}

fn message(data: &str) -> proto::PubsubMessage {
    proto::PubsubMessage { data: data.as_bytes().to_vec(), ..proto::PubsubMessage::default() }
}

impl World {
    async fn publish(&self, message: proto::PubsubMessage) -> Result<String, Status> {
        let request = proto::PublishRequest { topic: TOPIC.to_owned(), messages: vec![message] };
        Ok(self.publisher.clone().publish(request).await?.into_inner().message_ids.remove(0))
    }

    async fn subscribe(&self) {
        let subscription = proto::Subscription {
            name: SUBSCRIPTION.to_owned(),
            topic: TOPIC.to_owned(),
            ..proto::Subscription::default()
        };
        self.subscriber.clone().create_subscription(subscription).await.unwrap();
    }

    async fn pull(&self, return_immediately: bool) -> Vec<proto::ReceivedMessage> {
        #[expect(deprecated, reason = "clients still send it")]
        let request =
            proto::PullRequest { subscription: SUBSCRIPTION.to_owned(), return_immediately, max_messages: 10 };
        self.subscriber.clone().pull(request).await.unwrap().into_inner().received_messages
    }

    async fn set_deadline(&self, ack_id: &str, ack_deadline_seconds: i32) {
        let request = proto::ModifyAckDeadlineRequest {
            subscription: SUBSCRIPTION.to_owned(),
            ack_ids: vec![ack_id.to_owned()],
            ack_deadline_seconds,
        };
        self.subscriber.clone().modify_ack_deadline(request).await.unwrap();
    }

    fn eventarc(&self) {
        self.emulator.push_subscription(&PushSubscription::eventarc(SUBSCRIPTION, TOPIC, ENDPOINT));
    }
}

#[tokio::test]
async fn ids_count_up_and_attributes_and_keys_are_kept() {
    let world = world().await;
    world.subscribe().await;
    let sent = proto::PubsubMessage {
        attributes: HashMap::from([("a".to_owned(), "b".to_owned())]),
        ordering_key: "run".to_owned(),
        ..message("x")
    };
    assert_eq!(world.publish(sent).await.unwrap(), "1");
    assert_eq!(world.publish(message("y")).await.unwrap(), "2");
    let pulled = world.pull(true).await;
    let first = pulled[0].message.as_ref().unwrap();
    assert_eq!((first.message_id.as_str(), first.ordering_key.as_str()), ("1", "run"));
    assert_eq!(first.attributes["a"], "b");
    assert!(first.publish_time.is_some());
    assert_eq!(pulled[1].message.as_ref().unwrap().data, b"y");
    assert_eq!(world.emulator.published(TOPIC).len(), 2);
}

#[tokio::test]
async fn the_limits_of_publishing() {
    let world = world().await;
    let attributes = |count: usize, key: &str, value: &str| proto::PubsubMessage {
        attributes: (0..count).map(|at| (format!("{key}{at}"), value.to_owned())).collect(),
        ..message("x")
    };
    for (case, message) in [
        ("empty", proto::PubsubMessage::default()),
        ("101 attributes", attributes(101, "k", "")),
        ("a long key", attributes(1, &"k".repeat(256), "")),
        ("a long value", attributes(1, "k", &"v".repeat(1025))),
        ("a reserved key", attributes(1, "goog", "")),
        ("more than 10 MB", message(&"x".repeat(10_000_000))),
    ] {
        assert_eq!(world.publish(message).await.expect_err(case).code(), Code::InvalidArgument, "{case}");
    }
    world.publish(attributes(100, "k", &"v".repeat(1024))).await.unwrap();
    let request = |topic: &str| proto::PublishRequest { topic: topic.to_owned(), messages: vec![message("x")] };
    let mut publisher = world.publisher.clone();
    let missing = publisher.publish(request("projects/p/topics/none")).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert_eq!(publisher.publish(request("requests")).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn topics_and_subscriptions_are_made_listed_and_deleted() {
    let world = world().await;
    world.subscribe().await;
    let (mut publisher, mut subscriber) = (world.publisher.clone(), world.subscriber.clone());
    let topic = proto::Topic { name: TOPIC.to_owned(), ..proto::Topic::default() };
    assert_eq!(publisher.create_topic(topic).await.unwrap_err().code(), Code::AlreadyExists);
    let other = proto::Topic { name: "projects/p/topics/ticks".to_owned(), ..proto::Topic::default() };
    publisher.create_topic(other).await.unwrap();
    let list = proto::ListTopicsRequest { project: "projects/p".to_owned(), page_size: 1, page_token: String::new() };
    let page = publisher.list_topics(list.clone()).await.unwrap().into_inner();
    assert_eq!(page.topics[0].name, TOPIC);
    let rest = proto::ListTopicsRequest { page_token: page.next_page_token, ..list };
    let page = publisher.list_topics(rest).await.unwrap().into_inner();
    assert_eq!((page.topics[0].name.as_str(), page.next_page_token.as_str()), ("projects/p/topics/ticks", ""));

    let get = proto::GetSubscriptionRequest { subscription: SUBSCRIPTION.to_owned() };
    let subscription = subscriber.get_subscription(get.clone()).await.unwrap().into_inner();
    assert_eq!((subscription.topic.as_str(), subscription.ack_deadline_seconds), (TOPIC, 10));
    assert_eq!(subscriber.create_subscription(subscription.clone()).await.unwrap_err().code(), Code::AlreadyExists);
    let impatient = proto::Subscription {
        name: "projects/p/subscriptions/impatient".to_owned(),
        ack_deadline_seconds: 5,
        ..subscription
    };
    assert_eq!(subscriber.create_subscription(impatient).await.unwrap_err().code(), Code::InvalidArgument);

    publisher.delete_topic(proto::DeleteTopicRequest { topic: TOPIC.to_owned() }).await.unwrap();
    let orphan = subscriber.get_subscription(get.clone()).await.unwrap().into_inner();
    assert_eq!(orphan.topic, "_deleted-topic_");
    let delete = proto::DeleteSubscriptionRequest { subscription: SUBSCRIPTION.to_owned() };
    subscriber.delete_subscription(delete).await.unwrap();
    assert_eq!(subscriber.get_subscription(get).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_pulled_message_comes_again_until_it_is_acknowledged() {
    let world = world().await;
    world.subscribe().await;
    world.publish(message("x")).await.unwrap();
    let first = world.pull(true).await;
    assert!(world.pull(true).await.is_empty());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let second = world.pull(true).await;
    assert_eq!(second[0].delivery_attempt, 2);
    assert_ne!(first[0].ack_id, second[0].ack_id);

    world.set_deadline(&second[0].ack_id, 60).await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(world.pull(true).await.is_empty());
    world.set_deadline(&second[0].ack_id, 0).await;
    let third = world.pull(true).await;

    let ack_ids = vec![third[0].ack_id.clone(), "nonsense".to_owned()];
    let request = proto::AcknowledgeRequest { subscription: SUBSCRIPTION.to_owned(), ack_ids };
    world.subscriber.clone().acknowledge(request).await.unwrap();
    assert_eq!(world.emulator.unacknowledged(SUBSCRIPTION), 0);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(world.pull(true).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pull_waits_for_a_message() {
    let world = world().await;
    world.subscribe().await;
    let before = world.emulator.now();
    let late = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        world.publish(message("late")).await.unwrap();
    };
    let (pulled, ()) = tokio::join!(world.pull(false), late);
    assert_eq!(pulled[0].message.as_ref().unwrap().data, b"late");
    assert_eq!((world.emulator.now() - before).num_seconds(), 30);
    let redelivered = world.pull(false).await;
    assert_eq!(redelivered[0].delivery_attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn eventarc_posts_an_event_with_both_spellings() {
    let world = world().await;
    world.eventarc();
    world.emulator.push(Push::Held);
    let attributes = HashMap::from([("a".to_owned(), "b".to_owned())]);
    world.publish(proto::PubsubMessage { attributes, ordering_key: "k".to_owned(), ..message("hello") }).await.unwrap();
    let deliveries = world.emulator.take_deliveries();
    let request = &deliveries[0].request;
    assert_eq!(request.uri(), ENDPOINT);
    let header = |name: &str| request.headers()[name].to_str().unwrap();
    assert_eq!(header("ce-id"), "1");
    assert_eq!(header("ce-type"), "google.cloud.pubsub.topic.v1.messagePublished");
    assert_eq!(header("ce-source"), format!("//pubsub.googleapis.com/{TOPIC}"));
    assert_eq!((header("ce-specversion"), header("content-type")), ("1.0", "application/json"));
    let body: Value = serde_json::from_slice(request.body()).unwrap();
    let message = &body["message"];
    assert_eq!((&body["subscription"], &body["deliveryAttempt"]), (&SUBSCRIPTION.into(), &1.into()));
    assert_eq!((&message["messageId"], &message["message_id"]), (&"1".into(), &"1".into()));
    assert_eq!(
        (&message["publishTime"], &message["publish_time"]),
        (&header("ce-time").into(), &header("ce-time").into())
    );
    assert_eq!((&message["orderingKey"], &message["attributes"]["a"]), (&"k".into(), &"b".into()));
    assert_eq!(message["data"], base64::engine::general_purpose::STANDARD.encode("hello"));
    assert!(world.emulator.take_deliveries().is_empty());

    world.emulator.settle_delivery(&deliveries[0], StatusCode::ACCEPTED);
    assert_eq!(world.emulator.unacknowledged(SUBSCRIPTION), 0);
}

#[tokio::test(start_paused = true)]
async fn the_raw_form_is_that_of_googles_emulator() {
    let world = world().await;
    let push = PushSubscription { form: Form::Raw, ..PushSubscription::eventarc(SUBSCRIPTION, TOPIC, ENDPOINT) };
    world.emulator.push_subscription(&push);
    world.emulator.push(Push::Held);
    let attributes = HashMap::from([("path".to_owned(), "a/b".to_owned())]);
    world.publish(proto::PubsubMessage { attributes, ..message("") }).await.unwrap();
    let delivery = world.emulator.take_deliveries().remove(0);
    assert!(!delivery.request.headers().contains_key("ce-id"));
    let text = std::str::from_utf8(delivery.request.body()).unwrap();
    assert!(text.contains(r"projects\/p\/subscriptions\/requests") && !text.contains("deliveryAttempt"), "{text}");
    let body: Value = serde_json::from_str(text).unwrap();
    assert_eq!((&body["message"]["data"], &body["message"]["attributes"]["path"]), (&"".into(), &"a/b".into()));
    world.emulator.settle_delivery(&delivery, StatusCode::ACCEPTED);
    assert_eq!(world.emulator.unacknowledged(SUBSCRIPTION), 1);
}

#[tokio::test(start_paused = true)]
async fn refused_pushes_come_again_with_backoff() {
    let world = world().await;
    world.eventarc();
    let times = Arc::new(Mutex::new(Vec::new()));
    let emulator = world.emulator.clone();
    let seen = times.clone();
    world.emulator.push(Push::with(move |_| {
        let mut times = seen.lock().unwrap();
        times.push(emulator.now());
        let status = if times.len() < 9 { StatusCode::BAD_REQUEST } else { StatusCode::NO_CONTENT };
        async move { status }
    }));
    world.publish(message("x")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    let times = times.lock().unwrap().clone();
    let waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).num_seconds()).collect();
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600]);
    assert_eq!(world.emulator.unacknowledged(SUBSCRIPTION), 0);
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_push_is_refused_at_its_deadline_and_given_up_after_a_day() {
    let world = world().await;
    world.eventarc();
    let count = Arc::new(Mutex::new(0));
    let seen = count.clone();
    world.emulator.push(Push::with(move |_| {
        *seen.lock().unwrap() += 1;
        std::future::pending()
    }));
    world.publish(message("x")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(19)).await;
    assert_eq!(*count.lock().unwrap(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*count.lock().unwrap(), 2);
    tokio::time::sleep(Duration::from_secs(25 * 3600)).await;
    assert_eq!(world.emulator.unacknowledged(SUBSCRIPTION), 0);
}

#[tokio::test(start_paused = true)]
async fn disorder_doubles_and_reorders() {
    let world = world().await;
    world.eventarc();
    world.emulator.push(Push::Held);
    world.emulator.disorder(Disorder { duplicate: 1.0, reorder: 0.0, spread: Duration::from_secs(60) });
    world.publish(message("x")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    // Only what was never taken is due for the first time: both copies, of one id.
    let deliveries = world.emulator.take_deliveries();
    assert_eq!(deliveries.iter().map(|it| it.message_id.as_str()).collect::<Vec<_>>(), ["1", "1"]);
    deliveries.iter().for_each(|delivery| world.emulator.settle_delivery(delivery, StatusCode::OK));
    assert_eq!(world.emulator.unacknowledged(SUBSCRIPTION), 0);

    world.emulator.disorder(Disorder { duplicate: 0.0, reorder: 0.5, spread: Duration::from_secs(60) });
    for _ in 0..50 {
        world.publish(message("x")).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    let order: Vec<u32> = world.emulator.take_deliveries().iter().map(|it| it.message_id.parse().unwrap()).collect();
    assert!(!order.is_sorted());
    assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), (2..52).collect());
}

/// Over real sockets, against a small HTTP server.
#[tokio::test]
async fn pushes_travel_over_http() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = world().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/here?x=1", listener.local_addr().unwrap());
    let push = PushSubscription {
        backoff: (Duration::from_millis(1), Duration::from_millis(1)),
        ..PushSubscription::eventarc(SUBSCRIPTION, TOPIC, &endpoint)
    };
    world.emulator.push_subscription(&push);
    world.publish(message("x")).await.unwrap();
    for status in ["503 Service Unavailable", "204 No Content"] {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        // The body ends the request; it is the only part with this text.
        while !request.windows(15).any(|part| part == b"deliveryAttempt") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        assert!(text.starts_with("POST /here?x=1 HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("host: 127.0.0.1:"), "{text}");
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    while world.emulator.unacknowledged(SUBSCRIPTION) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
