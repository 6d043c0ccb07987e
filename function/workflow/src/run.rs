//! A run's transitions: what comes next, and what each thing that happens makes of its record.
//!
//! Nothing here waits or looks at a clock; [`crate::advance`] carries out what [`Record::next`] says.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use gcloud_sdk::tonic::Code;
use uuid::Uuid;

use crate::{
    clock::after,
    error::CallError,
    outcome::{Cluster, Failure, Observation, Outcome, Progress, Step, short_digest},
    record::{Announcement, Correlation, Kind, Lease, Record, State},
    refusal::{Refusal, backoff, refusal},
    violation::Violation,
};

/// After the last moment at which a submission can still have been under way, so long must pass before a look that finds
/// nothing counts: the service may take a while to show an operation, and clocks differ.
pub const SETTLING: Duration = Duration::from_secs(60);
/// An operation that the service does not know for so long is gone.
const MISSING_LIMIT: Duration = Duration::from_secs(600);
/// How long whoever recorded an event has for publishing it, before another instance does: an event's budget of 8 s, and
/// a margin for clocks that differ.
const ANNOUNCE_LEASE: Duration = Duration::from_secs(15);
/// Backoff of transient failures ends here.
const LONGEST_BACKOFF: Duration = Duration::from_secs(600);
const LONGEST_CAPACITY_DELAY: Duration = Duration::from_secs(3600);

/// The numbers of the environment that decide about waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub max_request_age: Duration,
    pub submit_lease: Duration,
    pub retry_delay: Duration,
    pub capacity_retries: u32,
    pub capacity_retry_delay: Duration,
}

/// What comes next in a run's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is another's turn, or too early.
    Leave,
    /// Say the last event again: nobody knows whether it was said.
    Announce,
    /// Become the one who may submit.
    TakeLease,
    /// An earlier submission may have been executed: see whether it was.
    Look,
    /// The sender no longer wants it, and nothing of it runs.
    Cancel,
    /// It is too old.
    Expire,
    Submit,
    /// See how far Dataproc is.
    Follow,
    /// It has ended: say so, and forget it.
    Finish,
}

/// What a look for an earlier submission of the run found.
#[derive(Clone, Debug)]
pub enum Sighting {
    Found(Box<Observation>),
    /// Something that may be it, or an earlier attempt of it that still lives.
    Unsure,
    Absent,
}

impl Record {
    /// What takes the place of a record that nobody can read: the run has failed.
    pub fn unreadable(correlation: Correlation, failure: Failure, generation: i64, now: DateTime<Utc>) -> Record {
        let mut record = Record::accepted(correlation, None, now);
        record.failure = Some(failure);
        // Nobody knows how many events there were; the object's generation, in microseconds, is above any count.
        record.sequence = generation.unsigned_abs();
        record.end(State::Failed, now);
        record
    }

    /// The run cannot even begin.
    pub fn rejected(&mut self, now: DateTime<Utc>, failure: Failure, violations: Vec<Violation>) {
        self.failure = Some(failure);
        self.violations = violations;
        self.end(State::Rejected, now);
    }

    /// Whether it came with a later message. An earlier one has been overtaken, or is delivered a second time: its
    /// request must not come to life again.
    pub fn is_newer_than(&self, other: &Record) -> bool {
        // Messages of the same millisecond need some order, too; and one without a time seems later each time it comes.
        let age = |record: &Record| {
            let id = &record.correlation.message_id;
            (record.times.received, id.len(), id.clone())
        };
        self.correlation.message_id != other.correlation.message_id && age(self) > age(other)
    }

    /// Goes on where a rejected run of the same id ended: Dataproc may remember its names, and consumers its events.
    pub fn take_over(&mut self, rejected: &Record) {
        self.attempt = rejected.attempt + 1;
        self.sequence += rejected.sequence;
        self.last_event.iter_mut().for_each(|event| event.sequence += rejected.sequence);
    }

