//! Cloud Pub/Sub, google.pubsub.v1: topics, and subscriptions whose messages come again until they are acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gcloud_sdk::google::pubsub::v1 as proto;
use prost::Message;
use tonic::Status;

use crate::clock::{Clock, add, timestamp};
use crate::push::{Delivery, Form};
use crate::rules;
use crate::subscription::{ACK_DEADLINE, BACKOFF, Subscription, wait};

const MAX_PULL: usize = 1000;
const MAX_PAGE: usize = 1000;

/// At-least-once delivery made visible: how often messages come twice or overtake one another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disorder {
    /// Probability that a message is delivered a second time, acknowledged or not: at once or up to `spread` later.
    pub duplicate: f64,
    /// Probability that a message is held back for up to `spread`, so that later ones overtake it.
    pub reorder: f64,
    pub spread: Duration,
}

/// A push subscription with what the API has no field for.
#[derive(Clone, Debug)]
pub struct PushSubscription {
    /// Full name, `projects/P/subscriptions/S`.
    pub name: String,
    /// Full name, `projects/P/topics/T`; created if it is not there.
    pub topic: String,
    /// `http://host:port/path`.
    pub endpoint: String,
    pub form: Form,
    /// Not shortened by the clock's speed: what it bounds is the function's own work.
    pub ack_deadline: Duration,
    /// First and largest wait before a refused message comes again; shortened by the clock's speed.
    pub backoff: (Duration, Duration),
}

impl PushSubscription {
    /// As an Eventarc trigger makes it.
    pub fn eventarc(name: &str, topic: &str, endpoint: &str) -> PushSubscription {
        PushSubscription {
            name: name.to_owned(),
            topic: topic.to_owned(),
            endpoint: endpoint.to_owned(),
            form: Form::Eventarc,
            ack_deadline: ACK_DEADLINE,
            backoff: BACKOFF,
        }
    }
}

pub(crate) struct PubSub {
    topics: BTreeMap<String, Topic>,
    subscriptions: BTreeMap<String, Subscription>,
    last_message: u64,
    auto_create: bool,
    keep: usize,
    pub(crate) push_form: Form,
    pub(crate) disorder: Disorder,
}

struct Topic {
    topic: proto::Topic,
    published: VecDeque<Arc<proto::PubsubMessage>>,
}

impl PubSub {
    pub(crate) fn new(auto_create: bool, keep: usize, push_form: Form) -> PubSub {
        PubSub {
            topics: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            last_message: 0,
            auto_create,
            keep,
            push_form,
            disorder: Disorder::default(),
        }
    }

    pub(crate) fn create_topic(&mut self, name: &str) {
        let topic = proto::Topic { name: name.to_owned(), ..proto::Topic::default() };
        self.topics.entry(name.to_owned()).or_insert(Topic { topic, published: VecDeque::new() });
    }

    pub(crate) fn published(&self, topic: &str) -> Vec<proto::PubsubMessage> {
        let published = self.topics.get(topic).map(|topic| &topic.published);
        published.into_iter().flatten().map(|message| message.as_ref().clone()).collect()
    }

    /// How many messages of a subscription are not acknowledged yet.
    pub(crate) fn unacknowledged(&self, subscription: &str) -> usize {
        self.subscriptions.get(subscription).map_or(0, |it| it.messages.len())
    }

    pub(crate) fn add_push_subscription(&mut self, push: &PushSubscription) {
        self.create_topic(&push.topic);
        let subscription = proto::Subscription {
            name: push.name.clone(),
            topic: push.topic.clone(),
            ack_deadline_seconds: i32::try_from(push.ack_deadline.as_secs()).unwrap_or(i32::MAX),
            push_config: Some(proto::PushConfig {
                push_endpoint: push.endpoint.clone(),
                ..proto::PushConfig::default()
            }),
            ..proto::Subscription::default()
        };
        let subscription = Subscription {
            form: push.form,
            ack_deadline: push.ack_deadline,
            backoff: Some(push.backoff),
            ..Subscription::new(subscription, push.form)
        };
        self.subscriptions.insert(push.name.clone(), subscription);
    }

