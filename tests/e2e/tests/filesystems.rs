//! File systems on disks in use: ext4, xfs and btrfs. Snapshots mounted beside them, resized with
//! the partition they lie in, frozen wherever they are mounted.
#![allow(clippy::unwrap_used, reason = "a test")]

use ploop_e2e::device::{Attached, can_mount};
use ploop_e2e::world::{can_attach, test_name, wait_until};
use ploop_e2e::{World, have};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const NAME: &str = "{11111111-2222-3333-4444-555555555555}";

/// Whether this machine makes and mounts it; says so when not.
fn able(kind: &str) -> bool {
    can_attach() && have(&[&format!("mkfs.{kind}")]) && can_mount(kind)
}

/// A disk of so many MiB with nothing on it, attached as a loop device.
fn bare(world: &World, name: &str, mib: u32) -> Attached {
    let image = world.disk(name).unwrap();
    world.ploop_ok(&["init", "-s", &format!("{mib}M"), "-t", "none", &image]);
    world.attach(&["--via", "loop", name])
}

fn mkfs(world: &World, kind: &str, on: &str) {
    let force = if kind == "ext4" { "-F" } else { "-f" };
    world.ok(&format!("mkfs.{kind}"), &["-q", force, on]);
}

fn directory(world: &World, name: &str) -> String {
    fs::create_dir(world.path(name)).unwrap();
    world.text(name)
}

fn snapshots(world: &World, name: &str) -> usize {
    world.ploop_ok(&["snapshot-list", "-H", name]).out.lines().count()
}

/// Bytes of the file system mounted there.
fn size(world: &World, at: &str) -> u64 {
    let stat = world.ok("stat", &["-f", "-c", "%b %S", at]);
    stat.split_whitespace().map(|word| word.parse::<u64>().unwrap()).product()
}

fn beside(kind: &str) {
    if !able(kind) {
        return;
    }
    let world = World::new(&format!("beside-{kind}")).unwrap();
    let device = bare(&world, "a", 320).device;
    mkfs(&world, kind, &device);
    let (live, side) = (directory(&world, "live"), directory(&world, "side"));
    world.ploop_ok(&["mount", "-m", &live, "a"]);
    let put = |text: &str| fs::write(world.path("live/file"), text).unwrap();
    let shows = |text: &str| {
        assert_eq!(fs::read_to_string(world.path("side/file")).unwrap(), text);
        world.ploop_ok(&["umount", "-m", &side]);
    };
    put("one");
    world.ploop_ok(&["tsnapshot", "-m", &side, "a"]);
    put("two");
    shows("one");
    assert_eq!(snapshots(&world, "a"), 1, "the temporary one is merged away");
    world.ploop_ok(&["snapshot", "-u", NAME, "a"]);
    put("three");
    world.ploop_ok(&["mount", "-r", "-u", NAME, "-m", &side, "a"]);
    shows("two");
    // Not at rest: its log has something in it, and is left alone.
    world.ok("sync", &["-f", &live]);
    world.ploop_ok(&["snapshot", "-F", "a"]);
    let list = world.ploop_ok(&["snapshot-list", "-H", "-o", "uuid", "a"]).out;
    assert_eq!(list.lines().count(), 3, "{list}");
    for uuid in list.lines().map(str::trim).filter(|uuid| uuid.starts_with('{')) {
        let said = world.ploop(&["mount", "-r", "-u", uuid, "-m", &side, "a"]);
        // The name of the top is none of a snapshot.
        assert!(said.code == 0 || said.code == 43 || said.code == 37, "{said:?}");
        if said.code == 0 {
            assert!(world.path("side/file").exists());
            world.ploop_ok(&["umount", "-m", &side]);
        }
    }
    // The disk alone: nothing else has that identity.
    world.ploop_ok(&["umount", "-m", &live]);
    world.ploop_ok(&["mount", "-r", "-u", NAME, "-m", &side, "a"]);
    shows("two");
    world.ploop_ok(&["mount", "-r", "-m", &side, "a"]);
    shows("three");
}

#[test]
fn an_ext4_snapshot_is_mounted_beside_its_disk() {
    beside("ext4");
}

