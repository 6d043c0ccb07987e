//! Connections that died without a word, as those of a frozen instance do: what is sent over them is taken and lost, no
//! answer comes, and nothing ends. New connections work.

mod support;

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use inline_workflow::{
    context::{Context, Reaches},
    google::{Io, Reach},
};
use inline_workflow_emulator::{Emulator, Fault, What};
use support::{World, binary, deliver, one_step};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// The lines to one service, which can all go dead at once.
#[derive(Clone, Default)]
struct Lines {
    /// How often they went dead; a line that is older than the last time is dead.
    cuts: Arc<AtomicUsize>,
    /// New ones are dead from the start.
    all_dead: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
}

struct Line {
    io: DuplexStream,
    lines: Lines,
    cuts_before: usize,
}

impl Lines {
    fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }

    fn reach(&self, emulator: &Emulator) -> Reach {
        let (lines, emulator) = (self.clone(), emulator.clone());
        Reach::Memory(Arc::new(move || {
            let (lines, emulator) = (lines.clone(), emulator.clone());
            Box::pin(async move {
                lines.made.fetch_add(1, Ordering::SeqCst);
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move { emulator.serve_connection(theirs).await });
                let cuts_before = lines.cuts.load(Ordering::SeqCst);
                Ok(Box::new(Line { io: ours, lines, cuts_before }) as Box<dyn Io>)
            })
        }))
    }
}

