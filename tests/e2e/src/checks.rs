//! What `ploop check` and `qemu-img check` say about a disk of a test, and the seed of a storm.

use crate::World;
use std::time::SystemTime;

/// The variable that repeats a storm.
const SEED: &str = "PLOOP_E2E_SEED";

/// The in-use mark and nothing else (T19).
pub fn wants_in_use_only(world: &World, disk: &str) {
    let said = world.ploop(&["--json", "check", "-f", disk]);
    assert_eq!(said.code, 37, "{said:?}");
    let json = said.json();
    let images = json["images"].as_array().into_iter().flatten();
    let found = images.clone().flat_map(|image| image["findings"].as_array().into_iter().flatten());
    let kinds: Vec<_> = found.map(|finding| finding["kind"].as_str()).collect();
    assert_eq!(kinds, [Some("in_use")], "{json}");
    assert_eq!(images.last().map(|image| &image["in_use"]), Some(&true.into()), "{json}");
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(0), "{json}");
}

/// After a clean close: 0, and QEMU agrees about images that are not raw. Its code 3 is leaks
/// alone: clusters that trims freed in the middle of the file, which only a new write takes again.
pub fn wants_clean(world: &World, disk: &str) {
    let json = world.ploop_ok(&["--json", "check", "-f", disk]).json();
    let images = json["images"].as_array().into_iter().flatten();
    assert_ne!(images.clone().count(), 0, "{json}");
    let ploop = images.filter(|image| image["version"] != 0);
    for image in ploop.filter_map(|image| image["image"].as_str()) {
        let said = world.run("qemu-img", &["check", "-f", "parallels", image]);
        assert!(said.code == 0 || said.code == 3, "{said:?}");
    }
}

/// `PLOOP_E2E_SEED`, else the time. A test that fails says it.
#[must_use]
pub fn seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let given = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        now.map_or(1, |now| u64::from(now.subsec_nanos()) << 8 | now.as_secs() & 0xff)
    })
}
