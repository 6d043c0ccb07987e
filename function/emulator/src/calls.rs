//! Which method goes where.

use std::time::Duration;

use bytes::Bytes;
use gcloud_sdk::google::pubsub::v1 as pubsub;
use prost::Message;
use tonic::Status;

use crate::clock::add;
use crate::emulator::Emulator;
use crate::grpc::{decode, decode_one};
use crate::state::State;

/// How long a pull waits for a message before it answers with none.
const LONG_POLL: Duration = Duration::from_secs(60);

impl Emulator {
    /// Executes a call, at once but for a pull that waits. The answer's messages.
    pub(crate) async fn call(&self, path: &str, messages: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        if path == "/google.pubsub.v1.Subscriber/Pull" {
            return self.pull(&decode(&messages)?).await;
        }
        self.shared.with(|state| state.call(path, messages))
    }

    async fn pull(&self, request: &pubsub::PullRequest) -> Result<Vec<Bytes>, Status> {
        #[expect(deprecated, reason = "clients still send it")]
        let at_once = request.return_immediately;
        let mut changed = self.shared.changed.subscribe();
        let end = add(self.now(), if at_once { Duration::ZERO } else { LONG_POLL });
        loop {
            changed.mark_unchanged();
            let (answer, now, next) = self.shared.with_unheard(|state| {
                let answer = state.pubsub.call_pull(state.now, request)?;
                Ok::<_, Status>((answer, state.now, state.pubsub.next_pull(&request.subscription)))
            })?;
            if !answer.received_messages.is_empty() || now >= end {
                return one(&answer);
            }
            tokio::select! {
                biased;
                _ = changed.changed() => {}
                () = self.shared.clock.sleep_until(next.map_or(end, |next| next.min(end))) => {}
            }
        }
    }
}

impl State {
    fn call(&mut self, path: &str, messages: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        let now = self.now;
        if path.starts_with("/google.cloud.dataproc.v1.") || path.starts_with("/google.longrunning.") {
            self.dataproc.count_call(now, &self.clock, path)?;
        }
        let State { pubsub, storage, rng, clock, .. } = self;
        match path {
            "/google.pubsub.v1.Publisher/CreateTopic" => one(&pubsub.call_create_topic(decode(&messages)?)?),
            "/google.pubsub.v1.Publisher/GetTopic" => one(&pubsub.call_get_topic(&decode(&messages)?)?),
            "/google.pubsub.v1.Publisher/ListTopics" => one(&pubsub.call_list_topics(&decode(&messages)?)?),
            "/google.pubsub.v1.Publisher/DeleteTopic" => one(&pubsub.call_delete_topic(&decode(&messages)?)?),
            "/google.pubsub.v1.Publisher/Publish" => one(&pubsub.call_publish(now, rng, decode(&messages)?)?),
            "/google.pubsub.v1.Subscriber/CreateSubscription" => {
                one(&pubsub.call_create_subscription(decode(&messages)?)?)
            }
            "/google.pubsub.v1.Subscriber/GetSubscription" => one(&pubsub.call_get_subscription(&decode(&messages)?)?),
            "/google.pubsub.v1.Subscriber/ListSubscriptions" => {
                one(&pubsub.call_list_subscriptions(&decode(&messages)?)?)
            }
            "/google.pubsub.v1.Subscriber/DeleteSubscription" => {
                one(&pubsub.call_delete_subscription(&decode(&messages)?)?)
            }
            "/google.pubsub.v1.Subscriber/Acknowledge" => one(&pubsub.call_acknowledge(&decode(&messages)?)?),
            "/google.pubsub.v1.Subscriber/ModifyAckDeadline" => {
                one(&pubsub.call_modify_ack_deadline(now, clock, &decode(&messages)?)?)
            }
            "/google.pubsub.v1.Subscriber/ModifyPushConfig" => {
                one(&pubsub.call_modify_push_config(decode(&messages)?)?)
            }
            "/google.storage.v2.Storage/CreateBucket" => one(&storage.call_create_bucket(now, decode(&messages)?)?),
            "/google.storage.v2.Storage/GetBucket" => one(&storage.call_get_bucket(&decode(&messages)?)?),
            "/google.storage.v2.Storage/GetObject" => one(&storage.call_get(&decode(&messages)?)?),
            "/google.storage.v2.Storage/ReadObject" => {
                Ok(storage.call_read(&decode(&messages)?)?.iter().map(|answer| answer.encode_to_vec().into()).collect())
            }
            "/google.storage.v2.Storage/WriteObject" => {
                let requests = messages.iter().map(decode_one).collect::<Result<_, _>>()?;
                one(&storage.call_write(now, requests)?)
            }
            "/google.storage.v2.Storage/ListObjects" => one(&storage.call_list(&decode(&messages)?)?),
            "/google.storage.v2.Storage/DeleteObject" => one(&storage.call_delete(now, &decode(&messages)?)?),
            "/google.cloud.dataproc.v1.WorkflowTemplateService/InstantiateInlineWorkflowTemplate" => {
                let [request] = &messages[..] else {
                    return Err(Status::invalid_argument("one message is needed"));
                };
                one(&self.dataproc(|dataproc, around| dataproc.call_instantiate_inline(around, request.clone()))?)
            }
            "/google.cloud.dataproc.v1.JobController/GetJob" => {
                one(&self.dataproc.call_get_job(&decode(&messages)?)?)
            }
            "/google.cloud.dataproc.v1.JobController/ListJobs" => {
                one(&self.dataproc.call_list_jobs(&decode(&messages)?)?)
            }
            "/google.longrunning.Operations/GetOperation" => {
                one(&self.dataproc.call_get_operation(&decode(&messages)?)?)
            }
            "/google.longrunning.Operations/ListOperations" => {
                one(&self.dataproc.call_list_operations(&decode(&messages)?)?)
            }
            "/google.longrunning.Operations/CancelOperation" => {
                let request = decode(&messages)?;
                one(&self.dataproc(|dataproc, around| dataproc.call_cancel_operation(around, &request))?)
            }
            other => Err(Status::unimplemented(format!("the emulator has no {other}"))),
        }
    }
}

fn one(answer: &impl Message) -> Result<Vec<Bytes>, Status> {
    Ok(vec![answer.encode_to_vec().into()])
}
