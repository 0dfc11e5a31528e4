//! Real files and directories: direct I/O, bounced transfers, what the file system can do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Kind, Lcg, Place, Rig};
use ploop_io::{
    AlignedBuf, AlignedPool, Clock, Dir, Entropy, OpKind, OpenHow, RealClock, RealDir, RealEntropy,
};

const WRITE: OpenHow =
    OpenHow { write: true, create_new: false, create: false, direct: false, mode: 0, owner: None };

/// Bytes that do not repeat within a block.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Lcg(seed);
    (0..len).map(|_| random.next(256) as u8).collect()
}

#[test]
fn direct_io_is_what_the_file_system_says() {
    let dir = common::temp(Place::Disk);
    let file = common::create(&dir.path().join("a"), true);
    let caps = file.caps();
    if !caps.direct {
        common::skip("the file system of the target directory has no direct I/O");
        return;
    }
    assert!(caps.mem_align.is_power_of_two() && caps.mem_align <= 4096);
    assert!(caps.offset_align.is_power_of_two() && (512..=4096).contains(&caps.offset_align));
    assert!(caps.block.is_power_of_two());
    let shm = common::temp(Place::Shm);
    let caps = common::create(&shm.path().join("a"), true).caps();
    assert!(!caps.direct);
    assert_eq!((caps.mem_align, caps.offset_align), (1, 1));
    assert!(caps.punch && !caps.reserve, "tmpfs: {caps:?}");
}

#[test]
fn an_unaligned_direct_operation_is_einval() {
    for kind in [Kind::Uring, Kind::Threads] {
        let Some(mut rig) = Rig::new(kind, Place::Disk) else { continue };
        rig.file = common::create(&rig.dir.path().join("direct"), true);
        if !rig.file.caps().direct {
            common::skip("the file system of the target directory has no direct I/O");
            return;
        }
        // Written, not a hole: over a hole the kernel reads zeros whatever the alignment.
        rig.file.write_at(&[1; 65536], 0).unwrap();
        let mut buf = AlignedBuf::new(8192).unwrap();
        let at = buf.as_mut_ptr();
        for op in [OpKind::Read, OpKind::Write, OpKind::WriteDsync] {
            assert_eq!(rig.run(op, 100, 4096, at), -libc::EINVAL, "{kind:?} {op:?} offset");
            assert_eq!(rig.run(op, 0, 1000, at), -libc::EINVAL, "{kind:?} {op:?} length");
            assert_eq!(rig.run(op, 4096, 4096, at), 4096, "{kind:?} {op:?} aligned");
        }
        // Across the end of a direct file: short, not an error.
        rig.file.set_len(65536 + 512).unwrap();
        assert_eq!(rig.run(OpKind::Read, 65536, 8192, at), 512);
    }
}

/// Every kind of unaligned transfer against a plain vector.
#[test]
fn bounced_transfers_move_exactly_their_bytes() {
    let dir = common::temp(Place::Disk);
    let file = common::create(&dir.path().join("a"), true);
    let mut model = Vec::new();
    let mut random = Lcg(99);
    for round in 0..300 {
        let at = random.next(20_000) as usize;
        let len = random.next(9_000) as usize;
        let data = pattern(len, round);
        file.write_at(&data, at as u64).unwrap();
        if len > 0 {
            model.resize(model.len().max(at + len), 0);
            model[at..at + len].copy_from_slice(&data);
        }
        assert_eq!(file.len().unwrap(), model.len() as u64, "round {round}");
        let (at, len) = (random.next(30_000) as usize, random.next(30_000) as usize);
        let mut back = vec![0xEE; len];
        let got = file.read_at(&mut back, at as u64).unwrap();
        let want = &model[at.min(model.len())..(at + len).min(model.len())];
        assert_eq!(got, want.len(), "round {round}: {len} bytes at {at}");
        assert_eq!(&back[..got], want, "round {round}");
    }
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), model);
}

