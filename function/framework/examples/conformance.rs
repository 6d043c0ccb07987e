//! The function that GoogleCloudPlatform/functions-framework-conformance's client runs and talks to.
//!
//! It writes what it received to `function_output.json` in the working directory, where the client reads it after each
//! request: the event as a structured CloudEvent, or with signature `http` the request's body.
//!
//! ```sh
//! client -buildpacks=false -type=cloudevent -validate-mapping=false \
//!   -cmd='env FUNCTION_SIGNATURE_TYPE=cloudevent target/debug/examples/conformance'
//! ```

use std::{env, fs, io};

use bytes::Bytes;
use cloudevents::Event;
use functions_framework::{
    DEFAULT_PORT, FUNCTION_SIGNATURE_TYPE, Failure, PORT, SignatureType, serve, serve_http, shutdown_signal,
};
use http::{Request, Response};
use tokio::net::TcpListener;

const OUTPUT: &str = "function_output.json";

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let shutdown = shutdown_signal()?;
    let port = env::var(PORT).map_or(Ok(DEFAULT_PORT), |port| port.parse()).map_err(io::Error::other)?;
    let signature = env::var(FUNCTION_SIGNATURE_TYPE).map_or(Ok(SignatureType::default()), |name| name.parse());
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    say_where(&listener)?;
    match signature.map_err(io::Error::other)? {
        SignatureType::Http => serve_http(listener, write_http, shutdown).await,
        SignatureType::CloudEvent => serve(listener, write_cloud_event, shutdown).await,
    }
}

#[expect(clippy::print_stderr, reason = "whoever starts this with PORT=0 learns the port from it")]
fn say_where(listener: &TcpListener) -> io::Result<()> {
    eprintln!("listening on {}", listener.local_addr()?);
    Ok(())
}

async fn write_http(request: Request<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    if fs::write(OUTPUT, request.body()).is_err() {
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

async fn write_cloud_event(event: Event) -> Result<(), Failure> {
    let event = serde_json::to_vec(&event).map_err(|_| Failure::Internal)?;
    fs::write(OUTPUT, event).map_err(|_| Failure::Internal)
}
