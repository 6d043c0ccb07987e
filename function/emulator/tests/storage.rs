//! Objects through the generated client.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod support;

use std::time::Duration;

use gcloud_sdk::google::storage::v2 as proto;
use gcloud_sdk::google::storage::v2::storage_client::StorageClient;
use gcloud_sdk::google::storage::v2::write_object_request::{Data, FirstMessage};
use gcloud_sdk::google::storage::v2::write_object_response::WriteStatus;
use inline_workflow_emulator::{Emulator, Options};
use support::channel;
use tonic::transport::Channel;
use tonic::{Code, Status};

const BUCKET: &str = "projects/_/buckets/b";
const MIB: usize = 1024 * 1024;

struct World {
    emulator: Emulator,
    client: StorageClient<Channel>,
}

fn world(options: Options) -> World {
    let emulator = Emulator::new(options);
    let client = StorageClient::new(channel(&emulator)).max_decoding_message_size(64 * MIB);
    World { emulator, client }
}

fn spec(name: &str) -> proto::WriteObjectSpec {
    let resource = proto::Object { name: name.to_owned(), bucket: BUCKET.to_owned(), ..proto::Object::default() };
    proto::WriteObjectSpec { resource: Some(resource), ..proto::WriteObjectSpec::default() }
}

fn chunk(offset: usize, content: &[u8]) -> proto::WriteObjectRequest {
    let data = proto::ChecksummedData { content: content.to_vec(), crc32c: None };
    proto::WriteObjectRequest {
        write_offset: offset as i64,
        data: Some(Data::ChecksummedData(data)),
        ..proto::WriteObjectRequest::default()
    }
}

fn whole(spec: proto::WriteObjectSpec, content: &[u8]) -> proto::WriteObjectRequest {
    proto::WriteObjectRequest {
        first_message: Some(FirstMessage::WriteObjectSpec(spec)),
        finish_write: true,
        ..chunk(0, content)
    }
}

impl World {
    async fn send(&self, requests: Vec<proto::WriteObjectRequest>) -> Result<proto::Object, Status> {
        let answer = self.client.clone().write_object(futures::stream::iter(requests)).await?.into_inner();
        match answer.write_status {
            Some(WriteStatus::Resource(object)) => Ok(object),
            other => panic!("a finished write has a resource: {other:?}"),
        }
    }

    async fn write(&self, name: &str, content: &[u8], if_generation_match: Option<i64>) -> Result<i64, Status> {
        let spec = proto::WriteObjectSpec { if_generation_match, ..spec(name) };
        self.send(vec![whole(spec, content)]).await.map(|object| object.generation)
    }

    async fn read(&self, request: proto::ReadObjectRequest) -> Result<Vec<proto::ReadObjectResponse>, Status> {
        let mut stream = self.client.clone().read_object(request).await?.into_inner();
        let mut answers = Vec::new();
        while let Some(answer) = stream.message().await? {
            answers.push(answer);
        }
        Ok(answers)
    }

    async fn list(&self, request: proto::ListObjectsRequest) -> Result<(Vec<String>, Vec<String>, String), Status> {
        let request = proto::ListObjectsRequest { parent: BUCKET.to_owned(), ..request };
        let answer = self.client.clone().list_objects(request).await?.into_inner();
        let names = answer.objects.into_iter().map(|object| object.name).collect();
        Ok((names, answer.prefixes, answer.next_page_token))
    }

    async fn delete(&self, name: &str, if_generation_match: Option<i64>) -> Result<(), Status> {
        let request = proto::DeleteObjectRequest {
            bucket: BUCKET.to_owned(),
            object: name.to_owned(),
            if_generation_match,
            ..proto::DeleteObjectRequest::default()
        };
        self.client.clone().delete_object(request).await.map(drop)
    }
}

fn reading(name: &str) -> proto::ReadObjectRequest {
    proto::ReadObjectRequest {
        bucket: BUCKET.to_owned(),
        object: name.to_owned(),
        ..proto::ReadObjectRequest::default()
    }
}

fn content(answers: &[proto::ReadObjectResponse]) -> Vec<u8> {
    let data = answers.iter().filter_map(|answer| answer.checksummed_data.as_ref());
    data.flat_map(|data| data.content.clone()).collect()
}

