//! gRPC framing by hand: every method here takes its request whole and answers whole, so a list of messages is all it needs.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use prost::Message;
use tonic::Status;

/// What one call may carry: far above any of the function's messages, and a bound all the same.
pub(crate) const MAX_CALL: usize = 256 * 1024 * 1024;

/// The largest single message; tonic's own default of 4 MiB is less than a large template or Pub/Sub message.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

const HEADER: usize = 5;

pub(crate) const CONTENT_TYPE: &str = "application/grpc";

/// A request's messages, cut out of its body as that comes.
#[derive(Default)]
pub(crate) struct Messages {
    whole: Vec<Bytes>,
    buffer: BytesMut,
    total: usize,
}

impl Messages {
    /// The next part of the body.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED above the limits, UNIMPLEMENTED for a compressed message.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(), Status> {
        self.total += data.len();
        if self.total > MAX_CALL {
            return Err(Status::resource_exhausted(format!("the call carries more than {MAX_CALL} bytes")));
        }
        self.buffer.extend_from_slice(data);
        while let Some(message) = cut_message(&mut self.buffer)? {
            self.whole.push(message);
        }
        Ok(())
    }

    /// The messages of a body that has ended.
    ///
    /// # Errors
    /// INTERNAL if it ended within a message.
    pub(crate) fn end(self) -> Result<Vec<Bytes>, Status> {
        if self.buffer.is_empty() { Ok(self.whole) } else { Err(Status::internal("the request ends within a message")) }
    }
}

fn cut_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    if buffer.len() < HEADER {
        return Ok(None);
    }
    if buffer[0] != 0 {
        return Err(Status::unimplemented("compressed messages are not supported"));
    }
    let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
    if length > MAX_MESSAGE {
        return Err(Status::resource_exhausted(format!(
            "a message of {length} bytes is above the limit of {MAX_MESSAGE}"
        )));
    }
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    buffer.advance(HEADER);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Decodes the one message of a unary call.
///
/// # Errors
/// INVALID_ARGUMENT when there is not exactly one, or it is no such message.
pub(crate) fn decode<M: Message + Default>(messages: &[Bytes]) -> Result<M, Status> {
    let [message] = messages else {
        return Err(Status::invalid_argument(format!("a unary call has one message, not {}", messages.len())));
    };
    decode_one(message)
}

pub(crate) fn decode_one<M: Message + Default>(message: &Bytes) -> Result<M, Status> {
    M::decode(message.clone()).map_err(|error| Status::invalid_argument(format!("request: {error}")))
}

/// Sends the messages, and `grpc-status` in the trailers.
///
/// # Errors
/// The stream is closed.
pub(crate) fn respond(respond: &mut SendResponse<Bytes>, messages: &[Bytes]) -> Result<(), h2::Error> {
    let mut body = respond.send_response(head(StatusCode::OK, CONTENT_TYPE), false)?;
    for message in messages {
        body.send_data(frame(message), false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    body.send_trailers(trailers)
}

pub(crate) fn head(status: StatusCode, content_type: &'static str) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    head.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    head
}

pub(crate) fn frame(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(HEADER + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(message);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In parts of two bytes.
    fn read(bytes: &[u8]) -> Result<Vec<Bytes>, Status> {
        let mut messages = Messages::default();
        bytes.chunks(2).try_for_each(|part| messages.push(part))?;
        messages.end()
    }

    #[test]
    fn messages_are_cut_and_broken_framing_is_an_error() {
        let mut two = frame(&Bytes::from_static(b"ab")).to_vec();
        two.extend(frame(&Bytes::new()));
        assert_eq!(read(&two).unwrap(), [Bytes::from_static(b"ab"), Bytes::new()]);
        assert_eq!(read(b"").unwrap(), Vec::<Bytes>::new());
        for (broken, code) in [
            (&b"\0\0\0\0\x03ab"[..], tonic::Code::Internal),
            (b"\0\0", tonic::Code::Internal),
            (b"\x01\0\0\0\0", tonic::Code::Unimplemented),
            (b"\0\xff\xff\xff\xff", tonic::Code::ResourceExhausted),
        ] {
            assert_eq!(read(broken).unwrap_err().code(), code, "{broken:?}");
        }
    }
}
