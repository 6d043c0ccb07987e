//! What is stored arrives unchanged and is deleted by no rule too early; what is too large or refused stops no run.

mod support;

use std::time::Duration;

use inline_workflow::{
    error::Origin,
    record::{Correlation, Record, State},
    records::custom_time,
    storage::{Read, Written},
};
use inline_workflow_emulator::{Fault, Outcome, What, When};
use serde_json::{Value, json};
use support::{BUCKET, CONFIG, RESPONSES, World, deliver, one_step};
use tonic::Code;
use uuid::Uuid;

const MIB: usize = 1024 * 1024;
const LIMIT: usize = 8 * MIB;

fn always(method: &str, what: What) -> Fault {
    Fault { when: When::Always, ..Fault::times(method, what, 1) }
}

fn refusal() -> What {
    What::Code(Code::InvalidArgument, "Invalid data in message: Message failed schema validation.".to_owned())
}

fn cancel(run_id: &str) -> Value {
    json!({ "action": "cancel", "run_id": run_id })
}

// Checksums.

#[tokio::test(start_paused = true)]
async fn a_bit_that_is_flipped_on_its_way_is_an_error_and_once_is_made_good() {
    let mut world = World::new();
    let cx = world.instance().for_event();
    for content in [vec![b'x'], vec![b'x'; 5 * MIB]] {
        for method in ["WriteObject", "ReadObject"] {
            let name = format!("{method}/{}", content.len());
            let write = || cx.storage.write(&name, &content, "text/plain", None, 0);
            world.emulator.fault(Fault::times(method, What::Corrupt, 1));
            assert!(matches!(write().await, Ok(Written::At(_))), "{name}");
            let read = cx.storage.read(&name, None, LIMIT).await;
            assert!(matches!(read, Ok(Read::Object { content: read, .. }) if read == content), "{name}");
        }
        let name = format!("never/{}", content.len());
        world.emulator.fault(always("WriteObject", What::Corrupt));
        let error = cx.storage.write(&name, &content, "text/plain", None, 0).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "the service finds it out: {error}");
        assert!(world.emulator.object(BUCKET, &name).is_none());
        world.emulator.clear_faults();
        world.emulator.put_object(BUCKET, &name, content);
        world.emulator.fault(always("ReadObject", What::Corrupt));
        let error = cx.storage.read(&name, None, LIMIT).await.unwrap_err();
        assert_eq!(error.code, Code::DataLoss, "{error}");
        assert_eq!(error.origin, Origin::Unknown);
        world.emulator.clear_faults();
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_or_configuration_that_arrives_corrupt_starts_nothing_and_is_not_buried() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(always("Storage", What::Corrupt));
    let event = world.request(&one_step());
    deliver(&cx, &event).await.unwrap_err();
    assert!(world.objects("runs/").is_empty() && world.emulator.workflows().is_empty());
    world.emulator.clear_faults();
    deliver(&cx, &event).await.unwrap();
    world.emulator.fault(always("Storage", What::Corrupt));
    world.ticks(&cx, 5).await;
    assert_eq!(world.kinds(), ["submitted"]);
    world.emulator.clear_faults();
    world.ticks(&cx, 6).await;
    assert_eq!((world.count("succeeded"), world.objects("dead/").len()), (1, 0));
    assert_eq!(world.emulator.workflows().len(), 1);
}

// Sizes.

#[tokio::test(start_paused = true)]
async fn a_configuration_beyond_the_limit_rejects_with_its_size_and_is_read_once() {
    let mut world = World::new();
    let cx = world.instance();
    let limit = 10 * MIB;
    let padded = |size: usize| {
        let config = r#"{ "default_cluster_config": { "config": {} } }"#;
        format!("{config}{}", " ".repeat(size - config.len()))
    };
    world.emulator.put_object(BUCKET, CONFIG, padded(limit + 1));
    for _ in 0..2 {
        deliver(&cx, &world.request(&one_step())).await.unwrap();
        let said = world.said().pop().unwrap();
        assert_eq!((said.kind.as_str(), &said.data["violations"][0]["document"]), ("rejected", &json!("config")));
        let reason = said.data["violations"][0]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(CONFIG) && reason.contains("10485761") && reason.contains("10485760"), "{reason}");
    }
    let reads = world.emulator.calls().into_iter().filter(|call| call.path.ends_with("/ReadObject"));
    assert_eq!(reads.filter(|call| call.answer == Some(Code::Ok)).count(), 1);
    world.emulator.put_object(BUCKET, CONFIG, padded(limit));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    assert_eq!(world.said().pop().unwrap().kind, "submitted");
}

#[tokio::test(start_paused = true)]
async fn a_record_beyond_the_limit_is_buried_by_its_beginning() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    let record = world.objects("runs/").pop().unwrap();
    world.emulator.put_object(BUCKET, &record, vec![b'x'; 64 * MIB + 1]);
    world.tick(&cx).await;
    let end = world.said().pop().unwrap();
    assert_eq!((end.kind.as_str(), &end.data["error"]["code"]), ("failed", &json!("DATA_LOSS")));
    let message = end.data["error"]["message"].as_str().unwrap();
    assert!(message.contains("67108865") && message.contains("dead/"), "{message}");
    let dead = world.objects("dead/").pop().unwrap();
    assert_eq!(world.emulator.object(BUCKET, &dead).unwrap(), vec![b'x'; 2 * MIB]);
    assert!(world.objects("active/").is_empty());
}

// Custom times.

/// Whether an object has a custom time: the lifecycle rule sees no other.
fn has_custom_time(world: &World, object: &str) -> bool {
    world.emulator.object_metadata(BUCKET, object).expect("stored").custom_time.is_some()
}

