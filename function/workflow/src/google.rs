//! One authenticated connection to a Google endpoint, renewed when it goes dead, and the way every call over it is made.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::{Either, select};
use gcloud_sdk::tonic::{
    Code, Request, Status,
    codegen::http::HeaderValue,
    metadata::{Ascii, MetadataValue},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep, timeout},
};

use crate::{
    channel::{self, Channel, Progress},
    credentials::Credentials,
    error::{CallError, Origin},
    refusal::backoff,
};

/// For a call that may be repeated: an answer that takes 3.5 s is still taken, and an event has time for a second call.
pub const SAFE_DEADLINE: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For a token of the metadata server.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that has been silent for longer is not used again: between events Cloud Run takes the CPU away, and
/// connections die without a word.
const IDLE_LIMIT: Duration = Duration::from_secs(20);
/// The same for a call that must not be repeated. A live connection to Google's front ends outlives a second, and a burst
/// of submissions still shares one. Pings could tell, too, but a gRPC server ends a connection that sends many of them.
const IDLE_LIMIT_FOR_ONCE: Duration = Duration::from_secs(1);
/// How long a connection may be silent before a call over it is made again, side by side, over a fresh one. Either answer
/// counts: so a connection that has died costs this much, and a service that is slower a second call.
const PATIENCE: Duration = Duration::from_millis(1600);
/// The same for a call that others overtake: the connection lives, and second calls would make an overload worse.
const LONGEST_PATIENCE: Duration = Duration::from_secs(2);
/// Pauses before a call is repeated that the service has not begun.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Less than this is not worth a call.
const LEAST_TIME: Duration = Duration::from_millis(50);
const NO_TIME: &str = "no time was left for the call";

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

/// Whether a call may be made a second time when the first may have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It reads, or its precondition or its event id makes the second harmless.
    Safe,
    /// It is sent once, and only over a connection that was made or has answered within the last second: one that died in
    /// silence would swallow it, and nobody could tell whether it was executed.
    Never,
}

/// One method and how long to wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    pub name: &'static str,
    /// For the whole call, from the wait for a connection to the last repetition.
    pub deadline: Duration,
    pub repeat: Repeat,
}

/// A call, while it is made.
struct Call<'a, A> {
    method: Method,
    resource: &'a str,
    until: Instant,
    attempt: A,
    /// An attempt failed of which nobody knows whether it was executed.
    in_doubt: AtomicBool,
}

/// One Google service. Clones share the connection.
#[derive(Clone)]
pub struct Service {
    reach: Arc<Reach>,
    connection: Arc<Mutex<Connection>>,
    /// Held while a connection is made, so that calls that need one at the same time make one.
    connecting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Connection {
    /// Counts the channels, so that of several calls that failed together only the first renews it.
    number: u64,
    channel: Option<Channel>,
}

impl Service {
    pub fn new(reach: Reach) -> Service {
        Service { reach: Arc::new(reach), connection: Arc::default(), connecting: Arc::default() }
    }

