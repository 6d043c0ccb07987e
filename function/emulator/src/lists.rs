//! Listing operations and jobs: the filters' little languages and the pages.

use std::collections::BTreeMap;

use gcloud_sdk::google::cloud::dataproc::v1::job_status::State as JobState;
use gcloud_sdk::google::cloud::dataproc::v1::list_jobs_request::JobStateMatcher;
use gcloud_sdk::google::cloud::dataproc::v1::workflow_metadata::State;
use tonic::Status;

/// A list's filter: `field = value` terms joined by AND, the fields those that Dataproc documents for workflows.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Filter {
    states: Option<Vec<State>>,
    cluster: Option<String>,
    /// False where the filter asks for operations that are no workflows: there are none here.
    workflows: bool,
}

impl Filter {
    pub(crate) fn parse(text: &str) -> Result<Filter, Status> {
        let invalid = |why: String| Status::invalid_argument(format!("filter: {why}"));
        let mut filter = Filter { workflows: true, ..Filter::default() };
        for term in terms(text) {
            let (field, value) = term
                .split_once('=')
                .map(|(field, value)| (field.trim(), value.trim().trim_matches(['"', '\''])))
                .ok_or_else(|| invalid(format!("'{term}' is not FIELD = VALUE")))?;
            match field {
                "status.state" => {
                    filter.states = Some(match value {
                        "ACTIVE" => vec![State::Pending, State::Running],
                        "PENDING" => vec![State::Pending],
                        "RUNNING" => vec![State::Running],
                        "DONE" => vec![State::Done],
                        other => {
                            return Err(invalid(format!("'{other}' is not ACTIVE, PENDING, RUNNING or DONE")));
                        }
                    });
                }
                "operationType" | "operation_type" => filter.workflows &= value == "WORKFLOW",
                "clusterName" | "cluster_name" => filter.cluster = Some(value.to_owned()),
                other => {
                    return Err(invalid(format!("'{other}' is not status.state, operationType or clusterName")));
                }
            }
        }
        Ok(filter)
    }

    pub(crate) fn admits(&self, state: State, cluster: &str) -> bool {
        self.workflows
            && self.states.as_ref().is_none_or(|states| states.contains(&state))
            && self.cluster.as_ref().is_none_or(|name| name == cluster)
    }
}

/// A list's filter for jobs, as ListJobsRequest documents it: `status.state` and `labels.KEY`, `*` for any value.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct JobFilter {
    states: Vec<StateTerm>,
    /// None: any value.
    labels: Vec<(String, Option<String>)>,
}

#[derive(Debug, PartialEq)]
enum StateTerm {
    Active(bool),
    Is(JobState),
}

impl JobFilter {
    /// The matcher counts only where there is no filter.
    pub(crate) fn parse(text: &str, matcher: JobStateMatcher) -> Result<JobFilter, Status> {
        let invalid = |why: String| Status::invalid_argument(format!("filter: {why}"));
        let mut filter = JobFilter::default();
        match matcher {
            JobStateMatcher::Active if text.is_empty() => filter.states.push(StateTerm::Active(true)),
            JobStateMatcher::NonActive if text.is_empty() => filter.states.push(StateTerm::Active(false)),
            _ => {}
        }
        for term in terms(text) {
            let (field, value) = term.split_once('=').unwrap_or((&term, "*"));
            let (field, value) = (field.trim(), value.trim().trim_matches(['"', '\'']));
            if let Some(key) = field.strip_prefix("labels.") {
                let key = key.trim_start_matches('[').trim_end_matches(']');
                filter.labels.push((key.to_owned(), (value != "*").then(|| value.to_owned())));
            } else if field != "status.state" {
                return Err(invalid(format!("'{field}' is not status.state or labels.KEY")));
            } else if value != "*" {
                filter.states.push(match value {
                    "ACTIVE" => StateTerm::Active(true),
                    "NON_ACTIVE" => StateTerm::Active(false),
                    name => StateTerm::Is(
                        JobState::from_str_name(name)
                            .ok_or_else(|| invalid(format!("'{name}' is not a job's state")))?,
                    ),
                });
            }
        }
        Ok(filter)
    }

    pub(crate) fn admits(&self, state: JobState, labels: &BTreeMap<String, String>) -> bool {
        let has_ended = matches!(state, JobState::Done | JobState::Error | JobState::Cancelled);
        let in_state = |term: &StateTerm| match term {
            StateTerm::Active(active) => *active != has_ended,
            StateTerm::Is(wanted) => *wanted == state,
        };
        let has_label = |(key, wanted): &(String, Option<String>)| {
            labels.get(key).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
        };
        self.states.iter().all(in_state) && self.labels.iter().all(has_label)
    }
}

