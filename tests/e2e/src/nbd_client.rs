//! A small NBD client: newstyle GO, simple replies, as many requests in flight as the caller wants.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Commands of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the protocol's names")]
pub enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
}

/// Force unit access: durable when answered.
pub const FUA: u16 = 1;
const MAGIC_OPTION: &[u8; 8] = b"IHAVEOPT";
const MAGIC_REPLY: u64 = 0x0003_e889_0455_65a9;
const MAGIC_REQUEST: u32 = 0x2560_9513;
const MAGIC_SIMPLE: u32 = 0x6744_6698;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;

/// One connection in transmission.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// Length of the reply's payload by cookie: reads only have one.
    flying: HashMap<u64, u32>,
    cookie: u64,
    /// Size of the export in bytes.
    pub size: u64,
    /// Transmission flags of the export.
    pub flags: u16,
}

/// One answered request.
#[derive(Debug)]
pub struct Reply {
    /// What [`Client::send`] returned for the request.
    pub cookie: u64,
    /// 0, or an errno of the protocol.
    pub error: u32,
    /// What was read.
    pub data: Vec<u8>,
}

impl Client {
    /// Connects to the default export of a server on a unix socket.
    ///
    /// # Errors
    /// No server, or not one of this protocol.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let greeting: [u8; 18] = take(&mut stream)?;
        expect(&greeting[..8] == b"NBDMAGIC" && &greeting[8..16] == MAGIC_OPTION, "no newstyle")?;
        stream.write_all(&3_u32.to_be_bytes())?;
        let mut option = Vec::from(*MAGIC_OPTION);
        option.extend(OPTION_GO.to_be_bytes());
        option.extend(6_u32.to_be_bytes());
        option.extend([0; 6]); // an empty name, no information asked for
        stream.write_all(&option)?;
        let (mut size, mut flags) = (0, 0);
        loop {
            let head: [u8; 20] = take(&mut stream)?;
            expect(head[..8] == MAGIC_REPLY.to_be_bytes(), "no option reply")?;
            let mut data = vec![0; be32(&head[16..]) as usize];
            stream.read_exact(&mut data)?;
            match be32(&head[12..]) {
                REPLY_ACK => break,
                REPLY_INFO if data.len() == 12 && data[..2] == [0, 0] => {
                    size = be64(&data[2..]);
                    flags = u16::from_be_bytes([data[10], data[11]]);
                }
                REPLY_INFO => {}
                kind => return Err(io::Error::other(format!("GO answered with {kind:#x}"))),
            }
        }
        Ok(Self { stream, flying: HashMap::new(), cookie: 0, size, flags })
    }

    /// A second handle for ending the connection from another thread.
    ///
    /// # Errors
    /// No descriptor free.
    pub fn stream(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// Requests without an answer yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    /// Sends a request; `data` is the payload of a write. Returns its cookie.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> io::Result<u64> {
        self.cookie += 1;
        let mut request = Vec::with_capacity(28 + data.len());
        request.extend(MAGIC_REQUEST.to_be_bytes());
        request.extend(flags.to_be_bytes());
        request.extend((command as u16).to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(data);
        self.flying.insert(self.cookie, if command == Command::Read { length } else { 0 });
        self.stream.write_all(&request)?;
        Ok(self.cookie)
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// The connection is gone, or the answer makes no sense.
    pub fn receive(&mut self) -> io::Result<Reply> {
        let head: [u8; 16] = take(&mut self.stream)?;
        expect(head[..4] == MAGIC_SIMPLE.to_be_bytes(), "no simple reply")?;
        let (error, cookie) = (be32(&head[4..]), be64(&head[8..]));
        let length = self.flying.remove(&cookie);
        expect(length.is_some(), "an answer nobody waits for")?;
        let length = if error == 0 { length.unwrap_or(0) } else { 0 };
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data)?;
        Ok(Reply { cookie, error, data })
    }

    /// One request alone: sends it and waits. An error of the server is an error.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::receive`], and the server's own.
    pub fn call(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> io::Result<Vec<u8>> {
        self.send(command, flags, offset, length, data)?;
        let reply = self.receive()?;
        match reply.error {
            0 => Ok(reply.data),
            error => Err(io::Error::from_raw_os_error(i32::try_from(error).unwrap_or(i32::MAX))),
        }
    }

    /// Reads a range.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        self.call(Command::Read, 0, offset, length, &[])
    }

    /// Writes a range.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        self.call(Command::Write, 0, offset, length, data).map(drop)
    }

    /// Makes everything answered durable.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.call(Command::Flush, 0, 0, 0, &[]).map(drop)
    }

    /// Says good-bye.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn disconnect(mut self) -> io::Result<()> {
        self.send(Command::Disconnect, 0, 0, 0, &[]).map(drop)
    }
}

fn take<const N: usize>(stream: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn expect(holds: bool, what: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(what.to_owned())) }
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}