#[tokio::test]
async fn what_is_written_is_read_back_in_chunks() {
    let world = world(Options::default());
    let body: Vec<u8> = (0..5 * MIB).map(|at| (at % 251) as u8).collect();
    let mut requests: Vec<_> = body.chunks(2 * MIB).enumerate().map(|(at, part)| chunk(at * 2 * MIB, part)).collect();
    requests[0].first_message = Some(FirstMessage::WriteObjectSpec(spec("big")));
    requests[2].finish_write = true;
    let object = world.send(requests).await.unwrap();
    assert_eq!(object.size, 5 * MIB as i64);

    let answers = world.read(reading("big")).await.unwrap();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0].metadata.as_ref().unwrap().generation, object.generation);
    assert!(answers[1].metadata.is_none());
    assert_eq!(content(&answers), body);

    let middle = proto::ReadObjectRequest { read_offset: 10, read_limit: 5, ..reading("big") };
    assert_eq!(content(&world.read(middle).await.unwrap()), body[10..15]);
    let tail = proto::ReadObjectRequest { read_offset: -3, ..reading("big") };
    assert_eq!(content(&world.read(tail).await.unwrap()), body[body.len() - 3..]);
    let beyond = proto::ReadObjectRequest { read_offset: 6 * MIB as i64, ..reading("big") };
    assert_eq!(world.read(beyond).await.unwrap_err().code(), Code::OutOfRange);

    world.write("empty", b"", None).await.unwrap();
    let empty = world.read(reading("empty")).await.unwrap();
    assert!(empty.len() == 1 && empty[0].metadata.is_some() && content(&empty).is_empty());
}