    /// Gives a message that passed the checks to the topic and its subscriptions. Its id.
    pub(crate) fn publish(
        &mut self,
        now: DateTime<Utc>,
        rng: &mut fastrand::Rng,
        topic: &str,
        message: proto::PubsubMessage,
    ) -> String {
        self.create_topic(topic);
        self.last_message += 1;
        let id = self.last_message.to_string();
        let message =
            Arc::new(proto::PubsubMessage { message_id: id.clone(), publish_time: Some(timestamp(now)), ..message });
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.published.push_back(message.clone());
            while topic.published.len() > self.keep {
                topic.published.pop_front();
            }
        }
        let Disorder { duplicate, reorder, spread } = self.disorder;
        for subscription in self.subscriptions.values_mut().filter(|it| it.subscription.topic == topic) {
            subscription.enqueue(message.clone(), now, now);
            if rng.f64() < reorder {
                subscription.hold_back_last(add(now, spread.mul_f64(rng.f64())));
            }
            if rng.f64() < duplicate {
                let late = if rng.bool() { spread.mul_f64(rng.f64()) } else { Duration::ZERO };
                subscription.enqueue(message.clone(), now, add(now, late));
            }
        }
        id
    }

    pub(crate) fn call_create_topic(&mut self, request: proto::Topic) -> Result<proto::Topic, Status> {
        rules::resource_name(&request.name, "topics")?;
        if self.topics.contains_key(&request.name) {
            return Err(Status::already_exists(format!(
                "Resource already exists in the project (resource={}).",
                last_part(&request.name)
            )));
        }
        self.create_topic(&request.name);
        if let Some(topic) = self.topics.get_mut(&request.name) {
            topic.topic = request.clone();
        }
        Ok(request)
    }

    pub(crate) fn call_get_topic(&self, request: &proto::GetTopicRequest) -> Result<proto::Topic, Status> {
        let topic = self.topics.get(&request.topic).ok_or_else(|| not_found(&request.topic))?;
        Ok(topic.topic.clone())
    }

    pub(crate) fn call_list_topics(
        &self,
        request: &proto::ListTopicsRequest,
    ) -> Result<proto::ListTopicsResponse, Status> {
        let prefix = format!("{}/topics/", request.project);
        let names = self.topics.keys().filter(|name| name.starts_with(&prefix));
        let (names, next_page_token) = page(names, request.page_size, &request.page_token)?;
        Ok(proto::ListTopicsResponse {
            topics: names.iter().map(|name| self.topics[name].topic.clone()).collect(),
            next_page_token,
        })
    }

    pub(crate) fn call_delete_topic(&mut self, request: &proto::DeleteTopicRequest) -> Result<(), Status> {
        self.topics.remove(&request.topic).ok_or_else(|| not_found(&request.topic))?;
        for subscription in self.subscriptions.values_mut() {
            if subscription.subscription.topic == request.topic {
                "_deleted-topic_".clone_into(&mut subscription.subscription.topic);
            }
        }
        Ok(())
    }

    pub(crate) fn call_publish(
        &mut self,
        now: DateTime<Utc>,
        rng: &mut fastrand::Rng,
        request: proto::PublishRequest,
    ) -> Result<proto::PublishResponse, Status> {
        check_publish(&request)?;
        if !self.topics.contains_key(&request.topic) {
            rules::resource_name(&request.topic, "topics")?;
            if !self.auto_create {
                return Err(not_found(&request.topic));
            }
        }
        let messages = request.messages.into_iter();
        let message_ids = messages.map(|message| self.publish(now, rng, &request.topic, message)).collect();
        Ok(proto::PublishResponse { message_ids })
    }

    /// Filters, dead letters, ordered and exactly-once delivery are kept in the subscription and not applied.
    pub(crate) fn call_create_subscription(
        &mut self,
        request: proto::Subscription,
    ) -> Result<proto::Subscription, Status> {
        rules::resource_name(&request.name, "subscriptions")?;
        if !self.topics.contains_key(&request.topic) {
            return Err(not_found(&request.topic));
        }
        if self.subscriptions.contains_key(&request.name) {
            return Err(Status::already_exists(format!(
                "Resource already exists in the project (resource={}).",
                last_part(&request.name)
            )));
        }
        let mut request = request;
        match request.ack_deadline_seconds {
            0 => request.ack_deadline_seconds = 10,
            10..=600 => {}
            other => {
                return Err(Status::invalid_argument(format!(
                    "Invalid ack deadline given: ack_deadline_seconds={other}, want 10 to 600"
                )));
            }
        }
        let subscription = Subscription::new(request.clone(), self.push_form);
        self.subscriptions.insert(request.name.clone(), subscription);
        Ok(request)
    }

    pub(crate) fn call_get_subscription(
        &self,
        request: &proto::GetSubscriptionRequest,
    ) -> Result<proto::Subscription, Status> {
        Ok(self.subscription(&request.subscription)?.subscription.clone())
    }

    pub(crate) fn call_list_subscriptions(
        &self,
        request: &proto::ListSubscriptionsRequest,
    ) -> Result<proto::ListSubscriptionsResponse, Status> {
        let prefix = format!("{}/subscriptions/", request.project);
        let names = self.subscriptions.keys().filter(|name| name.starts_with(&prefix));
        let (names, next_page_token) = page(names, request.page_size, &request.page_token)?;
        Ok(proto::ListSubscriptionsResponse {
            subscriptions: names.iter().map(|name| self.subscriptions[name].subscription.clone()).collect(),
            next_page_token,
        })
    }

    pub(crate) fn call_delete_subscription(
        &mut self,
        request: &proto::DeleteSubscriptionRequest,
    ) -> Result<(), Status> {
        self.subscriptions.remove(&request.subscription).map(drop).ok_or_else(|| not_found(&request.subscription))
    }

    /// Takes what is due, or nothing.
    pub(crate) fn call_pull(
        &mut self,
        now: DateTime<Utc>,
        request: &proto::PullRequest,
    ) -> Result<proto::PullResponse, Status> {
        let max = usize::try_from(request.max_messages).unwrap_or(0).min(MAX_PULL);
        if max == 0 {
            return Err(Status::invalid_argument("max_messages must be greater than 0"));
        }
        let subscription = self.subscription_mut(&request.subscription)?;
        if subscription.endpoint().is_some() {
            return Err(Status::failed_precondition("a push subscription cannot be pulled from"));
        }
        let deadline = subscription.ack_deadline;
        let mut received_messages = Vec::new();
        while received_messages.len() < max
            && let Some(sequence) = subscription.lease(now, |_| deadline)
        {
            let outstanding = &subscription.messages[&sequence];
            received_messages.push(proto::ReceivedMessage {
                ack_id: format!("{sequence}:{}", outstanding.attempts),
                message: Some(outstanding.message.as_ref().clone()),
                delivery_attempt: i32::try_from(outstanding.attempts).unwrap_or(i32::MAX),
            });
        }
        Ok(proto::PullResponse { received_messages })
    }

    /// When the subscription has something to pull, as far as is known now.
    pub(crate) fn next_pull(&self, subscription: &str) -> Option<DateTime<Utc>> {
        self.subscriptions.get(subscription)?.due.first().map(|(due, _)| *due)
    }

    /// Late acknowledgements count too, as they mostly do with the service; unknown ids are ignored.
    pub(crate) fn call_acknowledge(&mut self, request: &proto::AcknowledgeRequest) -> Result<(), Status> {
        let subscription = self.subscription_mut(&request.subscription)?;
        for sequence in request.ack_ids.iter().filter_map(|id| sequence(id)) {
            subscription.acknowledge(sequence);
        }
        Ok(())
    }

    pub(crate) fn call_modify_ack_deadline(
        &mut self,
        now: DateTime<Utc>,
        clock: &Clock,
        request: &proto::ModifyAckDeadlineRequest,
    ) -> Result<(), Status> {
        let seconds = u64::try_from(request.ack_deadline_seconds)
            .ok()
            .filter(|seconds| *seconds <= 600)
            .ok_or_else(|| Status::invalid_argument("ack_deadline_seconds must be 0 to 600"))?;
        let subscription = self.subscription_mut(&request.subscription)?;
        for sequence in request.ack_ids.iter().filter_map(|id| sequence(id)) {
            if seconds == 0 {
                subscription.refuse(now, clock, sequence);
            } else {
                subscription.reschedule(sequence, add(now, Duration::from_secs(seconds)));
            }
        }
        Ok(())
    }

    pub(crate) fn call_modify_push_config(&mut self, request: proto::ModifyPushConfigRequest) -> Result<(), Status> {
        self.subscription_mut(&request.subscription)?.subscription.push_config = request.push_config;
        Ok(())
    }

    /// Takes up to `max` push deliveries that are due; each counts as under way until its ack deadline.
    pub(crate) fn take_deliveries(&mut self, now: DateTime<Utc>, clock: &Clock, max: usize) -> Vec<Delivery> {
        let mut taken = Vec::new();
        for (name, subscription) in &mut self.subscriptions {
            let Some(endpoint) = subscription.endpoint().map(str::to_owned) else {
                continue;
            };
            let deadline = subscription.ack_deadline;
            let backoff = subscription.backoff;
            while taken.len() < max
                && let Some(sequence) =
                    // A push that is never settled is a refusal at its deadline.
                    subscription.lease(now, |attempts| deadline + wait(clock, backoff, attempts))
            {
                let outstanding = &subscription.messages[&sequence];
                taken.push(Delivery {
                    subscription: name.clone(),
                    ack_id: format!("{sequence}:{}", outstanding.attempts),
                    message_id: outstanding.message.message_id.clone(),
                    attempt: outstanding.attempts,
                    ack_deadline: deadline,
                    endpoint: endpoint.clone(),
                    request: subscription.form.request(
                        &endpoint,
                        name,
                        &subscription.subscription.topic,
                        &outstanding.message,
                        outstanding.attempts,
                    ),
                    form: subscription.form,
                });
            }
        }
        taken
    }

    pub(crate) fn next_delivery(&self) -> Option<DateTime<Utc>> {
        let pushed = self.subscriptions.values().filter(|it| it.endpoint().is_some());
        pushed.filter_map(|it| it.due.first().map(|(due, _)| *due)).min()
    }

    /// What the endpoint answered to a delivery; an attempt that has been overtaken by another can still acknowledge.
    pub(crate) fn settle(&mut self, now: DateTime<Utc>, clock: &Clock, delivery: &Delivery, acknowledged: bool) {
        let (Ok(subscription), Some(sequence)) =
            (self.subscription_mut(&delivery.subscription), sequence(&delivery.ack_id))
        else {
            return;
        };
        if acknowledged {
            subscription.acknowledge(sequence);
        } else if subscription.messages.get(&sequence).is_some_and(|it| it.attempts == delivery.attempt) {
            subscription.refuse(now, clock, sequence);
        }
    }

    fn subscription(&self, name: &str) -> Result<&Subscription, Status> {
        self.subscriptions.get(name).ok_or_else(|| not_found(name))
    }

    fn subscription_mut(&mut self, name: &str) -> Result<&mut Subscription, Status> {
        self.subscriptions.get_mut(name).ok_or_else(|| not_found(name))
    }
}