#[test]
fn an_xfs_snapshot_is_mounted_beside_its_disk() {
    beside("xfs");
}

#[test]
fn a_btrfs_snapshot_is_mounted_beside_its_disk() {
    if !able("btrfs") {
        return;
    }
    if !fs::exists("/sys/fs/btrfs/features/temp_fsid").unwrap() {
        return ploop_e2e::skip(&test_name(), "this kernel takes one btrfs for its copy");
    }
    beside("btrfs");
}

/// Where a file system is when its disk is resized.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Where {
    Closed,
    Attached,
    Mounted,
    /// Where only another process sees it.
    Elsewhere,
}

/// A process that has a device mounted in a mount namespace of its own.
struct Elsewhere(Child);

impl Elsewhere {
    fn new(world: &World, device: &str, at: &str) -> Self {
        let script = "mount \"$0\" \"$1\" && echo up && exec cat";
        let mut command = world.command("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", script, device, at]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        Self(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn may_resize_mounted_ext4() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & 1 << 24 != 0
}

/// A file system of `kind` in the last partition of a disk that `table` divides: in each way that
/// the disk is open, it grows by 128 MiB and keeps what is in it.
fn grows(kind: &str, name: &str, table: &str) {
    if !able(kind) || !have(&["sfdisk", "partx", "xfs_growfs"]) {
        return;
    }
    let world = World::new(&format!("grows-{kind}-{name}")).unwrap();
    let attached = bare(&world, "a", 512);
    let device = &attached.device;
    let mut number = 0;
    if !table.is_empty() {
        let script = "printf '%b' \"$1\" | sfdisk -q --no-tell-kernel \"$0\"";
        world.ok("sh", &["-c", script, device, table]);
        world.ok("partx", &["-u", device]);
        number = table.matches(",\\n").count();
        if number == 2 {
            mkfs(&world, "ext4", &format!("{device}p1"));
        }
    }
    let node = |device: &str| match number {
        0 => device.to_owned(),
        _ => format!("{device}p{number}"),
    };
    mkfs(&world, kind, &node(device));
    let at = directory(&world, "at");
    world.ok("mount", &[&node(device), &at]);
    fs::write(world.path("at/file"), vec![7; 1 << 20]).unwrap();
    let mut before = size(&world, &at);
    world.ok("umount", &[&at]);
    world.ploop_ok(&["detach", "a"]);
    let (wanted, mut mib) = (number.to_string(), 512);
    for place in [Where::Closed, Where::Attached, Where::Mounted, Where::Elsewhere] {
        if kind == "ext4" && place > Where::Attached && !may_resize_mounted_ext4() {
            ploop_e2e::skip(&test_name(), "no CAP_SYS_RESOURCE: ext4 is resized not mounted");
            break;
        }
        mib += 128;
        let after = grown(&world, kind, place, &wanted, mib, &node, &at);
        // ext4 keeps a part for itself.
        assert!(after > before + (100 << 20), "{place:?}: {after} after {before}");
        before = after;
    }
    world.ploop_ok(&["check", "-f", "a"]);
}

impl PartialOrd for Where {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (*self as u8).partial_cmp(&(*other as u8))
    }
}

/// Resizes once; what the file system has then.
fn grown(
    world: &World,
    kind: &str,
    place: Where,
    number: &str,
    mib: u32,
    node: &dyn Fn(&str) -> String,
    at: &str,
) -> u64 {
    let open = (place != Where::Closed).then(|| world.attach(&["--via", "loop", "a"]));
    let known = |device: &str| {
        if number != "0" {
            world.ok("partx", &["-u", device]);
        }
    };
    let mut elsewhere = None;
    if let Some(open) = &open {
        known(&open.device);
        match place {
            Where::Mounted => drop(world.ok("mount", &[&node(&open.device), at])),
            Where::Elsewhere => {
                elsewhere = Some(Elsewhere::new(world, &node(&open.device), at));
            }
            Where::Closed | Where::Attached => {}
        }
    }
    let size_wanted = format!("{mib}M");
    let mut words = vec!["resize", "-s", &size_wanted];
    if number == "2" {
        words.extend(["--partition", number]);
    }
    words.push("a");
    world.ploop_ok(&words);
    drop(elsewhere);
    let open = open.unwrap_or_else(|| {
        let open = world.attach(&["--via", "loop", "a"]);
        known(&open.device);
        open
    });
    if place != Where::Mounted {
        world.ok("mount", &[&node(&open.device), at]);
    }
    let now = size(world, at);
    assert_eq!(fs::read(world.path("at/file")).unwrap(), vec![7; 1 << 20]);
    world.ok("umount", &[at]);
    // The mounts of a process that was ended elsewhere go a moment later.
    let alone = || {
        let mut options = fs::OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_EXCL);
        options.open(node(&open.device)).is_ok()
    };
    assert!(wait_until(Duration::from_secs(10), alone), "{} stays in use", open.device);
    if number != "0" {
        let said = world.run("sfdisk", &["-l", &open.device]);
        assert!(!(said.out + &said.err).contains("mismatch"), "the protective entry is short");
    }
    match kind {
        "ext4" => drop(world.ok("e2fsck", &["-f", "-n", &node(&open.device)])),
        "xfs" => drop(world.ok("xfs_repair", &["-n", &node(&open.device)])),
        _ => drop(world.ok("btrfs", &["check", &node(&open.device)])),
    }
    if number != "0" {
        world.ok("partx", &["-d", &open.device]);
    }
    world.ploop_ok(&["detach", "a"]);
    now
}

