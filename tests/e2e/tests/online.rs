//! Layer operations on a disk in use: the client sees no error and loses nothing, and the image is
//! sound at the end.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use ploop_e2e::checks::{seed, wants_clean};
use ploop_e2e::host::ControlClient;
use ploop_e2e::nbd_client::Client;
use ploop_e2e::stamps::Ledger;
use ploop_e2e::world::{Said, Server};
use ploop_e2e::{World, have};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Of 64 MiB.
const ZONE: u64 = 24 << 20;

/// A disk, its server, and a client that never rests.
struct Stage {
    world: World,
    server: Option<Server>,
    rest: Arc<AtomicBool>,
    traffic: Option<JoinHandle<(Client, Ledger)>>,
}

impl Stage {
    fn new(name: &str, init: &[&str]) -> Self {
        let world = World::new(name).unwrap();
        let image = world.disk("a").unwrap();
        world.ploop_ok(&[&["init", "-s", "64M", "-t", "none"], init, &[&image]].concat());
        let ledger = Ledger::new(ZONE, seed());
        let mut stage = Self { world, server: None, rest: Arc::default(), traffic: None };
        stage.open(ledger);
        stage
    }

    fn open(&mut self, mut ledger: Ledger) {
        let socket = self.world.text("s");
        let nbd = format!("unix:{socket}");
        self.server = Some(self.world.serve(&["a", "--queues", "2", "--nbd", &nbd], 1));
        let mut client = Client::connect(socket.as_ref()).unwrap();
        ledger.verify(&mut client).unwrap();
        self.go(client, ledger);
    }

    fn go(&mut self, mut client: Client, mut ledger: Ledger) {
        self.rest.store(false, Ordering::SeqCst);
        let rest = Arc::clone(&self.rest);
        self.traffic = Some(thread::spawn(move || {
            while !rest.load(Ordering::SeqCst) {
                assert!(ledger.traffic(&mut client, 200).unwrap(), "the connection broke");
            }
            (client, ledger)
        }));
    }

    /// Stops the client and looks at every sector.
    fn rest(&mut self) -> (Client, Ledger) {
        self.rest.store(true, Ordering::SeqCst);
        let (mut client, mut ledger) = self.traffic.take().unwrap().join().unwrap();
        ledger.verify(&mut client).unwrap();
        (client, ledger)
    }

    fn look(&mut self) {
        let (client, ledger) = self.rest();
        self.go(client, ledger);
    }

    fn ploop(&self, args: &[&str]) -> Said {
        self.world.ploop_ok(&[&["-v1", "--json"], args].concat())
    }

    fn snapshot(&self) -> String {
        thread::sleep(Duration::from_millis(30));
        let said = self.ploop(&["snapshot", "a"]).json();
        said["uuid"].as_str().unwrap().to_owned()
    }

    /// What a hash of the device gives while nobody writes.
    fn sum(client: &mut Client) -> Vec<u8> {
        (0..ZONE / (1 << 20)).flat_map(|mib| client.read(mib << 20, 1 << 20).unwrap()).collect()
    }

    fn images(&self) -> usize {
        let snapshots = self.world.ploop_ok(&["snapshot-list", "-H", "a"]);
        snapshots.out.lines().count()
    }

    fn end(mut self) {
        let (client, _) = self.rest();
        client.disconnect().unwrap();
        let server = self.server.take().unwrap();
        assert_eq!(server.end("-TERM"), 0);
        wants_clean(&self.world, "a");
    }
}

fn clusters(init: &str) -> Vec<&str> {
    vec!["-b", init]
}

