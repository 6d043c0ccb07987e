//! A run's transitions: what comes next, and what each thing that happens makes of its record.
//!
//! Nothing here waits or looks at a clock; [`crate::advance`] carries out what [`Record::next`] says.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use gcloud_sdk::tonic::Code;

use crate::{
    clock::after,
    error::CallError,
    identity::{ClusterName, Deployment},
    outcome::{Cluster, Failure, Observation, Outcome, Progress, Shortage, Step, short_digest, shortage},
    record::{Announcement, Cancel, Correlation, Kind, Lease, Record, State},
    refusal::{Refusal, backoff, refusal},
    template::FIRST_ATTEMPT,
    violation::Violation,
};

/// After the last moment at which a submission can still have been under way, so long must pass before a look that finds
/// nothing counts: the service may take a while to show an operation, and clocks differ.
pub const SETTLING: Duration = Duration::from_secs(60);
/// An operation that the service does not know for so long is gone.
const MISSING_LIMIT: Duration = Duration::from_secs(600);
/// How long an instance has for publishing an event that it recorded, before another instance does: an event's budget of
/// 8.5 s, and a margin for clocks that differ.
const ANNOUNCE_LEASE: Duration = Duration::from_secs(15);
/// Backoff of transient failures ends here.
const LONGEST_BACKOFF: Duration = Duration::from_secs(600);
/// The service's rate limits count by the minute.
const LONGEST_RATE_BACKOFF: Duration = Duration::from_secs(60);
const LONGEST_CAPACITY_DELAY: Duration = Duration::from_secs(3600);
/// How far the service's clock and those of the instances may be apart.
pub const CLOCK_MARGIN: TimeDelta = TimeDelta::seconds(60);
/// Looks that fail for so long are not waited for any more: the submission is repeated with its request_id, under which
/// Dataproc never runs a second workflow beside the first.
/// Source: google.cloud.dataproc.v1.InstantiateInlineWorkflowTemplateRequest.request_id
const REPEAT_AFTER: Duration = Duration::from_secs(600);
/// A run of whose workflow Dataproc tells nothing for so long ends with an unknown outcome.
const LONGEST_BLINDNESS: Duration = Duration::from_secs(72 * 3600);
/// The same for a run that is to be cancelled, or that is too old to be submitted and not known to have been.
const LONGEST_BLINDNESS_AT_THE_END: Duration = Duration::from_secs(3600);
/// A cancel counts for a request that was published so long after it at most: clocks of senders differ.
pub const CANCEL_MARGIN: Duration = Duration::from_secs(60);

/// The numbers of the environment that decide about waiting.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    pub max_request_age: Duration,
    pub submit_lease: Duration,
    pub retry_delay: Duration,
    pub capacity_retries: u32,
    pub capacity_retry_delay: Duration,
}

/// One handling of one event, at one moment: what a transition may depend on beside the record.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Of this handling alone; holds leases.
    pub writer: String,
    pub now: DateTime<Utc>,
    pub policy: RetryPolicy,
    /// From 0 to 1.
    pub jitter: f64,
}

/// What comes next in a run's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is another's turn, or too early.
    Leave,
    /// Publish the last event again: it is not known to be published.
    Announce,
    /// An earlier submission may have been executed: see whether it was.
    Look,
    /// The sender no longer wants it, and nothing of it runs.
    Cancel,
    /// It is too old.
    Expire,
    /// Become the one who may submit.
    TakeLease,
    Submit,
    /// See how far Dataproc is.
    Follow,
    /// It has ended: publish that, and delete the marker.
    Finish,
}

/// What a look for an earlier submission of the run found.
#[derive(Clone, Debug)]
pub enum Sighting {
    Found(Box<Observation>),
    /// An earlier workflow of the run, by name, that has not ended.
    Earlier(String),
    /// A workflow that shows no cluster's name yet, and may be it.
    Unsure,
    Absent,
}

impl Record {
    /// What takes the place of a record that cannot be read, or was deleted: the run has failed.
    pub fn lost(correlation: Correlation, failure: Failure, generation: i64, now: DateTime<Utc>) -> Record {
        let mut record = Record::accepted(correlation, None, now);
        record.failure = Some(failure);
        // How many events there were is not known; the object's generation, in microseconds, is above any count.
        record.sequence = generation.unsigned_abs();
        record.end(State::Failed, now);
        record
    }

