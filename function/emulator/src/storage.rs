//! Cloud Storage, google.storage.v2: buckets of objects with generations and their preconditions.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use crc32c::crc32c;
use gcloud_sdk::google::storage::v2 as proto;
use gcloud_sdk::google::storage::v2::write_object_request::{Data, FirstMessage};
use prost::Message;
use tonic::Status;

use crate::clock::timestamp;

/// The service sends at most this much content in one answer of a read (ServiceConstants.MAX_READ_CHUNK_BYTES).
const MAX_READ_CHUNK: usize = 2 * 1024 * 1024;
const MAX_PAGE: usize = 1000;
const MAX_NAME: usize = 1024;

pub(crate) struct Storage {
    buckets: BTreeMap<String, Bucket>,
    last_generation: i64,
    auto_create: bool,
    one_write_a_second: bool,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Stored>,
    /// Of names that may be gone by now; kept only where the rate is limited.
    last_mutation: BTreeMap<String, DateTime<Utc>>,
}

struct Stored {
    object: proto::Object,
    content: Bytes,
}

/// What a call demands of the object as it stands; each absent part demands nothing.
#[derive(Clone, Copy, Default)]
struct Preconditions {
    generation: Option<i64>,
    generation_not: Option<i64>,
    metageneration: Option<i64>,
    metageneration_not: Option<i64>,
}

macro_rules! preconditions {
    ($request:expr) => {
        Preconditions {
            generation: $request.if_generation_match,
            generation_not: $request.if_generation_not_match,
            metageneration: $request.if_metageneration_match,
            metageneration_not: $request.if_metageneration_not_match,
        }
    };
}

impl Storage {
    pub(crate) fn new(auto_create: bool, one_write_a_second: bool) -> Storage {
        Storage { buckets: BTreeMap::new(), last_generation: 0, auto_create, one_write_a_second }
    }

    pub(crate) fn create_bucket(&mut self, name: &str) {
        self.buckets.entry(name.to_owned()).or_default();
    }

    pub(crate) fn has_bucket(&self, name: &str) -> bool {
        self.buckets.contains_key(name)
    }

    pub(crate) fn content(&self, bucket: &str, name: &str) -> Option<Bytes> {
        let stored = self.buckets.get(bucket)?.objects.get(name)?;
        Some(stored.content.clone())
    }

    /// An object's metadata, which is that of its latest write alone.
    pub(crate) fn metadata(&self, bucket: &str, name: &str) -> Option<proto::Object> {
        let stored = self.buckets.get(bucket)?.objects.get(name)?;
        Some(stored.object.clone())
    }

    pub(crate) fn contents(&self, bucket: &str) -> BTreeMap<String, Bytes> {
        self.buckets
            .get(bucket)
            .into_iter()
            .flat_map(|bucket| &bucket.objects)
            .map(|(name, stored)| (name.clone(), stored.content.clone()))
            .collect()
    }

    /// Puts an object there from outside, beside all preconditions and rates. Its generation.
    pub(crate) fn put(&mut self, now: DateTime<Utc>, bucket: &str, name: &str, content: Bytes) -> i64 {
        let resource = proto::Object {
            name: name.to_owned(),
            bucket: format!("projects/_/buckets/{bucket}"),
            ..proto::Object::default()
        };
        self.store(now, bucket, resource, content).generation
    }

    pub(crate) fn remove(&mut self, bucket: &str, name: &str) -> bool {
        self.buckets.get_mut(bucket).is_some_and(|bucket| bucket.objects.remove(name).is_some())
    }

    pub(crate) fn call_create_bucket(
        &mut self,
        now: DateTime<Utc>,
        request: proto::CreateBucketRequest,
    ) -> Result<proto::Bucket, Status> {
        let id = request.bucket_id;
        if id.len() < 3
            || id.len() > 222
            || !id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
        {
            return Err(Status::invalid_argument(format!("Invalid bucket name: '{id}'")));
        }
        if self.has_bucket(&id) {
            return Err(Status::already_exists(
                "Your previous request to create the named bucket succeeded and you already own it.",
            ));
        }
        self.create_bucket(&id);
        Ok(proto::Bucket {
            name: format!("projects/_/buckets/{id}"),
            bucket_id: id,
            metageneration: 1,
            create_time: Some(timestamp(now)),
            update_time: Some(timestamp(now)),
            ..request.bucket.unwrap_or_default()
        })
    }

