//! I7 and P10: what an idle disk keeps ahead goes back to the host, at no crash point with an entry
//! outside the file.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use ploop_sim::Profile;
use ploop_sim::scenario::{CLUSTER, Scenario};
use std::path::Path;

const MINUTE: u64 = 60_000_000_000;

fn len(s: &Scenario) -> u64 {
    s.world.read_file(Path::new("/disk/root.hds")).unwrap().len() as u64 / (CLUSTER * 512)
}

#[test]
fn space_kept_ahead_is_given_back_after_a_minute() {
    for seed in 0..6 {
        let mut s = Scenario::with(seed, Profile { clusters: 60, ..Profile::plain() });
        s.open();
        for cluster in 0..9 {
            let write = s.write(0, cluster * CLUSTER, 8, false);
            s.wait(write).unwrap();
        }
        let ahead = len(&s);
        assert!(ahead > 10, "header, nine clusters, and some ahead: {ahead}");
        let later = s.world.now() + 2 * MINUTE;
        s.until(|s| s.world.now() > later);
        assert_eq!(len(&s), 10);
        s.crash_everywhere(3);
        // The next allocation brings it back.
        for cluster in 20..23 {
            let write = s.write(1, cluster * CLUSTER, 8, true);
            s.wait(write).unwrap();
            s.crash_everywhere(3);
        }
        assert!(len(&s) > 13);
        s.close();
        assert_eq!(len(&s), 13);
    }
}
