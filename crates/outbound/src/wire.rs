//! The octets of a connection: plain TCP, TLS over it, or a UNIX socket.
//!
//! What the other side sends is kept here until it is asked for, so that no reply is lost, however the replies are cut
//! into segments. As [`AsyncRead`] a wire hands out at most one complete reply a read: mail-send reads into a buffer of
//! its own and drops what is left over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use postern_smtp::Reply;
use postern_smtp::reply::{ReplyError, ReplyReader};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_util::io::poll_read_buf;

/// One reply may have so many octets in all its lines.
const MAX_REPLY: usize = 32 * 1024;
/// Replies that were not asked for yet may have so many: those of one pipelined transaction, with room to spare.
const MAX_RECEIVED: usize = 1024 * 1024;
const READ_SIZE: usize = 4096;

/// What carries the octets.
#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// A connection with what was received over it.
#[derive(Debug)]
pub(crate) struct Wire {
    transport: Transport,
    received: BytesMut,
    /// Octets at the front of `received` that belong to a reply whose beginning was handed out already.
    handing_out: usize,
    replies: ReplyReader,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    NotSmtp(#[from] ReplyError),
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// All of it is out.
    All,
    /// The other side has said something (or closed after saying it) before all was out.
    Interrupted,
}

/// What replies mean that come while something is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replies {
    /// They are answers to earlier commands of the same write: go on.
    Expected,
    /// Nothing is to be answered before the end: stop writing.
    Early,
}

impl Wire {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, received: BytesMut::new(), handing_out: 0, replies: ReplyReader::new(MAX_REPLY) }
    }

    /// The TCP stream, to put TLS over it. `None` if this is no plain TCP connection, or if octets were received that
    /// nobody asked for: they would be taken for what was said under TLS (RFC 3207 §4.2).
    pub(crate) fn into_tcp(self) -> Option<TcpStream> {
        match self.transport {
            Transport::Tcp(stream) if self.received.is_empty() => Some(stream),
            _ => None,
        }
    }

    /// The next reply.
    pub(crate) async fn read_reply(&mut self) -> Result<Reply, WireError> {
        loop {
            while let Some(line) = self.take_line() {
                if let Some(reply) = self.replies.line(&line)? {
                    return Ok(reply);
                }
            }
            if std::future::poll_fn(|cx| self.poll_fill(cx)).await? == 0 {
                return Err(closed().into());
            }
        }
    }

    /// Writes and flushes. Whenever the other side takes no more, what it sends is received: it may be waiting for that,
    /// and it may have something to say that makes the rest pointless.
    pub(crate) async fn write(&mut self, data: &[u8], replies: Replies) -> io::Result<Written> {
        let mut written = 0;
        std::future::poll_fn(|cx| self.poll_write_watching(cx, data, &mut written, replies)).await
    }

    fn poll_write_watching(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        written: &mut usize,
        replies: Replies,
    ) -> Poll<io::Result<Written>> {
        loop {
            if replies == Replies::Early && self.has_reply() {
                return Poll::Ready(Ok(Written::Interrupted));
            }
            match self.poll_push(cx, &data[*written..]) {
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(Written::All)),
                Poll::Ready(Ok(Some(count))) => {
                    *written += count;
                    continue;
                }
                // Whoever closes on us has often said why.
                Poll::Ready(Err(error)) => return Poll::Ready(self.interrupted(cx).ok_or(error)),
                Poll::Pending => {}
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) if self.has_reply() => return Poll::Ready(Ok(Written::Interrupted)),
                Ok(0) => return Poll::Ready(Err(closed())),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes a piece, or flushes when nothing is left (`None`: done).
    fn poll_push(&mut self, cx: &mut Context<'_>, rest: &[u8]) -> Poll<io::Result<Option<usize>>> {
        let transport = Pin::new(&mut self.transport);
        if rest.is_empty() {
            return transport.poll_flush(cx).map_ok(|()| None);
        }
        match ready!(transport.poll_write(cx, rest))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            count => Poll::Ready(Ok(Some(count))),
        }
    }

    /// Whether a reply is there, read without waiting, after writing failed.
    fn interrupted(&mut self, cx: &mut Context<'_>) -> Option<Written> {
        while let Poll::Ready(Ok(1..)) = self.poll_fill(cx) {}
        self.has_reply().then_some(Written::Interrupted)
    }

    /// Whether the connection is open and the other side has said nothing: fit for another transaction.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.received.is_empty() && self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    fn has_reply(&self) -> bool {
        reply_length(&self.received).is_some()
    }

    fn take_line(&mut self) -> Option<BytesMut> {
        let end = memchr::memchr(b'\n', &self.received)?;
        let mut line = self.received.split_to(end + 1);
        line.truncate(end);
        if line.ends_with(b"\r") {
            line.truncate(end - 1);
        }
        Some(line)
    }

    /// Receives more; 0 is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.received.len() > MAX_RECEIVED {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more replies than questions",
            )));
        }
        self.received.reserve(READ_SIZE);
        poll_read_buf(Pin::new(&mut self.transport), cx, &mut self.received)
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed by the other side")
}

