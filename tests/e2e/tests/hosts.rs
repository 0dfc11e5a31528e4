//! What a host may refuse: a longer file, an inode, a block, a name. The device goes on, operations
//! on layers fail as a whole or not at all, and everything ends within its time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

#[path = "hosts/table.rs"]
mod table;
#[path = "hosts/way.rs"]
mod way;

use ploop_e2e::checks::wants_clean;
use ploop_e2e::host::Small;
use ploop_e2e::nbd_client::Client;
use ploop_e2e::world::{Said, Server, wait_until};
use ploop_e2e::{World, can_attach, have, ploop_path};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a block.
pub const BLOCK: u32 = 64 << 10;
const ENOSPC: u32 = 28;
/// Of a disk of 64 MiB.
const LIMIT: u64 = 24 << 20;

/// Block `n`, as it was written the `turn`th time.
pub fn block(n: u64, turn: u64) -> Vec<u8> {
    let words = u64::from(BLOCK) / 8;
    let word = |word: u64| (n * words + word + (turn << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..words).flat_map(|n| word(n).to_le_bytes()).collect()
}

/// Where block `n` is.
pub fn at(n: u64) -> u64 {
    n * u64::from(BLOCK)
}

/// A server whose files may not be longer than [`LIMIT`], until somebody raises that.
fn limited(world: &World, args: &[&str]) -> (Server, Client) {
    let socket = world.text("s");
    let nbd = format!("unix:{socket}");
    let program = ploop_path().unwrap().display().to_string();
    let mut command = world.command("prlimit");
    command.arg(format!("--fsize={LIMIT}:unlimited")).arg(program);
    command.args([&["serve", "a", "--queues", "2", "--nbd", &nbd], args].concat());
    let server = world.serve_command(command, 1);
    let client = Client::connect(socket.as_ref()).unwrap();
    (server, client)
}

/// Writes blocks until no answer comes or one is an error: how many were good, and the error.
fn fill(client: &mut Client, blocks: u64) -> (u64, Option<u32>) {
    client.stream().unwrap().set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    for n in 0..blocks {
        client.send(ploop_e2e::nbd_client::Command::Write, 0, at(n), BLOCK, &block(n, 0)).unwrap();
        match client.receive() {
            Ok(reply) if reply.error == 0 => {}
            Ok(reply) => return (n, Some(reply.error)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (n, None),
            Err(error) => panic!("{error}: the server is gone"),
        }
    }
    (blocks, None)
}

fn raise_limit(world: &World, server: &Server) {
    world.ok("prlimit", &["--fsize=unlimited", "--pid", &server.pid().to_string()]);
}

/// Held until the limit is raised, then everything is there.
fn a_limit_holds(name: &str, init: &[&str], serve: &[&str]) {
    if !have(&["prlimit", "qemu-img"]) {
        return;
    }
    let world = World::new(name).unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&[&["init", "-s", "64M", "-t", "none"], init, &[&image]].concat());
    let (server, mut client) = limited(&world, serve);
    let (good, bad) = fill(&mut client, 1024);
    assert_eq!(bad, None, "held, not failed");
    assert!((100..=LIMIT / u64::from(BLOCK)).contains(&good), "{good} blocks below the limit");
    assert!(world.counter("parked").unwrap() > 0);
    let said = server.said();
    assert!(said.contains("requests are held") && said.contains("ulimit -f"), "{said}");
    raise_limit(&world, &server);
    client.stream().unwrap().set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(client.receive().unwrap().error, 0);
    for n in good + 1..1024 {
        client.write(at(n), &block(n, 0)).unwrap();
    }
    client.flush().unwrap();
    for n in (0..1024).step_by(31) {
        assert!(client.read(at(n), BLOCK).unwrap() == block(n, 0), "block {n}");
    }
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    if !init.contains(&"raw") {
        wants_clean(&world, "a");
    }
}

#[test]
fn a_limit_of_the_files_length_holds_requests() {
    a_limit_holds("limit-hold", &["-b", "128"], &[]);
}

#[test]
fn a_limit_of_the_files_length_holds_requests_of_threads() {
    a_limit_holds("limit-threads", &["-b", "128"], &["--io-engine", "threads"]);
}

#[test]
fn a_limit_of_the_files_length_holds_requests_of_a_raw_disk() {
    a_limit_holds("limit-raw", &["-f", "raw", "-S"], &[]);
}

#[test]
fn a_limit_of_the_files_length_is_no_space_for_clients_that_want_to_know() {
    if !have(&["prlimit", "qemu-img"]) {
        return;
    }
    let world = World::new("limit-error").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-b", "128", "-t", "none", &image]);
    let (server, mut client) = limited(&world, &["--on-enospc", "error"]);
    let (good, bad) = fill(&mut client, 1024);
    assert_eq!(bad, Some(ENOSPC));
    assert!(good > 100, "{good}");
    raise_limit(&world, &server);
    client.write(at(good), &block(good, 0)).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}

/// P10: the disk's file is never longer than what the disk can need.
#[test]
fn a_full_disk_keeps_no_space_ahead() {
    if !have(&["qemu-img"]) {
        return;
    }
    let world = World::new("ahead").unwrap();
    let (image, socket) = (world.disk("a").unwrap(), world.text("s"));
    world.ploop_ok(&["init", "-s", "64M", "-f", "preallocated", "-t", "none", &image]);
    let length = || fs::metadata(&image).unwrap().len();
    let before = length();
    let server = world.serve(&["a", "--nbd", &format!("unix:{socket}")], 1);
    let mut client = Client::connect(socket.as_ref()).unwrap();
    for n in 0..16 {
        client.write(at(n), &block(n, 0)).unwrap();
    }
    client.flush().unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(length(), before, "a fully mapped disk needs no cluster");
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    assert_eq!(length(), before);
    wants_clean(&world, "a");
}

/// A disk with two snapshots, and a client that looks after each operation.
struct Stage {
    world: World,
    server: Server,
    client: Client,
}

impl Stage {
    fn new(world: World, disk: &str, image: &str) -> Self {
        world.ploop_ok(&["init", "-s", "64M", "-b", "128", "-t", "none", image]);
        let socket = world.text("s");
        let server = world.serve(&[disk, "--nbd", &format!("unix:{socket}")], 1);
        let mut client = Client::connect(socket.as_ref()).unwrap();
        for turn in 0..3 {
            for n in 0..24 - 8 * turn {
                client.write(at(n), &block(n, turn)).unwrap();
            }
            if turn < 2 {
                world.ploop_ok(&["-v1", "snapshot", disk]);
            }
        }
        client.flush().unwrap();
        Self { world, server, client }
    }

    /// Everything is there, and what needs no space is written.
    fn lives(&mut self) {
        for n in 0..24 {
            let turn = 2 - n / 8;
            assert!(self.client.read(at(n), BLOCK).unwrap() == block(n, turn), "block {n}");
        }
        self.client.write(at(0), &block(0, 2)).unwrap();
        self.client.flush().unwrap();
    }

    fn timed(&self, args: &[&str]) -> Said {
        let began = Instant::now();
        let said = self.world.ploop(args);
        println!("{args:?}: {} after {:?}: {}", said.code, began.elapsed(), said.err.trim());
        assert!(began.elapsed() < Duration::from_secs(20), "{said:?}");
        said
    }

    fn end(self) {
        self.client.disconnect().unwrap();
        assert_eq!(self.server.end("-TERM"), 0);
    }
}

/// The operations that write a descriptor, on a host that takes no new name: each fails, and the
/// device goes on; and each succeeds when it takes names again.
fn no_new_names(mut stage: Stage, begin: impl Fn(&World), end: impl Fn(&World)) {
    let operations: [&[&str]; 4] = [
        &["-v1", "grow", "-s", "80M", "host/a"],
        &["-v1", "snapshot-merge", "host/a"],
        &["-v1", "snapshot-merge", "-A", "host/a"],
        &["-v1", "snapshot", "host/a"],
    ];
    let names = stage.world.ploop_ok(&["--json", "snapshot-list", "host/a"]).out;
    begin(&stage.world);
    for args in operations {
        let said = stage.timed(args);
        assert!(said.code != 0 && said.err.contains("host/a"), "{said:?}");
        stage.lives();
    }
    assert_eq!(stage.world.ploop_ok(&["--json", "snapshot-list", "host/a"]).out, names);
    end(&stage.world);
    for args in [operations[0], operations[3], operations[1], operations[2]] {
        let said = stage.timed(args);
        assert_eq!(said.code, 0, "{said:?}");
        stage.lives();
    }
    let Stage { world, server, client } = stage;
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "host/a");
}

