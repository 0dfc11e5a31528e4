//! An engine of the tests: a queue's loop over poll(2) and a device in memory. It drives the real
//! front end with real sockets, completes out of order, and can hold or fail requests.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod client;
pub mod programs;

use ploop_engine::{Errno, ExtentRecord, FrontEnd, Intake, Limits, Operation, Outcome, Request};
use ploop_io::{Interest, Wake};
use ploop_nbd::{ExportInfo, NbdAddr, NbdFront, NbdOptions, NbdServer};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Granularity of the device's extents.
pub const CLUSTER: usize = 64 << 10;

/// What the front end asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub operation: Operation,
    pub flags: ploop_engine::Flags,
    pub offset: u64,
    pub len: u64,
}

/// A device in memory.
pub struct Device {
    pub limits: Limits,
    pub bytes: Mutex<Vec<u8>>,
    pub seen: Mutex<Vec<Seen>>,
    pub hold: AtomicBool,
    pub fail: Mutex<Option<(Operation, Errno)>>,
    pub room: usize,
    /// Seconds of the device's clock in one real second.
    pub speed: u64,
}

pub fn limits(size: usize) -> Limits {
    Limits {
        size: size as u64,
        block: 512,
        physical_block: 4096,
        cluster: CLUSTER as u64,
        buffer_align: 4096,
        max_transfer: 1 << 20,
        max_zero: 4 << 20,
        read_only: false,
    }
}

impl Device {
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            bytes: Mutex::new(vec![0; limits.size as usize]),
            seen: Mutex::new(Vec::new()),
            hold: AtomicBool::new(false),
            fail: Mutex::new(None),
            room: 64,
            speed: 1,
        })
    }

    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn run(&self, request: &Request) -> Outcome {
        let Request { operation, flags, offset, len, .. } = *request;
        self.seen.lock().unwrap().push(Seen { operation, flags, offset, len });
        if let Some((which, errno)) = *self.fail.lock().unwrap()
            && which == operation
        {
            return Err(errno);
        }
        assert!(offset + len <= self.limits.size);
        let mut bytes = self.bytes.lock().unwrap();
        let range = offset as usize..(offset + len) as usize;
        let buffer = if request.buffer.is_empty() {
            &mut [][..]
        } else {
            let align = self.limits.buffer_align as usize;
            assert!(request.buffer.ptr().addr().is_multiple_of(align), "unaligned buffer");
            // SAFETY: the front end keeps the memory until `complete`.
            unsafe { std::slice::from_raw_parts_mut(request.buffer.ptr(), request.buffer.len()) }
        };
        match operation {
            Operation::Read => {
                assert!(len <= u64::from(self.limits.max_transfer));
                buffer.copy_from_slice(&bytes[range]);
            }
            Operation::Write => {
                assert!(len <= u64::from(self.limits.max_transfer));
                bytes[range].copy_from_slice(buffer);
            }
            Operation::Discard | Operation::WriteZeroes => {
                assert!(len <= self.limits.max_zero);
                bytes[range].fill(0);
            }
            Operation::Flush => assert_eq!((offset, len), (0, 0)),
            Operation::Merge => unreachable!("no client asks for it"),
            Operation::Extents => return Ok(extents(&bytes[range.clone()], range.start, buffer)),
        }
        Ok(0)
    }
}

fn extents(bytes: &[u8], start: usize, buffer: &mut [u8]) -> u32 {
    let (mut at, mut filled) = (0, 0);
    while at < bytes.len() && filled + ExtentRecord::BYTES <= buffer.len() {
        let end = bytes.len().min((start + at) / CLUSTER * CLUSTER + CLUSTER - start);
        let zero = bytes[at..end].iter().all(|b| *b == 0);
        // Levels change from cluster to cluster, so that runs must be merged.
        let level = ((start + at) / CLUSTER % 3) as u32;
        let level = if zero { ExtentRecord::HOLE } else { level };
        let record = ExtentRecord { len: (end - at) as u64, level, reserved: 0 };
        buffer[filled..filled + ExtentRecord::BYTES].copy_from_slice(&record.to_bytes());
        filled += ExtentRecord::BYTES;
        at = end;
    }
    filled as u32
}

struct EventWake(OwnedFd);

impl Wake for EventWake {
    fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// A queue's thread.
pub struct FakeQueue {
    stop: Arc<AtomicBool>,
    wake: Arc<EventWake>,
    thread: Option<JoinHandle<NbdFront>>,
}

impl FakeQueue {
    pub fn spawn(front: NbdFront, device: Arc<Device>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let wake = Arc::new(EventWake(eventfd(0, flags).unwrap()));
        let (stop2, wake2) = (Arc::clone(&stop), Arc::clone(&wake));
        let thread = std::thread::spawn(move || run(front, &device, &stop2, &wake2));
        Self { stop, wake, thread: Some(thread) }
    }

    pub fn wake(&self) {
        self.wake.wake();
    }

    /// Stops as the engine does; returns the front for a look at its counters.
    pub fn stop(&mut self) -> NbdFront {
        self.stop.store(true, Ordering::SeqCst);
        self.wake.wake();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for FakeQueue {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() {
            self.stop();
        }
    }
}

struct FakeIntake<'a> {
    watches: &'a mut HashMap<u32, (i32, Interest)>,
    pending: &'a mut Vec<Request>,
    room: usize,
    poll_at: Option<u64>,
    now: u64,
    stopping: bool,
}

impl Intake for FakeIntake<'_> {
    fn room(&self) -> usize {
        self.room - self.pending.len()
    }

    fn push(&mut self, request: Request) {
        assert!(self.room() > 0, "pushed without room");
        self.pending.push(request);
    }

