//! Publishing to the response topic, over google.pubsub.v1.

use std::{collections::HashMap, sync::Arc, time::Duration};

use gcloud_sdk::google::pubsub::v1::{PublishRequest, PubsubMessage, publisher_client::PublisherClient};
use tokio::time::Instant;

use crate::{
    error::CallError,
    google::{Method, Repeat, Service, routed},
};

const PUBLISH: Method = Method {
    name: "Publisher.Publish",
    deadline: Duration::from_millis(2000),
    // A repeat carries the same event id.
    repeat: Repeat::Safe,
};

/// A message for the response topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub data: Vec<u8>,
    pub attributes: HashMap<String, String>,
    pub ordering_key: String,
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

    /// Publishes one message. When this returns `Ok` the service has it.
    pub async fn publish(&self, message: &Message) -> Result<(), CallError> {
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
