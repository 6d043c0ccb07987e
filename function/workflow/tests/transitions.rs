//! Whose turn it is with a run, and what must come before a submission.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use inline_workflow::{
    record::{Cancel, Correlation, Lease, Record, State},
    run::{Next, RetryPolicy, SETTLING, Turn},
};
use uuid::Uuid;

const POLICY: RetryPolicy = RetryPolicy {
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

fn cancel(at: i64) -> Cancel {
    Cancel { message_id: "9".to_owned(), requested: after(at), sent: false }
}

fn turn(writer: &str, seconds: i64) -> Turn {
    Turn { writer: writer.to_owned(), now: after(seconds), policy: POLICY, jitter: 1.0 }
}

fn next(record: &Record, seconds: i64, writer: &str) -> Next {
    record.next(&turn(writer, seconds))
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).expect("a short time")
}

#[test]
fn a_run_is_left_alone_while_another_instance_holds_its_lease() {
    let record = accepted();
    assert_eq!(next(&record, 1, "first"), Next::Submit);
    assert_eq!(next(&record, 1, "second"), Next::Leave);
    assert_eq!(next(&record, 59, "second"), Next::Leave);
    assert_eq!(next(&record, 60, "second"), Next::Look);
    // The holder has no more right to it than others then, but knows whether it has submitted.
    assert_eq!(next(&record, 60, "first"), Next::TakeLease);
}

#[test]
fn a_look_comes_before_a_submission_by_another_and_counts_only_when_things_have_settled() {
    let mut record = accepted();
    record.not_found(after(61), &turn("second", 61));
    let settled = 60 + seconds(SETTLING);
    assert_eq!(next(&record, settled - 1, "third"), Next::Leave);
    assert_eq!(next(&record, settled, "third"), Next::Look);
    // A listing that began too early does not count, however late it is over.
    record.not_found(after(settled - 1), &turn("third", settled + 5));
    assert_eq!(record.unsettled_until, Some(after(60)));
    record.not_found(after(settled), &turn("third", settled + 5));
    assert_eq!(next(&record, settled + 5, "third"), Next::Submit);
    // That lease allows to submit, too.
    assert_eq!(next(&record, settled + 65, "fourth"), Next::Look);
}

#[test]
fn a_run_that_waits_is_left_until_its_time_unless_it_is_to_be_cancelled() {
    let mut record = accepted();
    record.release();
    record.not_before = Some(after(300));
    assert_eq!(next(&record, 299, "first"), Next::Leave);
    assert_eq!(next(&record, 300, "first"), Next::TakeLease);
    record.cancel = Some(cancel(10));
    assert_eq!(next(&record, 11, "first"), Next::Cancel);
}

#[test]
fn a_run_that_is_too_old_expires_only_when_nothing_of_it_can_be_under_way() {
    let mut record = accepted();
    assert_eq!(next(&record, 30_000, "second"), Next::Look);
    record.not_found(after(30_000), &turn("second", 30_000));
    assert_eq!(next(&record, 30_000, "second"), Next::Expire);
    record.expired(&turn("second", 30_000));
    assert_eq!(record.state, State::Rejected);
    // One that had a workflow was not rejected.
    let mut record = accepted();
    record.had_workflow = true;
    record.expired(&turn("second", 30_000));
    assert_eq!(record.state, State::Failed);
}

#[test]
fn a_look_that_fails_for_long_repeats_the_submission_until_that_is_of_no_use() {
    let mut record = accepted();
    record.look_failed("denied", &turn("second", 100));
    assert_eq!(next(&record, 100, "second"), Next::Leave);
    record.look_failed("denied", &turn("third", 699));
    assert!(record.lease.is_none(), "{:?}", record.lease);
    record.look_failed("denied", &turn("third", 700));
    assert!(record.lease.as_ref().is_some_and(|lease| lease.may_submit && lease.writer == "third"));
    assert_eq!(record.unsettled_until, Some(after(60)), "the first submission is still looked for");
    for hopeless in
        [|record: &mut Record| record.exists = true, |record: &mut Record| record.cancel = Some(cancel(200))]
    {
        let mut record = record.clone();
        record.release();
        hopeless(&mut record);
        record.look_failed("denied", &turn("third", 800));
        assert!(record.lease.is_none() && !record.state.is_end());
    }
}

#[test]
fn a_run_whose_workflow_stays_unknown_ends_within_the_documented_time() {
    const HOUR: i64 = 3600;
    let blind = |prepare: fn(&mut Record)| {
        let mut record = accepted();
        record.look_failed("denied", &turn("second", 100));
        prepare(&mut record);
        record
    };
    let ends_at = |mut record: Record, at: i64| {
        record.lost_sight("denied", &turn("third", at - 1));
        assert!(!record.state.is_end(), "before {at}");
        record.lost_sight("denied", &turn("third", at));
        assert_eq!(record.state, State::Failed, "at {at}");
        let failure = record.failure.expect("a reason");
        assert_eq!(failure.code, "UNKNOWN");
        assert!(
            failure.message.contains("labels.run_id = 00000000-0000-0000-0000-000000000007"),
            "{}",
            failure.message
        );
    };
    // It may have no workflow, and is too old for one after 6 hours.
    ends_at(blind(|_| {}), 6 * HOUR + 1);
    ends_at(blind(|record| record.exists = true), 72 * HOUR + 100);
    ends_at(blind(|record| record.state = State::Submitted), 72 * HOUR + 100);
    ends_at(blind(|record| record.cancel = Some(cancel(10))), HOUR + 100);
    ends_at(blind(|record| record.cancel = Some(cancel(5_000))), HOUR + 5_000);
    // What is seen again begins anew.
    let mut record = blind(|_| {});
    record.not_found(after(200), &turn("second", 200));
    assert_eq!(record.blind_since, None);
}