    /// What stands for a run whose cancel has come before its request.
    pub fn awaited(correlation: Correlation, cancel: Cancel, now: DateTime<Utc>) -> Record {
        Record { state: State::Awaited, cancel: Some(cancel), ..Record::accepted(correlation, None, now) }
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

    /// Continues where a rejected run of the same id ended: Dataproc may remember its names, and consumers its events.
    pub fn take_over(&mut self, rejected: &Record) {
        self.attempt = rejected.attempt + 1;
        self.sequence += rejected.sequence;
        self.last_event.iter_mut().for_each(|event| event.sequence += rejected.sequence);
    }

    /// Takes the cancel that came before, if it was meant for this request: one that was published later is not.
    pub fn follow_cancel(&mut self, awaited: &Record) {
        let received = self.times.received.unwrap_or(self.recorded);
        self.cancel = awaited.cancel.clone().filter(|cancel| received <= after(cancel.requested, CANCEL_MARGIN));
    }

    /// What is to be done now.
    pub fn next(&self, turn: &Turn) -> Next {
        if self.state.is_end() {
            return Next::Finish;
        }
        let Turn { writer, now, policy, .. } = turn;
        let mine = self.lease.as_ref().filter(|lease| lease.until > *now).map(|lease| lease.writer == *writer);
        if self.state == State::Awaited || mine == Some(false) {
            return Next::Leave;
        }
        if self.has_news() {
            return Next::Announce;
        }
        if self.state == State::Submitted {
            return Next::Follow;
        }
        if self.cancel.is_none() && self.not_before.is_some_and(|time| time > *now) {
            return Next::Leave;
        }
        if self.unsettled(writer).is_some() {
            return Next::Look;
        }
        if self.cancel.is_some() {
            return Next::Cancel;
        }
        match mine {
            _ if self.is_too_old(*now, policy) => Next::Expire,
            Some(true) => Next::Submit,
            _ => Next::TakeLease,
        }
    }

    fn is_too_old(&self, now: DateTime<Utc>, policy: &RetryPolicy) -> bool {
        let since = self.times.received.unwrap_or(self.recorded);
        after(since, policy.max_request_age) < now
    }

    /// Until when a submission of this attempt whose answer is not known can have been under way.
    fn unsettled(&self, writer: &str) -> Option<DateTime<Utc>> {
        // The holder of an earlier lease may have submitted without living to record it.
        let abandoned = self.lease.as_ref().filter(|lease| lease.may_submit && lease.writer != writer);
        self.unsettled_until.max(abandoned.map(|lease| lease.until))
    }

    /// Makes the writer the one who may submit.
    pub fn take_lease(&mut self, turn: &Turn) {
        self.hold(&turn.writer, after(turn.now, turn.policy.submit_lease));
        self.lease.iter_mut().for_each(|lease| lease.may_submit = true);
    }

    /// Leaves the publication of the last event to the writer for a while, so that it is mostly published once.
    fn hold_to_announce(&mut self, turn: &Turn) {
        self.hold(&turn.writer, after(turn.now, ANNOUNCE_LEASE));
    }

    fn hold_unannounced(&mut self, turn: &Turn) {
        if self.has_news() {
            self.hold_to_announce(turn);
        }
    }

    fn hold(&mut self, writer: &str, until: DateTime<Utc>) {
        self.unsettled_until = self.unsettled(writer);
        self.lease = Some(Lease { writer: writer.to_owned(), until, may_submit: false });
    }

    /// Gives the lease back without having submitted.
    pub fn release(&mut self) {
        self.lease = None;
    }

    /// Looks for this attempt among the region's workflows.
    pub fn recognise<'a>(
        &self,
        workflows: impl IntoIterator<Item = &'a Observation>,
        deployment: Deployment,
        writer: &str,
    ) -> Sighting {
        let digits = deployment.digits(self.run_id());
        let mut sighting = Sighting::Absent;
        for workflow in workflows {
            match ClusterName::parse(&workflow.cluster_name) {
                // Nothing can be asked of it, and it is there.
                Some(name) if name.digits == digits && workflow.name.is_empty() => sighting = Sighting::Unsure,
                Some(name) if name.digits == digits => {
                    if name.attempt == self.attempt && self.can_have_begun(workflow) {
                        return Sighting::Found(Box::new(workflow.clone()));
                    }
                    if !workflow.done {
                        sighting = Sighting::Earlier(workflow.name.clone());
                    }
                }
                None if matches!(sighting, Sighting::Absent) && self.may_be_ours(workflow, writer) => {
                    sighting = Sighting::Unsure;
                }
                _ => {}
            }
        }
        sighting
    }

