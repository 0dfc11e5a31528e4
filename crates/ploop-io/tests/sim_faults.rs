//! The simulated disk keeps the fault model: one test for each rule.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use ploop_io::sim::{
    Attempt, Rates, SimIo, SimOptions, SimWorld, SurvivorPlan, UnsyncedKind, Verdict,
};
use ploop_io::{Completion, Dir, File, Io, LockRange, Op, OpKind, OpenHow};
use std::path::Path;
use std::sync::Arc;

const PATH: &str = "/disk/root.hds";

fn world(seed: u64) -> SimWorld {
    let world = SimWorld::new(seed, SimOptions::default());
    world.mkdir(Path::new("/disk"));
    world
}

/// A file of `len` bytes of 1, durable.
fn with_file(seed: u64, len: usize) -> (SimWorld, File) {
    let world = world(seed);
    world.put_file(Path::new(PATH), &vec![1; len]);
    let file = open(&world, PATH);
    (world, file)
}

fn open(world: &SimWorld, path: &str) -> File {
    world.dir().open(Path::new(path), OpenHow { write: true, ..OpenHow::default() }).unwrap()
}

fn create(world: &SimWorld, path: &str) -> File {
    let how = OpenHow { write: true, create_new: true, ..OpenHow::default() };
    world.dir().open(Path::new(path), how).unwrap()
}

fn after(world: &SimWorld, plan: &SurvivorPlan) -> Vec<u8> {
    world.crash(plan).world.read_file(Path::new(PATH)).unwrap()
}

fn op(file: &File, kind: OpKind, offset: u64, data: &mut [u8], token: u64) -> Op {
    Op {
        token,
        kind,
        file: file.id(),
        offset,
        len: data.len() as u64,
        buf: data.as_mut_ptr(),
        lent: None,
    }
}

/// Pushes and submits. The tests keep their buffers until the end.
fn start(io: &mut SimIo, op: Op) {
    // SAFETY: the test's buffer and file live until the operation was reaped, or the world is gone.
    unsafe { io.push(op) };
    io.submit().unwrap();
}

fn reap(io: &mut SimIo) -> Vec<Completion> {
    let mut out = Vec::new();
    io.reap(&mut out);
    out
}

fn sync(file: &File, kind: OpKind, token: u64) -> Op {
    Op { token, kind, file: file.id(), offset: 0, len: 0, buf: std::ptr::null_mut(), lent: None }
}

#[test]
fn a_crash_keeps_any_subset_of_unsynced_writes() {
    let (world, file) = with_file(1, 4096);
    for index in 0..4 {
        file.write_at(&[2 + index; 512], 512 * u64::from(index)).unwrap();
    }
    assert_eq!(world.unsynced().len(), 4);
    for mask in 0..16u128 {
        let bytes = after(&world, &SurvivorPlan::Mask(mask));
        for index in 0..4 {
            let want = if mask >> index & 1 == 1 { 2 + index as u8 } else { 1 };
            assert_eq!(bytes[512 * index], want, "mask {mask:b}");
        }
    }
    let first = world.crash(&SurvivorPlan::Mask(5)).survivors;
    assert_eq!(first, world.crash(&SurvivorPlan::Mask(5)).survivors);
    assert_ne!(first, world.crash(&SurvivorPlan::Mask(6)).survivors);
}

#[test]
fn the_named_plans_do_what_they_say() {
    let (world, file) = with_file(1, 8192);
    for index in 0..3 {
        file.write_at(&[2 + index; 512], 512 * u64::from(index)).unwrap();
    }
    let heads = |plan| after(&world, &plan).chunks(512).take(3).map(|c| c[0]).collect::<Vec<_>>();
    assert_eq!(heads(SurvivorPlan::None), [1, 1, 1]);
    assert_eq!(heads(SurvivorPlan::All), [2, 3, 4]);
    assert_eq!(heads(SurvivorPlan::OldestLost), [1, 3, 4]);
    assert_eq!(heads(SurvivorPlan::NewestLost), [2, 3, 1]);
    let only = SurvivorPlan::Only(Arc::new(|change| change.offset == 512));
    assert_eq!(heads(only), [1, 3, 1]);
    file.write_at(&[9; 1536], 4096).unwrap();
    let bytes = after(&world, &SurvivorPlan::TornMiddle);
    assert_eq!((bytes[4096], bytes[4608], bytes[5120]), (9, 1, 9));
}

