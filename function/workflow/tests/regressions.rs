//! Holes that the simulation found, each as the shortest story that falls into it.

mod support;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use cloudevents::{EventBuilder, EventBuilderV10};
use inline_workflow::environment;
use inline_workflow_emulator::{Fault, Options, Outcome, Trouble, What, When};
use serde_json::{Value, json};
use support::{BUCKET, CONFIG, TICKS, World, deliver, message, one_step};
use tonic::Code;

/// A request of one step under the request_id `once`.
fn once() -> Value {
    let mut request = one_step();
    request["request_id"] = json!("once");
    request
}

fn invalid(mut request: Value) -> Value {
    request["jobs"][0]["no_such_field"] = json!(1);
    request
}

fn down(method: &str, times: u64) -> Fault {
    Fault::times(method, What::Code(Code::Unavailable, "down".to_owned()), times)
}

fn refusal() -> Fault {
    let what = What::Code(Code::InvalidArgument, "Image version is not supported".to_owned());
    Fault::times("InstantiateInlineWorkflowTemplate", what, 1)
}

#[tokio::test(start_paused = true)]
async fn an_invalid_message_under_a_running_runs_request_id_is_answered_and_not_rejected() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&once())).await.unwrap();
    deliver(&cx, &world.request(&invalid(once()))).await.unwrap();
    assert_eq!(world.kinds(), ["submitted", "answered"]);
    let answer = world.said().pop().unwrap();
    assert_eq!(answer.data["found"], true);
    assert_eq!(answer.data["error"]["code"], "INVALID_ARGUMENT");
    assert_eq!(answer.data["violations"][0]["path"], "jobs[0].no_such_field");
    world.ticks(&cx, 8).await;
    assert_eq!((world.count("succeeded"), world.count("rejected")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_invalid_message_meets_a_record_that_cannot_be_shown() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&once())).await.unwrap();
    let record = world.objects("runs/").pop().unwrap();
    world.emulator.put_object(BUCKET, &record, "{\"version\": 2}");
    deliver(&cx, &world.request(&invalid(once()))).await.unwrap();
    let answer = world.said().pop().unwrap();
    assert_eq!((answer.kind.as_str(), &answer.data["found"]), ("answered", &json!(true)));
    assert_eq!(answer.data["error"]["code"], "FAILED_PRECONDITION");
    assert_eq!(world.emulator.object(BUCKET, &record).unwrap(), "{\"version\": 2}");
    world.emulator.put_object(BUCKET, &record, "{\"version\": 1");
    deliver(&cx, &world.request(&invalid(once()))).await.unwrap();
    assert_eq!(world.said().pop().unwrap().kind, "failed");
    assert_eq!(world.objects("dead/").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repetition_of_an_ended_run_comes_again_until_its_end_could_be_said() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&once())).await.unwrap();
    world.ticks(&cx, 8).await;
    assert_eq!(world.count("succeeded"), 1);
    let repetition = world.request(&once());
    world.emulator.fault(Fault { when: When::Always, ..down("Publish", 1) });
    deliver(&cx, &repetition).await.unwrap_err();
    world.emulator.clear_faults();
    deliver(&cx, &repetition).await.unwrap();
    assert_eq!(world.count("succeeded"), 2);
    assert_eq!(world.emulator.workflows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repetition_of_an_ended_run_leaves_nothing_to_the_ticks() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&once())).await.unwrap();
    world.ticks(&cx, 8).await;
    deliver(&cx, &world.request(&once())).await.unwrap();
    assert_eq!(world.count("succeeded"), 2);
    assert!(world.objects("active/").is_empty());
    world.ticks(&cx, 2).await;
    assert_eq!(world.count("succeeded"), 2);
}

