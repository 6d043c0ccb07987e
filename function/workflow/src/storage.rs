//! Objects of the staging bucket, over google.storage.v2.
//!
//! Content is checked end to end by CRC32C: the service compares what it receives with the checksums of the sender, and a
//! read compares what it receives with those of the service. Source: https://cloud.google.com/storage/docs/data-validation

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use crc32c::crc32c;
use futures::stream;
use gcloud_sdk::{
    google::storage::v2::{
        ChecksummedData, DeleteObjectRequest, GetObjectRequest, ListObjectsRequest, Object, ObjectChecksums,
        ReadObjectRequest, ReadObjectResponse, WriteObjectRequest, WriteObjectResponse, WriteObjectSpec,
        storage_client::StorageClient,
        write_object_request::{Data, FirstMessage},
        write_object_response::WriteStatus,
    },
    prost_types::Timestamp,
    tonic::Code,
};
use tokio::time::Instant;

use crate::{
    error::{CallError, Origin},
    google::{Method, Repeat, SAFE_DEADLINE, Service, routed},
};

/// The service's limit for the content of one message. Source: google.storage.v2 ServiceConstants.
const CHUNK: usize = 2 * 1024 * 1024;
/// The service's limit for a page.
const PAGE_SIZE: i32 = 1000;

const fn method(name: &'static str) -> Method {
    // Reads are safe, and every write and delete carries a generation precondition.
    Method { name, deadline: SAFE_DEADLINE, repeat: Repeat::Safe }
}
const READ: Method = method("Storage.ReadObject");
const GET: Method = method("Storage.GetObject");
const WRITE: Method = method("Storage.WriteObject");
const LIST: Method = method("Storage.ListObjects");
const DELETE: Method = method("Storage.DeleteObject");

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
    /// The object has more bytes than the caller takes; no more than its beginning was downloaded.
    TooLarge {
        generation: i64,
        size: usize,
        beginning: Bytes,
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

    /// Reads an object of at most `limit` bytes, unless it still has the generation `known`.
    ///
    /// # Errors
    /// The call that failed. `DATA_LOSS` if what arrived, twice, is not what the service has.
    pub async fn read(&self, object: &str, known: Option<i64>, limit: usize) -> Result<Read, CallError> {
        match self.read_once(object, known, limit).await {
            Err(error) if error.code == Code::DataLoss => self.read_once(object, known, limit).await,
            answer => answer,
        }
    }

    async fn read_once(&self, object: &str, known: Option<i64>, limit: usize) -> Result<Read, CallError> {
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
                let mut received = Received::default();
                while !received.is_beyond(limit)
                    && let Some(answer) = answers.message().await?
                {
                    received.add(answer);
                }
                Ok(received)
            })
            .await;
        match answer {
            Ok(received) => received.check(limit).map_err(|reason| corrupt(READ, object, reason)),
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

    /// Writes an object if its generation is `expected` (0: if it does not exist). The object has the `custom_time` of
    /// this write, or none: a new generation inherits no metadata of the one that it replaces.
    /// Source: https://cloud.google.com/storage/docs/metadata#custom-time
    ///
    /// # Errors
    /// The call that failed. `DATA_LOSS` if what the service has, says twice, is not what was to be written;
    /// `INVALID_ARGUMENT` if the service found that out itself, twice.
    pub async fn write(
        &self,
        object: &str,
        content: &[u8],
        content_type: &str,
        custom_time: Option<DateTime<Utc>>,
        expected: i64,
    ) -> Result<Written, CallError> {
        match self.write_once(object, content, content_type, custom_time, expected).await {
            Err(error) if matches!(error.code, Code::DataLoss | Code::InvalidArgument) => {
                self.write_once(object, content, content_type, custom_time, expected).await
            }
            answer => answer,
        }
    }

    async fn write_once(
        &self,
        object: &str,
        content: &[u8],
        content_type: &str,
        custom_time: Option<DateTime<Utc>>,
        expected: i64,
    ) -> Result<Written, CallError> {
        let checksum = crc32c(content);
        let answer = self
            .service
            .call(WRITE, object, self.until, |channel, deadline| async move {
                let spec = WriteObjectSpec {
                    resource: Some(Object {
                        name: object.to_owned(),
                        bucket: self.bucket.to_string(),
                        content_type: content_type.to_owned(),
                        custom_time: custom_time.map(|time| Timestamp { seconds: time.timestamp(), nanos: 0 }),
                        ..Default::default()
                    }),
                    if_generation_match: Some(expected),
                    ..Default::default()
                };
                let messages = stream::iter(messages(spec, content, checksum));
                StorageClient::new(channel).write_object(routed(messages, &[("bucket", &self.bucket)], deadline)).await
            })
            .await;
        match answer {
            Ok(answer) => written(answer.into_inner(), checksum).map_err(|reason| corrupt(WRITE, object, reason)),
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

/// What a read has received so far.
#[derive(Default)]
struct Received {
    /// Generation and size, which come with the first answer.
    object: Option<(i64, usize)>,
    /// Of the whole object.
    checksum: Option<u32>,
    content: Vec<u8>,
    /// Whether a part differs from its checksum.
    is_corrupt: bool,
}

impl Received {
    fn add(&mut self, answer: ReadObjectResponse) {
        if let Some(object) = answer.metadata {
            self.object = Some((object.generation, object.size.try_into().unwrap_or(usize::MAX)));
        }
        if let Some(checksums) = answer.object_checksums {
            self.checksum = checksums.crc32c;
        }
        if let Some(data) = answer.checksummed_data {
            self.is_corrupt |= data.crc32c.is_some_and(|checksum| checksum != crc32c(&data.content));
            self.content.extend_from_slice(&data.content);
        }
    }

    fn is_beyond(&self, limit: usize) -> bool {
        self.content.len() > limit || self.object.is_some_and(|(_, size)| size > limit)
    }

    /// What was read, if it is what the service has.
    fn check(self, limit: usize) -> Result<Read, &'static str> {
        let Some((generation, size)) = self.object else {
            return Err("the answer does not say which object it holds");
        };
        let content = Bytes::from(self.content);
        let checksum = crc32c(&content);
        if self.is_corrupt {
            return Err("a part of the content differs from its CRC32C");
        }
        // What is complete without being as large has a corrupt size.
        if size > limit && self.checksum != Some(checksum) {
            return Ok(Read::TooLarge { generation, size, beginning: content });
        }
        if content.len() != size || self.checksum.is_some_and(|whole| whole != checksum) {
            return Err("the content differs from the object's size or CRC32C");
        }
        Ok(Read::Object { generation, content })
    }
}

/// The generation that was written, if it holds what was sent.
fn written(answer: WriteObjectResponse, checksum: u32) -> Result<Written, &'static str> {
    let Some(WriteStatus::Resource(object)) = answer.write_status else {
        return Err("the answer holds no finished object");
    };
    match object.checksums.and_then(|checksums| checksums.crc32c) {
        Some(written) if written != checksum => Err("the written object's CRC32C is not that of the content"),
        _ => Ok(Written::At(object.generation)),
    }
}

/// What arrived is not what was sent. Nobody can tell whether it was the request or the answer that changed on its way.
fn corrupt(method: Method, object: &str, reason: &str) -> CallError {
    CallError {
        method: method.name,
        resource: object.to_owned(),
        code: Code::DataLoss,
        message: reason.to_owned(),
        origin: Origin::Unknown,
    }
}

fn messages(spec: WriteObjectSpec, content: &[u8], checksum: u32) -> Vec<WriteObjectRequest> {
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
            data: Some(Data::ChecksummedData(ChecksummedData { content: chunk.to_vec(), crc32c: Some(crc32c(chunk)) })),
            object_checksums: (index == last).then(|| ObjectChecksums { crc32c: Some(checksum), md5_hash: Vec::new() }),
            ..Default::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100;

    fn answers(content: &[u8]) -> Vec<ReadObjectResponse> {
        let object = Object { generation: 7, size: content.len() as i64, ..Object::default() };
        let parts = content.chunks(4).map(|part| ReadObjectResponse {
            checksummed_data: Some(ChecksummedData { content: part.to_vec(), crc32c: Some(crc32c(part)) }),
            ..ReadObjectResponse::default()
        });
        let mut answers: Vec<_> = parts.collect();
        answers[0].metadata = Some(object);
        answers[0].object_checksums =
            Some(ObjectChecksums { crc32c: Some(crc32c(content)), ..ObjectChecksums::default() });
        answers
    }

    fn check(answers: Vec<ReadObjectResponse>) -> Result<Read, &'static str> {
        let mut received = Received::default();
        answers.into_iter().for_each(|answer| received.add(answer));
        received.check(LIMIT)
    }

    #[test]
    fn every_flipped_bit_of_a_read_is_found() {
        let content = b"a record of a run";
        assert!(
            matches!(check(answers(content)), Ok(Read::Object { generation: 7, content: read }) if read == content[..])
        );
        for bit in 0..content.len() * 8 {
            // By the checksum of the whole alone, and by that of the part alone.
            let mut by_whole = answers(content);
            let data = by_whole[bit / 32].checksummed_data.as_mut().unwrap();
            data.content[bit / 8 % 4] ^= 1 << (bit % 8);
            let mut by_part = by_whole.clone();
            by_whole[bit / 32].checksummed_data.as_mut().unwrap().crc32c = None;
            by_part[0].object_checksums = None;
            assert!(check(by_whole).is_err() && check(by_part).is_err(), "{bit}");
        }
    }

    #[test]
    fn a_part_that_is_lost_or_comes_twice_is_found() {
        let mut lost = answers(b"a record of a run");
        lost.remove(2);
        let mut twice = answers(b"a record of a run");
        twice.insert(2, twice[1].clone());
        for mut answers in [lost, twice] {
            assert!(check(answers.clone()).is_err());
            answers[0].object_checksums = None;
            assert!(check(answers).is_err());
        }
        assert!(check(Vec::new()).is_err());
    }

    #[test]
    fn an_object_is_too_large_by_its_size_unless_the_size_is_corrupt() {
        let large = vec![7; LIMIT + 1];
        let mut beginning = answers(&large);
        beginning.truncate(2);
        let read = check(beginning).unwrap();
        assert!(matches!(read, Read::TooLarge { generation: 7, size: 101, beginning } if beginning == large[..8]));
        for bit in 0..32 {
            let mut answers = answers(b"a record of a run");
            answers[0].metadata.as_mut().unwrap().size ^= 1 << bit;
            assert!(check(answers).is_err(), "{bit}");
        }
    }

    #[test]
    fn a_written_object_that_differs_from_what_was_sent_is_found() {
        let answer = |crc32c| WriteObjectResponse {
            write_status: Some(WriteStatus::Resource(Object {
                generation: 7,
                checksums: Some(ObjectChecksums { crc32c, ..ObjectChecksums::default() }),
                ..Object::default()
            })),
            ..WriteObjectResponse::default()
        };
        assert_eq!(written(answer(Some(1)), 1), Ok(Written::At(7)));
        assert_eq!(written(answer(None), 1), Ok(Written::At(7)));
        assert!(written(answer(Some(2)), 1).is_err());
        assert!(written(WriteObjectResponse::default(), 1).is_err());
    }

    #[test]
    fn each_part_of_a_write_and_the_whole_carry_a_checksum() {
        let content = vec![7; 2 * CHUNK + 1];
        let messages = messages(WriteObjectSpec::default(), &content, crc32c(&content));
        for (message, part) in messages.iter().zip(content.chunks(CHUNK)) {
            let Some(Data::ChecksummedData(data)) = &message.data else { panic!("no data") };
            assert_eq!(data.crc32c, Some(crc32c(part)));
        }
        let whole: Vec<_> = messages.iter().map(|m| m.object_checksums.as_ref().and_then(|c| c.crc32c)).collect();
        assert_eq!(whole, [None, None, Some(crc32c(&content))]);
    }
}