#[test]
fn a_record_has_a_custom_time_if_and_only_if_its_run_has_ended() {
    let now = "2026-03-01T12:00:00Z".parse().unwrap();
    let mut record = Record::accepted(Correlation::of_run(Uuid::nil()), None, now);
    for state in [
        State::Accepted,
        State::Waiting,
        State::Submitted,
        State::Succeeded,
        State::Failed,
        State::Cancelled,
        State::Rejected,
    ] {
        record.state = state;
        let expected = (!matches!(state, State::Accepted | State::Waiting | State::Submitted)).then_some(now);
        assert_eq!(custom_time(&record, now), expected, "{state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_write_of_a_record_sets_the_custom_time_that_its_state_asks_for() {
    let mut world = World::new();
    let cx = world.instance();
    let denied = What::Code(Code::PermissionDenied, "not yet".to_owned());
    world.emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", denied, 1));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    let object = world.objects("runs/").pop().unwrap();
    let mut seen = Vec::new();
    for _ in 0..12 {
        let state = world.record()["state"].as_str().unwrap().to_owned();
        assert_eq!(has_custom_time(&world, &object), state == "succeeded", "{state}");
        seen.push(state);
        world.tick(&cx).await;
    }
    seen.dedup();
    assert_eq!(seen, ["waiting", "submitted", "succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn the_custom_time_is_when_the_end_was_recorded_and_not_when_the_workflow_ended() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    // No tick for longer than records are kept.
    tokio::time::sleep(Duration::from_secs(40 * 86_400)).await;
    world.tick(&cx).await;
    let object = world.objects("runs/").pop().unwrap();
    let custom_time = world.emulator.object_metadata(BUCKET, &object).unwrap().custom_time.unwrap();
    assert!(world.now().timestamp() - custom_time.seconds <= 60);
    assert_eq!(world.count("succeeded"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_started_anew_loses_its_custom_time() {
    let mut world = World::new();
    let cx = world.instance();
    let mut request = one_step();
    request["request_id"] = json!("r1");
    let what = What::Code(Code::InvalidArgument, "Image version is not supported".to_owned());
    world.emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", what, 1));
    deliver(&cx, &world.request(&request)).await.unwrap();
    let object = world.objects("runs/").pop().unwrap();
    assert_eq!((world.record()["state"].as_str(), has_custom_time(&world, &object)), (Some("rejected"), true));
    tokio::time::sleep(Duration::from_secs(1)).await;
    deliver(&cx, &world.request(&request)).await.unwrap();
    assert_eq!((world.record()["state"].as_str(), has_custom_time(&world, &object)), (Some("submitted"), false));
}

#[tokio::test(start_paused = true)]
async fn a_buried_record_has_a_custom_time_and_so_has_the_one_in_its_place() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    let record = world.objects("runs/").pop().unwrap();
    world.emulator.put_object(BUCKET, &record, "{");
    world.tick(&cx).await;
    assert!(has_custom_time(&world, &record) && has_custom_time(&world, &world.objects("dead/")[0]));
}

// Refused events.

#[tokio::test(start_paused = true)]
async fn a_refused_event_is_published_in_its_smallest_form_with_the_same_id() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.emulator.on_step("count", Outcome::Fail("exit code 3".to_owned()));
    for _ in 0..8 {
        // Each event's first form.
        world.emulator.clear_faults();
        world.emulator.fault(Fault::times("Publish", refusal(), 1));
        world.tick(&cx).await;
    }
    let end = world.said().pop().unwrap();
    assert_eq!(world.count("succeeded") + world.count("failed"), 1);
    assert_eq!(end.data["left_out"], json!(["*"]));
    assert!(end.data.get("steps").is_none() && !end.attributes.contains_key("caller"));
    assert_eq!(end.attributes["ce-runid"], end.data["run_id"]);
    assert!(world.emulator.published(RESPONSES).pop().unwrap().ordering_key.is_empty());
    assert_eq!(end.id, format!("{}/{}", end.data["run_id"].as_str().unwrap(), end.kind));
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_refuses_every_event_stops_no_run_and_gets_its_end_once_it_is_fixed() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(always("Publish", refusal()));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.ticks(&cx, 10).await;
    assert_eq!((world.record()["state"].as_str(), world.said().len()), (Some("succeeded"), 0));
    assert_eq!(world.objects("active/").len(), 1, "its end is not published");
    world.emulator.clear_faults();
    world.ticks(&cx, 2).await;
    assert_eq!(world.kinds(), ["succeeded"]);
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_events_are_refused_is_cancelled_all_the_same() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(always("Publish", refusal()));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    let run_id = world.record()["run_id"].as_str().unwrap().to_owned();
    // Its answer cannot be published, and it is recorded before.
    deliver(&cx, &world.request(&cancel(&run_id))).await.unwrap_err();
    world.ticks(&cx, 10).await;
    assert_eq!(world.record()["state"], "cancelled");
    assert!(world.emulator.workflows().iter().all(|workflow| !workflow.is_alive()));
}

#[tokio::test(start_paused = true)]
async fn a_code_that_is_not_a_refusal_reduces_nothing() {
    for code in [Code::Unavailable, Code::PermissionDenied, Code::NotFound, Code::ResourceExhausted] {
        let mut world = World::new();
        let cx = world.instance();
        world.emulator.fault(always("Publish", What::Code(code, "down".to_owned())));
        deliver(&cx, &world.request(&one_step())).await.unwrap();
        world.ticks(&cx, 2).await;
        world.emulator.clear_faults();
        world.ticks(&cx, 10).await;
        assert_eq!(world.kinds().first().map(String::as_str), Some("submitted"), "{code:?}");
        assert!(world.said().iter().all(|said| said.data.get("left_out").is_none()), "{code:?}");
    }
}
