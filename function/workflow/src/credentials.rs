//! The access token of the service account that this runs as, from the metadata server of Cloud Run (or GKE, or Compute
//! Engine). It is fetched when a call needs one and kept until it is nearly over; nothing runs between events.
//!
//! Source: https://cloud.google.com/run/docs/container-contract#metadata-server

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gcloud_sdk::tonic::codegen::http::{HeaderValue, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, sync::Mutex, time::Instant};

const METADATA_SERVER: &str = "metadata.google.internal:80";
const TOKEN: &str = "/computeMetadata/v1/instance/service-accounts/default/token\
                     ?scopes=https://www.googleapis.com/auth/cloud-platform";
/// The server keeps a token, too, and has a new one only in the last minutes of the old one. Google's libraries ask again
/// at this point. Source: https://google.aip.dev/auth/4115, google-auth REFRESH_THRESHOLD
const REFRESH_BEFORE_END: Duration = Duration::from_secs(225);
/// A token that lives no longer than that is not asked for with every call.
const SHORTEST_USE: Duration = Duration::from_secs(10);
const LARGEST_ANSWER: usize = 64 * 1024;

/// Where tokens come from. Clones share the token.
#[derive(Clone)]
pub struct Credentials {
    /// `host:port`
    server: Arc<str>,
    /// Held while a token is fetched, so that calls that need one at the same time fetch one.
    token: Arc<Mutex<Option<Token>>>,
}

struct Token {
    header: HeaderValue,
    good_until: Instant,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: u64,
}

impl Credentials {
    /// `server` as `host:port`, in the place of the one that every machine of Google's has.
    pub fn new(server: Option<&str>) -> Credentials {
        Credentials { server: server.unwrap_or(METADATA_SERVER).into(), token: Arc::default() }
    }

    /// The value of a call's `authorization` header.
    ///
    /// # Errors
    /// What keeps the metadata server from giving a token.
    pub async fn authorization(&self) -> Result<HeaderValue, String> {
        let mut token = self.token.lock().await;
        if let Some(known) = token.as_ref().filter(|known| Instant::now() < known.good_until) {
            return Ok(known.header.clone());
        }
        // On the heap: it is seldom awaited, and large.
        let fresh =
            Box::pin(self.fetch()).await.map_err(|error| format!("metadata server {}: {error}", self.server))?;
        Ok(token.insert(fresh).header.clone())
    }

    /// A service did not take this token: the next call asks for another one.
    pub async fn forget(&self, header: &HeaderValue) {
        self.token.lock().await.take_if(|known| known.header == *header);
    }

    async fn fetch(&self) -> Result<Token, Box<dyn std::error::Error + Send + Sync>> {
        let asked = Instant::now();
        let stream = TcpStream::connect(&*self.server).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(TOKEN)
            .header(HOST, &*self.server)
            .header("metadata-flavor", "Google")
            .header("connection", "close")
            .body(Empty::<Bytes>::new())?;
        let exchange = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await?.to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
        };
        // The connection ends with the exchange; what else becomes of it does not matter.
        let (exchanged, _) = futures::join!(exchange, connection);
        let (status, body) = exchanged?;
        if status != StatusCode::OK {
            return Err(format!("answered {status}").into());
        }
        // The error would quote what was answered: it must not get near a log.
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| "the answer is no access token")?;
        let mut header = HeaderValue::from_str(&format!("Bearer {}", answer.access_token))
            .map_err(|_| "the access token is no header's value")?;
        header.set_sensitive(true);
        let lives = Duration::from_secs(answer.expires_in);
        Ok(Token { header, good_until: asked + lives.saturating_sub(REFRESH_BEFORE_END).max(SHORTEST_USE) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Answers each request for a token with the next of these; the requests it got.
    async fn metadata_server(answers: Vec<String>) -> (Credentials, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
                }
                requests.push(String::from_utf8(request).unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            requests
        });
        (Credentials::new(Some(&address)), serving)
    }

    fn token(text: &str, expires_in: u64) -> String {
        let body = format!(r#"{{"access_token":"{text}","expires_in":{expires_in},"token_type":"Bearer"}}"#);
        format!("HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn a_token_is_fetched_once_and_kept() {
        let (credentials, serving) = metadata_server(vec![token("t1", 3599)]).await;
        let (first, second) = tokio::join!(credentials.authorization(), credentials.authorization());
        assert_eq!(first.unwrap(), "Bearer t1");
        assert_eq!(second.unwrap(), "Bearer t1");
        assert_eq!(credentials.authorization().await.unwrap(), "Bearer t1");
        let requests = serving.await.unwrap();
        assert!(requests[0].starts_with("GET /computeMetadata/v1/instance/service-accounts/default/token?scopes="));
        assert!(requests[0].to_ascii_lowercase().contains("metadata-flavor: google\r\n"), "{}", requests[0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_before_its_end_and_when_it_was_refused() {
        let answers = ["t1", "t2", "t3"].map(|text| token(text, 3600)).into();
        let (credentials, serving) = metadata_server(answers).await;
        assert_eq!(credentials.authorization().await.unwrap(), "Bearer t1");
        tokio::time::advance(Duration::from_secs(3600) - REFRESH_BEFORE_END - Duration::from_secs(1)).await;
        let first = credentials.authorization().await.unwrap();
        assert_eq!(first, "Bearer t1");
        tokio::time::advance(Duration::from_secs(2)).await;
        let second = credentials.authorization().await.unwrap();
        assert_eq!(second, "Bearer t2");
        credentials.forget(&first).await;
        assert_eq!(credentials.authorization().await.unwrap(), "Bearer t2");
        credentials.forget(&second).await;
        assert_eq!(credentials.authorization().await.unwrap(), "Bearer t3");
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_token_is_an_error_that_does_not_quote_it() {
        let refused = "HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\nsecret".to_owned();
        let nonsense = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret".to_owned();
        let (credentials, serving) = metadata_server(vec![refused, nonsense, token("t1", 60)]).await;
        let error = credentials.authorization().await.unwrap_err();
        assert!(error.contains("404") && !error.contains("secret"), "{error}");
        let error = credentials.authorization().await.unwrap_err();
        assert!(error.contains("no access token") && !error.contains("secret"), "{error}");
        // And it goes on.
        assert_eq!(credentials.authorization().await.unwrap(), "Bearer t1");
        serving.await.unwrap();
    }
}
