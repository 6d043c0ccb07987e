//! What comes from outside, mutated from the fixtures: no panic, no hang, no memory without bound, and always an answer.
//!
//! `cargo test` makes a fixed number of inputs for each target; `FUZZ_SECONDS=60 make fuzz` makes them for so long. An
//! input whose outcome is a new one joins the pool that the next are made of. One that fails is printed and written to
//! `target/fuzz/<target>-<hash>`; `FUZZ_INPUT=<that file> make fuzz` runs it alone. `FUZZ_SEED=7` makes other inputs.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "helpers of tests")]

mod mutate;
mod seeds;
#[path = "../support/mod.rs"]
mod support;
mod targets;

use std::{
    any::Any,
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use peak_alloc::PeakAlloc;
use targets::Answering;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What an input may take at most: so much, and so many times its size.
const MOST_MEMORY: (usize, usize) = (4 << 20, 100);
/// An input that takes so long hangs. Far beyond what the slowest machine needs for the largest.
const HANG: Duration = Duration::from_secs(60);
/// So many inputs, none larger than this, are kept to make others of.
const POOL: (usize, usize) = (4_000, 16 << 10);

/// The targets run one after the other: memory is counted for the whole process.
static TURN: Mutex<()> = Mutex::new(());

/// Runs a target on many inputs. It says what became of one, in a few words; a panic is a failure.
fn fuzz(name: &'static str, inputs: usize, seeds: fn() -> Vec<Vec<u8>>, target: impl Fn(&[u8]) -> String) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pool = seeds();
    let watch = Watch::start(name);
    // What is made once and kept is not an input's.
    for seed in &pool {
        target(seed);
    }
    if let Some(path) = std::env::var_os("FUZZ_INPUT").map(PathBuf::from) {
        let is_mine = path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}-")));
        match is_mine {
            true => println!("{name}: {}", check(name, &watch, &std::fs::read(&path).unwrap(), &target)),
            false => println!("{name}: {} is for another target", path.display()),
        }
        return;
    }
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let mut random = Rng::with_seed(seed);
    let mut outcomes: HashSet<String> = pool.iter().map(|seed| check(name, &watch, seed, &target)).collect();
    let began = Instant::now();
    let mut made = 0;
    while seconds.map_or(made < inputs, |seconds| began.elapsed() < Duration::from_secs(seconds)) {
        made += 1;
        let input = mutate::input(&pool, &mut random);
        let outcome = check(name, &watch, &input, &target);
        if outcomes.insert(outcome) && input.len() <= POOL.1 && pool.len() < POOL.0 {
            pool.push(input);
        }
    }
    let seconds = began.elapsed().as_secs();
    println!("{name}: {made} inputs in {seconds} s, {} outcomes, FUZZ_SEED={seed}", outcomes.len());
}

/// Runs the target on one input, and says what became of it.
fn check(name: &str, watch: &Watch, input: &[u8], target: &impl Fn(&[u8]) -> String) -> String {
    watch.begin(input);
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let result = catch_unwind(AssertUnwindSafe(|| target(input)));
    let took = MEMORY.peak_usage().saturating_sub(before);
    watch.end();
    let (most, times) = MOST_MEMORY;
    match result {
        Ok(outcome) if took <= most + times * input.len() => outcome,
        Ok(_) => fail(name, input, &format!("it took {took} bytes of memory")),
        Err(panic) => fail(name, input, &format!("it panicked: {}", message(&*panic))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("?")
}

/// Prints and keeps an input.
fn keep(name: &str, input: &[u8], why: &str) -> String {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("fuzz");
    let path = folder.join(format!("{name}-{:016x}", hasher.finish()));
    let kept = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input));
    let place = match kept {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("nowhere: {error}"),
    };
    let shown = &input[..input.len().min(2_000)];
    format!("{name}: {why}\ninput of {} bytes, kept in {place}:\n{}", input.len(), shown.escape_ascii())
}

fn fail(name: &str, input: &[u8], why: &str) -> ! {
    panic!("{}", keep(name, input, why))
}

