//! Limits, and a request's body read within them.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// What one server takes on. [`Default`] holds the values that a Cloud Run function should use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one body; beyond: 413. 16 MiB, above Pub/Sub's 10 MB and their base64.
    pub body: usize,
    /// Bytes of all bodies that are being read or handled; beyond: 429. 32 MiB, for a container of 512 MiB:
    /// an event can take ten times its body while it is decoded, recorded and sent on.
    pub bodies_in_flight: usize,
    /// From a connection's, or a further request's, first moment until the request's head is whole. 10 s.
    pub header_read: Duration,
    /// From the head until the whole body is there; beyond: 408. 30 s; Cloud Run's proxy buffers bodies before.
    pub body_read: Duration,
    /// How long a connection may wait for its next request. 75 s, longer than common proxies keep theirs.
    pub idle: Duration,
    /// From the shutdown until requests in flight are given up. 9 s: Cloud Run kills the container after 10.
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

/// A body's share of `bodies_in_flight`; to be kept until the handler is done with the body.
pub(crate) struct Reservation {
    budget: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Why a body was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    TooLarge,
    TooManyInFlight,
    TimedOut,
    Broken(hyper::Error),
}

pub(crate) fn budget(limits: &Limits) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limits.bodies_in_flight.min(Semaphore::MAX_PERMITS)))
}

/// A declared length is refused or reserved at once, before anything is read; an undeclared one is reserved chunk by chunk.
pub(crate) async fn read(
    mut body: Incoming,
    limits: &Limits,
    budget: &Arc<Semaphore>,
) -> Result<(Bytes, Reservation), ReadError> {
    let deadline = Instant::now() + limits.body_read;
    let declared = usize::try_from(body.size_hint().lower()).map_err(|_| ReadError::TooLarge)?;
    if declared > limits.body {
        return Err(ReadError::TooLarge);
    }
    let mut reservation = Reservation { budget: budget.clone(), permit: None };
    reservation.grow_to(declared)?;
    let mut bytes = BytesMut::with_capacity(declared);
    while let Some(frame) = timeout_at(deadline, body.frame()).await.map_err(|_| ReadError::TimedOut)? {
        if let Ok(chunk) = frame.map_err(ReadError::Broken)?.into_data() {
            let length = bytes.len() + chunk.len();
            if length > limits.body {
                return Err(ReadError::TooLarge);
            }
            reservation.grow_to(length)?;
            bytes.extend_from_slice(&chunk);
        }
    }
    Ok((bytes.freeze(), reservation))
}

impl Reservation {
    fn grow_to(&mut self, bytes: usize) -> Result<(), ReadError> {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = u32::try_from(bytes.saturating_sub(held)).map_err(|_| ReadError::TooManyInFlight)?;
        let more = self.budget.clone().try_acquire_many_owned(missing).map_err(|_| ReadError::TooManyInFlight)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}
