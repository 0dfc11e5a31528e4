//! Every kind of host x what it lacks x what is asked of the disk x the way to the disk: what comes
//! of it, after how long, and whether everything that was flushed is there afterwards. A slice is
//! run with the other tests; `cargo xtask hosts` runs all and prints the table.

use super::{BLOCK, at, block};
use ploop_e2e::device::is_running;
use ploop_e2e::nbd_client::{Client, Command};
use ploop_e2e::world::{Server, wait_until};
use ploop_e2e::{World, can_attach, have};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// Set by `cargo xtask hosts`: the cells whose name has one of these words; `all` for all of them.
const CELLS: &str = "PLOOP_HOSTS";
/// No cell may take longer.
const BOUND: Duration = Duration::from_secs(30);
/// A request that has no answer by then is held.
const HELD: Duration = Duration::from_secs(3);
/// Blocks that are written and flushed before the host runs short.
const BLOCKS: u64 = 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fs {
    Ext4,
    Xfs,
    XfsReflink,
    Btrfs,
    Tmpfs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    Blocks,
    Inodes,
    ReadOnly,
    Immutable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    Nbd,
    Loop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Detach,
    Term,
    Kill,
}

/// One scene: a host that lacks something, and everything that is asked there.
struct Scene {
    world: World,
    fs: Fs,
    lack: Lack,
    via: Via,
    server: Option<Server>,
    device: Option<(String, u32)>,
    rows: Vec<(String, String, Duration)>,
}