/// When an input was begun, and what it is.
type UnderWay = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

/// Ends the process when an input hangs; nothing else could stop it.
struct Watch {
    under_way: UnderWay,
}

impl Watch {
    fn start(name: &'static str) -> Watch {
        let under_way = UnderWay::default();
        let watched = Arc::downgrade(&under_way);
        thread::spawn(move || {
            while let Some(watched) = watched.upgrade() {
                if let Some((began, input)) = &*watched.lock().unwrap_or_else(PoisonError::into_inner)
                    && began.elapsed() > HANG
                {
                    eprintln!("{}", keep(name, input, "it hangs"));
                    std::process::abort();
                }
                drop(watched);
                thread::sleep(Duration::from_millis(200));
            }
        });
        Watch { under_way }
    }

    fn begin(&self, input: &[u8]) {
        *self.under_way.lock().unwrap() = Some((Instant::now(), input.to_vec()));
    }

    fn end(&self) {
        *self.under_way.lock().unwrap() = None;
    }
}

#[test]
fn http_events() {
    fuzz("event", 5_000, seeds::events, targets::event);
}

#[test]
fn envelopes() {
    fuzz("envelope", 5_000, seeds::envelopes, targets::envelope);
}

#[test]
fn requests() {
    fuzz("request", 1_000, seeds::requests, targets::request);
}

#[test]
fn configurations() {
    fuzz("config", 2_000, seeds::configs, targets::config);
}

#[test]
fn audit_log_entries() {
    fuzz("audit", 5_000, seeds::audit_log, targets::audit);
}

#[test]
fn answers() {
    fuzz("answer", 300, seeds::requests, Answering::new().target());
}

/// Documents whose size is the attack.
#[test]
fn giants() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let repeat = |text: &str, size: usize| text.repeat(size / text.len());
    const SIZE: usize = 1 << 19;
    let giants: Vec<Vec<u8>> = [
        repeat("[", SIZE),
        repeat("{\"a\":", SIZE),
        repeat("\"", SIZE),
        repeat("9", SIZE),
        format!("[{}0]", repeat("0,", SIZE)),
        format!("{{{}\"jobs\":[]}}", repeat("\"a\":0,", SIZE)),
        format!("{{\"jobs\":[{}{{}}]}}", repeat("{},", SIZE)),
        format!("{{\"jobs\":[{}{{}}]}}", repeat("{\"step_id\":\"aaa\",\"pig_job\":{}},", SIZE)),
        format!("{{\"job_name\":\"{}\",\"jobs\":[]}}", repeat("\u{1f469}", SIZE)),
        format!("{{\"request_id\":\"{}\",\"jobs\":[]}}", repeat("x", SIZE)),
        format!("{{\"{}\":0,\"jobs\":[]}}", repeat("\\u0001", SIZE)),
        format!("{{\"labels\":{{{}\"z\":\"\"}},\"jobs\":[]}}", repeat("\"A\":\"\",", SIZE)),
        format!(
            "{{\"jobs\":[{{\"step_id\":\"aaa\",\"pig_job\":{{}},\"prerequisite_step_ids\":[{}\"b\"]}}]}}",
            repeat("\"aaa\",", SIZE)
        ),
    ]
    .map(String::into_bytes)
    .into();
    for (name, target) in [
        ("event", targets::event as fn(&[u8]) -> String),
        ("envelope", targets::envelope),
        ("request", targets::request),
        ("config", targets::config),
        ("audit", targets::audit),
    ] {
        target(b"{}");
        let watch = Watch::start(name);
        for giant in &giants {
            check(name, &watch, giant, &target);
        }
    }
    // The largest request there may be, most of it a text that an event repeats.
    let job_name = "x".repeat(10 * 1024 * 1024 - 200);
    let largest = format!("{{\"job_name\":\"{job_name}\",\"jobs\":[]}}").into_bytes();
    let answer = Answering::new().target();
    let watch = Watch::start("answer");
    for giant in giants.iter().chain([&largest]) {
        check("answer", &watch, giant, &answer);
    }
}
