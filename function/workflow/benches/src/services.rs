//! The emulator in a process of its own, so that nothing of it counts as the function's; led by lines on its standard
//! input, each answered by lines that end with a `.`.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use inline_workflow_bench::inputs;
use inline_workflow_emulator::{DataprocOptions, Emulator, Fault, Options, Timing, What, When};
use prost::Message;
use tokio::runtime;

use crate::{BUCKET, CONFIG, RESPONSES, SERVICES_ROLE};

/// What each stage of a workflow takes, of time that `pass` moves.
pub const STAGE: Duration = Duration::from_secs(3600);

/// The services, as the one who measures sees them.
pub struct Services {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub address: SocketAddr,
}

/// A call that reached the services: nanoseconds of the epoch, and the method.
pub struct Seen {
    pub at: i64,
    pub method: String,
}

impl Services {
    /// `keep`: how many calls are remembered for `calls`; remembering costs time.
    pub fn start(config: &str, keep: usize) -> Services {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([SERVICES_ROLE, config, &keep.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("piped");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut address = String::new();
        output.read_line(&mut address).expect("its address");
        Services { child, input, output, address: address.trim().parse().expect("an address") }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ask(&mut self, line: &str) -> Vec<String> {
        writeln!(self.input, "{line}").expect("it runs");
        let mut answer = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).expect("it runs"), 0, "the services ended");
            match line.trim_end() {
                "." => return answer,
                line => answer.push(line.to_owned()),
            }
        }
    }

    /// Each call takes so much longer from now on.
    pub fn delay(&mut self, delay: Duration) {
        self.ask(&format!("delay {}", delay.as_micros()));
    }

    /// Time passes for the services, and for nobody else.
    pub fn pass(&mut self, time: Duration) {
        self.ask(&format!("pass {}", time.as_secs()));
    }

    /// The calls since the last time, as far as they were kept.
    pub fn calls(&mut self) -> Vec<Seen> {
        let seen = |line: &String| {
            let (at, method) = line.split_once(' ').expect("two words");
            Seen { at: at.parse().expect("a number"), method: method.to_owned() }
        };
        self.ask("calls").iter().map(seen).collect()
    }

    /// The configuration gets a new generation.
    pub fn change_config(&mut self) {
        self.ask("config");
    }

    /// Writes into the directory what the last event left behind: what the floor sends.
    pub fn capture(&mut self, directory: &Path) {
        self.ask(&format!("capture {}", directory.display()));
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself.
pub fn run(config: &str, keep: usize) {
    let config = match config {
        "large" => inputs::large_config(),
        _ => inputs::small_config(),
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let timing =
            Timing { pending: STAGE, create_cluster: STAGE, start_job: STAGE, job: STAGE, delete_cluster: STAGE };
        let dataproc = DataprocOptions { timing, ..DataprocOptions::default() };
        let emulator = Emulator::new(Options { keep, dataproc, ..Options::default() });
        emulator.put_object(BUCKET, CONFIG, config.clone());
        emulator.put_object(BUCKET, "ok.py", "print()");
        let address = emulator.start().await.expect("a port");
        println!("{address}");
        let (sender, mut lines) = tokio::sync::mpsc::channel(1);
        thread::spawn(move || {
            for line in std::io::stdin().lines() {
                let Ok(line) = line else { break };
                if sender.blocking_send(line).is_err() {
                    break;
                }
            }
        });
        while let Some(line) = lines.recv().await {
            obey(&emulator, &config, &line);
            println!(".");
        }
    });
}

fn obey(emulator: &Emulator, config: &str, line: &str) {
    let (word, argument) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "delay" => {
            emulator.clear_faults();
            let delay = Duration::from_micros(argument.parse().expect("microseconds"));
            if !delay.is_zero() {
                emulator.fault(Fault { method: "*".to_owned(), what: What::Delay(delay), when: When::Always });
            }
        }
        "pass" => {
            emulator.clock().pass(Duration::from_secs(argument.parse().expect("seconds")));
        }
        "calls" => {
            for call in emulator.calls() {
                let method = call.path.rsplit('/').next().unwrap_or_default();
                println!("{} {method}", call.at.timestamp_nanos_opt().unwrap_or(0));
            }
            emulator.clear_calls();
        }
        "config" => {
            emulator.put_object(BUCKET, CONFIG, config.to_owned());
        }
        "capture" => {
            let directory = Path::new(argument);
            let workflow = emulator.workflows().pop().expect("a workflow was submitted");
            let message = emulator.published(RESPONSES).pop().expect("an event was published");
            let objects = emulator.objects(BUCKET);
            let (_, record) = objects.iter().rfind(|(name, _)| name.starts_with("runs/")).expect("a record");
            fs::write(directory.join("instantiate"), &workflow.request).expect("written");
            fs::write(directory.join("publish"), message.encode_to_vec()).expect("written");
            fs::write(directory.join("record"), record).expect("written");
        }
        other => panic!("the services know no {other}"),
    }
}