/// What a program that may hang has come to.
fn bounded(world: &World, args: &[&str]) -> String {
    let mut command = world.ploop_command(args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut code = None;
    wait_until(BOUND, || {
        code = child.try_wait().ok().flatten();
        code.is_some()
    });
    match code {
        Some(status) => status.code().map_or("signal".into(), |code| format!("exit {code}")),
        None => {
            let _ = child.kill();
            "HANGS".into()
        }
    }
}

/// Does something on a thread of its own; `held` when it does not end in time.
fn apart(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> String {
    let (sender, done) = channel();
    thread::spawn(move || sender.send(work()));
    match done.recv_timeout(HELD) {
        Ok(Ok(())) => "ok".into(),
        Ok(Err(error)) => format!("errno {}", error.raw_os_error().unwrap_or(0)),
        Err(_) => "held".into(),
    }
}

impl Scene {
    /// The host and an open disk on it; `None` where this machine has no such host.
    fn new(fs: Fs, lack: Lack, via: Via) -> Option<Self> {
        let name = format!("hosts-{fs:?}-{lack:?}-{via:?}").to_lowercase();
        let world = World::new(&name).unwrap();
        make_host(&world, fs).then_some(())?;
        fs::create_dir(world.path("host/a")).unwrap();
        let image = world.text("host/a/root.hds");
        world.ploop_ok(&["init", "-s", "512M", "-b", "256", "-t", "none", &image]);
        let rows = Vec::new();
        let mut scene = Self { world, fs, lack, via, server: None, device: None, rows };
        scene.open();
        for turn in 0..3 {
            for n in 0..BLOCKS - 16 * turn {
                scene.write(n, turn).unwrap();
            }
            if turn < 2 {
                scene.world.ploop_ok(&["-v1", "snapshot", "host/a"]);
            }
        }
        scene.flush().unwrap();
        Some(scene)
    }

    fn open(&mut self) {
        match self.via {
            Via::Nbd => {
                let nbd = format!("unix:{}", self.world.text("s"));
                self.server = Some(self.world.serve(&["host/a", "--nbd", &nbd], 1));
            }
            Via::Loop => {
                let attached = self.world.attach(&["--via", "loop", "host/a"]);
                self.device = Some((attached.device.clone(), attached.pid));
            }
        }
    }

    fn client(&self) -> io::Result<Client> {
        let client = Client::connect(self.world.text("s").as_ref())?;
        client.stream()?.set_read_timeout(Some(HELD))?;
        Ok(client)
    }

    fn file(&self) -> io::Result<File> {
        let (device, _) = self.device.as_ref().unwrap();
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        OpenOptions::new().read(true).write(true).custom_flags(direct).open(device)
    }

    fn write(&self, n: u64, turn: u64) -> io::Result<()> {
        match self.via {
            Via::Nbd => self.client()?.write(at(n), &block(n, turn)),
            Via::Loop => self.file()?.write_all_at(aligned(&block(n, turn)).bytes(), at(n)),
        }
    }

    fn flush(&self) -> io::Result<()> {
        match self.via {
            Via::Nbd => self.client()?.flush(),
            Via::Loop => self.file()?.sync_all(),
        }
    }

    fn note(&mut self, action: &str, result: String, began: Instant) {
        let time = began.elapsed();
        let (fs, lack, via) = (self.fs, self.lack, self.via);
        println!("{fs:?} | {lack:?} | {via:?} | {action} | {result} | {:.1} s", time.as_secs_f64());
        self.rows.push((action.to_owned(), result, time));
    }

    /// A write to a new place, and a flush: each is answered or held.
    fn traffic(&mut self) {
        let began = Instant::now();
        let result = match self.via {
            Via::Nbd => {
                let mut client = self.client().unwrap();
                client.send(Command::Write, 0, at(4000), BLOCK, &block(4000, 0)).unwrap();
                match client.receive() {
                    Ok(reply) if reply.error == 0 => "ok".into(),
                    Ok(reply) => format!("errno {}", reply.error),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => "held".into(),
                    Err(error) => error.to_string(),
                }
            }
            Via::Loop => {
                let file = self.file().unwrap();
                apart(move || file.write_all_at(aligned(&block(4000, 0)).bytes(), at(4000)))
            }
        };
        self.note("write", result, began);
        let began = Instant::now();
        let result = match self.via {
            Via::Nbd => {
                let mut client = self.client().unwrap();
                apart(move || client.flush())
            }
            Via::Loop => {
                let file = self.file().unwrap();
                apart(move || file.sync_all())
            }
        };
        self.note("flush", result, began);
    }

    fn operations(&mut self) {
        let first = self.world.ploop_ok(&["--json", "snapshot-list", "host/a"]).json();
        let list = first.as_array().or_else(|| first["snapshots"].as_array());
        let uuid = list.and_then(|list| list.first()).and_then(|one| one["uuid"].as_str());
        let uuid = uuid.unwrap_or("none").to_owned();
        let operations: [(&str, &[&str]); 5] = [
            ("snapshot", &["-v1", "snapshot", "-F", "host/a"]),
            ("merge", &["-v1", "snapshot-merge", "host/a"]),
            ("delete", &["-v1", "snapshot-delete", "-u", &uuid, "host/a"]),
            ("merge -A", &["-v1", "snapshot-merge", "-A", "host/a"]),
            ("grow", &["-v1", "grow", "-s", "600M", "host/a"]),
        ];
        for (name, args) in operations {
            let began = Instant::now();
            let mut result = bounded(&self.world, args);
            // The device goes on, whatever came of it.
            if let Err(error) = self.looks(BLOCKS) {
                result = format!("{result}, LOST: {error}");
            }
            self.note(name, result, began);
        }
    }

    /// Reads everything that was flushed.
    fn looks(&self, blocks: u64) -> io::Result<()> {
        for n in 0..blocks {
            let wanted = block(n, (BLOCKS - 1 - n) / 16);
            let found = match self.via {
                Via::Nbd => self.client()?.read(at(n), BLOCK)?,
                Via::Loop => {
                    let mut found = aligned(&wanted);
                    found.bytes_mut().fill(0);
                    self.file()?.read_exact_at(found.bytes_mut(), at(n))?;
                    found.bytes().to_vec()
                }
            };
            if found != wanted {
                return Err(io::Error::other(format!("block {n} is wrong")));
            }
        }
        Ok(())
    }

    /// Ends the server, one way or another.
    fn end(&mut self, ending: Ending) {
        let began = Instant::now();
        let pid = match (&self.server, &self.device) {
            (Some(server), _) => server.pid(),
            (None, Some((_, pid))) => *pid,
            (None, None) => return,
        };
        let result = match ending {
            Ending::Detach => bounded(&self.world, &["-v1", "detach", "host/a"]),
            Ending::Term | Ending::Kill => {
                let signal = if ending == Ending::Term { "-TERM" } else { "-KILL" };
                self.world.run("kill", &[signal, &pid.to_string()]);
                match &self.server {
                    // Its own child is a zombie until it is waited for.
                    Some(_) => format!("exit {}", self.server.take().unwrap().wait()),
                    None if wait_until(BOUND, || !is_running(pid)) => "ended".into(),
                    None => "HANGS".into(),
                }
            }
        };
        self.note(&format!("{ending:?}").to_lowercase(), result, began);
        if let Some(server) = self.server.take() {
            let _ = server.end("-TERM");
        }
        if let Some((device, pid)) = self.device.take()
            && (ending == Ending::Kill || is_running(pid))
        {
            let _ = bounded(&self.world, &["-v1", "detach", "--force", "host/a"]);
            let _ = self.world.run("losetup", &["-d", &device]);
            let _ = self.world.run("umount", &["-l", &self.world.text("host/a")]);
        }
    }

    /// The host is whole again: the disk opens and has everything that was flushed.
    fn afterwards(&mut self) -> bool {
        give_back(&self.world, self.lack);
        self.via = Via::Nbd;
        let _ = fs::remove_file(self.world.path("s"));
        self.open();
        let right = self.looks(BLOCKS);
        let code = self.server.take().map_or(-1, |server| server.end("-TERM"));
        let check = self.world.ploop(&["check", "-f", "host/a"]).code;
        println!("    data: {right:?}, last close {code}, check {check}");
        right.is_ok() && code == 0 && check == 0
    }

    /// Cells that hang or are wrong.
    fn bad(&self) -> Vec<String> {
        let bad = |(action, result, time): &(String, String, Duration)| {
            let wrong = result.contains("HANGS") || result.contains("LOST") || *time > BOUND;
            wrong.then(|| {
                format!("{:?} {:?} {:?}: {action}: {result}", self.fs, self.lack, self.via)
            })
        };
        self.rows.iter().filter_map(bad).collect()
    }
}

/// Bytes at an address that direct I/O takes.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

fn aligned(bytes: &[u8]) -> Aligned {
    let mut memory = vec![0; bytes.len() + 4096];
    let from = memory.as_ptr().align_offset(4096);
    memory[from..from + bytes.len()].copy_from_slice(bytes);
    Aligned { memory, from, len: bytes.len() }
}

impl Aligned {
    fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.len]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.len]
    }
}

