//! Block devices and file systems on them: root, FUSE and loop.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
use common::{World, can_attach, have, sh};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Between two looks at what a dying server leaves.
const TICK: Duration = Duration::from_millis(50);

#[test]
fn attach_prints_the_device_and_detach_takes_it_away() {
    if !can_attach() {
        return;
    }
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "64M", "-t", "none", &image]);
    let said = world.ok(&["attach", "--via", "loop", &world.text("a")]);
    let device = said.out.trim_end().to_owned();
    assert!(device.starts_with("/dev/loop") && Path::new(&device).exists(), "{said:?}");
    assert_eq!(sh("blockdev", &["--getsize64", &device]).trim(), (64 << 20).to_string());
    let said = world.run(&["attach", &image]);
    assert_eq!(said.code, 37, "{said:?}");
    assert!(said.err.contains(&device), "{said:?}");
    assert_eq!(world.ok(&["list"]).out, format!("{}\t{image}\n", &device[5..]));
    sh("dd", &["if=/dev/urandom", &format!("of={device}"), "bs=1M", "count=8", "oflag=direct"]);
    let sum = sh("sha256sum", &[&device]);
    world.ok(&["detach", &device]);
    assert_eq!(world.run(&["detach", &device]).code, 40);
    world.ok(&["check", "-f", &image]);
    let json = world.ok(&["--json", "attach", "--ro", &image]).json();
    let again = json["device"].as_str().unwrap();
    assert_eq!(json["read_only"], true);
    assert_eq!(sh("sha256sum", &[again]).split(' ').next(), sum.split(' ').next());
    world.ok(&["detach", &world.text("a/DiskDescriptor.xml")]);
}

/// Where there is ublk, `cargo xtask vm` tests it.
#[test]
fn without_ublk_it_is_an_error_or_a_loop_device_as_asked() {
    if !can_attach() {
        return;
    }
    if Path::new("/dev/ublk-control").exists() {
        return ploop_e2e::skip("without_ublk", "there is ublk here");
    }
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "64M", "-t", "none", &image]);
    let said = world.run(&["attach", "--via", "ublk", &image]);
    assert!(said.code != 0 && said.err.contains("ublk_drv"), "{said:?}");
    assert!(said.err.contains("--via loop"), "{said:?}");
    world.ok(&["check", "-f", &image]);
    let said = world.ok(&["attach", "--via", "auto", &image]);
    assert!(said.out.starts_with("/dev/loop"), "{said:?}");
    world.ok(&["detach", &image]);
    let said = world.run(&["attach", "--via", "ublk", "--io-engine", "threads", &image]);
    assert!(said.code != 0 && said.err.contains("io_uring"), "{said:?}");
}

#[test]
fn mkfs_mount_write_umount_and_mount_again() {
    if !can_attach() || !have("mkfs.ext4") || !have("e2fsck") {
        return;
    }
    let world = World::new();
    let image = world.disk("a");
    std::fs::create_dir(world.path("mnt")).unwrap();
    let mnt = world.text("mnt");
    world.ok(&["init", "-s", "256M", &image]);
    let said = world.ok(&["mount", "-F", "-m", &mnt, &world.text("a")]);
    let device = device_of(&said.out);
    assert_eq!(said.out, format!("Adding delta dev={device} img={image} (rw)\n"));
    std::fs::write(world.path("mnt/hello"), "hello").unwrap();
    let said = world.run(&["detach", &device]);
    assert_eq!(said.code, 46, "it is mounted: {said:?}");
    assert_eq!(world.run(&["mount", "-m", &mnt, &image]).code, 17);
    assert!(world.ok(&["list", "-a"]).out.ends_with(&format!("\t{mnt}\n")));
    let said = world.ok(&["info", "-d", &image]);
    assert_eq!(said.out, format!("device:\t\t{device}\npartition:\t{device}p1\n"));
    world.ok(&["umount", "-m", &mnt]);
    assert_eq!(std::fs::metadata(world.path("a/.statfs")).unwrap().len(), 40);
    let said = world.ok(&["info", &image]);
    assert!(said.out.starts_with("   resource           Size           Used\n  1k-blocks "));
    assert_eq!(world.run(&["umount", "-m", &mnt]).code, 40);
    world.ok(&["snapshot", &image]);
    let said = world.ok(&["mount", "-r", "-m", &mnt, &world.text("a/DiskDescriptor.xml")]);
    assert_eq!(said.out.lines().count(), 2, "{said:?}");
    assert!(said.out.lines().all(|line| line.ends_with("(ro)")), "{said:?}");
    assert!(!world.path("a/.statfs").exists());
    assert_eq!(std::fs::read_to_string(world.path("mnt/hello")).unwrap(), "hello");
    sh("umount", &[&mnt]);
    world.ok(&["umount", "-m", &mnt]);
    // Somebody else may have the first device by now.
    let device = device_of(&world.ok(&["mount", &image]).out);
    world.ok(&["umount", "-d", &device]);
    world.ok(&["check", "-f", &world.text("a")]);
}