const GPT: &str = "label: gpt\\n,,\\n";
const GPT_TWO: &str = "label: gpt\\n,100M,\\n,,\\n";
const MBR_TWO: &str = "label: dos\\n,100M,\\n,,\\n";

#[test]
fn ext4_on_the_bare_device_grows() {
    grows("ext4", "bare", "");
}

#[test]
fn ext4_in_the_only_partition_grows() {
    grows("ext4", "gpt", GPT);
}

#[test]
fn ext4_in_the_second_partition_grows() {
    grows("ext4", "gpt2", GPT_TWO);
}

#[test]
fn xfs_on_the_bare_device_grows() {
    grows("xfs", "bare", "");
}

#[test]
fn xfs_in_the_second_partition_grows() {
    grows("xfs", "gpt2", GPT_TWO);
}

#[test]
fn xfs_in_the_second_partition_of_an_old_table_grows() {
    grows("xfs", "mbr2", MBR_TWO);
}

#[test]
fn btrfs_on_the_bare_device_grows() {
    grows("btrfs", "bare", "");
}

#[test]
fn btrfs_in_the_only_partition_grows() {
    grows("btrfs", "gpt", GPT);
}

#[test]
fn a_physical_volume_grows() {
    if !can_attach() || !have(&["pvcreate", "pvs"]) {
        return;
    }
    let world = World::new("grows-lvm").unwrap();
    let device = bare(&world, "a", 64).device;
    world.ok("pvcreate", &["-q", "-y", "--devices", &device, &device]);
    world.ploop_ok(&["resize", "-s", "128M", "a"]);
    let shown = world.ok(
        "pvs",
        &["--noheadings", "--nosuffix", "--units=b", "-opv_size", "--devices", &device, &device],
    );
    assert_eq!(shown.trim(), (128 << 20).to_string());
    world.ploop_ok(&["detach", "a"]);
}

