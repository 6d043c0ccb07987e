//! The Google Cloud that inline-workflow needs, in one process and in memory, over the real gRPC interfaces.
//!
//! Everything runs on the caller's tokio runtime, a paused one included, and is decided by one seed: no threads, one
//! clock, one random generator. A test starts it like this:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! use inline_workflow_emulator::{Emulator, Options};
//!
//! let emulator = Emulator::new(Options::default());
//! let address = emulator.start().await?; // a free port of 127.0.0.1, all services on it, plaintext HTTP/2
//! # Ok(()) }
//! ```
//!
//! In the order in which a call flows:
//!
//! - `emulator`, `state`: the handle, its options, what a test can ask and arrange, and all that is known
//! - `server`, `wire`, `grpc`, `calls`: connections, their bytes, framing, and which method goes where
//! - `fault`: what goes wrong on demand
//! - `pubsub`, `subscription`, `push`: topics, who is to get what when, deliveries
//! - `storage`: objects
//! - `dataproc`, `lists`, `dag`, `arrangements`: workflows, lists of them and their jobs, how one of them runs, and how it
//!   shall
//! - `quota`: how many calls a minute
//! - `rules`, `descriptor`: what Dataproc refuses, and its messages
//! - `audit`: the audit log's events
//! - `clock`: time

mod arrangements;
mod audit;
mod calls;
mod clock;
mod dag;
mod dataproc;
mod descriptor;
mod emulator;
mod fault;
mod grpc;
mod lists;
mod pubsub;
mod push;
mod quota;
mod rules;
mod server;
mod state;
mod storage;
mod subscription;
mod wire;

pub use arrangements::{DataprocOptions, Mishap, Outcome, RepeatedRequestId, Timing, Trouble};
pub use clock::Clock;
pub use dag::Phase;
pub use emulator::{Call, Emulator, Options, Workflow};
pub use fault::{Break, Fault, Lack, SYNTAX as FAULT_SYNTAX, What, When};
pub use h2::Reason;
pub use pubsub::{Disorder, PushSubscription};
pub use push::{Delivery, Form, Push};
pub use quota::Quota;
