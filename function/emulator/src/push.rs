//! Push delivery: the forms a message takes on its way to an endpoint, and the loop that carries it there.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::future::{BoxFuture, Either, select};
use gcloud_sdk::google::pubsub::v1::PubsubMessage;
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::state::Shared;

/// Deliveries under way at once; the rest waits its turn.
const MAX_UNDER_WAY: usize = 256;

/// How a message is written into the HTTP request that delivers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A `messagePublished` CloudEvent in binary mode, as Eventarc posts it.
    #[default]
    Eventarc,
    /// The bare push body of Google's Pub/Sub emulator 0.8: escaped slashes, no event headers; 202 does not acknowledge.
    Raw,
    /// The message is an event in binary mode already: `ce-` attributes become headers and the data is the body.
    /// Eventarc forwards audit logs like this.
    Event,
}

/// Who carries deliveries to their endpoints.
#[derive(Clone, Default)]
pub enum Push {
    /// The emulator, over HTTP/1.
    #[default]
    Http,
    /// A test's own function; `Push::with` makes one.
    With(Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, StatusCode> + Send + Sync>),
    /// Nobody: the test takes them with `Emulator::take_deliveries`.
    Held,
}

impl Push {
    pub fn with<F, A>(deliver: F) -> Push
    where
        F: Fn(Request<Bytes>) -> A + Send + Sync + 'static,
        A: Future<Output = StatusCode> + Send + 'static,
    {
        Push::With(Arc::new(move |request| Box::pin(deliver(request))))
    }
}

/// One attempt to deliver one message.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub subscription: String,
    pub message_id: String,
    /// 1 for the first.
    pub attempt: u32,
    pub endpoint: String,
    /// Unsettled for this long, it counts as refused.
    pub ack_deadline: Duration,
    pub request: Request<Bytes>,
    pub(crate) ack_id: String,
    pub(crate) form: Form,
}

impl Form {
    pub(crate) fn acknowledges(self, status: StatusCode) -> bool {
        match status.as_u16() {
            102 | 200 | 201 | 204 => true,
            202 => self != Form::Raw,
            _ => false,
        }
    }

    pub(crate) fn request(
        self,
        endpoint: &str,
        subscription: &str,
        topic: &str,
        message: &PubsubMessage,
        attempt: u32,
    ) -> Request<Bytes> {
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let body = match self {
            Form::Eventarc => {
                let event = [
                    ("ce-id", message.message_id.clone()),
                    ("ce-source", format!("//pubsub.googleapis.com/{topic}")),
                    ("ce-specversion", "1.0".to_owned()),
                    ("ce-type", "google.cloud.pubsub.topic.v1.messagePublished".to_owned()),
                    ("ce-time", publish_time(message)),
                ];
                headers.extend(event.map(|(name, value)| (name.to_owned(), value)));
                let mut message_json = message_json(message);
                if !message.data.is_empty() {
                    message_json.insert("data".to_owned(), BASE64.encode(&message.data).into());
                }
                if !message.ordering_key.is_empty() {
                    message_json.insert("orderingKey".to_owned(), message.ordering_key.clone().into());
                }
                let body = json!({"message": message_json, "subscription": subscription, "deliveryAttempt": attempt});
                body.to_string().into_bytes()
            }
            Form::Raw => {
                let mut message_json = message_json(message);
                message_json.insert("data".to_owned(), BASE64.encode(&message.data).into());
                let body = json!({"subscription": subscription, "message": message_json});
                // A slash can stand only within strings here.
                body.to_string().replace('/', "\\/").into_bytes()
            }
            Form::Event => {
                let mut attributes: Vec<_> = message.attributes.clone().into_iter().collect();
                attributes.sort();
                headers.extend(attributes.into_iter().filter(|(name, _)| name.starts_with("ce-")));
                message.data.clone()
            }
        };
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = http::Method::POST;
        // An endpoint that is no URI fails when it is connected to, with its text in the log.
        *request.uri_mut() = endpoint.parse().unwrap_or_default();
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) =
                (http::HeaderName::from_bytes(name.as_bytes()), http::HeaderValue::from_str(&value))
            {
                request.headers_mut().insert(name, value);
            }
        }
        request
    }
}

