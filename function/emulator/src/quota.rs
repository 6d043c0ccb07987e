//! Dataproc's request quotas. Source: https://cloud.google.com/dataproc/quotas

use std::time::Duration;

use chrono::{DateTime, Utc};
use tonic::Status;

/// Requests per minute. The service counts them per project and region; all callers here are taken for one project and
/// region. A minute begins with the full minute of the services' clock, shortened by its speed, and what is refused does
/// not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// InstantiateInlineWorkflowTemplate.
    pub workflows: u32,
    /// All other calls. Submitting, updating, cancelling and deleting jobs have a quota of their own, and are not here.
    pub others: u32,
}

impl Default for Quota {
    /// As documented.
    fn default() -> Quota {
        Quota { workflows: 400, others: 7_500 }
    }
}

/// What is used of a quota in the current minute.
#[derive(Default)]
pub(crate) struct Usage {
    minute: i64,
    workflows: u32,
    others: u32,
}

impl Usage {
    /// Counts a call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if its quota is used up; in the words of the service.
    pub(crate) fn count(
        &mut self,
        quota: Quota,
        now: DateTime<Utc>,
        minute: Duration,
        path: &str,
    ) -> Result<(), Status> {
        let length = i64::try_from(minute.as_millis()).unwrap_or(i64::MAX).max(1);
        let minute = now.timestamp_millis() / length;
        if minute != self.minute {
            *self = Usage { minute, ..Usage::default() };
        }
        let (metric, limit, used) = match path.ends_with("/InstantiateInlineWorkflowTemplate") {
            true => ("Workflow operation requests", quota.workflows, &mut self.workflows),
            false => ("Default requests", quota.others, &mut self.others),
        };
        if *used >= limit {
            return Err(Status::resource_exhausted(format!(
                "Quota exceeded for quota metric '{metric}' and limit '{metric} per minute per region' of service \
                 'dataproc.googleapis.com' for consumer 'project_number:123456789012'."
            )));
        }
        *used += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_full_again_each_minute() {
        let mut usage = Usage::default();
        let mut count = |second: i64, method: &str| {
            let now = DateTime::from_timestamp(second, 0).unwrap();
            usage.count(Quota { workflows: 1, others: 2 }, now, Duration::from_secs(60), method).is_ok()
        };
        let instantiate = "/WorkflowTemplateService/InstantiateInlineWorkflowTemplate";
        let (list, get) = ("/Operations/ListOperations", "/JobController/GetJob");
        assert!(count(0, instantiate) && !count(59, instantiate));
        assert!(count(59, list) && count(59, get) && !count(59, get));
        assert!(count(60, instantiate) && !count(60, instantiate));
    }
}