    /// Makes a call, within the method's deadline and until `until`.
    ///
    /// What the service has certainly not begun is repeated as long as there is time: no connection, a stream that was
    /// refused. A [`Safe`](Repeat::Safe) call is made a second time over a fresh connection when the first keeps silent,
    /// and once more when an attempt fails. A token that the service refused is replaced once.
    ///
    /// # Errors
    /// The last attempt's error; `DEADLINE_EXCEEDED` if it kept silent, `UNAVAILABLE` if no status of the service's
    /// arrived, `UNAUTHENTICATED` if there are no credentials. [`Origin`] says whether it may have been executed.
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
        let until = until.min(Instant::now() + method.deadline);
        let call = Call { method, resource, until, attempt, in_doubt: AtomicBool::new(false) };
        self.renew_if_idle(match method.repeat {
            Repeat::Safe => IDLE_LIMIT,
            Repeat::Never => IDLE_LIMIT_FOR_ONCE,
        });
        let (mut not_begun, mut repeated) = (0, false);
        loop {
            let error = match self.hedged(&call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let mut pause = Duration::ZERO;
            if error.origin == Origin::NotExecuted && error.code == Code::Unavailable {
                pause = backoff(FIRST_PAUSE, not_begun, LONGEST_PAUSE, fastrand::f64());
                not_begun += 1;
            } else if !repeated && call.may_be_repeated(&error) {
                repeated = true;
            } else {
                return Err(error);
            }
            if time_left(call.until, method.deadline).is_none_or(|left| left < pause + LEAST_TIME) {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    /// Connects, if that is not done.
    pub async fn connect(&self, until: Instant) {
        // What goes wrong is the next call's business.
        let _ = self.channel(until).await;
    }

    /// Makes ready for a call that must not be repeated: best side by side with other calls ahead of it.
    pub async fn wake(&self, until: Instant) {
        self.renew_if_idle(IDLE_LIMIT_FOR_ONCE);
        self.connect(until).await;
    }

    /// An attempt, and if it may be repeated, another one beside it once it keeps silent.
    async fn hedged<T, F, A>(&self, call: &Call<'_, A>) -> Result<T, CallError>
    where
        A: Fn(Channel, Duration) -> F,
        F: Future<Output = Result<T, Status>>,
    {
        let (number, channel) = self.begin(call).await?;
        // On the heap, for whatever awaits a call would grow by it, and be moved with it.
        let first = Box::pin(self.finish(call, number, channel.clone()));
        if call.method.repeat == Repeat::Never {
            return first.await;
        }
        let first = match select(first, pin!(channel.silent_for(PATIENCE, LONGEST_PATIENCE))).await {
            Either::Left((result, _)) => return result,
            Either::Right(((), first)) => first,
        };
        self.renew(number);
        let second = Box::pin(async {
            let (number, channel) = self.begin(call).await?;
            self.finish(call, number, channel).await
        });
        match select(first, second).await {
            Either::Left((Err(error), second)) if error.origin != Origin::Service => second.await,
            Either::Right((Err(error), first)) if error.origin != Origin::Service => first.await,
            Either::Left((result, _)) | Either::Right((result, _)) => result,
        }
    }

    /// The connection that an attempt is made over.
    async fn begin<A>(&self, call: &Call<'_, A>) -> Result<(u64, Channel), CallError> {
        if time_left(call.until, call.method.deadline).is_none() {
            return Err(call.error(Code::DeadlineExceeded, NO_TIME, Origin::NotExecuted));
        }
        self.channel(call.until).await.map_err(|(code, message)| call.error(code, message, Origin::NotExecuted))
    }

    async fn finish<T, F, A>(&self, call: &Call<'_, A>, number: u64, channel: Channel) -> Result<T, CallError>
    where
        A: Fn(Channel, Duration) -> F,
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = call.until.saturating_duration_since(Instant::now());
        let answer = timeout(deadline, (call.attempt)(channel.clone(), deadline)).await;
        let (code, message) = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => (status.code(), status.message().to_owned()),
            Err(_) => (Code::DeadlineExceeded, format!("no answer within {} ms", deadline.as_millis())),
        };
        // What arrived counts, not what tonic makes of it.
        match channel.progress() {
            Progress::Ended(code) if code != Code::Ok => {
                if code == Code::Unauthenticated {
                    self.forget(channel.authorization()).await;
                }
                Err(call.error(code, message, Origin::Service))
            }
            Progress::Ended(_) | Progress::UnderWay(_) => {
                self.renew(number);
                call.in_doubt.store(true, Ordering::Relaxed);
                Err(call.error(code, message, Origin::Unknown))
            }
            Progress::NotBegun => Err(call.error(code, message, Origin::NotExecuted)),
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
            Ok(Ok((number, channel))) => Ok((number, channel.for_call(authorization))),
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
                // On the heap: it is seldom awaited, and large.
                let channel = Box::pin(channel::connect(&self.reach)).await?;
                self.lock().channel = Some(channel);
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
            connection.number += 1;
            connection.channel = None;
        }
    }

    fn renew_if_idle(&self, limit: Duration) {
        if let Some((number, channel)) = self.standing()
            && channel.heard().elapsed() >= limit
        {
            self.renew(number);
        }
    }

    /// The service did not take a call's token.
    async fn forget(&self, authorization: Option<&HeaderValue>) {
        if let (Reach::Google { credentials, .. }, Some(authorization)) = (&*self.reach, authorization) {
            credentials.forget(authorization).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A> Call<'_, A> {
    fn may_be_repeated(&self, error: &CallError) -> bool {
        let token_refused = error.code == Code::Unauthenticated && error.origin == Origin::Service;
        token_refused || (self.method.repeat == Repeat::Safe && worth_repeating(error.code))
    }

    fn error(&self, code: Code, message: impl Into<String>, origin: Origin) -> CallError {
        let (method, resource) = (self.method.name, self.resource.to_owned());
        let origin = match origin {
            Origin::NotExecuted if self.in_doubt.load(Ordering::Relaxed) => Origin::Unknown,
            origin => origin,
        };
        CallError { method, resource, code, message: message.into(), origin }
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
