//! Records that nobody can read any more.

use bytes::Bytes;
use gcloud_sdk::tonic::Code;
use tracing::error;

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
    cx.storage.write(&object, &content, "application/octet-stream", 0).await?;
    error!(%run_id, object, reason, "a record cannot be read; moved aside");
    let text = format!("the run's record cannot be read ({reason}); it was moved to {object}");
    // Mostly it is still JSON, and says whom the end is to be told.
    let owner = serde_json::from_slice::<Correlation>(&content).ok().filter(|owner| owner.run_id == run_id);
    let failure = Failure::new(Code::DataLoss, text);
    let record = Record::unreadable(owner.unwrap_or_else(|| to.clone()), failure, generation, cx.now());
    match records::store(cx, &record, generation).await? {
        Written::At(_) => journal::written(None, &record),
        // Somebody else has buried it, or has mended it; the next look shows.
        Written::Lost => return Ok(()),
    }
    publish_last(cx, &record).await?;
    if let Some(marker) = marker {
        cx.storage.delete(&marker_object(run_id), marker).await?;
    }
    Ok(())
}
