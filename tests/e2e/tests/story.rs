//! The life of a disk with layers, told on a mounted ext4 under fio: nothing is unmounted for it
//! but for the switch.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use ploop_e2e::checks::wants_clean;
use ploop_e2e::device::can_mount;
use ploop_e2e::nbd_client::Client;
use ploop_e2e::{World, can_attach, have};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Everything it takes, said once.
fn ready() -> bool {
    can_attach()
        && have(&["fio", "qemu-img", "mkfs.ext4", "e2fsck", "resize2fs", "blkid", "sha256sum"])
        && can_mount("ext4")
}

/// ext4 grows in use for whoever has `CAP_SYS_RESOURCE` (24).
fn may_resize_mounted() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & 1 << 24 != 0
}

struct Story {
    world: World,
    mnt: String,
    side: String,
    fio: Option<std::process::Child>,
    written: u32,
    /// Name and content of what was frozen.
    frozen: Vec<(String, String)>,
}

impl Story {
    fn begin() -> Self {
        let world = World::new("story").unwrap();
        let image = world.disk("a").unwrap();
        // 32 KiB clusters: the BAT needs another one at 8176 and at 16368 of them.
        world.ploop_ok(&["init", "-s", "160M", "-b", "64", &image]);
        let (mnt, side) = (world.text("mnt"), world.text("side"));
        fs::create_dir(&mnt).unwrap();
        fs::create_dir(&side).unwrap();
        let mut story = Self { world, mnt, side, fio: None, written: 0, frozen: Vec::new() };
        story.mount();
        fs::create_dir(format!("{}/data", story.mnt)).unwrap();
        story.load();
        story
    }

    fn mount(&self) {
        self.world.ploop_ok(&["mount", "--queues", "2", "-m", &self.mnt, "a"]);
    }

    /// fio writes and verifies beside everything that follows.
    fn load(&mut self) {
        let file = format!("{}/load", self.mnt);
        let args = [
            "--ioengine=io_uring",
            "--direct=1",
            "--rw=randrw",
            "--bs=4k",
            "--iodepth=8",
            "--size=24M",
            "--verify=crc32c",
            "--verify_backlog=64",
            "--verify_fatal=1",
            "--time_based",
            "--runtime=600",
            "--unlink=1",
            "--exitall",
        ];
        self.fio = Some(self.world.start_fio(&file, &args).unwrap());
    }

    /// fio ends as after its time: what it has verified by then was right.
    fn rest(&mut self) {
        // It lays its file out first.
        thread::sleep(Duration::from_secs(2));
        let child = self.fio.take().unwrap();
        self.world.ok("kill", &["-INT", &child.id().to_string()]);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("err= 0"), "{said}\n{err}");
        assert!(!err.contains("verify"), "{err}");
    }

    fn ploop(&self, args: &[&str]) {
        self.world.ploop_ok(args);
    }

    /// Another file, and what all of them are.
    fn write(&mut self) -> String {
        self.written += 1;
        let data = vec![self.written as u8; 700_000];
        fs::write(format!("{}/data/{}", self.mnt, self.written), data).unwrap();
        self.world.tree_sum(&format!("{}/data", self.mnt))
    }

    fn snapshot(&mut self) {
        let sum = self.write();
        let taken = self.world.ploop_ok(&["--json", "snapshot", "a"]).json();
        let uuid = taken["uuid"].as_str().unwrap().to_owned();
        self.shows(&uuid, &sum);
        self.frozen.push((uuid, sum));
    }

    /// A snapshot, mounted read-only beside the disk.
    fn shows(&self, uuid: &str, sum: &str) {
        let mount = ["mount", "-r", "-u", uuid, "-m", &self.side, "-o", "noload", "a"];
        self.ploop(&mount);
        assert_eq!(self.world.tree_sum(&format!("{}/data", self.side)), sum, "{uuid}");
        self.ploop(&["umount", "-m", &self.side]);
    }

    fn images(&self) -> usize {
        self.world.ploop_ok(&["snapshot-list", "-H", "a"]).out.lines().count()
    }

    fn all_show(&self) {
        for (uuid, sum) in &self.frozen {
            self.shows(uuid, sum);
        }
    }

    /// The device, its partition and the file system; mounted where the kernel lets us.
    fn resize(&mut self, size: &str) {
        let before = self.size();
        // The device alone grows in use in any case.
        self.ploop(&["grow", "-s", size, "a"]);
        let mounted = may_resize_mounted();
        if !mounted {
            ploop_e2e::skip("story", "no CAP_SYS_RESOURCE: ext4 is resized while not mounted");
            self.rest();
            self.ploop(&["umount", "-m", &self.mnt]);
        }
        self.ploop(&["resize", "-s", size, "a"]);
        if !mounted {
            self.mount();
            self.load();
        }
        assert!(self.size() > before + (100 << 20), "the file system has grown");
    }

    fn size(&self) -> u64 {
        let stat = self.world.ok("stat", &["-f", "-c", "%b %S", &self.mnt]);
        stat.split_whitespace().map(|word| word.parse::<u64>().unwrap()).product()
    }
}

