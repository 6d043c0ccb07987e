//! The function's process: environment, telemetry, clients, serve; nothing else.

use std::{process::ExitCode, thread};

use functions_framework::{serve, shutdown_signal};
use inline_workflow::{
    clock::Clock,
    context::{Context, Reaches},
    environment::Environment,
    handle::handle,
    telemetry, template,
};
use tokio::net::TcpListener;
use tracing::{error, info};

/// EX_USAGE of sysexits.h: the environment is what must change.
const BAD_ENVIRONMENT: u8 = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let environment = match Environment::from_lookup(variable) {
        Ok(environment) => environment,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(BAD_ENVIRONMENT);
        }
    };
    if let Err(error) = telemetry::init(environment.service.is_some(), environment.log.as_deref()) {
        complain(&error);
        return ExitCode::from(BAD_ENVIRONMENT);
    }
    match run(environment).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}

/// What is not Unicode is a value too, and no variable takes it.
fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

async fn run(environment: Environment) -> std::io::Result<()> {
    let shutdown = shutdown_signal()?;
    let listener = TcpListener::bind(("0.0.0.0", environment.port)).await?;
    info!(address = %listener.local_addr()?, "listening");
    let reaches = Reaches::from_environment(&environment);
    let cx = Context::new(environment, reaches, Clock::System, fastrand::Rng::new());
    // The port answers meanwhile.
    thread::spawn(template::pool);
    tokio::spawn(cx.clone().connect());
    serve(listener, move |event| handle(cx.clone(), event), shutdown).await
}

#[expect(clippy::print_stderr, reason = "no log yet")]
fn complain(text: &str) {
    eprintln!("function: {text}");
}
