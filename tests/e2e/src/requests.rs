//! Many requests in flight at one disk: over NBD, or by threads on a block device or file.

use crate::nbd_client::{Client, Command, FUA, Reply};
use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// One who sends requests without waiting for each.
pub trait Requests {
    /// Sends a request; `data` is the payload of a write. Returns its cookie.
    ///
    /// # Errors
    /// The disk is gone.
    fn send(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> io::Result<u64>;

    /// Waits for the next answer.
    ///
    /// # Errors
    /// The disk is gone.
    fn receive(&mut self) -> io::Result<Reply>;

    /// Requests without an answer yet.
    fn in_flight(&self) -> usize;

    /// One request alone, which must succeed; returns what was read.
    ///
    /// # Errors
    /// The disk is gone, or answers with an error.
    fn alone(&mut self, command: Command, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        self.send(command, 0, offset, length, &[])?;
        let reply = self.receive()?;
        match reply.error {
            0 => Ok(reply.data),
            error => Err(io::Error::other(format!("the disk answered errno {error}"))),
        }
    }
}

impl Requests for Client {
    fn send(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> io::Result<u64> {
        Self::send(self, command, flags, offset, length, data)
    }

    fn receive(&mut self) -> io::Result<Reply> {
        Self::receive(self)
    }

    fn in_flight(&self) -> usize {
        Self::in_flight(self)
    }
}

/// Threads that each do one direct I/O at a time. The first error counts as the end of the disk:
/// the caller knows whether it was to come.
#[derive(Debug)]
pub struct Threads {
    jobs: Option<Sender<Job>>,
    done: Receiver<(u64, io::Result<Vec<u8>>)>,
    threads: Vec<JoinHandle<()>>,
    cookie: u64,
    flying: usize,
}

#[derive(Debug)]
struct Job {
    cookie: u64,
    command: Command,
    fua: bool,
    offset: u64,
    length: u32,
    data: Vec<u8>,
}

impl Threads {
    /// `count` threads on a block device or a file.
    ///
    /// # Errors
    /// It cannot be opened for direct I/O.
    pub fn open(path: &Path, count: usize) -> io::Result<Self> {
        let (jobs, inbox) = channel();
        let inbox = Arc::new(Mutex::new(inbox));
        let (sender, done) = channel();
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let mut threads = Vec::new();
        for _ in 0..count {
            let file = OpenOptions::new().read(true).write(true).custom_flags(direct).open(path)?;
            let (inbox, sender) = (Arc::clone(&inbox), sender.clone());
            threads.push(thread::spawn(move || work(&file, &inbox, &sender)));
        }
        Ok(Self { jobs: Some(jobs), done, threads, cookie: 0, flying: 0 })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Requests for Threads {
    fn send(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> io::Result<u64> {
        self.cookie += 1;
        let (cookie, fua) = (self.cookie, flags & FUA != 0);
        let job = Job { cookie, command, fua, offset, length, data: data.to_vec() };
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        self.flying += 1;
        if sent { Ok(cookie) } else { Err(io::Error::other("the threads are gone")) }
    }

    fn receive(&mut self) -> io::Result<Reply> {
        let (cookie, result) = self.done.recv().map_err(io::Error::other)?;
        self.flying -= 1;
        result.map(|data| Reply { cookie, error: 0, data })
    }

    fn in_flight(&self) -> usize {
        self.flying
    }
}

fn work(file: &File, inbox: &Mutex<Receiver<Job>>, done: &Sender<(u64, io::Result<Vec<u8>>)>) {
    loop {
        let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if done.send((job.cookie, run(file, &job))).is_err() {
            return;
        }
    }
}

fn run(file: &File, job: &Job) -> io::Result<Vec<u8>> {
    let fallocate = |how: FallocateFlags| {
        let how = how | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, how, job.offset, job.length.into())?;
        Ok(Vec::new())
    };
    match job.command {
        Command::Read => {
            let mut buffer = Aligned::new(job.length as usize);
            file.read_exact_at(buffer.bytes(), job.offset)?;
            Ok(buffer.bytes().to_vec())
        }
        Command::Write => {
            let mut buffer = Aligned::new(job.data.len());
            buffer.bytes().copy_from_slice(&job.data);
            write(file, buffer.bytes(), job.offset, job.fua).map(|()| Vec::new())
        }
        Command::Flush => file.sync_data().map(|()| Vec::new()),
        Command::Trim => fallocate(FallocateFlags::PUNCH_HOLE),
        Command::WriteZeroes => fallocate(FallocateFlags::ZERO_RANGE),
        Command::Disconnect => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}

fn write(file: &File, mut data: &[u8], mut offset: u64, fua: bool) -> io::Result<()> {
    let flags = if fua { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
    while !data.is_empty() {
        let written = rustix::io::pwritev2(file, &[IoSlice::new(data)], offset, flags)?;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero));
        }
        data = &data[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Memory fit for direct I/O.
struct Aligned {
    memory: Vec<u8>,
    first: usize,
    len: usize,
}

impl Aligned {
    const ALIGN: usize = 4096;

    fn new(len: usize) -> Self {
        let memory = vec![0; len + Self::ALIGN];
        let first = memory.as_ptr().align_offset(Self::ALIGN);
        Self { memory, first, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.first..self.first + self.len]
    }
}