#[test]
fn the_life_of_a_disk_in_use() {
    if !ready() {
        return;
    }
    let mut story = Story::begin();
    for _ in 0..10 {
        story.snapshot();
    }
    story.all_show();
    // A moment for a backup, gone when it is unmounted.
    let sum = story.write();
    let before = story.images();
    story.ploop(&["tsnapshot", "-m", &story.side, "a"]);
    story.write();
    assert_eq!(story.world.tree_sum(&format!("{}/data", story.side)), sum);
    story.ploop(&["umount", "-m", &story.side]);
    assert_eq!(story.images(), before);
    // One into its parent, the top into its parent, one deleted, the disk larger.
    let (gone, _) = story.frozen.remove(3);
    let above = story.frozen[3].0.clone();
    story.ploop(&["snapshot-merge", "-u", &above, "a"]);
    assert_eq!(story.world.ploop(&["snapshot-delete", "-u", &gone, "a"]).code, 43);
    story.ploop(&["snapshot-merge", "a"]);
    story.frozen.pop();
    story.all_show();
    story.resize("300M");
    let (uuid, _) = story.frozen.remove(0);
    story.ploop(&["snapshot-delete", "-u", &uuid, "a"]);
    story.snapshot();
    story.resize("600M");
    story.all_show();
    // Back to a snapshot: the only thing that wants the disk closed.
    story.rest();
    story.ploop(&["umount", "-m", &story.mnt]);
    wants_clean(&story.world, "a");
    let (uuid, sum) = story.frozen[4].clone();
    story.ploop(&["snapshot-switch", "-u", &uuid, "a"]);
    story.mount();
    assert_eq!(story.world.tree_sum(&format!("{}/data", story.mnt)), sum, "as it was then");
    story.load();
    story.all_show();
    // What another branch lies on stays, until the branch is gone.
    assert_eq!(story.world.ploop(&["snapshot-merge", "-A", "a"]).code, 38);
    while story.frozen.len() > 5 {
        let (uuid, _) = story.frozen.pop().unwrap();
        story.ploop(&["snapshot-delete", "-u", &uuid, "a"]);
    }
    story.snapshot();
    story.all_show();
    story.ploop(&["snapshot-merge", "-A", "a"]);
    let sum = story.write();
    assert_eq!(story.images(), 1);
    story.rest();
    assert_eq!(story.world.tree_sum(&format!("{}/data", story.mnt)), sum);
    story.ploop(&["umount", "-m", &story.mnt]);
    wants_clean(&story.world, "a");
    let attached = story.world.attach(&["a"]);
    let device = attached.partition.clone().unwrap_or_else(|| attached.device.clone());
    story.world.ok("e2fsck", &["-f", "-n", &device]);
    story.world.detach(&attached);
}

/// The longest time between two answers, while something happens.
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Instant, Duration)>>,
}

