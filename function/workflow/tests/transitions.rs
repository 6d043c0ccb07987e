//! Whose turn it is with a run, and what must come before a submission.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use inline_workflow::{
    record::{Correlation, Lease, Record},
    run::{Next, Patience, SETTLING},
};
use uuid::Uuid;

const PATIENCE: Patience = Patience {
    max_request_age: Duration::from_secs(21_600),
    submit_lease: Duration::from_secs(60),
    retry_delay: Duration::from_secs(10),
    capacity_retries: 3,
    capacity_retry_delay: Duration::from_secs(300),
};

fn start() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

fn after(seconds: i64) -> DateTime<Utc> {
    start() + TimeDelta::seconds(seconds)
}

/// A run that `first` has recorded and is about to submit.
fn accepted() -> Record {
    let mut record = Record::accepted(Correlation::of_run(Uuid::from_u128(7)), Some(start()), start());
    record.lease = Some(Lease { writer: "first".to_owned(), until: after(60), may_submit: true });
    record
}

#[test]
fn nobody_touches_a_run_whose_lease_another_holds() {
    let record = accepted();
    assert_eq!(record.next(after(1), "first", &PATIENCE), Next::Submit);
    assert_eq!(record.next(after(1), "second", &PATIENCE), Next::Leave);
    assert_eq!(record.next(after(59), "second", &PATIENCE), Next::Leave);
    assert_eq!(record.next(after(60), "second", &PATIENCE), Next::TakeLease);
    // Its holder has no more right to it than others then.
    assert_eq!(record.next(after(60), "first", &PATIENCE), Next::TakeLease);
}

#[test]
fn whoever_takes_over_looks_before_submitting_and_a_look_counts_only_when_things_have_settled() {
    let mut record = accepted();
    record.take_lease("second", after(61), &PATIENCE);
    assert_eq!(record.next(after(61), "second", &PATIENCE), Next::Look);
    record.not_found(after(61));
    let settled = 60 + i64::try_from(SETTLING.as_secs()).expect("a minute");
    assert_eq!(record.next(after(settled - 1), "third", &PATIENCE), Next::Leave);
    assert_eq!(record.next(after(settled), "third", &PATIENCE), Next::TakeLease);
    // A holder who was only allowed to look leaves nothing behind to look for.
    record.take_lease("third", after(settled), &PATIENCE);
    let later = settled + 3600;
    record.take_lease("fourth", after(later), &PATIENCE);
    assert_eq!(record.unsettled_until, Some(after(60)));
    record.not_found(after(later));
    assert_eq!(record.next(after(later), "fourth", &PATIENCE), Next::Submit);
}

#[test]
fn a_run_that_waits_is_left_until_its_time_unless_it_is_to_be_cancelled() {
    let mut record = accepted();
    record.release();
    record.not_before = Some(after(300));
    assert_eq!(record.next(after(299), "first", &PATIENCE), Next::Leave);
    assert_eq!(record.next(after(300), "first", &PATIENCE), Next::TakeLease);
    record.cancel =
        Some(inline_workflow::record::Cancel { message_id: "9".to_owned(), requested: after(10), sent: false });
    assert_eq!(record.next(after(11), "first", &PATIENCE), Next::TakeLease);
    record.take_lease("first", after(11), &PATIENCE);
    assert_eq!(record.next(after(11), "first", &PATIENCE), Next::Cancel);
}

#[test]
fn a_run_that_is_too_old_expires_only_when_nothing_of_it_can_be_under_way() {
    let mut record = accepted();
    record.take_lease("second", after(30_000), &PATIENCE);
    assert_eq!(record.next(after(30_000), "second", &PATIENCE), Next::Look);
    record.not_found(after(30_000));
    assert_eq!(record.next(after(30_000), "second", &PATIENCE), Next::Expire);
}
