//! The floor: the calls that the function makes for an event, with messages that lie ready, over the same clients, and
//! nothing else. It decodes, decides, records and logs nothing, and no server that does can cost less.
//!
//! `floor DIRECTORY`: the messages of an event that the function has handled, as the bench captured them.

#![allow(clippy::expect_used, reason = "a bench that cannot go on has no better way to say so")]

use std::{
    convert::Infallible,
    env, fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use gcloud_sdk::{
    google::{
        cloud::dataproc::v1::{
            InstantiateInlineWorkflowTemplateRequest, workflow_template_service_client::WorkflowTemplateServiceClient,
        },
        pubsub::v1::{PublishRequest, PubsubMessage, publisher_client::PublisherClient},
        storage::v2::{
            ChecksummedData, Object, ReadObjectRequest, WriteObjectRequest, WriteObjectSpec,
            storage_client::StorageClient,
            write_object_request::{Data, FirstMessage},
            write_object_response::WriteStatus,
        },
    },
    tonic::{Code, Request, Status},
};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use inline_workflow::{
    channel::{self, Channel},
    environment::*,
    google::Reach,
};
use prost::Message;
use tokio::{net::TcpListener, sync::OnceCell};

struct Floor {
    storage: Service,
    dataproc: Service,
    pubsub: Service,
    bucket: String,
    topic: String,
    record: Bytes,
    instantiate: InstantiateInlineWorkflowTemplateRequest,
    message: PubsubMessage,
    config_generation: AtomicI64,
    next: AtomicU64,
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// A service, connected by the first call.
struct Service {
    reach: Reach,
    channel: OnceCell<Channel>,
}

impl Service {
    fn new(variable_name: &str) -> Service {
        Service { reach: Reach::Emulator(variable(variable_name)), channel: OnceCell::new() }
    }

    async fn channel(&self) -> Channel {
        let channel = self.channel.get_or_init(async || channel::connect(&self.reach).await.expect("a service"));
        channel.await.clone()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let directory = PathBuf::from(env::args().nth(1).expect("the directory of the messages"));
    let read = |name: &str| fs::read(directory.join(name)).expect("a message");
    let floor = Arc::new(Floor {
        storage: Service::new(ENV_STORAGE_EMULATOR),
        dataproc: Service::new(ENV_DATAPROC_EMULATOR),
        pubsub: Service::new(ENV_PUBSUB_EMULATOR),
        bucket: format!("projects/_/buckets/{}", variable(ENV_STAGING_BUCKET)),
        topic: variable(ENV_RESPONSE_TOPIC),
        record: read("record").into(),
        instantiate: Message::decode(read("instantiate").as_slice()).expect("a message"),
        message: Message::decode(read("publish").as_slice()).expect("a message"),
        config_generation: AtomicI64::new(0),
        next: AtomicU64::new(1),
    });
    let port = variable(ENV_PORT).parse().expect("a port");
    let listener = TcpListener::bind(("0.0.0.0", port)).await.expect("a free port");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let floor = floor.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let floor = floor.clone();
            async move {
                let read = request.into_body().collect().await.is_ok();
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = match (read, floor.handle().await) {
                    (true, Ok(())) => StatusCode::NO_CONTENT,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

impl Floor {
    async fn handle(&self) -> Result<(), Status> {
        // As long as a run's id, so that the messages are.
        let id = format!("00000000-0000-0000-0000-{:012x}", self.next.fetch_add(1, Ordering::Relaxed));
        let (marker, record) = (format!("active/{id}"), format!("runs/{id}.json"));
        self.read_config().await?;
        let (_, generation) = futures::try_join!(self.write(&marker, &[], 0), self.write(&record, &self.record, 0))?;
        let request = InstantiateInlineWorkflowTemplateRequest { request_id: id.clone(), ..self.instantiate.clone() };
        let parent = format!("parent={}", request.parent);
        let mut client = WorkflowTemplateServiceClient::new(self.dataproc.channel().await);
        client.instantiate_inline_workflow_template(routed(request, &parent)).await?;
        let request = PublishRequest { topic: self.topic.clone(), messages: vec![self.message.clone()] };
        let mut client = PublisherClient::new(self.pubsub.channel().await);
        client.publish(routed(request, &format!("topic={}", self.topic))).await?;
        self.write(&record, &self.record, generation).await?;
        Ok(())
    }

    async fn read_config(&self) -> Result<(), Status> {
        let known = self.config_generation.load(Ordering::Relaxed);
        let message = ReadObjectRequest {
            bucket: self.bucket.clone(),
            object: "config/cluster-config.json".to_owned(),
            if_generation_not_match: (known > 0).then_some(known),
            ..Default::default()
        };
        let mut client = StorageClient::new(self.storage.channel().await).max_decoding_message_size(4 << 20);
        let read = async {
            let mut answers = client.read_object(self.of_bucket(message)).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                if let Some(metadata) = answer.metadata {
                    self.config_generation.store(metadata.generation, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        read.await.or_else(|status: Status| match status.code() {
            Code::Aborted => Ok(()),
            _ => Err(status),
        })
    }

    async fn write(&self, object: &str, content: &[u8], expected: i64) -> Result<i64, Status> {
        let spec = WriteObjectSpec {
            resource: Some(Object { name: object.to_owned(), bucket: self.bucket.clone(), ..Default::default() }),
            if_generation_match: Some(expected),
            ..Default::default()
        };
        let message = WriteObjectRequest {
            finish_write: true,
            first_message: Some(FirstMessage::WriteObjectSpec(spec)),
            data: Some(Data::ChecksummedData(ChecksummedData { content: content.to_vec(), crc32c: None })),
            ..Default::default()
        };
        let request = self.of_bucket(futures::stream::iter([message]));
        match StorageClient::new(self.storage.channel().await).write_object(request).await?.into_inner().write_status {
            Some(WriteStatus::Resource(object)) => Ok(object.generation),
            _ => Err(Status::internal("not written")),
        }
    }

    fn of_bucket<T>(&self, message: T) -> Request<T> {
        routed(message, &format!("bucket={}", self.bucket))
    }
}

fn routed<T>(message: T, parameters: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-goog-request-params", parameters.parse().expect("a header"));
    request
}