impl Ticker {
    /// Small reads, one after the other.
    fn start(socket: &str) -> Self {
        let mut client = Client::connect(socket.as_ref()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Vec::new();
            let mut last = Instant::now();
            let mut at = 0;
            while !over.load(Ordering::SeqCst) {
                at = (at + 77) % 4096;
                client.read(at * 4096, 4096).unwrap();
                let now = Instant::now();
                seen.push((now, now - last));
                last = now;
            }
            client.disconnect().unwrap();
            seen
        });
        Self { stop, thread }
    }

    fn end(self) -> Vec<(Instant, Duration)> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn quantiles(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    // The nearest rank: of a hundred, the 99th.
    let at = |share: usize| times[(times.len() * share).div_ceil(100).max(1) - 1];
    println!(
        "{what}: {} times, p50 {:?}, p99 {:?}, max {:?}",
        times.len(),
        at(50),
        at(99),
        times[times.len() - 1]
    );
}

/// The gaps that the client saw while each of these went on.
fn gaps(seen: &[(Instant, Duration)], windows: &[(Instant, Instant)]) -> Vec<Duration> {
    let longest = |(from, to): &(Instant, Instant)| {
        let inside = seen.iter().filter(|(at, gap)| *at >= *from && *at - *gap <= *to);
        inside.map(|(_, gap)| *gap).max().unwrap_or_default()
    };
    windows.iter().map(longest).collect()
}

#[test]
fn a_hundred_snapshots_and_merges_under_load_are_short() {
    if !have(&["fio", "qemu-img"]) {
        return;
    }
    let world = World::new("story-pause").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "256M", "-b", "512", "-t", "none", &image]);
    let socket = world.text("s");
    let nbd = format!("unix:{socket}");
    let server = world.serve(&["a", "--queues", "2", "--nbd", &nbd], 1);
    let load = [
        "--ioengine=nbd",
        "--rw=randrw",
        "--bs=4k",
        "--iodepth=8",
        "--numjobs=2",
        "--size=64M",
        "--offset_increment=64M",
        "--time_based",
        "--runtime=600",
    ];
    let mut fio = world.start_fio(&format!("nbd+unix:///?socket={socket}"), &load).unwrap();
    thread::sleep(Duration::from_millis(500));
    if let Some(status) = fio.try_wait().unwrap() {
        ploop_e2e::skip("story-pause", &format!("fio has no engine for nbd: {status}"));
        return;
    }
    let ticker = Ticker::start(&socket);
    let mut snapshots = Vec::new();
    let mut merges = Vec::new();
    let mut own = Vec::new();
    let mut merge_own = Vec::new();
    for round in 0..100 {
        let from = Instant::now();
        let taken = world.ploop_ok(&["--json", "snapshot", "a"]).json();
        snapshots.push((from, Instant::now()));
        own.push(Duration::from_nanos(taken["pause_ns"].as_u64().unwrap()));
        if round % 2 == 1 {
            let from = Instant::now();
            let merged = world.ploop_ok(&["--json", "snapshot-merge", "-A", "a"]).json();
            merges.push((from, Instant::now()));
            let pauses = merged["job"]["pause_ns"].as_array().unwrap().clone();
            merge_own.extend(pauses.iter().map(|p| Duration::from_nanos(p.as_u64().unwrap())));
        }
    }
    let seen = ticker.end();
    let syncs = world.ploop_ok(&["--json", "stat", "a"]).json()["sync_latency"].clone();
    world.ok("kill", &["-INT", &fio.id().to_string()]);
    let _ = fio.wait();
    quantiles("pause of a snapshot, by the server", own);
    quantiles("pause of a snapshot, longest gap seen by the client", gaps(&seen, &snapshots));
    quantiles("pauses of a merge, by the server", merge_own);
    quantiles("pause of a merge, longest gap seen by the client", gaps(&seen, &merges));
    println!("one sync meanwhile: p50 {} ns, p99 {} ns", syncs["p50_ns"], syncs["p99_ns"]);
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}
