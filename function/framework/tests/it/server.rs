//! Requests over real sockets: statuses, panics, HTTP/1 and HTTP/2, traces, concurrency, shutdown.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cloudevents::{AttributesReader, Event};
use functions_framework::{Failure, Limits, TraceContext, serve, trace_context};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, span};

use crate::wire::{Gated, Server, ce, gated, message, post, start, start_with, within};

async fn by_id(event: Event) -> Result<(), Failure> {
    match event.id() {
        "busy" => Err(Failure::TooManyRequests),
        "away" => Err(Failure::Unavailable),
        "bad" => Err(Failure::Internal),
        "panic" => panic!("the handler's own words"),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn results_become_statuses() {
    let server = start(Limits::default(), by_id).await;
    for (id, status, mark) in [
        ("fine", 204, None),
        ("busy", 429, Some("error")),
        ("away", 503, Some("error")),
        ("bad", 500, Some("error")),
        ("panic", 500, Some("crash")),
    ] {
        let response = server.ask(&message(id)).await;
        assert_eq!((response.status, response.header("x-google-status")), (status, mark), "{id}");
        assert_eq!(response.body.is_empty(), status == 204, "{id}");
        assert!(!response.text().contains("words"), "the response does not contain the text of the panic");
    }
    server.stopped().await;
}

#[tokio::test]
async fn the_error_of_an_application_converts() {
    #[derive(Debug)]
    struct Busy;
    impl From<Busy> for Failure {
        fn from(Busy: Busy) -> Self {
            Failure::TooManyRequests
        }
    }
    let server = start_with(|listener, shutdown| serve(listener, |_| async { Err(Busy) }, shutdown)).await;
    assert_eq!(server.ask(&message("1")).await.status, 429);
}

#[tokio::test]
async fn rejections_name_the_problem() {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let server = start(Limits::default(), move |_| {
        count.fetch_add(1, SeqCst);
        async { Ok(()) }
    })
    .await;
    for (request, status, mark, text) in [
        ("GET / HTTP/1.1\r\nhost: t\r\n\r\n", 400, Some("crash"), "POST"),
        ("PUT / HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n", 400, Some("crash"), "POST"),
        ("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n", 400, Some("crash"), "empty"),
        ("POST / HTTP/1.1\r\nhost: t\r\nce-specversion: 1.0\r\ncontent-length: 0\r\n\r\n", 400, Some("crash"), "`id`"),
        ("GET /robots.txt HTTP/1.1\r\nhost: t\r\n\r\n", 404, None, "not found"),
        ("POST /favicon.ico?x HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n", 404, None, "not found"),
        ("DELETE /robots.txt HTTP/1.1\r\nhost: t\r\n\r\n", 404, None, "not found"),
    ] {
        let response = server.ask(request.as_bytes()).await;
        assert_eq!((response.status, response.header("x-google-status")), (status, mark), "{request}");
        assert!(response.text().contains(text), "{request}: {}", response.text());
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    assert_eq!(handled.load(SeqCst), 0);
    let elsewhere = String::from_utf8(message("1")).unwrap().replace("POST /", "POST /a/robots.txt?b=c");
    assert_eq!(server.ask(elsewhere.as_bytes()).await.status, 204, "any other path reaches the function");
    assert_eq!(handled.load(SeqCst), 1);
}

/// Counts ERROR events and keeps their text.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut text = Text(format!("trace={} ", trace_context().is_some()));
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_panic_is_one_error_line_and_the_server_continues() {
    let errors = Errors::default();
    let _guard = tracing::subscriber::set_default(errors.clone());
    // The first panics before it returns a future.
    let server = start(Limits::default(), |event: Event| {
        assert!(event.id() != "early", "early words");
        async move {
            tokio::task::yield_now().await;
            assert!(event.id() != "late", "late words");
            if event.id() == "odd" {
                std::panic::panic_any(5);
            }
            Ok(())
        }
    })
    .await;
    let mut connection = server.connect().await;
    for (id, words) in [("early", "early words"), ("late", "late words"), ("odd", "not text")] {
        let traced = format!("{}x-cloud-trace-context: 4bf92f3577b34da6a3ce929d0e0e4736/1;o=1\r\n", ce(id));
        connection.send(&post(&traced, b"")).await;
        let response = connection.response().await;
        assert_eq!((response.status, response.header("x-google-status")), (500, Some("crash")), "{id}");
        let lines = std::mem::take(&mut *errors.0.lock().unwrap());
        assert_eq!(lines.len(), 1, "{id}: {lines:?}");
        assert!(lines[0].contains(words) && lines[0].contains("tests/it/server.rs:"), "{id}: {lines:?}");
        assert!(lines[0].contains("trace=true"), "{id}: {lines:?}");
        connection.send(&message("fine")).await;
        assert_eq!(connection.response().await.status, 204, "on the same connection");
    }
}

async fn traced(server: &Server, headers: &str) {
    assert_eq!(server.ask(&post(&format!("{}{headers}", ce("1")), b"")).await.status, 204);
}

#[tokio::test]
async fn the_handler_knows_its_trace_and_the_event_is_not_altered() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let push = seen.clone();
    let server = start(Limits::default(), move |event: Event| {
        let seen = push.clone();
        async move {
            tokio::task::yield_now().await;
            seen.lock().unwrap().push((trace_context(), event.iter_extensions().count()));
            Ok(())
        }
    })
    .await;
    traced(&server, "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n").await;
    traced(&server, "traceparent: 00-nonsense\r\nx-cloud-trace-context: 4bf92f3577b34da6a3ce929d0e0e4736/255;o=0\r\n")
        .await;
    traced(&server, "").await;
    let trace = |span: &str, sampled| {
        Some(TraceContext { trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(), span_id: Some(span.into()), sampled })
    };
    let expected = [(trace("00f067aa0ba902b7", true), 0), (trace("00000000000000ff", false), 0), (None, 0)];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn requests_are_handled_concurrently() {
    let all_here = Arc::new(Barrier::new(50));
    let server = start(Limits::default(), move |_| {
        let all_here = all_here.clone();
        async move {
            all_here.wait().await;
            Ok(())
        }
    })
    .await;
    let request = message("1");
    let responses = futures::future::join_all((0..50).map(|_| server.ask(&request))).await;
    assert!(responses.iter().all(|response| response.status == 204));
}

async fn h2(server: &Server) -> http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn h2_message(id: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post("http://test/").header("ce-id", id).header("ce-source", "//s").header("ce-type", "t");
    request.header("ce-specversion", "1.0").body(Full::new(body.into())).unwrap()
}

#[tokio::test]
async fn http2_with_prior_knowledge_on_the_same_port() {
    let server = start(Limits { body: 1000, ..Limits::default() }, by_id).await;
    let mut sender = h2(&server).await;
    assert_eq!(sender.send_request(h2_message("fine", "x")).await.unwrap().status(), 204);
    let panicked = sender.send_request(h2_message("panic", "")).await.unwrap();
    assert_eq!((panicked.status().as_u16(), &panicked.headers()["x-google-status"]), (500, &"crash".parse().unwrap()));
    let rejected = sender.send_request(h2_message("fine", vec![0; 1001])).await.unwrap();
    assert_eq!(rejected.status(), 413);
    assert_eq!(rejected.into_body().collect().await.unwrap().to_bytes(), "the body is too large\n");
    assert_eq!(sender.send_request(h2_message("fine", "x")).await.unwrap().status(), 204, "only the stream was reset");
    assert_eq!(server.ask(&message("fine")).await.status, 204, "HTTP/1 beside it");
    server.stopped().await;
}

#[tokio::test]
async fn a_sender_that_closes_its_half_gets_the_response() {
    let Gated { server, begun, gate, .. } = gated(Limits::default()).await;
    let mut connection = server.connect().await;
    connection.send(&message("1")).await;
    within(begun.acquire()).await.unwrap().forget();
    connection.stream.shutdown().await.unwrap();
    // When this is answered the server has seen the end of the first connection's requests.
    assert_eq!(server.ask(b"GET /robots.txt HTTP/1.1\r\nhost: t\r\n\r\n").await.status, 404);
    gate.add_permits(1);
    assert_eq!(connection.response().await.status, 204);
    connection.closed().await;
}

#[tokio::test]
async fn shutdown_finishes_requests_in_flight_and_closes_other_connections() {
    // The shutdown waits for none of these limits; if it did, the test would hang.
    let far = std::time::Duration::from_secs(3600);
    let limits = Limits { header_read: far, idle: far, drain: far, ..Limits::default() };
    let Gated { server, begun, gate, ended } = gated(limits).await;
    let mut idle = server.connect().await;
    gate.add_permits(1);
    idle.send(&message("1")).await;
    assert_eq!(idle.response().await.status, 204);
    let mut silent = server.connect().await;
    let mut partial = server.connect().await;
    partial.send(b"POST / HTTP/1.1\r\nhost").await;
    let mut idle_h2 = h2(&server).await;
    gate.add_permits(1);
    assert_eq!(idle_h2.send_request(h2_message("2", "")).await.unwrap().status(), 204);
    within(begun.acquire_many(2)).await.unwrap().forget();

    let mut busy = server.connect().await;
    busy.send(&message("3")).await;
    let mut busy_h2 = h2(&server).await;
    let response_h2 = tokio::spawn(busy_h2.send_request(h2_message("4", "")));
    within(begun.acquire_many(2)).await.unwrap().forget();
    assert_eq!(ended.load(SeqCst), 2);

    server.stop.send(()).unwrap();
    idle.closed().await;
    silent.closed().await;
    partial.closed().await;
    assert!(TcpStream::connect(server.address).await.is_err(), "no connection is accepted after the shutdown");
    assert!(!server.served.is_finished());
    gate.add_permits(2);
    let response = busy.response().await;
    assert_eq!((response.status, response.header("connection")), (204, Some("close")));
    assert_eq!(within(response_h2).await.unwrap().unwrap().status(), 204);
    within(server.served).await.unwrap().unwrap();
    assert_eq!(ended.load(SeqCst), 4);
}

#[tokio::test]
async fn shutdown_drops_handlers_that_exceed_the_drain_limit() {
    let drain = std::time::Duration::from_millis(50);
    let Gated { server, begun, ended, .. } = gated(Limits { drain, ..Limits::default() }).await;
    let mut busy = server.connect().await;
    busy.send(&message("1")).await;
    within(begun.acquire()).await.unwrap().forget();
    server.stopped().await;
    busy.closed().await;
    assert_eq!(ended.load(SeqCst), 0);
}
