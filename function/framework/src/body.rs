//! A request's body, read within the limits.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::limits::Limits;

/// Why a body was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    TooLarge,
    TooManyInFlight,
    TimedOut,
    Broken(hyper::Error),
}

/// A body's share of the budget. Keep it until the handler returns.
pub(crate) struct Reservation {
    budget: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

/// [`Limits::bodies_in_flight`]: a permit for each byte.
pub(crate) fn budget(limits: &Limits) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limits.bodies_in_flight.min(Semaphore::MAX_PERMITS)))
}

/// The whole body. If its length is declared, that much is reserved or rejected before anything is read; otherwise each chunk
/// is reserved as it arrives.
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
