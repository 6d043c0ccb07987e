//! One HTTP/2 connection to a service, in the form that the generated clients take.
//!
//! tonic's own channel, and hyper's client below it, queue calls and turn what happens to a stream into gRPC codes. This
//! one knows of each call whether it was sent, whether the service refused it unprocessed, and whether a status is the
//! service's own. It needs no task or queue for a call, so it takes a fraction of the CPU time (benches/README.md).

use std::{
    error::Error,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use gcloud_sdk::tonic::{
    Code, Status,
    body::Body as RequestBody,
    codegen::http::{
        HeaderMap, HeaderValue, Request, Response, StatusCode, Uri,
        header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
        uri::{Authority, Scheme},
    },
};
use h2::{Reason, RecvStream, client::SendRequest};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use tokio::{
    net::{TcpStream, ToSocketAddrs, lookup_host},
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore, pki_types::ServerName},
};

use crate::google::{Io, Reach};

const NAME: HeaderValue = HeaderValue::from_static(concat!("inline-workflow/", env!("CARGO_PKG_VERSION")));
/// HTTP/2's own 64 KB would make every large object wait for the network once more for each 64 KB of it.
const WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Until the service's settings arrive. Source: RFC 9113, 6.5.2, recommends that no service allows fewer.
const FIRST_STREAMS: usize = 100;
/// How long an address may be silent before the next one is tried beside it. RFC 8305, 8, recommends 250 ms, for clients
/// far away, and allows 10 ms; a round trip within a region takes a few.
const HEAD_START: Duration = Duration::from_millis(50);
/// How soon a call that waits for a stream notices that the service allows more of them.
const RECHECK: Duration = Duration::from_millis(100);

/// Roots and settings are the same for every connection, and sessions are resumed.
static TLS: LazyLock<Result<TlsConnector, rustls::Error>> =
    LazyLock::new(|| trusting(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }));

fn trusting(roots: RootCertStore) -> Result<TlsConnector, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An open connection, as one call uses it. Clones belong to the same call. The connection ends with the last channel and
/// the last answer over it.
#[derive(Clone)]
pub struct Channel {
    requests: SendRequest<Bytes>,
    connection: Arc<Connection>,
    authorization: Option<HeaderValue>,
    progress: Arc<Mutex<Progress>>,
}

/// How far a call has come, as far as this side of the wire can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was sent, or the service refused the stream before processing it.
    #[default]
    NotBegun,
    /// The service may be executing the call. It was sent, or last heard of, then.
    UnderWay(Instant),
    /// The service's own status has arrived.
    Ended(Code),
}

struct Connection {
    scheme: Scheme,
    authority: Authority,
    /// When the service last answered anything, or when the connection began to be made.
    heard: Mutex<Instant>,
    /// Held by the first of the calls that wait for a stream.
    turn: tokio::sync::Mutex<()>,
    streams: AtomicUsize,
    stream_ended: Notify,
    /// The task that moves the connection's bytes.
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One of the streams that the service allows.
struct Slot(Arc<Connection>);

impl Slot {
    /// The service has answered something just now.
    fn hear(&self) -> Instant {
        let now = Instant::now();
        *lock(&self.0.heard) = now;
        now
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
        self.0.stream_ended.notify_one();
    }
}

/// Connects. With TLS the server's name is checked against its certificate.
///
/// # Errors
/// No address can be reached, or what answers there does not speak HTTP/2.
pub async fn connect(reach: &Reach) -> io::Result<Channel> {
    // Before the connection is made: in between, the CPU may be taken away for any time.
    let began = Instant::now();
    let channel = dial(reach).await?;
    *lock(&channel.connection.heard) = began;
    Ok(channel)
}

async fn dial(reach: &Reach) -> io::Result<Channel> {
    match reach {
        Reach::Google { host, .. } => {
            let tls = TLS.as_ref().map_err(io::Error::other)?;
            over_tls(tls, host.parse().map_err(io::Error::other)?).await
        }
        Reach::Emulator(address) => {
            let authority = address.parse().map_err(io::Error::other)?;
            open(Box::new(tcp(address.as_str()).await?), Scheme::HTTP, authority).await
        }
        Reach::Memory(dial) => open(dial().await?, Scheme::HTTP, Authority::from_static("memory")).await,
    }
}

async fn over_tls(tls: &TlsConnector, authority: Authority) -> io::Result<Channel> {
    let name = ServerName::try_from(authority.host().to_owned()).map_err(io::Error::other)?;
    let stream = tcp((authority.host(), authority.port_u16().unwrap_or(443))).await?;
    open(Box::new(tls.connect(name, stream).await?), Scheme::HTTPS, authority).await
}

/// A connection to the first address that answers. The next address is tried when one fails or has had its head start.
/// Source: RFC 8305, 5.
async fn tcp(addresses: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let mut addresses = in_turns(lookup_host(addresses).await?).into_iter();
    let mut dials = FuturesUnordered::new();
    let mut failure = io::Error::other("the name has no address");
    loop {
        match addresses.next() {
            Some(address) => dials.push(TcpStream::connect(address)),
            None if dials.is_empty() => return Err(failure),
            None => {}
        }
        match timeout(HEAD_START, dials.next()).await {
            Ok(Some(Ok(stream))) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Some(Err(error))) => failure = error,
            Ok(None) | Err(_) => {}
        }
    }
}

