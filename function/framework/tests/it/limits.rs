//! Bodies too large, too many, too slow; clients that fall silent. The limits are small, so that the tests are fast.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use functions_framework::{Failure, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::wire::{Connection, Gated, ce, gated, message, message_of, start, within};

const SHORT: Duration = Duration::from_millis(200);

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

async fn fine(_: cloudevents::Event) -> Result<(), Failure> {
    Ok(())
}

fn small() -> Limits {
    Limits { body: 1000, bodies_in_flight: 2500, ..Limits::default() }
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_accepted() {
    let server = start(small(), fine).await;
    assert_eq!(server.ask(&message_of("1", &[b' '; 1000])).await.status, 204);
    let response = server.ask(&message_of("1", &[b' '; 1001])).await;
    assert_eq!((response.status, response.text()), (413, "the body is too large\n"));
    assert_eq!((response.header("connection"), response.header("x-google-status")), (Some("close"), None));
}

#[tokio::test]
async fn the_default_limit_is_16_mib() {
    let server = start(Limits::default(), fine).await;
    assert_eq!(server.ask(&message_of("1", &vec![b' '; 16 << 20])).await.status, 204);
    assert_eq!(
        server.ask(&message_of("1", &vec![b' '; (16 << 20) + 1])).await.status,
        413,
        "the client reads the response after it has sent the whole body"
    );
}

#[tokio::test]
async fn a_declared_length_is_rejected_before_the_body_arrives() {
    let server = start(Limits::default(), fine).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut connection = server.connect().await;
        connection
            .send(format!("POST / HTTP/1.1\r\nhost: t\r\n{expect}content-length: 99999999999\r\n\r\n").as_bytes())
            .await;
        assert_eq!(connection.response().await.status, 413);
        drop_writes_and_expect_end(connection).await;
    }
}

#[tokio::test]
async fn an_undeclared_length_is_rejected_once_it_exceeds_the_limit() {
    let server = start(small(), fine).await;
    let mut connection = server.connect().await;
    connection
        .send(format!("POST / HTTP/1.1\r\nhost: t\r\n{}transfer-encoding: chunked\r\n\r\n", ce("1")).as_bytes())
        .await;
    connection.send(&[b"1f4\r\n", &[b' '; 500][..], b"\r\n"].concat()).await;
    connection.send(&[b"1f5\r\n", &[b' '; 501][..], b"\r\n"].concat()).await;
    assert_eq!(connection.response().await.status, 413);
    drop_writes_and_expect_end(connection).await;
}

async fn drop_writes_and_expect_end(mut connection: Connection) {
    connection.stream.shutdown().await.unwrap();
    connection.closed().await;
}

#[tokio::test]
async fn bodies_in_flight_are_limited_until_their_handlers_end() {
    let Gated { server, begun, gate, .. } = gated(small()).await;
    let mut first = server.connect().await;
    first.send(&message_of("1", &[b' '; 1000])).await;
    let mut second = server.connect().await;
    second.send(&message_of("2", &[b' '; 1000])).await;
    within(begun.acquire_many(2)).await.unwrap().forget();

    let rejected = server.ask(&message_of("3", &[b' '; 501])).await;
    assert_eq!((rejected.status, rejected.text()), (429, "too many bodies are in flight, try again\n"));
    assert_eq!((rejected.header("x-google-status"), rejected.header("connection")), (None, Some("close")));
    let chunked = format!("POST / HTTP/1.1\r\nhost: t\r\n{}transfer-encoding: chunked\r\n\r\n1f5\r\n", ce("4"));
    let rejected = server.ask(&[chunked.as_bytes(), &[b' '; 501], b"\r\n0\r\n\r\n"].concat()).await;
    assert_eq!(rejected.status, 429, "undeclared as well");

    let mut third = server.connect().await;
    third.send(&message_of("5", &[b' '; 500])).await;
    within(begun.acquire()).await.unwrap().forget();
    gate.add_permits(3);
    for connection in [&mut first, &mut second, &mut third] {
        assert_eq!(connection.response().await.status, 204);
    }
    gate.add_permits(1);
    assert_eq!(server.ask(&message_of("6", &[b' '; 1000])).await.status, 204, "there is room again");
}

#[tokio::test]
async fn a_declared_body_is_reserved_before_it_arrives_and_released_when_its_client_leaves() {
    let server = start(Limits { bodies_in_flight: 1000, ..small() }, fine).await;
    let mut slow = server.connect().await;
    slow.send(&message_of("1", &[b' '; 1000])[..200]).await;
    // Once the server rejects the next request, it has read the head of this one.
    while server.ask(&message_of("2", &[b' '; 1000])).await.status != 429 {}
    drop(slow);
    while server.ask(&message_of("3", &[b' '; 1000])).await.status != 204 {}
}

