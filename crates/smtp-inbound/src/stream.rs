//! The stream of a client.

use std::io;

use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

/// A connection that was accepted: TCP, or a UNIX socket.
pub(crate) type Stream = Either<TcpStream, UnixStream>;

/// Writes without waiting; less may be written than there is.
pub(crate) fn try_write(stream: &Stream, text: &[u8]) -> io::Result<usize> {
    match stream {
        Either::Left(tcp) => tcp.try_write(text),
        Either::Right(unix) => unix.try_write(text),
    }
}

/// Sends what is written at once. Replies are small and awaited: Nagle's algorithm would hold them back.
pub(crate) fn send_at_once(stream: &Stream) {
    if let Either::Left(tcp) = stream {
        let _ = tcp.set_nodelay(true);
    }
}
