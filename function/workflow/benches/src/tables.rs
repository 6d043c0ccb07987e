//! The tables, one function each.

use std::{
    fs,
    path::Path,
    process as os, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    load::{Delivery, Outcome, Plan, deliver},
    process,
    server::{Program, Server, directory},
    services::{STAGE, Services},
};

const STARTS: usize = 20;
const IN_FLIGHT: [usize; 4] = [1, 8, 64, 256];
/// Of one measurement of a server that is slow.
const LONGEST: Duration = Duration::from_secs(5);
/// In so many turns each server gets its events.
const ROUNDS: usize = 5;
/// To connect, and to make what is made once.
const WARM_UP: usize = 100;
const CALL: Duration = Duration::from_millis(20);

/// What the figures depend on beside the code.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, name)| name);
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let commit = os::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    format!("{} {commit}, {cores} x {model}, load {load}", chrono::Utc::now().format("%Y-%m-%d"))
}

/// A process of its own for the services, on the core that the server has not.
fn services(config: &str, keep: usize) -> Services {
    let services = Services::start(config, keep);
    process::pin(services.pid(), 1);
    services
}

/// Lays ready what the floor sends: the messages of such an event as the function makes them.
fn lay_ready(programs: &[Program], delivery: &Delivery) {
    let mut services = services("small", 10);
    let server = Server::start(&programs[0], &services, false);
    let outcome = deliver(server.address, delivery, once());
    assert_eq!(outcome.acked, 1, "the function does not take the event");
    services.capture(&directory());
}

fn once() -> Plan {
    Plan { events: 1, in_flight: 1, at_most: LONGEST }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn median<T: Copy + PartialOrd>(values: &mut [T]) -> T {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).expect("comparable"));
    values[values.len() / 2]
}

/// The figure of the second program, the floor, is what the others are set against.
fn ratio(figure: f64, floor: f64) -> String {
    if floor > 0.0 { format!("{:.2} x floor", figure / floor) } else { String::new() }
}

pub fn size(programs: &[Program]) {
    println!("size, MB");
    for program in programs.iter().filter(|program| program.name != "peer") {
        let bytes = fs::metadata(program.binary()).map_or(0, |metadata| metadata.len());
        println!("  {:<10} {:>6.2}", program.name, bytes as f64 / 1e6);
    }
    // As `.ci/test-image` measured it, on stand-ins of the base images.
    let image = fs::read_to_string(directory().with_file_name("image").join("size")).unwrap_or_default();
    match image.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>() {
        Ok(sizes) if sizes.len() == 2 => println!("  image      {:>6.2}  {:.2} packed", sizes[0] / 1e6, sizes[1] / 1e6),
        _ => println!("  image      not built here; `make test-image` builds it"),
    }
}

