//! Cancels in every state, instances beside each other, more runs than a tick can take, and records whose writes or
//! contents are lost.

mod support;

use std::{collections::BTreeSet, time::Duration};

use cloudevents::{Event, EventBuilder, EventBuilderV10};
use inline_workflow::{context::Context, environment};
use inline_workflow_emulator::{Fault, Options, Outcome, Phase, Trouble, What, When};
use serde_json::{Value, json};
use support::{BUCKET, World, deliver, message, one_step};
use tokio::time::{sleep, timeout};
use tonic::Code;

const SUBMIT: &str = "InstantiateInlineWorkflowTemplate";

fn named() -> Value {
    let mut request = one_step();
    request["request_id"] = json!("r1");
    request
}

fn cancel() -> Value {
    json!({ "action": "cancel", "job_name": "word-count", "request_id": "r1" })
}

/// Asks for the end of the run twice, and lets it come to its end.
async fn cancel_and_wait(world: &World, cx: &Context) {
    for _ in 0..2 {
        deliver(cx, &world.request(&cancel())).await.expect("answered");
    }
    assert_eq!(world.count("answered"), 2);
    world.ticks(cx, 20).await;
    assert!(world.objects("active/").is_empty(), "{:?}", world.kinds());
}

fn ends(world: &World) -> Vec<String> {
    let is_end = |kind: &String| ["succeeded", "failed", "cancelled", "rejected"].contains(&kind.as_str());
    world.kinds().into_iter().filter(is_end).collect()
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_overtakes_its_request_is_followed_when_it_comes() {
    let mut world = World::new();
    let cx = world.instance();
    let request = world.request(&named());
    deliver(&cx, &world.request(&cancel())).await.unwrap();
    assert_eq!(world.said()[0].data["found"], false);
    // However late it is delivered.
    sleep(Duration::from_secs(7200)).await;
    deliver(&cx, &request).await.unwrap();
    assert_eq!((ends(&world), world.emulator.workflows().len()), (vec!["cancelled".to_owned()], 0));
    world.ticks(&cx, 2).await;
    assert_eq!((ends(&world).len(), world.objects("active/").len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_does_not_count_for_a_request_that_is_published_after_it() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&cancel())).await.unwrap();
    sleep(Duration::from_secs(61)).await;
    deliver(&cx, &world.request(&named())).await.unwrap();
    world.ticks(&cx, 5).await;
    assert_eq!(ends(&world), ["succeeded"]);
    // Of two cancels the later one counts.
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&cancel())).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    let request = world.request(&named());
    deliver(&cx, &world.request(&cancel())).await.unwrap();
    deliver(&cx, &request).await.unwrap();
    assert_eq!(ends(&world), ["cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_of_a_run_whose_submitter_died_finds_what_was_submitted() {
    // Died before the call was executed, and after it.
    for (what, workflows) in [(What::Hang, 0), (What::HangAfter, 1)] {
        let mut world = World::new();
        let (dead, cx) = (world.instance(), world.instance());
        world.emulator.fault(Fault::times(SUBMIT, what, 1));
        let event = world.request(&named());
        timeout(Duration::from_secs(1), deliver(&dead, &event)).await.unwrap_err();
        assert_eq!(world.record()["state"], "accepted");
        cancel_and_wait(&world, &cx).await;
        assert_eq!(ends(&world), ["cancelled"]);
        assert_eq!(world.emulator.workflows().len(), workflows);
        assert!(world.emulator.workflows().iter().all(|workflow| !workflow.is_alive()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_of_a_waiting_run_ends_it_without_another_attempt() {
    let mut world = World::new();
    let cx = world.instance();
    let denied = What::Code(Code::PermissionDenied, "not yet".to_owned());
    world.emulator.fault(Fault::times(SUBMIT, denied, 1));
    deliver(&cx, &world.request(&named())).await.unwrap();
    assert_eq!(world.record()["state"], "waiting");
    cancel_and_wait(&world, &cx).await;
    assert_eq!(ends(&world), ["cancelled"]);
    assert!(world.emulator.workflows().is_empty());

    // For capacity, after a first workflow has failed.
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.mishap(Trouble::Stockout, When::Times(1));
    deliver(&cx, &world.request(&named())).await.unwrap();
    world.ticks(&cx, 3).await;
    assert_eq!(world.record()["state"], "waiting");
    cancel_and_wait(&world, &cx).await;
    assert_eq!(ends(&world), ["cancelled"]);
    assert_eq!(world.emulator.workflows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_stops_a_workflow_in_every_phase_and_tells_dataproc_once() {
    for phase in [Phase::Pending, Phase::Creating, Phase::Running, Phase::Deleting] {
        let mut world = World::new();
        let cx = world.instance();
        deliver(&cx, &world.request(&named())).await.unwrap();
        while world.emulator.workflows()[0].phase != phase {
            sleep(Duration::from_millis(500)).await;
        }
        cancel_and_wait(&world, &cx).await;
        assert_eq!(ends(&world), ["cancelled"], "{phase:?}");
        let calls = world.emulator.calls();
        assert_eq!(calls.iter().filter(|call| call.path.ends_with("/CancelOperation")).count(), 1, "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_comes_too_late_changes_nothing() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&named())).await.unwrap();
    // Ended, and nobody has seen it yet.
    sleep(Duration::from_secs(300)).await;
    deliver(&cx, &world.request(&cancel())).await.unwrap();
    assert_eq!(ends(&world), ["succeeded"]);
    deliver(&cx, &world.request(&cancel())).await.unwrap();
    let said = world.said();
    assert_eq!(
        (said.last().unwrap().kind.as_str(), &said.last().unwrap().data["state"]),
        ("answered", &json!("succeeded"))
    );
    world.ticks(&cx, 3).await;
    assert_eq!(ends(&world), ["succeeded"]);
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn whoever_holds_the_lease_is_left_alone() {
    let mut world = World::new();
    let (one, two) = (world.instance(), world.instance());
    let slow = What::Delay(Duration::from_secs(2));
    world.emulator.fault(Fault::times(SUBMIT, slow, 1));
    let event = world.request(&one_step());
    let second = async {
        sleep(Duration::from_secs(1)).await;
        deliver(&two, &event).await
    };
    let (first, second) = tokio::join!(deliver(&one, &event), second);
    first.unwrap();
    second.unwrap();
    assert_eq!((world.kinds(), &world.record()["state"]), (vec!["submitted".to_owned()], &json!("submitted")));
}

#[tokio::test(start_paused = true)]
async fn instances_that_sweep_at_once_do_each_thing_once() {
    let mut world = World::new();
    let instances: Vec<Context> = (0..3).map(|_| world.instance()).collect();
    for _ in 0..20 {
        deliver(&instances[0], &world.request(&one_step())).await.unwrap();
    }
    for _ in 0..8 {
        sleep(Duration::from_secs(60)).await;
        let tick = message(support::TICKS, "tick", b"", world.now());
        let all = instances.iter().map(|cx| deliver(cx, &tick));
        futures::future::join_all(all).await.into_iter().for_each(|result| result.unwrap());
    }
    assert_eq!(world.emulator.workflows().len(), 20);
    assert!(world.objects("active/").is_empty());
    let mut first = BTreeSet::new();
    let said: Vec<_> = world.said().into_iter().filter(|said| first.insert(said.id.clone())).collect();
    assert_eq!(said.iter().filter(|said| said.kind == "succeeded").count(), 20);
    for run in said.iter().map(|said| &said.attributes["ce-runid"]).collect::<BTreeSet<_>>() {
        let of_run = said.iter().filter(|said| said.attributes["ce-runid"] == *run);
        assert!(of_run.map(|said| said.sequence).is_sorted_by(|a, b| a < b), "{run}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_run_has_its_turn_when_a_tick_cannot_take_them_all() {
    const RUNS: usize = 800;
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.on_step("count", Outcome::Hang);
    for _ in 0..RUNS {
        deliver(&cx, &world.request(&one_step())).await.unwrap();
    }
    // 64 at a time and 1.4 s each: fewer than half of them within a tick.
    let slow = What::Delay(Duration::from_millis(1400));
    world.emulator.fault(Fault { method: "GetOperation".to_owned(), what: slow, when: When::Always });
    let followed = |world: &World| {
        let calls = world.emulator.calls();
        let gets = calls.into_iter().filter(|call| call.path.ends_with("/GetOperation"));
        gets.map(|call| call.headers["x-goog-request-params"].clone()).collect::<BTreeSet<_>>().len()
    };
    world.emulator.clear_calls();
    world.tick(&cx).await;
    assert!((64..RUNS / 2).contains(&followed(&world)), "{}", followed(&world));
    world.ticks(&cx, 4).await;
    assert_eq!(followed(&world), RUNS);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_of_record_writes_lose_and_double_nothing() {
    for seed in 0..30 {
        let mut world = World::with(Options { seed, ..Options::default() });
        let (one, two) = (world.instance(), world.instance());
        let lost = Fault { method: "WriteObject".to_owned(), what: What::LoseAnswer, when: When::Probability(0.4) };
        world.emulator.fault(lost);
        let event = world.request(&one_step());
        while deliver(&one, &event).await.is_err() {
            sleep(Duration::from_secs(10)).await;
        }
        for _ in 0..10 {
            world.tick(&one).await;
            world.tick(&two).await;
        }
        assert_eq!(world.emulator.workflows().len(), 1, "seed {seed}");
        assert_eq!(ends(&world), ["succeeded"], "seed {seed}");
        assert!(world.objects("active/").is_empty(), "seed {seed}");
    }
}

fn audit_event(operation: &str) -> Event {
    EventBuilderV10::new()
        .id("audit-1")
        .source("//cloudaudit.googleapis.com/projects/test-project/logs/activity")
        .ty("google.cloud.audit.log.v1.written")
        .data("application/json", json!({ "operation": { "id": operation, "last": true } }))
        .build()
        .expect("an event")
}

#[tokio::test(start_paused = true)]
async fn the_audit_log_wakes_one_run_and_no_other() {
    let mut world = World::new();
    let cx = world.instance();
    for _ in 0..2 {
        deliver(&cx, &world.request(&one_step())).await.unwrap();
    }
    sleep(Duration::from_secs(300)).await;
    let operation = world.emulator.workflows()[1].name.clone();
    deliver(&cx, &audit_event(&operation)).await.unwrap();
    deliver(&cx, &audit_event(&operation)).await.unwrap();
    assert_eq!(ends(&world), ["succeeded"]);
    assert_eq!(world.objects("active/").len(), 1);
    // One that Dataproc does not know is somebody else's.
    deliver(&cx, &audit_event("projects/test-project/regions/us-central1/operations/foreign")).await.unwrap();
    world.tick(&cx).await;
    assert_eq!(ends(&world), ["succeeded", "succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_a_buried_run_says_whose_it_is_and_comes_last() {
    let mut world = World::new();
    world.set(environment::ENV_RETRY_DELAY, "1");
    let cx = world.instance();
    deliver(&cx, &world.request(&named())).await.unwrap();
    world.ticks(&cx, 1).await;
    let before = world.said();
    // The record is JSON, and no record.
    let mut record = world.record();
    record["state"] = json!("no such state");
    let name = world.objects("runs/").pop().unwrap();
    world.emulator.put_object(BUCKET, &name, record.to_string());
    world.ticks(&cx, 2).await;
    let end = world.said().pop().unwrap();
    assert_eq!((end.kind.as_str(), &end.data["error"]["code"]), ("failed", &json!("DATA_LOSS")));
    assert_eq!(end.data["request_id"], "r1");
    assert_eq!(end.attributes["ce-messageid"], before[0].attributes["ce-messageid"]);
    assert_eq!(end.attributes["caller"], "test");
    assert!(before.iter().all(|said| said.sequence < end.sequence), "{}", end.sequence);
    assert_eq!(world.objects("dead/").len(), 1);
    assert!(world.objects("active/").is_empty());
}
