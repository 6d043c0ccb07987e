//! What a call makes of each thing that can arrive on the wire, from a server that writes frames by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use gcloud_sdk::{
    google::longrunning::{GetOperationRequest, Operation, operations_client::OperationsClient},
    tonic::{Code, Response},
};
use inline_workflow::{
    dataproc::Dataproc,
    error::{CallError, Origin},
    google::{Io, Method, Reach, Repeat, SAFE_DEADLINE, Service, routed},
    template,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep},
};

// Frame types, flags and reasons. Source: RFC 9113, 6 and 7.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
/// All of them, and one that nobody has defined.
const REASONS: [u32; 15] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 77];

const ONCE: Method = Method { name: "Once", deadline: SAFE_DEADLINE, repeat: Repeat::Never };
const SAFE: Method = Method { name: "Safe", deadline: SAFE_DEADLINE, repeat: Repeat::Safe };

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal that is not indexed. Source: RFC 7541, 6.2.2
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("a short text"));
            block.extend(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS | flags, stream, &block)
}

const OK: (&str, &str) = (":status", "200");
const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// The beginning of a gRPC response.
fn began(stream: u32) -> Vec<u8> {
    headers(0, stream, &[OK, GRPC])
}

/// An operation `o`.
fn message(stream: u32) -> Vec<u8> {
    frame(DATA, 0, stream, b"\0\0\0\0\x03\x0a\x01o")
}

fn status(stream: u32, status: &str) -> Vec<u8> {
    headers(END_STREAM, stream, &[("grpc-status", status)])
}

fn answered(stream: u32) -> Vec<u8> {
    [began(stream), message(stream), status(stream, "0")].concat()
}

fn reset(stream: u32, reason: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &reason.to_be_bytes())
}

fn go_away(last_stream: u32, reason: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last_stream.to_be_bytes(), reason.to_be_bytes()].concat())
}

/// What the server does about a request.
#[derive(Clone)]
enum Do {
    Write(Vec<u8>),
    WriteAndClose(Vec<u8>),
    WriteAfter(Duration, Vec<u8>),
    Nothing,
}

/// A server; each connection to it is new, and all of them share these counts.
#[derive(Clone)]
struct Server {
    /// Given the number of the request, from 0, and its stream.
    answer: Arc<dyn Fn(usize, u32) -> Do + Send + Sync>,
    max_streams: Option<u32>,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    pings: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    most_open: Arc<AtomicUsize>,
}

impl Server {
    fn new(answer: impl Fn(usize, u32) -> Do + Send + Sync + 'static) -> Server {
        let [requests, connections, pings, open, most_open] = <[Arc<AtomicUsize>; 5]>::default();
        Server { answer: Arc::new(answer), max_streams: None, requests, connections, pings, open, most_open }
    }

