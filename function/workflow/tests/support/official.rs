//! Google's own Pub/Sub emulator, as its clients see it.

use gcloud_sdk::google::pubsub::v1::{
    AcknowledgeRequest, PublishRequest, PubsubMessage, PullRequest, PushConfig, Subscription, Topic,
    publisher_client::PublisherClient, subscriber_client::SubscriberClient,
};
use tonic::transport::Channel;

/// A connection to the emulator that `OFFICIAL_PUBSUB_EMULATOR` (host:port) names; `.ci/with-pubsub-emulator` sets it.
pub struct Official {
    pub address: String,
    publisher: PublisherClient<Channel>,
    subscriber: SubscriberClient<Channel>,
}

impl Official {
    pub async fn connect() -> Official {
        let address = std::env::var("OFFICIAL_PUBSUB_EMULATOR").expect("OFFICIAL_PUBSUB_EMULATOR is not set");
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("host:port");
        let channel = endpoint.connect().await.expect("it listens");
        let (publisher, subscriber) = (PublisherClient::new(channel.clone()), SubscriberClient::new(channel));
        Official { address, publisher, subscriber }
    }

    pub async fn create_topic(&mut self, topic: &str) {
        let topic = Topic { name: topic.to_owned(), ..Default::default() };
        self.publisher.create_topic(topic).await.expect("a new topic");
    }

    /// Pushes a topic's messages to the endpoint, which ends in a slash. Its push bodies do not tell the topic; the
    /// endpoint's path does.
    pub async fn push(&mut self, topic: &str, endpoint: &str) {
        let push = PushConfig { push_endpoint: format!("{endpoint}{topic}"), ..Default::default() };
        self.subscribe(topic, Some(push)).await;
    }

    /// Keeps a topic's messages for [`Official::pull`].
    pub async fn keep(&mut self, topic: &str) {
        self.subscribe(topic, None).await;
    }

    async fn subscribe(&mut self, topic: &str, push_config: Option<PushConfig>) {
        let subscription = Subscription {
            name: topic.replace("topics", "subscriptions"),
            topic: topic.to_owned(),
            push_config,
            ..Default::default()
        };
        self.subscriber.create_subscription(subscription).await.expect("a new subscription");
    }

    /// The message's id.
    pub async fn publish(&mut self, topic: &str, data: &[u8]) -> String {
        let message = PubsubMessage { data: data.to_vec(), ..Default::default() };
        let request = PublishRequest { topic: topic.to_owned(), messages: vec![message] };
        let mut answer = self.publisher.publish(request).await.expect("published").into_inner();
        answer.message_ids.pop().expect("one for each message")
    }

    /// What there is of a kept topic's messages, each of them once.
    pub async fn pull(&mut self, topic: &str) -> Vec<PubsubMessage> {
        let subscription = topic.replace("topics", "subscriptions");
        // A pull that waits, and is given up, may take messages with it.
        #[expect(deprecated, reason = "the emulator's only pull that does not wait")]
        let pull = PullRequest { subscription: subscription.clone(), max_messages: 1000, return_immediately: true };
        let received = self.subscriber.pull(pull).await.expect("an answer").into_inner().received_messages;
        let ack_ids: Vec<_> = received.iter().map(|received| received.ack_id.clone()).collect();
        if !ack_ids.is_empty() {
            self.subscriber.acknowledge(AcknowledgeRequest { subscription, ack_ids }).await.expect("acknowledged");
        }
        received.into_iter().filter_map(|received| received.message).collect()
    }
}
