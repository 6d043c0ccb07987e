//! How much one instance gets done: requests a second through its port, and the runs that one tick takes further.
//!
//! The services are the emulator on a thread of its own, over TCP; for the ticks each of its calls takes 20 ms. The
//! function runs on one thread, as its binary does. `make bench`; with `RUNS=500` for a smaller table.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]
#![allow(clippy::expect_used, reason = "a bench that cannot go on has no better way to say so")]

use std::{net::SocketAddr, sync::mpsc, thread, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use inline_workflow::{
    clock::Clock,
    context::{Context, EVENT_BUDGET, Reaches},
    environment::*,
    handle::handle,
    sweep::sweep,
};
use inline_workflow_emulator::{DataprocOptions, Emulator, Fault, Options, Timing, What, When};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{self, Runtime},
    sync::oneshot,
    time::Instant,
};

const CALL: Duration = Duration::from_millis(20);
/// As many as the sweep has under way.
const RUNS_AT_ONCE: f64 = 64.0;
const CONNECTIONS: usize = 32;
/// What each stage of a workflow takes, of time that this program moves by hand.
const STAGE: Duration = Duration::from_secs(3600);

fn runtime() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The emulator on its own thread, and the thread's runtime.
fn emulator() -> (Emulator, SocketAddr, runtime::Handle) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let runtime = runtime();
        let handle = runtime.handle().clone();
        runtime.block_on(async move {
            let timing =
                Timing { pending: STAGE, create_cluster: STAGE, start_job: STAGE, job: STAGE, delete_cluster: STAGE };
            let dataproc = DataprocOptions { timing, ..DataprocOptions::default() };
            let emulator = Emulator::new(Options { dataproc, ..Options::default() });
            let address = emulator.start().await.expect("a port");
            sender.send((emulator, address, handle)).expect("it waits");
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().expect("it starts")
}

/// Lets time pass for the emulator, and for nobody else.
async fn pass(emulator: &runtime::Handle, time: Duration) {
    let passing = emulator.spawn(async move {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    });
    passing.await.expect("it passes");
}

fn context(services: SocketAddr) -> Context {
    let services = services.to_string();
    let environment = Environment::from_lookup(|name| {
        let value = match name {
            ENV_PROJECT => "test-project",
            ENV_REGION => "us-central1",
            ENV_STAGING_BUCKET => "staging",
            ENV_RESPONSE_TOPIC => "responses",
            ENV_TICK_TOPIC => "ticks",
            ENV_STORAGE_EMULATOR | ENV_DATAPROC_EMULATOR | ENV_PUBSUB_EMULATOR => &services,
            _ => return None,
        };
        Some(value.to_owned())
    });
    let environment = environment.expect("an environment");
    let reaches = Reaches::from_environment(&environment);
    Context::new(environment, reaches, Clock::System, fastrand::Rng::new())
}

/// A request of two steps, as Eventarc delivers it.
fn delivery(number: usize) -> String {
    let step = |id: &str| json!({ "step_id": id, "pyspark_job": { "main_python_file_uri": "gs://staging/ok.py", "args": ["--day", "2026-03-01"] } });
    let request = json!({ "job_name": "word-count", "jobs": [step("count"), step("report")] });
    let body = json!({
        "message": { "data": BASE64.encode(request.to_string()), "messageId": number.to_string() },
        "subscription": "projects/test-project/subscriptions/requests",
    });
    let body = body.to_string();
    format!(
        "POST / HTTP/1.1\r\nhost: x\r\nce-id: {number}\r\nce-source: //pubsub.googleapis.com/projects/p/topics/t\r\n\
         ce-specversion: 1.0\r\nce-type: google.cloud.pubsub.topic.v1.messagePublished\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Posts requests over one connection, one after the other. How many were acked.
async fn post(address: SocketAddr, numbers: impl Iterator<Item = usize>) -> usize {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    let mut acked = 0;
    for number in numbers {
        stream.write_all(delivery(number).as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut answer).await.expect("an answer"), 0, "the connection ended");
        }
        acked += usize::from(answer.starts_with(b"HTTP/1.1 204"));
    }
    acked
}

/// Sends the requests through the function's port, from a thread of their own. Acked ones, and seconds.
async fn throughput(cx: &Context, requests: usize) -> (usize, f64) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let sender = thread::spawn(move || {
        let began = Instant::now();
        let acked = runtime().block_on(async {
            let connections = (0..CONNECTIONS).map(|first| post(address, (first..requests).step_by(CONNECTIONS)));
            futures::future::join_all(connections).await.into_iter().sum()
        });
        let _ = stop.send(());
        (acked, began.elapsed().as_secs_f64())
    });
    let cx = cx.clone();
    let shutdown = async move {
        let _ = stopped.await;
    };
    functions_framework::serve(listener, move |event| handle(cx.clone(), event), shutdown).await.expect("it serves");
    sender.join().expect("it ends")
}