/// `false`: this machine cannot make it.
fn make_host(world: &World, fs: Fs) -> bool {
    let (host, file) = (world.text("host"), world.text("host.fs"));
    fs::create_dir(world.path("host")).unwrap();
    if fs == Fs::Tmpfs {
        world.ok("mount", &["-t", "tmpfs", "-o", "size=300M,nr_inodes=100", "small", &host]);
        return true;
    }
    world.ok("truncate", &["-s", "320M", &file]);
    let made = match fs {
        Fs::Ext4 => world.run("mkfs.ext4", &["-q", "-F", "-m", "0", "-N", "128", &file]),
        Fs::Xfs => world.run("mkfs.xfs", &["-q", "-m", "reflink=0", "-i", "maxpct=1", &file]),
        Fs::XfsReflink => {
            world.run("mkfs.xfs", &["-q", "-m", "reflink=1", "-i", "maxpct=1", &file])
        }
        Fs::Btrfs | Fs::Tmpfs => world.run("mkfs.btrfs", &["-q", &file]),
    };
    made.code == 0 && world.run("mount", &["-o", "loop", &file, &host]).code == 0
}

/// `false`: this host never lacks that.
fn take_away(world: &World, fs: Fs, lack: Lack) -> bool {
    match lack {
        Lack::Blocks => {
            let mut ballast = File::create(world.path("host/ballast")).unwrap();
            for size in [1 << 20, 64 << 10, 4096] {
                while ballast.write_all(&vec![1; size]).is_ok() {}
                let _ = ballast.sync_all();
            }
            true
        }
        Lack::Inodes if fs == Fs::Btrfs => false,
        Lack::Inodes => {
            (0..40_000).any(|n| File::create(world.path(&format!("host/inode{n}"))).is_err())
        }
        // A host that is in use lets only some of its own errors do that.
        Lack::ReadOnly => {
            let abort = if fs == Fs::Ext4 { "remount,abort" } else { "remount,ro" };
            world.run("mount", &["-o", abort, &world.text("host")]).code == 0
        }
        Lack::Immutable => world.run("chattr", &["+i", &world.text("host/a")]).code == 0,
    }
}