#[test]
fn a_write_is_torn_at_sectors_and_only_there() {
    let (world, file) = with_file(1, 8192);
    file.write_at(&[2; 4096], 2048).unwrap();
    let mut torn = 0;
    for seed in 0..200 {
        let bytes = after(&world, &SurvivorPlan::Random(seed));
        for (index, sector) in bytes.chunks(512).enumerate() {
            assert!(sector.iter().all(|b| *b == sector[0]), "seed {seed} sector {index}");
            assert!(sector[0] == 1 || (4..12).contains(&index));
        }
        let new = bytes.iter().filter(|b| **b == 2).count();
        torn += usize::from(new != 0 && new != 4096);
    }
    assert!(torn > 10, "{torn} torn writes");
}

#[test]
fn a_completed_sync_keeps_what_was_complete_before_it_started() {
    let (world, file) = with_file(1, 4096);
    file.write_at(&[2; 512], 0).unwrap();
    file.datasync().unwrap();
    file.write_at(&[3; 512], 512).unwrap();
    let bytes = after(&world, &SurvivorPlan::None);
    assert_eq!((bytes[0], bytes[512]), (2, 1));
}

#[test]
fn a_ring_sync_does_not_cover_what_completed_after_its_start() {
    let (world, file) = with_file(1, 4096);
    world.set_hook(Some(Box::new(|attempt: &Attempt| match attempt.kind {
        OpKind::Datasync => Verdict::Delay(1000),
        _ => Verdict::Delay(10),
    })));
    let mut io = world.io(1);
    let (mut early, mut late) = ([2; 512], [3; 512]);
    start(&mut io, op(&file, OpKind::Write, 0, &mut early, 1));
    world.advance_to(100);
    assert_eq!(reap(&mut io), [Completion { token: 1, result: 512 }]);
    start(&mut io, sync(&file, OpKind::Datasync, 2));
    start(&mut io, op(&file, OpKind::Write, 512, &mut late, 3));
    world.settle();
    assert_eq!(reap(&mut io).iter().map(|c| c.token).collect::<Vec<_>>(), [3, 2]);
    let bytes = after(&world, &SurvivorPlan::None);
    assert_eq!((bytes[0], bytes[512]), (2, 1), "the late write is not covered");
}

#[test]
fn a_sync_not_reported_yet_covers_nothing_for_certain() {
    let (world, file) = with_file(1, 4096);
    file.write_at(&[2; 512], 0).unwrap();
    world.set_hook(Some(Box::new(|_: &Attempt| Verdict::Hold)));
    let mut io = world.io(1);
    start(&mut io, sync(&file, OpKind::Sync, 1));
    assert_eq!(after(&world, &SurvivorPlan::None)[0], 1);
    assert_eq!(world.release_held(false), 1);
    world.settle();
    assert_eq!(after(&world, &SurvivorPlan::None)[0], 2);
}

#[test]
fn dsync_covers_its_own_write_only() {
    let (world, file) = with_file(1, 4096);
    file.write_at(&[2; 512], 0).unwrap();
    let mut io = world.io(1);
    let mut data = [3; 1024];
    start(&mut io, op(&file, OpKind::WriteDsync, 512, &mut data, 1));
    world.settle();
    assert_eq!(reap(&mut io), [Completion { token: 1, result: 1024 }]);
    let bytes = after(&world, &SurvivorPlan::None);
    assert_eq!((bytes[0], bytes[512], bytes[1535], bytes[1536]), (1, 3, 3, 1));
    // An older write that was not covered may not come back over it.
    file.write_at(&[4; 512], 512).unwrap();
    start(&mut io, op(&file, OpKind::WriteDsync, 512, &mut data, 2));
    world.settle();
    for seed in 0..50 {
        assert_eq!(after(&world, &SurvivorPlan::Random(seed))[512], 3);
    }
}

#[test]
fn a_write_in_flight_may_survive_a_crash() {
    let (world, file) = with_file(1, 4096);
    let mut io = world.io(1);
    let mut data = [2; 512];
    start(&mut io, op(&file, OpKind::Write, 0, &mut data, 1));
    assert!(world.unsynced()[0].in_flight);
    assert_eq!(after(&world, &SurvivorPlan::All)[0], 2);
    assert_eq!(after(&world, &SurvivorPlan::None)[0], 1);
    assert_eq!(world.read_file(Path::new(PATH)).unwrap()[0], 1, "not visible before it landed");
    world.settle();
}