/// The device in the first line of `mount`.
fn device_of(said: &str) -> String {
    said.split("dev=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn partitions_of_a_killed_server_are_not_taken_for_ours() {
    if !can_attach() {
        return;
    }
    let world = World::new();
    let (one, two) = (world.disk("one"), world.disk("two"));
    world.ok(&["init", "-s", "64M", &one]);
    world.ok(&["init", "-s", "96M", &two]);
    for _ in 0..4 {
        let json = world.ok(&["--json", "attach", &one]).json();
        assert!(json["partition"].is_string(), "{json}");
        sh("kill", &["-KILL", &json["pid"].to_string()]);
        let json = world.ok(&["--json", "attach", &two]).json();
        let partition = json["partition"].as_str().unwrap();
        assert_eq!(sh("blockdev", &["--getsize64", partition]).trim(), (94 << 20).to_string());
        world.ok(&["detach", &two]);
    }
    let said = world.ok(&["attach", &one]);
    let (json, device) = (world.ok(&["--json", "list"]).json(), said.out.trim_end());
    assert_eq!(json["disks"][0]["partition"], format!("{device}p1"));
    world.ok(&["detach", &format!("{device}p1")]);
}

#[test]
fn xfs_without_a_partition_table() {
    if !can_attach() || !have("mkfs.xfs") {
        return;
    }
    let world = World::new();
    let image = world.disk("a");
    std::fs::create_dir(world.path("mnt")).unwrap();
    world.ok(&["init", "-s", "400M", "-t", "xfs", "-P", "-L", "label", &image]);
    // Not mounted and no .statfs: it is mounted for a moment.
    let json = world.ok(&["--json", "info", &image]).json();
    assert!(json["file_system"]["size_bytes"].as_u64().unwrap() > 300 << 20, "{json}");
    let json = world.ok(&["--json", "mount", "-m", &world.text("mnt"), &image]).json();
    assert_eq!(json["partition"], serde_json::Value::Null);
    let device = json["device"].as_str().unwrap();
    assert_eq!(sh("blkid", &["-o", "value", "-s", "LABEL", device]).trim(), "label");
    world.ok(&["umount", &image]);
    world.ok(&["check", "-f", &image]);
}

#[test]
fn a_failed_mkfs_leaves_nothing_behind() {
    if !can_attach() || !have("mkfs.xfs") {
        return;
    }
    let world = World::new();
    let image = world.disk("a");
    let said = world.run(&["init", "-s", "16M", "-t", "xfs", &image]);
    assert_eq!(said.code, 24, "xfs does not fit: {said:?}");
    assert!(!world.path("a/root.hds").exists() && !world.path("a/DiskDescriptor.xml").exists());
    assert_eq!(world.ok(&["list"]).out, "");
}

#[test]
fn a_signal_waits_for_the_file_system_to_go() {
    if !can_attach() || !have("mkfs.ext4") {
        return;
    }
    let world = World::new();
    let image = world.disk("a");
    std::fs::create_dir(world.path("mnt")).unwrap();
    world.ok(&["init", "-s", "64M", "-P", &image]);
    world.ok(&["mount", "-m", &world.text("mnt"), &image]);
    let pid = world.ok(&["--json", "list"]).json()["disks"][0]["pid"].to_string();
    sh("kill", &["-TERM", &pid]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    std::fs::write(world.path("mnt/late"), vec![1; 1 << 20]).unwrap();
    sh("umount", &[&world.text("mnt")]);
    let gone = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        !Command::new("kill")
            .args(["-0", &pid])
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    });
    assert!(gone, "the server stops when the device is free");
    world.ok(&["check", &image]);
    world.ok(&["mount", "-r", "-m", &world.text("mnt"), &image]);
    assert_eq!(std::fs::metadata(world.path("mnt/late")).unwrap().len(), 1 << 20);
    world.ok(&["umount", "-m", &world.text("mnt")]);
}

