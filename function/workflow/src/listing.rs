//! The region's workflows, listed once for all runs that look for theirs.
//!
//! Pages that were read are kept over the end of an event, so that a listing that is too long or too slow for one is
//! continued by the next.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use gcloud_sdk::tonic::Code;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};
use tracing::warn;

use crate::{
    context::Context,
    error::{CallError, Origin},
    outcome::{Observation, is_foreign, observe},
    run::CLOCK_MARGIN,
};

/// Documented for operations of Dataproc. Source: https://cloud.google.com/dataproc/docs/concepts/workflows/debugging
const FILTER: &str = "operationType = WORKFLOW";
const LARGEST_PAGE: i32 = 500;
/// A page that got no answer is asked for again with fewer operations.
const SMALLEST_PAGE: i32 = 8;

/// One process's listing of one region. Clones share it.
#[derive(Clone, Default)]
pub struct Workflows(Arc<Mutex<Listing>>);

#[derive(Default)]
pub struct Listing {
    /// When it began; none before the first.
    pub began: Option<DateTime<Utc>>,
    pub workflows: Vec<Observation>,
    next_page: String,
    complete: bool,
    /// In which event it told all that was asked.
    told: Option<Instant>,
    /// The earliest start seen, while each operation started before the one ahead of it.
    oldest: Option<DateTime<Utc>>,
    is_falling: bool,
    /// Why it could not be continued, and in which event.
    failed: Option<(Instant, CallError)>,
    /// The service does not take the filter.
    is_unfiltered: bool,
    /// How often the pages were halved.
    halvings: u32,
}

impl Workflows {
    /// The workflows that started at `since` or later, as they were at [`Listing::began`] or later. A listing that an
    /// earlier event began is continued; one that told that event all is not used again.
    ///
    /// # Errors
    /// The page that could not be read by `until`. The next event continues with it.
    pub async fn since(
        &self,
        cx: &Context,
        since: DateTime<Utc>,
        until: Instant,
    ) -> Result<MutexGuard<'_, Listing>, CallError> {
        let mut listing = self.0.lock().await;
        if listing.told.is_some_and(|event| event != cx.deadline) {
            listing.restart();
        }
        let mut is_first = true;
        while !listing.covers(since) {
            if let Some((event, error)) = &listing.failed
                && *event == cx.deadline
            {
                return Err(error.clone());
            }
            let began = listing.began.unwrap_or_else(|| cx.now());
            let filter = if listing.is_unfiltered { "" } else { FILTER };
            let page_size = (LARGEST_PAGE >> listing.halvings.min(16)).max(SMALLEST_PAGE);
            match cx.dataproc.operations(filter, page_size, &listing.next_page, until).await {
                Ok(page) => {
                    listing.began = Some(began);
                    listing.add(page.operations.iter().filter(|operation| !is_foreign(operation)).map(observe));
                    listing.complete = page.next_page_token.is_empty();
                    listing.next_page = page.next_page_token;
                }
                Err(error) => {
                    // It had time enough: a smaller page may need less.
                    if is_first && error.origin == Origin::Unknown {
                        listing.halvings += 2;
                    }
                    listing.fail(error, cx.deadline)?;
                }
            }
            is_first = false;
        }
        listing.told = Some(cx.deadline);
        Ok(listing)
    }
}

impl Listing {
    fn restart(&mut self) {
        let halvings = if self.told.is_some() { 0 } else { self.halvings };
        *self = Listing { is_unfiltered: self.is_unfiltered, halvings, ..Listing::default() };
    }

    fn covers(&self, since: DateTime<Utc>) -> bool {
        let older = self.oldest.is_some_and(|oldest| oldest < since - CLOCK_MARGIN);
        self.complete || (self.is_falling && older)
    }

    fn add(&mut self, workflows: impl Iterator<Item = Observation>) {
        for workflow in workflows {
            // One without a start is new.
            if let Some(started) = workflow.started {
                // The order is not documented: as soon as it is another one, all pages are read.
                self.is_falling = self.oldest.is_none_or(|oldest| self.is_falling && started <= oldest);
                self.oldest = self.oldest.min(Some(started)).or(Some(started));
            }
            self.workflows.push(workflow);
        }
    }

    /// An error if there is nothing else to try in this event.
    fn fail(&mut self, error: CallError, event: Instant) -> Result<(), CallError> {
        let refused =
            error.origin == Origin::Service && matches!(error.code, Code::InvalidArgument | Code::Unimplemented);
        if refused && !self.next_page.is_empty() {
            // A page's token is not valid for ever: the next event begins anew.
            self.restart();
        } else if refused && !self.is_unfiltered {
            warn!(%error, filter = FILTER, "operations cannot be filtered; all of them are listed from now on");
            self.is_unfiltered = true;
            return Ok(());
        }
        self.failed = Some((event, error.clone()));
        Err(error)
    }
}
