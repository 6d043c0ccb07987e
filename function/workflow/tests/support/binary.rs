//! The function's binary and the emulator, over real sockets.

use std::{collections::BTreeMap, net::SocketAddr, process::Stdio, time::Duration};

use gcloud_sdk::google::pubsub::v1::PubsubMessage;
use inline_workflow::environment::*;
use inline_workflow_emulator::{Emulator, Options};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use super::{BUCKET, CONFIG, PROJECT, RESPONSES, TICKS};

pub const LONG: Duration = Duration::from_secs(60);

/// The binary, running; killed when dropped.
pub struct Function {
    pub child: Child,
    pub port: u16,
    log: UnboundedReceiver<String>,
}

pub fn command(variables: &BTreeMap<&str, String>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_function"));
    command.env_clear().envs(variables).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

pub fn variables(services: SocketAddr) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (ENV_PORT, "0".to_owned()),
        (ENV_PROJECT, PROJECT.to_owned()),
        (ENV_REGION, "us-central1".to_owned()),
        (ENV_STAGING_BUCKET, BUCKET.to_owned()),
        (ENV_RESPONSE_TOPIC, RESPONSES.to_owned()),
        (ENV_TICK_TOPIC, TICKS.to_owned()),
        (ENV_DATAPROC_EMULATOR, services.to_string()),
        (ENV_PUBSUB_EMULATOR, services.to_string()),
        (ENV_STORAGE_EMULATOR, services.to_string()),
    ])
}

impl Function {
    pub async fn start(variables: &BTreeMap<&str, String>) -> Function {
        let mut child = command(variables).spawn().expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = timeout(LONG, lines.next_line()).await.expect("in time").expect("text").expect("a line");
        let port = port(&first).unwrap_or_else(|| panic!("no port in {first:?}"));
        let (sender, log) = unbounded_channel();
        // A full pipe would stop it.
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = sender.send(line);
            }
        });
        Function { child, port, log }
    }

    /// The next line of its log after the first.
    pub async fn log_line(&mut self) -> String {
        timeout(LONG, self.log.recv()).await.expect("in time").expect("it runs")
    }

    /// Ends it as nothing can be ended more suddenly: `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it ran");
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Posts a body with headers, and says the status of the answer.
    pub async fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> u16 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens");
        let mut head = format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        // A refusal may come before the whole body has gone.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer);
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
    }

    /// Posts a message as Eventarc does.
    pub async fn deliver(&self, topic: &str, id: &str, data: &[u8]) -> u16 {
        self.deliver_late(topic, id, data, Duration::ZERO).await
    }

    /// The same, so long after its publication.
    pub async fn deliver_late(&self, topic: &str, id: &str, data: &[u8], age: Duration) -> u16 {
        use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
        let published = (chrono::Utc::now() - age).to_rfc3339();
        let body = json!({ "message": { "data": BASE64.encode(data), "messageId": id, "publishTime": published } });
        let source = format!("//pubsub.googleapis.com/{topic}");
        let headers = [
            ("ce-id", id),
            ("ce-source", &source),
            ("ce-specversion", "1.0"),
            ("ce-type", "google.cloud.pubsub.topic.v1.messagePublished"),
            ("content-type", "application/json"),
        ];
        self.post(&headers, body.to_string().as_bytes()).await
    }
}

/// The port in the line that says where it listens, as text or as JSON.
fn port(line: &str) -> Option<u16> {
    let digits = line.split_once("0.0.0.0:")?.1;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// An emulator at 200 times the speed, with a configuration and a script.
pub fn emulator() -> Emulator {
    let emulator = Emulator::new(Options { speed: 200.0, ..Options::default() });
    emulator.create_topic(RESPONSES);
    let config = json!({ "default_cluster_config": { "cluster_name": "default", "config": {} } });
    emulator.put_object(BUCKET, CONFIG, config.to_string());
    emulator.put_object(BUCKET, "scripts/ok.py", "print()");
    emulator
}

pub fn kinds(emulator: &Emulator) -> Vec<String> {
    let kind =
        |message: &PubsubMessage| message.attributes["ce-type"].rsplit('.').next().unwrap_or_default().to_owned();
    emulator.published(RESPONSES).iter().map(kind).collect()
}
