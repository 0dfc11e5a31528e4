//! The server on the real engine: its queues and rings, a ploop image in a file.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod common;

use common::client::Client;
use common::noise;
use common::programs::{have, must, text};
use fixedbitset::FixedBitSet;
use ploop_engine::{CloseReport, Device, DeviceOptions, DeviceSpec, LevelKind, LevelSpec};
use ploop_format::{ClusterSize, Sector, Version};
use ploop_io::{Dir, Engine, EngineChoice, Io, OpenHow, RealClock, RealDir};
use ploop_nbd::protocol::request::Command;
use ploop_nbd::{ExportInfo, NbdAddr, NbdFront, NbdOptions, NbdServer};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

const CLUSTER: u64 = 64 << 10;
const SIZE: u64 = 24 << 20;

/// An empty image of version 2.
fn image(path: &Path) -> DeviceSpec {
    let cluster = ClusterSize::from_sectors((CLUSTER / 512) as u32).unwrap();
    let entries = SIZE / CLUSTER;
    let mut header = [0u8; 64];
    header[..16].copy_from_slice(b"WithouFreSpacExt");
    header[16..20].copy_from_slice(&2u32.to_le_bytes());
    header[28..32].copy_from_slice(&cluster.sectors().to_le_bytes());
    header[32..36].copy_from_slice(&(entries as u32).to_le_bytes());
    header[36..44].copy_from_slice(&(SIZE / 512).to_le_bytes());
    header[44..48].copy_from_slice(&0x746F_6E59u32.to_le_bytes());
    header[48..52].copy_from_slice(&cluster.sectors().to_le_bytes());
    let mut file = vec![0u8; CLUSTER as usize];
    file[..64].copy_from_slice(&header);
    std::fs::write(path, file).unwrap();
    let how = OpenHow { write: true, direct: true, ..OpenHow::default() };
    let file = RealDir.open(path, how).unwrap();
    let kind = LevelKind::Ploop { version: Version::V2, entries, data_start: CLUSTER };
    let mut used = FixedBitSet::with_capacity(1);
    used.insert(0);
    DeviceSpec {
        levels: vec![LevelSpec { len: CLUSTER, file, kind, bare: Vec::new() }],
        more: Vec::new(),
        cluster,
        size: Sector(SIZE / 512),
        block: 512,
        physical_block: 0,
        read_only: false,
        used,
        header,
        refused: Vec::new(),
        record: None,
        preallocated: false,
        floor: 0,
        in_place: usize::MAX,
    }
}

/// A served image.
struct Rig {
    device: Device,
    server: NbdServer,
    addr: NbdAddr,
    queues: Vec<JoinHandle<NbdFront>>,
    keeper: JoinHandle<CloseReport>,
}

impl Rig {
    fn start(dir: &Path, engine: EngineChoice) -> Self {
        let options = DeviceOptions { queues: 2, ..DeviceOptions::default() };
        let device = Device::new(image(&dir.join("disk.hds")), options).unwrap();
        let limits = device.limits();
        let mut server = NbdServer::new(NbdOptions::default());
        let export = ExportInfo {
            name: String::new(),
            description: "a ploop disk".into(),
            read_only: false,
            limits,
        };
        let addr = server.bind(&NbdAddr::Unix(dir.join("sock")), export).unwrap();
        let ended = Arc::new(AtomicUsize::new(0));
        let queues = (0..2)
            .map(|n| {
                let mut front = server.front(limits).unwrap();
                let (device, ended) = (device.clone(), Arc::clone(&ended));
                std::thread::spawn(move || {
                    let (io, _) = Engine::open(engine).unwrap();
                    front.set_waker(io.waker());
                    device.queue(n, io).run(&mut front, &RealClock).unwrap();
                    ended.fetch_add(1, Ordering::SeqCst);
                    device.wake_keeper();
                    front
                })
            })
            .collect();
        let keeper = {
            let device = device.clone();
            std::thread::spawn(move || {
                let (io, _) = Engine::open(engine).unwrap();
                let all = || ended.load(Ordering::SeqCst) == 2;
                device.keeper(io).unwrap().run(&RealClock, &all).unwrap()
            })
        };
        server.start().unwrap();
        Self { device, server, addr, queues, keeper }
    }

