//! The servers under test: the function, the floor, and whatever else takes the same events.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use inline_workflow::environment::*;
use inline_workflow_bench::inputs::PROJECT;

use crate::{BUCKET, RESPONSES, TICKS, process, services::Services};

const LONGEST_START: Duration = Duration::from_secs(60);

/// How a server is started.
#[derive(Clone)]
pub struct Program {
    pub name: &'static str,
    command: Vec<String>,
    /// The port that it insists on, if it cannot take one from PORT.
    port: Option<u16>,
    /// Whether it does what the function does: the floor only sends what is ready.
    pub is_whole: bool,
}

impl Program {
    pub fn function(binary: &Path) -> Program {
        Program { name: "function", command: vec![binary.display().to_string()], port: None, is_whole: true }
    }

    pub fn floor(binary: &Path, ready: &Path) -> Program {
        let command = [binary, ready].map(|path| path.display().to_string());
        Program { name: "floor", command: command.into(), port: None, is_whole: false }
    }

    pub fn binary(&self) -> &str {
        &self.command[0]
    }

    pub fn peer(command: &str, port: u16) -> Program {
        let command = ["sh", "-c", &format!("exec {command}")].map(str::to_owned);
        Program { name: "peer", command: command.into(), port: Some(port), is_whole: true }
    }
}

/// One that runs; killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub began: Instant,
}

impl Server {
    /// Starts it and waits until its port answers, on the core that is its own if `pinned`.
    pub fn start(program: &Program, services: &Services, pinned: bool) -> Server {
        let port = program.port.unwrap_or_else(free_port);
        let services = services.address.to_string();
        let began = Instant::now();
        let child = Command::new(&program.command[0])
            .args(&program.command[1..])
            .env(ENV_PORT, port.to_string())
            .env(ENV_PROJECT, PROJECT)
            .env(ENV_REGION, "us-central1")
            .env(ENV_STAGING_BUCKET, BUCKET)
            .env(ENV_RESPONSE_TOPIC, RESPONSES)
            .env(ENV_TICK_TOPIC, TICKS)
            .env(ENV_STORAGE_EMULATOR, &services)
            .env(ENV_DATAPROC_EMULATOR, &services)
            .env(ENV_PUBSUB_EMULATOR, &services)
            // As on Cloud Run: the log is JSON, and is written.
            .env(ENV_SERVICE, "bench")
            .stdout(log(program.name))
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.command.join(" ")));
        let mut server = Server { child, address: (Ipv4Addr::LOCALHOST, port).into(), began };
        while TcpStream::connect(server.address).is_err() {
            assert!(began.elapsed() < LONGEST_START, "{} does not listen on {port}", program.name);
            if let Ok(Some(status)) = server.child.try_wait() {
                panic!("{} ended: {status}", program.command.join(" "));
            }
            thread::sleep(Duration::from_micros(50));
        }
        if pinned {
            process::pin(server.pid(), 0);
        }
        server
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

fn log(name: &str) -> File {
    let path = directory().join(format!("{name}.log"));
    File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where this program keeps its files: `target/bench`.
pub fn directory() -> PathBuf {
    let exe = std::env::current_exe().expect("this program");
    let target = exe.ancestors().find(|path| path.ends_with("target")).expect("below target").to_owned();
    let directory = target.join("bench");
    std::fs::create_dir_all(&directory).expect("it can be made");
    directory
}
