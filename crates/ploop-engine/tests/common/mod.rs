//! A device over real files, for tests: images made by hand, threads, a flat model.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "tests share it")]

use fixedbitset::FixedBitSet;
use ploop_engine::remote::{RemoteHandle, remote};
use ploop_engine::*;
use ploop_format::{ClusterSize, Sector, Version};
use ploop_io::{AlignedBuf, Dir, Engine, EngineChoice, Io, OpenHow, RealClock, RealDir};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// A small seeded generator.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Geometry of a test disk.
#[derive(Clone, Copy)]
pub struct Geometry {
    pub cluster: ClusterSize,
    pub size: u64,
    pub version: Version,
}

impl Geometry {
    pub fn new(cluster_sectors: u32, size: u64) -> Self {
        let cluster = ClusterSize::from_sectors(cluster_sectors).unwrap();
        Self { cluster, size, version: Version::V2 }
    }

    pub fn entries(&self) -> u64 {
        self.cluster.count(self.size)
    }

    pub fn data_start(&self) -> u64 {
        self.cluster.count(64 + self.entries() * 4) * self.cluster.bytes()
    }

    pub fn header(&self) -> [u8; 64] {
        let mut h = [0u8; 64];
        let magic: &[u8] = match self.version {
            Version::V1 => b"WithoutFreeSpace",
            Version::V2 => b"WithouFreSpacExt",
        };
        h[..16].copy_from_slice(magic);
        h[16..20].copy_from_slice(&2u32.to_le_bytes());
        h[28..32].copy_from_slice(&self.cluster.sectors().to_le_bytes());
        h[32..36].copy_from_slice(&(self.entries() as u32).to_le_bytes());
        h[36..44].copy_from_slice(&(self.size / 512).to_le_bytes());
        h[44..48].copy_from_slice(&0x746F_6E59u32.to_le_bytes());
        h[48..52].copy_from_slice(&((self.data_start() / 512) as u32).to_le_bytes());
        h
    }
}

/// Writes an image that maps these guest clusters to this content.
pub fn make_image(path: &Path, g: Geometry, content: &[(u64, Vec<u8>)]) {
    let mut file = vec![0u8; g.data_start() as usize];
    file[..64].copy_from_slice(&g.header());
    for (guest, bytes) in content {
        let at = file.len() as u64;
        let entry = g.version.entry(Sector(at / 512), g.cluster).unwrap();
        let slot = 64 + *guest as usize * 4;
        file[slot..slot + 4].copy_from_slice(&entry.to_le_bytes());
        assert_eq!(bytes.len() as u64, g.cluster.bytes());
        file.extend_from_slice(bytes);
    }
    std::fs::write(path, file).unwrap();
}

/// Guest cluster -> byte position, with every rule of a sound BAT checked.
pub fn scan(path: &Path, g: Geometry) -> HashMap<u64, u64> {
    let file = std::fs::read(path).unwrap();
    assert_eq!(file.len() as u64 % g.cluster.bytes(), 0, "whole clusters (I7)");
    let mut seen = HashMap::new();
    let mut map = HashMap::new();
    for guest in 0..g.entries() {
        let slot = 64 + guest as usize * 4;
        let entry = u32::from_le_bytes(file[slot..slot + 4].try_into().unwrap());
        if entry == 0 {
            continue;
        }
        let at = g.version.position(entry, g.cluster).bytes();
        assert!(at >= g.data_start(), "entry {guest} inside the BAT");
        assert!(at + g.cluster.bytes() <= file.len() as u64, "entry {guest} past the end");
        if let Some(other) = seen.insert(at, guest) {
            panic!("I2: entries {other} and {guest} both name {at}");
        }
        map.insert(guest, at);
    }
    map
}

/// Opens levels (base first) and makes a spec, as the image code would.
pub fn spec(g: Geometry, paths: &[PathBuf], raw_base: bool) -> DeviceSpec {
    let dir = RealDir;
    let mut levels = Vec::new();
    for (n, path) in paths.iter().enumerate() {
        let top = n + 1 == paths.len();
        let how = OpenHow { write: top, direct: true, ..OpenHow::default() };
        let file = dir.open(path, how).unwrap();
        let len = file.len().unwrap();
        let kind = if raw_base && n == 0 {
            LevelKind::Raw
        } else {
            LevelKind::Ploop {
                version: g.version,
                entries: g.entries(),
                data_start: g.data_start(),
            }
        };
        levels.push(LevelSpec { file, kind, len, bare: Vec::new() });
    }
    let top = paths.last().unwrap();
    let mut used = FixedBitSet::new();
    if !(raw_base && paths.len() == 1) {
        let len = std::fs::metadata(top).unwrap().len();
        used.grow((len / g.cluster.bytes()) as usize);
        used.insert_range(..(g.data_start() / g.cluster.bytes()) as usize);
        for at in scan(top, g).values() {
            used.insert((at / g.cluster.bytes()) as usize);
        }
    }
    DeviceSpec {
        levels,
        more: Vec::new(),
        cluster: g.cluster,
        size: Sector(g.size / 512),
        block: 512,
        physical_block: 0,
        read_only: false,
        used,
        header: g.header(),
        refused: Vec::new(),
        record: None,
        preallocated: false,
        floor: 0,
        in_place: usize::MAX,
    }
}

/// A running device.
pub struct Rig {
    pub device: Device,
    pub handles: Vec<RemoteHandle>,
    queues: Vec<JoinHandle<()>>,
    keeper: JoinHandle<CloseReport>,
}