    /// What is to be done now by `writer`.
    pub fn next(&self, now: DateTime<Utc>, writer: &str, patience: &Patience) -> Next {
        if self.state.is_end() {
            return Next::Finish;
        }
        let others_turn = self.lease.as_ref().is_some_and(|lease| lease.writer != writer && lease.until > now);
        if others_turn {
            return Next::Leave;
        }
        if self.has_news() {
            return Next::Announce;
        }
        if self.state == State::Submitted {
            return Next::Follow;
        }
        if self.cancel.is_none() && self.not_before.is_some_and(|time| time > now) {
            return Next::Leave;
        }
        let mine = self.lease.as_ref().is_some_and(|lease| lease.writer == writer && lease.until > now);
        match self.unsettled_until {
            _ if !mine => Next::TakeLease,
            Some(_) => Next::Look,
            None if self.cancel.is_some() => Next::Cancel,
            None if self.is_too_old(now, patience) => Next::Expire,
            None => Next::Submit,
        }
    }

    fn is_too_old(&self, now: DateTime<Utc>, patience: &Patience) -> bool {
        let since = self.times.received.unwrap_or(self.recorded);
        after(since, patience.max_request_age) < now
    }

    /// Makes `writer` the one who may submit, at once if nothing of the run can be under way, else after a look.
    pub fn take_lease(&mut self, writer: &str, now: DateTime<Utc>, patience: &Patience) {
        self.hold(writer, after(now, patience.submit_lease));
        let settled = self.unsettled_until.is_none();
        self.lease.iter_mut().for_each(|lease| lease.may_submit = settled);
    }

    /// Makes `writer` the one who publishes the last event: until then nobody else may record what comes after it, so
    /// that events are published in their order.
    pub fn hold_to_announce(&mut self, writer: &str, now: DateTime<Utc>) {
        self.hold(writer, after(now, ANNOUNCE_LEASE));
    }

    fn hold_unannounced(&mut self, writer: &str, now: DateTime<Utc>) {
        if self.has_news() {
            self.hold_to_announce(writer, now);
        }
    }

    fn hold(&mut self, writer: &str, until: DateTime<Utc>) {
        if let Some(earlier) = self.lease.take().filter(|lease| lease.may_submit && lease.writer != writer) {
            // The earlier holder may have submitted without living to tell.
            self.unsettled_until = self.unsettled_until.max(Some(earlier.until));
        }
        self.lease = Some(Lease { writer: writer.to_owned(), until, may_submit: false });
    }

    /// Gives the lease back without having submitted.
    pub fn release(&mut self) {
        self.lease = None;
    }

    /// Looks for this attempt among all workflows of the region.
    pub fn recognise(&self, workflows: Vec<Observation>) -> Sighting {
        let hex = run_hex(self.run_id());
        let mut unsure = false;
        for workflow in workflows {
            match cluster_run(&workflow.cluster_name) {
                Some((run, attempt)) if run == hex => {
                    if attempt == self.attempt {
                        return Sighting::Found(Box::new(workflow));
                    }
                    unsure |= !workflow.done;
                }
                Some(_) => {}
                None => unsure |= self.may_be_ours(&workflow),
            }
        }
        match unsure {
            true => Sighting::Unsure,
            false => Sighting::Absent,
        }
    }

    /// A workflow that shows no cluster name yet, and started in the time in which ours can have.
    fn may_be_ours(&self, workflow: &Observation) -> bool {
        if !workflow.cluster_name.is_empty() || workflow.done {
            return false;
        }
        let margin = TimeDelta::seconds(60);
        workflow.started.is_none_or(|started| {
            started >= self.recorded - margin && self.unsettled_until.is_none_or(|until| started <= until + margin)
        })
    }

    /// A look found nothing. It counts once the last submission is long enough ago; before that, wait.
    pub fn not_found(&mut self, now: DateTime<Utc>) {
        let settled = self.unsettled_until.map(|until| after(until, SETTLING));
        match settled {
            Some(settled) if settled > now => {
                self.not_before = Some(settled);
                self.release();
            }
            _ => {
                self.unsettled_until = None;
                self.lease.iter_mut().for_each(|lease| lease.may_submit = true);
            }
        }
    }

    /// A look that was not clear, or that failed: try again later.
    pub fn look_again(&mut self, now: DateTime<Utc>, patience: &Patience) {
        self.not_before = Some(after(now, patience.retry_delay));
        self.release();
    }

    /// Dataproc accepted the workflow.
    pub fn submitted(&mut self, now: DateTime<Utc>, workflow: &Observation) {
        self.state = State::Submitted;
        self.operation = Some(workflow.name.clone());
        self.progress = workflow.progress.clone();
        self.times.submitted = Some(now);
        self.times.started = workflow.started;
        self.lease = None;
        self.not_before = None;
        self.unsettled_until = None;
        self.submit_failures = 0;
        self.failure = None;
        self.announce(Kind::Submitted, self.attempt.to_string(), now);
    }

