//! A client that does exactly what a test tells it, also what no honest client would do.

use ploop_nbd::NbdAddr;
use ploop_nbd::protocol::request::{Command, CommandFlags, Header};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One chunk of a reply; a simple reply is one with `kind` = [`SIMPLE`].
#[derive(Debug, PartialEq)]
pub struct Chunk {
    pub done: bool,
    pub kind: u16,
    pub cookie: u64,
    pub error: u32,
    pub data: Vec<u8>,
}

pub const SIMPLE: u16 = u16::MAX;

pub struct Client {
    pub stream: Box<dyn Stream>,
    pub size: u64,
    pub flags: u16,
    cookie: u64,
}

pub fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u32).to_be_bytes();
    [b"IHAVEOPT", &code.to_be_bytes()[..], &len, data].concat()
}

impl Client {
    /// Connected, greeting read, nothing sent.
    pub fn raw(addr: &NbdAddr) -> Self {
        let timeout = Some(Duration::from_secs(20));
        let stream: Box<dyn Stream> = match addr {
            NbdAddr::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(timeout).unwrap();
                Box::new(stream)
            }
            NbdAddr::Tcp(addr) => {
                let stream = TcpStream::connect(addr).unwrap();
                stream.set_read_timeout(timeout).unwrap();
                stream.set_nodelay(true).unwrap();
                Box::new(stream)
            }
        };
        let mut client = Self { stream, size: 0, flags: 0, cookie: 0 };
        let greeting: [u8; 18] = client.read();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        client
    }

    /// Through GO, with structured replies and block status if wanted.
    pub fn connect(addr: &NbdAddr, structured: bool) -> Self {
        let mut client = Self::raw(addr);
        client.write(&3u32.to_be_bytes());
        if structured {
            client.write(&option(8, &[]));
            assert_eq!(client.answer().0, 1);
            let query = b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";
            client.write(&option(10, query));
            assert_eq!(client.answer().0, 4);
            assert_eq!(client.answer().0, 1);
        }
        client.write(&option(7, &[0; 6]));
        loop {
            let (kind, data) = client.answer();
            match kind {
                1 => return client,
                3 if data[..2] == [0, 0] => {
                    client.size = u64::from_be_bytes(data[2..10].try_into().unwrap());
                    client.flags = u16::from_be_bytes(data[10..].try_into().unwrap());
                }
                3 => {}
                other => panic!("GO was answered with {other:#x}"),
            }
        }
    }

    pub fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut buf = [0; N];
        self.stream.read_exact(&mut buf).unwrap();
        buf
    }

    pub fn read_vec(&mut self, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        self.stream.read_exact(&mut buf).unwrap();
        buf
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The type and the data of one answer to an option.
    pub fn answer(&mut self) -> (u32, Vec<u8>) {
        let head: [u8; 20] = self.read();
        assert_eq!(head[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
        let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
        let len = u32::from_be_bytes(head[16..].try_into().unwrap());
        (kind, self.read_vec(len as usize))
    }

    /// Whether the server has closed the connection (after what it still had to say).
    pub fn is_closed(&mut self) -> bool {
        let mut buf = [0; 4096];
        loop {
            match self.stream.read(&mut buf) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// A header with the next cookie.
    pub fn header(&mut self, command: Command, flags: u16, offset: u64, len: u32) -> Header {
        self.cookie += 1;
        Header { flags: CommandFlags(flags), command, cookie: self.cookie, offset, len }
    }

    pub fn send(&mut self, command: Command, flags: u16, offset: u64, len: u32) -> u64 {
        let header = self.header(command, flags, offset, len);
        self.write(&header.to_bytes());
        header.cookie
    }

    pub fn send_write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u64 {
        let header = self.header(Command::Write, flags, offset, data.len() as u32);
        self.write(&[&header.to_bytes()[..], data].concat());
        header.cookie
    }

    /// One chunk. `simple_len` is the payload a simple reply carries when it is no error.
    pub fn chunk(&mut self, simple_len: usize) -> Chunk {
        let magic = u32::from_be_bytes(self.read());
        if magic == 0x6744_6698 {
            let error = u32::from_be_bytes(self.read());
            let cookie = u64::from_be_bytes(self.read());
            let data = self.read_vec(if error == 0 { simple_len } else { 0 });
            return Chunk { done: true, kind: SIMPLE, cookie, error, data };
        }
        assert_eq!(magic, 0x668e_33ef, "reply magic");
        let done = u16::from_be_bytes(self.read()) == 1;
        let kind = u16::from_be_bytes(self.read());
        let cookie = u64::from_be_bytes(self.read());
        let len = u32::from_be_bytes(self.read());
        let data = self.read_vec(len as usize);
        let error = if kind & 0x8000 == 0 { 0 } else { word(&data, 0) };
        Chunk { done, kind, cookie, error, data }
    }

    /// Sends a request without payload and returns its error, 0 for success.
    pub fn call(&mut self, command: Command, flags: u16, offset: u64, len: u32) -> u32 {
        let cookie = self.send(command, flags, offset, len);
        let chunk = self.chunk(0);
        assert_eq!((chunk.cookie, chunk.done), (cookie, true));
        chunk.error
    }

    pub fn write_at(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        let cookie = self.send_write(flags, offset, data);
        let chunk = self.chunk(0);
        assert_eq!(chunk.cookie, cookie);
        chunk.error
    }

    /// Reads, either kind of reply.
    pub fn read_at(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        let cookie = self.send(Command::Read, 0, offset, len);
        let mut chunk = self.chunk(len as usize);
        assert_eq!(chunk.cookie, cookie);
        if chunk.error != 0 {
            return Err(chunk.error);
        }
        if chunk.kind != SIMPLE {
            assert_eq!((chunk.kind, chunk.done), (1, true));
            assert_eq!(chunk.data[..8], offset.to_be_bytes());
            chunk.data.drain(..8);
        }
        assert_eq!(chunk.data.len(), len as usize);
        Ok(chunk.data)
    }

    /// (length, flags) of every extent.
    pub fn block_status(&mut self, flags: u16, offset: u64, len: u32) -> Vec<(u32, u32)> {
        self.send(Command::BlockStatus, flags, offset, len);
        let chunk = self.chunk(0);
        assert_eq!((chunk.kind, chunk.error), (5, 0), "{chunk:?}");
        assert_eq!(word(&chunk.data, 0), 1);
        chunk.data[4..].chunks(8).map(|c| (word(c, 0), word(c, 4))).collect()
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}