#[tokio::test]
async fn preconditions_answer_as_the_service_does() {
    let world = world(Options::default());
    let code = |result: Result<i64, Status>| result.unwrap_err().code();
    assert_eq!(code(world.write("o", b"1", Some(5)).await), Code::FailedPrecondition);
    let first = world.write("o", b"1", Some(0)).await.unwrap();
    assert_eq!(code(world.write("o", b"2", Some(0)).await), Code::FailedPrecondition);
    let second = world.write("o", b"2", Some(first)).await.unwrap();
    assert!(second > first);
    assert_eq!(code(world.write("o", b"3", Some(first)).await), Code::FailedPrecondition);

    let unless = |generation| proto::ReadObjectRequest { if_generation_not_match: Some(generation), ..reading("o") };
    assert_eq!(world.read(unless(second)).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(content(&world.read(unless(first)).await.unwrap()), b"2");
    assert_eq!(world.read(reading("none")).await.unwrap_err().code(), Code::NotFound);
    let old = proto::ReadObjectRequest { generation: first, ..reading("o") };
    assert_eq!(world.read(old).await.unwrap_err().code(), Code::NotFound);

    let get = proto::GetObjectRequest {
        bucket: BUCKET.to_owned(),
        object: "o".to_owned(),
        if_generation_match: Some(second),
        ..proto::GetObjectRequest::default()
    };
    assert_eq!(world.client.clone().get_object(get).await.unwrap().into_inner().generation, second);

    assert_eq!(world.delete("o", Some(first)).await.unwrap_err().code(), Code::FailedPrecondition);
    world.delete("o", Some(second)).await.unwrap();
    assert_eq!(world.delete("o", None).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn broken_writes_are_refused_and_leave_nothing() {
    let world = world(Options::default());
    let first = |request| proto::WriteObjectRequest {
        first_message: Some(FirstMessage::WriteObjectSpec(spec("o"))),
        ..request
    };
    let wrong = Some(1);
    let data = proto::ChecksummedData { content: b"abc".to_vec(), crc32c: wrong };
    let checksums = proto::ObjectChecksums { crc32c: wrong, md5_hash: Vec::new() };
    let cases = [
        ("no message", vec![]),
        ("no spec", vec![chunk(0, b"abc")]),
        ("unfinished", vec![first(chunk(0, b"abc"))]),
        ("a gap", vec![first(chunk(0, b"abc")), proto::WriteObjectRequest { finish_write: true, ..chunk(4, b"d") }]),
        ("after the end", vec![whole(spec("o"), b"abc"), chunk(3, b"d")]),
        ("a second spec", vec![first(chunk(0, b"")), whole(spec("o"), b"")]),
        ("no name", vec![whole(spec(""), b"abc")]),
        ("a line feed", vec![whole(spec("a\nb"), b"abc")]),
        (
            "the chunk's checksum",
            vec![proto::WriteObjectRequest { data: Some(Data::ChecksummedData(data)), ..whole(spec("o"), b"") }],
        ),
        (
            "the object's checksum",
            vec![proto::WriteObjectRequest { object_checksums: Some(checksums), ..whole(spec("o"), b"abc") }],
        ),
        ("the size", vec![whole(proto::WriteObjectSpec { object_size: Some(4), ..spec("o") }, b"abc")]),
    ];
    for (case, requests) in cases {
        assert_eq!(world.send(requests).await.expect_err(case).code(), Code::InvalidArgument, "{case}");
    }
    assert!(world.emulator.objects("b").is_empty());
}

#[tokio::test]
async fn lists_by_prefix_folder_range_and_page() {
    let world = world(Options::default());
    for name in ["a", "dir/1", "dir/2", "dir/sub/3", "dir2/4", "z"] {
        world.emulator.put_object("b", name, "");
    }
    let list = |request| world.list(request);
    let default = proto::ListObjectsRequest::default;
    let all = list(default()).await.unwrap().0;
    assert_eq!(all, ["a", "dir/1", "dir/2", "dir/sub/3", "dir2/4", "z"]);
    let below = proto::ListObjectsRequest { prefix: "dir/".to_owned(), ..default() };
    assert_eq!(list(below.clone()).await.unwrap().0, all[1..4]);
    let folders = proto::ListObjectsRequest { delimiter: "/".to_owned(), ..below };
    assert_eq!(list(folders).await.unwrap(), (all[1..3].to_vec(), vec!["dir/sub/".to_owned()], String::new()));
    let range = proto::ListObjectsRequest {
        lexicographic_start: "dir/2".to_owned(),
        lexicographic_end: "z".to_owned(),
        ..default()
    };
    assert_eq!(list(range).await.unwrap().0, all[2..5]);

    for delimiter in ["", "/"] {
        let mut paged = Vec::new();
        let mut request = proto::ListObjectsRequest { page_size: 1, delimiter: delimiter.to_owned(), ..default() };
        loop {
            let (names, prefixes, token) = list(request.clone()).await.unwrap();
            assert_eq!(names.len() + prefixes.len(), 1);
            paged.extend(names.into_iter().chain(prefixes));
            if token.is_empty() {
                break;
            }
            request.page_token = token;
        }
        let expected = if delimiter.is_empty() {
            all.clone()
        } else {
            vec!["a".into(), "dir/".into(), "dir2/".into(), "z".into()]
        };
        assert_eq!(paged, expected);
    }
    let negative = proto::ListObjectsRequest { page_size: -1, ..default() };
    assert_eq!(list(negative).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn an_object_takes_one_write_a_second_on_request() {
    let world = world(Options { one_write_a_second: true, ..Options::default() });
    world.write("o", b"1", None).await.unwrap();
    world.write("other", b"1", None).await.unwrap();
    assert_eq!(world.write("o", b"2", None).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(world.delete("o", None).await.unwrap_err().code(), Code::ResourceExhausted);
    // A lost race is told as such, rate or no rate.
    assert_eq!(world.write("o", b"2", Some(0)).await.unwrap_err().code(), Code::FailedPrecondition);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.write("o", b"2", None).await.unwrap();
}

#[tokio::test]
async fn buckets_are_made_by_a_write_or_only_by_hand() {
    let world = world(Options { auto_create_buckets: false, ..Options::default() });
    assert_eq!(world.write("o", b"", None).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(world.list(proto::ListObjectsRequest::default()).await.unwrap_err().code(), Code::NotFound);
    let mut client = world.client.clone();
    let create = proto::CreateBucketRequest {
        parent: "projects/_".to_owned(),
        bucket_id: "bucket".to_owned(),
        ..proto::CreateBucketRequest::default()
    };
    client.create_bucket(create.clone()).await.unwrap();
    assert_eq!(client.create_bucket(create).await.unwrap_err().code(), Code::AlreadyExists);
    let get = |name: &str| proto::GetBucketRequest { name: name.to_owned(), ..proto::GetBucketRequest::default() };
    assert_eq!(client.get_bucket(get("projects/_/buckets/bucket")).await.unwrap().into_inner().bucket_id, "bucket");
    assert_eq!(client.get_bucket(get(BUCKET)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.get_bucket(get("b")).await.unwrap_err().code(), Code::InvalidArgument);
}