#[test]
fn snapshots_while_a_client_writes_show_their_moment() {
    if !have(&["qemu-img"]) {
        return;
    }
    let mut stage = Stage::new("online-snapshot", &clusters("128"));
    let mut kept = Vec::new();
    for _ in 0..6 {
        stage.snapshot();
        // Nobody writes around this one: it shows what was there.
        let (mut client, ledger) = stage.rest();
        let content = Stage::sum(&mut client);
        let uuid = stage.snapshot();
        stage.go(client, ledger);
        kept.push((uuid, content));
    }
    assert_eq!(stage.images(), 13);
    stage.look();
    for (uuid, content) in &kept {
        let shown = stage.world.ploop_ok(&["snapshot-list", "-H", "-o", "fname", "-u", uuid, "a"]);
        let image = shown.out.lines().last().unwrap().trim().to_owned();
        let socket = stage.world.text("frozen");
        let nbd = format!("unix:{socket}");
        let frozen = stage.world.serve(&["--ro", &image, "--nbd", &nbd], 1);
        let mut client = Client::connect(socket.as_ref()).unwrap();
        assert!(Stage::sum(&mut client) == *content, "{uuid} shows something else");
        client.disconnect().unwrap();
        assert_eq!(frozen.end("-TERM"), 0);
    }
    stage.end();
}

#[test]
fn merges_while_a_client_writes_lose_nothing() {
    if !have(&["qemu-img"]) {
        return;
    }
    let mut stage = Stage::new("online-merge", &clusters("128"));
    let mut names = Vec::new();
    for _ in 0..5 {
        names.push(stage.snapshot());
    }
    let before = stage.images();
    // The top into its parent, a middle one, one by its deletion, then all.
    let done = stage.ploop(&["snapshot-merge", "a"]).json();
    assert_eq!(done["job"]["state"], "done", "{done}");
    stage.look();
    assert_eq!(stage.images(), before - 1);
    stage.ploop(&["snapshot-merge", "-u", &names[2], "a"]);
    stage.look();
    assert_eq!(stage.images(), before - 2);
    stage.ploop(&["snapshot-delete", "-u", &names[0], "a"]);
    stage.look();
    assert_eq!(stage.images(), before - 3);
    stage.snapshot();
    stage.ploop(&["snapshot-merge", "-A", "a"]);
    stage.look();
    assert_eq!(stage.images(), 1);
    let files = std::fs::read_dir(stage.world.path("a")).unwrap().flatten();
    let files: Vec<_> = files.map(|f| f.file_name().into_string().unwrap()).collect();
    assert_eq!(files.iter().filter(|f| f.starts_with("root.hds")).count(), 1, "{files:?}");
    stage.end();
}

/// A disk with a snapshot, and a top with some of what the client writes.
fn stage_to_merge(name: &str, init: &[&str]) -> Stage {
    let stage = Stage::new(name, init);
    thread::sleep(Duration::from_millis(300));
    stage.snapshot();
    thread::sleep(Duration::from_millis(300));
    stage
}

/// Cancels a slow merge of the top, and goes on with it in another life.
fn cancelled(mut stage: Stage, rate: &str) {
    let merge = ["--json", "snapshot-merge", "--rate", rate, "a"];
    let mut slow = stage.world.ploop_command(&merge).spawn().unwrap();
    thread::sleep(Duration::from_millis(900));
    // One at a time.
    assert_eq!(stage.world.ploop(&["snapshot", "a"]).code, 17);
    assert_eq!(stage.world.ploop(&["grow", "-s", "80M", "a"]).code, 17);
    stage.ploop(&["jobs", "--cancel", "1", "a"]);
    assert_ne!(slow.wait().unwrap().code(), Some(0));
    stage.look();
    assert_eq!(stage.images(), 2);
    // A life without the job.
    let (client, ledger) = stage.rest();
    client.disconnect().unwrap();
    assert_eq!(stage.server.take().unwrap().end("-TERM"), 0);
    stage.open(ledger);
    stage.look();
    stage.ploop(&["snapshot-merge", "a"]);
    stage.look();
    assert_eq!(stage.images(), 1);
    stage.end();
}

/// Kills the server in a slow merge of the top. What the next one serves.
fn killed(stage: &mut Stage, rate: &str) {
    let merge = ["--json", "snapshot-merge", "--rate", rate, "a"];
    let mut slow = stage.world.ploop_command(&merge).spawn().unwrap();
    thread::sleep(Duration::from_millis(900));
    let (client, ledger) = stage.rest();
    drop((client, stage.server.take()));
    assert_ne!(slow.wait().unwrap().code(), Some(0));
    stage.open(ledger);
    stage.look();
}

