//! One authenticated connection to a Google endpoint, renewed when it goes dead, and the way every call over it is made.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gcloud_sdk::tonic::{
    Code, Request, Status,
    codegen::http::HeaderValue,
    metadata::{Ascii, MetadataValue},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};

use crate::{
    channel::{self, Channel, NotSent},
    credentials::Credentials,
    error::{CallError, Origin},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For a token of the metadata server.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that has been silent for longer is not tried again: between events Cloud Run takes the CPU away, and
/// connections die without a word.
const IDLE_LIMIT: Duration = Duration::from_secs(20);
/// Less than this is not worth a call.
const LEAST_TIME: Duration = Duration::from_millis(50);
const NO_TIME: &str = "no time was left for the call";
/// A round trip within a region takes a few milliseconds.
const PING_TIMEOUT: Duration = Duration::from_millis(300);

/// Unreserved characters stay as they are in a routing header. Source: https://google.aip.dev/client-libraries/4222
const ROUTING_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A byte stream to a service; what a test puts in the place of TCP.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// How a service is reached.
#[derive(Clone)]
pub enum Reach {
    /// Over TLS, with an access token: `storage.googleapis.com`.
    Google { host: String, credentials: Credentials },
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
    /// Held while a connection is made, so that calls that need one at the same time make one.
    connecting: Arc<tokio::sync::Mutex<()>>,
}

struct Connection {
    /// Counts the channels, so that of several calls that failed together only the first renews it.
    number: u64,
    channel: Option<Channel>,
    /// When the channel began to be made, or last answered.
    alive: Instant,
}

impl Service {
    pub fn new(reach: Reach) -> Service {
        let connection = Connection { number: 0, channel: None, alive: Instant::now() };
        Service { reach: Arc::new(reach), connection: Arc::new(Mutex::new(connection)), connecting: Arc::default() }
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
        attempt: impl Fn(Channel, Duration) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut attempts = Attempts::new(self, method, resource, until);
        loop {
            let (channel, deadline) = attempts.begin().await?;
            // On the heap, for whatever awaits a call would grow by it, and be moved with it.
            match timeout(deadline, Box::pin(attempt(channel, deadline))).await {
                Ok(Ok(answer)) => {
                    attempts.answered();
                    return Ok(answer);
                }
                Ok(Err(status)) => attempts.failed(status).await?,
                Err(_) => attempts.kept_silent(deadline)?,
            }
        }
    }

    /// Connects, if that is not done.
    pub async fn connect(&self, until: Instant) {
        // What goes wrong is the next call's business.
        let _ = self.channel(until).await;
    }

    /// Connects, or makes sure that the connection is alive: best side by side with other calls, ahead of one that must
    /// not be repeated. What goes wrong is that call's business.
    pub async fn wake(&self, since: Instant, until: Instant) {
        let Ok((number, channel)) = self.channel(until).await else { return };
        let is_alive = || self.lock().alive > since;
        if is_alive() {
            return;
        }
        // Whoever waits for another's ping has its answer, too.
        let answer = timeout(PING_TIMEOUT, channel.ping_unless(is_alive));
        match answer.await {
            Ok(Ok(true)) => self.answered(number),
            Ok(Ok(false)) => {}
            _ => self.renew(number),
        }
    }

    /// The channel, connected, with a token where one is needed: so that a call that was sent can be told from one that
    /// still waits for either.
    async fn channel(&self, until: Instant) -> Result<(u64, Channel), (Code, String)> {
        let authorization = match &*self.reach {
            Reach::Google { credentials, .. } => {
                let time = time_left(until, CREDENTIALS_TIMEOUT);
                let time = time.ok_or_else(|| (Code::Unauthenticated, NO_TIME.to_owned()))?;
                let token = timeout(time, credentials.authorization()).await;
                let token = token.unwrap_or_else(|_| Err(format!("no token within {} ms", time.as_millis())));
                Some(token.map_err(|message| (Code::Unauthenticated, message))?)
            }
            Reach::Emulator(_) | Reach::Memory(_) => None,
        };
        let time = time_left(until, CONNECT_TIMEOUT).ok_or_else(|| (Code::DeadlineExceeded, NO_TIME.to_owned()))?;
        match timeout(time, self.connected()).await {
            Ok(Ok((number, channel))) => Ok((number, channel.authorized(authorization))),
            Ok(Err(error)) => Err((Code::Unavailable, format!("no connection: {error}"))),
            Err(_) => Err((Code::Unavailable, format!("no connection within {} ms", time.as_millis()))),
        }
    }

    async fn connected(&self) -> io::Result<(u64, Channel)> {
        loop {
            if let Some((number, mut channel)) = self.standing() {
                if channel.is_open().await {
                    return Ok((number, channel));
                }
                self.renew(number);
            }
            let _turn = self.connecting.lock().await;
            if self.standing().is_none() {
                // Before the connection is made: in between, the CPU may be taken away for any time.
                let alive = Instant::now();
                // On the heap: it is seldom awaited, and large.
                let channel = Box::pin(channel::connect(&self.reach)).await?;
                let mut connection = self.lock();
                connection.alive = alive;
                connection.channel = Some(channel);
            }
        }
    }

    fn standing(&self) -> Option<(u64, Channel)> {
        let connection = self.lock();
        connection.channel.clone().map(|channel| (connection.number, channel))
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

    /// The service did not take a call's token.
    async fn forget(&self, authorization: Option<HeaderValue>) {
        if let (Reach::Google { credentials, .. }, Some(authorization)) = (&*self.reach, authorization) {
            credentials.forget(&authorization).await;
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

/// The attempts of one call.
struct Attempts<'a> {
    service: &'a Service,
    method: Method,
    resource: &'a str,
    until: Instant,
    left: u32,
    /// The channel of the one under way, and its token.
    number: u64,
    authorization: Option<HeaderValue>,
}

impl<'a> Attempts<'a> {
    fn new(service: &'a Service, method: Method, resource: &'a str, until: Instant) -> Attempts<'a> {
        let now = Instant::now();
        let (until, alive_since) = match method.repeat {
            Repeat::Safe => (until, now.checked_sub(IDLE_LIMIT)),
            Repeat::Never { alive_since } => (until.min(now + method.deadline), Some(alive_since)),
        };
        service.renew_unless_alive(alive_since);
        Attempts { service, method, resource, until, left: 2, number: 0, authorization: None }
    }

    /// What the next attempt is made with, and how long it may take.
    async fn begin(&mut self) -> Result<(Channel, Duration), CallError> {
        loop {
            self.left -= 1;
            if time_left(self.until, self.method.deadline).is_none() {
                return Err(self.error(Code::DeadlineExceeded, NO_TIME.to_owned(), Origin::NotExecuted));
            }
            let deadline = self.until.min(Instant::now() + self.method.deadline);
            match self.service.channel(deadline).await {
                Ok((number, channel)) => {
                    self.number = number;
                    self.authorization = channel.authorization().cloned();
                    return Ok((channel, deadline.saturating_duration_since(Instant::now())));
                }
                Err((Code::Unavailable, _)) if self.left > 0 => {}
                Err((code, message)) => return Err(self.error(code, message, Origin::NotExecuted)),
            }
        }
    }

    fn answered(&self) {
        self.service.answered(self.number);
    }

    /// An error if there is no further attempt.
    async fn failed(&mut self, status: Status) -> Result<(), CallError> {
        let origin = if in_chain::<NotSent>(&status) {
            Origin::NotExecuted
        } else if std::error::Error::source(&status).is_some() {
            Origin::Unknown
        } else {
            Origin::Service
        };
        match origin {
            Origin::Service => self.answered(),
            Origin::Unknown | Origin::NotExecuted => self.service.renew(self.number),
        }
        if status.code() == Code::Unauthenticated {
            self.service.forget(self.authorization.take()).await;
        }
        self.try_again(self.error(status.code(), status.message().to_owned(), origin))
    }

    /// As [`failed`](Attempts::failed).
    fn kept_silent(&mut self, deadline: Duration) -> Result<(), CallError> {
        self.service.renew(self.number);
        let message = format!("no answer within {} ms", deadline.as_millis());
        self.try_again(self.error(Code::DeadlineExceeded, message, Origin::Unknown))
    }

    fn try_again(&self, error: CallError) -> Result<(), CallError> {
        let harmless = error.origin == Origin::NotExecuted
            || error.code == Code::Unauthenticated
            || (self.method.repeat == Repeat::Safe && worth_repeating(error.code));
        if self.left > 0 && harmless { Ok(()) } else { Err(error) }
    }

    fn error(&self, code: Code, message: String, origin: Origin) -> CallError {
        CallError { method: self.method.name, resource: self.resource.to_owned(), code, message, origin }
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

/// A request with its deadline and its routing header, `name=value` of each parameter, percent-encoded.
pub fn routed<T>(message: T, parameters: &[(&str, &str)], deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    let mut header = String::new();
    for (name, value) in parameters {
        if !header.is_empty() {
            header.push('&');
        }
        header.push_str(name);
        header.push('=');
        header.extend(utf8_percent_encode(value, ROUTING_VALUE));
    }
    // Percent-encoded text is ASCII, so it always is a legal value.
    if let Ok(value) = MetadataValue::<Ascii>::try_from(header) {
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

    /// A call with a token of a metadata server that gives out one.
    async fn call_over_tls(address: String) -> CallError {
        let metadata = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let credentials = Credentials::new(Some(&metadata.local_addr().unwrap().to_string()));
        let tokens = async {
            let (mut stream, _) = metadata.accept().await.unwrap();
            let body = r#"{"access_token":"t","expires_in":3600}"#;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        };
        let service = Service::new(Reach::Google { host: address, credentials });
        let until = Instant::now() + Duration::from_secs(8);
        let call = service.call(GET, "o", until, |channel, deadline| async move {
            let request = routed(GetOperationRequest { name: "o".to_owned() }, &[("name", "o")], deadline);
            OperationsClient::new(channel).get_operation(request).await
        });
        tokio::join!(call, tokens).0.unwrap_err()
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
        assert_eq!(error.origin, Origin::NotExecuted, "{error}");
    }

    #[tokio::test]
    async fn a_closed_port_is_an_error_before_anything_is_sent() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let error = call_over_tls(address).await;
        assert_eq!((error.code, error.origin), (Code::Unavailable, Origin::NotExecuted), "{error}");
    }
}