/// The part that all forms with a Pub/Sub envelope share; camelCase and snake_case doubles are real.
fn message_json(message: &PubsubMessage) -> Map<String, Value> {
    let mut json = Map::new();
    if !message.attributes.is_empty() {
        // Sorted, whatever order the JSON map keeps: one history has one wire form.
        let attributes: BTreeMap<_, _> = message.attributes.iter().collect();
        json.insert("attributes".to_owned(), json!(attributes));
    }
    for key in ["messageId", "message_id"] {
        json.insert(key.to_owned(), message.message_id.clone().into());
    }
    for key in ["publishTime", "publish_time"] {
        json.insert(key.to_owned(), publish_time(message).into());
    }
    json
}

fn publish_time(message: &PubsubMessage) -> String {
    let time = message.publish_time.unwrap_or_default();
    let time = DateTime::<Utc>::from_timestamp(time.seconds, u32::try_from(time.nanos).unwrap_or(0));
    time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Carries deliveries and lets time pass for what nobody looks at, until the last handle of the emulator is gone.
pub(crate) async fn pump(shared: Weak<Shared>) {
    let Some(mut changed) = shared.upgrade().map(|shared| shared.changed.subscribe()) else {
        return;
    };
    let mut under_way = JoinSet::new();
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        changed.mark_unchanged();
        let (push, deliveries, next) = strong.due_deliveries(MAX_UNDER_WAY - under_way.len());
        for delivery in deliveries {
            under_way.spawn(carry(shared.clone(), push.clone(), delivery));
        }
        let clock = strong.clock.clone();
        let full = under_way.len() == MAX_UNDER_WAY;
        drop(strong);
        let next = async {
            match next {
                Some(next) if !full => clock.sleep_until(next).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(_) = under_way.join_next() => {}
            changed = changed.changed() => if changed.is_err() { return },
            () = next => {}
        }
    }
}

async fn carry(shared: Weak<Shared>, push: Push, delivery: Delivery) {
    let request = delivery.request.clone();
    let answer = async {
        match push {
            Push::With(deliver) => deliver(request).await,
            Push::Http | Push::Held => post(request).await.unwrap_or_else(|error| {
                tracing::debug!(%error, endpoint = delivery.endpoint, "push failed");
                StatusCode::BAD_GATEWAY
            }),
        }
    };
    let answer = tokio::time::timeout(delivery.ack_deadline, answer).await;
    let status = answer.unwrap_or(StatusCode::GATEWAY_TIMEOUT);
    if let Some(shared) = shared.upgrade() {
        shared.settle(&delivery, status);
    }
}

/// One HTTP/1 request over a connection of its own. The status of the answer.
///
/// # Errors
/// A text: the endpoint is no `http://` URL, or it cannot be reached, or it does not speak HTTP.
pub(crate) async fn post(request: Request<Bytes>) -> Result<StatusCode, String> {
    let uri = request.uri().clone();
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(format!("endpoint `{uri}` is not an http:// URL"));
    };
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream = tokio::net::TcpStream::connect(&address).await.map_err(|error| format!("{address}: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    let (mut parts, body) = request.into_parts();
    parts.uri = uri.path_and_query().map_or_else(Uri::default, |path| Uri::from(path.clone()));
    if let Ok(host) = http::HeaderValue::from_str(authority.as_str()) {
        parts.headers.insert(http::header::HOST, host);
    }
    let answer = pin!(sender.send_request(Request::from_parts(parts, Full::new(body))));
    let connection = pin!(connection);
    // The connection is driven only for as long as its answer is awaited: nothing outlives this delivery.
    let answer = match select(answer, connection).await {
        Either::Left((answer, _)) => answer,
        // It may end right behind the answer, which is then there already.
        Either::Right((_, answer)) => answer.await,
    };
    answer.map(|answer| answer.status()).map_err(|error| format!("{address}: {error}"))
}
