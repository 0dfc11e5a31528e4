//! A pause waits for what was begun, not for what waits to be begun: clusters whose copy has not
//! started go back to their queue, and are copied when the next device serves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_engine::limits::COPY_BUFFERS;
use ploop_image::Spares;
use ploop_io::OpKind;
use ploop_io::sim::Verdict;
use ploop_sim::profile::Profile;
use ploop_sim::scenario::{CLUSTER, Scenario, is_page};
use std::path::Path;

const WRITES: u64 = 14;

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