    /// From when on a look must see workflows: from the attempt's beginning, unless the one to be found may be older, from
    /// another life of the run. That is so while no answer to a submission is known, or the answer is that it exists.
    pub fn looks_since(&self) -> DateTime<Utc> {
        let may_be_older = self.exists || (self.attempt == FIRST_ATTEMPT && self.submit_failures == 0);
        if may_be_older { DateTime::UNIX_EPOCH } else { self.attempt_began }
    }

    /// Whether this attempt can have begun a workflow that bears its name or request_id. One that is older is from
    /// another life of the run, whose record is gone.
    pub fn can_have_begun(&self, workflow: &Observation) -> bool {
        workflow.started.is_none_or(|started| started >= self.attempt_began - CLOCK_MARGIN)
    }

    /// A workflow that shows no cluster name yet, and started in the time in which this attempt's can have.
    fn may_be_ours(&self, workflow: &Observation, writer: &str) -> bool {
        workflow.cluster_name.is_empty()
            && !workflow.done
            && self.can_have_begun(workflow)
            && workflow
                .started
                .is_none_or(|started| self.unsettled(writer).is_none_or(|until| started <= until + CLOCK_MARGIN))
    }

    /// A look that began at `looked` found nothing. It counts if the last submission was long enough before it.
    pub fn not_found(&mut self, looked: DateTime<Utc>, turn: &Turn) {
        self.blind_since = None;
        self.unsettled_until = self.unsettled(&turn.writer);
        let settled = self.unsettled_until.map(|until| after(until, SETTLING));
        if let Some(settled) = settled.filter(|settled| *settled > looked) {
            self.not_before = Some(settled);
            self.release();
            return;
        }
        self.unsettled_until = None;
        self.not_before = None;
        self.release();
        if self.exists {
            self.begin_next_attempt(turn.now);
        }
        // What the refused submission lacked can be told now that it is known not to have been executed.
        let refused = self.failure.as_ref().filter(|_| self.submit_failures > 0);
        match refused.and_then(|failure| shortage(&failure.message, &self.request)) {
            Some(shortage) => self.wait_for_capacity(shortage == Shortage::Stockout, turn),
            None => self.take_lease(turn),
        }
    }

    /// A look was not clear, or failed for `reason`. If that has been so for long, the submission is repeated: the writer
    /// holds the lease then. In the end the outcome is unknown.
    pub fn look_failed(&mut self, reason: &str, turn: &Turn) {
        self.lost_sight(reason, turn);
        if self.state.is_end() {
            return;
        }
        let blind_since = self.blind_since.unwrap_or(turn.now);
        let may_repeat = self.cancel.is_none() && !self.exists && !self.is_too_old(turn.now, &turn.policy);
        if may_repeat && after(blind_since, REPEAT_AFTER) <= turn.now {
            self.take_lease(turn);
            return;
        }
        self.unsettled_until = self.unsettled(&turn.writer);
        self.not_before = Some(after(turn.now, turn.policy.retry_delay));
        self.release();
    }

    /// Dataproc did not tell, for `reason`, what has become of the submission or of the workflow. Says whether that
    /// changes the record.
    pub fn lost_sight(&mut self, reason: &str, turn: &Turn) -> bool {
        let Some(since) = self.blind_since else {
            self.blind_since = Some(turn.now);
            return true;
        };
        let may_have_nothing = self.state != State::Submitted && !self.exists;
        let cancelled = self.cancel.as_ref().map(|cancel| cancel.requested.max(since));
        let too_old = (may_have_nothing && self.is_too_old(turn.now, &turn.policy)).then_some(since);
        let shorter =
            [cancelled, too_old].into_iter().flatten().map(|since| after(since, LONGEST_BLINDNESS_AT_THE_END));
        if shorter.chain([after(since, LONGEST_BLINDNESS)]).all(|limit| limit > turn.now) {
            return false;
        }
        let run_id = self.run_id();
        let text = format!(
            "the outcome is unknown: since {} Dataproc has not told what has become of the workflow ({reason}). Its jobs \
             are those of: gcloud dataproc jobs list --filter='labels.run_id = {run_id}'",
            since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        );
        self.failure = Some(Failure::new(Code::Unknown, text));
        self.end(State::Failed, turn.now);
        true
    }

