//! A burst of requests against Dataproc's documented quotas, in virtual time: how long it takes, and how many calls.
//!
//! `cargo test --profile chaos -p inline-workflow --test quota -- --ignored --nocapture`; `REQUESTS=1000` for another burst.

mod support;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use gcloud_sdk::google::pubsub::v1::PubsubMessage;
use http::{Request, StatusCode};
use inline_workflow::handle::handle;
use inline_workflow_emulator::{DataprocOptions, Fault, Options, Push, PushSubscription, Quota, What, When};
use support::{REQUESTS, TICKS, World, one_step};

/// What each call takes.
const LATENCY: Duration = Duration::from_millis(20);
/// Nothing is left to wait for by then.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

#[ignore = "prints a table; takes a minute or more"]
#[tokio::test(start_paused = true)]
async fn a_burst_of_5_000_requests_runs_within_the_quotas() {
    let burst: usize = std::env::var("REQUESTS").map_or(5_000, |text| text.parse().expect("a number"));
    let quota = Quota::default();
    let dataproc = DataprocOptions { quota: Some(quota), ..DataprocOptions::default() };
    let mut world = World::with(Options { dataproc, keep: 10_000_000, ..Options::default() });
    let emulator = world.emulator.clone();
    emulator.fault(Fault { method: "*".to_owned(), what: What::Delay(LATENCY), when: When::Always });
    let cx = world.instance();
    emulator.push(Push::with(move |request: Request<Bytes>| {
        let cx = cx.clone();
        async move {
            let (head, body) = request.into_parts();
            let event = functions_framework::decode(&head, body).expect("an event");
            if handle(cx, event).await.is_ok() { StatusCode::NO_CONTENT } else { StatusCode::SERVICE_UNAVAILABLE }
        }
    }));
    for topic in [REQUESTS, TICKS] {
        let name = topic.replace("/topics/", "/subscriptions/");
        emulator.push_subscription(&PushSubscription::eventarc(&name, topic, "http://function/"));
    }
    emulator.start_ticks(TICKS);
    let data = one_step().to_string().into_bytes();
    for _ in 0..burst {
        emulator.publish(REQUESTS, PubsubMessage { data: data.clone(), ..PubsubMessage::default() });
    }
    let ended = async {
        while world.objects("runs/").len() < burst || !world.objects("active/").is_empty() {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    };
    let all_ended = tokio::time::timeout(PATIENCE, ended).await.is_ok();
    emulator.push(Push::Held);

    let minutes = |seconds: i64| seconds as f64 / 60.0;
    let submitted = emulator.workflows().iter().map(|it| (it.created - world.base).num_seconds()).max().unwrap_or(0);
    let ideal = burst as f64 / f64::from(quota.workflows);
    println!("{burst} requests at once, each call {} ms, in virtual time", LATENCY.as_millis());
    println!("  the last is submitted after {:.1} minutes; ideal: {ideal:.1}", minutes(submitted));
    println!("  the last has ended after {:.1} minutes", minutes((world.now() - world.base).num_seconds()));
    let mut calls: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for call in emulator.calls() {
        let method = call.path.rsplit('/').next().unwrap_or_default().to_owned();
        let refused = call.answer == Some(tonic::Code::ResourceExhausted);
        for method in [method, "all".to_owned()] {
            let counted = calls.entry(method).or_default();
            counted.0 += 1;
            counted.1 += usize::from(refused);
        }
    }
    println!("  {:<36} {:>13} {:>16}", "calls", "for each run", "over the quota");
    for (method, (all, refused)) in &calls {
        println!("  {method:<36} {:>13.2} {refused:>16}", *all as f64 / burst as f64);
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for kind in world.kinds() {
        *kinds.entry(kind).or_default() += 1;
    }
    println!("  events: {kinds:?}");
    assert!(all_ended, "{} runs have not ended", world.objects("active/").len());
    assert_eq!(world.count("succeeded"), burst);
}
