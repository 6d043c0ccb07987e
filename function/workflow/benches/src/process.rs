//! A server under test as the kernel sees it: its time and its memory.

use std::{fs, process::Command, time::Duration};

use nix::{time::clock_getcpuclockid, unistd::Pid};

/// CPU time, user and system, of a process and everything below it; of children that have ended nothing is known any more.
pub fn cpu(pid: u32) -> Duration {
    let spent = tree(pid).into_iter().filter_map(|pid| {
        let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into().ok()?)).ok()?;
        clock.now().ok().map(Duration::from)
    });
    spent.sum()
}

/// Megabytes of memory in use, and the most there ever was since `forget_peak`.
pub fn memory(pid: u32) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for pid in tree(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            kilobytes.unwrap_or(0.0) / 1024.0
        };
        sums.0 += field("VmRSS:");
        sums.1 += field("VmHWM:");
    }
    sums
}

pub fn forget_peak(pid: u32) {
    for pid in tree(pid) {
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

/// Gives a process and its threads one core, as Cloud Run gives one; without `taskset` it keeps them all.
pub fn pin(pid: u32, core: usize) -> bool {
    for pid in tree(pid) {
        let pinned = Command::new("taskset").args(["-apc", &core.to_string(), &pid.to_string()]).output();
        if !pinned.is_ok_and(|output| output.status.success()) {
            return false;
        }
    }
    true
}

fn tasks(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    for task in tasks(pid) {
        let children = fs::read_to_string(format!("{task}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(tree));
    }
    all
}