    pub(crate) fn call_get_bucket(&self, request: &proto::GetBucketRequest) -> Result<proto::Bucket, Status> {
        let id = bucket_id(&request.name)?;
        if !self.has_bucket(id) {
            return Err(no_bucket());
        }
        Ok(proto::Bucket {
            name: request.name.clone(),
            bucket_id: id.to_owned(),
            metageneration: 1,
            ..proto::Bucket::default()
        })
    }

    pub(crate) fn call_get(&self, request: &proto::GetObjectRequest) -> Result<proto::Object, Status> {
        let stored = self.find(&request.bucket, &request.object, request.generation)?;
        preconditions!(request).check(Some(stored))?;
        Ok(stored.object.clone())
    }

    pub(crate) fn call_read(
        &self,
        request: &proto::ReadObjectRequest,
    ) -> Result<Vec<proto::ReadObjectResponse>, Status> {
        let stored = self.find(&request.bucket, &request.object, request.generation)?;
        preconditions!(request).check(Some(stored))?;
        let size = stored.content.len();
        let (start, end) = read_range(size, request.read_offset, request.read_limit)?;
        let content = &stored.content[start..end];
        let mut answers: Vec<_> = content
            .chunks(MAX_READ_CHUNK)
            .map(|chunk| proto::ReadObjectResponse {
                checksummed_data: Some(proto::ChecksummedData { content: chunk.to_vec(), crc32c: Some(crc32c(chunk)) }),
                ..proto::ReadObjectResponse::default()
            })
            .collect();
        if answers.is_empty() {
            answers.push(proto::ReadObjectResponse::default());
        }
        answers[0].metadata = Some(stored.object.clone());
        answers[0].object_checksums = stored.object.checksums.clone();
        answers[0].content_range =
            Some(proto::ContentRange { start: length(start), end: length(end), complete_length: length(size) });
        Ok(answers)
    }

    pub(crate) fn call_write(
        &mut self,
        now: DateTime<Utc>,
        requests: Vec<proto::WriteObjectRequest>,
    ) -> Result<proto::WriteObjectResponse, Status> {
        let (spec, content) = assemble(requests)?;
        let preconditions = preconditions!(spec);
        let resource =
            spec.resource.ok_or_else(|| Status::invalid_argument("write_object_spec.resource is required"))?;
        let bucket = bucket_id(&resource.bucket)?.to_owned();
        check_name(&resource.name)?;
        if !self.has_bucket(&bucket) && !self.auto_create {
            return Err(no_bucket());
        }
        let current = self.buckets.get(&bucket).and_then(|bucket| bucket.objects.get(&resource.name));
        preconditions.check(current)?;
        self.check_rate(now, &bucket, &resource.name)?;
        self.note_mutation(now, &bucket, &resource.name);
        let object = self.store(now, &bucket, resource, content);
        Ok(proto::WriteObjectResponse {
            persisted_data_checksums: None,
            write_status: Some(proto::write_object_response::WriteStatus::Resource(object)),
        })
    }

    pub(crate) fn call_delete(
        &mut self,
        now: DateTime<Utc>,
        request: &proto::DeleteObjectRequest,
    ) -> Result<(), Status> {
        let stored = self.find(&request.bucket, &request.object, request.generation)?;
        preconditions!(request).check(Some(stored))?;
        let bucket = bucket_id(&request.bucket)?;
        self.check_rate(now, bucket, &request.object)?;
        self.note_mutation(now, bucket, &request.object);
        self.remove(bucket, &request.object);
        Ok(())
    }

    pub(crate) fn call_list(&self, request: &proto::ListObjectsRequest) -> Result<proto::ListObjectsResponse, Status> {
        if request.versions || request.soft_deleted || !request.match_glob.is_empty() || !request.filter.is_empty() {
            return Err(Status::unimplemented("versions, soft_deleted, match_glob and filter are not supported"));
        }
        let page = match usize::try_from(request.page_size) {
            Ok(0) => MAX_PAGE,
            Ok(size) => size.min(MAX_PAGE),
            Err(_) => return Err(Status::invalid_argument("page_size must not be negative")),
        };
        let mut answer = proto::ListObjectsResponse::default();
        let Some(bucket) = self.buckets.get(bucket_id(&request.parent)?) else {
            return if self.auto_create { Ok(answer) } else { Err(no_bucket()) };
        };
        let from = request.prefix.as_str().max(&request.lexicographic_start).max(&request.page_token);
        let mut last = request.page_token.as_str();
        for (name, stored) in bucket.objects.range(from.to_owned()..) {
            let past_end = !request.lexicographic_end.is_empty() && *name >= request.lexicographic_end;
            if past_end || !name.starts_with(&request.prefix) {
                break;
            }
            let folder = folder(name, &request.prefix, &request.delimiter);
            // The token is the last name or folder of the page before: itself, and all below it, are behind us.
            let item = folder.unwrap_or(name);
            if item == last && !last.is_empty() {
                continue;
            }
            if answer.objects.len() + answer.prefixes.len() == page {
                answer.next_page_token = last.to_owned();
                break;
            }
            match folder {
                Some(folder) => answer.prefixes.push(folder.to_owned()),
                None => answer.objects.push(stored.object.clone()),
            }
            last = item;
        }
        Ok(answer)
    }

