//! A device in memory behind the engine's front-end contract, and guards that clean up.
#![allow(dead_code, reason = "each test file uses a part")]

use ploop_engine::{Errno, ExtentRecord, FrontEnd, Intake, Limits, Operation, Outcome, Request};
use ploop_fuse::{FuseFront, FuseOptions, FuseQueues, FuseServer};
use ploop_io::{Interest, Wake};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub const CLUSTER: u64 = 1 << 20;

/// What the device holds and has seen.
pub struct Disk {
    pub data: Mutex<Vec<u8>>,
    /// A cluster with data.
    pub stored: Mutex<Vec<bool>>,
    pub flushes: AtomicU64,
    pub fua: AtomicU64,
    pub unmapped: AtomicU64,
    pub most_in_flight: AtomicUsize,
    /// Requests of each queue.
    pub served_by: [AtomicUsize; 2],
    /// Nothing is answered while this is set.
    pub hold: AtomicBool,
    stop: AtomicBool,
    block: u64,
    longest: u64,
}

struct Alarm(OwnedFd);

impl Wake for Alarm {
    fn wake(&self) {
        rustix::io::write(&self.0, &1u64.to_ne_bytes()).unwrap();
    }
}

/// One queue's turn: takes everything in, answers some of it in another order.
struct Turn<'a> {
    held: &'a mut Vec<Request>,
    watches: &'a mut Vec<(i32, u32)>,
    again: bool,
    stopping: bool,
}

impl Intake for Turn<'_> {
    fn room(&self) -> usize {
        64usize.saturating_sub(self.held.len())
    }
    fn push(&mut self, request: Request) {
        assert!(self.room() > 0);
        self.held.push(request);
    }
    fn watch(&mut self, fd: i32, interest: Interest, key: u32) {
        assert_eq!(interest, Interest::Read);
        self.watches.push((fd, key));
    }
    fn unwatch(&mut self, key: u32) {
        self.watches.retain(|watch| watch.1 != key);
    }
    fn poll_at(&mut self, _nanos: u64) {
        self.again = true;
    }
    fn now(&self) -> u64 {
        0
    }
    fn stopping(&self) -> bool {
        self.stopping
    }
}

/// Waits for the alarm or a watched descriptor; tells the keys of those that are ready.
fn wait(alarm: &Alarm, watches: &mut Vec<(i32, u32)>, at_most: Timespec) -> Vec<(u32, i32)> {
    let mut fds = vec![PollFd::new(&alarm.0, PollFlags::IN)];
    // SAFETY: whoever closes a watched descriptor takes its watch back first.
    fds.extend(watches.iter().map(|watch| unsafe {
        PollFd::from_borrowed_fd(BorrowedFd::borrow_raw(watch.0), PollFlags::IN)
    }));
    let _ = poll(&mut fds, Some(&at_most));
    if !fds[0].revents().is_empty() {
        rustix::io::read(&alarm.0, &mut [0; 8]).unwrap();
    }
    let ready: Vec<_> = fds[1..].iter().map(|fd| i32::from(fd.revents().bits() as i16)).collect();
    let mut ready = ready.into_iter();
    let mut told = Vec::new();
    watches.retain(|watch| {
        let events = ready.next().unwrap_or_default();
        told.extend((events != 0).then_some((watch.1, events)));
        events == 0
    });
    told
}

impl Disk {
    fn range(request: &Request) -> std::ops::Range<usize> {
        request.offset as usize..(request.offset + request.len) as usize
    }