    /// Dataproc, or the way to it, refused the submission. `called_until` is when the call was given up at the latest;
    /// `jitter` is from 0 to 1. `writer` keeps the run until it has said that it waits.
    pub fn refused(
        &mut self,
        now: DateTime<Utc>,
        error: &CallError,
        called_until: DateTime<Utc>,
        (writer, patience, jitter): (&str, &Patience, f64),
    ) {
        self.lease = None;
        let failure = Failure::new(error.code, error.message.clone());
        let known = self.state == State::Waiting && self.failure.as_ref() == Some(&failure);
        self.failure = Some(failure);
        match refusal(error) {
            Refusal::Permanent => self.end(State::Rejected, now),
            Refusal::Capacity { stockout } => {
                let waiter = (writer, patience, jitter);
                self.wait_for_capacity(now, stockout, State::Rejected, waiter);
            }
            Refusal::Transient { executed } => {
                if executed {
                    self.unsettled_until = Some(called_until);
                }
                let delay = backoff(patience.retry_delay, self.submit_failures, LONGEST_BACKOFF, jitter);
                self.submit_failures = self.submit_failures.saturating_add(1);
                self.state = State::Waiting;
                self.not_before = Some(after(now, delay));
                if !known {
                    let fact = serde_json::json!([self.attempt, self.sequence, self.failure]).to_string();
                    self.announce(Kind::Progressed, short_digest(&fact), now);
                }
                self.hold_unannounced(writer, now);
            }
            Refusal::AlreadyThere => {
                self.unsettled_until = Some(called_until);
                self.not_before = None;
                self.state = State::Waiting;
            }
        }
    }

    /// Waits for the next attempt, or ends as `otherwise` when there have been enough.
    fn wait_for_capacity(
        &mut self,
        now: DateTime<Utc>,
        stockout: bool,
        otherwise: State,
        (writer, patience, jitter): (&str, &Patience, f64),
    ) {
        if self.capacity_failures >= patience.capacity_retries {
            self.end(otherwise, now);
            return;
        }
        let delay = backoff(patience.capacity_retry_delay, self.capacity_failures, LONGEST_CAPACITY_DELAY, jitter);
        self.capacity_failures += 1;
        self.attempt += 1;
        self.leave_zone |= stockout && !self.zone_from_request;
        self.submit_failures = 0;
        self.state = State::Waiting;
        self.unsettled_until = None;
        self.operation = None;
        self.progress = Progress::default();
        self.times.submitted = None;
        self.times.started = None;
        self.not_before = Some(after(now, delay));
        let fact = serde_json::json!([self.attempt, "capacity"]).to_string();
        self.announce(Kind::Progressed, short_digest(&fact), now);
        self.lease = None;
        self.hold_unannounced(writer, now);
    }

    /// What the workflow shows now. Says whether that is news.
    pub fn progressed(&mut self, now: DateTime<Utc>, workflow: &Observation, writer: &str) -> bool {
        self.missing_since = None;
        self.times.started = workflow.started.or(self.times.started);
        if workflow.progress == self.progress {
            return false;
        }
        self.progress = workflow.progress.clone();
        self.hold_to_announce(writer, now);
        // The same state may come again, and is another fact then.
        let fact = format!("{} {}", self.sequence, self.progress.digest(self.attempt));
        self.announce(Kind::Progressed, short_digest(&fact), now);
        true
    }

    /// Dataproc does not know the operation. Says whether that is news.
    pub fn missing(&mut self, now: DateTime<Utc>) -> bool {
        match self.missing_since {
            None => {
                self.missing_since = Some(now);
                true
            }
            Some(since) if after(since, MISSING_LIMIT) <= now => {
                let operation = self.operation.as_deref().unwrap_or_default();
                let message = format!("Dataproc no longer knows the operation {operation}");
                self.failure = Some(Failure::new(Code::NotFound, message));
                self.end(State::Failed, now);
                true
            }
            Some(_) => false,
        }
    }

