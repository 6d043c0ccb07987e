//! Events as Eventarc delivers them, and their delivery.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use inline_workflow_bench::inputs::{self, PROJECT, envelope};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
};

/// A message's number is written over this, in the head and in the body.
const NUMBER: &str = "0000000000";
const NOW: &str = "2000-01-01T00:00:00.000000Z";

/// A request as it goes over the wire, but for its number and time.
pub struct Delivery {
    bytes: Vec<u8>,
    numbers: Vec<usize>,
    times: Vec<usize>,
}

impl Delivery {
    fn new(topic: &str, data: &[u8]) -> Delivery {
        let body = envelope(data, NUMBER, NOW);
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\nce-id: {NUMBER}\r\nce-source: //pubsub.googleapis.com/{topic}\r\n\
             ce-specversion: 1.0\r\nce-type: google.cloud.pubsub.topic.v1.messagePublished\r\nce-time: {NOW}\r\n\
             traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let text = head + &body;
        let places = |of: &str| text.match_indices(of).map(|(place, _)| place).collect();
        let (numbers, times) = (places(NUMBER), places(NOW));
        Delivery { bytes: text.into_bytes(), numbers, times }
    }

    /// A request for a workflow of so many jobs, with so much text in one of them.
    pub fn request(jobs: usize, padding: usize) -> Delivery {
        let request = inputs::request(jobs, padding);
        Delivery::new(&format!("projects/{PROJECT}/topics/requests"), request.as_bytes())
    }

    pub fn tick() -> Delivery {
        Delivery::new(&format!("projects/{PROJECT}/topics/ticks"), b"tick")
    }

    fn set(&self, bytes: &mut [u8], number: u64) {
        let number = format!("{number:010}");
        for place in &self.numbers {
            bytes[*place..place + NUMBER.len()].copy_from_slice(number.as_bytes());
        }
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        for place in &self.times {
            bytes[*place..place + NOW.len()].copy_from_slice(now.as_bytes());
        }
    }
}

/// How many events, how many at the same time, and for how long at most.
#[derive(Clone, Copy)]
pub struct Plan {
    pub events: usize,
    pub in_flight: usize,
    pub at_most: Duration,
}

/// What became of them.
#[derive(Default)]
pub struct Outcome {
    pub acked: usize,
    /// Answered otherwise.
    pub refused: usize,
    pub took: Duration,
    /// Of each that was acked, sorted.
    pub latencies: Vec<Duration>,
}

impl Outcome {
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * percent / 100).copied().unwrap_or_default()
    }
}

thread_local! {
    /// No message has the same number twice, whoever gets it.
    static NEXT: Cell<u64> = const { Cell::new(1) };
}

/// Delivers events over as many connections as are to be in flight, each the next one when the last is answered.
pub fn deliver(address: SocketAddr, delivery: &Delivery, plan: Plan) -> Outcome {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let left = Rc::new(Cell::new(plan.events));
    let began = Instant::now();
    let connections = (0..plan.in_flight).map(|_| connection(address, delivery, left.clone(), began + plan.at_most));
    let parts = runtime.block_on(futures::future::join_all(connections));
    let mut whole = Outcome { took: began.elapsed(), ..Outcome::default() };
    for part in parts {
        whole.acked += part.acked;
        whole.refused += part.refused;
        whole.latencies.extend(part.latencies);
    }
    whole.latencies.sort_unstable();
    whole
}

async fn connection(address: SocketAddr, delivery: &Delivery, left: Rc<Cell<usize>>, until: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    let mut bytes = delivery.bytes.clone();
    let mut stream = None;
    while left.get() > 0 && Instant::now() < until {
        left.set(left.get() - 1);
        delivery.set(&mut bytes, NEXT.replace(NEXT.get() + 1));
        let began = Instant::now();
        match post(&mut stream, address, &bytes).await {
            Some(status) if (200..300).contains(&status) => {
                outcome.acked += 1;
                outcome.latencies.push(began.elapsed());
            }
            _ => outcome.refused += 1,
        }
    }
    outcome
}

/// The answer's status, over the connection that stands or a new one.
async fn post(connection: &mut Option<TcpStream>, address: SocketAddr, bytes: &[u8]) -> Option<u16> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => TcpStream::connect(address).await.ok()?,
    };
    stream.set_nodelay(true).ok()?;
    stream.write_all(bytes).await.ok()?;
    let mut answer = Vec::with_capacity(1024);
    let head = loop {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = answer.windows(4).position(|end| end == b"\r\n\r\n") {
            break String::from_utf8_lossy(&answer[..end + 4]).to_ascii_lowercase();
        }
    };
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length = value("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
    while answer.len() < head.len() + length {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    if value("connection:") != Some("close") && value("transfer-encoding:").is_none() {
        *connection = Some(stream);
    }
    head.split(' ').nth(1)?.parse().ok()
}