pub fn start(programs: &[Program]) {
    let delivery = Delivery::request(2, 0);
    lay_ready(programs, &delivery);
    println!("cold start, ms (median of {STARTS})");
    println!("  {:<10} {:>10} {:>14} {:>8} {:>14}", "", "listening", "first ack", "RSS MB", "CPU to ack");
    let mut phases = Vec::new();
    for program in programs {
        let (mut listening, mut acked, mut memory, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut calls = Vec::new();
        for _ in 0..STARTS {
            let mut services = Services::start("small", 100);
            let epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as i64;
            let server = Server::start(program, &services, false);
            let listens = server.began.elapsed();
            listening.push(milliseconds(listens));
            memory.push(process::memory(server.pid()).0);
            let outcome = deliver(server.address, &delivery, once());
            assert_eq!(outcome.acked, 1, "{} does not take the event", program.name);
            let ack = server.began.elapsed();
            acked.push(milliseconds(ack));
            cpu.push(milliseconds(process::cpu(server.pid())));
            let mut steps = vec![("listening".to_owned(), milliseconds(listens))];
            steps.extend(services.calls().into_iter().map(|call| (call.method, (call.at - epoch) as f64 / 1e6)));
            steps.push(("acknowledged".to_owned(), milliseconds(ack)));
            calls.push(steps);
        }
        println!(
            "  {:<10} {:>10.1} {:>14.1} {:>8.1} {:>14.1}",
            program.name,
            median(&mut listening),
            median(&mut acked),
            median(&mut memory),
            median(&mut cpu)
        );
        phases.push((program.name, calls));
    }
    println!(
        "  where the time goes, ms since the start (medians): the port answers, each call reaches its service, the ack"
    );
    for (name, starts) in phases {
        let mut line = format!("  {name:<10}");
        let most = starts.iter().map(Vec::len).max().unwrap_or(0);
        let whole: Vec<_> = starts.iter().filter(|steps| steps.len() == most).collect();
        for step in 0..most {
            let mut times: Vec<f64> = whole.iter().map(|steps| steps[step].1).collect();
            line += &format!(" {} {:.1} ", whole[0][step].0, median(&mut times));
        }
        println!("{line}");
    }
}

/// Latency, throughput and CPU time of one kind of event.
fn measure(programs: &[Program], config: &str, delivery: &Delivery, events: [usize; 4]) {
    println!(
        "  {:<9} {:<9} {:>8} {:>8} {:>9} {:>9} {:>14}  {:>10} {:>14}",
        "in flight", "", "p50 ms", "p99 ms", "p99/p50", "CPU ms", "", "events/s", ""
    );
    let mut running: Vec<(Services, Server)> = Vec::new();
    for program in programs {
        let services = services(config, 0);
        let server = Server::start(program, &services, true);
        deliver(server.address, delivery, Plan { events: WARM_UP, in_flight: 8, at_most: LONGEST });
        running.push((services, server));
    }
    for (in_flight, events) in IN_FLIGHT.into_iter().zip(events) {
        let plan = Plan { events: events / ROUNDS, in_flight, at_most: LONGEST / ROUNDS as u32 };
        let mut figures: Vec<Figures> = running.iter().map(|_| Figures::default()).collect();
        // In turns: what else the machine does then hits all of them alike.
        for _ in 0..ROUNDS {
            for ((_, server), figures) in running.iter().zip(&mut figures) {
                let before = process::cpu(server.pid());
                let outcome = deliver(server.address, delivery, plan);
                figures.add(outcome, process::cpu(server.pid()) - before);
            }
        }
        let figures: Vec<_> = figures.into_iter().map(Figures::summed_up).collect();
        let (_, floor_cpu, floor_rate) = figures[1];
        for (program, (whole, cpu, rate)) in programs.iter().zip(&figures) {
            let (p50, p99) = (milliseconds(whole.percentile(50)), milliseconds(whole.percentile(99)));
            let refused = if whole.refused > 0 { format!("  {} refused", whole.refused) } else { String::new() };
            println!(
                "  {in_flight:<9} {:<9} {p50:>8.2} {p99:>8.2} {:>9.1} {cpu:>9.3} {:>14}  {rate:>10.0} {:>14}{refused}",
                program.name,
                p99 / p50,
                ratio(*cpu, floor_cpu),
                ratio(*rate, floor_rate),
            );
        }
    }
}

/// What a server did in its turns.
#[derive(Default)]
struct Figures {
    whole: Outcome,
    /// Of each turn: milliseconds of CPU for an event, and events in a second.
    cpu: Vec<f64>,
    rate: Vec<f64>,
}

impl Figures {
    fn add(&mut self, outcome: Outcome, spent: Duration) {
        self.cpu.push(milliseconds(spent) / outcome.acked.max(1) as f64);
        self.rate.push(outcome.acked as f64 / outcome.took.as_secs_f64());
        self.whole.acked += outcome.acked;
        self.whole.refused += outcome.refused;
        self.whole.latencies.extend(outcome.latencies);
    }

    /// All latencies, and the medians of the turns.
    fn summed_up(mut self) -> (Outcome, f64, f64) {
        self.whole.latencies.sort_unstable();
        (self.whole, median(&mut self.cpu), median(&mut self.rate))
    }
}

pub fn event(programs: &[Program]) {
    let small = Delivery::request(2, 0);
    lay_ready(programs, &small);
    println!("a small request (2 jobs); CPU ms and events/s are of the server's process on one core");
    measure(programs, "small", &small, [3_000, 6_000, 20_000, 20_000]);
    let large = Delivery::request(100, 0);
    lay_ready(programs, &large);
    println!("a request of 100 jobs");
    measure(programs, "small", &large, [500, 2_000, 2_500, 2_500]);
}

pub fn config(programs: &[Program]) {
    let delivery = Delivery::request(2, 0);
    lay_ready(programs, &delivery);
    println!("a small request, the configuration of 1 MB with 5,000 entries unchanged");
    measure(programs, "large", &delivery, [3_000, 6_000, 20_000, 20_000]);
    println!("the same, the configuration changed before each event, one after the other");
    println!("  {:<10} {:>8} {:>8} {:>9}", "", "p50 ms", "p99 ms", "CPU ms");
    for program in programs {
        let mut services = services("large", 0);
        let server = Server::start(program, &services, true);
        deliver(server.address, &delivery, Plan { events: WARM_UP, in_flight: 8, at_most: LONGEST });
        let before = process::cpu(server.pid());
        let mut whole = Outcome::default();
        for _ in 0..50 {
            services.change_config();
            let outcome = deliver(server.address, &delivery, once());
            whole.acked += outcome.acked;
            whole.latencies.extend(outcome.latencies);
        }
        let spent = process::cpu(server.pid()) - before;
        whole.latencies.sort_unstable();
        println!(
            "  {:<10} {:>8.2} {:>8.2} {:>9.3}",
            program.name,
            milliseconds(whole.percentile(50)),
            milliseconds(whole.percentile(99)),
            milliseconds(spent) / whole.acked.max(1) as f64
        );
    }
}

pub fn sweep(programs: &[Program]) {
    let (request, tick) = (Delivery::request(2, 0), Delivery::tick());
    println!("sweep: one tick, each call {} ms, the function alone", CALL.as_millis());
    println!(
        "  {:<22} {:>6} {:>7} {:>9} {:>8} {:>9} {:>9} {:>9}",
        "", "runs", "calls", "calls/run", "seconds", "CPU ms", "ms/run", "peak MB"
    );
    for runs in [10, 1_000, 5_000] {
        let mut services = services("small", 1_000_000);
        let server = Server::start(&programs[0], &services, true);
        let outcome = deliver(server.address, &request, Plan { events: runs, in_flight: 64, at_most: LONGEST * 12 });
        assert_eq!(outcome.acked, runs, "runs are accepted");
        services.delay(CALL);
        let mut pass = Duration::ZERO;
        for what in ["nothing new", "every run progressed", "every run ended"] {
            services.pass(pass);
            services.calls();
            process::forget_peak(server.pid());
            let before = process::cpu(server.pid());
            let began = Instant::now();
            let outcome = deliver(server.address, &tick, once());
            let (took, spent) = (began.elapsed(), process::cpu(server.pid()) - before);
            assert_eq!(outcome.acked, 1, "a tick is acked");
            let calls = services.calls();
            // One look at its record for each run that had its turn; more only where the record was lost to another.
            let turns = calls.iter().filter(|call| call.method == "ReadObject").count();
            println!(
                "  {what:<22} {turns:>6} {:>7} {:>9.2} {:>8.2} {:>9.0} {:>9.3} {:>9.1}",
                calls.len(),
                calls.len() as f64 / turns as f64,
                took.as_secs_f64(),
                milliseconds(spent),
                milliseconds(spent) / turns as f64,
                process::memory(server.pid()).1,
            );
            // What one tick could not do is done before the next line.
            services.delay(Duration::ZERO);
            for _ in 0..3 {
                deliver(server.address, &tick, once());
            }
            services.delay(CALL);
            pass = if pass.is_zero() { STAGE + Duration::from_secs(60) } else { 20 * STAGE };
        }
    }
}

pub fn memory(programs: &[Program]) {
    let delivery = Delivery::request(2, 0);
    lay_ready(programs, &delivery);
    println!("memory, RSS in MB");
    println!("  {:<10} {:>8} {:>10} {:>10} {:>10} {:>8}", "", "start", "after 1k", "after 10k", "after", "events");
    for program in programs {
        let services = services("small", 0);
        let server = Server::start(program, &services, true);
        let rss = || process::memory(server.pid()).0;
        let mut line = format!("  {:<10} {:>8.1}", program.name, rss());
        let mut events = 0;
        for (more, at_most) in [(1_000, 5), (9_000, 10), (90_000, 60)] {
            let plan = Plan { events: more, in_flight: 64, at_most: Duration::from_secs(at_most) };
            events += deliver(server.address, &delivery, plan).acked;
            line += &format!(" {:>10.1}", rss());
        }
        println!("{line} {events:>8}");
    }
    println!("256 requests of 1 MB in flight, twice; answered 429 beyond 32 MiB of bodies, and delivered again");
    println!("  {:<10} {:>8} {:>8} {:>9} {:>9}", "", "acked", "refused", "peak MB", "RSS after");
    let delivery = Delivery::request(1, 700_000);
    for program in programs.iter().filter(|program| program.is_whole) {
        let services = services("small", 0);
        let server = Server::start(program, &services, true);
        let plan = Plan { events: 512, in_flight: 256, at_most: LONGEST * 4 };
        let outcome = deliver(server.address, &delivery, plan);
        let (after, peak) = process::memory(server.pid());
        println!("  {:<10} {:>8} {:>8} {peak:>9.1} {after:>9.1}", program.name, outcome.acked, outcome.refused);
    }
}

/// What the function computes for an event, part by part (bin/micro.rs).
pub fn micro(programs: &[Program]) {
    println!("what an event's parts cost by themselves, for requests of 2 and of 100 jobs");
    let program = Path::new(programs[0].binary()).with_file_name("micro");
    let status = os::Command::new(&program).status();
    assert!(status.is_ok_and(|status| status.success()), "{} fails", program.display());
}
