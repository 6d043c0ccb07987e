//! Connections, and what befalls a call on its way to its service and back.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::emulator::{Call, Emulator};
use crate::fault::What;
use crate::grpc::{self, ResponseBody};

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
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }

    /// Serves one connection to its end: HTTP/2 with prior knowledge, over anything that carries bytes.
    pub async fn serve_connection(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http2().initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
        let emulator = self.clone();
        let service = service_fn(move |request| {
            let emulator = emulator.clone();
            async move { Ok::<_, Infallible>(emulator.answer(request).await) }
        });
        if let Err(error) = server.serve_connection(TokioIo::new(io), service).await {
            tracing::debug!(error, "connection");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let is_grpc = request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if request.method() != Method::POST || !is_grpc {
            return plain(request.method());
        }
        let path = request.uri().path().to_owned();
        let headers = text_headers(request.headers());
        let messages = match grpc::read_messages(request.into_body()).await {
            Ok(messages) => messages,
            Err(status) => return grpc::respond(Err(status)),
        };
        let size = messages.iter().map(Bytes::len).sum();
        let (call, fault) = self
            .shared
            .with(|state| state.receive(Call { path: path.clone(), headers, size, at: state.now, answer: None }));
        let answer = self.answer_with(fault, path, messages).await;
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.shared.with(|state| state.answered(call, code));
        grpc::respond(answer)
    }

    async fn answer_with(&self, fault: Option<What>, path: String, messages: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        match fault {
            None => self.call(&path, messages).await,
            Some(What::Code(code, text)) => Err(Status::new(code, text)),
            Some(What::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                self.call(&path, messages).await
            }
            Some(What::ExecuteLate(delay)) => {
                let emulator = self.clone();
                let late = tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
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
        }
    }
}

/// For whoever asks with a browser or waits for the port: Google's Pub/Sub emulator says Ok, too.
fn plain(method: &Method) -> Response<ResponseBody> {
    let (status, text) = match *method {
        Method::GET => (StatusCode::OK, "Ok\n"),
        _ => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "gRPC only\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync());
    *response.status_mut() = status;
    response
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
