//! Connections, and what befalls a call on its way to its service and back.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::emulator::{Call, Emulator};
use crate::fault::{Break, What};
use crate::grpc::{self, Messages};
use crate::storage::{corrupt_read, corrupt_write};
use crate::wire::{Frames, PREFACE, Wire};

/// What Google's front ends advertise.
const MAX_STREAMS: u32 = 100;

/// The answer to a call.
enum Answer {
    Messages(Vec<Bytes>),
    Status(Status),
    /// Something other than gRPC's answer. That would have been these messages, if the call was executed.
    Broken(Break, Option<Vec<Bytes>>),
    /// The answer, and the end of the connection.
    Drain(Reason, Vec<Bytes>),
}

/// A call that ends its connection with a GOAWAY.
struct GoAway {
    reason: Reason,
    call: SendResponse<Bytes>,
    how: Ending,
}

/// What becomes of the calls on a connection that ends.
enum Ending {
    /// The call is not executed; all others are answered.
    Refused,
    /// Every call is answered.
    Drained,
    /// No call is answered.
    Cut,
}

impl Emulator {
    /// Serves whoever connects. Never returns; when it is dropped, its connections break as if the service went away.
    pub async fn serve(&self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        // Small answers must not wait for the acknowledgement of the ones before.
                        let _ = stream.set_nodelay(true);
                        let emulator = self.clone();
                        connections.spawn(async move { emulator.serve_connection(stream).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }

    /// Serves one connection to its end: HTTP/2 with prior knowledge, over anything that carries bytes.
    pub async fn serve_connection(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut io = io;
        let mut first = [0; PREFACE.len()];
        if io.read_exact(&mut first).await.is_err() {
            return;
        }
        let served = match first == *PREFACE {
            true => self.serve_http2(io).await.map_err(|error| error.to_string()),
            false => plain(io, first[0] == b'G').await.map_err(|error| error.to_string()),
        };
        if let Err(error) = served {
            tracing::debug!(error, "connection");
        }
    }

    async fn serve_http2(&self, io: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), h2::Error> {
        let frames = Frames::default();
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_concurrent_streams(MAX_STREAMS);
        let mut connection = builder.handshake(Wire::after_preface(io, frames.clone())).await?;
        let mut calls = JoinSet::new();
        let mut highest = 0;
        let mut last = u32::MAX;
        // Dropping one of them would reset its stream, and its end shall be the GOAWAY.
        let mut abandoned = Vec::new();
        loop {
            tokio::select! {
                biased;
                Some(end) = calls.join_next() => {
                    let Ok(Some(GoAway { reason, mut call, how })) = end else { continue };
                    let stream = call.stream_id().as_u32();
                    // No call up to the last stream may be executed again, and none above it may have been executed.
                    let refused = matches!(how, Ending::Refused);
                    last = if refused && stream == highest { stream.saturating_sub(2) } else { highest }.min(last);
                    if refused && stream <= last {
                        call.send_reset(Reason::REFUSED_STREAM);
                    }
                    frames.go_away(last, reason);
                    abandoned.push(call);
                    if matches!(how, Ending::Cut) {
                        poll_fn(|cx| match connection.poll_closed(cx) {
                            Poll::Pending if !frames.are_sent() => Poll::Pending,
                            _ => Poll::Ready(()),
                        })
                        .await;
                        return Ok(());
                    }
                }
                accepted = connection.accept() => {
                    let Some(accepted) = accepted else { return Ok(()) };
                    let (request, respond) = accepted?;
                    let stream = respond.stream_id().as_u32();
                    if stream > last {
                        abandoned.push(respond);
                    } else {
                        highest = highest.max(stream);
                        calls.spawn(self.clone().call_and_answer(request, respond));
                    }
                }
            }
        }
    }

    /// One call from its headers to its answer, unless the caller takes it back before.
    async fn call_and_answer(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<GoAway> {
        let answer = tokio::select! {
            biased;
            answer = self.answer(request) => answer,
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return None,
        };
        let mut ending = None;
        let sent = match answer {
            Answer::Messages(messages) => grpc::respond(&mut respond, &messages),
            Answer::Status(status) => respond.send_response(status.into_http(), true).map(drop),
            Answer::Drain(reason, messages) => {
                ending = Some((reason, Ending::Drained));
                grpc::respond(&mut respond, &messages)
            }
            Answer::Broken(Break::GoAway(reason), executed) => {
                ending = Some((reason, if executed.is_some() { Ending::Cut } else { Ending::Refused }));
                Ok(())
            }
            Answer::Broken(broken, executed) => break_off(&mut respond, broken, &executed.unwrap_or_default()),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "answer");
        }
        ending.map(|(reason, how)| GoAway { reason, call: respond, how })
    }

    async fn answer(&self, request: Request<RecvStream>) -> Answer {
        let (head, body) = request.into_parts();
        let content_type = head.headers.get(http::header::CONTENT_TYPE);
        let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if head.method != Method::POST || !is_grpc {
            return Answer::Broken(Break::Http { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, grpc: false }, None);
        }
        let path = head.uri.path().to_owned();
        let messages = match read(body).await {
            Ok(messages) => messages,
            Err(status) => return Answer::Status(status),
        };
        let size = messages.iter().map(Bytes::len).sum();
        let headers = text_headers(&head.headers);
        let (call, latency, fault) = self
            .shared
            .with(|state| state.receive(Call { path: path.clone(), headers, size, at: state.now, answer: None }));
        let half = || async move {
            if !latency.is_zero() {
                sleep(latency / 2).await;
            }
        };
        half().await;
        let answer = self.answer_with(fault, path, messages).await;
        half().await;
        let code = match &answer {
            Answer::Messages(_) | Answer::Drain(..) => Some(Code::Ok),
            Answer::Status(status) => Some(status.code()),
            Answer::Broken(..) => None,
        };
        self.shared.with(|state| state.answered(call, code));
        answer
    }

    async fn answer_with(&self, fault: Option<What>, path: String, messages: Vec<Bytes>) -> Answer {
        let answer = match fault {
            None => self.call(&path, messages).await,
            Some(What::Code(code, text)) => Err(Status::new(code, text)),
            Some(What::CodeAfter(code, text)) => self.call(&path, messages).await.and(Err(Status::new(code, text))),
            Some(What::Delay(delay)) => {
                sleep(delay).await;
                self.call(&path, messages).await
            }
            Some(What::ExecuteLate(delay)) => {
                let emulator = self.clone();
                let late = tokio::spawn(async move {
                    sleep(delay).await;
                    emulator.call(&path, messages).await
                });
                late.await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
            }
            Some(What::Hang) => std::future::pending().await,
            Some(What::LoseAnswer) => {
                // What it would have answered is nobody's to know.
                let _ = self.call(&path, messages).await;
                Err(Status::unavailable("connection reset by peer"))
            }
            Some(What::HangAfter) => {
                let _ = self.call(&path, messages).await;
                std::future::pending().await
            }
            Some(What::Break(broken)) => return Answer::Broken(broken, None),
            Some(What::BreakAfter(broken)) => {
                return Answer::Broken(broken, Some(self.call(&path, messages).await.unwrap_or_default()));
            }
            Some(What::Drain(reason)) => match self.call(&path, messages).await {
                Ok(messages) => return Answer::Drain(reason, messages),
                Err(status) => Err(status),
            },
            Some(What::Corrupt) => {
                let mut messages = messages;
                corrupt_write(&path, &mut messages);
                self.call(&path, messages).await.map(|mut answer| {
                    corrupt_read(&path, &mut answer);
                    answer
                })
            }
            Some(What::Lack(lack)) => self.call(&path, messages).await.map(|answer| lack.of(&path, answer)),
        };
        answer.map_or_else(Answer::Status, Answer::Messages)
    }
}

/// Sends what is not gRPC's answer. GOAWAY is the connection's business.
fn break_off(respond: &mut SendResponse<Bytes>, broken: Break, messages: &[Bytes]) -> Result<(), h2::Error> {
    match broken {
        Break::GoAway(_) => {}
        Break::Reset(reason) => respond.send_reset(reason),
        Break::Http { status, grpc } => {
            let content_type = if grpc { grpc::CONTENT_TYPE } else { "text/html; charset=utf-8" };
            let mut body = respond.send_response(grpc::head(status, content_type), grpc)?;
            if !grpc {
                body.send_data(format!("<html><title>{status}</title></html>\n").into(), true)?;
            }
        }
        Break::Status(status) => {
            let mut head = grpc::head(StatusCode::OK, grpc::CONTENT_TYPE);
            // A fault's text that is not a legal header is left out, and with it the status.
            if let Ok(status) = HeaderValue::try_from(status) {
                head.headers_mut().insert("grpc-status", status);
            }
            respond.send_response(head, true)?;
        }
        Break::NoTrailers => {
            let mut body = respond.send_response(grpc::head(StatusCode::OK, grpc::CONTENT_TYPE), false)?;
            for message in messages {
                body.send_data(grpc::frame(message), false)?;
            }
            body.send_data(Bytes::new(), true)?;
        }
    }
    Ok(())
}

async fn read(mut body: RecvStream) -> Result<Vec<Bytes>, Status> {
    let mut messages = Messages::default();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| Status::internal(format!("request body: {error}")))?;
        // What is read is out of the caller's window; an error here is the connection's end, which shows with the answer.
        let _ = body.flow_control().release_capacity(data.len());
        messages.push(&data)?;
    }
    messages.end()
}

/// For whoever asks with a browser or waits for the port: Google's Pub/Sub emulator says Ok, too.
async fn plain(io: impl AsyncRead + AsyncWrite + Unpin, is_get: bool) -> std::io::Result<()> {
    let mut io = BufReader::new(io);
    let mut line = String::new();
    while io.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let (status, text) = if is_get { ("200 OK", "Ok\n") } else { ("415 Unsupported Media Type", "gRPC only\n") };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
    io.write_all(answer.as_bytes()).await?;
    io.shutdown().await
}

fn text_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        if let Ok(value) = value.to_str() {
            let text = texts.entry(name.as_str().to_owned()).or_default();
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(value);
        }
    }
    texts
}