#[test]
fn a_merge_that_is_cancelled_goes_on_with_the_next_one() {
    if have(&["qemu-img"]) {
        cancelled(stage_to_merge("online-cancel", &clusters("128")), "64K");
    }
}

#[test]
fn a_merge_into_a_raw_base_that_is_cancelled_goes_on_with_the_next_one() {
    if have(&["qemu-img"]) {
        cancelled(stage_to_merge("online-raw-cancel", &["-f", "raw"]), "1M");
    }
}

#[test]
fn a_merge_survives_a_kill() {
    if !have(&["qemu-img"]) {
        return;
    }
    let mut stage = stage_to_merge("online-kill", &clusters("128"));
    killed(&mut stage, "256K");
    stage.ploop(&["snapshot-merge", "a"]);
    stage.look();
    assert_eq!(stage.images(), 1);
    stage.end();
}

#[test]
fn a_merge_into_a_raw_base_survives_a_kill() {
    if !have(&["qemu-img"]) {
        return;
    }
    let mut stage = stage_to_merge("online-raw-kill", &["-f", "raw"]);
    killed(&mut stage, "1M");
    // Closed, the original's way ends it too.
    let (client, ledger) = stage.rest();
    client.disconnect().unwrap();
    assert_eq!(stage.server.take().unwrap().end("-TERM"), 0);
    stage.world.ploop_ok(&["snapshot-merge", "a"]);
    assert_eq!(stage.images(), 1);
    stage.open(ledger);
    stage.look();
    stage.end();
}

#[test]
fn a_disk_in_use_grows() {
    if !have(&["qemu-img"]) {
        return;
    }
    // 32 KiB clusters: the BAT leaves its first cluster at 8176 of them.
    let mut stage = Stage::new("online-grow", &clusters("64"));
    stage.snapshot();
    for (size, bytes) in [("200M", 200 << 20), ("600M", 600 << 20)] {
        let grown = stage.ploop(&["grow", "-s", size, "a"]).json();
        assert_eq!(grown["size_bytes"], bytes, "{grown}");
        stage.look();
        let socket = stage.world.text("s");
        let mut client = Client::connect(socket.as_ref()).unwrap();
        assert_eq!(client.size, bytes);
        client.write(bytes - 4096, &[7; 4096]).unwrap();
        assert_eq!(client.read(bytes - 4096, 4096).unwrap(), [7; 4096]);
        client.disconnect().unwrap();
    }
    assert_eq!(stage.world.ploop(&["grow", "-s", "80M", "a"]).code, 38);
    stage.look();
    stage.ploop(&["snapshot-merge", "a"]);
    stage.end();
}