    fn serve(&self, request: &Request) -> Outcome {
        let ok = (request.offset | request.len).is_multiple_of(self.block);
        let mut data = self.data.lock().unwrap();
        if !ok || request.offset + request.len > data.len() as u64 {
            return Err(Errno::INVAL);
        }
        self.fua.fetch_add(u64::from(request.flags.fua), Ordering::Relaxed);
        let range = Self::range(request);
        let clusters = |range: &std::ops::Range<usize>| {
            range.start / CLUSTER as usize..range.end.div_ceil(CLUSTER as usize)
        };
        match request.operation {
            Operation::Read | Operation::Write => {
                let (ptr, len) = (request.buffer.ptr(), request.buffer.len());
                if len as u64 != request.len
                    || len as u64 > self.longest
                    || !(ptr as usize).is_multiple_of(512)
                {
                    return Err(Errno::INVAL);
                }
                // SAFETY: the front end promised the memory until `complete`.
                let memory = unsafe { std::slice::from_raw_parts_mut(ptr, len) };
                if request.operation == Operation::Read {
                    memory.copy_from_slice(&data[range]);
                } else {
                    self.stored.lock().unwrap()[clusters(&range)].fill(true);
                    data[range].copy_from_slice(memory);
                }
            }
            Operation::Flush => {
                self.flushes.fetch_add(1, Ordering::Relaxed);
            }
            Operation::Discard | Operation::Merge => {}
            Operation::WriteZeroes => {
                let mut stored = self.stored.lock().unwrap();
                let whole = range.start.div_ceil(CLUSTER as usize)..range.end / CLUSTER as usize;
                if !request.flags.no_unmap && whole.start < whole.end {
                    self.unmapped.fetch_add(whole.len() as u64, Ordering::Relaxed);
                    stored[whole].fill(false);
                }
                data[range].fill(0);
            }
            Operation::Extents => return self.extents(request),
        }
        Ok(0)
    }

    /// A record for each cluster; two at a time, so that the asker has to come again.
    fn extents(&self, request: &Request) -> Outcome {
        let stored = self.stored.lock().unwrap();
        let mut at = request.offset;
        let end = request.offset + request.len;
        let mut out = Vec::new();
        while at < end && out.len() < 2 * ExtentRecord::BYTES {
            let next = ((at / CLUSTER + 1) * CLUSTER).min(end);
            let level = if stored[(at / CLUSTER) as usize] { 0 } else { ExtentRecord::HOLE };
            out.extend(ExtentRecord { len: next - at, level, reserved: 0 }.to_bytes());
            at = next;
        }
        // SAFETY: the front end promised the memory until `complete`.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(request.buffer.ptr(), request.buffer.len()) };
        memory[..out.len()].copy_from_slice(&out);
        Ok(out.len() as u32)
    }

    fn run(self: &Arc<Self>, n: usize, mut front: FuseFront, alarm: &Arc<Alarm>) {
        front.set_waker(Arc::clone(alarm) as _);
        let mut held: Vec<Request> = Vec::new();
        let mut watches = Vec::new();
        let mut seed = 12345u64;
        while !front.finished() {
            let stopping = self.stop.load(Ordering::SeqCst);
            let mut turn = Turn { held: &mut held, watches: &mut watches, again: false, stopping };
            front.poll(&mut turn);
            let again = turn.again;
            self.most_in_flight.fetch_max(held.len(), Ordering::Relaxed);
            let hold = self.hold.load(Ordering::SeqCst) && !stopping;
            let idle = (held.is_empty() || hold) && !again && !front.finished();
            let nanos = if idle { 20_000_000 } else { 0 };
            let at_most = Timespec { tv_sec: 0, tv_nsec: nanos };
            for (key, events) in wait(alarm, &mut watches, at_most) {
                front.ready(key, events);
            }
            if held.is_empty() || hold {
                continue;
            }
            // Served in one order, answered in another: what is in flight together may be so.
            let some = held.len().div_ceil(2);
            self.served_by[n].fetch_add(some, Ordering::Relaxed);
            let mut done = Vec::new();
            for _ in 0..some {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let request = held.swap_remove((seed >> 33) as usize % held.len());
                done.push((request.tag, self.serve(&request)));
            }
            for (tag, outcome) in done.into_iter().rev() {
                front.complete(tag, outcome);
            }
            front.flush_replies();
        }
    }
}

/// The device and its queue threads.
pub struct Fake {
    pub disk: Arc<Disk>,
    pub queues: FuseQueues,
    alarms: Vec<Arc<Alarm>>,
    pub limits: Limits,
    threads: Vec<JoinHandle<()>>,
}

