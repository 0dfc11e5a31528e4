//! Locks between two descriptions of one file, and between two processes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use common::Place;
use ploop_io::{Dir, File, LockRange, OpenHow, RealDir};

/// The ranges a delta is locked by.
const HEAD: LockRange = LockRange { start: 200, len: 5 };
const TAIL: LockRange = LockRange { start: 300, len: 5 };

const CHILD_FILE: &str = "PLOOP_IO_TEST_LOCKED_FILE";
const CHILD_WANT: &str = "PLOOP_IO_TEST_LOCK_WANTED";

fn open(path: &Path) -> File {
    let how = OpenHow { write: true, create: true, ..OpenHow::default() };
    RealDir.open(path, how).unwrap()
}

#[test]
fn two_descriptions_exclude_each_other() {
    for place in [Place::Disk, Place::Shm] {
        let dir = common::temp(place);
        let path = dir.path().join("delta");
        let (a, b) = (open(&path), open(&path));
        assert!(!b.is_locked(HEAD).unwrap());
        assert!(a.try_lock(HEAD, true).unwrap());
        assert!(a.try_lock(HEAD, true).unwrap(), "taking it again is no conflict");
        assert!(!a.is_locked(HEAD).unwrap(), "its own lock is not in its way");
        assert!(b.is_locked(HEAD).unwrap());
        assert!(!b.try_lock(HEAD, true).unwrap());
        assert!(!b.try_lock(HEAD, false).unwrap());
        assert!(b.try_lock(TAIL, true).unwrap(), "another range is free");
        a.unlock(HEAD).unwrap();
        assert!(b.try_lock(HEAD, true).unwrap());
    }
}

#[test]
fn shared_locks_share_and_refuse_an_exclusive_one() {
    let dir = common::temp(Place::Disk);
    let path = dir.path().join("delta");
    let (a, b, c) = (open(&path), open(&path), open(&path));
    assert!(a.try_lock(HEAD, false).unwrap());
    assert!(b.try_lock(HEAD, false).unwrap());
    assert!(c.is_locked(HEAD).unwrap());
    assert!(!c.try_lock(HEAD, true).unwrap());
    assert!(!a.try_lock(HEAD, true).unwrap(), "no upgrade while another shares it");
    b.unlock(HEAD).unwrap();
    assert!(a.try_lock(HEAD, true).unwrap());
    assert!(a.try_lock(HEAD, false).unwrap(), "and down again");
    assert!(b.try_lock(HEAD, false).unwrap());
}

#[test]
fn the_lock_goes_with_the_last_reference() {
    let dir = common::temp(Place::Disk);
    let path = dir.path().join("delta");
    let (a, b) = (open(&path), open(&path));
    let again = File::clone(&a);
    assert!(a.try_lock(HEAD, true).unwrap());
    assert!(a.try_flock().unwrap());
    assert!(!b.try_flock().unwrap());
    drop(a);
    // Unlike a classic record lock it survives the close of another descriptor of the file (F7).
    drop(open(&path));
    assert!(b.is_locked(HEAD).unwrap());
    drop(again);
    // A process that another test starts holds a copy of every description between fork and
    // exec: the lock may outlive the close by that much.
    let start = Instant::now();
    while b.is_locked(HEAD).unwrap() {
        assert!(start.elapsed() < common::PATIENCE);
        thread::yield_now();
    }
    while !b.try_flock().unwrap() {
        assert!(start.elapsed() < common::PATIENCE);
        thread::yield_now();
    }
}

#[test]
fn another_process_is_excluded() {
    let dir = common::temp(Place::Disk);
    let path = dir.path().join("delta");
    let file = open(&path);
    assert!(child(&path, "exclusive flock"));
    assert!(file.try_lock(HEAD, true).unwrap());
    assert!(child(&path, "locked"));
    assert!(!child(&path, "exclusive"));
    assert!(!child(&path, "shared"));
    assert!(file.try_lock(HEAD, false).unwrap());
    assert!(child(&path, "shared locked"));
    assert!(!child(&path, "exclusive"));
    assert!(file.try_flock().unwrap());
    assert!(!child(&path, "flock"));
    file.unlock(HEAD).unwrap();
    assert!(child(&path, "exclusive"));
    assert!(!file.is_locked(HEAD).unwrap(), "the other process ended, and its lock with it");
}

/// Whether another process gets everything `want` names.
fn child(path: &Path, want: &str) -> bool {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_the_other_process", "--nocapture"])
        .env(CHILD_FILE, path)
        .env(CHILD_WANT, want)
        .output()
        .unwrap()
        .status
        .success()
}

/// The other side of `another_process_is_excluded`: does nothing unless started by it.
#[test]
fn as_the_other_process() {
    let (Some(path), Ok(want)) = (std::env::var_os(CHILD_FILE), std::env::var(CHILD_WANT)) else {
        return;
    };
    let file = open(Path::new(&path));
    for word in want.split(' ') {
        let got = match word {
            "exclusive" => file.try_lock(HEAD, true),
            "shared" => file.try_lock(HEAD, false),
            "locked" => file.is_locked(HEAD),
            "flock" => file.try_flock(),
            _ => panic!("{word}"),
        };
        assert!(got.unwrap(), "{word}");
    }
}
