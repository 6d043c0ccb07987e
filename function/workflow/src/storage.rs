//! Objects of the staging bucket, over google.storage.v2.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream;
use gcloud_sdk::{
    google::storage::v2::{
        ChecksummedData, DeleteObjectRequest, GetObjectRequest, ListObjectsRequest, Object, ReadObjectRequest,
        WriteObjectRequest, WriteObjectSpec,
        storage_client::StorageClient,
        write_object_request::{Data, FirstMessage},
    },
    tonic::Code,
};
use tokio::time::Instant;

use crate::{
    error::{CallError, Origin},
    google::{Method, Repeat, Service, routed},
};

/// The service's limit for the content of one message. Source: google.storage.v2 ServiceConstants.
const CHUNK: usize = 2 * 1024 * 1024;
/// The service's limit for a page.
const PAGE_SIZE: i32 = 1000;
/// A record or a configuration beyond this is not ours; nothing is read without bound.
const LARGEST_OBJECT: usize = 64 * 1024 * 1024;

const fn method(name: &'static str, milliseconds: u64) -> Method {
    Method {
        name,
        deadline: Duration::from_millis(milliseconds),
        // Reads are, and every write and delete carries a generation precondition.
        repeat: Repeat::Safe,
    }
}
const READ: Method = method("Storage.ReadObject", 1500);
const GET: Method = method("Storage.GetObject", 1500);
const WRITE: Method = method("Storage.WriteObject", 2000);
const LIST: Method = method("Storage.ListObjects", 2000);
const DELETE: Method = method("Storage.DeleteObject", 1500);

/// One bucket, until a deadline.
#[derive(Clone)]
pub struct Storage {
    service: Service,
    /// `projects/_/buckets/NAME`
    bucket: Arc<str>,
    until: Instant,
}

/// The answer to a read.
#[derive(Debug)]
pub enum Read {
    Missing,
    /// The object still has the generation that the caller knows.
    Unchanged,
    Object {
        generation: i64,
        content: Bytes,
    },
}

/// The answer to a write or delete with a precondition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Done; for a write the new generation.
    At(i64),
    /// Somebody else was there first: read again and think again.
    Lost,
}

/// An object as a listing shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    pub generation: i64,
    pub created: Option<DateTime<Utc>>,
}

impl Storage {
    pub fn new(service: Service, bucket: &str, until: Instant) -> Storage {
        Storage { service, bucket: format!("projects/_/buckets/{bucket}").into(), until }
    }

    /// The same bucket with another deadline.
    pub fn until(self, until: Instant) -> Storage {
        Storage { until, ..self }
    }

    /// Connects, if that is not done.
    pub async fn connect(&self) {
        self.service.connect(self.until).await;
    }

    /// Reads an object, unless it still has the generation `known`.
    pub async fn read(&self, object: &str, known: Option<i64>) -> Result<Read, CallError> {
        let answer = self
            .service
            .call(READ, object, self.until, |channel, deadline| async move {
                let message = ReadObjectRequest {
                    bucket: self.bucket.to_string(),
                    object: object.to_owned(),
                    if_generation_not_match: known,
                    ..Default::default()
                };
                let mut client = StorageClient::new(channel).max_decoding_message_size(2 * CHUNK);
                let mut answers =
                    client.read_object(routed(message, &[("bucket", &self.bucket)], deadline)).await?.into_inner();
                let mut generation = 0;
                let mut content = Vec::new();
                while let Some(answer) = answers.message().await? {
                    if let Some(metadata) = answer.metadata {
                        generation = metadata.generation;
                    }
                    if let Some(data) = answer.checksummed_data {
                        content.extend_from_slice(&data.content);
                    }
                    if content.len() > LARGEST_OBJECT {
                        return Err(gcloud_sdk::tonic::Status::out_of_range("the object is larger than 64 MiB"));
                    }
                }
                Ok((generation, Bytes::from(content)))
            })
            .await;
        match answer {
            Ok((generation, content)) => Ok(Read::Object { generation, content }),
            Err(error) if error.code == Code::NotFound => Ok(Read::Missing),
            Err(error) if known.is_some() && is_precondition(error.code) => Ok(Read::Unchanged),
            Err(error) => Err(error),
        }
    }

