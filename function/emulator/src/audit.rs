//! The Admin Activity audit log of a workflow, as Eventarc forwards it: one entry at the start, one at the end.

use chrono::{DateTime, SecondsFormat, Utc};
use gcloud_sdk::google::pubsub::v1::PubsubMessage;
use serde_json::json;

use crate::dag::Workflow;

const SERVICE: &str = "dataproc.googleapis.com";
const METHOD: &str = "google.cloud.dataproc.v1.WorkflowTemplateService.InstantiateInlineWorkflowTemplate";

pub(crate) struct Entry {
    project: String,
    region: String,
    operation: String,
    at: DateTime<Utc>,
    last: bool,
}

impl Entry {
    pub(crate) fn first(workflow: &Workflow) -> Entry {
        Entry {
            project: workflow.project.clone(),
            region: workflow.region.clone(),
            operation: workflow.operation.clone(),
            at: workflow.created,
            last: false,
        }
    }

    pub(crate) fn last(workflow: &Workflow) -> Entry {
        Entry { at: workflow.ended.unwrap_or(workflow.created), last: true, ..Entry::first(workflow) }
    }

    /// The event in binary mode: attributes are its headers, the data is its body.
    pub(crate) fn message(&self) -> PubsubMessage {
        let Entry { project, region, operation, .. } = self;
        let at = self.at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let resource = format!("projects/{project}/regions/{region}");
        let insert_id =
            format!("{}{}", operation.rsplit('/').next().unwrap_or_default(), if self.last { "-l" } else { "-f" });
        let mut position = json!({"id": operation, "producer": SERVICE});
        position[if self.last { "last" } else { "first" }] = true.into();
        let entry = json!({
            "insertId": insert_id,
            "logName": format!("projects/{project}/logs/cloudaudit.googleapis.com%2Factivity"),
            "operation": position,
            "protoPayload": {
                "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
                "authenticationInfo": {"principalEmail": format!("function@{project}.iam.gserviceaccount.com")},
                "methodName": METHOD,
                "resourceName": resource,
                "serviceName": SERVICE,
                "status": {},
            },
            "receiveTimestamp": at,
            "resource": {"type": "audited_resource", "labels": {"project_id": project, "service": SERVICE, "method": METHOD}},
            "severity": "NOTICE",
            "timestamp": at,
        });
        let attributes = [
            ("ce-id", format!("projects/{project}/logs/cloudaudit.googleapis.com%2Factivity{insert_id}")),
            ("ce-source", format!("//cloudaudit.googleapis.com/projects/{project}/logs/activity")),
            ("ce-specversion", "1.0".to_owned()),
            ("ce-type", "google.cloud.audit.log.v1.written".to_owned()),
            ("ce-time", at.clone()),
            ("ce-subject", format!("{SERVICE}/{resource}")),
            ("ce-methodname", METHOD.to_owned()),
            ("ce-resourcename", resource),
            ("ce-servicename", SERVICE.to_owned()),
            ("ce-recordedtime", at),
        ];
        PubsubMessage {
            data: entry.to_string().into_bytes(),
            attributes: attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            ..PubsubMessage::default()
        }
    }
}