    fn find(&self, bucket: &str, name: &str, generation: i64) -> Result<&Stored, Status> {
        let id = bucket_id(bucket)?;
        check_name(name)?;
        self.buckets
            .get(id)
            .ok_or_else(no_bucket)?
            .objects
            .get(name)
            .filter(|stored| generation == 0 || generation == stored.object.generation)
            .ok_or_else(|| Status::not_found(format!("No such object: {id}/{name}")))
    }

    fn check_rate(&self, now: DateTime<Utc>, bucket: &str, name: &str) -> Result<(), Status> {
        let last = self.buckets.get(bucket).and_then(|bucket| bucket.last_mutation.get(name));
        match last {
            Some(last) if now - last < TimeDelta::seconds(1) => Err(Status::resource_exhausted(format!(
                "The object {bucket}/{name} exceeded the rate limit for object mutation operations (create, update, and \
                 delete). Please reduce your request rate. See https://cloud.google.com/storage/docs/gcs429."
            ))),
            _ => Ok(()),
        }
    }

    fn note_mutation(&mut self, now: DateTime<Utc>, bucket: &str, name: &str) {
        if self.one_write_a_second {
            let bucket = self.buckets.entry(bucket.to_owned()).or_default();
            bucket.last_mutation.insert(name.to_owned(), now);
        }
    }

    fn store(&mut self, now: DateTime<Utc>, bucket: &str, resource: proto::Object, content: Bytes) -> proto::Object {
        // The service's generations are microseconds of its clock, and increase.
        self.last_generation = now.timestamp_micros().max(self.last_generation + 1);
        let name = resource.name.clone();
        let object = proto::Object {
            generation: self.last_generation,
            metageneration: 1,
            etag: format!("{:x}", self.last_generation),
            size: length(content.len()),
            storage_class: "STANDARD".to_owned(),
            create_time: Some(timestamp(now)),
            update_time: Some(timestamp(now)),
            finalize_time: Some(timestamp(now)),
            checksums: Some(proto::ObjectChecksums { crc32c: Some(crc32c(&content)), md5_hash: Vec::new() }),
            ..resource
        };
        let stored = Stored { object: object.clone(), content };
        let bucket = self.buckets.entry(bucket.to_owned()).or_default();
        bucket.objects.insert(name, stored);
        object
    }
}

impl Preconditions {
    /// A missing object has generation 0. Codes as seen with Google's own storage testbench.
    fn check(self, current: Option<&Stored>) -> Result<(), Status> {
        let generation = current.map_or(0, |stored| stored.object.generation);
        let metageneration = current.map_or(0, |stored| stored.object.metageneration);
        for (wanted, is) in [(self.generation, generation), (self.metageneration, metageneration)] {
            if wanted.is_some_and(|wanted| wanted != is) {
                return Err(Status::failed_precondition(
                    "At least one of the pre-conditions you specified did not hold.",
                ));
            }
        }
        for (unwanted, is) in [(self.generation_not, generation), (self.metageneration_not, metageneration)] {
            if unwanted == Some(is) {
                return Err(Status::aborted("The object has not changed: the not-match precondition did not hold."));
            }
        }
        Ok(())
    }
}

/// Flips a bit of the content that a write's messages carry, as a broken wire would. Other calls stay as they are.
pub(crate) fn corrupt_write(path: &str, messages: &mut [Bytes]) {
    if path == "/google.storage.v2.Storage/WriteObject" {
        corrupt(messages, |request: &mut proto::WriteObjectRequest| match &mut request.data {
            Some(Data::ChecksummedData(data)) => Some(data),
            None => None,
        });
    }
}

/// The same for the answer to a read.
pub(crate) fn corrupt_read(path: &str, messages: &mut [Bytes]) {
    if path == "/google.storage.v2.Storage/ReadObject" {
        corrupt(messages, |answer: &mut proto::ReadObjectResponse| answer.checksummed_data.as_mut());
    }
}

