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
/// For a token of the metadata server, or of whatever else the environment's credentials ask.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that has been silent for longer is not tried again: between events Cloud Run takes the CPU away, and
/// connections die without a word.
const IDLE_LIMIT: Duration = Duration::from_secs(20);
/// Less than this is not worth a call.
const LEAST_TIME: Duration = Duration::from_millis(50);
const NO_TIME: &str = "no time was left for the call";
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
    /// It is sent once, and only over a connection that was made or has answered since then: one that died in silence
    /// would swallow it, and nobody could tell whether it was executed.
    Never { alive_since: Instant },
}

/// One method and how long to wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    pub name: &'static str,
    /// For each attempt; for the whole call if it must not be repeated.
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
    /// Outlive the channel: a token is good for an hour.
    credentials: Option<Arc<GoogleAuthHeaders>>,
    /// When the channel was made or last answered.
    alive: Instant,
}

impl Service {
    pub fn new(reach: Reach) -> Service {
        let connection = Connection { number: 0, channel: None, credentials: None, alive: Instant::now() };
        Service { reach: Arc::new(reach), connection: Arc::new(Mutex::new(connection)) }
    }

    /// Makes a call, within the method's deadline for each attempt and `until` for all of it. What may be repeated is
    /// tried once more, over a fresh connection if the first kept silent.
    ///
    /// # Errors
    /// The last attempt's status; `DEADLINE_EXCEEDED` if it kept silent, `UNAUTHENTICATED` if there are no credentials.
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
        let now = Instant::now();
        let (until, alive_since) = match method.repeat {
            Repeat::Safe => (until, now.checked_sub(IDLE_LIMIT)),
            Repeat::Never { alive_since } => (until.min(now + method.deadline), Some(alive_since)),
        };
        self.renew_unless_alive(alive_since);
        let mut attempts_left = 2;
        loop {
            attempts_left -= 1;
            if time_left(until, method.deadline).is_none() {
                return Err(fail(Code::DeadlineExceeded, NO_TIME.to_owned(), true));
            }
            let (number, channel) = match self.channel(until).await {
                Ok(channel) => channel,
                Err(message) => return Err(fail(Code::Unauthenticated, message, true)),
            };
            let deadline = method.deadline.min(until.saturating_duration_since(Instant::now()));
            let (error, fresh) = match timeout(deadline, attempt(channel, deadline)).await {
                Ok(Ok(answer)) => {
                    self.answered(number);
                    return Ok(answer);
                }
                Ok(Err(status)) => {
                    let never_sent = in_chain::<ConnectError>(&status) || in_chain::<gcloud_sdk::error::Error>(&status);
                    let from_service = std::error::Error::source(&status).is_none();
                    if from_service {
                        self.answered(number);
                    }
                    if status.code() == Code::Unauthenticated {
                        self.forget_credentials(number);
                    }
                    (fail(status.code(), status.message().to_owned(), never_sent), !from_service)
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

    /// The channel, with credentials that have a token. The channel would ask for one itself, but then a call that still
    /// waits for its token could not be told from one that has been sent.
    async fn channel(&self, until: Instant) -> Result<(u64, GoogleAuthMiddleware), String> {
        let credentials = loop {
            let known = self.lock().credentials.clone();
            let is_fresh = known.is_none();
            let credentials = match known {
                Some(credentials) => credentials,
                None => {
                    let made = Arc::new(credentials(&self.reach).await?);
                    Arc::clone(self.lock().credentials.get_or_insert(made))
                }
            };
            let time = time_left(until, CREDENTIALS_TIMEOUT).ok_or(NO_TIME)?;
            let message = match timeout(time, credentials.headers()).await {
                Ok(Ok(_)) => break credentials,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no token within {} ms", time.as_millis()),
            };
            // The refresh of a token ends for good on some errors: then only new credentials help, on a new channel.
            let mut connection = self.lock();
            if connection.credentials.take_if(|standing| Arc::ptr_eq(standing, &credentials)).is_some() {
                connection.renew();
            }
            if is_fresh {
                return Err(message);
            }
        };
        let mut connection = self.lock();
        let channel = match &connection.channel {
            Some(channel) => channel.clone(),
            None => {
                let channel = connect(&self.reach, credentials)?;
                connection.alive = Instant::now();
                connection.channel.insert(channel).clone()
            }
        };
        Ok((connection.number, channel))
    }

    fn renew(&self, number: u64) {
        let mut connection = self.lock();
        if connection.number == number {
            connection.renew();
        }
    }

    fn renew_unless_alive(&self, since: Option<Instant>) {
        let mut connection = self.lock();
        if connection.channel.is_some() && since.is_some_and(|since| connection.alive <= since) {
            connection.renew();
        }
    }

    /// The service did not take the channel's token.
    fn forget_credentials(&self, number: u64) {
        let mut connection = self.lock();
        if connection.number == number {
            connection.credentials = None;
            connection.renew();
        }
    }

    fn answered(&self, number: u64) {
        let mut connection = self.lock();
        if connection.number == number {
            connection.alive = Instant::now();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn renew(&mut self) {
        self.number += 1;
        self.channel = None;
    }
}

/// What is left until then, at most `most`; none if it is not worth a call.
fn time_left(until: Instant, most: Duration) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    (left >= LEAST_TIME).then(|| left.min(most))
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

async fn credentials(reach: &Reach) -> Result<GoogleAuthHeaders, String> {
    match reach {
        Reach::Google(_) => GoogleAuthHeaders::from_adc().await.map_err(|error| error.to_string()),
        Reach::Emulator(_) | Reach::Memory(_) => Ok(GoogleAuthHeaders::from(anonymous::Builder::new().build())),
    }
}

/// Makes a channel that connects with its first call.
fn connect(reach: &Reach, credentials: Arc<GoogleAuthHeaders>) -> Result<GoogleAuthMiddleware, String> {
    let endpoint = match reach {
        Reach::Google(host) => ChannelEndpoint::from_shared(format!("https://{host}"))
            .and_then(|endpoint| endpoint.tls_config(ClientTlsConfig::new().with_webpki_roots())),
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
    GoogleAuthMiddlewareLayer::new(credentials, None)
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

#[cfg(test)]
mod tests {
    use gcloud_sdk::google::longrunning::{GetOperationRequest, operations_client::OperationsClient};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const GET: Method =
        Method { name: "Operations.GetOperation", deadline: Duration::from_secs(2), repeat: Repeat::Safe };

    /// A token of the environment is not to be had in a test; everything else is as with Google.
    async fn call_over_tls(address: String) -> CallError {
        let service = Service::new(Reach::Google(address));
        service.lock().credentials = Some(Arc::new(GoogleAuthHeaders::from(anonymous::Builder::new().build())));
        let until = Instant::now() + Duration::from_secs(8);
        let call = service.call(GET, "o", until, |channel, deadline| async move {
            let request = routed(GetOperationRequest { name: "o".to_owned() }, &[("name", "o")], deadline);
            OperationsClient::new(channel).get_operation(request).await
        });
        call.await.unwrap_err()
    }

    #[tokio::test]
    async fn tls_begins_with_a_handshake_and_its_failure_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 3];
            stream.read_exact(&mut hello).await.unwrap();
            // No server certificate of ours would please the client; anything but TLS must not, either.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            drop((stream, listener));
            hello
        };
        let (hello, error) = tokio::join!(server, call_over_tls(address));
        // A handshake record of TLS 1.x. Source: RFC 8446, 5.1.
        assert_eq!(hello[..2], [22, 3]);
        assert_eq!(error.code, Code::Unavailable, "{error}");
        assert!(error.never_sent, "{error}");
    }

    #[tokio::test]
    async fn a_closed_port_is_an_error_before_anything_is_sent() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let error = call_over_tls(address).await;
        assert_eq!((error.code, error.never_sent), (Code::Unavailable, true), "{error}");
    }
}
