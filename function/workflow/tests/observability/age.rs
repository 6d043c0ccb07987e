//! The age of the oldest active run, as a tick finds it.

use std::time::Duration;

use chrono::TimeDelta;
use inline_workflow::{context::Context, sweep::sweep};
use inline_workflow_emulator::{Fault, Outcome, What, When};
use serde_json::json;
use tokio::time::sleep;
use tonic::Code;

use crate::support::{World, deliver, one_step};

/// What a tick says now, in seconds.
async fn oldest(world: &World, cx: &Context) -> Option<i64> {
    let swept = sweep(&cx.clone().for_event(), None).await.expect("the markers can be listed");
    swept.oldest.map(|since| (world.now() - since).num_seconds())
}

#[tokio::test(start_paused = true)]
async fn it_is_that_of_the_record_also_when_the_marker_is_new_or_a_call_fails() {
    let mut world = World::new();
    let cx = world.instance();
    assert_eq!(oldest(&world, &cx).await, None);
    world.emulator.on_step("count", Outcome::Hang);
    let mut request = one_step();
    request["request_id"] = json!("r1");
    deliver(&cx, &world.request(&request)).await.unwrap();
    sleep(Duration::from_secs(3000)).await;
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    assert_eq!(oldest(&world, &cx).await, Some(3000));
    // The same request again makes the marker anew.
    deliver(&cx, &world.request(&request)).await.unwrap();
    assert_eq!(oldest(&world, &cx).await, Some(3000));
    // What fails after the record is read leaves the record's time.
    let unavailable = What::Code(Code::Unavailable, "out for lunch".to_owned());
    world.emulator.fault(Fault { method: "GetOperation".to_owned(), what: unavailable.clone(), when: When::Always });
    assert_eq!(oldest(&world, &cx).await, Some(3000));
    // Without a record there is the marker's: the second run's, for the first one's is new.
    world.emulator.fault(Fault { method: "ReadObject".to_owned(), what: unavailable, when: When::Always });
    sleep(Duration::from_secs(100)).await;
    assert_eq!(oldest(&world, &cx).await, Some(100));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_in_the_tick_is_no_longer_active_unless_its_end_cannot_be_said() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    sleep(Duration::from_secs(300)).await;
    let unavailable = What::Code(Code::Unavailable, "out for lunch".to_owned());
    world.emulator.fault(Fault { method: "Publish".to_owned(), what: unavailable, when: When::Always });
    assert_eq!(oldest(&world, &cx).await, Some(300));
    world.emulator.clear_faults();
    assert_eq!(oldest(&world, &cx).await, None);
    assert_eq!(world.count("succeeded"), 1);
}

#[tokio::test(start_paused = true)]
async fn runs_that_a_tick_does_not_get_to_count_too() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.on_step("count", Outcome::Hang);
    for _ in 0..300 {
        deliver(&cx, &world.request(&one_step())).await.unwrap();
    }
    sleep(Duration::from_secs(600)).await;
    // No call is answered in time: of the runs, the first 64 are begun and no other.
    let slow = What::Delay(Duration::from_secs(20));
    world.emulator.fault(Fault { method: "ReadObject".to_owned(), what: slow, when: When::Always });
    let swept = sweep(&cx.clone().for_event(), None).await.expect("the markers can be listed");
    assert!(swept.seen < 300 && !swept.complete, "{swept:?}");
    let age = world.now() - swept.oldest.expect("there are some");
    assert!(age >= TimeDelta::seconds(600), "{age}");
}