/// The terms between the ANDs; brackets around the whole are taken too.
fn terms(text: &str) -> Vec<String> {
    let spaced = text.trim().trim_start_matches('[').trim_end_matches(']').replace('=', " = ");
    let mut terms = vec![String::new()];
    for word in spaced.split_whitespace() {
        match terms.last_mut() {
            Some(term) if word != "AND" => {
                term.push_str(word);
                term.push(' ');
            }
            _ => terms.push(String::new()),
        }
    }
    if terms == [""] { Vec::new() } else { terms }
}

/// A page of the indexes, which fall: newest first. The token is the last index of the page before, so that operations
/// which begin meanwhile neither shift nor repeat anything.
pub(crate) fn page(
    indexes: impl Iterator<Item = usize>,
    page_size: i32,
    page_token: &str,
    most: usize,
) -> Result<(Vec<usize>, String), Status> {
    let size = match usize::try_from(page_size) {
        Ok(0) => most,
        Ok(size) => size.min(most),
        Err(_) => return Err(Status::invalid_argument("page_size must not be negative")),
    }
    .max(1);
    let before = if page_token.is_empty() {
        usize::MAX
    } else {
        page_token
            .parse()
            .map_err(|_| Status::invalid_argument(format!("page_token: '{page_token}' is none of ours")))?
    };
    let mut page: Vec<usize> = indexes.filter(|index| *index < before).take(size + 1).collect();
    let more = page.len() > size;
    page.truncate(size);
    let token = if more { page.last().map(usize::to_string) } else { None };
    Ok((page, token.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_in_many_spellings() {
        let active = Filter::parse("status.state = ACTIVE AND operationType = WORKFLOW").unwrap();
        for same in [
            "status.state=ACTIVE AND operationType=WORKFLOW",
            "  operationType = \"WORKFLOW\"  AND status.state = 'ACTIVE' ",
            "[status.state = ACTIVE AND operationType = WORKFLOW]",
        ] {
            assert_eq!(Filter::parse(same).unwrap(), active, "{same}");
        }
        assert!(active.admits(State::Pending, "any") && active.admits(State::Running, "any"));
        assert!(!active.admits(State::Done, "any"));
        assert!(Filter::parse("").unwrap().admits(State::Done, ""));
        let named = Filter::parse("clusterName = a-b").unwrap();
        assert!(named.admits(State::Done, "a-b") && !named.admits(State::Done, "a-b-c"));
        assert!(!Filter::parse("operationType = CREATE").unwrap().admits(State::Running, ""));
        for bad in ["status.state", "status.state = NOPE", "x = y", "clusterName = a AND", "status.state = DONE OR x"] {
            assert!(Filter::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn jobs_are_filtered_by_state_and_label() {
        let labels = BTreeMap::from([("run_id".to_owned(), "a-b".to_owned()), ("team".to_owned(), String::new())]);
        let admits = |text: &str| {
            let filter = JobFilter::parse(text, JobStateMatcher::All).unwrap();
            filter.admits(JobState::Running, &labels)
        };
        for text in [
            "",
            "status.state = ACTIVE AND labels.run_id = a-b",
            "labels.[run_id]=\"a-b\"",
            "labels.team = * AND status.state = RUNNING",
            "labels.team",
        ] {
            assert!(admits(text), "{text}");
        }
        for text in ["labels.run_id = a", "labels.other = *", "status.state = NON_ACTIVE", "status.state = DONE"] {
            assert!(!admits(text), "{text}");
        }
        for bad in ["cluster = a", "status.state = NOPE", "labels.a = b OR labels.c = d"] {
            let filter = JobFilter::parse(bad, JobStateMatcher::All);
            assert!(filter.is_err() || !admits(bad), "{bad}");
        }
        let ended = JobFilter::parse("", JobStateMatcher::NonActive).unwrap();
        assert!(ended.admits(JobState::Done, &labels) && !ended.admits(JobState::Running, &labels));
    }

    #[test]
    fn pages_fall_and_end() {
        let all = || (0..5usize).rev();
        assert_eq!(page(all(), 2, "", 100).unwrap(), (vec![4, 3], "3".to_owned()));
        assert_eq!(page(all(), 2, "3", 100).unwrap(), (vec![2, 1], "1".to_owned()));
        assert_eq!(page(all(), 2, "1", 100).unwrap(), (vec![0], String::new()));
        assert_eq!(page(all(), 0, "", 3).unwrap().0, [4, 3, 2]);
        assert!(page(all(), -1, "", 3).is_err() && page(all(), 1, "x", 3).is_err());
    }
}