    fn watch(&mut self, fd: i32, interest: Interest, key: u32) {
        let old = self.watches.insert(key, (fd, interest));
        assert!(old.is_none(), "watched twice");
    }

    fn unwatch(&mut self, key: u32) {
        assert!(self.watches.remove(&key).is_some(), "took back what was not watched");
    }

    fn poll_at(&mut self, nanos: u64) {
        self.poll_at = Some(self.poll_at.map_or(nanos, |t| t.min(nanos)));
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn stopping(&self) -> bool {
        self.stopping
    }
}

fn run(mut front: NbdFront, device: &Device, stop: &AtomicBool, wake: &Arc<EventWake>) -> NbdFront {
    front.set_waker(Arc::clone(wake) as Arc<dyn Wake>);
    let start = Instant::now();
    let mut watches = HashMap::new();
    let mut pending: Vec<Request> = Vec::new();
    let mut seed = 42u64;
    loop {
        let now = start.elapsed().as_nanos() as u64 * device.speed;
        let stopping = stop.load(Ordering::SeqCst);
        let mut intake = FakeIntake {
            watches: &mut watches,
            pending: &mut pending,
            room: device.room,
            poll_at: None,
            now,
            stopping,
        };
        front.poll(&mut intake);
        let poll_at = intake.poll_at;
        if front.finished() {
            assert!(watches.is_empty(), "watches of nobody are left");
            assert!(pending.is_empty());
            return front;
        }
        let held = device.hold.load(Ordering::SeqCst);
        if !held && !pending.is_empty() {
            // Some of them, in any order.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let count = 1 + (seed >> 40) as usize % pending.len();
            for n in 0..count {
                let which = (seed >> (n % 30)) as usize % pending.len();
                let request = pending.swap_remove(which);
                front.complete(request.tag, device.run(&request));
            }
            front.flush_replies();
        }
        let busy = !held && !pending.is_empty();
        let wait = match poll_at {
            _ if busy => Duration::ZERO,
            Some(at) => Duration::from_nanos(at.saturating_sub(now) / device.speed),
            None => Duration::from_secs(3600),
        };
        wait_for(&mut front, &mut watches, wake, wait);
    }
}

fn wait_for(
    front: &mut NbdFront,
    watches: &mut HashMap<u32, (i32, Interest)>,
    wake: &EventWake,
    wait: Duration,
) {
    let keys: Vec<u32> = watches.keys().copied().collect();
    let mut fds = vec![PollFd::new(&wake.0, PollFlags::IN)];
    for key in &keys {
        let (fd, interest) = watches[key];
        let flags = match interest {
            Interest::Read => PollFlags::IN,
            Interest::Write => PollFlags::OUT,
        };
        // SAFETY: the front end keeps a watched descriptor open until it took the watch back.
        fds.push(PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(fd) }, flags));
    }
    let timeout = rustix::time::Timespec::try_from(wait).unwrap();
    let _ = poll(&mut fds, Some(&timeout));
    let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
    let _ = rustix::io::read(&wake.0, &mut [0u8; 8]);
    for (key, event) in keys.iter().zip(&events[1..]) {
        assert!(!event.contains(PollFlags::NVAL), "a closed descriptor was watched");
        if !event.is_empty() {
            watches.remove(key);
            front.ready(*key, i32::from(event.bits()));
        }
    }
}

/// A whole server over a device in memory.
pub struct TestServer {
    pub device: Arc<Device>,
    pub server: NbdServer,
    pub queues: Vec<FakeQueue>,
    pub addr: NbdAddr,
    _dir: tempfile::TempDir,
}

/// How a [`TestServer`] is made.
pub struct Setup {
    pub limits: Limits,
    pub queues: usize,
    pub options: NbdOptions,
    pub tcp: bool,
    pub name: &'static str,
    pub read_only: bool,
    pub room: usize,
    pub speed: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: limits(64 << 20),
            queues: 1,
            options: NbdOptions::default(),
            tcp: false,
            name: "",
            read_only: false,
            room: 64,
            speed: 1,
        }
    }
}

impl Setup {
    pub fn serve(self) -> TestServer {
        let dir = tempfile::tempdir().unwrap();
        let addr = if self.tcp {
            NbdAddr::parse("tcp:127.0.0.1:0").unwrap()
        } else {
            NbdAddr::Unix(dir.path().join("nbd.sock"))
        };
        let mut device = Device::new(self.limits);
        let inner = Arc::get_mut(&mut device).unwrap();
        (inner.room, inner.speed) = (self.room, self.speed);
        let export = ExportInfo {
            name: self.name.into(),
            description: "a disk of the tests".into(),
            read_only: self.read_only,
            limits: self.limits,
        };
        let mut server = NbdServer::new(self.options);
        let addr = server.bind(&addr, export).unwrap();
        let queues = (0..self.queues)
            .map(|_| FakeQueue::spawn(server.front(self.limits).unwrap(), Arc::clone(&device)))
            .collect();
        server.start().unwrap();
        TestServer { device, server, queues, addr, _dir: dir }
    }
}

impl TestServer {
    pub fn path(&self) -> PathBuf {
        match &self.addr {
            NbdAddr::Unix(path) => path.clone(),
            NbdAddr::Tcp(_) => panic!("a TCP server has no path"),
        }
    }

    /// Stops the server, then every queue.
    pub fn stop(&mut self) -> Vec<NbdFront> {
        self.server.stop();
        self.queues.drain(..).map(|mut q| q.stop()).collect()
    }

    /// Waits until a condition holds; fails after 20 seconds.
    pub fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Bytes that look like nothing else.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}
