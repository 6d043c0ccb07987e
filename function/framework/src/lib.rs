//! The Functions Framework contract on hyper: an HTTP request becomes a CloudEvent, the handler's result becomes a status.
//!
//! ```no_run
//! # async fn start() -> std::io::Result<()> {
//! use functions_framework::{Failure, serve, shutdown_signal};
//!
//! let listener = tokio::net::TcpListener::bind(("0.0.0.0", 8080)).await?;
//! let handler = |event: cloudevents::Event| async move {
//!     drop(event);
//!     Ok::<(), Failure>(())
//! };
//! serve(listener, handler, shutdown_signal()?).await
//! # }
//! ```
//!
//! The modules, in the order in which a request passes through them. Each uses only modules below it:
//!
//! | module | contents |
//! |---|---|
//! | `server` | accepts connections, and waits for requests in flight at the shutdown |
//! | `connection` | one connection: HTTP/1 or h2c, closed when its client falls silent |
//! | `request` | one request: reject it by its head, or read its body, decode its event and call the handler |
//! | `activity` | what has happened on a connection, and the deadline that follows from it |
//! | `body` | reads a body within the limits |
//! | `limits` | the limits on bodies and connections, and their default values |
//! | `trace` | the `traceparent` or `X-Cloud-Trace-Context` of the request that is being handled |
//! | `decode` | the event of a request, in binary or structured mode |
//! | `legacy` | the event of a legacy Pub/Sub event or of a Pub/Sub push body |
//! | `event` | an event, made of its attributes and its data |
//! | `json` | JSON objects read member by member, however deep their values nest |
//! | `status` | the responses: what the sender is told about a failure or a rejected request |
//!
//! The framework does not know what the handler does, and HTTP status codes appear only here.

mod activity;
mod body;
mod connection;
mod decode;
mod event;
mod json;
mod legacy;
mod limits;
mod request;
mod server;
mod status;
mod trace;

pub use decode::decode;
pub use event::NotAnEvent;
pub use limits::Limits;
pub use server::{serve, serve_with, shutdown_signal};
pub use status::Failure;
pub use trace::{TraceContext, trace_context};
