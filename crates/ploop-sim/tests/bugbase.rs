//! Every failing seed that was ever kept: what was repaired stays repaired, and a planted bug that
//! was found is found again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_sim::{bugbase, run_once};

fn entries() -> impl Iterator<Item = (String, bugbase::Entry)> {
    let home = concat!(env!("CARGO_MANIFEST_DIR"), "/bugbase");
    std::fs::read_dir(home).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.display().to_string();
        let entry = bugbase::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, entry)
    })
}

#[test]
fn what_was_repaired_stays_repaired() {
    for (name, entry) in entries().filter(|(_, entry)| entry.bug.is_none()) {
        if let Err(failure) = run_once(entry.seed, &entry.profile) {
            panic!("{name}: {failure}");
        }
    }
}

#[cfg(feature = "planted")]
#[test]
fn a_planted_bug_is_found_again() {
    use ploop_io::planted::{Bug, choose};
    for (name, entry) in entries() {
        let Some(bug) = &entry.bug else { continue };
        choose(Some(Bug::named(bug).unwrap_or_else(|| panic!("{name}: no bug {bug}"))));
        let found = run_once(entry.seed, &entry.profile);
        choose(None);
        assert!(found.is_err(), "{name}: {bug} was not found");
    }
}