/// Limits of the service: 10 MB and 1,000 messages a request, 100 attributes, keys of 256 and values of 1,024 bytes.
fn check_publish(request: &proto::PublishRequest) -> Result<(), Status> {
    let invalid = |text: String| Err(Status::invalid_argument(text));
    if request.messages.is_empty() || request.messages.len() > 1000 {
        return invalid("messages: a request carries 1 to 1000 messages".to_owned());
    }
    if request.encoded_len() > 10_000_000 {
        return invalid("the request is larger than 10 MB".to_owned());
    }
    for (at, message) in request.messages.iter().enumerate() {
        if message.data.is_empty() && message.attributes.is_empty() {
            return invalid(format!("messages[{at}]: neither data nor attributes"));
        }
        if message.attributes.len() > 100 {
            return invalid(format!("messages[{at}].attributes: more than 100"));
        }
        if message.ordering_key.len() > 1024 {
            return invalid(format!("messages[{at}].ordering_key: longer than 1024 bytes"));
        }
        for (key, value) in message.attributes.iter().collect::<BTreeMap<_, _>>() {
            if key.is_empty() || key.len() > 256 || key.starts_with("goog") {
                return invalid(format!(
                    "messages[{at}].attributes: the key `{key}` is empty, longer than 256 bytes or reserved"
                ));
            }
            if value.len() > 1024 {
                return invalid(format!("messages[{at}].attributes[{key}]: longer than 1024 bytes"));
            }
        }
    }
    Ok(())
}

fn page<'a>(
    names: impl Iterator<Item = &'a String>,
    page_size: i32,
    page_token: &str,
) -> Result<(Vec<String>, String), Status> {
    let size = match usize::try_from(page_size) {
        Ok(0) => MAX_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => return Err(Status::invalid_argument("page_size must not be negative")),
    };
    let mut names: Vec<String> = names.filter(|name| name.as_str() > page_token).take(size + 1).cloned().collect();
    let more = names.len() > size;
    names.truncate(size);
    let token = if more { names.last().cloned() } else { None };
    Ok((names, token.unwrap_or_default()))
}

fn sequence(ack_id: &str) -> Option<u64> {
    ack_id.split_once(':')?.0.parse().ok()
}

fn not_found(name: &str) -> Status {
    Status::not_found(format!("Resource not found (resource={}).", last_part(name)))
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}