/// Swap and two file systems, as `table` divides the disk; each mounted by its number, and the
/// first one unasked.
fn chosen(name: &str, table: &str, swap: u32, [one, two]: [u32; 2]) {
    if !able("ext4") || !have(&["sfdisk", "partx", "mkswap"]) {
        return;
    }
    let world = World::new(name).unwrap();
    let device = bare(&world, "a", 120).device;
    let script = "printf '%b' \"$1\" | sfdisk -q --no-tell-kernel \"$0\"";
    world.ok("sh", &["-c", script, &device, table]);
    world.ok("partx", &["-a", &device]);
    let at = directory(&world, "mnt");
    // Not every host makes nodes of partitions.
    let node = |number: u32| {
        let node = world.text(&format!("node{number}"));
        let sysfs = format!("/sys/class/block/{}p{number}/dev", device.trim_start_matches("/dev/"));
        let numbers = fs::read_to_string(&sysfs).unwrap();
        let (major, minor) = numbers.trim().split_once(':').unwrap();
        world.ok("mknod", &[&node, "b", major, minor]);
        node
    };
    world.ok("mkswap", &["-q", &node(swap)]);
    for number in [one, two] {
        let node = node(number);
        mkfs(&world, "ext4", &node);
        world.ok("mount", &[&node, &at]);
        fs::write(world.path("mnt/number"), number.to_string()).unwrap();
        world.ok("umount", &[&at]);
    }
    world.ok("partx", &["-d", &device]);
    world.ploop_ok(&["detach", "a"]);
    let shows = |number: u32| {
        let text = fs::read_to_string(world.path("mnt/number")).unwrap();
        assert_eq!(text, number.to_string());
        world.ploop_ok(&["umount", "-m", &at]);
    };
    for number in [one, two] {
        let words = ["--json", "mount", "--partition", &number.to_string(), "-m", &at, "a"];
        let said = world.ploop_ok(&words).json();
        let (device, partition) = (&said["device"], &said["partition"]);
        assert!(device.as_str().unwrap().ends_with(&format!("p{number}")), "{said}");
        assert_eq!(device, partition, "{said}");
        shows(number);
    }
    let info = world.ploop_ok(&["--json", "info", "a"]).json();
    let bytes = info["file_system"]["size_bytes"].as_u64().unwrap();
    assert!(bytes > 20 << 20 && bytes < 30 << 20, "{info}");
    let said = world.ploop_ok(&["mount", "-m", &at, "a"]);
    assert!(said.err.contains(&format!("partition {one} is mounted")), "{said:?}");
    shows(one);
    let side = directory(&world, "side");
    world.ploop_ok(&["tsnapshot", "--partition", &two.to_string(), "-m", &side, "a"]);
    assert_eq!(fs::read_to_string(world.path("side/number")).unwrap(), two.to_string());
    world.ploop_ok(&["umount", "-m", &side]);
    let said = world.ploop(&["mount", "--partition", "9", "-m", &at, "a"]);
    assert!(said.code == 33 && said.err.contains("there is no partition 9"), "{said:?}");
    assert!(said.err.contains(&format!("{swap} (")), "{said:?}");
    let said = world.ploop(&["mount", "--partition", &swap.to_string(), "-m", &at, "a"]);
    assert_eq!(said.code, 21, "{said:?}");
    // Nothing of the partitions is left with the loop device.
    let device = world.attach(&["--via", "loop", "a"]).device;
    let known = world.ok("lsblk", &["-n", "-o", "NAME", &device]);
    let most = usize::from(table.starts_with("label: gpt"));
    assert!(known.lines().count() <= 1 + most, "{known}");
    world.ploop_ok(&["detach", "a"]);
    if two >= 5 {
        let said = world.ploop(&["resize", "-s", "150M", "--partition", &two.to_string(), "a"]);
        assert!(said.code == 33 && said.err.contains("extended partition"), "{said:?}");
        let said = world.ploop(&["resize", "-s", "150M", "--partition", &one.to_string(), "a"]);
        assert!(said.code == 33 && said.err.contains("lies behind it"), "{said:?}");
    }
}

#[test]
fn a_partition_is_chosen_to_be_mounted() {
    chosen("chosen-gpt", "label: gpt\\n,30M\\n,30M\\n,\\n", 1, [2, 3]);
}

#[test]
fn a_logical_partition_is_chosen_to_be_mounted() {
    chosen("chosen-mbr", "label: dos\\n,30M\\n,,E\\n,30M\\n,\\n", 5, [1, 6]);
}