#[test]
fn a_pause_is_held_and_ends_by_itself() {
    if !have(&["qemu-img"]) {
        return;
    }
    let mut stage = Stage::new("online-pause", &clusters("128"));
    let code =
        |client: &mut ControlClient, method: &str| client.call(method).unwrap()["code"].clone();
    let mut holder = stage.world.control_client().unwrap();
    assert!(code(&mut holder, "Pause").is_null());
    assert_eq!(stage.world.control("Pause").unwrap()["code"], 17, "paused already");
    stage.snapshot();
    let images = stage.images();
    assert!(code(&mut holder, "UndoSnapshot").is_null());
    assert_eq!(stage.images(), images - 1);
    assert!(code(&mut holder, "Resume").is_null());
    assert_eq!(code(&mut holder, "Resume"), 38, "the pause was over");
    stage.look();
    // A server that is told to stop waits for nobody's pause (a minute long).
    let (client, _) = stage.rest();
    assert!(code(&mut holder, "Pause").is_null());
    let begin = std::time::Instant::now();
    assert_eq!(stage.server.take().unwrap().end("-TERM"), 0);
    wants_clean(&stage.world, "a");
    drop(client);
    assert!(begin.elapsed() < std::time::Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[test]
fn a_disk_served_by_the_path_of_its_top_goes_on_with_the_new_one() {
    let world = World::new("online-path").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
    let socket = world.text("s");
    let server = world.serve(&[&image, "--nbd", &format!("unix:{socket}")], 1);
    let mut client = Client::connect(socket.as_ref()).unwrap();
    client.write(0, &[1; 4096]).unwrap();
    world.ploop_ok(&["snapshot", &image]);
    client.write(4096, &[2; 4096]).unwrap();
    world.ploop_ok(&["snapshot", "a"]);
    client.write(0, &[3; 4096]).unwrap();
    client.flush().unwrap();
    assert_eq!(client.read(0, 8192).unwrap(), [[3; 4096], [2; 4096]].concat());
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}

#[test]
fn two_disks_are_frozen_at_one_moment_or_not_at_all() {
    let world = World::new("online-group").unwrap();
    let mut servers = Vec::new();
    for name in ["a", "b"] {
        let image = world.disk(name).unwrap();
        world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
        let nbd = format!("unix:{}", world.text(&format!("{name}.s")));
        servers.push(world.serve(&[name, "--nbd", &nbd], 1));
    }
    let uuid = "{12345678-1234-1234-1234-123456789abc}";
    let taken = world.ploop_ok(&["--json", "snapshot", "-u", uuid, "a", "b"]).json();
    assert_eq!(taken["snapshots"].as_array().unwrap().len(), 2, "{taken}");
    let images = |name: &str| world.ploop_ok(&["snapshot-list", "-H", name]).out.lines().count();
    assert_eq!((images("a"), images("b")), (2, 2));
    // b has a snapshot of that name already: a's is taken back.
    let other = "{12345678-1234-1234-1234-123456789abd}";
    world.ploop_ok(&["snapshot", "-u", other, "b"]);
    assert_eq!(world.ploop(&["snapshot", "-u", other, "a", "b"]).code, 38);
    assert_eq!((images("a"), images("b")), (2, 3));
    for server in servers {
        assert_eq!(server.end("-TERM"), 0);
    }
    for name in ["a", "b"] {
        wants_clean(&world, name);
    }
}

/// What a file takes on the host.
fn allocated(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

#[test]
fn a_merge_gives_space_back_as_it_goes() {
    if !have(&["qemu-img"]) {
        return;
    }
    const BYTES: u64 = 16 << 20;
    let world = World::new("online-space").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-b", "128", "-t", "none", &image]);
    let socket = world.text("s");
    let server = world.serve(&["a", "--queues", "2", "--nbd", &format!("unix:{socket}")], 1);
    let mut client = Client::connect(socket.as_ref()).unwrap();
    let fill = |client: &mut Client, byte: u8| {
        for at in (0..BYTES).step_by(1 << 20) {
            client.write(at, &vec![byte; 1 << 20]).unwrap();
        }
        client.flush().unwrap();
    };
    fill(&mut client, 1);
    let taken = world.ploop_ok(&["--json", "snapshot", "a"]).json();
    let old_top = std::path::PathBuf::from(taken["image"].as_str().unwrap());
    fill(&mut client, 2);
    assert!(allocated(&old_top) >= BYTES);
    // Four seconds; what has gone up is durable and given back after one.
    let merge = ["--json", "snapshot-merge", "--rate", "4M", "a"];
    let mut merge = world.ploop_command(&merge).spawn().unwrap();
    let mut least = BYTES;
    while merge.try_wait().unwrap().is_none() {
        let now = allocated(&old_top);
        // In the end the file is gone.
        least = if now > 0 { least.min(now) } else { least };
        // Writes in place meet clusters at all stages.
        client.write(0, &[2; 4096]).unwrap();
        client.write(BYTES - 4096, &[2; 4096]).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(merge.wait().unwrap().code(), Some(0));
    assert!(least <= BYTES / 2, "the old top kept {least} bytes until the end");
    for at in (0..BYTES).step_by(1 << 20) {
        assert_eq!(client.read(at, 1 << 20).unwrap(), vec![2; 1 << 20], "at {at}");
    }
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}

#[test]
fn the_top_goes_down_into_a_raw_base_while_a_client_writes() {
    if !have(&["qemu-img"]) {
        return;
    }
    let mut stage = stage_to_merge("online-raw", &["-f", "raw"]);
    let done = stage.ploop(&["snapshot-merge", "a"]).json();
    assert_eq!(done["job"]["state"], "done", "{done}");
    assert_eq!(stage.images(), 1);
    stage.look();
    // All of several levels, the frozen ones first.
    for _ in 0..3 {
        stage.snapshot();
    }
    stage.look();
    stage.ploop(&["snapshot-merge", "-A", "a"]);
    assert_eq!(stage.images(), 1);
    stage.look();
    let files = std::fs::read_dir(stage.world.path("a")).unwrap().flatten();
    let files: Vec<_> = files.map(|f| f.file_name().into_string().unwrap()).collect();
    assert_eq!(files.iter().filter(|f| f.starts_with("root.hds")).count(), 1, "{files:?}");
    // What is there is the device, byte for byte.
    let (mut client, ledger) = stage.rest();
    let content = Stage::sum(&mut client);
    let raw = std::fs::read(stage.world.path("a").join("root.hds")).unwrap();
    assert_eq!(raw.len(), 64 << 20);
    assert!(raw[..content.len()] == content[..], "the base is something else");
    stage.go(client, ledger);
    stage.snapshot();
    stage.end();
}

#[test]
fn what_somebody_reads_is_not_merged_and_the_device_goes_on() {
    if !have(&["qemu-img"]) {
        return;
    }
    for init in [&["-b", "128"][..], &["-f", "raw"]] {
        let mut stage = Stage::new(&format!("online-read{}", init[1]), init);
        let mut names = Vec::new();
        for _ in 0..3 {
            names.push(stage.snapshot());
        }
        for (which, first) in [("the base", 0), ("the parent", 2)] {
            let shown = stage.world.ploop_ok(&[
                "snapshot-list",
                "-H",
                "-o",
                "fname",
                "-u",
                &names[first],
                "a",
            ]);
            let image = shown.out.lines().last().unwrap().trim().to_owned();
            let socket = stage.world.text("frozen");
            let reader =
                stage.world.serve(&["--ro", &image, "--nbd", &format!("unix:{socket}")], 1);
            let refused: &[&[&str]] = match first {
                0 => &[&["-A"], &["-u", &names[1]]],
                _ => &[&["-A"], &[], &["-u", &names[2]]],
            };
            for words in refused {
                let said = stage.world.ploop(&[&["snapshot-merge"], *words, &["a"]].concat());
                assert_eq!(said.code, 37, "{which}, {words:?}: {said:?}");
                assert!(said.err.contains(&socket), "the reader is not named: {said:?}");
                stage.look();
            }
            assert_eq!(stage.images(), 4);
            assert_eq!(reader.end("-TERM"), 0);
        }
        stage.ploop(&["snapshot-merge", "-A", "a"]);
        assert_eq!(stage.images(), 1);
        stage.end();
    }
}

#[test]
fn zeros_that_go_down_into_a_raw_base_become_holes() {
    const BYTES: u64 = 8 << 20;
    let world = World::new("online-holes").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "16M", "-b", "128", "-t", "none", "-f", "raw", &image]);
    let socket = world.text("s");
    let server = world.serve(&["a", "--nbd", &format!("unix:{socket}")], 1);
    let mut client = Client::connect(socket.as_ref()).unwrap();
    for byte in [1, 0] {
        for at in (0..BYTES).step_by(1 << 20) {
            client.write(at, &vec![byte; 1 << 20]).unwrap();
        }
        client.flush().unwrap();
        if byte == 1 {
            world.ploop_ok(&["snapshot", "a"]);
        }
    }
    let before = allocated(image.as_ref());
    assert!(before >= BYTES);
    world.ploop_ok(&["snapshot-merge", "a"]);
    let after = allocated(image.as_ref());
    assert!(after + BYTES / 2 <= before, "{after} of {before} bytes are still taken");
    for at in (0..BYTES).step_by(1 << 20) {
        assert_eq!(client.read(at, 1 << 20).unwrap(), vec![0; 1 << 20], "at {at}");
    }
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}