/// Longer than one bounce step, at both ends unaligned.
#[test]
fn a_long_bounced_transfer_is_whole() {
    let dir = common::temp(Place::Disk);
    let file = common::create(&dir.path().join("a"), true);
    let data = pattern(3 * (1 << 20) + 777, 5);
    file.write_at(&data, 333).unwrap();
    assert_eq!(file.len().unwrap(), 333 + data.len() as u64);
    let mut back = vec![0; data.len() + 5000];
    assert_eq!(file.read_at(&mut back, 333).unwrap(), data.len());
    assert!(back[..data.len()] == data);
    let mut aligned = AlignedBuf::new(4 << 20).unwrap();
    assert_eq!(file.read_at(&mut aligned, 0).unwrap(), 333 + data.len());
    assert!(aligned[333..333 + data.len()] == data);
}

#[test]
fn probing_leaves_the_file_and_its_directory_alone() {
    let dir = common::temp(Place::Disk);
    let path = dir.path().join("a");
    fs::write(&path, [7; 5000]).unwrap();
    let before = RealDir.open(&path, OpenHow::default()).unwrap().allocated().unwrap();
    let file = RealDir.open(&path, OpenHow { direct: true, ..WRITE }).unwrap();
    assert_eq!(file.len().unwrap(), 5000);
    assert_eq!(file.allocated().unwrap(), before);
    assert_eq!(RealDir.list(dir.path()).unwrap(), [PathBuf::from("a")]);
    assert_eq!(fs::read(&path).unwrap(), [7; 5000]);
}

#[test]
fn the_blocking_calls_do_what_they_say() {
    for place in [Place::Disk, Place::Shm] {
        let dir = common::temp(place);
        let file = common::create(&dir.path().join("a"), place == Place::Disk);
        assert!(file.writable());
        assert_eq!(file.path(), dir.path().join("a"));
        file.reserve(0, 1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 0);
        assert!(file.allocated().unwrap() >= 1 << 20);
        file.set_len(1 << 20).unwrap();
        file.write_at(&[1; 8192], 0).unwrap();
        file.punch(0, 4096).unwrap();
        let mut back = [9; 8192];
        assert_eq!(file.read_at(&mut back, 0).unwrap(), 8192);
        assert!(back[..4096].iter().all(|&b| b == 0) && back[4096..].iter().all(|&b| b == 1));
        file.datasync().unwrap();
        file.sync().unwrap();
        assert_eq!(file.ident().unwrap(), RealDir.stat(file.path()).unwrap().ident);
        assert_eq!(file.write_at(&[0], u64::MAX).unwrap_err().kind(), file_too_large());
    }
}

fn file_too_large() -> ErrorKind {
    std::io::Error::from_raw_os_error(libc::EFBIG).kind()
}

#[test]
fn a_read_only_file_refuses_writes() {
    let dir = common::temp(Place::Disk);
    let path = dir.path().join("a");
    fs::write(&path, [7; 4096]).unwrap();
    let file = RealDir.open(&path, OpenHow { direct: true, ..OpenHow::default() }).unwrap();
    assert!(!file.writable());
    assert!(file.write_at(&[0; 512], 0).is_err());
    let mut back = [0; 10];
    assert_eq!(file.read_at(&mut back, 4090).unwrap(), 6);
    assert!(file.caps().punch, "known by the file system even when it cannot be tried");
}

#[test]
fn descriptors_are_close_on_exec() {
    let dir = common::temp(Place::Shm);
    let file = common::create(&dir.path().join("a"), false);
    // SAFETY: the descriptor is open while `file` lives.
    let flags = unsafe { libc::fcntl(file.id().fd(), libc::F_GETFD) };
    assert_eq!(flags, libc::FD_CLOEXEC);
}

