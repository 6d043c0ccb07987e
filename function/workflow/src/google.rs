//! One authenticated channel to a Google endpoint, renewed when it goes dead, and the way every call over it is made.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gcloud_sdk::{
    GoogleAuthHeaders, GoogleAuthMiddleware, GoogleAuthMiddlewareLayer,
    google_cloud_auth::credentials::anonymous,
    tonic::{
        Code, ConnectError, Request, Status,
        metadata::{Ascii, MetadataValue},
        transport::{Channel, ClientTlsConfig, Endpoint as ChannelEndpoint},
    },
};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};
use tower_layer::Layer;

use crate::error::CallError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A call that must not be made twice gets a fresh connection after so long a silence: between events Cloud Run
/// takes the CPU away, and connections die without a word.
const IDLE_LIMIT: Duration = Duration::from_secs(20);
/// Less than this is not worth a call.
const LEAST_TIME: Duration = Duration::from_millis(50);
const USER_AGENT: &str = concat!("inline-workflow/", env!("CARGO_PKG_VERSION"));

/// Unreserved characters stay as they are in a routing header. Source: https://google.aip.dev/client-libraries/4222
const ROUTING_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A byte stream to a service; what a test puts in the place of TCP.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// How a service is reached.
#[derive(Clone)]
pub enum Reach {
    /// Over TLS, with the credentials of the environment: `storage.googleapis.com`.
    Google(String),
    /// In plaintext without credentials, `host:port`.
    Emulator(String),
    /// Over streams that a test makes.
    Memory(Arc<dyn Fn() -> Connecting + Send + Sync>),
}

/// Whether a call may be made a second time when the first got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It reads, or its precondition or its event id makes the second harmless.
    Safe,
    Never,
}

/// One method and how long to wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    pub name: &'static str,
    /// For each attempt.
    pub deadline: Duration,
    pub repeat: Repeat,
}

/// One Google service. Clones share the connection.
#[derive(Clone)]
pub struct Service {
    reach: Arc<Reach>,
    connection: Arc<Mutex<Connection>>,
}

struct Connection {
    /// Counts the channels, so that of several calls that failed together only the first renews it.
    number: u64,
    channel: Option<GoogleAuthMiddleware>,
    last_answer: Instant,
}

impl Service {
    pub fn new(reach: Reach) -> Service {
        Service {
            reach: Arc::new(reach),
            connection: Arc::new(Mutex::new(Connection { number: 0, channel: None, last_answer: Instant::now() })),
        }
    }

    /// Makes a call, within the method's deadline for each attempt and `until` for all of it. What may be repeated is
    /// tried once more, over a fresh connection if the first kept silent.
    ///
    /// # Errors
    /// The last attempt's status; `DEADLINE_EXCEEDED` if it kept silent.
    pub async fn call<T, F>(
        &self,
        method: Method,
        resource: &str,
        until: Instant,
        attempt: impl Fn(GoogleAuthMiddleware, Duration) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let fail = |code, message: String, never_sent| CallError {
            method: method.name,
            resource: resource.to_owned(),
            code,
            message,
            never_sent,
        };
        if method.repeat == Repeat::Never {
            self.renew_if_idle();
        }
        let mut attempts_left = 2;
        loop {
            attempts_left -= 1;
            let left = until.saturating_duration_since(Instant::now());
            if left < LEAST_TIME {
                let message = "no time was left for the call".to_owned();
                return Err(fail(Code::DeadlineExceeded, message, true));
            }
            let (number, channel) = match self.channel().await {
                Ok(channel) => channel,
                Err(message) => return Err(fail(Code::Unauthenticated, message, true)),
            };
            let deadline = method.deadline.min(left);
            let (error, fresh) = match timeout(deadline, attempt(channel, deadline)).await {
                Ok(Ok(answer)) => {
                    self.answered();
                    return Ok(answer);
                }
                Ok(Err(status)) => {
                    let never_sent = in_chain::<ConnectError>(&status);
                    let credentials = in_chain::<gcloud_sdk::error::Error>(&status);
                    let from_service = std::error::Error::source(&status).is_none();
                    if from_service {
                        self.answered();
                    }
                    // The refresh of a token ends for good on some errors: only new credentials help.
                    let renew = credentials || status.code() == Code::Unauthenticated;
                    let code = match credentials {
                        true => Code::Unauthenticated,
                        false => status.code(),
                    };
                    let error = fail(code, status.message().to_owned(), never_sent || credentials);
                    (error, renew || !from_service)
                }
                Err(_) => {
                    let message = format!("no answer within {} ms", deadline.as_millis());
                    (fail(Code::DeadlineExceeded, message, false), true)
                }
            };
            if fresh {
                self.renew(number);
            }
            let harmless = error.never_sent
                || error.code == Code::Unauthenticated
                || (method.repeat == Repeat::Safe && worth_repeating(error.code));
            if attempts_left == 0 || !harmless {
                return Err(error);
            }
        }
    }