#[test]
fn writes_in_flight_to_one_place_land_in_either_order() {
    let mut ends = std::collections::BTreeSet::new();
    let mut crashed = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let (world, file) = with_file(seed, 512);
        let mut io = world.io(seed);
        let (mut one, mut two) = ([2; 512], [3; 512]);
        start(&mut io, op(&file, OpKind::Write, 0, &mut one, 1));
        start(&mut io, op(&file, OpKind::Write, 0, &mut two, 2));
        for plan in 0..20 {
            crashed.insert(after(&world, &SurvivorPlan::Random(plan))[0]);
        }
        world.settle();
        ends.insert(world.read_file(Path::new(PATH)).unwrap()[0]);
    }
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), [2, 3]);
    assert_eq!(crashed.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn length_and_data_are_independent() {
    let (world, file) = with_file(1, 512);
    file.write_at(&[2; 1024], 512).unwrap();
    let kinds: Vec<_> = world.unsynced().iter().map(|u| u.kind).collect();
    assert_eq!(kinds, [UnsyncedKind::Data, UnsyncedKind::Length]);
    assert_eq!(after(&world, &SurvivorPlan::Mask(0b01)), vec![1; 512], "data without length");
    let mut zeros = vec![1; 512];
    zeros.extend([0; 1024]);
    assert_eq!(after(&world, &SurvivorPlan::Mask(0b10)), zeros, "length without data");
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..100 {
        lengths.insert(after(&world, &SurvivorPlan::Random(seed)).len());
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [512, 1024, 1536], "any length between");
}

#[test]
fn truncate_and_punch_may_be_lost() {
    let (world, file) = with_file(1, 8192);
    file.set_len(4096).unwrap();
    file.punch(0, 4096).unwrap();
    assert_eq!(after(&world, &SurvivorPlan::None), vec![1; 8192]);
    assert_eq!(after(&world, &SurvivorPlan::All), vec![0; 4096]);
    assert_eq!(after(&world, &SurvivorPlan::Mask(0b01)), vec![1; 4096]);
    file.sync().unwrap();
    assert_eq!(after(&world, &SurvivorPlan::None), vec![0; 4096]);
}

#[test]
fn names_are_kept_or_lost_alone_until_the_directory_is_synced() {
    let world = world(1);
    let file = create(&world, PATH);
    file.write_at(&[2; 512], 0).unwrap();
    file.sync().unwrap();
    assert!(world.crash(&SurvivorPlan::None).world.read_file(Path::new(PATH)).is_err());
    world.dir().sync_dir(Path::new("/disk")).unwrap();
    assert_eq!(after(&world, &SurvivorPlan::None), [2; 512]);

    let tmp = create(&world, "/disk/tmp");
    tmp.write_at(&[3; 512], 0).unwrap();
    tmp.sync().unwrap();
    let dir = world.dir();
    dir.rename(Path::new("/disk/tmp"), Path::new(PATH)).unwrap();
    dir.unlink(Path::new(PATH)).unwrap();
    assert_eq!(world.unsynced().len(), 3);
    assert_eq!(after(&world, &SurvivorPlan::None), [2; 512], "the old file");
    assert_eq!(after(&world, &SurvivorPlan::NewestLost), [3; 512], "rename without unlink");
    let all = world.crash(&SurvivorPlan::All).world;
    assert!(all.dir().list(Path::new("/disk")).unwrap().is_empty());
}

#[test]
fn a_new_file_without_its_data_synced_may_be_empty() {
    let world = world(1);
    let file = create(&world, PATH);
    file.write_at(&[2; 512], 0).unwrap();
    world.dir().sync_dir(Path::new("/disk")).unwrap();
    assert_eq!(after(&world, &SurvivorPlan::None), []);
}

#[test]
fn a_failed_sync_guarantees_nothing_and_no_later_sync_heals_it() {
    let (world, file) = with_file(1, 4096);
    file.write_at(&[2; 512], 0).unwrap();
    world.set_hook(Some(Box::new(|attempt: &Attempt| match attempt.kind {
        OpKind::Sync => Verdict::Fail(libc::EIO),
        _ => Verdict::Normal,
    })));
    let error = file.sync().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    world.set_hook(None);
    file.write_at(&[3; 512], 512).unwrap();
    file.sync().unwrap();
    let bytes = after(&world, &SurvivorPlan::None);
    assert_eq!(
        (bytes[0], bytes[512]),
        (1, 3),
        "the doubtful write stays doubtful, new ones do not"
    );
    assert_eq!(after(&world, &SurvivorPlan::All)[0], 2);
}

#[test]
fn a_failed_ring_sync_and_a_failed_dsync_leave_doubt() {
    for kind in [OpKind::Datasync, OpKind::WriteDsync] {
        let (world, file) = with_file(1, 4096);
        file.write_at(&[2; 512], 0).unwrap();
        world.set_hook(Some(Box::new(move |attempt: &Attempt| {
            if attempt.kind == kind { Verdict::Fail(libc::EIO) } else { Verdict::Normal }
        })));
        let mut io = world.io(1);
        let mut data = [3; 512];
        let failing = match kind {
            OpKind::WriteDsync => op(&file, kind, 512, &mut data, 1),
            _ => sync(&file, kind, 1),
        };
        start(&mut io, failing);
        world.settle();
        assert_eq!(reap(&mut io), [Completion { token: 1, result: -libc::EIO }]);
        world.set_hook(None);
        file.sync().unwrap();
        assert_eq!(after(&world, &SurvivorPlan::None)[0], 1, "{kind:?}");
    }
}

#[test]
fn errors_come_at_their_rates_and_a_failed_write_may_be_done_in_part() {
    let (world, file) = with_file(3, 4096);
    world.set_rates(Rates { write_error: 32768, read_error: 32768, ..Rates::default() });
    let mut io = world.io(1);
    let mut data = [2; 4096];
    let (mut failed, mut partial) = (0, 0);
    for round in 0..200 {
        data.fill(round as u8);
        start(&mut io, op(&file, OpKind::Write, 0, &mut data, round));
        world.settle();
        let result = reap(&mut io)[0].result;
        assert!(result == 4096 || result == -libc::EIO);
        let now = world.read_file(Path::new(PATH)).unwrap();
        let new = now.iter().filter(|b| **b == round as u8).count();
        assert!(result < 0 || new == 4096);
        failed += usize::from(result < 0);
        partial += usize::from(result < 0 && new > 0 && new < 4096);
    }
    assert!((50..150).contains(&failed), "{failed}");
    assert!(partial > 10, "{partial}");
}

#[test]
fn reads_and_writes_may_be_short_in_whole_sectors() {
    let (world, file) = with_file(3, 4096);
    world.set_rates(Rates { short: 65536, ..Rates::default() });
    let mut io = world.io(1);
    let mut data = [2; 2048];
    start(&mut io, op(&file, OpKind::Write, 0, &mut data, 1));
    world.settle();
    let result = reap(&mut io)[0].result;
    assert!((512..2048).contains(&result) && result % 512 == 0);
    let bytes = world.read_file(Path::new(PATH)).unwrap();
    assert_eq!(bytes.iter().filter(|b| **b == 2).count(), result as usize);
    start(&mut io, op(&file, OpKind::Read, 0, &mut data, 2));
    assert_eq!(data, [0xA5; 2048], "poisoned until it completes");
    world.settle();
    let result = reap(&mut io)[0].result as usize;
    assert!(data[result..].iter().all(|b| *b == 0xA5));
}

#[test]
fn reads_stop_at_the_end_of_the_file() {
    let (world, file) = with_file(3, 1000);
    let mut io = world.io(1);
    let mut data = [2; 512];
    start(&mut io, op(&file, OpKind::Read, 512, &mut data, 1));
    world.settle();
    assert_eq!(reap(&mut io)[0].result, 488);
    start(&mut io, op(&file, OpKind::Read, 1024, &mut data, 2));
    world.settle();
    assert_eq!(reap(&mut io)[0].result, 0);
}

#[test]
fn a_full_host_says_enospc_and_a_reservation_stops_in_the_middle() {
    let (world, file) = with_file(3, 0);
    world.set_capacity(Some(8 * 4096));
    let error = file.reserve(0, 16 * 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(file.allocated().unwrap(), 8 * 4096);
    assert_eq!(file.len().unwrap(), 0);
    file.write_at(&[1; 4096], 0).unwrap();
    let error = file.write_at(&[1; 4096], 8 * 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    file.punch(4096, 4096).unwrap();
    file.write_at(&[1; 4096], 8 * 4096).unwrap();
}

#[test]
fn a_killed_process_keeps_its_bytes_and_its_operations_land_later() {
    let (world, file) = with_file(3, 4096);
    file.write_at(&[2; 512], 0).unwrap();
    let lock = LockRange { start: 200, len: 4 };
    assert!(file.try_lock(lock, true).unwrap());
    let mut io = world.io(1);
    let mut data = [3; 512];
    start(&mut io, op(&file, OpKind::Write, 512, &mut data, 1));
    world.kill();
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(ploop_io::sim::DEAD));
    assert!(io.submit().is_err());
    let next = open(&world, PATH);
    assert!(!next.try_lock(lock, true).unwrap(), "the old life still writes on that description");
    next.write_at(&[4; 512], 512).unwrap();
    assert_eq!(world.old_life(), 1);
    assert_eq!(world.deliver_old_life(9), 1);
    let bytes = world.read_file(Path::new(PATH)).unwrap();
    assert_eq!((bytes[0], bytes[512]), (2, 3), "the old write landed on the new one");
    assert!(next.try_lock(lock, true).unwrap());
}

#[test]
fn an_old_life_may_never_land_and_a_dropped_one_frees_the_lock() {
    let (world, file) = with_file(3, 4096);
    let lock = LockRange { start: 200, len: 4 };
    assert!(file.try_lock(lock, true).unwrap());
    let mut io = world.io(1);
    let mut data = [3; 512];
    start(&mut io, op(&file, OpKind::Write, 0, &mut data, 1));
    world.kill();
    drop(io);
    world.drop_old_life();
    assert_eq!(world.read_file(Path::new(PATH)).unwrap()[0], 1);
    assert!(open(&world, PATH).try_lock(lock, true).unwrap());
    assert!(world.violations().is_empty());
}

#[test]
fn locks_belong_to_descriptions_and_go_with_them() {
    let (world, first) = with_file(3, 4096);
    let second = open(&world, PATH);
    let low = LockRange { start: 200, len: 4 };
    let one = LockRange { start: 202, len: 1 };
    assert!(first.try_lock(low, false).unwrap());
    assert!(second.try_lock(low, false).unwrap());
    assert!(!second.try_lock(low, true).unwrap(), "an upgrade waits for the other reader");
    assert!(first.is_locked(low).unwrap());
    second.unlock(one).unwrap();
    assert!(first.try_lock(one, true).unwrap());
    assert!(!second.try_lock(one, false).unwrap());
    drop(first);
    assert!(second.try_lock(low, true).unwrap());
    let third = open(&world, PATH);
    assert!(second.try_flock().unwrap() && !third.try_flock().unwrap());
    drop(second);
    assert!(third.try_flock().unwrap());
    let world = world.crash(&SurvivorPlan::None).world;
    assert!(open(&world, PATH).try_lock(low, true).unwrap());
}

#[test]
fn everything_after_the_last_operation_fails() {
    let (world, file) = with_file(3, 4096);
    let mut io = world.io(1);
    let mut data = [3; 512];
    world.crash_after(Some(world.operations() + 2));
    file.write_at(&[2; 512], 0).unwrap();
    start(&mut io, op(&file, OpKind::Write, 512, &mut data, 1));
    world.settle();
    assert!(world.is_dead());
    assert_eq!(reap(&mut io), [], "it took effect and was never reported");
    assert!(io.submit().is_err());
    assert_eq!(file.len().unwrap_err().raw_os_error(), Some(ploop_io::sim::DEAD));
    assert!(world.dir().stat(Path::new(PATH)).is_err());
    let bytes = after(&world, &SurvivorPlan::All);
    assert_eq!((bytes[0], bytes[512]), (2, 3));
    drop(file);
    assert!(world.violations().is_empty());
}

#[test]
fn misuse_is_recorded() {
    let (world, file) = with_file(3, 4096);
    let mut io = world.io(1);
    let mut data = [3; 512];
    start(&mut io, op(&file, OpKind::Write, 0, &mut data, 1));
    let gone = op(&file, OpKind::Write, 0, &mut data, 2);
    drop(file);
    start(&mut io, gone);
    world.settle();
    assert_eq!(reap(&mut io).len(), 2);
    let said = world.violations();
    assert!(said[0].contains("closed with operations in flight"), "{said:?}");
    assert!(said[1].contains("refused with errno 9"), "{said:?}");
}

#[test]
fn direct_files_refuse_what_is_not_aligned() {
    let (world, _) = with_file(3, 4096);
    let how = OpenHow { direct: true, ..OpenHow::default() };
    let file = world.dir().open(Path::new(PATH), how).unwrap();
    assert!(file.caps().direct);
    let mut io = world.io(1);
    let mut data = vec![0; 2048];
    let start_at = data.as_ptr().align_offset(512);
    for (token, (skip, len)) in [(0, 512), (8, 512), (0, 100)].into_iter().enumerate() {
        let buf = &mut data[start_at + skip..start_at + skip + len];
        start(&mut io, op(&file, OpKind::Read, 0, buf, token as u64));
    }
    world.settle();
    let mut all = reap(&mut io);
    all.sort_by_key(|c| c.token);
    let results: Vec<_> = all.iter().map(|c| c.result).collect();
    assert_eq!(results, [512, -libc::EINVAL, -libc::EINVAL]);
}
