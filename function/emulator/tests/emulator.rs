//! What belongs to no single service: faults, calls, ticks, the audit log, determinism, sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod support;

use std::time::Duration;

use gcloud_sdk::google::cloud::dataproc::v1::workflow_template_service_client::WorkflowTemplateServiceClient;
use gcloud_sdk::google::pubsub::v1::publisher_client::PublisherClient;
use gcloud_sdk::google::pubsub::v1::{PublishRequest, PubsubMessage};
use http::StatusCode;
use http::uri::PathAndQuery;
use inline_workflow_emulator::{DataprocOptions, Emulator, Fault, Options, Outcome, Push, What, When};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use support::{PARENT, channel, end, request, step};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const TOPIC: &str = "projects/p/topics/events";

async fn publish(channel: &Channel) -> Result<(), Status> {
    let messages = vec![PubsubMessage { data: b"x".to_vec(), ..PubsubMessage::default() }];
    let mut request = Request::new(PublishRequest { topic: TOPIC.to_owned(), messages });
    request.metadata_mut().insert("x-goog-request-params", "topic=projects%2Fp%2Ftopics%2Fevents".parse().unwrap());
    request.set_timeout(Duration::from_secs(5));
    PublisherClient::new(channel.clone()).publish(request).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn calls_are_written_down() {
    let emulator = Emulator::new(Options::default());
    let channel = channel(&emulator);
    publish(&channel).await.unwrap();
    let calls = emulator.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].path, "/google.pubsub.v1.Publisher/Publish");
    assert_eq!(calls[0].headers["x-goog-request-params"], "topic=projects%2Fp%2Ftopics%2Fevents");
    assert_eq!((calls[0].answer, calls[0].at), (Some(Code::Ok), emulator.now()));
    assert!(calls[0].size > TOPIC.len());
    emulator.clear_calls();
    assert!(emulator.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn faults_happen_as_often_as_told() {
    let emulator = Emulator::new(Options::default());
    let channel = channel(&emulator);
    let code = |result: Result<(), Status>| result.err().map(|status| status.code());
    let published = || emulator.published(TOPIC).len();

    emulator.fault(Fault::times("Publish", What::Code(Code::Internal, "no".to_owned()), 2));
    emulator.fault(Fault::times("Storage", What::Hang, 1));
    for expected in [Some(Code::Internal), Some(Code::Internal), None] {
        assert_eq!(code(publish(&channel).await), expected);
    }
    assert_eq!(published(), 1);

    emulator.clear_faults();
    emulator.fault(Fault::times("*", What::LoseAnswer, 1));
    assert_eq!(code(publish(&channel).await), Some(Code::Unavailable));
    assert_eq!(published(), 2);

    emulator.fault(Fault::times("*", What::HangAfter, 1));
    let before = emulator.now();
    assert!(publish(&channel).await.is_err());
    assert_eq!((published(), (emulator.now() - before).num_seconds()), (3, 5));

    emulator.fault(Fault::times("*", What::Hang, 1));
    assert!(publish(&channel).await.is_err());
    assert_eq!(published(), 3);

    emulator.fault(Fault::times("*", What::Delay(Duration::from_secs(4)), 1));
    let before = emulator.now();
    publish(&channel).await.unwrap();
    assert_eq!((published(), (emulator.now() - before).num_seconds()), (4, 4));

    // Given up before it was executed: a delayed call goes with its caller, a late one does not.
    emulator.fault(Fault::times("*", What::Delay(Duration::from_secs(6)), 1));
    emulator.fault(Fault::times("*", What::ExecuteLate(Duration::from_secs(6)), 1));
    assert!(publish(&channel).await.is_err());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(published(), 4);
    assert!(publish(&channel).await.is_err());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(published(), 5);

    emulator.fault(Fault { method: "*".to_owned(), what: What::LoseAnswer, when: When::Probability(0.5) });
    let mut lost = 0;
    for _ in 0..100 {
        lost += usize::from(publish(&channel).await.is_err());
    }
    assert!((20..80).contains(&lost), "{lost}");
    assert_eq!(published(), 105);
}

/// What a client sees of each break, and whether the call was executed.
#[tokio::test(start_paused = true)]
async fn broken_answers_are_as_told() {
    let cases = [
        ("reset=REFUSED_STREAM", Code::Unavailable, 0),
        ("reset-after=ENHANCE_YOUR_CALM", Code::ResourceExhausted, 1),
        ("reset-after=INADEQUATE_SECURITY", Code::PermissionDenied, 1),
        ("goaway=NO_ERROR", Code::Internal, 0),
        ("goaway-after=ENHANCE_YOUR_CALM", Code::Unknown, 1),
        ("drain=NO_ERROR", Code::Ok, 1),
        ("http=403", Code::Internal, 0),
        ("grpc-http-after=404", Code::Unimplemented, 1),
        ("grpc-status=odd", Code::Unknown, 0),
        ("no-trailers-after", Code::Unknown, 1),
        ("ABORTED-after=so it is", Code::Aborted, 1),
    ];
    for (what, code, executed) in cases {
        let emulator = Emulator::new(Options::default());
        let channel = channel(&emulator);
        emulator.fault(Fault::parse(&format!("Publish:{what}")).unwrap());
        let answer = publish(&channel).await;
        let seen = answer.err().map_or(Code::Ok, |status| status.code());
        assert_eq!((seen, emulator.published(TOPIC).len()), (code, executed), "{what}");
        publish(&channel).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_goaway_spares_the_other_calls_unless_it_cuts() {
    for (what, told, executed) in [("goaway=NO_ERROR", 1, 1), ("drain=NO_ERROR", 2, 2), ("goaway-after=NO_ERROR", 0, 1)]
    {
        let emulator = Emulator::new(Options::default());
        let channel = channel(&emulator);
        emulator.fault(Fault::times("Publish", What::Delay(Duration::from_secs(2)), 1));
        emulator.fault(Fault::parse(&format!("Publish:{what}")).unwrap());
        let (first, second) = tokio::join!(publish(&channel), publish(&channel));
        let answered = usize::from(first.is_ok()) + usize::from(second.is_ok());
        assert_eq!((answered, emulator.published(TOPIC).len()), (told, executed), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn more_than_a_hundred_calls_at_once_wait_for_a_stream() {
    let emulator = Emulator::new(Options::default());
    let channel = channel(&emulator);
    // The connection, with its settings.
    publish(&channel).await.unwrap();
    emulator.fault(Fault { method: "*".to_owned(), what: What::Delay(Duration::from_secs(1)), when: When::Always });
    let before = emulator.now();
    let calls = futures::future::join_all((0..250).map(|_| publish(&channel))).await;
    assert!(calls.iter().all(Result::is_ok));
    assert_eq!((emulator.now() - before).num_seconds(), 3);
}

#[tokio::test]
async fn unknown_methods_and_other_traffic_over_a_socket() {
    let emulator = Emulator::new(Options::default());
    let address = emulator.start().await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    publish(&channel).await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<PubsubMessage, PubsubMessage>::default();
    let path = PathAndQuery::from_static("/google.pubsub.v1.Publisher/Nope");
    let answer = client.unary(Request::new(PubsubMessage::default()), path, codec).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("Ok\n"), "{answer}");
}

#[tokio::test]
async fn a_service_that_goes_away_breaks_its_connections() {
    let emulator = Emulator::new(Options::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let channel = Endpoint::from_shared(endpoint).unwrap().connect_lazy();
    let serving = emulator.clone();
    let server = tokio::spawn(async move { serving.serve(listener).await });
    publish(&channel).await.unwrap();
    emulator.fault(Fault::times("Publish", What::Hang, 1));
    let (answer, ()) = tokio::join!(publish(&channel), async {
        while emulator.calls().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.abort();
    });
    assert!(answer.is_err());
    assert_eq!(publish(&channel).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(emulator.published(TOPIC).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn ticks_come_once_a_minute_by_the_clocks_speed() {
    let emulator = Emulator::new(Options { speed: 60.0, ..Options::default() });
    emulator.start_ticks(TOPIC);
    emulator.start_ticks_every("projects/p/topics/slow", Duration::from_secs(5));
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    assert_eq!(emulator.published(TOPIC).len(), 10);
    assert_eq!(emulator.published("projects/p/topics/slow").len(), 2);
    emulator.stop_ticks();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(emulator.published(TOPIC).len(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_audit_log_tells_start_and_end() {
    let emulator = Emulator::new(Options::default());
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    emulator.push(Push::with(move |request| {
        sender.send(request).unwrap();
        async { StatusCode::NO_CONTENT }
    }));
    emulator.start_audit_events("p", "http://function/");
    let channel = channel(&emulator);
    let mut client = WorkflowTemplateServiceClient::new(channel.clone());
    let begun = client.instantiate_inline_workflow_template(request(vec![step("one", &[])])).await.unwrap();
    let name = begun.into_inner().name;
    end(&channel, &name).await;
    for position in ["first", "last"] {
        let event = events.recv().await.unwrap();
        let header = |name: &str| event.headers()[name].to_str().unwrap();
        assert_eq!(header("ce-type"), "google.cloud.audit.log.v1.written");
        assert_eq!(header("ce-source"), "//cloudaudit.googleapis.com/projects/p/logs/activity");
        assert_eq!(header("ce-subject"), format!("dataproc.googleapis.com/{PARENT}"));
        assert_eq!(header("ce-servicename"), "dataproc.googleapis.com");
        let data: Value = serde_json::from_slice(event.body()).unwrap();
        assert_eq!(data["operation"]["id"], name);
        assert_eq!(data["operation"][position], true);
        assert_eq!(data["protoPayload"]["methodName"], header("ce-methodname"));
        assert!(header("ce-methodname").ends_with("InstantiateInlineWorkflowTemplate"));
    }
}

/// The template is kept by Dataproc's own descriptor: fields newer than the generated types, and unknown ones.
#[tokio::test(start_paused = true)]
async fn newer_fields_of_the_template_are_kept() {
    let pool = DescriptorPool::decode(&include_bytes!("../../workflow/data/dataproc_v1.binpb")[..]).unwrap();
    let name = "google.cloud.dataproc.v1.InstantiateInlineWorkflowTemplateRequest";
    let descriptor = pool.get_message_by_name(name).unwrap();
    let config =
        json!({"gceClusterConfig": {"resourceManagerTags": {"a": "b"}}, "clusterTier": "CLUSTER_TIER_PREMIUM"});
    let cluster = json!({"clusterName": "newer", "config": config});
    let json = json!({
        "parent": PARENT,
        "template": {
            "placement": {"managedCluster": cluster},
            "jobs": [{"stepId": "one", "pigJob": {"queryList": {"queries": ["fs -ls"]}}}],
        },
    });
    let message = DynamicMessage::deserialize(descriptor, json).unwrap();
    let emulator = Emulator::new(Options::default());
    let mut client = tonic::client::Grpc::new(channel(&emulator));
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<DynamicMessage, gcloud_sdk::google::longrunning::Operation>::default();
    let path = "/google.cloud.dataproc.v1.WorkflowTemplateService/InstantiateInlineWorkflowTemplate";
    client.unary(Request::new(message), PathAndQuery::from_static(path), codec).await.unwrap();
    assert_eq!(emulator.workflows()[0].template_json()["placement"]["managedCluster"], cluster);
}

#[tokio::test]
async fn one_seed_is_one_history() {
    async fn history(seed: u64) -> Vec<String> {
        let now = Some(chrono::DateTime::UNIX_EPOCH);
        let emulator = Emulator::new(Options { seed, now, dataproc: DataprocOptions::default(), ..Options::default() });
        emulator.on_step("two", Outcome::Fail("x".to_owned()));
        emulator.fault(Fault {
            method: "GetOperation".to_owned(),
            what: What::Delay(Duration::from_secs(1)),
            when: When::Probability(0.3),
        });
        let channel = channel(&emulator);
        let mut client = WorkflowTemplateServiceClient::new(channel.clone());
        let begun =
            client.instantiate_inline_workflow_template(request(vec![step("one", &[]), step("two", &["one"])])).await;
        end(&channel, &begun.unwrap().into_inner().name).await;
        let mut history: Vec<_> = emulator.calls().iter().map(|call| format!("{} {}", call.at, call.path)).collect();
        history.extend(emulator.workflows().iter().map(|it| format!("{:?} {}", it.operation, it.cluster_name)));
        history
    }
    fn run(seed: u64) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(history(seed))
    }
    let histories = tokio::task::spawn_blocking(|| (run(7), run(7), run(8))).await.unwrap();
    assert_eq!(histories.0, histories.1);
    assert_ne!(histories.0, histories.2);
}
