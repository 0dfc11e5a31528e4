//! Disks and images made by others: opened, served, read back; the corrupt ones reported.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use ploop_e2e::{World, copy_sample, have, samples_dir};
use std::fs;
use std::path::Path;

/// The sha256 of the whole device, as the samples tell it.
fn expected(sample: &str) -> String {
    let dir = samples_dir();
    if let Ok(sum) = fs::read_to_string(dir.join(sample).join("flat.sha256")) {
        return sum.split_whitespace().next().unwrap().to_owned();
    }
    let list = fs::read_to_string(dir.join("FLAT-SHA256")).unwrap();
    let line = list.lines().find(|l| l.split_whitespace().nth(1).unwrap().contains(sample));
    line.unwrap().split_whitespace().next().unwrap().to_owned()
}

/// The device's sha256, read through our server by nbdcopy.
fn served(world: &World, name: &str, target: &str, extra: &[&str]) -> String {
    let socket = world.text(&format!("{name}.s"));
    let address = format!("unix:{socket}");
    let mut args = vec![target, "--nbd", &address];
    args.extend(extra);
    let server = world.serve(&args, 1);
    let flat = world.text(&format!("{name}.flat"));
    world.ok("nbdcopy", &[&format!("nbd+unix:///?socket={socket}"), &flat]);
    let sum = world.ok("sha256sum", &[&flat]);
    assert_eq!(server.end("-TERM"), 0);
    sum.split_whitespace().next().unwrap().to_owned()
}

/// Exit code of the original 7.x on a corrupt sample with these flags.
fn original(sample: &str, flags: &str) -> Option<i32> {
    let matrix = samples_dir().join("../ploop-check-matrix.txt");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/ploop-check-matrix.txt");
    let text = fs::read_to_string(here).or_else(|_| fs::read_to_string(matrix)).unwrap();
    let row = format!("{sample}|7.x|{flags}|rc=");
    let line = text.lines().find(|l| l.starts_with(&row))?;
    line[row.len()..].split('|').next()?.parse().ok()
}

#[test]
fn sound_samples_read_back_as_their_makers_saw_them() {
    if !have(&["nbdcopy", "qemu-img"]) {
        return;
    }
    let world = World::new("samples").unwrap();
    println!("sample            open  sha256 equal  check  after a writable open and close");
    let disks =
        ["chain-1m", "chain-64k", "ploop-v1-b64", "ploop-v2-b2048", "ploop-v2-b64", "prealloc"];
    let lone = ["grow-before", "grow-after", "qemu-64m.prl"];
    for name in disks.iter().chain(&lone) {
        copy_sample(name, &world.path(name)).unwrap();
        let wanted = expected(name);
        let check = world.ploop(&["check", "-f", "-c", "-r", name]);
        assert_eq!(check.code, 0, "{name}: {check:?}");
        let read = served(&world, name, name, &["--ro"]);
        assert_eq!(read, wanted, "{name}, read-only");
        // A lone image opens read-only (T5): there is nothing to write back.
        if disks.contains(name) {
            assert_eq!(served(&world, name, name, &[]), wanted, "{name}, writable");
        }
        let again = world.ploop(&["check", "-f", "-c", "-r", name]);
        assert_eq!(again.code, 0, "{name}: {again:?}");
        println!("{name:16}  yes   yes           {}      {}", check.code, again.code);
    }
}

/// Without a repair option we write nothing (T4): where 7.x repairs, we report.
fn is_repaired_by_original(sample: &str) -> bool {
    matches!(sample, "unaligned" | "short_last" | "tail_leak_inuse")
}

#[test]
fn corrupt_samples_are_reported_and_never_panic() {
    let world = World::new("corrupt").unwrap();
    println!("sample             check -f -c -r: ours, 7.x   map");
    let dir = samples_dir().join("corrupt");
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let name = name.to_str().unwrap();
        copy_sample(&format!("corrupt/{name}"), &world.path(name)).unwrap();
        let before = fs::read(world.path(name)).unwrap();
        let ours = world.ploop(&["check", "-f", "-c", "-r", name]);
        let theirs = original(name, "-f -c -r");
        if !is_repaired_by_original(name)
            && let Some(theirs) = theirs
        {
            assert_eq!(ours.code, theirs, "{name}: {ours:?}");
        }
        let open = world.ploop(&["map", "--ro", name]);
        let open =
            if open.code == 2 || open.code == 38 { world.ploop(&["map", name]) } else { open };
        for said in [&ours, &open] {
            let text = format!("{said:?}");
            assert!(!text.contains("panicked"), "{name}: {text}");
            assert!((0..=46).contains(&said.code), "{name}: {text}");
        }
        assert!(fs::read(world.path(name)).unwrap() == before, "{name} was changed");
        let theirs = theirs.map_or("-".to_owned(), |code| code.to_string());
        println!("{name:18} {:3} {theirs:>3}  map: {:3}", ours.code, open.code);
    }
}
