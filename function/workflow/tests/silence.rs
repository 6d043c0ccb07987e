//! A service that is slow, refuses to tell, or tells nothing: every run ends all the same, and only once.

mod support;

use std::time::Duration;

use inline_workflow::{context::Context, environment};
use inline_workflow_emulator::{Fault, Outcome, RepeatedRequestId, What, When};
use serde_json::{Value, json};
use support::{BUCKET, World, deliver, one_step};
use tokio::time::{Instant, sleep};
use tonic::Code;

const SUBMIT: &str = "InstantiateInlineWorkflowTemplate";
const HOUR: usize = 60;

fn always(method: &str, what: What) -> Fault {
    Fault { method: method.to_owned(), what, when: When::Always }
}

fn refused(method: &str, code: Code) -> Fault {
    always(method, What::Code(code, "no".to_owned()))
}

fn named() -> Value {
    let mut request = one_step();
    request["request_id"] = json!("r1");
    request
}

fn cancel() -> Value {
    json!({ "action": "cancel", "job_name": "word-count", "request_id": "r1" })
}

/// The kinds of the run's ends, and the last one's error code.
fn end(world: &World) -> (Vec<String>, Value) {
    let said = world.said();
    let is_end = |kind: &str| ["succeeded", "failed", "cancelled", "rejected"].contains(&kind);
    let ends: Vec<_> = said.iter().filter(|said| is_end(&said.kind)).collect();
    let code = ends.last().map_or(Value::Null, |said| said.data["error"]["code"].clone());
    (ends.iter().map(|said| said.kind.clone()).collect(), code)
}

/// How many ticks pass until nothing is active; at most `most`.
async fn ticks_until_quiet(world: &World, cx: &Context, most: usize) -> usize {
    for ticks in 0..most {
        if world.objects("active/").is_empty() {
            return ticks;
        }
        world.tick(cx).await;
    }
    panic!("still active after {most} ticks: {:?}", world.kinds().last());
}

