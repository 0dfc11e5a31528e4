//! A block device goes when nobody has it, and never hangs: users are named, a full host is no
//! reason to wait, and what was left by force or by a kill is cleared away.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

use ploop_e2e::checks::wants_clean;
use ploop_e2e::device::{Attached, can_mount, is_configured};
use ploop_e2e::host::Small;
use ploop_e2e::world::{Said, wait_until};
use ploop_e2e::{World, can_attach, have};
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Whoever asks for the end of a device hears of its users within this.
const SOON: Duration = Duration::from_secs(5);
/// However it ends, it ends within this.
const END: Duration = Duration::from_secs(10);

fn attached(name: &str) -> Option<(World, Attached)> {
    if !can_attach() || !have(&["mkfs.ext4", "losetup", "dd"]) || !can_mount("ext4") {
        return None;
    }
    let world = World::new(name).unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
    let attached = world.attach(&["a"]);
    Some((world, attached))
}

fn timed(world: &World, args: &[&str]) -> (Said, Duration) {
    let begin = Instant::now();
    let said = world.ploop(args);
    (said, begin.elapsed())
}

/// Refused soon, with these words, and the device works as before.
fn refused(world: &World, device: &str, case: &str, words: &[&str]) {
    let (said, time) = timed(world, &["detach", device]);
    println!("{case}: {} after {time:?}: {}", said.code, said.err.trim());
    assert_eq!(said.code, 46, "{case}: {said:?}");
    assert!(time < SOON, "{case}: {time:?}");
    for word in words {
        assert!(said.err.contains(word), "{case}: no `{word}` in {said:?}");
    }
    world.ok("dd", &[&format!("if={device}"), "of=/dev/null", "bs=4k", "count=1", "status=none"]);
}

