//! All that the emulator knows, behind one lock that is never held over an await, and how time passes in there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use gcloud_sdk::google::pubsub::v1::PubsubMessage;
use http::StatusCode;
use tokio::sync::watch;
use tonic::Code;

use crate::clock::{Clock, add};
use crate::dataproc::{Dataproc, Surroundings};
use crate::emulator::Call;
use crate::fault::{Fault, What};
use crate::pubsub::PubSub;
use crate::push::{Delivery, Push};
use crate::storage::Storage;

pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) state: Mutex<State>,
    /// Told after each change; what waits looks again.
    pub(crate) changed: watch::Sender<()>,
}

pub(crate) struct State {
    pub(crate) now: DateTime<Utc>,
    pub(crate) clock: Clock,
    pub(crate) rng: fastrand::Rng,
    pub(crate) pubsub: PubSub,
    pub(crate) storage: Storage,
    pub(crate) dataproc: Dataproc,
    pub(crate) faults: Vec<Fault>,
    pub(crate) standing_faults: Vec<Fault>,
    pub(crate) calls: VecDeque<Call>,
    pub(crate) forgotten_calls: u64,
    pub(crate) keep: usize,
    pub(crate) push: Push,
    pub(crate) ticks: BTreeMap<String, Ticks>,
    pub(crate) audit_topic: Option<String>,
}

/// The scheduler's job for one topic.
pub(crate) struct Ticks {
    pub(crate) every: Duration,
    pub(crate) next: DateTime<Utc>,
}

impl Shared {
    /// The only way to the state: time has passed up to now in there, and whoever waits is told afterwards.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let answer = act(&mut self.lock());
        self.changed.send_replace(());
        answer
    }

    /// The same for those who wait themselves and would only wake one another.
    pub(crate) fn with_unheard<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a test's own callback must not take the emulator's other users with it.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pass_time(self.clock.now());
        state
    }

    /// For the pump, which must not wake itself: who carries, what is due, and when to look again.
    pub(crate) fn due_deliveries(&self, max: usize) -> (Push, Vec<Delivery>, Option<DateTime<Utc>>) {
        let mut state = self.lock();
        let state = &mut *state;
        let carried = !matches!(state.push, Push::Held);
        let deliveries = if carried { state.pubsub.take_deliveries(state.now, &state.clock, max) } else { Vec::new() };
        let next = [
            state.pubsub.next_delivery().filter(|_| carried),
            state.dataproc.next_event(),
            state.ticks.values().map(|ticks| ticks.next).min(),
        ];
        (state.push.clone(), deliveries, next.into_iter().flatten().min())
    }

    pub(crate) fn settle(&self, delivery: &Delivery, status: StatusCode) {
        self.with(|state| {
            state.pubsub.settle(state.now, &state.clock, delivery, delivery.form.acknowledges(status));
        });
    }
}

impl State {
    fn pass_time(&mut self, now: DateTime<Utc>) {
        self.now = self.now.max(now);
        while let Some((topic, at)) = self.due_tick() {
            let message = PubsubMessage { data: b"tick".to_vec(), ..PubsubMessage::default() };
            self.pubsub.publish(at, &mut self.rng, &topic, message);
        }
        loop {
            let State { now, clock, rng, storage, dataproc, .. } = self;
            if !dataproc.happen(&mut Surroundings { now: *now, clock, rng, storage }) {
                break;
            }
        }
        for entry in std::mem::take(&mut self.dataproc.audit) {
            if let Some(topic) = &self.audit_topic {
                self.pubsub.publish(self.now, &mut self.rng, topic, entry.message());
            }
        }
    }

    fn due_tick(&mut self) -> Option<(String, DateTime<Utc>)> {
        let now = self.now;
        let (topic, ticks) = self.ticks.iter_mut().find(|(_, ticks)| ticks.next <= now)?;
        let at = ticks.next;
        ticks.next = add(at, ticks.every);
        Some((topic.clone(), at))
    }

    /// Writes the call down. Its number, how much longer it takes, and what else goes wrong with it.
    pub(crate) fn receive(&mut self, call: Call) -> (u64, Duration, Option<What>) {
        let (latency, standing) = crate::fault::standing(&mut self.standing_faults, &mut self.rng, &call.path);
        let fault = crate::fault::take(&mut self.faults, &mut self.rng, &call.path).or(standing);
        self.calls.push_back(call);
        while self.calls.len() > self.keep {
            self.calls.pop_front();
            self.forgotten_calls += 1;
        }
        (self.forgotten_calls + self.calls.len() as u64, latency, fault)
    }

    pub(crate) fn answered(&mut self, call: u64, code: Option<Code>) {
        let index = call.checked_sub(self.forgotten_calls + 1).and_then(|index| usize::try_from(index).ok());
        if let Some(call) = index.and_then(|index| self.calls.get_mut(index)) {
            call.answer = code;
        }
    }

    pub(crate) fn dataproc<T>(&mut self, call: impl FnOnce(&mut Dataproc, &mut Surroundings<'_>) -> T) -> T {
        let State { now, clock, rng, storage, dataproc, .. } = self;
        call(dataproc, &mut Surroundings { now: *now, clock, rng, storage })
    }
}