/// One tick, a line of the table, and further ticks until every run has had its turn.
async fn tick(cx: &Context, emulator: &Emulator, what: &str) {
    emulator.clear_calls();
    let began = Instant::now();
    let swept = sweep(&cx.for_event(), None).await.expect("the markers can be listed");
    let seconds = began.elapsed().as_secs_f64();
    let calls = emulator.calls().len();
    let (runs, rate) = (swept.advanced as f64, swept.advanced as f64 / seconds);
    let bound = RUNS_AT_ONCE / (calls as f64 / runs * CALL.as_secs_f64());
    println!(
        "{what:<22} {:>6} {:>9} {:>6} {calls:>7} {seconds:>8.2} {rate:>7.0} {bound:>7.0} {:>5.0} %",
        swept.advanced,
        if swept.complete { "yes" } else { "no" },
        swept.failed,
        100.0 * rate / bound
    );
    let mut complete = swept.complete;
    for _ in 0..20 {
        if complete {
            return;
        }
        complete = sweep(&cx.for_event(), None).await.expect("the markers can be listed").complete;
    }
    println!("                       twenty more ticks did not finish it");
}

/// What a call takes when it is the only one, in seconds: timers and the scheduler of the machine add to its delay.
async fn latency(cx: &Context) -> f64 {
    const CALLS: usize = 50;
    let cx = cx.for_event();
    let began = Instant::now();
    for _ in 0..CALLS {
        cx.storage.generation("ok.py").await.expect("it answers");
    }
    began.elapsed().as_secs_f64() / CALLS as f64
}

fn main() {
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(5000);
    let (emulator, services, emulators) = emulator();
    emulator.put_object("staging", "ok.py", "print()");
    let config = json!({ "default_cluster_config": { "cluster_name": "default", "config": {
        "gce_cluster_config": { "zone_uri": "us-central1-a" },
        "master_config": { "num_instances": 1, "machine_type_uri": "n1-standard-4" },
        "worker_config": { "num_instances": 2, "machine_type_uri": "n1-standard-4" },
        "software_config": { "image_version": "2.2-debian12" },
    } } });
    emulator.put_object("staging", "config/cluster-config.json", config.to_string());
    runtime().block_on(async move {
        let cx = context(services);
        let (acked, seconds) = throughput(&cx, runs).await;
        println!(
            "requests through the port: {acked} of {runs} acked in {seconds:.2} s, {:.0} a second",
            acked as f64 / seconds
        );
        println!("workflows submitted: {}", emulator.workflows().len());
        println!();
        println!("one tick, each call {} ms, budget {} s", CALL.as_millis(), EVENT_BUDGET.as_secs());
        emulator.fault(Fault { method: "*".to_owned(), what: What::Delay(CALL), when: When::Always });
        println!("a call that is the only one takes {:.1} ms", 1000.0 * latency(&cx).await);
        println!("                         runs  complete failed   calls  seconds  runs/s   bound  ratio");
        tick(&cx, &emulator, "nothing new").await;
        pass(&emulators, STAGE + Duration::from_secs(60)).await;
        tick(&cx, &emulator, "every run progressed").await;
        pass(&emulators, 20 * STAGE).await;
        tick(&cx, &emulator, "every run ended").await;
    });
}
