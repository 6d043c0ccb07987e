//! The bytes of one HTTP/2 connection, and GOAWAY frames that h2 itself would not send.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first bytes of an HTTP/2 connection and of no HTTP/1 request. Source: RFC 9113, 3.4.
pub(crate) const PREFACE: &[u8; 3] = b"PRI";

/// An HTTP/2 connection's bytes, of which the first have been read already.
pub(crate) struct Wire<T> {
    io: T,
    first: &'static [u8],
    frames: Frames,
    /// Of a frame that went out in part.
    rest: Bytes,
}

/// Frames that go out between two of h2's.
#[derive(Clone, Default)]
pub(crate) struct Frames(Arc<Mutex<BytesMut>>);

impl Frames {
    /// Says that no stream above `last_stream` was processed. Source: RFC 9113, 6.8.
    pub(crate) fn go_away(&self, last_stream: u32, reason: Reason) {
        const PAYLOAD: u32 = 8;
        const GOAWAY: u8 = 7;
        let mut frames = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The length has 24 bits, the type 8; no flags, and stream 0: the connection.
        frames.put_u32(PAYLOAD << 8 | u32::from(GOAWAY));
        frames.put_u8(0);
        frames.put_u32(0);
        frames.put_u32(last_stream);
        frames.put_u32(reason.into());
    }

    pub(crate) fn are_sent(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn take(&self) -> Bytes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).split().freeze()
    }
}

impl<T> Wire<T> {
    pub(crate) fn after_preface(io: T, frames: Frames) -> Wire<T> {
        Wire { io, first: PREFACE, frames, rest: Bytes::new() }
    }
}

impl<T: AsyncWrite + Unpin> Wire<T> {
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.rest.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.first.is_empty() {
            return Pin::new(&mut wire.io).poll_read(cx, buffer);
        }
        let (now, later) = wire.first.split_at(wire.first.len().min(buffer.remaining()));
        buffer.put_slice(now);
        wire.first = later;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        ready!(wire.poll_rest(cx))?;
        Pin::new(&mut wire.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        ready!(wire.poll_rest(cx))?;
        Pin::new(&mut wire.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// h2 flushes only when its last frame is written whole.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(wire.poll_rest(cx))?;
        wire.rest = wire.frames.take();
        ready!(wire.poll_rest(cx))?;
        Pin::new(&mut wire.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