/// IPv6 and IPv4 in turns. Source: RFC 8305, 4.
fn in_turns(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (four, six): (Vec<_>, Vec<_>) = addresses.partition(SocketAddr::is_ipv4);
    let most = four.len().max(six.len());
    (0..most).flat_map(|n| [six.get(n), four.get(n)]).flatten().copied().collect()
}

/// Whatever the stream is, HTTP/2 is compiled once.
async fn open(stream: Box<dyn Io>, scheme: Scheme, authority: Authority) -> io::Result<Channel> {
    let (requests, connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(FIRST_STREAMS)
        .handshake(stream)
        .await
        .map_err(io::Error::other)?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    let connection = Connection {
        scheme,
        authority,
        heard: Mutex::new(Instant::now()),
        turn: tokio::sync::Mutex::default(),
        streams: AtomicUsize::default(),
        stream_ended: Notify::default(),
        driver: driver.abort_handle(),
    };
    Ok(Channel { requests, connection: Arc::new(connection), authorization: None, progress: Arc::default() })
}

impl Channel {
    /// The same connection for another call, with this header.
    pub fn for_call(&self, authorization: Option<HeaderValue>) -> Channel {
        Channel { authorization, progress: Arc::default(), ..self.clone() }
    }

    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Whether new calls can be made over the connection, as far as this side can tell.
    pub async fn is_open(&mut self) -> bool {
        std::future::poll_fn(|cx| self.requests.poll_ready(cx)).await.is_ok()
    }

    pub fn progress(&self) -> Progress {
        *lock(&self.progress)
    }

    /// When the service last answered anything over the connection; at first, when it began to be made.
    pub fn heard(&self) -> Instant {
        *lock(&self.connection.heard)
    }

    /// Waits until the connection has been silent for `patience`, or this call alone for `longest`. The wait for a stream
    /// does not count.
    pub async fn silent_for(&self, patience: Duration, longest: Duration) {
        loop {
            let now = Instant::now();
            let due = match self.progress() {
                Progress::UnderWay(news) => (news.max(self.heard()) + patience).min(news + longest),
                Progress::NotBegun | Progress::Ended(_) => now + patience,
            };
            if due <= now {
                return;
            }
            sleep_until(due).await;
        }
    }

    /// Waits for one of the streams that the service allows at a time; first come, first served. h2 would queue the call,
    /// and nobody could tell whether it was sent.
    async fn slot(&mut self) -> Slot {
        let connection = Arc::clone(&self.connection);
        let _turn = connection.turn.lock().await;
        while self.is_full() && self.is_open().await {
            // The service may also allow more, or end the connection.
            let _ = timeout(RECHECK, connection.stream_ended.notified()).await;
        }
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Slot(Arc::clone(&connection))
    }

    fn is_full(&self) -> bool {
        self.connection.streams.load(Ordering::Relaxed) >= self.requests.current_max_send_streams()
    }

    async fn send(mut self, request: Request<RequestBody>) -> Result<Response<Answer>, Status> {
        let (mut head, mut body) = request.into_parts();
        let mut uri = head.uri.into_parts();
        uri.scheme = Some(self.connection.scheme.clone());
        uri.authority = Some(self.connection.authority.clone());
        head.uri = Uri::from_parts(uri).map_err(failed)?;
        head.headers.insert(USER_AGENT, NAME);
        if let Some(authorization) = self.authorization.take() {
            head.headers.insert(AUTHORIZATION, authorization);
        }
        let slot = self.slot().await;
        let (response, mut stream) =
            self.requests.send_request(Request::from_parts(head, ()), false).map_err(failed)?;
        *lock(&self.progress) = Progress::UnderWay(Instant::now());
        // Each piece waits for the next one, so that the last carries the end with it.
        let mut piece = Bytes::new();
        while let Some(frame) = body.frame().await {
            let Ok(next) = frame?.into_data() else { continue };
            if !piece.is_empty() {
                let _ = stream.send_data(piece, false);
            }
            piece = next;
        }
        // If this fails, the response says why.
        let _ = stream.send_data(piece, true);
        let (mut head, body) = match response.await {
            Ok(response) => {
                slot.hear();
                response.into_parts()
            }
            Err(error) => {
                if was_refused(&error) {
                    *lock(&self.progress) = Progress::NotBegun;
                }
                return Err(failed(error));
            }
        };
        if head.status != StatusCode::OK || !is_grpc(&head.headers) {
            return Err(failed(format!("HTTP {} without a gRPC status", head.status.as_u16())));
        }
        let answer = Answer { body, progress: self.progress, slot };
        // A status in headers is one only if nothing follows them.
        match answer.body.is_end_stream() {
            true => answer.note_status(&mut head.headers),
            false => drop(head.headers.remove(Status::GRPC_STATUS)),
        }
        Ok(Response::from_parts(head, answer))
    }
}

impl tower::Service<Request<RequestBody>> for Channel {
    type Response = Response<Answer>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    /// What keeps a request from being sent is the call's error, where it can be told from others.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let channel = self.clone();
        Box::pin(channel.send(request))
    }
}