#[tokio::test(start_paused = true)]
async fn a_run_of_1000_steps_ends_within_a_few_ticks_and_calls_however_slow_they_are() {
    for (latency, jobs_page) in [(0, 500), (130, 500), (750, 500), (1500, 500), (1500, 200)] {
        let mut world = World::new();
        world.emulator.dataproc_options(|options| options.jobs_page = jobs_page);
        let cx = world.instance();
        let job = one_step()["jobs"][0]["pyspark_job"].clone();
        let step = |number: u32| json!({ "step_id": format!("step-{number}"), "pyspark_job": job });
        let request = json!({ "job_name": "many", "jobs": (0..1000).map(step).collect::<Vec<_>>() });
        deliver(&cx, &world.request(&request)).await.unwrap();
        sleep(Duration::from_secs(3600)).await;
        world.emulator.fault(always("*", What::Delay(Duration::from_millis(latency))));
        world.emulator.clear_calls();
        let ticks = ticks_until_quiet(&world, &cx, 12).await;
        let calls = world.emulator.calls().len();
        assert!(ticks <= 6 && calls < 50, "{latency} ms, {jobs_page} a page: {ticks} ticks, {calls} calls");
        let ended = world.said().into_iter().find(|said| said.kind == "succeeded").expect("it succeeded");
        let steps = ended.data["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 1000);
        assert!(steps.iter().all(|step| step["driver_output_uri"].is_string()), "{latency} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_that_cannot_be_listed_are_asked_for_one_by_one_and_not_for_ever() {
    for (list, get) in [(Code::PermissionDenied, None), (Code::Unimplemented, Some(Code::PermissionDenied))] {
        let mut world = World::new();
        let cx = world.instance();
        world.emulator.fault(refused("ListJobs", list));
        get.into_iter().for_each(|code| world.emulator.fault(refused("GetJob", code)));
        deliver(&cx, &world.request(&one_step())).await.unwrap();
        ticks_until_quiet(&world, &cx, 15).await;
        let ended = world.said().pop().unwrap();
        assert_eq!(ended.kind, "succeeded");
        assert_eq!(ended.data["steps"][0]["driver_output_uri"].is_string(), get.is_none());
    }
    // Failures that may pass are waited for, for five minutes.
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(refused("JobController", Code::Unavailable));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    let ticks = ticks_until_quiet(&world, &cx, 20).await;
    assert!((8..15).contains(&ticks), "{ticks}");
    assert_eq!(end(&world).0, ["succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_is_not_supported_is_dropped() {
    let mut world = World::new();
    world.emulator.dataproc_options(|options| options.refuse_operation_filters = true);
    let cx = world.instance();
    world.emulator.fault(Fault::times(SUBMIT, What::HangAfter, 1));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    ticks_until_quiet(&world, &cx, 15).await;
    assert_eq!((end(&world).0, world.emulator.workflows().len()), (vec!["succeeded".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn one_listing_serves_all_runs_of_a_sweep_and_a_long_one_continues_over_ticks() {
    let mut world = World::new();
    let cx = world.instance();
    for _ in 0..40 {
        world.emulator.begin_foreign_workflow("projects/test-project/regions/us-central1", "other", Duration::ZERO);
    }
    world.emulator.fault(Fault::times(SUBMIT, What::HangAfter, 20));
    for _ in 0..20 {
        deliver(&cx, &world.request(&one_step())).await.unwrap();
    }
    world.emulator.dataproc_options(|options| options.operations_page = 10);
    world.emulator.fault(always("ListOperations", What::Delay(Duration::from_millis(1400))));
    world.emulator.clear_calls();
    world.ticks(&cx, 5).await;
    let pages = world.emulator.calls().iter().filter(|call| call.path.ends_with("/ListOperations")).count();
    assert!(pages <= 12, "{pages}");
    world.emulator.clear_faults();
    ticks_until_quiet(&world, &cx, 15).await;
    assert_eq!((world.count("succeeded"), world.count("failed")), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn a_submission_is_repeated_under_its_request_id_when_it_cannot_be_looked_for() {
    for code in [Code::PermissionDenied, Code::Unimplemented, Code::Unavailable] {
        for executed in [true, false] {
            let mut world = World::new();
            let cx = world.instance();
            world.emulator.on_step("count", Outcome::Hang);
            world.emulator.fault(Fault::times(SUBMIT, if executed { What::HangAfter } else { What::Hang }, 1));
            world.emulator.fault(refused("ListOperations", code));
            deliver(&cx, &world.request(&one_step())).await.unwrap();
            world.ticks(&cx, 9).await;
            assert_eq!(world.count("submitted"), 0, "{code:?}: it is looked for before");
            world.ticks(&cx, 10).await;
            assert_eq!((world.count("submitted"), world.emulator.workflows().len()), (1, 1), "{code:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_workflow_of_which_dataproc_only_says_that_it_exists_ends_unknown_after_72_hours() {
    let mut world = World::new();
    world.emulator.dataproc_options(|options| {
        options.repeat_while_running = RepeatedRequestId::AlreadyExists;
        options.repeat_after_end = RepeatedRequestId::AlreadyExists;
    });
    let cx = world.instance();
    world.emulator.fault(Fault::times(SUBMIT, What::HangAfter, 1));
    world.emulator.fault(refused("ListOperations", Code::PermissionDenied));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    let ticks = ticks_until_quiet(&world, &cx, 73 * HOUR).await;
    assert!((71 * HOUR..73 * HOUR).contains(&ticks), "{ticks}");
    assert_eq!(end(&world), (vec!["failed".to_owned()], json!("UNKNOWN")));
    assert_eq!(world.emulator.workflows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_a_run_that_cannot_be_looked_for() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(Fault::times(SUBMIT, What::HangAfter, 1));
    world.emulator.fault(refused("ListOperations", Code::PermissionDenied));
    deliver(&cx, &world.request(&named())).await.unwrap();
    world.ticks(&cx, 5).await;
    deliver(&cx, &world.request(&cancel())).await.unwrap();
    let ticks = ticks_until_quiet(&world, &cx, 2 * HOUR).await;
    assert!(ticks > HOUR - 10, "{ticks}");
    assert_eq!(end(&world), (vec!["failed".to_owned()], json!("UNKNOWN")));
}

#[tokio::test(start_paused = true)]
async fn another_teams_workflow_without_a_name_does_not_hold_a_run_up_for_ever() {
    let mut world = World::new();
    world.emulator.dataproc_options(|options| options.hide_pending_cluster = true);
    let cx = world.instance();
    let parent = "projects/test-project/regions/us-central1";
    world.emulator.begin_foreign_workflow(parent, "other", Duration::from_secs(7 * 86_400));
    world.emulator.fault(Fault::times(SUBMIT, What::Hang, 1));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    ticks_until_quiet(&world, &cx, HOUR).await;
    assert_eq!(end(&world).0, ["succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_cannot_be_read_is_found_in_the_listing() {
    for code in [Code::PermissionDenied, Code::Unavailable, Code::InvalidArgument, Code::Unimplemented] {
        let mut world = World::new();
        let cx = world.instance();
        world.emulator.fault(refused("GetOperation", code));
        deliver(&cx, &world.request(&one_step())).await.unwrap();
        ticks_until_quiet(&world, &cx, 15).await;
        assert_eq!(end(&world).0, ["succeeded"], "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_workflow_is_never_told_of_is_cancelled_and_ends() {
    for code in [Code::PermissionDenied, Code::Unavailable, Code::InvalidArgument, Code::Unimplemented] {
        let mut world = World::new();
        let cx = world.instance();
        world.emulator.on_step("count", Outcome::Hang);
        deliver(&cx, &world.request(&named())).await.unwrap();
        world.emulator.fault(refused("GetOperation", code));
        world.emulator.fault(refused("ListOperations", code));
        world.ticks(&cx, 3).await;
        deliver(&cx, &world.request(&cancel())).await.unwrap();
        let ticks = ticks_until_quiet(&world, &cx, 2 * HOUR).await;
        assert!(ticks >= HOUR - 1, "{ticks}");
        assert_eq!(end(&world), (vec!["failed".to_owned()], json!("UNKNOWN")), "{code:?}");
        assert!(world.emulator.workflows().iter().all(|workflow| !workflow.is_alive()), "the cancel was sent");
    }
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.on_step("count", Outcome::Hang);
    deliver(&cx, &world.request(&named())).await.unwrap();
    world.emulator.fault(refused("Operations", Code::PermissionDenied));
    let ticks = ticks_until_quiet(&world, &cx, 73 * HOUR).await;
    assert!((71 * HOUR..73 * HOUR).contains(&ticks), "{ticks}");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_is_refused_hides_no_progress() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(refused("CancelOperation", Code::PermissionDenied));
    deliver(&cx, &world.request(&named())).await.unwrap();
    deliver(&cx, &world.request(&cancel())).await.unwrap();
    ticks_until_quiet(&world, &cx, 15).await;
    assert!(world.count("progressed") > 0);
    assert_eq!(end(&world).0, ["succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn calls_that_take_two_seconds_each_are_enough() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(always("*", What::Delay(Duration::from_secs(2))));
    let event = world.request(&named());
    let began = Instant::now();
    while deliver(&cx, &event).await.is_err() {
        sleep(Duration::from_secs(10)).await;
        assert!(began.elapsed() < Duration::from_secs(600), "the request is never recorded");
    }
    ticks_until_quiet(&world, &cx, 60).await;
    assert_eq!((end(&world).0, world.emulator.workflows().len()), (vec!["succeeded".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn a_text_does_not_outrank_its_code() {
    for text in ["Insufficient 'CPUS' quota. Requested 9.0", "ZONE_RESOURCE_POOL_EXHAUSTED"] {
        for code in [Code::Unavailable, Code::Internal, Code::Unknown, Code::DeadlineExceeded] {
            let mut world = World::new();
            world.set(environment::ENV_CAPACITY_RETRY_DELAY, "1");
            let cx = world.instance();
            world.emulator.fault(Fault::times(SUBMIT, What::CodeAfter(code, text.to_owned()), 1));
            deliver(&cx, &world.request(&one_step())).await.unwrap();
            ticks_until_quiet(&world, &cx, 15).await;
            assert_eq!(
                (end(&world).0, world.emulator.workflows().len()),
                (vec!["succeeded".to_owned()], 1),
                "{code:?}"
            );
            // Once it is known that it was not executed, the text says what to do.
            let mut world = World::new();
            world.set(environment::ENV_CAPACITY_RETRY_DELAY, "1");
            let cx = world.instance();
            world.emulator.fault(Fault::times(SUBMIT, What::Code(code, text.to_owned()), 1));
            deliver(&cx, &world.request(&one_step())).await.unwrap();
            ticks_until_quiet(&world, &cx, 15).await;
            let last = world.said().pop().unwrap();
            assert_eq!((last.kind.as_str(), &last.data["attempt"]), ("succeeded", &json!(2)), "{code:?} {text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_requests_own_words_are_not_the_services() {
    let mut world = World::new();
    let cx = world.instance();
    let mut request = one_step();
    request["job_name"] = json!("stockout-timeout");
    let uri = "gs://staging/ZONE_RESOURCE_POOL_EXHAUSTED/Insufficient 'CPUS' quota/m.py";
    request["jobs"][0]["pyspark_job"]["main_python_file_uri"] = json!(uri);
    let text = format!("job stockout-timeout: no such file {uri} (stockout)");
    world.emulator.fault(Fault::times(SUBMIT, What::Code(Code::InvalidArgument, text), 1));
    deliver(&cx, &world.request(&request)).await.unwrap();
    assert_eq!((end(&world).0, world.emulator.workflows().len()), (vec!["rejected".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_is_retried_without_counting_attempts_until_the_request_is_too_old() {
    let text = "Quota exceeded for quota metric 'Workflow operation requests' and limit 'Workflow operation requests per \
                minute per region' of service 'dataproc.googleapis.com' for consumer 'project_number:1'.";
    let limit = || What::Code(Code::ResourceExhausted, text.to_owned());
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(Fault::times(SUBMIT, limit(), 30));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.ticks(&cx, 45).await;
    let last = world.said().pop().unwrap();
    assert_eq!((last.kind.as_str(), &last.data["attempt"]), ("succeeded", &json!(1)));
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.fault(always(SUBMIT, limit()));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    let ticks = ticks_until_quiet(&world, &cx, 7 * HOUR).await;
    assert!(ticks >= 6 * HOUR, "{ticks}");
    assert_eq!(end(&world), (vec!["rejected".to_owned()], json!("RESOURCE_EXHAUSTED")));
}

#[tokio::test(start_paused = true)]
async fn two_deployments_in_one_region_do_not_touch_each_others_runs() {
    let mut world = World::new();
    let one = world.instance();
    world.emulator.create_bucket("other");
    let config = world.emulator.object(BUCKET, support::CONFIG).unwrap();
    world.emulator.put_object("other", support::CONFIG, config);
    world.emulator.put_object("other", "scripts/ok.py", "print()");
    world.set(environment::ENV_STAGING_BUCKET, "other");
    let other = world.instance();
    world.emulator.on_step("count", Outcome::Hang);
    deliver(&one, &world.request(&named())).await.unwrap();
    // Its answer is lost: it must not take the first one's workflow for its own.
    world.emulator.fault(Fault::times(SUBMIT, What::Hang, 1));
    deliver(&other, &world.request(&named())).await.unwrap();
    for _ in 0..5 {
        world.tick(&one).await;
        world.tick(&other).await;
    }
    let workflows = world.emulator.workflows();
    assert_eq!(workflows.len(), 2);
    assert_ne!(workflows[0].requested_cluster, workflows[1].requested_cluster);
    deliver(&other, &world.request(&cancel())).await.unwrap();
    world.tick(&other).await;
    world.tick(&other).await;
    let alive: Vec<bool> = world.emulator.workflows().iter().map(|workflow| workflow.is_alive()).collect();
    assert_eq!(alive, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn the_run_of_a_deleted_record_ends_and_its_request_id_is_not_answered_with_the_old_workflow() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&named())).await.unwrap();
    let record = world.objects("runs/").pop().unwrap();
    assert!(world.emulator.delete_object(BUCKET, &record));
    world.ticks(&cx, 15).await;
    assert_eq!(end(&world), (vec!["failed".to_owned()], json!("DATA_LOSS")));
    assert!(world.objects("active/").is_empty());

    for repeat in
        [RepeatedRequestId::SameOperation, RepeatedRequestId::AlreadyExists, RepeatedRequestId::SecondWorkflow]
    {
        let mut world = World::new();
        world.emulator.dataproc_options(|options| options.repeat_after_end = repeat);
        let cx = world.instance();
        deliver(&cx, &world.request(&named())).await.unwrap();
        world.ticks(&cx, 10).await;
        assert_eq!(world.count("succeeded"), 1);
        let record = world.objects("runs/").pop().unwrap();
        assert!(world.emulator.delete_object(BUCKET, &record));
        sleep(Duration::from_secs(30 * 86_400)).await;
        world.emulator.fault(Fault::times(SUBMIT, What::LoseAnswer, 1));
        deliver(&cx, &world.request(&named())).await.unwrap();
        world.ticks(&cx, 20).await;
        assert_eq!((world.emulator.workflows().len(), world.count("succeeded")), (2, 2), "{repeat:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_age_that_passes_between_two_attempts_is_a_failure_of_the_first() {
    let mut world = World::new();
    world.set(environment::ENV_MAX_REQUEST_AGE, "600").set(environment::ENV_CAPACITY_RETRY_DELAY, "3600");
    let cx = world.instance();
    world.emulator.mishap(inline_workflow_emulator::Trouble::Stockout, When::Always);
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    ticks_until_quiet(&world, &cx, 2 * HOUR).await;
    assert_eq!((end(&world).0, world.emulator.workflows().len()), (vec!["failed".to_owned()], 1));
}
