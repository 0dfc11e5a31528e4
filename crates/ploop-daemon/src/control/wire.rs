//! Messages of the control socket: JSON objects, each ended by a NUL.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest call taken.
pub const MAX_CALL: usize = 64 * 1024;
/// Longest reply taken by our client.
pub const MAX_REPLY: usize = 16 * 1024 * 1024;
/// A message that has begun must be complete after this long.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// Interface and method.
    pub method: String,
    /// Parameters by name.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// No reply is wanted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub oneway: bool,
    /// Several replies are wanted, where a method has several.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
}

/// A reply.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    /// Full name of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Values by name.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Another reply follows.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continues: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// One end of a connection.
pub struct Wire {
    stream: UnixStream,
    buffer: Vec<u8>,
    limit: usize,
}

impl Wire {
    /// Messages longer than `limit` are refused.
    ///
    /// # Errors
    /// The stream refuses a timeout.
    pub fn new(stream: UnixStream, limit: usize) -> io::Result<Self> {
        stream.set_write_timeout(Some(MESSAGE_TIMEOUT))?;
        Ok(Self { stream, buffer: Vec::new(), limit })
    }

    /// The next message without its NUL; `None` when the other side closed between messages.
    /// Waits at most `idle` for its first byte, then [`MESSAGE_TIMEOUT`] for the rest.
    ///
    /// # Errors
    /// Time out, a message that is too long or cut off, or a failed read.
    pub fn receive(&mut self, idle: Option<Duration>) -> io::Result<Option<Vec<u8>>> {
        let mut until = idle.map(|idle| Instant::now() + idle);
        let mut searched = 0;
        if !self.buffer.is_empty() {
            until = Some(Instant::now() + MESSAGE_TIMEOUT);
        }
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|&byte| byte == 0) {
                let rest = self.buffer.split_off(searched + end + 1);
                let mut message = std::mem::replace(&mut self.buffer, rest);
                message.pop();
                return Ok(Some(message));
            }
            searched = self.buffer.len();
            if searched > self.limit {
                let text = format!("a message is longer than {} bytes", self.limit);
                return Err(io::Error::new(ErrorKind::InvalidData, text));
            }
            if self.fill(until)? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(ErrorKind::UnexpectedEof.into())
                };
            }
            if searched == 0 {
                until = Some(Instant::now() + MESSAGE_TIMEOUT);
            }
        }
    }

    fn fill(&mut self, until: Option<Instant>) -> io::Result<usize> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(left)?;
        let mut chunk = [0; 8192];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.buffer.extend_from_slice(&chunk[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The other side is gone or too slow.
    pub fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        bytes.push(0);
        self.stream.write_all(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::Wire;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    const SHORT: Option<Duration> = Some(Duration::from_millis(50));

    #[test]
    fn messages_are_split_at_nul_however_they_arrive() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(b, 100).unwrap();
        a.write_all(b"{}\0{\"x\"").unwrap();
        assert_eq!(wire.receive(SHORT).unwrap().unwrap(), b"{}");
        a.write_all(b":1}\0").unwrap();
        assert_eq!(wire.receive(SHORT).unwrap().unwrap(), b"{\"x\":1}");
        drop(a);
        assert!(wire.receive(SHORT).unwrap().is_none());
    }

    #[test]
    fn silence_floods_and_cut_off_messages_end_the_connection() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(b, 100).unwrap();
        assert!(wire.receive(SHORT).is_err());
        a.write_all(&[b'x'; 101]).unwrap();
        assert!(wire.receive(SHORT).is_err());
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(b, 100).unwrap();
        a.write_all(b"{").unwrap();
        drop(a);
        assert!(wire.receive(SHORT).is_err());
    }
}
