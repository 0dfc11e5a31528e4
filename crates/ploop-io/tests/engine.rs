//! Choosing an engine, and the guards against memory reclaim.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::thread;

use ploop_io::{
    AlignedPool, Engine, EngineChoice, FileId, Io, Op, OpKind, protect_thread, touch_thread,
};

/// The engine syncs a file.
fn works(mut engine: Engine) {
    let file = tempfile::tempfile().unwrap();
    let file = FileId(std::os::fd::AsRawFd::as_raw_fd(&file));
    let buf = std::ptr::null_mut();
    let op = Op { token: 1, kind: OpKind::Sync, file, offset: 0, len: 0, buf, lent: None };
    // SAFETY: no memory; the file is open until the end of this function.
    unsafe { engine.push(op) };
    let mut got = Vec::new();
    while got.is_empty() {
        engine.wait(Some(common::PATIENCE), &|| true).unwrap();
        engine.reap(&mut got);
    }
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].token, 1);
}

#[test]
fn the_choice_is_followed() {
    for (choice, name) in [(EngineChoice::Threads, "threads"), (EngineChoice::Null, "null")] {
        let (engine, why) = Engine::open(choice).unwrap();
        assert_eq!((engine.name(), why), (name, None));
        works(engine);
    }
    let (engine, why) = Engine::open(EngineChoice::Auto).unwrap();
    assert_eq!(engine.name() == "uring", why.is_none());
    works(engine);
}

/// Under a filter that refuses rings, as containers have: threads, and the reason.
#[test]
fn without_rings_threads_take_over_and_say_why() {
    for (errno, word) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "ENOSYS")] {
        thread::spawn(move || {
            if !refuse_rings(errno) {
                common::skip("no seccomp filters here");
                return;
            }
            let (engine, why) = Engine::open(EngineChoice::Auto).unwrap();
            assert_eq!(engine.name(), "threads");
            let why = why.unwrap();
            assert!(why.contains(word) || why.contains("io_uring_disabled"), "{why}");
            works(engine);
            let error = Engine::open(EngineChoice::Uring).unwrap_err();
            assert_eq!(error.to_string(), why);
        })
        .join()
        .unwrap();
    }
}

/// Makes `io_uring_setup` fail on this thread.
fn refuse_rings(errno: i32) -> bool {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut program = [
        step(LOAD, 0, 0),
        step(JUMP_IF_EQUAL, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program lives through the call and concerns this thread only.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1usize, 0usize, 0usize, 0usize) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER as usize,
                &raw const filter,
                0usize,
                0usize,
            ) == 0
    }
}

#[test]
fn a_protected_thread_is_an_io_flusher() {
    const PR_GET_IO_FLUSHER: libc::c_int = 58;
    // SAFETY: no memory.
    let get = || unsafe { libc::prctl(PR_GET_IO_FLUSHER, 0usize, 0usize, 0usize, 0usize) };
    match protect_thread() {
        Ok(()) => {
            assert_eq!(get(), 1);
            assert_eq!(thread::spawn(get).join().unwrap(), 1, "its threads inherit it");
        }
        Err(why) => {
            assert!(why.contains("CAP_SYS_RESOURCE"), "{why}");
            common::skip(&why);
        }
    }
}

#[test]
fn locked_memory_is_locked() {
    let mut pool = AlignedPool::new(2, 65536).unwrap();
    if let Err(error) = pool.lock() {
        common::skip(&error.to_string());
        return;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmLck")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib >= 128, "{line}");
    drop(pool);
}

#[test]
fn a_touched_thread_faults_no_more() {
    let faults = || {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(7).unwrap().parse::<u64>().unwrap()
    };
    let thread = move || {
        touch_thread(256 << 10);
        faults();
        let before = faults();
        let blocks: Vec<_> = (0..100_u8).map(|n| vec![n; 1000]).collect();
        assert_eq!(blocks[99][999], 99);
        faults() - before
    };
    let after = thread::spawn(thread).join().unwrap();
    assert!(after < 10, "{after} faults for 25 pages");
}