#[test]
fn names() {
    let dir = common::temp(Place::Disk);
    let at = |name: &str| dir.path().join(name);
    drop(common::create(&at("b"), true));
    let again = RealDir.open(&at("b"), OpenHow { create_new: true, ..WRITE });
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    drop(RealDir.open(&at("b"), OpenHow { create: true, ..WRITE }).unwrap());
    assert_eq!(RealDir.open(&at("x"), WRITE).unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(at("a"), b"hello").unwrap();
    assert_eq!(RealDir.list(dir.path()).unwrap(), [Path::new("a"), Path::new("b")]);
    RealDir.rename(&at("a"), &at("b")).unwrap();
    RealDir.sync_dir(dir.path()).unwrap();
    assert_eq!(RealDir.read_small(&at("b"), 5).unwrap(), b"hello");
    let error = RealDir.read_small(&at("b"), 4).unwrap_err();
    assert!(error.to_string().contains("longer than 4 bytes"), "{error}");
    std::os::unix::fs::symlink("b", at("link")).unwrap();
    let real = RealDir.canonical(&at("link")).unwrap();
    assert_eq!(real, RealDir.canonical(&at("b")).unwrap());
    let stat = RealDir.stat(&at("link")).unwrap();
    assert!(stat.is_file && !stat.is_dir && stat.len == 5);
    assert!(RealDir.stat(dir.path()).unwrap().is_dir);
    RealDir.unlink(&at("link")).unwrap();
    assert_eq!(RealDir.stat(&at("link")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn time_passes_and_random_differs() {
    let (a, b) = (RealClock.now(), RealClock.now());
    assert!(b >= a);
    assert!(RealClock.wall() > 1_600_000_000);
    let (mut x, mut y) = ([0; 32], [0; 32]);
    RealEntropy.fill(&mut x);
    RealEntropy.fill(&mut y);
    assert_ne!(x, y);
}

#[test]
fn a_pool_is_bounded() {
    let mut pool = AlignedPool::new(2, 8192).unwrap();
    let (mut a, b) = (pool.take().unwrap(), pool.take().unwrap());
    assert!(pool.take().is_none());
    assert!(a.as_ptr().addr().is_multiple_of(4096) && a.iter().all(|&x| x == 0));
    a[8191] = 1;
    pool.give(a);
    pool.give(AlignedBuf::new(8192).unwrap());
    pool.give(b);
    assert_eq!((pool.available(), pool.total(), pool.size()), (2, 2, 8192));
    assert!(AlignedBuf::new(0).unwrap().is_empty());
}

/// A raw base may be a block device: its length is not in the inode, and the file system its name
/// is on says nothing about it.
#[test]
fn a_block_device_has_a_length_and_direct_io() {
    let dir = common::temp(Place::Disk);
    let image = dir.path().join("image");
    fs::write(&image, pattern(1 << 20, 3)).unwrap();
    let Some(device) = Loop::attach(&image) else { return };
    let how = OpenHow { direct: true, ..OpenHow::default() };
    let file = RealDir.open(&device.0, how).unwrap();
    assert_eq!(file.len().unwrap(), 1 << 20);
    let caps = file.caps();
    assert!(caps.direct && caps.offset_align >= 512 && !caps.reserve, "{caps:?}");
    let mut back = vec![0; 5000];
    assert_eq!(file.read_at(&mut back, 1000).unwrap(), 5000);
    assert_eq!(back, pattern(1 << 20, 3)[1000..6000]);
    assert_eq!(file.read_at(&mut back, (1 << 20) - 100).unwrap(), 100);
}

/// A loop device made by `losetup`, read-only, taken away at the end.
struct Loop(PathBuf);

impl Loop {
    fn attach(image: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["-r", "-f", "--show"]).arg(image).output();
        match made {
            Ok(out) if out.status.success() => {
                Some(Self(PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())))
            }
            Ok(out) => {
                common::skip(&format!("losetup: {}", String::from_utf8_lossy(&out.stderr).trim()));
                None
            }
            Err(error) => {
                common::skip(&format!("losetup: {error}"));
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}