#[test]
fn what_cannot_be_resized_is_refused_before_anything_changes() {
    if !able("ext4") || !have(&["sfdisk", "partx"]) {
        return;
    }
    let world = World::new("resize-refused").unwrap();
    let device = bare(&world, "a", 120).device;
    let refused = |words: &[&str], code: i32, says: &str| {
        let before = world.sum(&device);
        let said = world.ploop(&[&["resize"], words, &["a"]].concat());
        assert!(said.code == code && said.err.contains(says), "{words:?}: {said:?}");
        assert_eq!(world.sum(&device), before, "{words:?} changed the disk");
    };
    refused(&["-s", "150M"], 26, "no known file system");
    world.ok(
        "sh",
        &["-c", "printf 'label: gpt\\n,40M\\n,\\n' | sfdisk -q --no-tell-kernel $0", &device],
    );
    world.ok("partx", &["-u", &device]);
    mkfs(&world, "ext4", &format!("{device}p1"));
    mkfs(&world, "ext4", &format!("{device}p2"));
    refused(&["-s", "150M"], 33, "1 (41943040 bytes, ext4), 2 (");
    refused(&["-s", "150M"], 33, "--partition");
    refused(&["-s", "150M", "--partition", "1"], 33, "partition 2 lies behind it");
    refused(&["-s", "100M", "--partition", "1"], 33, "partition 2 lies behind it");
    refused(&["-s", "150M", "--partition", "3"], 33, "there is no partition 3");
    world.ok("mkswap", &["-q", &format!("{device}p2")]);
    refused(&["-s", "150M", "--partition", "2"], 26, "swap");
    refused(&["-s", "150M"], 33, "partition 2 lies behind it");
    world.ok("partx", &["-d", &device]);
    world.ploop_ok(&["detach", "a"]);
    assert_eq!(world.ploop(&["resize", "-s", "150M", "a"]).code, 33);
    let info = world.ploop_ok(&["--json", "info", "-s", "a"]).json();
    assert_eq!(info["size"]["size_bytes"], 120 << 20, "{info}");
}

/// Two disks, the second one's images on the file system of the first.
fn nested(world: &World) -> (String, String) {
    let (outer, inner) = (directory(world, "outer"), directory(world, "inner"));
    let image = world.disk("o").unwrap();
    world.ploop_ok(&["init", "-s", "600M", &image]);
    world.ploop_ok(&["mount", "-m", &outer, "o"]);
    fs::create_dir(world.path("outer/i")).unwrap();
    world.ploop_ok(&["init", "-s", "200M", "outer/i/root.hds"]);
    world.ploop_ok(&["mount", "-m", &inner, "outer/i"]);
    (outer, inner)
}

#[test]
fn disks_that_lie_on_each_other_rest_at_one_moment() {
    if !able("ext4") {
        return;
    }
    let world = World::new("nested").unwrap();
    let (outer, inner) = nested(&world);
    for (round, disks) in [["o", "outer/i"], ["outer/i", "o"]].into_iter().enumerate() {
        let script = "dd if=/dev/zero of=$0/z bs=1M count=40 conv=notrunc status=none";
        let mut load = world.command("sh").args(["-c", script, &inner]).spawn().unwrap();
        let begin = Instant::now();
        let said = world.ploop_ok(&["--json", "snapshot", disks[0], disks[1]]).json();
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
        assert!(load.wait().unwrap().success());
        let names: Vec<_> =
            said["snapshots"].as_array().unwrap().iter().map(|one| &one["image"]).collect();
        let of_inner = |name: &serde_json::Value| name.as_str().unwrap().contains("outer/i");
        assert_eq!(
            names.iter().map(|name| of_inner(name)).collect::<Vec<_>>(),
            [round == 1, round == 0]
        );
        assert_eq!((snapshots(&world, "o"), snapshots(&world, "outer/i")), (2 + round, 2 + round));
    }
    // One that cannot be frozen: no snapshot of either, and both go on.
    world.ok("fsfreeze", &["-f", &inner]);
    let said = world.ploop(&["snapshot", "o", "outer/i"]);
    world.ok("fsfreeze", &["-u", &inner]);
    assert!(said.code == 12 && said.err.contains(&inner), "{said:?}");
    // The outer one has a snapshot of that name: that of the inner one is taken back.
    world.ploop_ok(&["snapshot", "-u", NAME, "o"]);
    assert_eq!(world.ploop(&["snapshot", "-u", NAME, "o", "outer/i"]).code, 38);
    world.ok("timeout", &["20", "sync", "-f", &inner]);
    assert_eq!((snapshots(&world, "o"), snapshots(&world, "outer/i")), (4, 3));
    world.ploop_ok(&["umount", "-m", &inner]);
    world.ploop_ok(&["umount", "-m", &outer]);
    world.ploop_ok(&["check", "-f", "o"]);
}