#[tokio::test]
async fn a_body_that_does_not_arrive_times_out() {
    let server = start(Limits { body_read: SHORT, ..small() }, fine).await;
    let mut connection = server.connect().await;
    connection.send(&message_of("1", &[b' '; 1000])[..400]).await;
    let response = connection.response().await;
    assert_eq!((response.status, response.header("connection")), (408, Some("close")));
    connection.closed().await;
}

#[tokio::test]
async fn silent_clients_are_closed() {
    let server = start(Limits { header_read: SHORT, idle: SHORT, ..small() }, fine).await;
    let starts: [&[u8]; 6] = [
        b"",
        b"P",
        b"POST / HTTP/1.1\r\nhost: t\r\nce-id:",
        &H2_PREFACE[..10],
        H2_PREFACE,
        &[H2_PREFACE, EMPTY_SETTINGS].concat(),
    ];
    let ends = starts.iter().map(async |start| {
        let mut connection = server.connect().await;
        connection.send(start).await;
        // HTTP/2 sends some frames; what counts is that the connection ends.
        let mut received = Vec::new();
        if let Err(error) = within(connection.stream.read_to_end(&mut received)).await {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert!(!received.starts_with(b"HTTP/1.1 2"), "{start:?}");
    });
    futures::future::join_all(ends).await;
}

#[tokio::test]
async fn a_head_that_trickles_times_out() {
    let server = start(Limits { header_read: SHORT, ..Limits::default() }, fine).await;
    let mut connection = server.connect().await;
    // Each byte is progress, but the head has one deadline.
    let trickle = async {
        while connection.stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(trickle).await;
}

#[tokio::test]
async fn an_http2_stream_that_falls_silent_times_out() {
    let server = start(Limits { body_read: SHORT, idle: SHORT, ..small() }, fine).await;
    let mut connection = server.connect().await;
    connection.send(H2_PREFACE).await;
    connection.send(EMPTY_SETTINGS).await;
    // HEADERS of stream 1 with END_HEADERS and not END_STREAM: `:method: POST`, `:scheme: http`, `:path: /` of HPACK's
    // static table, and the body never follows.
    connection.send(&[0, 0, 3, 1, 4, 0, 0, 0, 1, 0x83, 0x86, 0x84]).await;
    let mut response = Vec::new();
    drop(within(connection.stream.read_to_end(&mut response)).await);
    let response = String::from_utf8_lossy(&response).into_owned();
    assert!(response.contains("the body did not arrive in time"), "{response:?}");
}

#[tokio::test]
async fn a_connection_may_wait_longer_for_its_next_request_than_for_its_first() {
    let server = start(Limits { header_read: SHORT, ..Limits::default() }, fine).await;
    let mut connection = server.connect().await;
    for _ in 0..2 {
        connection.send(&message("1")).await;
        assert_eq!(connection.response().await.status, 204);
        tokio::time::sleep(SHORT * 3).await;
    }
    // The first byte of another head starts its timeout.
    connection.send(b"POST").await;
    connection.closed().await;
}

#[tokio::test]
async fn a_handler_may_take_longer_than_a_connection_may_be_idle() {
    let server = start(Limits { header_read: SHORT, idle: SHORT, ..Limits::default() }, |_| async {
        tokio::time::sleep(SHORT * 4).await;
        Ok(())
    })
    .await;
    let mut connection = server.connect().await;
    connection.send(&message("1")).await;
    assert_eq!(connection.response().await.status, 204);
    connection.closed().await;
}

#[tokio::test]
async fn garbage_never_reaches_the_function() {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let server = start(small(), move |_| {
        count.fetch_add(1, SeqCst);
        async { Ok(()) }
    })
    .await;
    let mut seed = 7_u64;
    for _ in 0..200 {
        let mut connection = server.connect().await;
        let bytes: Vec<u8> = (0..64)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 56) as u8
            })
            .collect();
        connection.send(&bytes).await;
        drop(connection);
    }
    let huge = format!("POST / HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    let mut connection = server.connect().await;
    drop(connection.stream.write_all(huge.as_bytes()).await);
    assert_eq!(server.ask(&message("1")).await.status, 204);
    assert_eq!(handled.load(SeqCst), 1);
}