#[test]
fn operations_on_layers_outlive_a_host_without_inodes() {
    if !can_attach() || !have(&["qemu-img"]) {
        return;
    }
    let world = World::new("no-inodes").unwrap();
    let host = world.text("host");
    fs::create_dir(&host).unwrap();
    world.ok("mount", &["-t", "tmpfs", "-o", "size=200M,nr_inodes=60", "small", &host]);
    fs::create_dir(world.path("host/a")).unwrap();
    let image = world.text("host/a/root.hds");
    let stage = Stage::new(world, "host/a", &image);
    let begin = |world: &World| {
        let full = (0..100).find(|n| File::create(world.path(&format!("host/{n}"))).is_err());
        assert!(full.is_some(), "the host has no end of inodes");
    };
    let end = |world: &World| {
        (0..100).for_each(|n| drop(fs::remove_file(world.path(&format!("host/{n}")))));
    };
    no_new_names(stage, begin, end);
}

#[test]
fn operations_on_layers_outlive_an_immutable_directory() {
    if !can_attach() || !have(&["mkfs.ext4", "chattr", "qemu-img"]) {
        return;
    }
    let world = World::new("immutable").unwrap();
    world.small_host("host", Small::Ext4, 200);
    fs::create_dir(world.path("host/a")).unwrap();
    let image = world.text("host/a/root.hds");
    let stage = Stage::new(world, "host/a", &image);
    let begin = |world: &World| drop(world.ok("chattr", &["+i", &world.text("host/a")]));
    let end = |world: &World| drop(world.ok("chattr", &["-i", &world.text("host/a")]));
    no_new_names(stage, begin, end);
}

