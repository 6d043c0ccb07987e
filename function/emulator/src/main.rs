//! The emulator's binary: `serve` the services, or `run` one request through the function.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

mod arguments;
mod demo;
mod narrate;

use std::path::Path;
use std::process::ExitCode;

use arguments::{Command, Serve, Services, USAGE};
use inline_workflow_emulator::{DataprocOptions, Emulator, FAULT_SYNTAX, Options, PushSubscription, Quota};
use tracing_subscriber::{filter::Targets, fmt::layer, layer::SubscriberExt, util::SubscriberInitExt};

/// sysexits.h: the command was used incorrectly.
const EX_USAGE: u8 = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match arguments::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            println!("{USAGE}\nFAULT: {FAULT_SYNTAX}");
            return ExitCode::SUCCESS;
        }
        Ok(Command::Serve(serve)) => self::serve(serve).await.map(|()| true),
        Ok(Command::Run(run)) => self::run(run).await,
        Err(error) => {
            eprintln!("emulator: {error} (emulator --help tells more)");
            return ExitCode::from(EX_USAGE);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("emulator: {error}");
            ExitCode::FAILURE
        }
    }
}

/// As `RUST_LOG` says.
fn start_log() -> Result<(), String> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| "error".to_owned());
    let filter = directives.parse::<Targets>();
    let filter = filter.map_err(|error| format!("RUST_LOG: {directives:?} is not a filter: {error}"))?;
    tracing_subscriber::registry().with(filter).with(layer().with_writer(std::io::stderr)).init();
    Ok(())
}

async fn run(run: arguments::Run) -> Result<bool, String> {
    start_log()?;
    demo::run(run).await
}

async fn serve(serve: Serve) -> Result<(), String> {
    start_log()?;
    let services = options(&serve.services);
    let emulator = Emulator::new(Options {
        push_form: serve.push_form,
        one_write_a_second: serve.one_write_a_second,
        dataproc: DataprocOptions {
            hide_pending_cluster: serve.hide_pending_cluster,
            repeat_while_running: serve.repeated_request_id,
            ..services.dataproc
        },
        ..services
    });
    arrange(&emulator, &serve)?;
    let listener = tokio::net::TcpListener::bind(serve.listen)
        .await
        .map_err(|error| format!("--listen {}: {error}", serve.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    println!("emulator listening on {address}");
    tokio::select! {
        () = emulator.serve(listener) => {}
        () = demo::interrupted() => {}
    }
    Ok(())
}

fn options(services: &Services) -> Options {
    // Nobody inspects the binary, which may run for days.
    let dataproc = DataprocOptions { quota: services.quota.then(Quota::default), ..DataprocOptions::default() };
    Options { speed: services.speed, seed: services.seed, keep: 0, dataproc, ..Options::default() }
}

/// Topics, subscriptions, objects and faults as the command line wants them.
fn arrange(emulator: &Emulator, serve: &Serve) -> Result<(), String> {
    for fault in &serve.services.faults {
        emulator.fault(fault.clone());
    }
    for (bucket, directory) in &serve.objects {
        emulator.create_bucket(bucket);
        put_directory(emulator, bucket, "", directory)?;
    }
    for topic in serve.topics.iter().chain(&serve.tick_topic) {
        let topic = full_name(&serve.project, topic);
        emulator.create_topic(&topic);
        if let Some(endpoint) = &serve.push_to {
            let name = topic.replacen("/topics/", "/subscriptions/", 1) + "-push";
            emulator.push_subscription(&PushSubscription {
                form: serve.push_form,
                ..PushSubscription::eventarc(&name, &topic, endpoint)
            });
        }
    }
    if let Some(topic) = &serve.tick_topic {
        emulator.start_ticks(&full_name(&serve.project, topic));
    }
    if let Some(endpoint) = &serve.audit_to {
        emulator.start_audit_events(&serve.project, endpoint);
    }
    Ok(())
}

fn full_name(project: &str, topic: &str) -> String {
    if topic.starts_with("projects/") { topic.to_owned() } else { format!("projects/{project}/topics/{topic}") }
}

/// Puts every file below the directory into the bucket, named by its path in there.
fn put_directory(emulator: &Emulator, bucket: &str, prefix: &str, directory: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let path = entry.path();
        if path.is_dir() {
            put_directory(emulator, bucket, &format!("{name}/"), &path)?;
        } else {
            emulator.put_object(bucket, &name, read(&path)?);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