    /// The workflow has ended.
    pub fn concluded(
        &mut self,
        now: DateTime<Utc>,
        workflow: &Observation,
        (outcome, steps): (Outcome, Vec<Step>),
        waiter: (&str, &Patience, f64),
    ) {
        self.progress = workflow.progress.clone();
        self.progress.steps = steps;
        self.times.started = workflow.started.or(self.times.started);
        self.times.ended = workflow.ended;
        let cancelled = self.cancel.is_some();
        match outcome {
            Outcome::Succeeded => {
                self.failure = None;
                self.end(State::Succeeded, now);
            }
            Outcome::Failed(failure) => {
                self.failure = Some(failure);
                self.end(State::Failed, now);
            }
            Outcome::Cancelled(failure) => {
                self.failure = Some(failure);
                self.end(State::Cancelled, now);
            }
            // A sender who asked for the end is not served by another attempt.
            Outcome::NoCapacity { failure, .. } if cancelled => {
                self.failure = Some(failure);
                self.end(State::Cancelled, now);
            }
            Outcome::NoCapacity { failure, stockout } => {
                self.failure = Some(failure);
                let ended = self.times.ended.take();
                self.wait_for_capacity(now, stockout, State::Failed, waiter);
                if self.state.is_end() {
                    self.times.ended = ended.or(self.times.ended);
                }
            }
        }
    }

    /// Nothing of the run is alive, and nobody wants it.
    pub fn cancelled(&mut self, now: DateTime<Utc>) {
        self.failure = Some(Failure::new(Code::Cancelled, "cancelled before it was submitted"));
        self.end(State::Cancelled, now);
    }

    /// Too old to be submitted; the last error stays as the reason.
    pub fn expired(&mut self, now: DateTime<Utc>, patience: &Patience) {
        let age = patience.max_request_age.as_secs();
        let reason = format!("not submitted within {age} s of its publication");
        self.failure = Some(match self.failure.take() {
            Some(last) => Failure { message: format!("{reason}; the last error: {}", last.message), ..last },
            None => Failure::new(Code::DeadlineExceeded, reason),
        });
        self.end(State::Rejected, now);
    }

    fn end(&mut self, state: State, now: DateTime<Utc>) {
        self.state = state;
        self.lease = None;
        self.not_before = None;
        self.times.ended.get_or_insert(now);
        let (kind, suffix) = match state {
            State::Succeeded => (Kind::Succeeded, String::new()),
            State::Failed => (Kind::Failed, String::new()),
            State::Cancelled => (Kind::Cancelled, String::new()),
            State::Rejected => (Kind::Rejected, self.correlation.message_id.clone()),
            State::Accepted | State::Waiting | State::Submitted => return,
        };
        self.announce(kind, suffix, now);
    }

    fn announce(&mut self, kind: Kind, suffix: String, now: DateTime<Utc>) {
        self.sequence += 1;
        let id_suffix = match suffix.is_empty() {
            true => kind.word().to_owned(),
            false => format!("{}/{suffix}", kind.word()),
        };
        self.last_event = Some(Announcement { kind, id_suffix, sequence: self.sequence, time: now, published: false });
    }

    /// Whether nobody knows that the last event is published.
    pub fn has_news(&self) -> bool {
        self.last_event.as_ref().is_some_and(|event| !event.published)
    }

    /// The last event is known to be published.
    pub fn announced(&mut self) {
        if let Some(event) = &mut self.last_event {
            event.published = true;
        }
        if matches!(self.state, State::Waiting | State::Submitted) {
            self.lease = None;
        }
    }

    pub fn cluster(&self) -> Option<&Cluster> {
        self.progress.cluster.as_ref()
    }
}

/// The digits of the run that its cluster's name carries.
pub fn run_hex(run_id: Uuid) -> String {
    run_id.simple().to_string()[..12].to_owned()
}

/// The run's digits and the attempt in a cluster's name, `base-<12 hex digits>-<attempt>` with or without the suffix that
/// the service adds. None for a cluster that is not ours.
pub fn cluster_run(cluster_name: &str) -> Option<(&str, u32)> {
    let parts: Vec<&str> = cluster_name.split('-').collect();
    let is_hex = |text: &str| text.len() == 12 && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    // From the right: a base name may hold anything.
    parts.windows(2).rev().take(3).find_map(|pair| match pair[1].parse::<u32>() {
        Ok(attempt) if is_hex(pair[0]) && attempt > 0 => Some((pair[0], attempt)),
        _ => None,
    })
}
