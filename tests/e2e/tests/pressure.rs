//! A host in need: full, read-only, without `io_uring`, short of memory.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

use ploop_e2e::checks::wants_clean;
use ploop_e2e::host::{MemoryGroup, Small, forbid_uring};
use ploop_e2e::nbd_client::{Client, Command};
use ploop_e2e::world::{Server, wait_until};
use ploop_e2e::{World, can_attach, have};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

const BLOCK: u32 = 64 << 10;
const ENOSPC: u32 = 28;
const QUIET: Duration = Duration::from_secs(2);

/// Block `n` of a disk whose every word tells where it belongs.
fn block(n: u64) -> Vec<u8> {
    let words = u64::from(BLOCK) / 8;
    (0..words)
        .flat_map(|word| (n * words + word).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

/// A disk of 256 MiB on a host of 64, with some ballast that can be thrown away.
struct Full {
    world: World,
    server: Server,
    client: Client,
    socket: String,
}

impl Full {
    fn new(name: &str, kind: Small, extra: &[&str]) -> Option<Self> {
        if !can_attach() || !have(&["mkfs.ext4", "qemu-img"]) {
            return None;
        }
        let world = World::new(name).unwrap();
        let host = world.small_host("host", kind, 64);
        fs::create_dir(host.join("a")).unwrap();
        fs::write(host.join("ballast"), vec![1; 16 << 20]).unwrap();
        world.ok("sync", &["-f", host.to_str().unwrap()]);
        let image = world.text("host/a/root.hds");
        world.ploop_ok(&["init", "-s", "256M", "-b", "256", "-t", "none", &image]);
        let socket = world.text("s");
        let (server, client) = serve(&world, &socket, extra);
        Some(Self { world, server, client, socket })
    }

    /// Writes blocks in order, 16 in flight, until the answers stop or one is an error. Returns how
    /// many were answered well, in order of sending, and the first error.
    fn fill(&mut self) -> (u64, Option<u32>) {
        let stream = self.client.stream().unwrap();
        stream.set_read_timeout(Some(QUIET)).unwrap();
        let (mut sent, mut good, mut bad) = (0, 0, None);
        while bad.is_none() || self.client.in_flight() > 0 {
            while bad.is_none() && self.client.in_flight() < 16 {
                self.client
                    .send(Command::Write, 0, sent * u64::from(BLOCK), BLOCK, &block(sent))
                    .unwrap();
                sent += 1;
            }
            match self.client.receive() {
                Ok(reply) if reply.error == 0 => good += 1,
                Ok(reply) => bad = bad.or(Some(reply.error)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => break,
                Err(error) => panic!("{error}"),
            }
        }
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert!((200..1000).contains(&good), "{good} blocks of 64 KiB on a host of 64 MiB");
        (good, bad)
    }

    fn give_space_back(&self) {
        fs::remove_file(self.world.path("host/ballast")).unwrap();
    }

    fn lines(&self, text: &str) -> usize {
        self.server.said().lines().filter(|line| line.contains(text)).count()
    }
}

fn serve(world: &World, socket: &str, extra: &[&str]) -> (Server, Client) {
    let address = format!("unix:{socket}");
    let args = [&["host/a", "--nbd", &address, "--queues", "2"], extra].concat();
    let server = world.serve(&args, 1);
    (server, Client::connect(socket.as_ref()).unwrap())
}

fn wants_blocks(client: &mut Client, blocks: impl Iterator<Item = u64>) {
    for n in blocks {
        assert!(client.read(n * u64::from(BLOCK), BLOCK).unwrap() == block(n), "block {n}");
    }
}

fn held_until_there_is_space(name: &str, kind: Small) {
    let Some(mut full) = Full::new(name, kind, &[]) else { return };
    let (good, bad) = full.fill();
    assert_eq!((full.client.in_flight(), bad), (16, None), "held, not failed");
    println!("{kind:?}: {good} written, 16 held");
    // It says so, once and not at each retry; what needs no space goes on.
    assert!(full.world.counter("parked").unwrap() > 0);
    std::thread::sleep(Duration::from_millis(2500));
    // A tmpfs takes the blocks only when they are written.
    let grown = usize::from(kind == Small::Ext4);
    assert_eq!(full.lines("cannot grow beyond"), grown, "{}", full.server.said());
    let held = full.lines("requests are held");
    assert!((1..=2).contains(&held), "once for each queue: {}", full.server.said());
    let mut other = Client::connect(full.socket.as_ref()).unwrap();
    wants_blocks(&mut other, 0..8);
    other.write(0, &block(0)).unwrap();
    other.flush().unwrap();
    assert_eq!(full.client.in_flight(), 16);

    full.give_space_back();
    while full.client.in_flight() > 0 {
        assert_eq!(full.client.receive().unwrap().error, 0);
    }
    assert_eq!(full.world.counter("parked"), Some(0));
    full.client.flush().unwrap();
    wants_blocks(&mut full.client, 0..good + 16);
    // Full again, long enough after that: said again.
    std::thread::sleep(QUIET);
    let ballast = full.world.text("host/ballast");
    let _ = full.world.run("dd", &["if=/dev/zero", &format!("of={ballast}"), "bs=1M"]);
    // Each in a cluster of its own: some of them may be had from what is kept ahead.
    let later = || (2000..2064).step_by(4);
    for n in later() {
        full.client.send(Command::Write, 0, n * u64::from(BLOCK), BLOCK, &block(n)).unwrap();
    }
    assert!(wait_until(QUIET * 5, || full.world.counter("parked") > Some(0)));
    let (said, again) = (full.lines("requests are held"), full.lines("cannot grow beyond"));
    assert!(said > held && again == 2 * grown, "{}", full.server.said());
    full.give_space_back();
    while full.client.in_flight() > 0 {
        assert_eq!(full.client.receive().unwrap().error, 0);
    }
    full.client.disconnect().unwrap();
    assert_eq!(full.server.end("-TERM"), 0);
    wants_clean(&full.world, "host/a");
    let (server, mut client) = serve(&full.world, &full.socket, &["--ro"]);
    wants_blocks(&mut client, (0..good + 16).chain(later()));
    assert_eq!(server.end("-TERM"), 0);
}

#[test]
fn a_full_ext4_holds_requests_until_there_is_space() {
    held_until_there_is_space("full-ext4", Small::Ext4);
}

#[test]
fn a_full_tmpfs_holds_requests_until_there_is_space() {
    held_until_there_is_space("full-tmpfs", Small::Tmpfs);
}

#[test]
fn a_client_gets_enospc_when_that_is_wanted() {
    let Some(mut full) = Full::new("full-error", Small::Ext4, &["--on-enospc=error"]) else {
        return;
    };
    let (good, bad) = full.fill();
    assert_eq!(bad, Some(ENOSPC));
    let safe = good - 16; // the last ones may be those that failed
    full.client.flush().unwrap();
    wants_blocks(&mut full.client, 0..safe);
    // What a trim frees is used at once (F16).
    full.client.call(Command::Trim, 0, 0, 4 << 20, &[]).unwrap();
    for n in 3000..3016 {
        full.client.write(n * u64::from(BLOCK), &block(n)).unwrap();
    }
    let mut more = (3500..3600).map(|n| full.client.write(n * u64::from(BLOCK), &block(n)));
    let refused = more.find_map(Result::err).unwrap();
    assert_eq!(refused.raw_os_error(), Some(28));
    full.give_space_back();
    // The next one asks the host again.
    full.client.write(3600 * u64::from(BLOCK), &block(3600)).unwrap();
    wants_blocks(&mut full.client, (64..safe).chain(3000..3016).chain([3600]));
    full.client.disconnect().unwrap();
    assert_eq!(full.server.end("-TERM"), 0);
    wants_clean(&full.world, "host/a");
}

#[test]
fn a_stop_while_requests_are_held_says_so() {
    let Some(mut full) = Full::new("full-stop", Small::Ext4, &[]) else { return };
    let (good, _) = full.fill();
    let before = Instant::now();
    full.server.signal("-TERM");
    // T17: what was held fails with ENOSPC, and the code is 7.
    let mut failed = 0;
    while full.client.in_flight() > 0 {
        match full.client.receive() {
            Ok(reply) if reply.error == ENOSPC => failed += 1,
            Ok(reply) => assert_eq!(reply.error, 0),
            Err(_) => break,
        }
    }
    let said = full.server.said();
    assert_eq!(full.server.wait(), 7, "{said}");
    println!("{failed} answered with ENOSPC, stopped after {:?}", before.elapsed());
    assert!(before.elapsed() < Duration::from_secs(10));
    fs::remove_file(full.world.path("host/ballast")).unwrap();
    wants_clean(&full.world, "host/a");
    let (server, mut client) = serve(&full.world, &full.socket, &[]);
    wants_blocks(&mut client, 0..good - 16);
    client.write(3000 * u64::from(BLOCK), &block(3000)).unwrap();
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&full.world, "host/a");
}

#[test]
fn a_read_only_host_serves_readers() {
    if !can_attach() || !have(&["mkfs.ext4"]) {
        return;
    }
    let world = World::new("host-ro").unwrap();
    let host = world.small_host("host", Small::Ext4, 64);
    fs::create_dir(host.join("a")).unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-t", "none", &world.text("host/a/root.hds")]);
    let socket = world.text("s");
    let (server, mut client) = serve(&world, &socket, &[]);
    (0..16).for_each(|n| client.write(n * u64::from(BLOCK), &block(n)).unwrap());
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    world.ok("mount", &["-o", "remount,ro", &world.text("host")]);
    let address = format!("unix:{socket}");
    for args in [&["serve", "host/a", "--nbd", &address][..], &["attach", "host/a"]] {
        let said = world.ploop(args);
        println!("{said:?}");
        assert_eq!(said.code, 4, "{said:?}");
        assert!(said.err.contains("Read-only file system"), "{said:?}");
        assert!(said.err.contains("--ro"), "a hint: {said:?}");
    }
    let (server, mut client) = serve(&world, &socket, &["--ro"]);
    wants_blocks(&mut client, 0..16);
    assert!(client.write(0, &block(1)).is_err());
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    let attached = world.attach(&["--ro", "host/a"]);
    assert_eq!(world.ok("blockdev", &["--getro", &attached.device]).trim(), "1");
    world.detach(&attached);
    assert_eq!(world.ploop(&["check", "-f", "host/a"]).code, 0);
}

/// Random writes and reads of fio through NBD, verified.
fn fio_over_nbd(world: &World, socket: &str) {
    let uri = format!("nbd+unix:///?socket={socket}");
    let args = ["--ioengine=nbd", "--rw=randrw", "--bsrange=4k-64k", "--iodepth=16", "--size=32M"];
    world.fio(
        &uri,
        &[&args[..], &["--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]].concat(),
    );
}

#[test]
fn without_io_uring_threads_do_it() {
    if !have(&["fio", "qemu-img"]) {
        return;
    }
    let world = World::new("no-uring").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
    let socket = world.text("s");
    let address = format!("unix:{socket}");
    let args = ["serve", "a", "--nbd", &address];
    let mut wanted = world.ploop_command(&[&args[..], &["--io-engine", "uring"]].concat());
    forbid_uring(&mut wanted);
    let output = wanted.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(12), "{said}");
    assert!(said.contains("io_uring"), "{said}");
    assert_eq!(world.ploop(&["check", "-f", "a"]).code, 0);

    let mut command = world.ploop_command(&args);
    forbid_uring(&mut command);
    let server = world.serve_command(command, 1);
    let said = server.said();
    println!("{said}");
    assert!(said.contains("io_uring was refused (EPERM)"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(world.control("Info").unwrap()["state"]["engine"], "threads");
    fio_over_nbd(&world, &socket);
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
    // The server's own option needs no such host.
    let server = world.serve(&["a", "--nbd", &address, "--io-engine", "threads"], 1);
    assert_eq!(server.said(), "");
    fio_over_nbd(&world, &socket);
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}

#[test]
fn a_small_address_space_is_enough() {
    if !have(&["fio", "qemu-img", "prlimit"]) {
        return;
    }
    let world = World::new("address-space").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "1G", "-b", "64", "-t", "none", &image]);
    let socket = world.text("s");
    let ploop = ploop_e2e::ploop_path().unwrap().display().to_string();
    let mut command = world.command("prlimit");
    command.args(["--as=402653184", &ploop, "serve", "a", "--nbd", &format!("unix:{socket}")]);
    let server = world.serve_command(command, 1);
    fio_over_nbd(&world, &socket);
    fio_over_nbd(&world, &socket);
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}

#[test]
fn fio_writes_back_into_a_device_whose_server_has_little_memory() {
    if !can_attach() || !have(&["fio", "qemu-img"]) {
        return;
    }
    let world = World::new("memory").unwrap();
    // The server alone: in one group with the dirty pages of its own device it needs
    // PR_SET_IO_FLUSHER, and so a right that containers seldom have (D7).
    // The kernel has up to 256 requests of 1 MiB in flight, and what is locked cannot be reclaimed.
    let Some(group) = MemoryGroup::new("memory", 320 << 20) else { return };
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "512M", "-b", "256", "-t", "none", &image]);
    let ploop = ploop_e2e::ploop_path().unwrap().display().to_string();
    let mut attach = group.command(&world, &ploop);
    attach.args(["--json", "attach", "a"]);
    let attached = world.attach_by(attach);
    let mut fio = world.command("fio");
    fio.args(["--name=job", "--rw=randwrite", "--bsrange=4k-128k", "--size=256M", "--randseed=7"])
        .args(["--ioengine=psync", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"])
        .args(["--end_fsync=1", "--verify_state_save=0", "--invalidate=0"])
        .arg(format!("--filename={}", attached.device));
    let before = Instant::now();
    let mut fio = fio.stdout(File::create(world.path("fio.out")).unwrap()).spawn().unwrap();
    let mut code = None;
    wait_until(Duration::from_secs(90), || {
        code = fio.try_wait().unwrap();
        code.is_some()
    });
    let said = fs::read_to_string(world.path("fio.out")).unwrap();
    assert!(code.is_some(), "fio or the server hang");
    assert!(code.unwrap().success(), "{said}");
    println!(
        "256 MiB in {:?}, the server's limit of 320 MiB hit {} times",
        before.elapsed(),
        group.hits()
    );
    world.detach(&attached);
    wants_clean(&world, "a");
}
