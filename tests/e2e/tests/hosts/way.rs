//! The ways to an open disk: an NBD client, a virtual machine, a loop device. Each request has an
//! answer in time, or is held.

use super::{BLOCK, at, block};
use ploop_e2e::World;
use ploop_e2e::nbd_client::Client;
use ploop_e2e::world::Server;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};
use vhost_peer::{FLUSH, IN, OK, OUT, Options, Peer, Wish};

/// A request that has no answer by then is held.
pub const HELD: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Nbd,
    Vhost,
    Loop,
}

/// An open disk, and who uses it.
pub struct Way {
    via: Via,
    socket: PathBuf,
    /// A child of ours; of a loop device the server is nobody's.
    pub server: Option<Server>,
    pub device: Option<String>,
    pid: u32,
    vm: Option<Vm>,
}

/// In a word.
pub fn outcome(done: &io::Result<()>) -> String {
    match done {
        Ok(()) => "ok".into(),
        Err(error) if error.kind() == ErrorKind::WouldBlock => "held".into(),
        Err(error) => match error.raw_os_error() {
            Some(errno) => format!("errno {errno}"),
            None => error.to_string(),
        },
    }
}

/// Does something on a thread of its own, which is left to itself when that is held.
fn apart<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, done) = channel();
    thread::spawn(move || sender.send(work()));
    done.recv_timeout(HELD).unwrap_or_else(|_| Err(ErrorKind::WouldBlock.into()))
}

impl Way {
    /// What opens a disk in this way.
    pub fn command(world: &World, via: Via, disk: &str) -> Vec<String> {
        let socket = world.text("s");
        let nbd = format!("unix:{socket}");
        let words: &[&str] = match via {
            Via::Nbd => &["serve", disk, "--nbd", &nbd],
            Via::Vhost => &["serve", disk, "--vhost-user", &socket],
            Via::Loop => &["attach", "--via", "loop", disk],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Opens a disk.
    pub fn open(world: &World, via: Via, disk: &str) -> Self {
        let words = Self::command(world, via, disk);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let socket = world.path("s");
        match via {
            Via::Loop => {
                let attached = world.attach(&words[1..]);
                let device = Some(attached.device);
                Self { via, socket, server: None, device, pid: attached.pid, vm: None }
            }
            Via::Nbd | Via::Vhost => Self::of(world.serve(&words[1..], 1), via, socket),
        }
    }

    /// Opens it so that no file is written, for an NBD client.
    pub fn open_read_only(world: &World, disk: &str) -> Self {
        let nbd = format!("unix:{}", world.text("s"));
        Self::of(world.serve(&[disk, "--ro", "--nbd", &nbd], 1), Via::Nbd, world.path("s"))
    }

    fn of(server: Server, via: Via, socket: PathBuf) -> Self {
        let vm = (via == Via::Vhost).then(|| Vm::new(&socket));
        let pid = server.pid();
        Self { via, socket, server: Some(server), device: None, pid, vm }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// An ordinary end.
    pub fn close(self, world: &World) {
        drop(self.vm);
        match (self.server, self.device) {
            (Some(server), _) => assert_eq!(server.end("-TERM"), 0),
            (None, Some(device)) => drop(world.ploop_ok(&["detach", &device])),
            (None, None) => {}
        }
    }

    fn client(&self) -> io::Result<Client> {
        let client = Client::connect(&self.socket)?;
        client.stream()?.set_read_timeout(Some(HELD))?;
        Ok(client)
    }

    /// Past the page cache.
    fn file(&self) -> io::Result<File> {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let device = self.device.as_ref().ok_or(ErrorKind::NotFound)?;
        OpenOptions::new().read(true).write(true).custom_flags(direct).open(device)
    }

    /// Writes a block, as it is the `turn`th time.
    pub fn write(&mut self, n: u64, turn: u64) -> io::Result<()> {
        let bytes = block(n, turn);
        match self.via {
            Via::Nbd => self.client()?.write(at(n), &bytes),
            Via::Vhost => self.vm()?.ask(OUT, at(n), Some(&bytes)).map(drop),
            Via::Loop => {
                let file = self.file()?;
                apart(move || file.write_all_at(aligned(&bytes).bytes(), at(n)))
            }
        }
    }

    /// Writes blocks until one is held or fails.
    pub fn write_all(&mut self, mut blocks: impl Iterator<Item = u64>) -> io::Result<()> {
        blocks.try_for_each(|n| self.write(n, 0))
    }

    pub fn flush(&mut self) -> io::Result<()> {
        match self.via {
            Via::Nbd => self.client()?.flush(),
            Via::Vhost => self.vm()?.ask(FLUSH, 0, None).map(drop),
            Via::Loop => {
                let file = self.file()?;
                apart(move || file.sync_all())
            }
        }
    }

    /// Whether blocks are as they were written in these turns.
    pub fn looks(&mut self, wanted: Vec<(u64, u64)>) -> io::Result<()> {
        for (n, turn) in wanted {
            let found = match self.via {
                Via::Nbd => self.client()?.read(at(n), BLOCK)?,
                Via::Vhost => self.vm()?.ask(IN, at(n), None)?,
                Via::Loop => {
                    let file = self.file()?;
                    apart(move || {
                        let mut found = aligned(&vec![0; BLOCK as usize]);
                        file.read_exact_at(found.bytes_mut(), at(n))?;
                        Ok(found.bytes().to_vec())
                    })?
                }
            };
            if found != block(n, turn) {
                return Err(io::Error::other(format!("block {n} is wrong")));
            }
        }
        Ok(())
    }

    fn vm(&mut self) -> io::Result<&mut Vm> {
        self.vm.as_mut().ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

/// A virtual machine with one ring.
struct Vm {
    peer: Peer,
    /// The next request's; one that is held keeps its own.
    slot: u16,
}

impl Vm {
    fn new(socket: &std::path::Path) -> Self {
        let options = Options { depth: 32, bytes: BLOCK as usize, ..Options::default() };
        Self { peer: Peer::connect(socket, options).unwrap(), slot: 0 }
    }

    fn ask(&mut self, kind: u32, offset: u64, data: Option<&[u8]>) -> io::Result<Vec<u8>> {
        let queue = &mut self.peer.queues[0];
        let slot = self.slot;
        if let Some(data) = data {
            queue.data(slot)[..data.len()].copy_from_slice(data);
        }
        let bytes = if kind == FLUSH { 0 } else { BLOCK };
        queue.submit(slot, &Wish::new(kind, offset / 512, bytes));
        queue.kick().map_err(io::Error::other)?;
        let until = Instant::now() + HELD;
        while Instant::now() < until {
            while let Some(done) = queue.reap() {
                match (done.slot == slot, done.status) {
                    (true, OK) => return Ok(queue.data(slot)[..bytes as usize].to_vec()),
                    (true, _) => return Err(rustix::io::Errno::IO.into()),
                    (false, _) => {}
                }
            }
            queue.wait(Duration::from_millis(100)).map_err(io::Error::other)?;
        }
        self.slot += 1;
        Err(ErrorKind::WouldBlock.into())
    }
}

/// Bytes at an address that direct I/O takes.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

fn aligned(bytes: &[u8]) -> Aligned {
    let mut memory = vec![0; bytes.len() + 4096];
    let from = memory.as_ptr().align_offset(4096);
    memory[from..from + bytes.len()].copy_from_slice(bytes);
    Aligned { memory, from, len: bytes.len() }
}

impl Aligned {
    fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.len]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.len]
    }
}