impl Line {
    fn is_dead(&self) -> bool {
        self.lines.all_dead.load(Ordering::SeqCst) || self.lines.cuts.load(Ordering::SeqCst) > self.cuts_before
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.is_dead() {
            true => Poll::Pending,
            false => Pin::new(&mut self.io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.is_dead() {
            true => Poll::Ready(Ok(bytes.len())),
            false => Pin::new(&mut self.io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A world, an instance in it, and its lines to storage, Dataproc and Pub/Sub.
fn world() -> (World, Context, [Lines; 3]) {
    let mut world = World::new();
    let lines: [Lines; 3] = Default::default();
    let [storage, dataproc, pubsub] = lines.each_ref().map(|lines| lines.reach(&world.emulator));
    let cx = world.instance_with(Reaches { storage, dataproc, pubsub }, chrono::TimeDelta::zero());
    (world, cx, lines)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every choice of services.
fn choices(lines: &[Lines; 3]) -> impl Iterator<Item = Vec<&Lines>> {
    (1..8).map(|choice: usize| {
        lines.iter().enumerate().filter(|(index, _)| choice & (1 << index) != 0).map(|(_, lines)| lines).collect()
    })
}

#[tokio::test(start_paused = true)]
async fn a_request_is_submitted_though_every_connection_has_died() {
    // After a second, after a moment, and after so long a silence that the function expects it.
    for idle in [1, 5, 19, 21, 3600] {
        let (world, cx, lines) = world();
        deliver(&cx, &world.request(&one_step())).await.unwrap();
        let mut requests = 1;
        for dead in choices(&lines) {
            sleep(seconds(idle)).await;
            dead.iter().for_each(|lines| lines.cut());
            deliver(&cx, &world.request(&one_step())).await.unwrap();
            requests += 1;
            let said = world.said();
            let submitted = said.iter().filter(|said| said.kind == "submitted").count();
            assert_eq!(submitted, requests, "{} dead after {idle} s: {:?}", dead.len(), world.kinds());
            assert_eq!(world.emulator.workflows().len(), requests);
        }
        world.ticks(&cx, 8).await;
        assert_eq!(world.count("succeeded"), requests, "{:?}", world.kinds());
        assert_eq!(world.emulator.workflows().len(), requests);
        assert!(world.objects("active/").is_empty());
    }
}

/// Nothing tells such a connection from a live one: the submission may be swallowed. It is found missing and made again.
#[tokio::test(start_paused = true)]
async fn a_request_runs_once_though_every_connection_died_just_now() {
    let (world, cx, lines) = world();
    for dead in choices(&lines) {
        dead.iter().for_each(|lines| lines.cut());
        deliver(&cx, &world.request(&one_step())).await.unwrap();
    }
    world.ticks(&cx, 30).await;
    assert_eq!(world.emulator.workflows().len(), 7, "{:?}", world.kinds());
    assert_eq!((world.count("submitted"), world.count("succeeded")), (7, 7), "{:?}", world.kinds());
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_tick_advances_every_run_though_every_connection_has_died() {
    let (world, cx, lines) = world();
    for _ in 0..100 {
        deliver(&cx, &world.request(&one_step())).await.unwrap();
    }
    // The workflows end while nobody looks.
    sleep(seconds(600)).await;
    // Used a moment ago, so that the function has no reason to mistrust them.
    let status = serde_json::json!({ "action": "status", "job_name": "x", "request_id": "y" });
    deliver(&cx, &world.request(&status)).await.unwrap();
    lines.iter().for_each(Lines::cut);
    world.tick(&cx).await;
    assert_eq!(world.count("succeeded"), 100, "{:?}", world.kinds());
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_submission_that_is_swallowed_under_way_is_found_and_not_repeated() {
    let (world, cx, [_, dataproc, _]) = world();
    world.emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", What::Delay(seconds(2)), 1));
    let event = world.request(&one_step());
    let (delivered, ()) = tokio::join!(deliver(&cx, &event), async {
        sleep(seconds(1)).await;
        dataproc.cut();
    });
    delivered.unwrap();
    world.ticks(&cx, 8).await;
    assert_eq!(world.emulator.workflows().len(), 1);
    assert_eq!((world.count("submitted"), world.count("succeeded")), (1, 1), "{:?}", world.kinds());
}

#[tokio::test(start_paused = true)]
async fn while_storage_swallows_everything_the_message_must_come_again() {
    let (world, cx, [storage, ..]) = world();
    storage.all_dead.store(true, Ordering::SeqCst);
    let event = world.request(&one_step());
    deliver(&cx, &event).await.unwrap_err();
    assert!(world.objects("runs/").is_empty());
    storage.all_dead.store(false, Ordering::SeqCst);
    deliver(&cx, &event).await.unwrap();
    assert_eq!(world.emulator.workflows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_dataproc_swallows_everything_a_request_is_acked_and_runs_later() {
    let (world, cx, [_, dataproc, _]) = world();
    dataproc.all_dead.store(true, Ordering::SeqCst);
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.ticks(&cx, 3).await;
    assert_eq!(world.emulator.workflows().len(), 0);
    dataproc.all_dead.store(false, Ordering::SeqCst);
    world.ticks(&cx, 12).await;
    assert_eq!(world.emulator.workflows().len(), 1);
    assert_eq!(world.count("succeeded"), 1, "{:?}", world.kinds());
}

#[tokio::test(start_paused = true)]
async fn connections_that_live_are_kept() {
    let (world, cx, lines) = world();
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.ticks(&cx, 1).await;
    let made = lines.each_ref().map(|lines| lines.made.load(Ordering::SeqCst));
    for _ in 0..10 {
        sleep(seconds(2)).await;
        let validate = serde_json::json!({ "action": "validate", "jobs": one_step()["jobs"] });
        deliver(&cx, &world.request(&validate)).await.unwrap();
    }
    let now = lines.each_ref().map(|lines| lines.made.load(Ordering::SeqCst));
    assert_eq!(now, made);
}

/// Forwards connections to an address until it is told to swallow: then those that stand stay open and carry nothing.
#[derive(Clone, Default)]
struct Proxy {
    forwarding: Arc<std::sync::Mutex<Vec<tokio::task::AbortHandle>>>,
    swallowed: Arc<std::sync::Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    async fn start(&self, to: std::net::SocketAddr) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let proxy = self.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(to).await else { continue };
                proxy.carry(near, far);
            }
        });
        address
    }

    fn carry(&self, near: TcpStream, far: TcpStream) {
        let swallowed = Arc::clone(&self.swallowed);
        // A second handle of each socket keeps it open when the forwarding is given up.
        let (near, far) = (near.into_std().expect("a socket"), far.into_std().expect("a socket"));
        let kept = [near.try_clone().expect("a socket"), far.try_clone().expect("a socket")];
        swallowed
            .lock()
            .expect("no panic holds it")
            .extend(kept.map(|stream| TcpStream::from_std(stream).expect("a socket")));
        let task = tokio::spawn(async move {
            let (mut near, mut far) =
                (TcpStream::from_std(near).expect("a socket"), TcpStream::from_std(far).expect("a socket"));
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
        self.forwarding.lock().expect("no panic holds it").push(task.abort_handle());
    }

    /// How many connections went dead.
    fn swallow(&self) -> usize {
        let forwarding = std::mem::take(&mut *self.forwarding.lock().expect("no panic holds it"));
        forwarding.iter().filter(|task| !task.is_finished()).map(|task| task.abort()).count()
    }
}

#[tokio::test]
async fn the_binary_connects_before_the_first_event() {
    let emulator = binary::emulator();
    let services = emulator.start().await.unwrap();
    let proxy = Proxy::default();
    let _function = binary::Function::start(&binary::variables(proxy.start(services).await)).await;
    let connections = || proxy.forwarding.lock().expect("no panic holds it").len();
    let connected = async {
        while connections() < 3 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(seconds(10), connected).await.expect("storage, Dataproc and Pub/Sub");
}

#[tokio::test]
async fn the_binary_submits_over_tcp_connections_that_swallow_everything() {
    let emulator = binary::emulator();
    let services = emulator.start().await.unwrap();
    let proxy = Proxy::default();
    let function = binary::Function::start(&binary::variables(proxy.start(services).await)).await;
    let request = one_step().to_string();
    assert_eq!(function.deliver(support::REQUESTS, "1", request.as_bytes()).await, 204);
    assert!(proxy.swallow() >= 3);
    // A connection that has answered within the last second is trusted.
    sleep(seconds(1)).await;
    assert_eq!(function.deliver(support::REQUESTS, "2", request.as_bytes()).await, 204);
    assert_eq!(binary::kinds(&emulator), ["submitted", "submitted"]);
    let most: HashMap<_, _> = emulator.most_alive(|workflow| workflow.request_id.clone()).into_iter().collect();
    assert_eq!(most.len(), 2);
    assert!(most.values().all(|most| *most == 1), "{most:?}");
}

/// Nothing leaves the machine: without a token no connection is made.
#[tokio::test]
async fn without_credentials_messages_come_again_and_the_log_says_why() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // One metadata server that nobody listens for, and one that takes everything and answers nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for metadata in [closed, silent.local_addr().unwrap()] {
        let mut variables = binary::variables(closed);
        variables.remove(inline_workflow::environment::ENV_STORAGE_EMULATOR);
        variables.insert("GCE_METADATA_HOST", metadata.to_string());
        variables.insert("HOME", "/nonexistent".to_owned());
        let mut function = binary::Function::start(&variables).await;
        let request = one_step().to_string();
        assert_eq!(function.deliver(support::REQUESTS, "1", request.as_bytes()).await, 503);
        let line = function.log_line().await;
        assert!(line.contains("UNAUTHENTICATED") && line.contains("Storage.ReadObject"), "{line}");
        // It goes on.
        assert_eq!(function.deliver(support::TICKS, "2", b"").await, 204);
    }
}