fn corrupt<M: Message + Default>(
    messages: &mut [Bytes],
    content: impl Fn(&mut M) -> Option<&mut proto::ChecksummedData>,
) {
    for message in messages {
        let Ok(mut decoded) = M::decode(message.clone()) else { continue };
        if let Some(data) = content(&mut decoded).filter(|data| !data.content.is_empty()) {
            let middle = data.content.len() / 2;
            data.content[middle] ^= 1;
            *message = decoded.encode_to_vec().into();
            return;
        }
    }
}

/// Puts the messages of a one-shot write together.
fn assemble(requests: Vec<proto::WriteObjectRequest>) -> Result<(proto::WriteObjectSpec, Bytes), Status> {
    let invalid = |text: &str| Status::invalid_argument(text.to_owned());
    let mut spec = None;
    let mut content = Vec::new();
    let mut checksum = None;
    let mut finished = false;
    for (at, request) in requests.into_iter().enumerate() {
        if finished {
            return Err(invalid("a message follows finish_write"));
        }
        match (at, request.first_message) {
            (0, Some(FirstMessage::WriteObjectSpec(first))) => spec = Some(first),
            (0, Some(FirstMessage::UploadId(_))) => {
                return Err(Status::unimplemented("resumable uploads are not supported"));
            }
            (0, None) => return Err(invalid("the first message must have a write_object_spec")),
            (_, Some(_)) => {
                return Err(invalid("only the first message may have a write_object_spec"));
            }
            (_, None) => {}
        }
        if request.write_offset != length(content.len()) {
            return Err(Status::invalid_argument(format!(
                "write_offset is {}, expected {}",
                request.write_offset,
                content.len()
            )));
        }
        checksum = request.object_checksums.and_then(|checksums| checksums.crc32c).or(checksum);
        if let Some(Data::ChecksummedData(data)) = request.data {
            if data.content.len() > MAX_READ_CHUNK {
                return Err(invalid("checksummed_data.content is larger than 2 MiB"));
            }
            check_crc32c(data.crc32c, &data.content)?;
            content.extend(data.content);
        }
        finished = request.finish_write;
    }
    let spec = spec.ok_or_else(|| invalid("the write has no message"))?;
    if !finished {
        return Err(invalid("the write ended without finish_write"));
    }
    if spec.object_size.is_some_and(|size| size != length(content.len())) {
        return Err(invalid("write_object_spec.object_size is not the size of what was written"));
    }
    check_crc32c(checksum, &content)?;
    Ok((spec, content.into()))
}

fn check_crc32c(claimed: Option<u32>, content: &[u8]) -> Result<(), Status> {
    let is = crc32c(content);
    match claimed {
        Some(claimed) if claimed != is => Err(Status::invalid_argument(format!(
            "Provided CRC32C {claimed:08x} doesn't match calculated CRC32C {is:08x}."
        ))),
        _ => Ok(()),
    }
}

/// The bytes that a read asks for; a negative offset counts from the end, a limit of 0 is none.
fn read_range(size: usize, offset: i64, limit: i64) -> Result<(usize, usize), Status> {
    let distance = usize::try_from(offset.unsigned_abs()).unwrap_or(usize::MAX);
    let start = if offset < 0 { size.saturating_sub(distance) } else { distance };
    if start > size || (start == size && size > 0 && offset > 0) {
        return Err(Status::out_of_range(format!("read_offset {offset} is beyond the object's {size} bytes")));
    }
    match usize::try_from(limit) {
        Ok(0) => Ok((start, size)),
        Ok(limit) => Ok((start, start.saturating_add(limit).min(size))),
        Err(_) => Err(Status::invalid_argument("read_limit must not be negative")),
    }
}

/// The part of `name` up to the first delimiter after the prefix, if it has one.
fn folder<'a>(name: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = name.get(prefix.len()..)?.find(delimiter)?;
    name.get(..prefix.len() + at + delimiter.len())
}

fn bucket_id(name: &str) -> Result<&str, Status> {
    name.strip_prefix("projects/_/buckets/")
        .filter(|id| !id.is_empty() && !id.contains('/'))
        .ok_or_else(|| Status::invalid_argument(format!("Invalid bucket name: '{name}', want projects/_/buckets/NAME")))
}

fn check_name(name: &str) -> Result<(), Status> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains(['\r', '\n']) || name == "." || name == ".." {
        return Err(Status::invalid_argument(format!("Invalid object name: {name:?}")));
    }
    Ok(())
}

fn no_bucket() -> Status {
    Status::not_found("The specified bucket does not exist.")
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