fn give_back(world: &World, lack: Lack) {
    match lack {
        Lack::Blocks => drop(fs::remove_file(world.path("host/ballast"))),
        Lack::Inodes => {
            for entry in fs::read_dir(world.path("host")).unwrap().flatten() {
                if entry.file_name().to_string_lossy().starts_with("inode") {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        Lack::ReadOnly => {
            let (host, file) = (world.text("host"), world.text("host.fs"));
            let mounted = world.run("findmnt", &["-n", "-o", "OPTIONS", &host]).out;
            if !mounted.trim().starts_with("rw") || mounted.contains("abort") {
                world.run("umount", &["-l", &host]);
                world.run("fsck.ext4", &["-p", &file]);
                world.run("mount", &["-o", "loop", &file, &host]);
            }
        }
        Lack::Immutable => drop(world.run("chattr", &["-i", &world.text("host/a")])),
    }
}

/// Runs the scenes of one host and one lack; returns what hangs or is wrong.
fn run(fs: Fs, lack: Lack, via: Via, endings: &[Ending]) -> Vec<String> {
    let mut bad = Vec::new();
    for (turn, ending) in endings.iter().enumerate() {
        let Some(mut scene) = Scene::new(fs, lack, via) else {
            println!("{fs:?} | {lack:?} | {via:?} | not on this machine");
            return bad;
        };
        if !take_away(&scene.world, fs, lack) {
            println!("{fs:?} | {lack:?} | {via:?} | the host refuses, or has no such limit");
            scene.end(Ending::Term);
            return bad;
        }
        scene.traffic();
        if turn == 0 {
            scene.operations();
        }
        scene.end(*ending);
        if !scene.afterwards() {
            bad.push(format!("{fs:?} {lack:?} {via:?} {ending:?}: the data is not right"));
        }
        bad.extend(scene.bad());
    }
    bad
}

#[test]
fn nothing_hangs_and_nothing_is_lost_on_a_host_that_lacks_something() {
    if !can_attach() || !have(&["mkfs.ext4", "chattr", "qemu-img"]) {
        return;
    }
    let words = std::env::var(CELLS).unwrap_or_else(|_| "tmpfs-blocks-nbd".into());
    let wanted = |name: &str| words.split(',').any(|word| word == "all" || name.contains(word));
    let endings = [Ending::Term, Ending::Detach, Ending::Kill];
    println!("host | lacks | way | asked | result | time");
    let mut bad = Vec::new();
    for fs in [Fs::Ext4, Fs::Xfs, Fs::XfsReflink, Fs::Btrfs, Fs::Tmpfs] {
        for lack in [Lack::Blocks, Lack::Inodes, Lack::ReadOnly, Lack::Immutable] {
            for via in [Via::Nbd, Via::Loop] {
                if wanted(&format!("{fs:?}-{lack:?}-{via:?}").to_lowercase()) {
                    bad.extend(run(fs, lack, via, &endings));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