    fn stop(mut self) {
        self.server.stop();
        self.device.stop();
        for queue in self.queues {
            let front = queue.join().unwrap();
            assert_eq!(front.clients(), 0);
            assert_eq!(front.copied_bytes(), 0, "payloads were copied");
        }
        self.keeper.join().unwrap();
    }
}

/// Runs a test on both kinds of ring.
fn on_both(test: impl Fn(&Rig, &Path)) {
    for engine in [EngineChoice::Uring, EngineChoice::Threads] {
        if engine == EngineChoice::Uring
            && let Err(error) = Engine::open(engine)
        {
            println!("skip: io_uring: {error}");
            continue;
        }
        // On a disk, not in memory, for the sake of direct I/O.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let rig = Rig::start(dir.path(), engine);
        test(&rig, dir.path());
        rig.stop();
        assert!(!dir.path().join("sock").exists());
    }
}

#[test]
fn every_command_on_the_engine() {
    on_both(|rig, _| {
        let mut client = Client::connect(&rig.addr, true);
        let data = noise(10 << 20, 4);
        assert_eq!(client.block_status(0, 0, SIZE as u32), [(SIZE as u32, 3)]);
        assert_eq!(client.write_at(0, 1 << 20, &data), 0);
        assert_eq!(client.write_at(1, 512, &[7; 1024]), 0);
        assert_eq!(client.call(Command::Flush, 0, 0, 0), 0);
        assert!(client.read_at(1 << 20, 10 << 20).unwrap() == data);
        let c = CLUSTER as u32;
        let expect = [(c, 0), ((1 << 20) - c, 3), (10 << 20, 0), (13 << 20, 3)];
        assert_eq!(client.block_status(0, 0, SIZE as u32), expect);
        assert_eq!(client.call(Command::Trim, 0, 1 << 20, 2 << 20), 0);
        assert_eq!(client.call(Command::WriteZeroes, 2, 4 << 20, 1 << 20), 0);
        assert!(client.read_at(4 << 20, 1 << 20).unwrap().iter().all(|b| *b == 0));
        assert_eq!(client.read_at(512, 1024).unwrap(), [7; 1024]);
        client.send(Command::Disconnect, 0, 0, 0);
        assert!(client.is_closed());
    });
}

#[test]
fn nbdcopy_on_the_engine() {
    if !have("nbdcopy") {
        return;
    }
    on_both(|rig, dir| {
        let (from, to) = (dir.join("from"), dir.join("to"));
        let mut data = noise(SIZE as usize, 8);
        data[5 << 20..11 << 20].fill(0);
        std::fs::write(&from, &data).unwrap();
        let uri = rig.addr.uri("");
        must("nbdcopy", &["--connections=4", "--flush", text(&from), &uri]);
        must("nbdcopy", &["--connections=4", &uri, text(&to)]);
        assert!(std::fs::read(&to).unwrap() == data);
    });
}

#[test]
fn fio_verify_on_the_engine() {
    if !have("fio") {
        return;
    }
    on_both(|rig, dir| {
        let uri = format!("--uri={}", rig.addr.uri(""));
        let aux = format!("--aux-path={}", text(dir));
        let options = [
            "--name=verify",
            "--ioengine=nbd",
            "--thread",
            "--rw=randwrite",
            "--bsrange=512-128k",
            "--iodepth=32",
            "--size=16m",
            "--verify=crc32c",
            "--verify_fatal=1",
            &uri,
            &aux,
        ];
        must("fio", &options);
    });
}
