//! What Dataproc sees of a run: the request_id of each attempt, and the name of its cluster.
//!
//! Both are derived from the deployment too, because the request_ids of two deployments in one project and region may be
//! the same, and neither may follow or cancel the other's workflows.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The longest name of a managed cluster, to which the service adds a suffix of its own.
/// Source: google.cloud.dataproc.v1.ManagedCluster.cluster_name
const LONGEST_NAME: usize = 35;
/// Of base 32, five bits each. Equal digits of two runs are out of reach: they take about 2^50 request_ids.
const DIGITS: usize = 20;
/// RFC 4648, in lower case: what a cluster's name may hold.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// One deployment of this function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployment {
    key: u128,
}

/// `<base>-<digits of the run>-<attempt>`, and a suffix where the service has added one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName {
    pub base: String,
    pub digits: String,
    pub attempt: u32,
}

impl Deployment {
    /// The deployment that keeps its records in `staging_bucket` and runs its workflows in `region` of `project`.
    pub fn new(project: &str, region: &str, staging_bucket: &str) -> Deployment {
        // None of the three can contain a slash.
        let hash = Sha256::digest(format!("{project}/{region}/{staging_bucket}"));
        let key = hash.iter().take(16).fold(0, |key, byte| key << 8 | u128::from(*byte));
        Deployment { key }
    }

    /// Dataproc's request_id of an attempt, 36 characters of the 40 that the service takes.
    pub fn request_id(self, run_id: Uuid, attempt: u32) -> String {
        Uuid::new_v5(&Uuid::from_u128(self.key), format!("{run_id}/{attempt}").as_bytes()).to_string()
    }

    /// The digits by which the names of the run's clusters are recognised.
    pub fn digits(self, run_id: Uuid) -> String {
        let bits = run_id.as_u128() ^ self.key;
        let digit = |index: usize| char::from(ALPHABET[(bits >> (128 - 5 * (index + 1)) & 31) as usize]);
        (0..DIGITS).map(digit).collect()
    }

    /// With what the text of a run's id begins, by the digits of its clusters. Any text for another deployment's.
    pub fn run_prefix(self, digits: &str) -> String {
        let value = |digit: u8| ALPHABET.iter().position(|other| *other == digit).unwrap_or_default() as u128;
        let bits = digits.bytes().take(DIGITS).fold(0, |bits, digit| bits << 5 | value(digit));
        let run_id = Uuid::from_u128(bits << (128 - 5 * DIGITS) ^ self.key).to_string();
        // 25 hexadecimal digits, four hyphens among them.
        run_id[..DIGITS * 5 / 4 + 4].to_owned()
    }

    pub fn cluster_name(self, base: &str, run_id: Uuid, attempt: u32) -> ClusterName {
        let digits = self.digits(run_id);
        let room = LONGEST_NAME.saturating_sub(digits.len() + attempt.to_string().len() + 2);
        ClusterName { base: base.chars().take(room).collect(), digits, attempt }
    }
}

impl ClusterName {
    /// Reads a cluster's name; none if it is not one that a deployment of this function gave.
    pub fn parse(name: &str) -> Option<ClusterName> {
        let parts: Vec<&str> = name.split('-').collect();
        let is_digits = |text: &str| text.len() == DIGITS && text.bytes().all(|byte| ALPHABET.contains(&byte));
        // From the right: a base may contain anything.
        (1..parts.len().saturating_sub(1)).rev().take(3).find_map(|at| {
            let attempt = parts[at + 1].parse().ok().filter(|attempt| *attempt > 0)?;
            let digits = is_digits(parts[at]).then(|| parts[at].to_owned())?;
            Some(ClusterName { base: parts[..at].join("-"), digits, attempt })
        })
    }
}

impl std::fmt::Display for ClusterName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.base, self.digits, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Uuid = Uuid::from_u128(0x0b51e8a4_6d0b_5f3c_9a57_6b7a52f19c01);

    fn deployment() -> Deployment {
        Deployment::new("p", "r1", "b")
    }

    #[test]
    fn a_name_is_read_as_it_was_written_with_and_without_a_suffix() {
        let digits = deployment().digits(RUN);
        for (base, attempt, shown) in [
            ("daily", 1, "daily"),
            ("a-b-1-2", 999, "a-b-1-2"),
            ("abcdefghijklmnopqrstuvwxyz", 1, "abcdefghijkl"),
            ("abcdefghijklmnopqrstuvwxyz", u32::MAX, "abc"),
            ("a", 2, "a"),
        ] {
            let name = deployment().cluster_name(base, RUN, attempt);
            let text = name.to_string();
            assert_eq!(text, format!("{shown}-{digits}-{attempt}"));
            assert!(text.len() <= LONGEST_NAME, "{text}");
            assert_eq!(ClusterName::parse(&text), Some(name.clone()));
            assert_eq!(ClusterName::parse(&format!("{text}-h5svhw3e10x1d")), Some(name));
        }
        for other in
            ["", "a", "a-b-1", "word-count-0b51e8a46d0b-1", &digits, &format!("a-{digits}"), &format!("a-{digits}-0")]
        {
            assert_eq!(ClusterName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_digits_lead_back_to_the_run_within_a_deployment_and_to_no_run_of_another() {
        let digits = deployment().digits(RUN);
        let prefix = deployment().run_prefix(&digits);
        assert_eq!(prefix, "0b51e8a4-6d0b-5f3c-9a57-6b7a5");
        for other in [Deployment::new("q", "r1", "b"), Deployment::new("p", "r2", "b"), Deployment::new("p", "r1", "c")]
        {
            assert_ne!(other.digits(RUN), digits);
            assert_ne!(other.request_id(RUN, 1), deployment().request_id(RUN, 1));
            assert_ne!(other.run_prefix(&digits), prefix);
        }
    }

    #[test]
    fn every_attempt_has_a_request_id_of_its_own_that_the_service_takes() {
        let id = |attempt| deployment().request_id(RUN, attempt);
        assert_eq!(id(1), id(1));
        assert_ne!(id(1), id(2));
        assert!(id(u32::MAX).len() <= 40);
    }
}
