//! Records and markers in the staging bucket.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gcloud_sdk::tonic::Code;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    context::Context,
    error::{CallError, Origin},
    record::{Record, State, VERSION},
    storage::{Read, Written},
};

/// Where the markers of runs lie that have not yet ended and been reported.
pub const MARKERS: &str = "active/";
/// In bytes. No record of this program comes near it: a request and a configuration have at most 10 MiB each.
const LARGEST_RECORD: usize = 64 * 1024 * 1024;
/// One object takes about one write a second. Source: https://cloud.google.com/storage/quotas#objects
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// A marker that others keep changing is not worth more attempts; a redelivery or the next tick follows.
const MARKER_ATTEMPTS: usize = 4;

/// A record, and the generation at which it was read or written.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub record: Record,
    pub generation: i64,
}

/// What stands at a record's place.
#[derive(Debug)]
pub enum Found {
    Missing,
    Record(Box<Loaded>),
    /// Written by a program that knows more than this one: left alone.
    UnknownVersion(u64),
    Unreadable {
        generation: i64,
        content: Bytes,
        reason: String,
    },
}

pub fn record_object(run_id: Uuid) -> String {
    format!("runs/{run_id}.json")
}

pub fn marker_object(run_id: Uuid) -> String {
    format!("{MARKERS}{run_id}")
}

/// Reads a run's record.
pub async fn load(cx: &Context, run_id: Uuid) -> Result<Found, CallError> {
    Ok(match cx.storage.read(&record_object(run_id), None, LARGEST_RECORD).await? {
        Read::Object { generation, content } => parse(run_id, generation, content),
        Read::TooLarge { generation, size, beginning } => {
            let kept = beginning.len();
            let reason = format!("it has {size} bytes, the limit is {LARGEST_RECORD}; the first {kept} bytes are kept");
            Found::Unreadable { generation, content: beginning, reason }
        }
        Read::Missing | Read::Unchanged => Found::Missing,
    })
}

/// A record that stood a call ago is not there, or is another one's business now.
pub fn taken_away(run_id: Uuid) -> CallError {
    CallError::overtaken("Storage.ReadObject", record_object(run_id), "the record was taken away")
}

/// Reads the text of a record, as far as this program knows its version.
fn parse(run_id: Uuid, generation: i64, content: Bytes) -> Found {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u64,
    }
    let reason = match serde_json::from_slice::<Versioned>(&content) {
        Ok(Versioned { version }) if version != u64::from(VERSION) => {
            return Found::UnknownVersion(version);
        }
        Ok(_) => match serde_json::from_slice::<Record>(&content) {
            Ok(record) if record.run_id() == run_id => {
                return Found::Record(Box::new(Loaded { record, generation }));
            }
            Ok(record) => format!("it is the record of run {}", record.run_id()),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    Found::Unreadable { generation, content, reason }
}

/// The custom time of a record's object, on which the bucket's lifecycle rule deletes it: when the end of its run was
/// recorded, or the cancel that awaits its request. A run that has not ended has none, so that no rule applies to its
/// record, however old that is.
/// Source: https://cloud.google.com/storage/docs/lifecycle#dayssincecustomtime
pub fn custom_time(record: &Record, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (record.state.is_end() || record.state == State::Awaited).then_some(now)
}

/// Writes a record over the generation `expected` (0: none). If the answer to an earlier attempt was lost, the record
/// that stands is the one that was to be written, and counts as written. Waits for the object's rate limit.
pub async fn store(cx: &Context, record: &Record, expected: i64) -> Result<Written, CallError> {
    let object = record_object(record.run_id());
    let mut content = Vec::with_capacity(record.size_hint());
    serde_json::to_writer(&mut content, record).map_err(|error| CallError {
        method: "Storage.WriteObject",
        resource: object.clone(),
        code: Code::Internal,
        message: error.to_string(),
        origin: Origin::NotExecuted,
    })?;
    let written = loop {
        let now = cx.now();
        let answer = cx.storage.write(&object, &content, "application/json", custom_time(record, now), expected).await;
        match answer {
            Err(error) if error.code == Code::ResourceExhausted && cx.left() > 2 * WRITE_INTERVAL => {
                sleep(WRITE_INTERVAL).await;
            }
            answer => break answer?,
        }
    };
    if written == Written::Lost
        && let Read::Object { generation, content: standing } = cx.storage.read(&object, None, LARGEST_RECORD).await?
        && standing == content
    {
        return Ok(Written::At(generation));
    }
    Ok(written)
}

/// Writes a run's marker, over the one that exists if there is one, so that no instance that has listed an earlier one
/// deletes it. Returns its generation, and whether there was one.
pub async fn mark(cx: &Context, run_id: Uuid) -> Result<(i64, bool), CallError> {
    let object = marker_object(run_id);
    let mut attempt = 1;
    let mut standing = 0;
    loop {
        match cx.storage.write(&object, b"", "text/plain", None, standing).await {
            Ok(Written::At(generation)) => return Ok((generation, standing != 0)),
            Ok(Written::Lost) if attempt < MARKER_ATTEMPTS => {
                standing = cx.storage.generation(&object).await?.unwrap_or(0);
            }
            Ok(Written::Lost) => {
                return Err(CallError::overtaken("Storage.WriteObject", object, "others keep writing it"));
            }
            Err(error)
                if error.code == Code::ResourceExhausted
                    && attempt < MARKER_ATTEMPTS
                    && cx.left() > 2 * WRITE_INTERVAL =>
            {
                sleep(WRITE_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
        attempt += 1;
    }
}
