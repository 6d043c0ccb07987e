//! A run's life in virtual time: the function's own code over its real clients, against the emulator.

mod support;

use std::time::Duration;

use inline_workflow::environment;
use inline_workflow_emulator::{Fault, Options, Outcome, Trouble, What, When};
use serde_json::json;
use support::{BUCKET, CONFIG, RESPONSES, World, deliver, message, one_step};
use tonic::Code;

#[tokio::test(start_paused = true)]
async fn a_request_runs_to_its_end() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    assert_eq!(world.kinds(), ["submitted"]);
    assert_eq!(world.objects("active/").len(), 1);
    world.ticks(&cx, 6).await;
    let said = world.said();
    assert_eq!(said.first().unwrap().kind, "submitted");
    assert_eq!(said.last().unwrap().kind, "succeeded");
    assert!(said.iter().any(|said| said.kind == "progressed"));
    let sequences: Vec<_> = said.iter().map(|said| said.sequence).collect();
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
    let run_id = said[0].attributes["ce-runid"].clone();
    assert!(said.iter().all(|said| said.id.starts_with(&run_id)));
    let end = said.last().unwrap();
    assert_eq!(end.data["state"], "succeeded");
    assert_eq!(end.data["steps"][0]["state"], "COMPLETED");
    assert!(end.data["steps"][0]["driver_output_uri"].as_str().unwrap().starts_with("gs://"));
    assert_eq!(end.attributes["caller"], "test");
    assert_eq!(world.objects("active/"), Vec::<String>::new());
    assert_eq!(world.emulator.workflows().len(), 1);
    // Nothing more is said of it.
    world.ticks(&cx, 2).await;
    assert_eq!(world.said().len(), said.len());
}