/// A process that has the device open, from the first byte it has read.
fn opener(world: &World, device: &str) -> Child {
    let script = format!("exec 3<{device}; dd bs=512 count=1 status=none <&3; exec sleep 60");
    let mut child =
        world.command("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 512];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    child
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn a_device_that_anybody_has_open_stays_and_they_are_named() {
    let Some((world, attached)) = attached("leaving-users") else { return };
    let device = attached.device.as_str();
    let mnt = world.text("mnt");
    fs::create_dir(&mnt).unwrap();
    let child = opener(&world, device);
    refused(&world, device, "a process", &["sleep", &child.id().to_string(), device]);
    end(child);
    let node = world.text("node");
    let name = Path::new(device).file_name().unwrap().to_str().unwrap();
    let number = fs::read_to_string(format!("/sys/class/block/{name}/dev")).unwrap();
    let (major, minor) = number.trim().split_once(':').unwrap();
    world.ok("mknod", &[&node, "b", major, minor]);
    let child = opener(&world, &node);
    refused(&world, device, "by another name", &["sleep", &child.id().to_string(), "node"]);
    end(child);
    // A file system on a loop device over it.
    let over = world.ok("losetup", &["-f", "--show", device]).trim().to_owned();
    refused(&world, device, "a loop device", &[&over, "lies on it"]);
    world.ok("mkfs.ext4", &["-q", &over]);
    world.ok("mount", &[&over, &mnt]);
    fs::write(format!("{mnt}/file"), "kept").unwrap();
    refused(&world, device, "a mounted loop device", &[&over, &mnt]);
    world.ok("sync", &["-f", &mnt]);
    world.ok("umount", &[&mnt]);
    world.ok("losetup", &["-d", &over]);
    // Mounted where only another process sees it.
    let script = format!("mount {device} {mnt} && echo up && exec sleep 60");
    let mut hidden = world
        .command("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    std::io::Read::read_exact(hidden.stdout.as_mut().unwrap(), &mut up).unwrap();
    let pid = hidden.id().to_string();
    refused(&world, device, "another namespace", &["mount namespace", &pid, &mnt]);
    end(hidden);
    if have(&["mkswap", "swapon"]) {
        let bytes = fs::read(device).unwrap();
        world.ok("mkswap", &["-f", device]);
        if world.run("swapon", &[device]).code == 0 {
            refused(&world, device, "swap", &["swap space"]);
            world.ok("swapoff", &[device]);
        }
        fs::write(device, bytes).unwrap();
    }
    world.ok("mount", &[device, &mnt]);
    assert_eq!(fs::read_to_string(format!("{mnt}/file")).unwrap(), "kept");
    world.ok("umount", &[&mnt]);
    world.detach(&attached);
    wants_clean(&world, "a");
}

/// A page of a device in memory, without an open descriptor.
struct Mapped(*mut libc::c_void);

impl Mapped {
    fn new(device: &str) -> Self {
        let file = fs::File::open(device).unwrap();
        let (kind, way) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: a new mapping of a file that is open; nothing else uses the address.
        let page =
            unsafe { libc::mmap(std::ptr::null_mut(), 4096, kind, way, file.as_raw_fd(), 0) };
        assert_ne!(page, libc::MAP_FAILED);
        Self(page)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped above, with this length.
        unsafe { libc::munmap(self.0, 4096) };
    }
}

#[test]
fn a_device_is_there_again_when_its_end_was_called_off() {
    if !can_attach() || !have(&["mkfs.ext4", "losetup"]) || !can_mount("ext4") {
        return;
    }
    let world = World::new("leaving-partition").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", &image]);
    let attached = world.attach(&["a"]);
    let said = world.ploop_ok(&["--json", "info", "-d", "a"]).json();
    let partition = said["partition"].as_str().unwrap().to_owned();
    assert_ne!(partition, attached.device);
    let run = fs::read_dir(world.path("run")).unwrap().flatten().map(|entry| entry.path());
    let file = run.into_iter().find(|path| path.extension().is_some_and(|e| e == "img")).unwrap();
    let below = fs::File::open(&file).unwrap();
    refused(&world, &attached.device, "the file below", &[file.to_str().unwrap()]);
    drop(below);
    // Mapped and closed: no list of open files has it, only the end of the device shows it.
    let mapped = Mapped::new(&attached.device);
    refused(&world, &attached.device, "a mapping", &["/proc and sysfs do not show"]);
    let mnt = world.text("mnt");
    fs::create_dir(&mnt).unwrap();
    world.ok("mount", &[&partition, &mnt]);
    fs::write(format!("{mnt}/file"), "kept").unwrap();
    world.ok("umount", &[&mnt]);
    drop(mapped);
    world.detach(&attached);
    wants_clean(&world, "a");
}

#[test]
fn umount_takes_the_disk_that_is_seen_on_a_directory() {
    if !can_attach() || !have(&["mkfs.ext4"]) || !can_mount("ext4") {
        return;
    }
    let world = World::new("leaving-two-mounts").unwrap();
    let mnt = world.text("mnt");
    fs::create_dir(&mnt).unwrap();
    for name in ["one", "two"] {
        let image = world.disk(name).unwrap();
        world.ploop_ok(&["init", "-s", "64M", &image]);
        world.ploop_ok(&["mount", "-m", &mnt, name]);
        fs::write(format!("{mnt}/name"), name).unwrap();
    }
    // The one below cannot be unmounted by its directory.
    let said = world.ploop(&["umount", "one"]);
    assert_eq!(said.code, 46, "{said:?}");
    assert!(said.err.contains("is mounted over"), "{said:?}");
    assert_eq!(fs::read_to_string(format!("{mnt}/name")).unwrap(), "two");
    for (seen, gone) in [("two", "two"), ("one", "one")] {
        assert_eq!(fs::read_to_string(format!("{mnt}/name")).unwrap(), seen);
        world.ploop_ok(&["umount", "-m", &mnt]);
        assert_eq!(world.ploop(&["info", "-d", gone]).code, 40, "{gone} is still attached");
    }
}

/// Flags of a `dd` that fills the host: it writes directly, one request at a time; the page cache
/// is written back as it goes, or at its end, then more than the server's memory takes at once.
const WRITERS: [&str; 3] = ["oflag=direct", "oflag=nocache", "conv=fsync"];

/// A full host: writes are held, of a process that writes directly, or of the page cache when the
/// process that filled it was killed.
struct Full {
    world: World,
    attached: Attached,
    writer: Option<Child>,
}

impl Full {
    fn new(name: &str, flag: &str) -> Self {
        let world = World::new(name).unwrap();
        let host = world.small_host("host", Small::Tmpfs, 24);
        fs::create_dir(host.join("a")).unwrap();
        let image = world.text("host/a/root.hds");
        world.ploop_ok(&["init", "-s", "96M", "-t", "none", &image]);
        let attached = world.attach(&["--via", "loop", "host/a"]);
        let out = format!("of={}", attached.device);
        let mut dd = world.command("dd");
        dd.args(["if=/dev/urandom", &out, "bs=1M", "count=64", flag, "status=none"]);
        let mut writer = dd.stderr(Stdio::null()).spawn().unwrap();
        let full = wait_until(Duration::from_secs(30), || {
            world.counter("held").is_some_and(|held| held > 0)
        });
        assert!(full, "nothing is held");
        if flag != WRITERS[0] {
            // Killed, it hangs on in a call that waits for the device, and has lost all it could.
            let _ = writer.kill();
        }
        Self { world, attached, writer: Some(writer) }
    }

    fn pid(&self) -> String {
        let said = self.world.ploop_ok(&["--json", "list"]).json();
        said["disks"][0]["pid"].to_string()
    }

    /// The way an end takes, and its time.
    fn ends(&self, way: &str) -> (i32, Duration) {
        let begin = Instant::now();
        let pid = self.pid();
        let gone = || !Path::new("/proc").join(&pid).exists() || is_zombie(&pid);
        let code = match way {
            "detach" => self.world.ploop(&["detach", &self.attached.device]).code,
            "force" => self.world.ploop(&["detach", "--force", &self.attached.device]).code,
            signal => {
                self.world.ok("kill", &[signal, &pid]);
                0
            }
        };
        if code != 46 {
            assert!(wait_until(END, gone), "{way}: the server does not end");
        }
        (code, begin.elapsed())
    }

    /// The writer is gone, there is space, and the disk opens again.
    fn opens_again(mut self, case: &str, still_there: bool) {
        if let Some(mut writer) = self.writer.take() {
            let _ = writer.kill();
            if still_there {
                // Killed, and held by the device that is to go.
                let (said, time) = timed(&self.world, &["detach", &self.attached.device]);
                assert!(said.code == 7 && time < END, "{case}: {said:?} {time:?}");
            }
            let _ = writer.wait();
        }
        let host = self.world.text("host");
        self.world.ok("mount", &["-o", "remount,size=160M", &host]);
        let again = self.world.attach(&["--via", "loop", "host/a"]);
        self.world.ok("dd", &["if=/dev/zero", &format!("of={}", again.device), "bs=1M", "count=9"]);
        self.world.detach(&again);
        self.world.ploop_ok(&["check", "-f", "host/a"]);
    }
}

fn is_zombie(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_full_host_never_keeps_a_device_from_ending() {
    if !can_attach() || !have(&["dd"]) {
        return;
    }
    for flag in WRITERS {
        for way in ["detach", "force", "-TERM", "-KILL"] {
            let full = Full::new("leaving-full", flag);
            let (code, time) = full.ends(way);
            let case = format!("{flag}, {way}");
            println!("{case}: {code} after {time:?}");
            assert!(time < END, "{case}: {time:?}");
            let used = flag == WRITERS[0] && way == "detach";
            let want = match way {
                // Somebody waits for his write and would lose the rest.
                "detach" if used => 46,
                // T17
                "detach" | "force" => 7,
                _ => 0,
            };
            assert_eq!(code, want, "{case}");
            full.opens_again(&case, used);
        }
    }
}

fn levels(world: &World, disk: &str) -> usize {
    world.ploop_ok(&["snapshot-list", "-H", disk]).out.lines().count()
}

/// Kills the servers of a disk and of a temporary snapshot of it, both still mounted.
fn interrupted_backup(world: &World) -> [String; 2] {
    let [mnt, copy] = ["mnt", "copy"].map(|name| world.text(name));
    world.ploop_ok(&["mount", "-m", &mnt, "a"]);
    world.ploop_ok(&["tsnapshot", "-m", &copy, "a"]);
    assert_eq!(levels(world, "a"), 2);
    let said = world.ploop_ok(&["--json", "list"]).json();
    for disk in said["disks"].as_array().unwrap() {
        let pid = disk["pid"].to_string();
        world.ok("kill", &["-KILL", &pid]);
        let gone = || !Path::new("/proc").join(&pid).exists() || is_zombie(&pid);
        assert!(wait_until(END, gone), "{pid} does not end");
    }
    [mnt, copy]
}

#[test]
fn what_killed_servers_left_is_cleared_by_whatever_comes_next() {
    if !can_attach() || !have(&["mkfs.ext4"]) || !can_mount("ext4") {
        return;
    }
    let world = World::new("leaving-leftovers").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", &image]);
    fs::create_dir(world.path("mnt")).unwrap();
    fs::create_dir(world.path("copy")).unwrap();
    let socket = format!("unix:{}", world.text("s"));
    let verbs: [&[&str]; 4] =
        [&["mount", "-m", "mnt", "a"], &["attach", "a"], &["info", "a"], &["snapshot", "a"]];
    for verb in verbs {
        let dirs = interrupted_backup(&world);
        let said = world.ploop_ok(verb);
        let wanted = if verb[0] == "snapshot" { 2 } else { 1 };
        assert_eq!(levels(&world, "a"), wanted, "{said:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let lines =
            mounts.lines().filter(|line| dirs.iter().any(|dir| line.contains(dir.as_str())));
        let wanted = usize::from(verb[0] == "mount");
        assert_eq!(lines.count(), wanted, "{verb:?}: {mounts}");
        let _ = world.ploop(&["umount", "a"]);
        let _ = world.ploop(&["detach", "a"]);
        if verb[0] == "snapshot" {
            world.ploop_ok(&["snapshot-merge", "a"]);
        }
        let left: Vec<_> = fs::read_dir(world.path("run")).unwrap().flatten().collect();
        let entries = left.iter().filter(|file| {
            file.path().extension().is_some_and(|e| e == "json" || e == "sock" || e == "img")
        });
        assert_eq!(entries.count(), 0, "{verb:?}: {left:?}");
        let loops = fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.path());
        let below = loops.filter_map(|path| fs::read(path.join("loop/backing_file")).ok());
        let ours = world.text("run").into_bytes();
        assert_eq!(below.filter(|file| file.starts_with(&ours)).count(), 0, "{verb:?}");
    }
    interrupted_backup(&world);
    let server = world.serve(&["a", "--nbd", &socket], 1);
    assert_eq!(levels(&world, "a"), 1);
    assert_eq!(server.end("-TERM"), 0);
    world.ploop_ok(&["check", "-f", "a"]);
}

/// Programs that list mounts write the file below a loop device that the kernel frees by itself.
#[test]
fn the_list_of_mounts_names_the_device() {
    if !can_attach() || !have(&["mkfs.ext4", "mount"]) || !can_mount("ext4") {
        return;
    }
    let world = World::new("leaving-names").unwrap();
    let mnt = world.text("mnt");
    fs::create_dir(&mnt).unwrap();
    for (name, bare) in [("bare", true), ("partition", false)] {
        let image = world.disk(name).unwrap();
        let table: &[&str] = if bare { &["-P"] } else { &[] };
        world.ploop_ok(&[&["init", "-s", "64M"], table, &[&image]].concat());
        let said = world.ploop_ok(&["--json", "mount", "-m", &mnt, name]).json();
        let device = said["device"].as_str().unwrap().to_owned();
        let list = world.ok("mount", &[]);
        let line = list.lines().find(|line| line.contains(&format!(" on {mnt} "))).unwrap();
        assert!(line.starts_with(&format!("{device} on ")), "{line}, not {device}");
        world.ploop_ok(&["umount", "-m", &mnt]);
        assert!(!is_configured(&device), "{device} is still there");
    }
}

/// A backup's snapshot goes with its device, by whichever verb that is ended.
#[test]
fn a_temporary_snapshot_goes_when_its_device_is_detached() {
    if !can_attach() || !have(&["mkfs.ext4"]) || !can_mount("ext4") {
        return;
    }
    let world = World::new("leaving-temporary").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", &image]);
    let [mnt, copy] = ["mnt", "copy"].map(|name| world.text(name));
    fs::create_dir(&mnt).unwrap();
    fs::create_dir(&copy).unwrap();
    for open in [false, true] {
        if open {
            world.ploop_ok(&["mount", "-m", &mnt, "a"]);
        }
        world.ploop_ok(&["tsnapshot", "-m", &copy, "a"]);
        // Another verb does not take it for one that was left.
        world.ploop_ok(&["info", "-s", "a"]);
        assert_eq!(levels(&world, "a"), 2);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let device = mounts.lines().find(|line| line.contains(&copy)).unwrap();
        let device = device.split(' ').next().unwrap().to_owned();
        world.ok("umount", &[&copy]);
        world.ploop_ok(&["detach", &device]);
        assert_eq!(levels(&world, "a"), 1);
    }
    world.ploop_ok(&["umount", "-m", &mnt]);
    wants_clean(&world, "a");
}

/// What was stored at the last unmount is of another day once somebody else has mounted the disk.
#[test]
fn info_tells_what_is_there_now() {
    if !can_attach() || !have(&["mkfs.ext4"]) || !can_mount("ext4") {
        return;
    }
    let world = World::new("leaving-info").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "128M", &image]);
    let mnt = world.text("mnt");
    fs::create_dir(&mnt).unwrap();
    world.ploop_ok(&["mount", "-m", &mnt, "a"]);
    world.ploop_ok(&["umount", "-m", &mnt]);
    let used = || {
        let said = world.ploop_ok(&["--json", "info", "a"]).json();
        said["file_system"]["used_bytes"].as_u64().unwrap()
    };
    let before = used();
    let attached = world.attach(&["a"]);
    let said = world.ploop_ok(&["--json", "info", "-d", "a"]).json();
    world.ok("mount", &[said["partition"].as_str().unwrap(), &mnt]);
    fs::write(format!("{mnt}/file"), vec![7; 32 << 20]).unwrap();
    world.ok("umount", &[&mnt]);
    world.detach(&attached);
    let now = used();
    assert!(now >= before + (32 << 20), "{before} bytes in use, then {now}");
}