impl Rig {
    pub fn start(spec: DeviceSpec, options: DeviceOptions, engine: EngineChoice) -> Self {
        let count = options.queues;
        let device = Device::new(spec, options).unwrap();
        let ended = Arc::new(AtomicUsize::new(0));
        let mut handles = Vec::new();
        let mut queues = Vec::new();
        for n in 0..count {
            let (handle, mut front) = remote();
            handles.push(handle);
            let device = device.clone();
            let ended = Arc::clone(&ended);
            queues.push(std::thread::spawn(move || {
                let (io, _) = Engine::open(engine).unwrap();
                front.set_waker(io.waker());
                let mut queue = device.queue(n, io);
                queue.run(&mut front, &RealClock).unwrap();
                ended.fetch_add(1, Ordering::SeqCst);
                device.wake_keeper();
            }));
        }
        let keeper = {
            let device = device.clone();
            std::thread::spawn(move || {
                let (io, _) = Engine::open(engine).unwrap();
                let mut keeper = device.keeper(io).unwrap();
                let all = || ended.load(Ordering::SeqCst) == count;
                keeper.run(&RealClock, &all).unwrap()
            })
        };
        Self { device, handles, queues, keeper }
    }

    pub fn stop(self) -> CloseReport {
        self.device.stop();
        for queue in self.queues {
            queue.join().unwrap();
        }
        self.keeper.join().unwrap()
    }

    pub fn write(&self, queue: usize, at: u64, bytes: &[u8], flags: Flags) -> Outcome {
        let mut buf = AlignedBuf::new(bytes.len()).unwrap();
        buf.copy_from_slice(bytes);
        self.data(queue, Operation::Write, at, &mut buf, flags)
    }

    pub fn read(&self, queue: usize, at: u64, len: usize) -> Result<AlignedBuf, Errno> {
        let mut buf = AlignedBuf::new(len).unwrap();
        buf.fill(0xEE);
        self.data(queue, Operation::Read, at, &mut buf, Flags::default()).map(|_| buf)
    }

    fn data(
        &self,
        queue: usize,
        operation: Operation,
        at: u64,
        buf: &mut AlignedBuf,
        flags: Flags,
    ) -> Outcome {
        let len = buf.len();
        // SAFETY: `call` returns after completion.
        let buffer = unsafe { Buffer::new(buf.as_mut_ptr(), len) };
        let request = Request { tag: 0, operation, flags, offset: at, len: len as u64, buffer };
        self.handles[queue].call(request)
    }

    pub fn plain(
        &self,
        queue: usize,
        operation: Operation,
        offset: u64,
        len: u64,
        flags: Flags,
    ) -> Outcome {
        let buffer = Buffer::NONE;
        self.handles[queue].call(Request { tag: 0, operation, flags, offset, len, buffer })
    }

    pub fn extents(&self, at: u64, len: u64) -> Vec<ExtentRecord> {
        let mut buf = AlignedBuf::new(16 * 64).unwrap();
        // SAFETY: `call` returns after completion.
        let buffer = unsafe { Buffer::new(buf.as_mut_ptr(), buf.len()) };
        let n = self.handles[0]
            .call(Request {
                tag: 0,
                operation: Operation::Extents,
                flags: Flags::default(),
                offset: at,
                len,
                buffer,
            })
            .unwrap();
        ExtentRecord::parse(&buf[..n as usize]).collect()
    }
}

/// Fills with a pattern of a number.
pub fn pattern(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        out.extend_from_slice(&rng.next().to_le_bytes());
    }
    out.truncate(len);
    out
}

fn zeroed(model: &mut [u8], at: u64, len: u64) {
    model[at as usize..(at + len) as usize].fill(0);
}

/// One random operation, and what it does to the flat model.
pub fn step(rig: &Rig, model: &mut [u8], queue: usize, base: u64, span: u64, rng: &mut Rng) {
    let kind = rng.below(100);
    let unit = if rng.below(3) == 0 { 32 << 10 } else { 512 };
    let at = base + rng.below(span / unit) * unit;
    let most = (base + span - at).min(96 << 10);
    let len = ((1 + rng.below(most / 512)) * 512).min(most);
    let flags = Flags { fua: rng.below(8) == 0, no_unmap: rng.below(4) == 0, ..Flags::default() };
    match kind {
        0..40 => {
            let bytes =
                if rng.below(10) == 0 { vec![0; len as usize] } else { pattern(rng, len as usize) };
            rig.write(queue, at, &bytes, flags).unwrap();
            model[at as usize..(at + len) as usize].copy_from_slice(&bytes);
        }
        40..75 => {
            let got = rig.read(queue, at, len as usize).unwrap();
            let want = &model[at as usize..(at + len) as usize];
            let bad = got.iter().zip(want).position(|(a, b)| a != b);
            assert_eq!(bad, None, "read of {len} at {at}");
        }
        75..85 => {
            rig.plain(queue, Operation::WriteZeroes, at, len, flags).unwrap();
            zeroed(model, at, len);
        }
        85..95 => {
            rig.plain(queue, Operation::Discard, at, len, flags).unwrap();
            // Old or zero, fixed from now on: learn which.
            let got = rig.read(queue, at, len as usize).unwrap();
            let old = &mut model[at as usize..(at + len) as usize];
            for (o, g) in old.iter_mut().zip(got.iter()) {
                assert!(*g == *o || *g == 0, "a discard gave foreign bytes");
                *o = *g;
            }
        }
        _ => {
            rig.plain(queue, Operation::Flush, 0, 0, Flags::default()).unwrap();
        }
    }
}