    fn service(&self) -> Service {
        let server = self.clone();
        Service::new(Reach::Memory(Arc::new(move || {
            let server = server.clone();
            Box::pin(async move {
                server.connections.fetch_add(1, Ordering::SeqCst);
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move { server.serve(theirs).await });
                Ok(Box::new(ours) as Box<dyn Io>)
            })
        })))
    }

    async fn serve(self, stream: DuplexStream) -> std::io::Result<()> {
        let (mut reader, writer) = tokio::io::split(stream);
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        let limit = self.max_streams.map(|limit| [&[0, 3], &limit.to_be_bytes()[..]].concat()).unwrap_or_default();
        writer.lock().await.write_all(&frame(SETTINGS, 0, 0, &limit)).await?;
        reader.read_exact(&mut [0; 24]).await?;
        loop {
            let mut head = [0; 9];
            reader.read_exact(&mut head).await?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            reader.read_exact(&mut payload).await?;
            let stream = u32::from_be_bytes(head[5..9].try_into().expect("four bytes"));
            match (head[3], head[4]) {
                (SETTINGS, 0) => writer.lock().await.write_all(&frame(SETTINGS, ACK, 0, b"")).await?,
                (PING, 0) => drop(self.pings.fetch_add(1, Ordering::SeqCst)),
                (HEADERS, _) => {
                    let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
                    self.most_open.fetch_max(open, Ordering::SeqCst);
                }
                (DATA, END_STREAM) => {
                    let number = self.requests.fetch_add(1, Ordering::SeqCst);
                    let (wait, bytes, close) = match (self.answer)(number, stream) {
                        Do::Write(bytes) => (Duration::ZERO, bytes, false),
                        Do::WriteAndClose(bytes) => (Duration::ZERO, bytes, true),
                        Do::WriteAfter(wait, bytes) => (wait, bytes, false),
                        Do::Nothing => continue,
                    };
                    let (writer, open) = (Arc::clone(&writer), Arc::clone(&self.open));
                    let written = async move {
                        sleep(wait).await;
                        open.fetch_sub(1, Ordering::SeqCst);
                        writer.lock().await.write_all(&bytes).await
                    };
                    match close {
                        true => return written.await,
                        false => drop(tokio::spawn(written)),
                    }
                }
                _ => {}
            }
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn call(service: &Service, method: Method) -> Result<Operation, CallError> {
    let until = Instant::now() + Duration::from_secs(8);
    service
        .call(method, "o", until, |channel, deadline| async move {
            let request = routed(GetOperationRequest { name: "o".to_owned() }, &[("name", "o")], deadline);
            OperationsClient::new(channel).get_operation(request).await
        })
        .await
        .map(Response::into_inner)
}

/// The failure of a call that must not be repeated and that gets this answer, once.
async fn failure(name: &str, answer: impl Fn(u32) -> Do + Send + Sync + 'static) -> (Code, Origin) {
    let server = Server::new(move |_, stream| answer(stream));
    let result = call(&server.service(), ONCE).await;
    assert_eq!(server.requests(), 1, "{name}");
    let error = result.err().unwrap_or_else(|| panic!("{name}: the call succeeded"));
    (error.code, error.origin)
}

/// The call may have been executed, and no code says otherwise.
async fn is_in_doubt(name: &str, answer: impl Fn(u32) -> Do + Send + Sync + 'static) {
    let (code, origin) = failure(name, answer).await;
    assert_eq!(origin, Origin::Unknown, "{name}");
    let codes = [Code::Unavailable, Code::Unknown, Code::Internal, Code::DeadlineExceeded];
    assert!(codes.contains(&code), "{name}: {code:?}");
}

async fn succeeds(name: &str, answer: impl Fn(u32) -> Do + Send + Sync + 'static) {
    let server = Server::new(move |_, stream| answer(stream));
    let operation = call(&server.service(), ONCE).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((operation.name.as_str(), server.requests()), ("o", 1), "{name}");
}

/// It was certainly not executed: even a call that must not be repeated is made again, until it is answered.
async fn is_repeated(name: &str, refusal: impl Fn(u32) -> Do + Send + Sync + 'static) {
    let server = Server::new(move |number, stream| match number {
        0..7 => refusal(stream),
        _ => Do::Write(answered(stream)),
    });
    let operation = call(&server.service(), ONCE).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((operation.name.as_str(), server.requests()), ("o", 8), "{name}");
}

#[tokio::test(start_paused = true)]
async fn a_reset_stream_is_not_executed_only_if_it_was_refused() {
    for reason in REASONS {
        let name = format!("reason {reason}");
        let before = move |stream| Do::Write(reset(stream, reason));
        match reason {
            REFUSED_STREAM => is_repeated(&name, before).await,
            _ => is_in_doubt(&name, before).await,
        }
        // A service that has begun to answer has not refused the stream, whatever it says.
        is_in_doubt(&name, move |stream| Do::Write([began(stream), reset(stream, reason)].concat())).await;
        is_in_doubt(&name, move |stream| Do::Write([began(stream), message(stream), reset(stream, reason)].concat()))
            .await;
        // What follows a complete answer does not matter.
        succeeds(&name, move |stream| Do::Write([answered(stream), reset(stream, reason)].concat())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_goaway_tells_which_streams_were_not_executed() {
    for reason in REASONS {
        let name = format!("reason {reason}");
        is_repeated(&name, move |_| Do::Write(go_away(0, reason))).await;
        is_repeated(&name, move |_| Do::WriteAndClose(go_away(0, reason))).await;
        is_in_doubt(&name, move |stream| Do::WriteAndClose(go_away(stream, reason))).await;
        is_in_doubt(&name, move |stream| Do::Write([began(stream), go_away(0, reason)].concat())).await;
        succeeds(&name, move |stream| Do::Write([go_away(stream, reason), answered(stream)].concat())).await;
    }
    // A graceful end: first a warning, then the last stream.
    let graceful = |_| Do::Write([go_away(0x7fff_ffff, NO_ERROR), go_away(0, NO_ERROR)].concat());
    is_repeated("graceful", graceful).await;
    is_in_doubt("an id that grows", |_| Do::WriteAndClose([go_away(1, 0), go_away(3, 0)].concat())).await;
}

#[tokio::test(start_paused = true)]
async fn a_status_of_http_is_not_the_services() {
    for http in ["301", "400", "401", "403", "404", "429", "500", "502", "503", "504"] {
        let status = (":status", http);
        is_in_doubt(http, move |stream| Do::Write(headers(END_STREAM, stream, &[status]))).await;
        is_in_doubt(http, move |stream| Do::Write(headers(END_STREAM, stream, &[status, GRPC]))).await;
        is_in_doubt(http, move |stream| {
            let fields = [status, GRPC, ("grpc-status", "7")];
            Do::Write(headers(END_STREAM, stream, &fields))
        })
        .await;
        is_in_doubt(http, move |stream| {
            let head = headers(0, stream, &[status, ("content-type", "text/html")]);
            Do::Write([head, frame(DATA, END_STREAM, stream, b"<html>no</html>")].concat())
        })
        .await;
    }
    for kind in ["text/html", "application/grpc-web", "application/json", ""] {
        is_in_doubt(kind, move |stream| {
            Do::Write(headers(END_STREAM, stream, &[OK, ("content-type", kind), ("grpc-status", "7")]))
        })
        .await;
    }
    is_in_doubt("no content-type", |stream| Do::Write(headers(END_STREAM, stream, &[OK, ("grpc-status", "7")]))).await;
}

#[tokio::test(start_paused = true)]
async fn one_of_grpcs_codes_that_ends_the_response_is_the_services_answer() {
    for number in 1..=15 {
        let expected = (Code::from_i32(number), Origin::Service);
        let name = format!("status {number}");
        for message in [message, |_| Vec::new()] {
            let text = number.to_string();
            let trailers = move |stream| Do::Write([began(stream), message(stream), status(stream, &text)].concat());
            assert_eq!(failure(&name, trailers).await, expected, "{name}");
        }
        let text = number.to_string();
        let only = move |stream| Do::Write(headers(END_STREAM, stream, &[OK, GRPC, ("grpc-status", &text)]));
        assert_eq!(failure(&name, only).await, expected, "{name}");
    }
    let denied = (Code::PermissionDenied, Origin::Service);
    for kind in ["application/grpc+proto", "application/grpc;charset=utf-8"] {
        let fields = [OK, ("content-type", kind), ("grpc-status", "7")];
        let answer = move |stream| Do::Write(headers(END_STREAM, stream, &fields));
        assert_eq!(failure(kind, answer).await, denied, "{kind}");
    }
    // Whatever else cannot be read.
    for garbled in [("grpc-message", "%ff%"), ("grpc-status-details-bin", "!!!"), ("grpc-encoding", "zstd")] {
        let answer = move |stream| Do::Write(headers(END_STREAM, stream, &[OK, GRPC, ("grpc-status", "7"), garbled]));
        assert_eq!(failure(garbled.0, answer).await, denied, "{garbled:?}");
        let trailers = move |stream| {
            let end = headers(END_STREAM, stream, &[("grpc-status", "7"), garbled]);
            Do::Write([began(stream), end].concat())
        };
        assert_eq!(failure(garbled.0, trailers).await, denied, "{garbled:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_asked_for_again_once() {
    let server = Server::new(|_, stream| Do::Write([began(stream), status(stream, "16")].concat()));
    let error = call(&server.service(), ONCE).await.unwrap_err();
    assert_eq!((error.code, error.origin), (Code::Unauthenticated, Origin::Service));
    assert_eq!(server.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_none_of_grpcs_codes_says_nothing() {
    for text in ["", "abc", "-1", "00", "07", "17", "99", "7 ", "0x7", "7.0", "4294967303", "7,7"] {
        is_in_doubt(text, move |stream| Do::Write([began(stream), status(stream, text)].concat())).await;
        is_in_doubt(text, move |stream| Do::Write(headers(END_STREAM, stream, &[OK, GRPC, ("grpc-status", text)])))
            .await;
        is_in_doubt(text, move |stream| Do::Write([began(stream), message(stream), status(stream, text)].concat()))
            .await;
    }
    for twice in [["7", "7"], ["0", "7"], ["7", "0"], ["0", "0"]] {
        let fields = twice.map(|text| ("grpc-status", text));
        let name = format!("{twice:?}");
        is_in_doubt(&name, move |stream| {
            Do::Write([began(stream), message(stream), headers(END_STREAM, stream, &fields)].concat())
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_in_headers_that_something_follows_does_not_count() {
    let head = |stream, text| headers(0, stream, &[OK, GRPC, ("grpc-status", text)]);
    succeeds("0 in the end", move |stream| {
        Do::Write([head(stream, "7"), message(stream), status(stream, "0")].concat())
    })
    .await;
    let answer = move |stream| Do::Write([head(stream, "0"), message(stream), status(stream, "7")].concat());
    assert_eq!(failure("7 in the end", answer).await, (Code::PermissionDenied, Origin::Service));
    is_in_doubt("no end", move |stream| Do::Write([head(stream, "7"), frame(DATA, END_STREAM, stream, b"")].concat()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_off_is_no_answer() {
    is_in_doubt("nothing", |_| Do::WriteAndClose(Vec::new())).await;
    is_in_doubt("silence", |_| Do::Nothing).await;
    is_in_doubt("no message", |stream| Do::Write([began(stream), status(stream, "0")].concat())).await;
    is_in_doubt("no message, no trailers", |stream| {
        Do::Write(headers(END_STREAM, stream, &[OK, GRPC, ("grpc-status", "0")]))
    })
    .await;
    is_in_doubt("no trailers", |stream| {
        Do::Write([began(stream), message(stream), frame(DATA, END_STREAM, stream, b"")].concat())
    })
    .await;
    is_in_doubt("half a message", |stream| {
        Do::Write([began(stream), frame(DATA, 0, stream, b"\0\0\0\0\x03\x0a"), status(stream, "0")].concat())
    })
    .await;
    is_in_doubt("no operation", |stream| {
        Do::Write([began(stream), frame(DATA, 0, stream, b"\0\0\0\0\x01\x0a"), status(stream, "0")].concat())
    })
    .await;
    // The connection ends after each byte of a refusal but the last.
    let refusal = [began(1), status(1, "7")].concat();
    for length in 0..refusal.len() {
        let part = refusal[..length].to_vec();
        is_in_doubt(&format!("{length} bytes"), move |_| Do::WriteAndClose(part.clone())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_submission_whose_operation_has_no_name_is_in_doubt() {
    let server = Server::new(|_, stream| {
        let empty = frame(DATA, 0, stream, b"\0\0\0\0\0");
        Do::Write([began(stream), empty, status(stream, "0")].concat())
    });
    let dataproc = Dataproc::new(server.service(), "p", "r", Instant::now() + Duration::from_secs(8));
    let request = template::instantiate_request("p", "r", Bytes::new(), "id".to_owned());
    let error = dataproc.instantiate(&request, Duration::from_secs(4)).await.unwrap_err();
    assert_eq!((error.code, error.origin, server.requests()), (Code::Unknown, Origin::Unknown, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_lasts_ends_the_call_as_not_executed() {
    for method in [ONCE, SAFE] {
        let server = Server::new(|_, stream| Do::Write(reset(stream, REFUSED_STREAM)));
        let began = Instant::now();
        let error = call(&server.service(), method).await.unwrap_err();
        assert_eq!((error.code, error.origin), (Code::Unavailable, Origin::NotExecuted));
        // Until the deadline, and with pauses.
        assert!(began.elapsed() > Duration::from_secs(3) && began.elapsed() <= method.deadline);
        assert!((8..20).contains(&server.requests()), "{}", server.requests());
        assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_an_attempt_in_doubt_does_not_hide_the_doubt() {
    let server = Server::new(|number, stream| match number {
        0 => Do::Write(reset(stream, 2)),
        _ => Do::Write(reset(stream, REFUSED_STREAM)),
    });
    let error = call(&server.service(), SAFE).await.unwrap_err();
    assert_eq!(error.origin, Origin::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_slow_service_is_waited_for_and_a_silent_connection_is_replaced() {
    for (method, most) in [(SAFE, 2), (ONCE, 1)] {
        let slow = Server::new(|_, stream| Do::WriteAfter(Duration::from_millis(3500), answered(stream)));
        let service = slow.service();
        for call_number in 1..=3 {
            let began = Instant::now();
            call(&service, method).await.unwrap();
            assert_eq!(began.elapsed().as_millis() / 10, 350);
            assert!(slow.requests() <= most * call_number, "{}", slow.requests());
        }
    }
    // The first connection swallows everything.
    let dead = Server::new(|number, stream| match number {
        0 => Do::Nothing,
        _ => Do::Write(answered(stream)),
    });
    let began = Instant::now();
    call(&dead.service(), SAFE).await.unwrap();
    assert_eq!(began.elapsed().as_millis() / 100, 16);
    assert_eq!(dead.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_others_overtake_is_made_again_later_than_one_on_a_silent_connection() {
    // The first request gets no answer, the others do, and some of the time one of them is under way.
    let server = Server::new(|number, stream| match number {
        0 => Do::Nothing,
        _ => Do::WriteAfter(Duration::from_millis(100), answered(stream)),
    });
    let service = server.service();
    let began = Instant::now();
    let overtaken = async {
        call(&service, SAFE).await.unwrap();
        assert_eq!(began.elapsed().as_millis() / 100, 21);
    };
    let others = async {
        for _ in 0..10 {
            sleep(Duration::from_millis(100)).await;
            call(&service, SAFE).await.unwrap();
        }
    };
    tokio::join!(overtaken, others);
    assert_eq!((server.requests(), server.connections.load(Ordering::SeqCst)), (12, 2));
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_a_stream_and_the_wait_is_not_silence() {
    for method in [SAFE, ONCE] {
        let mut server = Server::new(|_, stream| Do::WriteAfter(Duration::from_millis(300), answered(stream)));
        server.max_streams = Some(2);
        let service = server.service();
        call(&service, method).await.unwrap();
        // The last of them waits for three seconds.
        let calls = futures::future::join_all((0..20).map(|_| call(&service, method))).await;
        assert!(calls.iter().all(Result::is_ok), "{calls:?}");
        assert_eq!((server.requests(), server.most_open.load(Ordering::SeqCst)), (21, 2));
        assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gets_no_stream_in_time_is_not_executed() {
    let mut server = Server::new(|number, stream| match number {
        0 => Do::Write(answered(stream)),
        _ => Do::Nothing,
    });
    server.max_streams = Some(1);
    let service = server.service();
    call(&service, ONCE).await.unwrap();
    let short = Method { deadline: Duration::from_secs(2), ..ONCE };
    let (first, second) = tokio::join!(call(&service, ONCE), call(&service, short));
    assert_eq!(first.unwrap_err().origin, Origin::Unknown);
    assert_eq!(second.unwrap_err().origin, Origin::NotExecuted);
    assert_eq!(server.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_submission_replaces_a_connection_that_was_idle_and_pings_none() {
    let server = Server::new(|_, stream| Do::Write(answered(stream)));
    let service = server.service();
    let until = || Instant::now() + Duration::from_secs(8);
    for (idle, connections) in [(0, 1), (900, 1), (1000, 2), (900, 2), (5000, 3)] {
        sleep(Duration::from_millis(idle)).await;
        service.wake(until()).await;
        call(&service, ONCE).await.unwrap();
        assert_eq!(server.connections.load(Ordering::SeqCst), connections, "{idle} ms");
    }
    sleep(Duration::from_secs(5)).await;
    call(&service, SAFE).await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
    assert_eq!(server.pings.load(Ordering::SeqCst), 0);
}