    async fn channel(&self) -> Result<(u64, GoogleAuthMiddleware), String> {
        {
            let connection = self.lock();
            if let Some(channel) = &connection.channel {
                return Ok((connection.number, channel.clone()));
            }
        }
        let channel = connect(&self.reach).await?;
        let mut connection = self.lock();
        let channel = connection.channel.get_or_insert(channel).clone();
        Ok((connection.number, channel))
    }

    fn renew(&self, number: u64) {
        let mut connection = self.lock();
        if connection.number == number {
            connection.number += 1;
            connection.channel = None;
        }
    }

    fn renew_if_idle(&self) {
        let mut connection = self.lock();
        if connection.channel.is_some() && connection.last_answer.elapsed() > IDLE_LIMIT {
            connection.number += 1;
            connection.channel = None;
        }
    }

    fn answered(&self) {
        self.lock().last_answer = Instant::now();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Codes that a second attempt may turn into an answer.
fn worth_repeating(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown | Code::Cancelled)
}

fn in_chain<E: std::error::Error + 'static>(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<E>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Makes a channel that connects with its first call.
async fn connect(reach: &Reach) -> Result<GoogleAuthMiddleware, String> {
    let endpoint = match reach {
        Reach::Google(host) => ChannelEndpoint::from_shared(format!("https://{host}"))
            .and_then(|endpoint| endpoint.tls_config(ClientTlsConfig::new().with_webpki_roots().domain_name(host))),
        Reach::Emulator(address) => ChannelEndpoint::from_shared(format!("http://{address}")),
        Reach::Memory(_) => ChannelEndpoint::from_shared("http://memory"),
    }
    .map_err(|error| error.to_string())?
    .connect_timeout(CONNECT_TIMEOUT)
    .tcp_nodelay(true);
    let channel: Channel = match reach {
        Reach::Memory(dial) => {
            let dial = Arc::clone(dial);
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
                let connecting = dial();
                async move { connecting.await.map(TokioIo::new) }
            }))
        }
        _ => endpoint.connect_lazy(),
    };
    let headers = match reach {
        Reach::Google(_) => GoogleAuthHeaders::from_adc().await.map_err(|error| error.to_string())?,
        _ => GoogleAuthHeaders::from(anonymous::Builder::new().build()),
    };
    GoogleAuthMiddlewareLayer::new(headers, None)
        .and_then(|layer| layer.amend_user_agent(USER_AGENT.to_owned()))
        .map(|layer| layer.layer(channel))
        .map_err(|error| error.to_string())
}

/// A request with its deadline and its routing header, `name=value` of each parameter, percent-encoded.
pub fn routed<T>(message: T, parameters: &[(&str, &str)], deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    let header = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, ROUTING_VALUE)))
        .collect::<Vec<_>>()
        .join("&");
    // Percent-encoded text is ASCII, so it always is a legal value.
    if let Ok(value) = header.parse::<MetadataValue<Ascii>>() {
        request.metadata_mut().insert("x-goog-request-params", value);
    }
    request
}
