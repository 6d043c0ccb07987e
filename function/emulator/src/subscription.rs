//! One subscription: which message may go out when, until it is acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gcloud_sdk::google::pubsub::v1 as proto;

use crate::clock::{Clock, add};
use crate::push::Form;

/// What a message waits at most for its acknowledgement; also Eventarc's.
pub(crate) const ACK_DEADLINE: Duration = Duration::from_secs(10);
/// Eventarc's retry policy: 10 s, doubling up to 600 s.
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// Eventarc keeps an event for 24 hours, a subscription by default for 7 days.
const PUSH_RETENTION: Duration = Duration::from_secs(24 * 3600);
const PULL_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

pub(crate) struct Subscription {
    pub(crate) subscription: proto::Subscription,
    pub(crate) form: Form,
    pub(crate) ack_deadline: Duration,
    /// None: a refused message comes again at once.
    pub(crate) backoff: Option<(Duration, Duration)>,
    pub(crate) messages: BTreeMap<u64, Outstanding>,
    /// When each message may be delivered next; a delivered one has its ack deadline here.
    pub(crate) due: BTreeSet<(DateTime<Utc>, u64)>,
    pub(crate) last_sequence: u64,
}

pub(crate) struct Outstanding {
    pub(crate) message: Arc<proto::PubsubMessage>,
    pub(crate) published: DateTime<Utc>,
    pub(crate) attempts: u32,
    pub(crate) due: DateTime<Utc>,
}

impl Subscription {
    pub(crate) fn new(subscription: proto::Subscription, push_form: Form) -> Subscription {
        let policy = subscription.retry_policy.as_ref().map(|policy| {
            let of = |duration: &Option<prost_types::Duration>, default| {
                duration.and_then(|it| Duration::try_from(it).ok()).unwrap_or(default)
            };
            (of(&policy.minimum_backoff, BACKOFF.0), of(&policy.maximum_backoff, BACKOFF.1))
        });
        let pushed = subscription.push_config.as_ref().is_some_and(|push| !push.push_endpoint.is_empty());
        Subscription {
            form: push_form,
            ack_deadline: Duration::from_secs(u64::try_from(subscription.ack_deadline_seconds).unwrap_or(10)),
            backoff: policy.or(pushed.then_some(BACKOFF)),
            subscription,
            messages: BTreeMap::new(),
            due: BTreeSet::new(),
            last_sequence: 0,
        }
    }

    pub(crate) fn endpoint(&self) -> Option<&str> {
        let endpoint = &self.subscription.push_config.as_ref()?.push_endpoint;
        (!endpoint.is_empty()).then_some(endpoint)
    }

    pub(crate) fn enqueue(&mut self, message: Arc<proto::PubsubMessage>, published: DateTime<Utc>, due: DateTime<Utc>) {
        self.last_sequence += 1;
        self.due.insert((due, self.last_sequence));
        self.messages.insert(self.last_sequence, Outstanding { message, published, attempts: 0, due });
    }

    pub(crate) fn hold_back_last(&mut self, until: DateTime<Utc>) {
        self.reschedule(self.last_sequence, until);
    }

    /// Hands out the next message that is due, and books its next time by `lease(attempts)`.
    pub(crate) fn lease(&mut self, now: DateTime<Utc>, lease: impl Fn(u32) -> Duration) -> Option<u64> {
        let retention = if self.endpoint().is_some() { PUSH_RETENTION } else { PULL_RETENTION };
        loop {
            let (due, sequence) = *self.due.first()?;
            if due > now {
                return None;
            }
            let outstanding = self.messages.get_mut(&sequence)?;
            if (now - outstanding.published).to_std().is_ok_and(|age| age > retention) {
                self.acknowledge(sequence);
                continue;
            }
            outstanding.attempts += 1;
            let next = add(now, lease(outstanding.attempts));
            self.reschedule(sequence, next);
            return Some(sequence);
        }
    }

    pub(crate) fn refuse(&mut self, now: DateTime<Utc>, clock: &Clock, sequence: u64) {
        let attempts = self.messages.get(&sequence).map_or(0, |it| it.attempts);
        self.reschedule(sequence, add(now, wait(clock, self.backoff, attempts)));
    }

    pub(crate) fn acknowledge(&mut self, sequence: u64) {
        if let Some(outstanding) = self.messages.remove(&sequence) {
            self.due.remove(&(outstanding.due, sequence));
        }
    }

    pub(crate) fn reschedule(&mut self, sequence: u64, due: DateTime<Utc>) {
        if let Some(outstanding) = self.messages.get_mut(&sequence) {
            self.due.remove(&(outstanding.due, sequence));
            self.due.insert((due, sequence));
            outstanding.due = due;
        }
    }
}

pub(crate) fn wait(clock: &Clock, backoff: Option<(Duration, Duration)>, attempts: u32) -> Duration {
    backoff.map_or(Duration::ZERO, |(first, most)| {
        let doubled = 2u32.saturating_pow(attempts.saturating_sub(1));
        clock.shortened(first.saturating_mul(doubled).min(most))
    })
}