/// Takes all space of a host.
pub fn fill_host(world: &World) {
    let ballast = world.path("host/ballast");
    let mut ballast = File::options().create(true).append(true).open(ballast).unwrap();
    for size in [1 << 20, 64 << 10, 4096] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
        let _ = ballast.sync_all();
    }
}

/// F17: a host that never writes in place may have no space for a page of the block table. Nobody
/// waits then for a flush that is held: the operation fails at once, and says why.
#[test]
fn an_operation_on_layers_does_not_wait_for_a_flush_that_is_held() {
    if !can_attach() || !have(&["mkfs.btrfs", "qemu-img"]) {
        return;
    }
    let world = World::new("held-flush").unwrap();
    world.small_host("host", Small::Btrfs, 320);
    fs::create_dir(world.path("host/a")).unwrap();
    let image = world.text("host/a/root.hds");
    let mut stage = Stage::new(world, "host/a", &image);
    let mut told = None;
    // The file system finds space again now and then, when it commits.
    for turn in 0..8 {
        fill_host(&stage.world);
        let mut held = Client::connect(stage.world.text("s").as_ref()).unwrap();
        held.stream().unwrap().set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        for n in 0..16 {
            let _ = held.write(at(100 + 16 * turn + n), &block(100 + 16 * turn + n, 0));
        }
        if held.flush().is_ok() {
            continue;
        }
        let said = stage.timed(&["-v1", "grow", "-s", "80M", "host/a"]);
        assert!(!said.err.contains("has not ended"), "{said:?}");
        if said.err.contains("no space for the block table") {
            told = Some(said);
            break;
        }
    }
    assert_eq!(told.expect("the host was never full for long").code, 7);
    fs::remove_file(stage.world.path("host/ballast")).unwrap();
    stage.lives();
    assert_eq!(stage.timed(&["-v1", "grow", "-s", "80M", "host/a"]).code, 0);
    stage.lives();
    let Stage { world, server, client } = stage;
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "host/a");
}

#[test]
fn snapshots_asked_for_at_once_are_taken_one_after_the_other() {
    let world = World::new("queue").unwrap();
    let image = world.disk("a").unwrap();
    let mut stage = Stage::new(world, "a", &image);
    let asked: Vec<_> = (0..6)
        .map(|_| stage.world.ploop_command(&["-v1", "snapshot", "a"]).spawn().unwrap())
        .collect();
    for child in asked {
        let said = child.wait_with_output().unwrap();
        assert!(said.status.success(), "{said:?}");
    }
    stage.lives();
    let info = stage.world.ploop_ok(&["--json", "snapshot-list", "a"]).json();
    let snapshots =
        info.as_array().map_or(0, Vec::len).max(info["snapshots"].as_array().map_or(0, Vec::len));
    assert!(snapshots >= 8, "{info}");
    stage.end();
}

/// The job and what a client that follows it is told.
#[test]
fn a_cancelled_merge_says_so_at_once_and_the_next_one_knows_how_much_is_left() {
    let world = World::new("cancel").unwrap();
    let image = world.disk("a").unwrap();
    let stage = Stage::new(world, "a", &image);
    let merge = ["--json", "snapshot-merge", "--rate", "64K", "a"];
    let mut command = stage.world.ploop_command(&merge);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let slow = command.spawn().unwrap();
    let job = |world: &World| {
        let jobs = world.ploop_ok(&["--json", "jobs", "a"]).json();
        let jobs = jobs
            .as_array()
            .cloned()
            .unwrap_or_else(|| jobs["jobs"].as_array().cloned().unwrap_or_default());
        jobs.last().cloned().unwrap_or_default()
    };
    assert!(
        wait_until(Duration::from_secs(10), || job(&stage.world)["done_bytes"].as_u64() > Some(0))
    );
    let first = job(&stage.world);
    let began = Instant::now();
    stage.world.ploop_ok(&["jobs", "--cancel", "1", "a"]);
    let said = slow.wait_with_output().unwrap();
    println!("cancelled after {:?}", began.elapsed());
    let error: serde_json::Value = serde_json::from_slice(&said.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "cancelled", "{error}");
    assert_eq!(error["error"]["code"], 29, "{error}");
    assert_eq!(job(&stage.world)["state"], "cancelled");
    // A machine with much else to do is given more than the second that is promised.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // What is left is known when it goes on.
    let mut slow = stage.world.ploop_command(&merge).spawn().unwrap();
    assert!(wait_until(Duration::from_secs(10), || {
        let job = job(&stage.world);
        job["id"] == 2 && job["done_bytes"].as_u64() > Some(0)
    }));
    let second = job(&stage.world);
    println!("{first}\n{second}");
    let total = |job: &serde_json::Value| job["total_bytes"].as_u64().unwrap();
    assert!(total(&second) > second["done_bytes"].as_u64().unwrap(), "{second}");
    assert!(total(&second) < total(&first), "less than at the beginning: {second}");
    stage.world.ploop_ok(&["jobs", "--cancel", "2", "a"]);
    let _ = slow.wait();
    stage.end();
}
