//! A pause waits for what was begun, not for what waits to be begun: clusters whose copy has not
//! started go back to their queue, and are copied when the next device serves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_engine::limits::COPY_BUFFERS;
use ploop_image::{OpenOptions, Spares, snapshot};
use ploop_io::OpKind;
use ploop_io::sim::Verdict;
use ploop_sim::profile::Profile;
use ploop_sim::scenario::{CLUSTER, Scenario, is_page};
use std::path::Path;

const WRITES: u64 = 14;

/// F20: what changed since the flush before a pause finds no space for its page of the block table,
/// as on a file system that never writes in place: there is no pause, and the device goes on.
#[test]
fn a_pause_without_space_for_the_block_table_is_called_off() {
    for seed in 0..8 {
        let profile = Profile { clusters: 20, metadata_delay_ms: 3_600_000, ..Profile::plain() };
        let mut s = Scenario::with(seed, profile);
        s.open();
        let first = s.write(0, 0, 4 * CLUSTER, false);
        s.wait(first).unwrap();
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        let late = s.write(1, 5 * CLUSTER, 8, false);
        s.wait(late).unwrap();
        s.hook(|attempt| match is_page(attempt) {
            true => Verdict::Fail(libc::ENOSPC),
            false => Verdict::Normal,
        });
        s.life.as_mut().unwrap().pause();
        assert!(s.until(|s| s.life.as_ref().unwrap().paused()));
        s.life.as_mut().unwrap().begin_close();
        let over = |s: &mut Scenario| {
            let life = s.life.as_ref().unwrap();
            life.closed() || life.cannot_close()
        };
        assert!(s.until(over));
        let life = s.life.as_mut().unwrap();
        assert!(!life.device().is_failed() && life.cannot_close(), "the device goes on");
        life.go_on();
        // It serves; what wants the page is held.
        let mapped = s.write(0, CLUSTER, 8, false);
        s.wait(mapped).unwrap();
        let read = s.read(1, 0, 8 * CLUSTER);
        s.wait(read).unwrap();
        let held = s.flush(0);
        let later = s.world.now() + 2_000_000_000;
        s.until(|s| s.world.now() > later);
        assert_eq!(s.outcome(held), None);
        s.crash_everywhere(5);
        s.world.set_hook(None);
        s.wait(held).unwrap();
        s.crash_everywhere(5);
        s.life.as_mut().unwrap().pause();
        assert!(s.until(|s| s.life.as_ref().unwrap().paused()));
        s.life.as_mut().unwrap().begin_close();
        assert!(s.until(|s| s.life.as_ref().unwrap().closed()));
        let target = Path::new(ploop_sim::scene::DESCRIPTOR);
        let life = s.life.as_mut().unwrap();
        life.exchange(target, seed, Spares::default(), |_| Ok(())).unwrap().unwrap();
        s.close();
    }
}

#[test]
fn a_pause_does_not_wait_for_copy_ups_that_have_not_begun() {
    for seed in 0..8 {
        let profile =
            Profile { clusters: 20, depth: 16, metadata_delay_ms: 1000, ..Profile::plain() };
        let mut s = Scenario::with(seed, profile);
        s.open();
        s.write(0, 0, 20 * CLUSTER, false);
        s.add_level(1);
        s.open();
        s.hook(|attempt| match attempt.kind {
            OpKind::Write if !is_page(attempt) && !attempt.blocking => Verdict::Hold,
            _ => Verdict::Normal,
        });
        let writes: Vec<u64> =
            (0..WRITES).map(|n| s.write(n as usize % 2, n * CLUSTER + 3, 1, false)).collect();
        assert!(s.until(|s| s.world.held() == COPY_BUFFERS), "all buffers are in use");
        s.life.as_mut().unwrap().pause();
        s.until(|_| false);
        assert!(!s.life.as_ref().unwrap().paused(), "it waits for what was begun");
        s.world.set_hook(None);
        s.world.release_held(false);
        assert!(s.until(|s| s.life.as_ref().unwrap().paused()));
        let answered = |s: &Scenario| writes.iter().filter(|w| s.outcome(**w).is_some()).count();
        assert_eq!(answered(&s), COPY_BUFFERS, "and not for the others");
        s.life.as_mut().unwrap().begin_close();
        assert!(s.until(|s| s.life.as_ref().unwrap().closed()));
        let target = Path::new(ploop_sim::scene::DESCRIPTOR);
        let life = s.life.as_mut().unwrap();
        life.exchange(target, seed, Spares::default(), |_| Ok(())).unwrap().unwrap();
        s.drain();
        assert!(writes.iter().all(|w| s.outcome(*w) == Some(Ok(0))));
        let copied = s.life.as_ref().unwrap().device().keeper_stats().copied_up.get();
        assert_eq!(copied, WRITES, "each cluster once");
        let read = s.read(0, 0, 20 * CLUSTER);
        s.wait(read).unwrap();
        let flush = s.flush(1);
        s.wait(flush).unwrap();
        s.crash_everywhere(5);
        s.close();
    }
}

/// F19: the files want larger blocks when they are opened again. Requests that were held for space
/// over the pause are looked at anew, before the disk refuses them.
#[test]
fn what_is_held_over_a_pause_fits_the_alignment_behind_it() {
    for seed in 0..8 {
        let mut s = Scenario::with(seed, Profile { clusters: 20, depth: 16, ..Profile::plain() });
        s.open();
        s.hook(|attempt| match attempt.kind {
            OpKind::Reserve | OpKind::Truncate => Verdict::Fail(libc::ENOSPC),
            _ => Verdict::Normal,
        });
        let writes: Vec<u64> =
            (0..6).map(|n| s.write(n as usize % 2, n * CLUSTER + 3, 9, false)).collect();
        let held = |s: &Scenario| {
            let device = s.life.as_ref().unwrap().device();
            (0..2).map(|n| device.queue_stats(n).parked.get()).sum::<u64>()
        };
        assert!(s.until(|s| held(s) == 6), "held for space");
        s.life.as_mut().unwrap().pause();
        assert!(s.until(|s| s.life.as_ref().unwrap().paused()));
        s.world.set_hook(None);
        s.life.as_mut().unwrap().begin_close();
        assert!(s.until(|s| s.life.as_ref().unwrap().closed()));
        s.world.set_offset_align(4096);
        let target = Path::new(ploop_sim::scene::DESCRIPTOR);
        // The new top is a file that says so when it is opened.
        let (dir, entropy) = (s.world.dir(), s.world.entropy(seed));
        let frozen = |options: &OpenOptions| snapshot(&dir, &entropy, target, None, options);
        let life = s.life.as_mut().unwrap();
        life.exchange(target, seed, Spares::default(), |o| frozen(o).map(drop)).unwrap().unwrap();
        s.drain();
        assert!(writes.iter().all(|w| s.outcome(*w) == Some(Ok(0))));
        ploop_sim::recover::no_misuse(&s.world).unwrap();
        let read = s.read(0, 0, 20 * CLUSTER);
        s.wait(read).unwrap();
        s.crash_everywhere(5);
        s.close();
    }
}
