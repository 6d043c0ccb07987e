//! A tick: every run that has not ended takes its next step. And the wake-up for one of them.

use std::{panic::AssertUnwindSafe, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    advance::advance,
    bury::{bury, replace_deleted},
    clock::after,
    context::Context,
    error::CallError,
    identity::ClusterName,
    outcome::observe,
    record::{Correlation, State},
    records::{self, Found, MARKERS},
    storage::Listed,
};

const RUNS_AT_ONCE: usize = 64;
/// With less time left no further run is begun; the next tick begins elsewhere.
const LEAST_TIME: Duration = Duration::from_millis(2500);
/// The scheduler sends another one every minute.
const OLDEST_TICK: Duration = Duration::from_secs(90);
/// A marker is written after its record, so one without a record is that of a run whose record was deleted. Younger ones
/// are left alone: what was listed may be older than what is read.
const ORPHAN_AGE: TimeDelta = TimeDelta::minutes(10);
/// The fractions of its multiples are spread evenly, whatever their number. Source: Knuth, TAOCP 3, 6.4 (Fibonacci hashing)
const GOLDEN_RATIO: f64 = 0.618_033_988_749_894_9;

/// What a tick did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Markers seen.
    pub seen: usize,
    /// Runs that were taken as far as they go.
    pub advanced: usize,
    /// Runs that a failed call keeps from going on.
    pub failed: usize,
    /// Whether all markers were seen.
    pub complete: bool,
    /// Since when the oldest run is recorded that was listed and has not ended: of all of them only if this is
    /// [`complete`](Swept::complete).
    pub oldest: Option<DateTime<Utc>>,
    /// The tick came too late to be of use; nothing was done.
    pub too_late: bool,
}

/// Takes every active run one step further, until the event's time is used up. Begins at a place that moves with the
/// minute, so that every run has its turn when there are too many for one tick.
pub async fn sweep(cx: &Context, published: Option<DateTime<Utc>>) -> Result<Swept, CallError> {
    let mut swept = Swept::default();
    let now = cx.now();
    if published.is_some_and(|published| after(published, OLDEST_TICK) < now) {
        swept.too_late = true;
        return Ok(swept);
    }
    let minute = now.timestamp().div_euclid(60) as f64;
    let place = ((minute * GOLDEN_RATIO).fract().abs() * 65_536.0) as u16;
    let start = format!("{MARKERS}{place:04x}");
    let writer = cx.writer();
    let ranges = [(start.as_str(), ""), ("", start.as_str())];
    // Side by side: where calls are slow, a run has the time that the second one would take.
    let pages = join_all(ranges.map(|range| cx.storage.list(MARKERS, range, ""))).await;
    for (range, page) in ranges.into_iter().zip(pages) {
        let (mut markers, mut token) = page?;
        loop {
            advance_all(cx, &writer, markers, &mut swept).await;
            if cx.left() < LEAST_TIME {
                return Ok(swept);
            }
            if token.is_empty() {
                break;
            }
            (markers, token) = cx.storage.list(MARKERS, range, &token).await?;
        }
    }
    swept.complete = true;
    Ok(swept)
}

/// An operation began or ended. If it is a workflow of ours, its run takes a step.
pub async fn operation_ended(cx: &Context, name: &str) -> Result<Swept, CallError> {
    let mut swept = Swept::default();
    let name = match name.starts_with("projects/") {
        true => name.to_owned(),
        false => format!("projects/{}/regions/{}/operations/{name}", cx.environment.project, cx.environment.region),
    };
    let Some(operation) = cx.dataproc.operation(&name).await? else {
        return Ok(swept);
    };
    let workflow = observe(&operation);
    let Some(name) = ClusterName::parse(&workflow.cluster_name) else {
        return Ok(swept);
    };
    let prefix = format!("{MARKERS}{}", cx.deployment.run_prefix(&name.digits));
    let (markers, _) = cx.storage.list(&prefix, ("", ""), "").await?;
    advance_all(cx, &cx.writer(), markers, &mut swept).await;
    swept.complete = true;
    Ok(swept)
}

async fn advance_all(cx: &Context, writer: &str, markers: Vec<Listed>, swept: &mut Swept) {
    let mut waiting = markers.into_iter();
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < RUNS_AT_ONCE
            && cx.left() >= LEAST_TIME
            && let Some(marker) = waiting.next()
        {
            swept.seen += 1;
            under_way.push(advance_caught(cx, writer, marker));
        }
        match under_way.next().await {
            Some((advanced, since)) => {
                match advanced {
                    true => swept.advanced += 1,
                    false => swept.failed += 1,
                }
                swept.is_active_since(since);
            }
            None => break,
        }
    }
    // Not looked at, for want of time. A marker is at most as old as its run.
    waiting.for_each(|marker| swept.is_active_since(marker.created));
}

impl Swept {
    fn is_active_since(&mut self, since: Option<DateTime<Utc>>) {
        self.oldest = [self.oldest, since].into_iter().flatten().min();
    }
}

/// One run must not take the others down with it. Says whether it went as far as it goes, and since when it is active if
/// it still is.
async fn advance_caught(cx: &Context, writer: &str, marker: Listed) -> (bool, Option<DateTime<Utc>>) {
    let name = marker.name.clone();
    let mut since = marker.created;
    let advanced = match AssertUnwindSafe(advance_one(cx, writer, marker, &mut since)).catch_unwind().await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            warn!(marker = name, %error, "left to the next tick");
            false
        }
        Err(_) => {
            error!(marker = name, "panicked");
            false
        }
    };
    (advanced, since)
}

/// `since` is when the marker was made, and becomes when the run was recorded: a marker is made anew when a request comes
/// again. None once the run is no longer active.
async fn advance_one(
    cx: &Context,
    writer: &str,
    marker: Listed,
    since: &mut Option<DateTime<Utc>>,
) -> Result<(), CallError> {
    let id = marker.name.strip_prefix(MARKERS).unwrap_or_default();
    let Ok(run_id) = Uuid::try_parse(id) else {
        warn!(object = marker.name, "not a marker of a run; ignored");
        *since = None;
        return Ok(());
    };
    let is_orphan = |marker: &Listed| marker.created.is_some_and(|created| created + ORPHAN_AGE < cx.now());
    match records::load(cx, run_id).await? {
        // A run that only a cancel tells of has no marker: the cancel came when the record was gone.
        Found::Record(run) if run.record.state == State::Awaited => {
            if is_orphan(&marker) {
                replace_deleted(cx, run_id, run.generation, marker.generation).await?;
                *since = None;
            }
        }
        Found::Record(run) => {
            *since = Some(run.record.recorded);
            let record = advance(cx, writer, *run, Some(marker.generation)).await?;
            if record.state.is_end() {
                *since = None;
            }
        }
        Found::Missing => {
            if is_orphan(&marker) {
                replace_deleted(cx, run_id, 0, marker.generation).await?;
                *since = None;
            }
        }
        Found::UnknownVersion(version) => {
            warn!(%run_id, version, "a record of an unknown version; left alone");
        }
        Found::Unreadable { generation, content, reason } => {
            let to = Correlation::of_run(run_id);
            bury(cx, &to, (generation, content), &reason, Some(marker.generation)).await?;
            *since = None;
        }
    }
    Ok(())
}
