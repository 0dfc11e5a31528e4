//! The whole way: FUSE, a loop device, fio and real file systems on it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use ploop_e2e::checks::wants_clean;
use ploop_e2e::device::{Attached, can_mount};
use ploop_e2e::world::wait_until;
use ploop_e2e::{World, can_attach, have};
use std::fs;
use std::time::Duration;

/// Two jobs, each on its half of 64 MiB, eight requests in flight each.
const RANDOM: &[&str] = &[
    "--ioengine=io_uring",
    "--direct=1",
    "--rw=randrw",
    "--bsrange=4k-64k",
    "--iodepth=8",
    "--numjobs=2",
    "--size=32M",
    "--offset_increment=32M",
    "--verify=crc32c",
    "--verify_fatal=1",
];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

fn ready(programs: &[&str]) -> bool {
    can_attach() && have(programs)
}

/// fio writes and verifies; the bytes are the same after the device went and came back.
fn verified(world: &World, disk: &str) {
    let attached = world.attach(&[disk]);
    world.fio(&attached.device, &with(RANDOM, &["--do_verify=1"]));
    let sum = world.sum(&attached.device);
    world.detach(&attached);
    wants_clean(world, disk);
    let attached = world.attach(&[disk]);
    world.fio(&attached.device, &with(RANDOM, &["--verify_only"]));
    assert_eq!(world.sum(&attached.device), sum);
    world.detach(&attached);
    wants_clean(world, disk);
}

#[test]
fn fio_finds_what_it_wrote() {
    if !ready(&["fio", "qemu-img"]) {
        return;
    }
    let world = World::new("device-fio").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "96M", "-t", "none", &image]);
    verified(&world, "a");
    // Again over what is mapped now.
    verified(&world, "a");
}

#[test]
fn fio_finds_what_it_wrote_over_a_chain() {
    if !ready(&["fio", "qemu-img"]) {
        return;
    }
    let world = World::new("device-fio-chain").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "96M", "-b", "256", "-t", "none", &image]);
    for part in ["--offset=0", "--offset=11M", "--offset=23M"] {
        let attached = world.attach(&["a"]);
        let fill = ["--ioengine=io_uring", "--direct=1", "--rw=randwrite", "--bs=32k"];
        let fill = with(&fill, &["--iodepth=8", "--size=48M", "--io_size=16M", part]);
        world.fio(&attached.device, &fill);
        world.detach(&attached);
        world.ploop_ok(&["snapshot", "a"]);
    }
    verified(&world, "a");
    let counted = world.ploop_ok(&["snapshot-list", "-H", "a"]).out.lines().count();
    assert_eq!(counted, 4, "the chain is a chain");
}

/// A tree of some thousand small files and one large one.
fn fill(world: &World, mnt: &str) -> String {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates");
    world.ok("cp", &["-r", sources, &format!("{mnt}/tree")]);
    world.ok("cp", &["-r", &format!("{mnt}/tree"), &format!("{mnt}/again")]);
    let large = format!("of={mnt}/tree/large");
    world.ok("dd", &["if=/dev/urandom", &large, "bs=1M", "count=48", "status=none"]);
    world.ok("rm", &["-r", &format!("{mnt}/again")]);
    world.tree_sum(mnt)
}

fn fio_on_a_file(world: &World, mnt: &str) {
    let file = format!("{mnt}/fio");
    world.fio(&file, &with(RANDOM, &["--do_verify=1", "--end_fsync=1"]));
    let buffered: Vec<_> = RANDOM.iter().copied().filter(|arg| *arg != "--direct=1").collect();
    world.fio(&file, &with(&buffered, &["--do_verify=1", "--end_fsync=1"]));
    fs::remove_file(file).unwrap();
}

#[test]
fn ext4_lives_on_it_and_gives_space_back() {
    let programs = ["fio", "qemu-img", "mkfs.ext4", "e2fsck", "fstrim"];
    if !ready(&programs) || !can_mount("ext4") {
        return;
    }
    let world = World::new("device-ext4").unwrap();
    let image = world.disk("a").unwrap();
    let mnt = world.text("mnt");
    fs::create_dir(&mnt).unwrap();
    world.ploop_ok(&["init", "-s", "512M", &image]);
    world.ploop_ok(&["mount", "-m", &mnt, "a"]);
    fio_on_a_file(&world, &mnt);
    let sum = fill(&world, &mnt);
    world.ploop_ok(&["umount", "-m", &mnt]);
    wants_clean(&world, "a");
    // Nothing is cached any more.
    world.ploop_ok(&["mount", "-m", &mnt, "a"]);
    assert_eq!(world.tree_sum(&mnt), sum);
    let before = world.held(&image);
    fs::remove_file(format!("{mnt}/tree/large")).unwrap();
    let sum = world.tree_sum(&mnt);
    world.ok("sync", &["-f", &mnt]);
    world.ok("fstrim", &["-v", &mnt]);
    // The file of 48 MiB and fio's of 64 MiB.
    let given = 80 << 20;
    let shrunk = wait_until(Duration::from_secs(30), || world.held(&image) + given < before);
    println!("fstrim: {} KiB before, {} KiB after", before >> 10, world.held(&image) >> 10);
    assert!(shrunk, "{before} bytes before, {} after", world.held(&image));
    assert_eq!(world.tree_sum(&mnt), sum);
    let said = world.ploop_ok(&["--json", "info", "-d", "a"]).json();
    let partition = said["partition"].as_str().unwrap();
    world.ok("umount", &[&mnt]);
    world.ok("e2fsck", &["-f", "-n", partition]);
    world.ploop_ok(&["detach", "a"]);
    wants_clean(&world, "a");
    world.ploop_ok(&["mount", "-r", "-m", &mnt, "a"]);
    assert_eq!(world.tree_sum(&mnt), sum);
    world.ploop_ok(&["umount", "-m", &mnt]);
}

