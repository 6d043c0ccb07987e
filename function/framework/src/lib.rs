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
//! In the order in which a request flows:
//!
//! | module | what lives there |
//! |---|---|
//! | `server` | accept, hand over to connections, drain on shutdown |
//! | `connection` | one connection: HTTP/1 or h2c, and the clocks that keep silent clients from holding it |
//! | `request` | one request: refuse, read the body, call the handler, catch its panic |
//! | `body` | the limits on bodies |
//! | `trace` | `traceparent` and `X-Cloud-Trace-Context` of the request being handled |
//! | `decode` | request -> CloudEvent, binary and structured mode |
//! | `legacy` | legacy Pub/Sub events and raw push bodies -> CloudEvent |
//! | `json` | JSON objects read member by member, however deep their values nest |
//! | `status` | what a failure or a refusal is answered with |
//!
//! Nothing here knows what the handler does, and HTTP status codes appear nowhere else.

mod body;
mod connection;
mod decode;
mod event;

mod json;
mod legacy;
mod request;
mod server;
mod status;
mod trace;

pub use body::Limits;
pub use decode::decode;
pub use event::NotAnEvent;
pub use server::{serve, serve_with, shutdown_signal};
pub use status::Failure;
pub use trace::{TraceContext, trace_context};
