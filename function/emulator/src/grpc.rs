//! gRPC framing by hand: every method here takes its request whole and answers whole, so a list of messages is all it needs.

use std::convert::Infallible;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame};
use prost::Message;
use tonic::Status;

/// What one call may carry: far above any of the function's messages, and a bound all the same.
pub(crate) const MAX_CALL: usize = 256 * 1024 * 1024;

/// The largest single message; tonic's own default of 4 MiB is less than a large template or Pub/Sub message.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

const HEADER: usize = 5;

pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// Reads a request's body to its end and cuts it into messages.
///
/// # Errors
/// RESOURCE_EXHAUSTED above the limits, UNIMPLEMENTED for a compressed message, INTERNAL for broken framing or a broken stream.
pub(crate) async fn read_messages<B>(body: B) -> Result<Vec<Bytes>, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut body = body;
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::internal(format!("request body: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        total += data.len();
        if total > MAX_CALL {
            return Err(Status::resource_exhausted(format!("the call carries more than {MAX_CALL} bytes")));
        }
        buffer.extend_from_slice(&data);
        while let Some(message) = cut_message(&mut buffer)? {
            messages.push(message);
        }
    }
    if buffer.is_empty() { Ok(messages) } else { Err(Status::internal("the request ends within a message")) }
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

/// The HTTP answer to a call: the messages and `grpc-status` in the trailers, or the status alone.
pub(crate) fn respond(answer: Result<Vec<Bytes>, Status>) -> Response<ResponseBody> {
    let messages = match answer {
        Ok(messages) => messages,
        Err(status) => return status.into_http(),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames =
        messages.into_iter().map(|message| Frame::data(frame(&message))).chain([Frame::trailers(trailers)]).map(Ok);
    let body = StreamBody::new(futures::stream::iter(frames));
    let mut response = Response::new(UnsyncBoxBody::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn frame(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(HEADER + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(message);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    async fn read(bytes: &[u8]) -> Result<Vec<Bytes>, Status> {
        read_messages(Full::new(Bytes::copy_from_slice(bytes))).await
    }

    #[tokio::test]
    async fn messages_are_cut_and_broken_framing_is_an_error() {
        let mut two = frame(&Bytes::from_static(b"ab")).to_vec();
        two.extend(frame(&Bytes::new()));
        assert_eq!(read(&two).await.unwrap(), [Bytes::from_static(b"ab"), Bytes::new()]);
        assert_eq!(read(b"").await.unwrap(), Vec::<Bytes>::new());
        for (broken, code) in [
            (&b"\0\0\0\0\x03ab"[..], tonic::Code::Internal),
            (b"\0\0", tonic::Code::Internal),
            (b"\x01\0\0\0\0", tonic::Code::Unimplemented),
            (b"\0\xff\xff\xff\xff", tonic::Code::ResourceExhausted),
        ] {
            assert_eq!(read(broken).await.unwrap_err().code(), code, "{broken:?}");
        }
    }
}