#[test]
fn every_file_system_of_a_disk_rests_wherever_it_is_mounted() {
    if !able("ext4") || !have(&["sfdisk", "partx", "dumpe2fs"]) {
        return;
    }
    let world = World::new("rests").unwrap();
    let device = bare(&world, "a", 200).device;
    world.ok(
        "sh",
        &["-c", "printf 'label: gpt\\n,90M\\n,\\n' | sfdisk -q --no-tell-kernel $0", &device],
    );
    world.ok("partx", &["-u", &device]);
    let (one, two) = (format!("{device}p1"), format!("{device}p2"));
    mkfs(&world, "ext4", &one);
    mkfs(&world, "ext4", &two);
    let (at, away) = (directory(&world, "at"), directory(&world, "away"));
    world.ok("mount", &[&one, &at]);
    let elsewhere = Elsewhere::new(&world, &two, &away);
    let needs_recovery = |on: &str| world.ok("dumpe2fs", &["-h", on]).contains("needs_recovery");
    assert!(needs_recovery(&one) && needs_recovery(&two));
    let taken = world.ploop_ok(&["--json", "snapshot", "-u", NAME, "a"]).json();
    // The old top shows the moment.
    let found = world.ploop_ok(&["snapshot-list", "-H", "-o", "fname", "-u", NAME, "a"]).out;
    let frozen = found.lines().last().unwrap().trim().to_owned();
    assert_ne!(taken["image"].as_str(), Some(frozen.as_str()));
    let shown = world.attach(&["--via", "loop", "--ro", &frozen]);
    world.ok("partx", &["-u", &shown.device]);
    for part in ["p1", "p2"] {
        assert!(!needs_recovery(&format!("{}{part}", shown.device)), "{part} was not at rest");
    }
    world.ok("partx", &["-d", &shown.device]);
    world.detach(&shown);
    // Both go on.
    fs::write(world.path("at/file"), "after").unwrap();
    drop(elsewhere);
    world.ok("umount", &[&at]);
    world.ok("partx", &["-d", &device]);
    world.ploop_ok(&["detach", "a"]);
}

#[test]
fn whoever_freezes_thaws_when_the_tool_is_gone() {
    if !able("ext4") {
        return;
    }
    let world = World::new("thaws").unwrap();
    let device = bare(&world, "a", 64).device;
    mkfs(&world, "ext4", &device);
    let at = directory(&world, "at");
    world.ok("mount", &[&device, &at]);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(&format!(" {at} "))).unwrap();
    let place = format!("{}:{at}", line.split(' ').next().unwrap());
    let mut command = world.ploop_command(&["freeze-watch", &device, &place]);
    let mut watcher = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 7];
    watcher.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"frozen\n");
    let pid = watcher.id().to_string();
    for signal in ["-TERM", "-INT", "-HUP"] {
        world.ok("kill", &[signal, &pid]);
    }
    let touch = ["-k", "1", "1", "touch", &format!("{at}/x")].map(str::to_owned);
    let mut stuck = world.command("timeout").args(&touch).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(stuck.try_wait().unwrap().is_none(), "it is not frozen");
    assert!(watcher.try_wait().unwrap().is_none(), "a signal ended it");
    // As when the tool is killed.
    watcher.stdin.as_mut().unwrap().flush().unwrap();
    drop(watcher.stdin.take());
    assert!(watcher.wait().unwrap().success());
    let _ = stuck.wait();
    let writes = || world.run("timeout", &["5", "touch", &format!("{at}/y")]).code == 0;
    assert!(wait_until(Duration::from_secs(5), writes));
    world.ok("umount", &[&at]);
    world.ploop_ok(&["detach", "a"]);
}
