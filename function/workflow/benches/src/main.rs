//! What an event costs: cold start, latency, CPU time, memory, sweeps, size. `make bench`; benches/README.md tells more.
//!
//! The function's release binary, the floor (floor.rs) and, if asked for, another server take the same events, each in a
//! process of its own, with the emulator in another. Nothing here judges a time: it prints tables.

#![allow(clippy::print_stdout, reason = "the tables are what it is for")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot go on has no better way to say so")]

mod load;
mod process;
mod server;
mod services;
mod tables;

use std::{env, path::PathBuf};

use server::Program;

const BUCKET: &str = "staging";
const CONFIG: &str = "config/cluster-config.json";
const RESPONSES: &str = "projects/test-project/topics/responses";
const TICKS: &str = "projects/test-project/topics/ticks";
/// The first argument of the process that is the services.
const SERVICES_ROLE: &str = "services";

type Section = fn(&[Program]);

/// In the order in which they are measured.
const SECTIONS: [(&str, Section); 7] = [
    ("size", tables::size),
    ("start", tables::start),
    ("event", tables::event),
    ("config", tables::config),
    ("sweep", tables::sweep),
    ("memory", tables::memory),
    ("micro", tables::micro),
];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [role, config, keep] = arguments.as_slice()
        && role == SERVICES_ROLE
    {
        return services::run(config, keep.parse().expect("a number"));
    }
    let binaries = PathBuf::from(env::var("BINARIES").expect("BINARIES is set: this is run by `make bench`"));
    let mut programs = vec![
        Program::function(&binaries.join("function")),
        Program::floor(&binaries.join("floor"), &server::directory()),
    ];
    if let Ok(command) = env::var("PEER")
        && !command.is_empty()
    {
        let port = env::var("PEER_PORT").ok().and_then(|port| port.parse().ok());
        programs.push(Program::peer(&command, port.expect("PEER_PORT is the port on which PEER listens")));
    }
    let wanted = env::var("ONLY").unwrap_or_default();
    println!("{}", tables::machine());
    for (name, section) in SECTIONS {
        if wanted.is_empty() || wanted.split(',').any(|wanted| wanted == name) {
            println!();
            section(&programs);
        }
    }
}
