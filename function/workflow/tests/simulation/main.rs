//! The whole function against the emulator under random misfortune, in virtual time.
//!
//! A schedule is a seed: requests, cancels and ticks, instances whose clocks differ, and everything that can go wrong
//! with them and with every service. `dimensions` widens the world by what lasts for hours, or for ever. After the chaos
//! the other faults are gone and ticks go on; `promise` says what must hold then.
//!
//! `SEED=123 cargo test -p inline-workflow --test simulation` runs that schedule alone and prints its history;
//! `SCHEDULES=10000 FIRST_SEED=5000` runs others than usual, `DIMENSION=SlowCalls` puts that dimension into each of them.

#[path = "../support/mod.rs"]
mod support;

mod chaos;
mod deployment;
mod dimensions;
mod history;
mod promise;
mod schedule;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Instant,
};

use history::History;

/// How many schedules a plain `cargo test` runs.
const USUAL: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// What happened in each deployment.
fn run(seed: u64) -> Vec<History> {
    chaos::run(schedule::draw(seed))
}

#[test]
fn whatever_fails_every_request_ends_in_exactly_one_result() {
    let (first, count) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (number("FIRST_SEED").unwrap_or(0), number("SCHEDULES").unwrap_or(USUAL)),
    };
    let alone = count == 1;
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // With KEEP_GOING all that fail are counted, to see what a change to the code does.
    let keep_going = number("KEEP_GOING").is_some();
    let broken: Vec<(u64, Vec<String>)> = std::thread::scope(|scope| {
        let worker = || {
            let mut broken = Vec::new();
            while keep_going || !failed.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed - first >= count {
                    break;
                }
                let histories = run(seed);
                let faults: Vec<_> = histories.iter().flat_map(promise::check).collect();
                let text = || histories.iter().map(History::text).collect::<String>();
                if alone {
                    println!("{}", text());
                }
                if !faults.is_empty() {
                    failed.store(true, Ordering::Relaxed);
                    if !keep_going {
                        println!("{}", text());
                    }
                    broken.push((seed, faults));
                }
            }
            broken
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a schedule panicked outside of the function"))
            .collect()
    });
    let took = began.elapsed().as_secs_f64();
    println!("{count} schedules, seeds {first} to {}, in {took:.1} s; {} broken", first + count - 1, broken.len());
    for (seed, faults) in &broken {
        println!("SEED={seed}\n  {}", faults.join("\n  "));
    }
    assert!(broken.is_empty(), "run SEED={} cargo test -p inline-workflow --test simulation", broken[0].0);
}

#[test]
fn a_seed_is_a_history() {
    for seed in [1, 2, 3, 5, 8, 13, 21, 34, 55] {
        let text = || run(seed).iter().map(History::text).collect::<String>();
        assert_eq!(text(), text(), "SEED={seed}");
    }
}