/// A file system made by its own tool on the bare device: filled, unmounted, checked, read again.
fn bare_file_system(kind: &str, checker: &str, check: &[&str]) {
    let mkfs = format!("mkfs.{kind}");
    if !ready(&["fio", "qemu-img", &mkfs, checker]) || !can_mount(kind) {
        return;
    }
    let world = World::new(&format!("device-{kind}")).unwrap();
    let image = world.disk("a").unwrap();
    let mnt = world.text("mnt");
    fs::create_dir(&mnt).unwrap();
    world.ploop_ok(&["init", "-s", "512M", "-t", "none", &image]);
    let attached = world.attach(&["a"]);
    world.ok(&mkfs, &["-q", &attached.device]);
    world.ok("mount", &["-t", kind, &attached.device, &mnt]);
    fio_on_a_file(&world, &mnt);
    let sum = fill(&world, &mnt);
    world.ok("umount", &[&mnt]);
    world.ok(checker, &with(check, &[&attached.device]));
    world.detach(&attached);
    wants_clean(&world, "a");
    let attached = world.attach(&["a"]);
    world.ok(checker, &with(check, &[&attached.device]));
    world.ok("mount", &["-t", kind, &attached.device, &mnt]);
    assert_eq!(world.tree_sum(&mnt), sum);
    world.ok("umount", &[&mnt]);
    world.detach(&attached);
    wants_clean(&world, "a");
}

#[test]
fn xfs_lives_on_it() {
    bare_file_system("xfs", "xfs_repair", &["-n"]);
}

#[test]
fn btrfs_lives_on_it() {
    bare_file_system("btrfs", "btrfs", &["check", "--readonly"]);
}

/// Fills a device by fio; returns what it holds.
fn written(world: &World, attached: &Attached, seed: &str) -> String {
    let args = ["--ioengine=io_uring", "--direct=1", "--rw=write", "--bs=128k", "--iodepth=8"];
    world.fio(&attached.device, &with(&args, &["--size=16M", "--refill_buffers", seed]));
    world.sum(&attached.device)
}

#[test]
fn two_disks_at_once_and_a_mounted_one_stays() {
    if !ready(&["fio", "qemu-img", "mkfs.ext4"]) || !can_mount("ext4") {
        return;
    }
    let world = World::new("device-two").unwrap();
    let mnt = world.text("mnt");
    fs::create_dir(&mnt).unwrap();
    let disks = ["one", "two"].map(|name| {
        let image = world.disk(name).unwrap();
        world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
        world.attach(&[name])
    });
    let [one, two] = &disks;
    assert_ne!(one.device, two.device);
    let sums = [written(&world, one, "--randseed=1"), written(&world, two, "--randseed=2")];
    assert_ne!(sums[0], sums[1]);
    assert_eq!(world.sum(&one.device), sums[0]);
    world.ok("mkfs.ext4", &["-q", "-F", &two.device]);
    world.ok("mount", &[&two.device, &mnt]);
    fs::write(format!("{mnt}/file"), "kept").unwrap();
    for target in [two.device.as_str(), "two"] {
        let said = world.ploop(&["detach", target]);
        assert_eq!(said.code, 46, "{said:?}");
        assert!(said.err.contains("is mounted on"), "{said:?}");
    }
    assert_eq!(fs::read_to_string(format!("{mnt}/file")).unwrap(), "kept");
    world.ok("dd", &["if=/dev/zero", &format!("of={mnt}/more"), "bs=1M", "count=4", "conv=fsync"]);
    world.detach(one);
    fs::write(format!("{mnt}/file"), "kept on").unwrap();
    world.ok("umount", &[&mnt]);
    world.detach(two);
    let again = world.attach(&["one"]);
    assert_eq!(world.sum(&again.device), sums[0]);
    world.detach(&again);
    wants_clean(&world, "one");
    wants_clean(&world, "two");
}
