//! The crate from outside. One program, so that it is linked once.
//!
//! | module | what is tested |
//! |---|---|
//! | `decode` | requests become events: every shape that is accepted, every one that is not |
//! | `server` | requests over real sockets: statuses, panics, HTTP/1 and HTTP/2, traces, concurrency, shutdown |
//! | `limits` | bodies too large, too many, too slow; clients that fall silent |
//! | `conformance` | the example program, used as the conformance suite's client does |
//! | `wire` | the server under test, and the plain HTTP/1 that tests send to it |

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod conformance;
mod decode;
mod limits;
mod server;
mod wire;

const MESSAGE_PUBLISHED: &str = "google.cloud.pubsub.topic.v1.messagePublished";