    /// The request_id of this attempt belongs to a workflow of another life of the run, or to none that can be found.
    fn begin_next_attempt(&mut self, now: DateTime<Utc>) {
        self.attempt += 1;
        self.attempt_began = now;
        self.exists = false;
        self.submit_failures = 0;
    }

    /// Dataproc answered a submission with a workflow that is older than it: the run's record was deleted in between.
    /// The next attempt has a request_id of its own; it waits until that workflow has ended.
    pub fn answered_with_older(&mut self, workflow: &Observation, turn: &Turn) {
        if workflow.done {
            self.begin_next_attempt(turn.now);
            return;
        }
        self.wait_for_earlier(&workflow.name, turn);
    }

    /// Waits until an earlier workflow of the run has ended.
    pub fn wait_for_earlier(&mut self, operation: &str, turn: &Turn) {
        let text = format!("an earlier workflow of this run has not ended: {operation}");
        self.failure = Some(Failure::new(Code::FailedPrecondition, text));
        self.state = State::Waiting;
        self.blind_since = None;
        self.unsettled_until = self.unsettled(&turn.writer);
        self.not_before = Some(after(turn.now, turn.policy.retry_delay));
        self.release();
    }

    /// Dataproc accepted the workflow. The writer holds the run until that is published.
    pub fn submitted(&mut self, workflow: &Observation, turn: &Turn) {
        self.state = State::Submitted;
        self.operation = Some(workflow.name.clone());
        self.progress = workflow.progress.clone();
        self.times.submitted = Some(turn.now);
        self.times.started = workflow.started;
        self.not_before = None;
        self.lease = None;
        self.unsettled_until = None;
        self.exists = false;
        self.blind_since = None;
        self.submit_failures = 0;
        self.failure = None;
        self.announce(Kind::Submitted, self.attempt.to_string(), turn.now);
        self.hold_to_announce(turn);
    }

    /// Dataproc, or the way to it, refused the submission. `called_until` is when the call was given up at the latest. The
    /// writer holds the run until it is published that it waits.
    pub fn refused(&mut self, error: &CallError, called_until: DateTime<Utc>, turn: &Turn) {
        self.lease = None;
        let failure = Failure::new(error.code, error.message.clone());
        let known = self.state == State::Waiting && self.failure.as_ref() == Some(&failure);
        let refusal = match refusal(error, &self.request) {
            // Of a submission that was repeated this says nothing of the first one.
            Refusal::Permanent | Refusal::Capacity { .. } if self.unsettled_until.is_some() => {
                Refusal::Transient { executed: false }
            }
            refusal => refusal,
        };
        self.failure = Some(failure);
        let longest = match refusal {
            Refusal::Permanent => return self.end_unsubmitted(turn.now),
            Refusal::Capacity { stockout } => return self.wait_for_capacity(stockout, turn),
            Refusal::AlreadyThere => {
                self.exists = true;
                self.unsettled_until = self.unsettled_until.max(Some(called_until));
                self.not_before = None;
                self.state = State::Waiting;
                return;
            }
            Refusal::RateLimited => LONGEST_RATE_BACKOFF,
            Refusal::Transient { .. } => LONGEST_BACKOFF,
        };
        if refusal == (Refusal::Transient { executed: true }) {
            self.unsettled_until = self.unsettled_until.max(Some(called_until));
        }
        let delay = backoff(turn.policy.retry_delay, self.submit_failures, longest, turn.jitter);
        self.submit_failures = self.submit_failures.saturating_add(1);
        self.state = State::Waiting;
        self.not_before = Some(after(turn.now, delay));
        if !known {
            let fact = serde_json::json!([self.attempt, self.sequence, self.failure]).to_string();
            self.announce(Kind::Progressed, short_digest(&fact), turn.now);
        }
        self.hold_unannounced(turn);
    }