#[test]
fn nobody_waits_for_a_server_in_the_background() {
    if !can_attach() {
        return;
    }
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "64M", "-t", "none", &image]);
    let ploop = env!("CARGO_BIN_EXE_ploop");
    // The substitution ends when the last copy of the pipe is closed, 1, 2 and 7.
    let script = format!("out=$({ploop} attach {image} 2>&1 7>&1); echo \"$out\"");
    let output = Command::new("timeout")
        .args(["20", "bash", "-c", &script])
        .env("PLOOP_RUN_DIR", world.path("run"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    world.ok(&["detach", std::str::from_utf8(&output.stdout).unwrap().trim_end()]);
}

#[test]
fn the_device_of_a_killed_server_can_be_made_again() {
    if !can_attach() {
        return;
    }
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "64M", "-t", "none", &image]);
    for _ in 0..3 {
        let device = world.ok(&["attach", &image]).out.trim_end().to_owned();
        let json = world.ok(&["--json", "list"]).json();
        sh("dd", &["if=/dev/urandom", &format!("of={device}"), "bs=1M", "count=4", "oflag=direct"]);
        sh("kill", &["-KILL", &json["disks"][0]["pid"].to_string()]);
    }
    world.ok(&["attach", &image]);
    world.ok(&["detach", &image]);
    world.ok(&["check", "-f", &image]);
}

/// What a killed server left in the registry's directory, and mounts over it. Its log stays for
/// people, and the record of its changes for the next writable open (I14).
fn left(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.path("run")).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let stays = |name: &String| {
        name == ".lock" || [".log", ".record"].iter().any(|end| name.ends_with(end))
    };
    let mut left: Vec<_> = names.filter(|name| !stays(name)).collect();
    let run = world.text("run");
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    left.extend(table.lines().filter(|line| line.contains(&run)).map(str::to_owned));
    left
}

#[test]
fn detach_takes_away_what_a_killed_server_left() {
    if !can_attach() {
        return;
    }
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "64M", "-t", "none", &image]);
    for by_device in [false, true] {
        let json = world.ok(&["--json", "attach", &image]).json();
        sh("kill", &["-KILL", &json["pid"].to_string()]);
        let device = json["device"].as_str().unwrap();
        let said = world.ok(&["detach", if by_device { device } else { &image }]);
        assert!(said.err.contains("was killed"), "{said:?}");
        assert!(left(&world).is_empty(), "{:?}", left(&world));
        // Whoever attaches next may have got the same device already.
        let backing = Path::new("/sys/block").join(&device[5..]).join("loop/backing_file");
        let file = std::fs::read_to_string(backing).unwrap_or_default();
        assert!(!file.contains(&world.text("run")), "{device}: {file}");
        assert_eq!(world.run(&["detach", &image]).code, 40);
    }
    // Whoever looks at the registry tidies up too.
    let json = world.ok(&["--json", "attach", &image]).json();
    sh("kill", &["-KILL", &json["pid"].to_string()]);
    let gone = || world.ok(&["list"]).out.is_empty() && left(&world).is_empty();
    assert!(
        (0..100).any(|_| gone() || {
            std::thread::sleep(TICK);
            false
        }),
        "{:?}",
        left(&world)
    );
}

#[test]
fn a_file_system_of_a_killed_server_can_be_unmounted() {
    if !can_attach() || !have("mkfs.ext4") {
        return;
    }
    let world = World::new();
    let image = world.disk("a");
    let mnt = world.text("mnt");
    std::fs::create_dir(&mnt).unwrap();
    world.ok(&["init", "-s", "64M", &image]);
    world.ok(&["mount", "-m", &mnt, &image]);
    let json = world.ok(&["--json", "list"]).json();
    sh("kill", &["-KILL", &json["disks"][0]["pid"].to_string()]);
    assert!((0..100).any(|_| world.ok(&["list"]).out.is_empty() || {
        std::thread::sleep(TICK);
        false
    }));
    for target in [&image, json["disks"][0]["device"].as_str().unwrap()] {
        let said = world.run(&["detach", target]);
        assert_eq!(said.code, 46, "{said:?}");
    }
    world.ok(&["umount", "-m", &mnt]);
    assert!(left(&world).is_empty(), "{:?}", left(&world));
    assert_eq!(world.run(&["umount", "-m", &mnt]).code, 40);
    world.ok(&["mount", "-m", &mnt, &image]);
    world.ok(&["umount", &image]);
    world.ok(&["check", "-f", &image]);
}
