//! The limits of a server.

use std::time::Duration;

/// The limits of a server: of bodies in bytes, of connections in time. [`Default`] has the values for Cloud Run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one body; a larger one is answered with 413. 16 MiB: Pub/Sub's 10 MB in base64 fit.
    pub body: usize,
    /// Bytes of all bodies that are being read or handled; a request beyond is answered with 429. 32 MiB, for a container of
    /// 512 MiB: an event can take ten times its body while it is decoded, recorded and sent on.
    pub bodies_in_flight: usize,
    /// From the connection, or the first byte of a further request, until the request's head is complete. 10 s.
    pub header_read: Duration,
    /// From the head until the body is complete; a slower one is answered with 408. 30 s: Cloud Run's proxy sends bodies that
    /// it has buffered.
    pub body_read: Duration,
    /// How long a connection may wait for its next request. 75 s, longer than common proxies keep their connections.
    pub idle: Duration,
    /// From the shutdown until requests in flight are dropped. 9 s: Cloud Run kills the container after 10.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 16 << 20,
            bodies_in_flight: 32 << 20,
            header_read: Duration::from_secs(10),
            body_read: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            drain: Duration::from_secs(9),
        }
    }
}