    /// Waits for the next attempt, or ends when there have been enough.
    fn wait_for_capacity(&mut self, stockout: bool, turn: &Turn) {
        self.had_workflow |= self.operation.is_some();
        if self.capacity_failures >= turn.policy.capacity_retries {
            return self.end_unsubmitted(turn.now);
        }
        let delay =
            backoff(turn.policy.capacity_retry_delay, self.capacity_failures, LONGEST_CAPACITY_DELAY, turn.jitter);
        self.capacity_failures += 1;
        self.begin_next_attempt(turn.now);
        self.leave_zone |= stockout && !self.zone_from_request;
        self.state = State::Waiting;
        self.unsettled_until = None;
        self.operation = None;
        self.progress = Progress::default();
        self.times.submitted = None;
        self.times.started = None;
        self.not_before = Some(after(turn.now, delay));
        let fact = serde_json::json!([self.attempt, "capacity"]).to_string();
        self.announce(Kind::Progressed, short_digest(&fact), turn.now);
        self.lease = None;
        self.hold_unannounced(turn);
    }

    /// What the workflow shows now. Says whether that changes the record.
    pub fn progressed(&mut self, workflow: &Observation, turn: &Turn) -> bool {
        let was_lost = self.missing_since.take().is_some() | self.blind_since.take().is_some();
        self.times.started = workflow.started.or(self.times.started);
        if workflow.progress == self.progress {
            return was_lost;
        }
        self.progress = workflow.progress.clone();
        self.hold_to_announce(turn);
        // The same state may come again, and is another fact then.
        let fact = format!("{} {}", self.sequence, self.progress.digest(self.attempt));
        self.announce(Kind::Progressed, short_digest(&fact), turn.now);
        true
    }

    /// Dataproc does not know the operation. Says whether that changes the record.
    pub fn missing(&mut self, now: DateTime<Utc>) -> bool {
        self.blind_since = None;
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
    pub fn concluded(&mut self, workflow: &Observation, outcome: Outcome, steps: Vec<Step>, turn: &Turn) {
        self.findings = None;
        self.blind_since = None;
        self.progress = workflow.progress.clone();
        self.progress.steps = steps;
        self.times.started = workflow.started.or(self.times.started);
        self.times.ended = workflow.ended;
        let (state, failure) = match outcome {
            Outcome::Succeeded => (State::Succeeded, None),
            Outcome::Failed(failure) => (State::Failed, Some(failure)),
            Outcome::Cancelled(failure) => (State::Cancelled, Some(failure)),
            // A sender who asked for the end is not served by another attempt.
            Outcome::NoCapacity { failure, .. } if self.cancel.is_some() => (State::Cancelled, Some(failure)),
            Outcome::NoCapacity { failure, stockout } => {
                self.failure = Some(failure);
                let ended = self.times.ended.take();
                self.wait_for_capacity(stockout, turn);
                if self.state.is_end() {
                    self.times.ended = ended.or(self.times.ended);
                }
                return;
            }
        };
        self.failure = failure;
        self.end(state, turn.now);
    }

    /// Nothing of the run is alive, and the sender no longer wants it.
    pub fn cancelled(&mut self, now: DateTime<Utc>) {
        self.failure = Some(Failure::new(Code::Cancelled, "cancelled before it was submitted"));
        self.end(State::Cancelled, now);
    }

    /// Too old to be submitted; the last error remains as the reason.
    pub fn expired(&mut self, turn: &Turn) {
        let age = turn.policy.max_request_age.as_secs();
        let reason = format!("not submitted within {age} s of its publication");
        self.failure = Some(match self.failure.take() {
            Some(last) => Failure { message: format!("{reason}; the last error: {}", last.message), ..last },
            None => Failure::new(Code::DeadlineExceeded, reason),
        });
        self.end_unsubmitted(turn.now);
    }

    /// Rejected, unless an earlier attempt had a workflow.
    fn end_unsubmitted(&mut self, now: DateTime<Utc>) {
        self.end(if self.had_workflow { State::Failed } else { State::Rejected }, now);
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
            State::Awaited | State::Accepted | State::Waiting | State::Submitted => return,
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

    /// Whether the last event is not known to be published.
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