impl Fake {
    pub fn new(size: u64, block: u32) -> Self {
        let limits = Limits {
            size,
            block,
            physical_block: 4096,
            cluster: CLUSTER,
            buffer_align: 512,
            max_transfer: 256 << 10,
            max_zero: 5 << 20,
            read_only: false,
        };
        let disk = Arc::new(Disk {
            data: Mutex::new(vec![0; size as usize]),
            stored: Mutex::new(vec![false; size.div_ceil(CLUSTER) as usize]),
            flushes: AtomicU64::new(0),
            fua: AtomicU64::new(0),
            unmapped: AtomicU64::new(0),
            most_in_flight: AtomicUsize::new(0),
            served_by: Default::default(),
            hold: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            block: u64::from(block),
            longest: u64::from(limits.max_transfer),
        });
        let (queues, fronts) = FuseQueues::new(limits, 2).unwrap();
        let (mut threads, mut alarms) = (Vec::new(), Vec::new());
        for (n, front) in fronts.into_iter().enumerate() {
            let disk = Arc::clone(&disk);
            let alarm = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
            let alarm = Arc::new(Alarm(alarm));
            alarms.push(Arc::clone(&alarm));
            threads.push(std::thread::spawn(move || disk.run(n, front, &alarm)));
        }
        Self { disk, queues, alarms, limits, threads }
    }

    /// Served by all queues from the first request on.
    pub fn serve(&self, file: &Path, options: FuseOptions) -> FuseServer {
        self.serve_at_home(file, FuseOptions { share_at: 0, ..options })
    }

    /// Served by one queue until there is much to do.
    pub fn serve_at_home(&self, file: &Path, options: FuseOptions) -> FuseServer {
        FuseServer::mount(file, &self.queues, self.limits, options).unwrap()
    }

    pub fn stop(&self) {
        self.disk.stop.store(true, Ordering::SeqCst);
        self.alarms.iter().for_each(|alarm| alarm.wake());
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// A folder that goes away, with whatever is still mounted in it.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("ploop fuse ").tempdir().unwrap())
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let here = self.0.path().to_str().unwrap().replace(' ', "\\040");
        for line in mounts.lines().rev() {
            let point = line.split(' ').nth(4).unwrap_or_default();
            if point.starts_with(&here) {
                let point = point.replace("\\040", " ");
                let _ = Command::new("umount").args(["-l", &point]).output();
            }
        }
    }
}

/// Whether this machine can run the test; says why not.
pub fn able(tools: &[&str]) -> bool {
    let root = rustix::process::geteuid().is_root();
    let missing = tools.iter().find(|tool| {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        !found.is_ok_and(|found| found.status.success())
    });
    let reason = match missing {
        Some(tool) => format!("no {tool}"),
        None if !root => "not root".to_owned(),
        None if !Path::new("/dev/fuse").exists() => "no /dev/fuse".to_owned(),
        None => return true,
    };
    println!("skip: {reason}");
    false
}

/// Whether loop devices can be made, too.
pub fn able_loop(tools: &[&str]) -> bool {
    if able(tools) && !Path::new("/dev/loop-control").exists() {
        println!("skip: no /dev/loop-control");
        return false;
    }
    able(tools)
}

/// Runs a program, which must succeed, and tells what it wrote.
pub fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {text}{errors}");
    text
}

/// fio with verification, eight writes in flight, direct.
pub fn fio_verify(file: &Path, size: &str, extra: &[&str]) {
    let name = format!("--filename={}", file.display().to_string().replace(':', "\\:"));
    let mut args = vec![
        "--name=verify",
        &name,
        "--rw=randwrite",
        "--direct=1",
        "--iodepth=8",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--randrepeat=0",
        "--fallocate=none",
        "--allow_file_create=0",
        "--verify_state_save=0",
        "--output-format=terse",
    ];
    let size = format!("--size={size}");
    args.push(&size);
    args.extend(extra);
    run("fio", &args);
}

pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