/// What this side of the wire says of a call that got no status. tonic would make up other codes, some of which look
/// like a service's refusal.
fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Status {
    Status::unavailable(error.into().to_string())
}

/// The service did not process the stream, and says so. Source: RFC 9113, 8.7 and 6.8. h2 ends a stream with the service's
/// GOAWAY only if the stream's id is above the last one named there.
fn was_refused(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The body of a response.
pub struct Answer {
    body: RecvStream,
    progress: Arc<Mutex<Progress>>,
    slot: Slot,
}

impl Answer {
    /// Takes note of the status that ends the response. Anything but one of the 17 codes, once, is removed: it says
    /// nothing about the call.
    fn note_status(&self, trailers: &mut HeaderMap) {
        // Nobody reads it, and tonic panics if it is not base64.
        trailers.remove(Status::GRPC_STATUS_DETAILS);
        let mut values = trailers.get_all(Status::GRPC_STATUS).iter();
        match (values.next().and_then(code), values.next()) {
            (Some(code), None) => *lock(&self.progress) = Progress::Ended(code),
            _ => drop(trailers.remove(Status::GRPC_STATUS)),
        }
    }
}

fn code(value: &HeaderValue) -> Option<Code> {
    let code = Code::from_bytes(value.as_bytes());
    (code != Code::Unknown || value == "2").then_some(code)
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match ready!(self.body.poll_data(cx)) {
            Some(Ok(data)) => {
                *lock(&self.progress) = Progress::UnderWay(self.slot.hear());
                self.body.flow_control().release_capacity(data.len()).map_err(failed)?;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(failed(error)))),
            None => {}
        }
        Poll::Ready(match ready!(self.body.poll_trailers(cx)) {
            Ok(None) => None,
            Ok(Some(mut trailers)) => {
                self.slot.hear();
                self.note_status(&mut trailers);
                Some(Ok(Frame::trailers(trailers)))
            }
            Err(error) => Some(Err(failed(error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use gcloud_sdk::tonic::codegen::http::StatusCode;
    use tokio::net::TcpListener;
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{
            ServerConfig,
            pki_types::{CertificateDer, PrivateKeyDer},
        },
    };
    use tower::ServiceExt;

    use super::*;

    /// Answers requests over TLS and HTTP/2 as `localhost`, with a certificate that only who knows it trusts.
    async fn server() -> (u16, CertificateDer<'static>) {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (pair.cert.der().clone(), pair.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(key.into()))
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let seen = format!("{} {:?}", request.uri(), request.headers()["authorization"]);
                        let response = Response::builder().header("content-type", "application/grpc");
                        let response = response.header("seen", seen).body(()).unwrap();
                        respond.send_response(response, true).unwrap();
                    }
                });
            }
        });
        (port, certificate)
    }

    #[tokio::test]
    async fn a_trusted_server_is_asked_over_tls_and_http_2() {
        let (port, certificate) = server().await;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let tls = trusting(roots).unwrap();

        let channel = over_tls(&tls, format!("localhost:{port}").parse().unwrap()).await.unwrap();
        let channel = channel.for_call(Some(HeaderValue::from_static("Bearer t")));
        let response = channel.oneshot(Request::new(RequestBody::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["seen"], format!("https://localhost:{port}/ \"Bearer t\""));

        let error = over_tls(&tls, format!("127.0.0.1:{port}").parse().unwrap()).await.err().unwrap();
        assert!(error.to_string().contains("certificate not valid for name"), "{error}");
    }

    /// An address that takes no connection and refuses none: its queue is full.
    async fn black_hole() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queue.push(stream.unwrap());
        }
        (listener, queue, address)
    }

    #[tokio::test]
    async fn addresses_that_do_not_answer_cost_milliseconds_each() {
        let (_listener, _queue, hole) = black_hole().await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let began = Instant::now();
        let stream = tcp(&[hole, hole, closed, live][..]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live);
        assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
        let error = tcp(&[closed, closed][..]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(tcp(&[] as &[SocketAddr]).await.is_err());
    }

    #[test]
    fn ipv6_and_ipv4_are_tried_in_turns() {
        let addresses = ["127.0.0.1:1", "127.0.0.2:1", "[::1]:1", "127.0.0.3:1"].map(|text| text.parse().unwrap());
        let order = in_turns(addresses.into_iter()).iter().map(SocketAddr::to_string).collect::<Vec<_>>();
        assert_eq!(order, ["[::1]:1", "127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"]);
    }

    #[tokio::test]
    async fn a_server_that_nobody_vouches_for_is_refused() {
        let (port, _) = server().await;
        let tls = TLS.as_ref().unwrap();
        let error = over_tls(tls, format!("localhost:{port}").parse().unwrap()).await.err().unwrap();
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    }
}
