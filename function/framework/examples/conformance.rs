//! The function that the client of GoogleCloudPlatform/functions-framework-conformance starts and sends events to.
//!
//! It writes each event as a structured CloudEvent to `function_output.json` in the working directory. The client reads that
//! file after each request.
//!
//! ```sh
//! client -buildpacks=false -type=cloudevent -validate-mapping=false -cmd=target/debug/examples/conformance
//! ```

use std::{env, fs, io};

use cloudevents::Event;
use functions_framework::{Failure, serve, shutdown_signal};
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let shutdown = shutdown_signal()?;
    let port = env::var("PORT").map_or(Ok(8080), |port| port.parse()).map_err(io::Error::other)?;
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    print_address(&listener)?;
    serve(listener, write, shutdown).await
}

#[expect(clippy::print_stderr, reason = "with PORT=0 this is how the test learns the port")]
fn print_address(listener: &TcpListener) -> io::Result<()> {
    eprintln!("listening on {}", listener.local_addr()?);
    Ok(())
}

async fn write(event: Event) -> Result<(), Failure> {
    let event = serde_json::to_vec(&event).map_err(|_| Failure::Internal)?;
    fs::write("function_output.json", event).map_err(|_| Failure::Internal)
}
