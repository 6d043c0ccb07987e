//! Publishing to the response topic, over google.pubsub.v1.

use std::{collections::HashMap, sync::Arc};

use gcloud_sdk::{
    google::pubsub::v1::{PublishRequest, PubsubMessage, publisher_client::PublisherClient},
    tonic::Code,
};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    error::{CallError, Origin},
    google::{Method, Repeat, SAFE_DEADLINE, Service, routed},
};

const PUBLISH: Method = Method {
    name: "Publisher.Publish",
    deadline: SAFE_DEADLINE,
    // A repeat carries the same event id.
    repeat: Repeat::Safe,
};

/// In bytes, of a whole request. Source: https://cloud.google.com/pubsub/quotas#resource_limits
const LARGEST_REQUEST: usize = 10_000_000;
/// What a request has beside the data, the attributes and the ordering key: the topic's name, tags and lengths.
const REQUEST_OVERHEAD: usize = 2_048;
/// The tags and lengths of an attribute.
const ATTRIBUTE_OVERHEAD: usize = 16;

/// The attributes of an event's smallest form: those that CloudEvents requires, the run, and the order.
/// Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#required-attributes
const SMALLEST_ATTRIBUTES: [&str; 9] = [
    "ce-specversion",
    "ce-id",
    "ce-source",
    "ce-type",
    "ce-time",
    "ce-datacontenttype",
    "content-type",
    "ce-runid",
    "ce-sequence",
];

/// A message for the response topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub data: Vec<u8>,
    pub attributes: HashMap<String, String>,
    pub ordering_key: String,
    /// The data to publish if the service refuses the message: with those attributes only that are the event's own.
    pub smallest: Vec<u8>,
}

impl Message {
    /// Whether a request with this message is within the service's limit.
    pub fn fits(&self) -> bool {
        let attributes: usize =
            self.attributes.iter().map(|(key, value)| key.len() + value.len() + ATTRIBUTE_OVERHEAD).sum();
        self.data.len() + attributes + self.ordering_key.len() + REQUEST_OVERHEAD <= LARGEST_REQUEST
    }

    /// What has the best chance of being taken: little data, no text of the sender in the attributes, no ordering key.
    fn in_smallest_form(&self) -> Message {
        let own = self.attributes.iter().filter(|(key, _)| SMALLEST_ATTRIBUTES.contains(&key.as_str()));
        Message {
            data: self.smallest.clone(),
            attributes: own.map(|(key, value)| (key.clone(), value.clone())).collect(),
            ordering_key: String::new(),
            smallest: Vec::new(),
        }
    }
}

/// Whether the service will not take a message as it is, however often it is published.
pub fn is_refused(error: &CallError) -> bool {
    error.code == Code::InvalidArgument && error.origin == Origin::Service
}

/// One topic, until a deadline.
#[derive(Clone)]
pub struct Topic {
    service: Service,
    /// `projects/P/topics/T`
    name: Arc<str>,
    until: Instant,
}

impl Topic {
    pub fn new(service: Service, name: &str, until: Instant) -> Topic {
        Topic { service, name: name.into(), until }
    }

    /// The same topic with another deadline.
    pub fn until(self, until: Instant) -> Topic {
        Topic { until, ..self }
    }

    /// Connects, if that is not done.
    pub async fn connect(&self) {
        self.service.connect(self.until).await;
    }

    /// Publishes one message. One that the service refuses is published in its smallest form, with the same event id. When
    /// this returns `Ok` the service has one of the two.
    ///
    /// # Errors
    /// The call that failed, see [`is_refused`] for the only error of which a repetition is of no use.
    pub async fn publish(&self, message: &Message) -> Result<(), CallError> {
        match self.publish_once(message).await {
            Err(error) if is_refused(&error) => {
                let (run_id, event) = (message.attributes.get("ce-runid"), message.attributes.get("ce-id"));
                warn!(run_id, event, %error, "an event was refused; published without its details");
                self.publish_once(&message.in_smallest_form()).await
            }
            answer => answer,
        }
    }

    async fn publish_once(&self, message: &Message) -> Result<(), CallError> {
        self.service
            .call(PUBLISH, &self.name, self.until, |channel, deadline| async move {
                let request = PublishRequest {
                    topic: self.name.to_string(),
                    messages: vec![PubsubMessage {
                        data: message.data.clone(),
                        attributes: message.attributes.clone(),
                        ordering_key: message.ordering_key.clone(),
                        ..Default::default()
                    }],
                };
                PublisherClient::new(channel).publish(routed(request, &[("topic", &self.name)], deadline)).await
            })
            .await
            .map(|_| ())
    }
}