#[tokio::test(start_paused = true)]
async fn a_failed_step_is_named_with_its_error_and_output() {
    let mut world = World::new();
    let cx = world.instance();
    let script = |name: &str| json!({ "main_python_file_uri": format!("gs://staging/scripts/{name}.py") });
    let request = json!({ "jobs": [
        { "step_id": "first", "pyspark_job": script("ok") },
        { "step_id": "broken", "pyspark_job": script("missing"), "prerequisite_step_ids": ["first"] },
        { "step_id": "after", "pyspark_job": script("ok"), "prerequisite_step_ids": ["broken"] },
    ] });
    deliver(&cx, &world.request(&request)).await.unwrap();
    world.ticks(&cx, 8).await;
    let end = world.said().pop().unwrap();
    assert_eq!(end.kind, "failed");
    assert_eq!(end.data["error"]["step_id"], "broken");
    assert!(end.data["error"]["message"].as_str().unwrap().contains("missing.py"), "{}", end.data["error"]);
    let causes: Vec<_> = end.data["steps"].as_array().unwrap().iter().map(|step| step["root_cause"].clone()).collect();
    assert_eq!(causes, [json!(null), json!(true), json!(false)]);
    assert!(end.data["steps"][1]["driver_output_uri"].is_string());
    assert_eq!(world.objects("active/"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_claims_success_over_a_failed_step_is_a_failure() {
    let mut world = World::new();
    let cx = world.instance();
    world.emulator.on_step("count", Outcome::Fail("exit code 3".to_owned()));
    world.emulator.mishap(Trouble::SuccessDespiteFailure, When::Always);
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.ticks(&cx, 6).await;
    let end = world.said().pop().unwrap();
    assert_eq!(end.kind, "failed");
    assert_eq!(end.data["error"]["step_id"], "count");
    assert!(end.data["error"]["message"].as_str().unwrap().contains("exit code 3"));
}

#[tokio::test(start_paused = true)]
async fn the_same_message_twice_is_one_workflow() {
    let mut world = World::new();
    let (one, two) = (world.instance(), world.instance());
    let event = world.request(&one_step());
    let (first, second) = tokio::join!(deliver(&one, &event), deliver(&two, &event));
    first.unwrap();
    second.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    deliver(&two, &event).await.unwrap();
    world.ticks(&one, 8).await;
    deliver(&two, &event).await.unwrap();
    assert_eq!(world.emulator.workflows().len(), 1);
    let mut ids: Vec<_> =
        world.said().into_iter().filter(|said| said.kind == "succeeded").map(|said| said.id).collect();
    assert_eq!(ids.len(), 2, "the repeated message is answered with the last event again");
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_id_is_an_idempotency_key() {
    let mut world = World::new();
    let cx = world.instance();
    let mut request = one_step();
    request["request_id"] = json!("nightly-1");
    deliver(&cx, &world.request(&request)).await.unwrap();
    // The same request, written differently.
    let text = serde_json::to_string_pretty(&request).unwrap();
    deliver(&cx, &world.request_text(text.as_bytes())).await.unwrap();
    assert_eq!(world.kinds(), ["submitted", "submitted"]);
    request["jobs"][0]["step_id"] = json!("other");
    deliver(&cx, &world.request(&request)).await.unwrap();
    let answer = world.said().pop().unwrap();
    assert_eq!(answer.kind, "answered");
    assert_eq!(answer.data["error"]["code"], "ALREADY_EXISTS");
    assert_eq!(answer.data["found"], true);
    assert_eq!(world.emulator.workflows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn bad_requests_are_answered_and_leave_nothing_behind() {
    let mut world = World::new();
    let cx = world.instance();
    let cases: [&[u8]; 7] = [
        b"",
        b"\xff\xfe",
        b"{\"jobs\": [}",
        b"[]",
        b"{}",
        br#"{"jobs": [{"step_id": "x", "pyspark_job": {"main_python_file_ur": 1}}], "jobs": []}"#,
        br#"{"jobs": [{"step_id": "abc", "pyspark_job": {}, "spark_job": {}}]}"#,
    ];
    for (index, case) in cases.iter().enumerate() {
        deliver(&cx, &world.request_text(case)).await.unwrap();
        let said = world.said();
        assert_eq!(said.len(), index + 1);
        assert_eq!(said[index].kind, "rejected");
        let violations = said[index].data["violations"].as_array().unwrap();
        assert!(!violations.is_empty(), "{case:?}");
        assert!(violations.iter().all(|violation| violation["document"] == "request"), "{violations:?}");
    }
    assert!(world.objects("runs/").is_empty() && world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_configuration_names_it_and_not_the_sender() {
    let mut world = World::new();
    let cx = world.instance();
    for broken in ["{\"default_cluster_config\": ", "{\"default_cluster_config\": {\"config\": {\"worker\": 1}}}", "[]"]
    {
        world.emulator.put_object(BUCKET, CONFIG, broken);
        deliver(&cx, &world.request(&one_step())).await.unwrap();
        let said = world.said().pop().unwrap();
        assert_eq!(said.kind, "rejected");
        let violations = said.data["violations"].as_array().unwrap();
        assert!(violations.iter().all(|violation| violation["document"] == "config"), "{violations:?}");
        assert!(violations.iter().any(|v| v["reason"].as_str().unwrap().contains(CONFIG)), "{violations:?}");
    }
    world.emulator.delete_object(BUCKET, CONFIG);
    let event = world.request(&one_step());
    deliver(&cx, &event).await.unwrap();
    assert_eq!(world.said().pop().unwrap().data["violations"][0]["document"], "config");
    // The sender's own faults are told beside it.
    deliver(&cx, &world.request(&json!({ "jobs": [{ "step_id": "x" }] }))).await.unwrap();
    let said = world.said().pop().unwrap();
    let documents: Vec<_> = said.data["violations"].as_array().unwrap().iter().map(|v| v["document"].clone()).collect();
    assert!(documents.contains(&json!("config")) && documents.contains(&json!("request")), "{}", said.data);
    // What was rejected stays so, should the message come again once the configuration is mended.
    world.emulator.put_object(BUCKET, CONFIG, json!({ "default_cluster_config": { "config": {} } }).to_string());
    deliver(&cx, &event).await.unwrap();
    assert_eq!(world.said().pop().unwrap().kind, "rejected");
    assert!(world.emulator.workflows().is_empty() && world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_counts_from_the_next_event_and_an_unchanged_one_costs_no_download() {
    let mut world = World::new();
    let cx = world.instance();
    let downloads = |world: &World| {
        let reads = world.emulator.calls();
        reads.iter().filter(|call| call.path.ends_with("/ReadObject") && call.answer == Some(Code::Ok)).count()
    };
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    assert_eq!(downloads(&world), 1);
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    assert_eq!(downloads(&world), 1);
    let config = json!({ "default_cluster_config": { "cluster_name": "changed", "config": {} } });
    world.emulator.put_object(BUCKET, CONFIG, config.to_string());
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    assert_eq!(downloads(&world), 2);
    let workflow = world.emulator.workflows().pop().unwrap();
    assert!(workflow.requested_cluster.starts_with("changed-"), "{}", workflow.requested_cluster);
}

#[tokio::test(start_paused = true)]
async fn while_dataproc_is_down_requests_wait_in_the_bucket() {
    let mut world = World::new();
    let cx = world.instance();
    for method in ["WorkflowTemplateService", "Operations"] {
        let what = What::Code(Code::Unavailable, "down".to_owned());
        world.emulator.fault(Fault { method: method.to_owned(), what, when: When::Always });
    }
    for _ in 0..5 {
        deliver(&cx, &world.request(&one_step())).await.unwrap();
    }
    world.ticks(&cx, 10).await;
    assert_eq!(world.emulator.workflows().len(), 0);
    assert_eq!(world.objects("active/").len(), 5);
    world.emulator.clear_faults();
    world.ticks(&cx, 20).await;
    assert_eq!(world.emulator.workflows().len(), 5);
    assert_eq!(world.count("succeeded"), 5);
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_submission_whose_answer_was_lost_is_found_and_not_repeated() {
    for what in [What::LoseAnswer, What::HangAfter] {
        let mut world = World::new();
        let cx = world.instance();
        world.emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", what, 1));
        deliver(&cx, &world.request(&one_step())).await.unwrap();
        world.ticks(&cx, 8).await;
        assert_eq!(world.emulator.workflows().len(), 1);
        assert_eq!(world.count("succeeded"), 1);
        assert_eq!(world.count("submitted"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_submission_that_is_executed_late_is_found_and_not_repeated() {
    let mut world = World::new();
    let cx = world.instance();
    let late = What::ExecuteLate(Duration::from_secs(50));
    world.emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", late, 1));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.ticks(&cx, 10).await;
    assert_eq!(world.emulator.workflows().len(), 1);
    assert_eq!(world.count("succeeded"), 1);
}

#[tokio::test(start_paused = true)]
async fn without_storage_or_response_topic_the_message_must_come_again() {
    let mut world = World::new();
    let cx = world.instance();
    let event = world.request(&one_step());
    let down = |method: &str| {
        let what = What::Code(Code::Unavailable, "down".to_owned());
        Fault { method: method.to_owned(), what, when: When::Always }
    };
    world.emulator.fault(down("WriteObject"));
    deliver(&cx, &event).await.unwrap_err();
    world.emulator.clear_faults();
    world.emulator.fault(down("Publish"));
    deliver(&cx, &world.request_text(b"nonsense")).await.unwrap_err();
    // A run that is recorded is ours, whether it can be announced or not.
    deliver(&cx, &event).await.unwrap();
    world.emulator.clear_faults();
    world.ticks(&cx, 8).await;
    assert_eq!(world.kinds().first().unwrap(), "submitted");
    assert_eq!(world.count("succeeded"), 1);
    assert_eq!(world.emulator.workflows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn validate_renders_and_starts_nothing() {
    let mut world = World::new();
    let cx = world.instance();
    let mut request = one_step();
    request["action"] = json!("validate");
    deliver(&cx, &world.request(&request)).await.unwrap();
    let said = world.said();
    assert_eq!(said[0].kind, "validated");
    assert_eq!(said[0].data["config_entry"], "default_cluster_config");
    assert_eq!(said[0].data["template"]["jobs"][0]["stepId"], "count");
    assert!(world.objects("runs/").is_empty());
    assert!(world.emulator.workflows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn permanent_refusals_reject_and_the_request_id_may_be_used_again() {
    let mut world = World::new();
    let cx = world.instance();
    let refusal = What::Code(Code::InvalidArgument, "Image version is not supported".to_owned());
    world.emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", refusal, 1));
    let mut request = one_step();
    request["request_id"] = json!("once");
    let event = world.request(&request);
    deliver(&cx, &event).await.unwrap();
    let said = world.said().pop().unwrap();
    assert_eq!(said.kind, "rejected");
    assert_eq!(said.data["error"]["message"], "Image version is not supported");
    assert!(world.objects("active/").is_empty());
    // The same message again is but a repetition; a new one is a new try.
    deliver(&cx, &event).await.unwrap();
    assert_eq!(world.emulator.workflows().len(), 0);
    deliver(&cx, &world.request(&request)).await.unwrap();
    world.ticks(&cx, 6).await;
    assert_eq!(world.emulator.workflows().len(), 1);
    assert_eq!(world.count("succeeded"), 1);
}

#[tokio::test(start_paused = true)]
async fn want_of_capacity_waits_for_another_attempt() {
    let mut world = World::new();
    world.set(environment::ENV_CAPACITY_RETRIES, "2");
    let cx = world.instance();
    world.emulator.mishap(Trouble::Stockout, When::Times(1));
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.emulator.mishap(Trouble::QuotaRefused, When::Times(1));
    world.ticks(&cx, 40).await;
    let said = world.said();
    assert_eq!(said.last().unwrap().kind, "succeeded", "{:?}", world.kinds());
    assert_eq!(said.last().unwrap().data["attempt"], 3);
    assert!(said.iter().any(|said| said.kind == "progressed" && said.data["state"] == "waiting"));
    let most = world.emulator.most_alive(|_| ());
    assert_eq!(most.get(&()), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn capacity_retries_come_to_an_end() {
    let mut world = World::new();
    world.set(environment::ENV_CAPACITY_RETRIES, "1");
    let cx = world.instance();
    world.emulator.mishap(Trouble::QuotaAtCreation, When::Always);
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.ticks(&cx, 60).await;
    assert_eq!(world.emulator.workflows().len(), 2);
    assert_eq!(world.count("failed"), 1);
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_submitted_in_time_is_rejected_with_the_last_error() {
    let mut world = World::new();
    world.set(environment::ENV_MAX_REQUEST_AGE, "600");
    let cx = world.instance();
    let denied = What::Code(Code::PermissionDenied, "no dataproc.workflowTemplates.instantiateInline".to_owned());
    world.emulator.fault(Fault { method: "WorkflowTemplateService".to_owned(), what: denied, when: When::Always });
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.ticks(&cx, 30).await;
    let said = world.said().pop().unwrap();
    assert_eq!(said.kind, "rejected");
    assert!(said.data["error"]["message"].as_str().unwrap().contains("instantiateInline"), "{}", said.data);
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_is_cancelled_before_and_after_its_submission() {
    let mut world = World::new();
    let cx = world.instance();
    let mut request = one_step();
    request["request_id"] = json!("r1");
    let cancel = json!({ "action": "cancel", "job_name": "word-count", "request_id": "r1" });
    deliver(&cx, &world.request(&request)).await.unwrap();
    deliver(&cx, &world.request(&cancel)).await.unwrap();
    deliver(&cx, &world.request(&cancel)).await.unwrap();
    world.ticks(&cx, 5).await;
    assert_eq!(world.count("answered"), 2);
    assert_eq!(world.count("cancelled"), 1, "{:?}", world.kinds());
    assert!(world.objects("active/").is_empty());

    let mut request = one_step();
    request["request_id"] = json!("r2");
    let down = What::Code(Code::ResourceExhausted, "slow down".to_owned());
    world.emulator.fault(Fault::times("InstantiateInlineWorkflowTemplate", down, 1));
    deliver(&cx, &world.request(&request)).await.unwrap();
    let cancel = json!({ "action": "cancel", "job_name": "word-count", "request_id": "r2" });
    deliver(&cx, &world.request(&cancel)).await.unwrap();
    world.ticks(&cx, 2).await;
    assert_eq!(world.count("cancelled"), 2);
    assert_eq!(world.emulator.workflows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn status_tells_how_a_run_stands_and_what_is_unknown_is_not_found() {
    let mut world = World::new();
    let cx = world.instance();
    let mut request = one_step();
    request["request_id"] = json!("r1");
    deliver(&cx, &world.request(&request)).await.unwrap();
    let run_id = world.said()[0].data["run_id"].clone();
    deliver(&cx, &world.request(&json!({ "action": "status", "run_id": run_id }))).await.unwrap();
    let answer = world.said().pop().unwrap();
    assert_eq!((answer.kind.as_str(), &answer.data["found"]), ("answered", &json!(true)));
    assert_eq!(answer.data["job_name"], "word-count");
    let unknown = json!({ "action": "status", "job_name": "x", "request_id": "y" });
    deliver(&cx, &world.request(&unknown)).await.unwrap();
    assert_eq!(world.said().pop().unwrap().data["found"], false);
    // A cancel that comes before its request makes no run of it.
    for action in ["cancel", "status", "cancel"] {
        let early = json!({ "action": action, "job_name": "x", "request_id": "y" });
        deliver(&cx, &world.request(&early)).await.unwrap();
        assert_eq!(world.said().pop().unwrap().data["found"], false);
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_read_are_buried_and_those_of_later_releases_left_alone() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    let record = world.objects("runs/").pop().unwrap();
    world.emulator.put_object(BUCKET, &record, "{\"version\": 2, \"more\": 1}");
    world.ticks(&cx, 2).await;
    assert_eq!(world.kinds(), ["submitted"]);
    assert_eq!(world.objects("active/").len(), 1);
    world.emulator.put_object(BUCKET, &record, "{\"version\": 1");
    world.ticks(&cx, 2).await;
    assert_eq!(world.kinds(), ["submitted", "failed"]);
    assert_eq!(world.objects("dead/").len(), 1);
    assert!(world.objects("active/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_write_a_second_an_object_is_enough() {
    let mut world = World::with(Options { one_write_a_second: true, ..Options::default() });
    let cx = world.instance();
    deliver(&cx, &world.request(&one_step())).await.unwrap();
    world.ticks(&cx, 8).await;
    assert_eq!(world.emulator.workflows().len(), 1);
    let mut ids: Vec<_> = world.said().into_iter().map(|said| (said.sequence, said.id)).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    ids.dedup();
    assert_eq!(world.said().last().unwrap().kind, "succeeded");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_never_answered() {
    let mut world = World::new();
    let cx = world.instance();
    deliver(&cx, &message(RESPONSES, "1", b"{}", world.now())).await.unwrap();
    assert!(world.said().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_job_name_has_the_default_configuration() {
    let mut world = World::new();
    let cx = world.instance();
    let entry = |name: &str| json!({ "cluster_name": name, "config": {} });
    let config = json!({ "default_cluster_config": entry("default"), "dataproc-workflow": entry("named") });
    world.emulator.put_object(BUCKET, CONFIG, config.to_string());
    let mut request = one_step();
    request["job_name"] = json!(null);
    deliver(&cx, &world.request(&request)).await.unwrap();
    request["job_name"] = json!("dataproc-workflow");
    deliver(&cx, &world.request(&request)).await.unwrap();
    let names: Vec<_> = world.emulator.workflows().into_iter().map(|workflow| workflow.requested_cluster).collect();
    assert!(names[0].starts_with("default-") && names[1].starts_with("named-"), "{names:?}");
    assert_eq!(world.said()[0].attributes["ce-jobname"], "dataproc-workflow");
}
