//! The server under test, and the plain HTTP/1 that tests send to it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use cloudevents::Event;
use functions_framework::{Failure, Limits, serve_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::MESSAGE_PUBLISHED;

/// Ends a test that hangs. Much longer than the limits that the tests set.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Server {
    pub address: SocketAddr,
    pub stop: oneshot::Sender<()>,
    pub served: JoinHandle<io::Result<()>>,
}

/// A server on a free port.
pub async fn start<H, F>(limits: Limits, handler: H) -> Server
where
    H: Fn(Event) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    start_with(|listener, shutdown| serve_with(listener, handler, shutdown, limits)).await
}

pub async fn start_with<S>(server: impl FnOnce(TcpListener, Shutdown) -> S) -> Server
where
    S: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(server(listener, Box::pin(async move { drop(stopped.await) })));
    Server { address, stop, served }
}

/// A server whose handlers wait for a permit of `gate`.
pub struct Gated {
    pub server: Server,
    /// A permit for each handler that began.
    pub begun: Arc<Semaphore>,
    pub gate: Arc<Semaphore>,
    pub ended: Arc<AtomicUsize>,
}

pub async fn gated(limits: Limits) -> Gated {
    let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let ended = Arc::new(AtomicUsize::new(0));
    let parts = (begun.clone(), gate.clone(), ended.clone());
    let server = start(limits, move |_| {
        let (begun, gate, ended) = parts.clone();
        async move {
            begun.add_permits(1);
            gate.acquire().await.unwrap().forget();
            ended.fetch_add(1, SeqCst);
            Ok(())
        }
    })
    .await;
    Gated { server, begun, gate, ended }
}

pub type Shutdown = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Server {
    pub async fn stopped(self) {
        self.stop.send(()).unwrap();
        within(self.served).await.unwrap().unwrap();
    }

    pub async fn connect(&self) -> Connection {
        Connection::to(self.address).await
    }

    pub async fn ask(&self, request: &[u8]) -> Response {
        ask(self.address, request).await
    }
}

/// One request on a connection of its own.
pub async fn ask(address: SocketAddr, request: &[u8]) -> Response {
    let mut connection = Connection::to(address).await;
    connection.send(request).await;
    connection.response().await
}

pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(TEST_TIMEOUT, future).await.expect("the test hangs")
}

pub struct Connection {
    pub stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Connection {
    pub async fn to(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    pub async fn response(&mut self) -> Response {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            assert!(
                self.more().await,
                "the connection ended before a response: {:?}",
                String::from_utf8_lossy(&self.read)
            );
        };
        let head = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap().to_ascii_lowercase();
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length {
            assert!(self.more().await, "the connection ended in a body");
        }
        Response { status: head[9..12].parse().unwrap(), body: self.read.drain(..length).collect(), head }
    }

    /// Waits until the server closes the connection, without another response.
    pub async fn closed(&mut self) {
        while self.more().await {}
        assert_eq!(String::from_utf8_lossy(&self.read), "");
    }

    async fn more(&mut self) -> bool {
        match within(self.stream.read_buf(&mut self.read)).await {
            Ok(read) => read > 0,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

pub fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

/// A message event in binary mode.
pub fn message(id: &str) -> Vec<u8> {
    message_of(id, b"{\"message\":{}}")
}

pub fn message_of(id: &str, body: &[u8]) -> Vec<u8> {
    post(&format!("{}content-type: application/json\r\n", ce(id)), body)
}

pub fn ce(id: &str) -> String {
    format!("ce-id: {id}\r\nce-source: //s\r\nce-type: {MESSAGE_PUBLISHED}\r\nce-specversion: 1.0\r\n")
}