    /// The generation of an object, if it exists.
    pub async fn generation(&self, object: &str) -> Result<Option<i64>, CallError> {
        let answer = self
            .service
            .call(GET, object, self.until, |channel, deadline| async move {
                let message = GetObjectRequest {
                    bucket: self.bucket.to_string(),
                    object: object.to_owned(),
                    ..Default::default()
                };
                StorageClient::new(channel).get_object(routed(message, &[("bucket", &self.bucket)], deadline)).await
            })
            .await;
        match answer {
            Ok(object) => Ok(Some(object.into_inner().generation)),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes an object if its generation is `expected` (0: if it does not exist).
    pub async fn write(
        &self,
        object: &str,
        content: &[u8],
        content_type: &str,
        expected: i64,
    ) -> Result<Written, CallError> {
        let answer = self
            .service
            .call(WRITE, object, self.until, |channel, deadline| async move {
                let spec = WriteObjectSpec {
                    resource: Some(Object {
                        name: object.to_owned(),
                        bucket: self.bucket.to_string(),
                        content_type: content_type.to_owned(),
                        ..Default::default()
                    }),
                    if_generation_match: Some(expected),
                    ..Default::default()
                };
                let messages = stream::iter(messages(spec, content));
                StorageClient::new(channel).write_object(routed(messages, &[("bucket", &self.bucket)], deadline)).await
            })
            .await;
        match answer {
            Ok(answer) => match answer.into_inner().write_status {
                Some(gcloud_sdk::google::storage::v2::write_object_response::WriteStatus::Resource(object)) => {
                    Ok(Written::At(object.generation))
                }
                _ => Err(CallError {
                    method: WRITE.name,
                    resource: object.to_owned(),
                    code: Code::Internal,
                    message: "the answer holds no finished object".to_owned(),
                    origin: Origin::Unknown,
                }),
            },
            Err(error) if is_precondition(error.code) => Ok(Written::Lost),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object if its generation is `expected`. One that is gone already counts as deleted.
    pub async fn delete(&self, object: &str, expected: i64) -> Result<Written, CallError> {
        let answer = self
            .service
            .call(DELETE, object, self.until, |channel, deadline| async move {
                let message = DeleteObjectRequest {
                    bucket: self.bucket.to_string(),
                    object: object.to_owned(),
                    if_generation_match: Some(expected),
                    ..Default::default()
                };
                StorageClient::new(channel).delete_object(routed(message, &[("bucket", &self.bucket)], deadline)).await
            })
            .await;
        match answer {
            Ok(_) => Ok(Written::At(expected)),
            Err(error) if error.code == Code::NotFound => Ok(Written::At(expected)),
            Err(error) if is_precondition(error.code) => Ok(Written::Lost),
            Err(error) => Err(error),
        }
    }

    /// One page of the objects whose names begin with `prefix` and lie in `start..end` (empty: no bound), and the token
    /// of the next page, empty at the end.
    pub async fn list(
        &self,
        prefix: &str,
        (start, end): (&str, &str),
        page_token: &str,
    ) -> Result<(Vec<Listed>, String), CallError> {
        let answer = self
            .service
            .call(LIST, prefix, self.until, |channel, deadline| async move {
                let message = ListObjectsRequest {
                    parent: self.bucket.to_string(),
                    prefix: prefix.to_owned(),
                    lexicographic_start: start.to_owned(),
                    lexicographic_end: end.to_owned(),
                    page_size: PAGE_SIZE,
                    page_token: page_token.to_owned(),
                    ..Default::default()
                };
                StorageClient::new(channel)
                    .max_decoding_message_size(16 * CHUNK)
                    .list_objects(routed(message, &[("bucket", &self.bucket)], deadline))
                    .await
            })
            .await?
            .into_inner();
        let listed = answer
            .objects
            .into_iter()
            .map(|object| Listed {
                name: object.name,
                generation: object.generation,
                created: object
                    .create_time
                    .and_then(|time| DateTime::from_timestamp(time.seconds, time.nanos.try_into().ok()?)),
            })
            .collect();
        Ok((listed, answer.next_page_token))
    }
}

/// Google's storage answers a precondition that does not hold with either code, depending on the kind of precondition.
fn is_precondition(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::Aborted)
}

fn messages(spec: WriteObjectSpec, content: &[u8]) -> Vec<WriteObjectRequest> {
    let mut chunks: Vec<&[u8]> = content.chunks(CHUNK).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    let last = chunks.len() - 1;
    let mut spec = Some(spec);
    chunks
        .iter()
        .enumerate()
        .map(|(index, chunk)| WriteObjectRequest {
            write_offset: (index * CHUNK) as i64,
            finish_write: index == last,
            first_message: spec.take().map(FirstMessage::WriteObjectSpec),
            data: Some(Data::ChecksummedData(ChecksummedData { content: chunk.to_vec(), crc32c: None })),
            ..Default::default()
        })
        .collect()
}
