//! One HTTP/2 connection to a service, in the form that the generated clients take.
//!
//! tonic has a channel of its own. This one is connected when it is there, so that a request that was never sent is known
//! for certain; it can be asked whether it is still alive; and a call goes straight to its connection, without a queue and
//! without tasks of its own, for a fraction of the CPU time (benches/README.md).

use std::{
    error::Error,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use gcloud_sdk::tonic::{
    Status,
    body::Body as RequestBody,
    codegen::http::{
        HeaderValue, Request, Response, Uri,
        header::{AUTHORIZATION, USER_AGENT},
        uri::{Authority, Scheme},
    },
};
use h2::{Ping, PingPong, Reason, RecvStream, client::SendRequest};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use tokio::{net::TcpStream, sync::Mutex, task::AbortHandle};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore, pki_types::ServerName},
};

use crate::google::{Io, Reach};

const NAME: HeaderValue = HeaderValue::from_static(concat!("inline-workflow/", env!("CARGO_PKG_VERSION")));
/// HTTP/2's own 64 KB would make every large object wait for the network once more for each 64 KB of it.
const WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

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

/// A connection that stands. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Channel {
    requests: SendRequest<Bytes>,
    origin: Arc<(Scheme, Authority)>,
    pings: Arc<Mutex<PingPong>>,
    authorization: Option<HeaderValue>,
    _driver: Arc<Driver>,
}

/// The task that moves the connection's bytes.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The request did not leave: the connection had ended before.
#[derive(Debug)]
pub struct NotSent(h2::Error);

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not sent: {}", self.0)
    }
}

impl Error for NotSent {}

/// Connects. With TLS the server's name is checked against its certificate.
///
/// # Errors
/// Nobody can be reached, or nobody that speaks HTTP/2.
pub async fn connect(reach: &Reach) -> io::Result<Channel> {
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

async fn tcp(address: impl tokio::net::ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whatever the stream is, HTTP/2 is compiled once.
async fn open(stream: Box<dyn Io>, scheme: Scheme, authority: Authority) -> io::Result<Channel> {
    let (requests, mut connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(stream)
        .await
        .map_err(io::Error::other)?;
    // It is there to be taken once.
    let pings = connection.ping_pong().ok_or_else(|| io::Error::other("no pings"))?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    Ok(Channel {
        requests,
        origin: Arc::new((scheme, authority)),
        pings: Arc::new(Mutex::new(pings)),
        authorization: None,
        _driver: Arc::new(Driver(driver.abort_handle())),
    })
}

impl Channel {
    /// The same connection, for calls with this header.
    pub fn authorized(&self, authorization: Option<HeaderValue>) -> Channel {
        Channel { authorization, ..self.clone() }
    }

    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Whether the connection has not ended, as far as is known on this side.
    pub async fn is_open(&mut self) -> bool {
        std::future::poll_fn(|cx| self.requests.poll_ready(cx)).await.is_ok()
    }

    /// Waits until the other side has answered a ping, unless that has become needless while others had theirs answered;
    /// says whether it was sent. An error if the connection has ended.
    pub async fn ping_unless(&self, needless: impl Fn() -> bool) -> Result<bool, h2::Error> {
        let mut pings = self.pings.lock().await;
        match needless() {
            true => Ok(false),
            false => pings.ping(Ping::opaque()).await.map(|_| true),
        }
    }
}

impl tower::Service<Request<RequestBody>> for Channel {
    type Response = Response<Answer>;
    type Error = Box<dyn Error + Send + Sync>;
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

impl Channel {
    async fn send(mut self, request: Request<RequestBody>) -> Result<Response<Answer>, Box<dyn Error + Send + Sync>> {
        let (mut head, mut body) = request.into_parts();
        let (scheme, authority) = &*self.origin;
        let mut uri = head.uri.into_parts();
        uri.scheme = Some(scheme.clone());
        uri.authority = Some(authority.clone());
        head.uri = Uri::from_parts(uri)?;
        head.headers.insert(USER_AGENT, NAME);
        if let Some(authorization) = self.authorization {
            head.headers.insert(AUTHORIZATION, authorization);
        }
        std::future::poll_fn(|cx| self.requests.poll_ready(cx)).await.map_err(not_sent)?;
        let (response, mut stream) =
            self.requests.send_request(Request::from_parts(head, ()), false).map_err(not_sent)?;
        // Each piece waits for the next one, so that the last carries the end with it.
        let mut piece = Bytes::new();
        while let Some(frame) = body.frame().await {
            let Ok(next) = frame?.into_data() else { continue };
            if !piece.is_empty() {
                let _ = stream.send_data(piece, false);
            }
            piece = next;
        }
        // Whoever is not listened to any more has answered already.
        let _ = stream.send_data(piece, true);
        Ok(response.await?.map(Answer))
    }
}

fn not_sent(error: h2::Error) -> Status {
    let mut status = Status::unavailable(format!("the connection has ended: {error}"));
    status.set_source(Arc::new(NotSent(error)));
    status
}

/// The body of a response.
pub struct Answer(RecvStream);

impl Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.0.poll_data(cx)) {
            Some(Ok(data)) => {
                self.0.flow_control().release_capacity(data.len())?;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) if is_end(&error) => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => {}
        }
        Poll::Ready(match ready!(self.0.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) if is_end(&error) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// A server may reset a stream without an error once it has answered. Source: RFC 9113, 8.1
fn is_end(error: &h2::Error) -> bool {
    error.is_reset() && error.reason() == Some(Reason::NO_ERROR)
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
                        let response = Response::builder().header("seen", seen).body(()).unwrap();
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
        assert!(channel.ping_unless(|| false).await.unwrap());
        let channel = channel.authorized(Some(HeaderValue::from_static("Bearer t")));
        let response = channel.oneshot(Request::new(RequestBody::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["seen"], format!("https://localhost:{port}/ \"Bearer t\""));

        let error = over_tls(&tls, format!("127.0.0.1:{port}").parse().unwrap()).await.err().unwrap();
        assert!(error.to_string().contains("certificate not valid for name"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_nobody_vouches_for_is_refused() {
        let (port, _) = server().await;
        let tls = TLS.as_ref().unwrap();
        let error = over_tls(tls, format!("localhost:{port}").parse().unwrap()).await.err().unwrap();
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    }
}
