//! Records that cannot be read, or were deleted while their runs were active.

use bytes::Bytes;
use gcloud_sdk::tonic::Code;
use tracing::error;
use uuid::Uuid;

use crate::{
    advance::publish_last,
    context::Context,
    error::CallError,
    journal,
    outcome::Failure,
    record::{Correlation, Record},
    records::{self, marker_object},
    storage::Written,
};

/// Moves an unreadable record aside to `dead/`, puts a readable one in its place that says `failed`, and publishes that.
/// Whatever the run was doing, nobody can follow it; a new run must not take its place unseen.
pub async fn bury(
    cx: &Context,
    to: &Correlation,
    (generation, content): (i64, Bytes),
    reason: &str,
    marker: Option<i64>,
) -> Result<(), CallError> {
    let run_id = to.run_id;
    let object = format!("dead/{run_id}-{generation}.json");
    // Lost: it lies there already, from an attempt that went no further.
    cx.storage.write(&object, &content, "application/octet-stream", Some(cx.now()), 0).await?;
    error!(%run_id, object, reason, "a record cannot be read; moved aside");
    let text = format!("the run's record cannot be read ({reason}); it was moved to {object}");
    // Mostly it is still JSON, and says whom the end is to be told.
    let owner = serde_json::from_slice::<Correlation>(&content).ok().filter(|owner| owner.run_id == run_id);
    let failure = Failure::new(Code::DataLoss, text);
    let record = Record::lost(owner.unwrap_or_else(|| to.clone()), failure, generation, cx.now());
    put(cx, &record, generation, marker).await
}

/// The record of a run that has a marker was deleted: the run cannot be followed, and whether its workflow ran is not
/// known.
/// `generation` is that of what took its place, 0 for nothing.
pub async fn replace_deleted(cx: &Context, run_id: Uuid, generation: i64, marker: i64) -> Result<(), CallError> {
    error!(%run_id, "the record of an active run was deleted");
    let text = format!(
        "the run's record was deleted, and its outcome is unknown. Its jobs are those of: gcloud dataproc jobs list \
         --filter='labels.run_id = {run_id}'"
    );
    let failure = Failure::new(Code::DataLoss, text);
    let record = Record::lost(Correlation::of_run(run_id), failure, marker, cx.now());
    put(cx, &record, generation, Some(marker)).await
}

/// Puts an ended record in the place of one that is lost, and publishes its end.
async fn put(cx: &Context, record: &Record, generation: i64, marker: Option<i64>) -> Result<(), CallError> {
    match records::store(cx, record, generation).await? {
        Written::At(_) => journal::written(None, record),
        // Another instance was first; the next sweep shows.
        Written::Lost => return Ok(()),
    }
    publish_last(cx, record).await?;
    if let Some(marker) = marker {
        cx.storage.delete(&marker_object(record.run_id()), marker).await?;
    }
    Ok(())
}