#[tokio::test(start_paused = true)]
async fn only_a_later_message_brings_a_rejected_run_to_life() {
    let mut world = World::new();
    let cx = world.instance();
    let overtaken = world.request(&once());
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.emulator.fault(refusal());
    deliver(&cx, &world.request(&once())).await.unwrap();
    deliver(&cx, &overtaken).await.unwrap();
    assert_eq!(world.kinds(), ["rejected", "rejected"]);
    assert!(world.emulator.workflows().is_empty());
    tokio::time::sleep(Duration::from_secs(1)).await;
    deliver(&cx, &world.request(&once())).await.unwrap();
    assert_eq!(world.emulator.workflows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_without_a_time_is_not_taken_for_a_later_one_when_it_comes_again() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(refusal());
    let data = json!({ "message": { "data": BASE64.encode(once().to_string()), "messageId": "m1" } });
    let event = EventBuilderV10::new()
        .id("m1")
        .source(format!("//pubsub.googleapis.com/{}", support::REQUESTS))
        .ty("google.cloud.pubsub.topic.v1.messagePublished")
        .data("application/json", data)
        .build()
        .expect("an event");
    deliver(&cx, &event).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    deliver(&cx, &event).await.unwrap();
    assert_eq!(world.kinds(), ["rejected", "rejected"]);
    assert!(world.emulator.workflows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_told_before_its_run_begins_anew() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(refusal());
    world.emulator.fault(Fault { when: When::Always, ..down("Publish", 1) });
    deliver(&cx, &world.request(&once())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let later = world.request(&once());
    // Nobody would ever tell it if its record were replaced now.
    deliver(&cx, &later).await.unwrap_err();
    assert!(world.emulator.workflows().is_empty());
    world.emulator.clear_faults();
    deliver(&cx, &later).await.unwrap();
    assert_eq!(world.kinds(), ["rejected", "submitted"]);
    world.ticks(&cx, 8).await;
    assert_eq!(world.count("succeeded"), 1);
    let sequences: Vec<_> = world.said().into_iter().map(|said| said.sequence).collect();
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_repeated_message_puts_the_marker_back() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&once())).await.unwrap();
    let marker = world.objects("active/").pop().unwrap();
    assert!(world.emulator.delete_object(BUCKET, &marker));
    deliver(&cx, &world.request(&once())).await.unwrap();
    assert_eq!(world.objects("active/"), [marker]);
}

#[tokio::test(start_paused = true)]
async fn what_a_bad_configuration_refused_stays_refused_when_it_is_delivered_again() {
    let mut world = World::new();
    let cx = world.instance();
    let good = world.emulator.object(BUCKET, CONFIG).unwrap();
    world.emulator.put_object(BUCKET, CONFIG, "{");
    let event = world.request(&once());
    deliver(&cx, &event).await.unwrap();
    world.emulator.put_object(BUCKET, CONFIG, good);
    deliver(&cx, &event).await.unwrap();
    let said = world.said();
    assert_eq!(world.kinds(), ["rejected", "rejected"]);
    assert_eq!((&said[0].id, &said[0].data), (&said[1].id, &said[1].data));
    assert!(world.emulator.workflows().is_empty() && world.objects("active/").is_empty());
    tokio::time::sleep(Duration::from_secs(1)).await;
    deliver(&cx, &world.request(&once())).await.unwrap();
    assert_eq!(world.kinds().last().unwrap(), "submitted");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_wrong_in_itself_is_not_recorded_whatever_the_configuration_is_worth() {
    let mut world = World::new();
    let cx = world.instance();
    let event = world.request(&invalid(once()));
    deliver(&cx, &event).await.unwrap();
    world.emulator.put_object(BUCKET, CONFIG, "{");
    deliver(&cx, &event).await.unwrap();
    let said = world.said();
    assert_eq!(world.kinds(), ["rejected", "rejected"]);
    assert_eq!((&said[0].id, said[0].sequence), (&said[1].id, said[1].sequence));
    assert!(world.objects("runs/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_dataproc_has_forgotten_for_ten_minutes_has_failed() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.on_step("count", Outcome::Hang);
    deliver(&cx, &world.request(&once())).await.unwrap();
    assert!(world.emulator.forget_operation(&world.emulator.workflows()[0].name));
    world.ticks(&cx, 9).await;
    assert_eq!(world.count("failed"), 0);
    world.ticks(&cx, 3).await;
    let end = world.said().pop().unwrap();
    assert_eq!((end.kind.as_str(), &end.data["error"]["code"]), ("failed", &json!("NOT_FOUND")));
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_lay_too_long_is_ignored() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&once())).await.unwrap();
    let published = world.now();
    tokio::time::sleep(Duration::from_secs(91)).await;
    world.emulator.clear_calls();
    deliver(&cx, &message(TICKS, "tick", b"", published)).await.unwrap();
    assert!(world.emulator.calls().is_empty());
    deliver(&cx, &message(TICKS, "tick", b"", world.now())).await.unwrap();
    assert!(!world.emulator.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_a_stockout_the_zone_is_left_to_the_service_unless_the_request_named_it() {
    for (zone, expected) in [(None, Value::Null), (Some("us-central1-b"), json!("us-central1-b"))] {
        let mut world = World::with(Options::default());
        world.set(environment::ENV_CAPACITY_RETRIES, "1");
        let cx = world.instance();
        let mut request = once();
        request["zone"] = json!(zone);
        world.emulator.mishap(Trouble::Stockout, When::Times(1));
        deliver(&cx, &world.request(&request)).await.unwrap();
        world.ticks(&cx, 30).await;
        let zones: Vec<Value> = world
            .emulator
            .workflows()
            .iter()
            .map(|it| {
                it.template_json()["placement"]["managedCluster"]["config"]["gceClusterConfig"]["zoneUri"].clone()
            })
            .collect();
        assert_eq!(zones, [json!(zone.unwrap_or("us-central1-a")), expected]);
        assert_eq!(world.count("succeeded"), 1);
    }
}

/// Errors that alternate: the second time is another fact, with an id of its own. Found at seed 8517.
#[tokio::test(start_paused = true)]
async fn an_error_that_comes_back_is_told_as_new() {
    let mut world = World::new();
    let cx = world.instance();
    for text in ["one", "two", "one"] {
        let what = What::Code(Code::PermissionDenied, text.to_owned());
        world.emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", what, 1));
    }
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.ticks(&cx, 6).await;
    let waited: Vec<_> = world.said().into_iter().filter(|said| said.data["state"] == "waiting").collect();
    let texts: Vec<_> = waited.iter().map(|said| said.data["error"]["message"].as_str().unwrap()).collect();
    assert_eq!(texts, ["one", "two", "one"]);
    let mut ids: Vec<_> = waited.iter().map(|said| &said.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

/// Found at seed 9508 of the simulation.
#[tokio::test(start_paused = true)]
async fn a_run_whose_record_was_deleted_begins_anew_only_when_its_workflow_has_ended() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.mishap(Trouble::QuotaRefused, When::Times(1));
    deliver(&cx, &world.request(&once())).await.unwrap();
    // The second attempt.
    while world.emulator.workflows().is_empty() {
        world.tick(&cx).await;
    }
    let record = world.objects("runs/").pop().unwrap();
    assert!(world.emulator.delete_object(BUCKET, &record));
    deliver(&cx, &world.request(&once())).await.unwrap();
    assert_eq!(world.emulator.workflows().len(), 1);
    world.ticks(&cx, 12).await;
    let most = world.emulator.most_alive(|workflow| workflow.labels["run_id"].clone());
    assert_eq!(most.into_values().collect::<Vec<_>>(), [1]);
    assert_eq!((world.emulator.workflows().len(), world.count("succeeded")), (2, 1));
}