/// The octets of the first reply, if all of its lines are there. What is no reply counts as one of a line: whoever reads
/// it will say so.
fn reply_length(received: &[u8]) -> Option<usize> {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', received) {
        if received[start..end].get(3) != Some(&b'-') {
            return Some(end + 1);
        }
        start = end + 1;
    }
    None
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        loop {
            if wire.handing_out == 0 {
                wire.handing_out = reply_length(&wire.received).unwrap_or(0);
            }
            if wire.handing_out > 0 {
                let count = wire.handing_out.min(out.remaining());
                out.put_slice(&wire.received.split_to(count));
                wire.handing_out -= count;
                return Poll::Ready(Ok(()));
            }
            if ready!(wire.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, out),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, out),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, data),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(Transport::Unix(ours)), theirs)
    }

    #[tokio::test]
    async fn replies_are_read_however_they_are_cut() {
        let (mut wire, mut server) = pair();
        let texts = b"250-one\r\n250 two\r\n354 go\r\n";
        let reading = async {
            assert_eq!(wire.read_reply().await.unwrap().text(), "one two");
            assert_eq!(wire.read_reply().await.unwrap().code, 354);
        };
        let writing = async {
            for octet in texts {
                server.write_all(&[*octet]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(reading, writing);
        server.write_all(&[&texts[..], b"421 bye"].concat()).await.unwrap();
        drop(server);
        assert_eq!(wire.read_reply().await.unwrap().lines.len(), 2);
        assert_eq!(wire.read_reply().await.unwrap().code, 354);
        assert!(
            matches!(wire.read_reply().await, Err(WireError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof)
        );
    }

    #[tokio::test]
    async fn a_read_hands_out_one_reply_and_keeps_the_next() {
        let (mut wire, mut server) = pair();
        server.write_all(b"250-a\r\n250 b\r\n550 c\r\n").await.unwrap();
        let mut buffer = [0; 1024];
        let count = wire.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"250-a\r\n250 b\r\n");
        let count = wire.read(&mut buffer[..4]).await.unwrap();
        assert_eq!(&buffer[..count], b"550 ");
        let count = wire.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"c\r\n");
    }

    #[tokio::test]
    async fn a_server_that_speaks_while_it_is_written_to_is_heard() {
        let (mut wire, mut server) = pair();
        let big = vec![b'x'; 8 * 1024 * 1024];
        server.write_all(b"552 too big\r\n").await.unwrap();
        assert_eq!(wire.write(&big, Replies::Early).await.unwrap(), Written::Interrupted);
        assert_eq!(wire.read_reply().await.unwrap().code, 552);
        // With both sides full of pipelined commands and replies, nobody waits for ever.
        let replies = b"250 ok\r\n".repeat(100_000);
        let mut sink = Vec::new();
        let serving = async {
            server.write_all(&replies).await.unwrap();
            server.read_to_end(&mut sink).await.unwrap();
        };
        let sending = async {
            assert_eq!(wire.write(&big, Replies::Expected).await.unwrap(), Written::All);
            for _ in 0..100_000 {
                assert_eq!(wire.read_reply().await.unwrap().code, 250);
            }
            drop(wire);
        };
        tokio::join!(serving, sending);
    }

    #[tokio::test]
    async fn quiet_is_open_and_without_a_word() {
        let (mut wire, mut server) = pair();
        assert!(wire.is_quiet());
        server.write_all(b"421 idle\r\n").await.unwrap();
        until_loud(&mut wire).await;
        let (mut wire, server) = pair();
        drop(server);
        until_loud(&mut wire).await;
    }

    /// What has arrived is known after the runtime has looked at its sockets.
    async fn until_loud(wire: &mut Wire) {
        let looking = async {
            while wire.is_quiet() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), looking).await.unwrap();
    }

    #[tokio::test]
    async fn endless_talk_is_cut_off() {
        let (mut wire, mut server) = pair();
        let talking = tokio::spawn(async move {
            let line = [b"250-", &[b'x'; 500][..], b"\r\n"].concat();
            while server.write_all(&line).await.is_ok() {}
        });
        assert!(matches!(wire.read_reply().await, Err(WireError::NotSmtp(ReplyError::TooLong(_)))));
        drop(wire);
        talking.await.unwrap();
    }
}
