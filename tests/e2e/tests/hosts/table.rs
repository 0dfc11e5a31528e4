//! Every kind of host x what it lacks x what is asked of the disk x the way to the disk: what comes
//! of it, after how long, and whether everything that was flushed is there afterwards. A slice is
//! run with the other tests; `cargo xtask hosts` runs all and prints the table of `docs/hosts.md`.

use super::fill_host;
use super::way::{Via, Way, outcome};
use ploop_e2e::device::is_running;
use ploop_e2e::world::wait_until;
use ploop_e2e::{World, can_attach, have};
use std::fs::{self, File};
use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Set by `cargo xtask hosts`: the cells whose name has one of these words; `all` for all of them.
const CELLS: &str = "PLOOP_HOSTS";
/// What has not ended by then hangs.
const BOUND: Duration = Duration::from_secs(30);
/// What takes longer is wrong where the whole table is made, on a machine with nothing else to do.
const SLOW: Duration = Duration::from_secs(10);
/// Blocks that are written and flushed before the host runs short.
const BLOCKS: u64 = 48;
/// New clusters that are written then, more than any space kept ahead has.
const MORE: u64 = 256;

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
enum Ending {
    Term,
    Detach,
    /// Of a block device.
    Force,
    Kill,
}

impl Ending {
    const fn name(self) -> &'static str {
        match self {
            Self::Detach => "detach",
            Self::Force => "detach --force",
            Self::Term => "SIGTERM",
            Self::Kill => "kill -9",
        }
    }
}

/// What is asked, in the order of the table.
const ASKED: [&str; 11] = [
    "write",
    "flush",
    "snapshot",
    "merge",
    "delete",
    "merge -A",
    "grow",
    "SIGTERM",
    "detach",
    "detach --force",
    "kill -9",
];

/// One thing that was asked.
struct Row {
    action: &'static str,
    result: String,
    time: Duration,
}

/// One scene: a host that lacks something, and everything that is asked there.
struct Scene {
    world: World,
    fs: Fs,
    lack: Lack,
    via: Via,
    /// To the open disk.
    way: Option<Way>,
    rows: Vec<Row>,
}

/// What a program that may hang has come to, and the first line it said.
fn bounded(world: &World, args: &[&str]) -> String {
    let mut command = world.ploop_command(args);
    let said = world.path("said");
    command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
    let mut child = command.spawn().unwrap();
    let mut code = None;
    wait_until(BOUND, || {
        code = child.try_wait().ok().flatten();
        code.is_some()
    });
    let Some(status) = code else {
        let _ = child.kill();
        return "HANGS".into();
    };
    let text = fs::read_to_string(said).unwrap_or_default();
    let text = text.replace(&world.text("host"), "host");
    let line = text.lines().find(|line| line.starts_with("ploop: ")).unwrap_or_default();
    match status.code() {
        Some(0) => "exit 0".into(),
        Some(code) => format!("exit {code} ({})", line.trim_start_matches("ploop: ")),
        None => "ended by a signal".into(),
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
        let way = Some(Way::open(&world, via, "host/a"));
        let mut scene = Self { world, fs, lack, via, way, rows: Vec::new() };
        for turn in 0..3 {
            for n in 0..BLOCKS - 16 * turn {
                scene.way().write(n, turn).unwrap();
            }
            if turn < 2 {
                scene.world.ploop_ok(&["-v1", "snapshot", "host/a"]);
            }
        }
        scene.way().flush().unwrap();
        Some(scene)
    }

    fn way(&mut self) -> &mut Way {
        self.way.as_mut().unwrap()
    }

    fn note(&mut self, action: &'static str, result: String, time: Duration) {
        let (fs, lack, via) = (self.fs, self.lack, self.via);
        println!("{fs:?} | {lack:?} | {via:?} | {action} | {result} | {:.1} s", time.as_secs_f64());
        self.rows.push(Row { action, result, time });
    }

    /// Writes to new places until one is not answered or fails, and a flush.
    fn traffic(&mut self) {
        let began = Instant::now();
        let written = self.way().write_all((0..MORE).map(|n| 1000 + 2 * n));
        self.note("write", outcome(&written), began.elapsed());
        let began = Instant::now();
        let flushed = self.way().flush();
        self.note("flush", outcome(&flushed), began.elapsed());
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
            let time = began.elapsed();
            // The device goes on, whatever came of it.
            match self.looks() {
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    result += match self.via {
                        // The kernel's loop driver does one request after the other.
                        Via::Loop => "; reads wait behind the flush",
                        Via::Nbd | Via::Vhost => ", LOST: a read has no answer",
                    };
                }
                Some(Err(error)) => result = format!("{result}, LOST: {error}"),
                Some(Ok(())) | None => {}
            }
            self.note(name, result, time);
        }
    }

    /// Reads everything that was flushed; `None` of a closed disk.
    fn looks(&mut self) -> Option<io::Result<()>> {
        let wanted = (0..BLOCKS).map(|n| (n, (BLOCKS - 1 - n) / 16)).collect();
        Some(self.way.as_mut()?.looks(wanted))
    }

    /// Ends the server, one way or another.
    fn end(&mut self, ending: Ending) {
        let Some(mut way) = self.way.take() else { return };
        let (began, pid) = (Instant::now(), way.pid());
        let result = match ending {
            Ending::Detach => bounded(&self.world, &["-v1", "detach", "host/a"]),
            Ending::Force => bounded(&self.world, &["-v1", "detach", "--force", "host/a"]),
            Ending::Term | Ending::Kill => {
                let signal = if ending == Ending::Term { "-TERM" } else { "-KILL" };
                self.world.run("kill", &[signal, &pid.to_string()]);
                match way.server.take() {
                    // Its own child is a zombie until it is waited for.
                    Some(server) => match server.wait() {
                        -1 => "ended".into(),
                        code => format!("exit {code}"),
                    },
                    None if wait_until(BOUND, || !is_running(pid)) => "ended".into(),
                    None => "HANGS".into(),
                }
            }
        };
        self.note(ending.name(), result, began.elapsed());
        if let Some(server) = way.server.take() {
            let _ = server.end("-TERM");
        }
        if let Some(device) = way.device.take()
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
        let _ = fs::remove_file(self.world.path("s"));
        self.way = Some(Way::open(&self.world, Via::Nbd, "host/a"));
        let right = self.looks();
        let server = self.way.take().and_then(|way| way.server);
        let code = server.map_or(-1, |server| server.end("-TERM"));
        let check = self.world.ploop(&["check", "-f", "host/a"]).code;
        println!("    data: {right:?}, last close {code}, check {check}");
        matches!(right, Some(Ok(()))) && code == 0 && check == 0
    }

    /// A host that is not made read-only while somebody writes to it: nobody does, then.
    fn closed(&mut self) -> bool {
        if let Some(way) = self.way.take() {
            way.close(&self.world);
        }
        let host = self.world.text("host");
        if self.world.run("mount", &["-o", "remount,ro", &host]).code != 0 {
            return false;
        }
        let began = Instant::now();
        let opened = Way::command(&self.world, self.via, "host/a");
        let mut result =
            bounded(&self.world, &opened.iter().map(String::as_str).collect::<Vec<_>>());
        if result == "exit 0" || result == "HANGS" {
            result = format!("{result}, LOST: a disk that cannot be written is open for writing");
        }
        self.note("open", result, began.elapsed());
        let began = Instant::now();
        self.way = Some(Way::open_read_only(&self.world, "host/a"));
        let looked = self.looks();
        let result = match &looked {
            Some(Ok(())) => "ok".to_owned(),
            other => format!("LOST: {other:?}"),
        };
        self.note("open --ro", result, began.elapsed());
        if let Some(server) = self.way.take().and_then(|way| way.server) {
            let _ = server.end("-TERM");
        }
        self.operations();
        true
    }

    /// Cells that hang or are wrong.
    fn bad(&self) -> Vec<String> {
        let whole = std::env::var_os(CELLS).is_some();
        let bad = |row: &Row| {
            let Row { action, result, time } = row;
            let slow = *time > if whole { SLOW } else { BOUND };
            let wrong = result.contains("HANGS") || result.contains("LOST") || slow;
            wrong.then(|| {
                let time = time.as_secs_f64();
                let (fs, lack, via) = (self.fs, self.lack, self.via);
                format!("{fs:?} {lack:?} {via:?}: {action}: {result} after {time:.1} s")
            })
        };
        self.rows.iter().filter_map(bad).collect()
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
            fill_host(world);
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
            world.run("mount", &["-o", "remount,rw", &host]);
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

/// Runs the scenes of one host and one lack; adds a line of the table, and what hangs or is wrong.
fn run(fs: Fs, lack: Lack, via: Via, lines: &mut Vec<String>, bad: &mut Vec<String>) {
    let mut rows = Vec::new();
    let mut right = true;
    let endings: &[Ending] = match via {
        Via::Loop => &[Ending::Term, Ending::Detach, Ending::Force, Ending::Kill],
        Via::Nbd | Via::Vhost => &[Ending::Term, Ending::Detach, Ending::Kill],
    };
    for (turn, ending) in endings.iter().enumerate() {
        let Some(mut scene) = Scene::new(fs, lack, via) else {
            println!("{fs:?} | {lack:?} | {via:?} | not on this machine");
            return;
        };
        let lacks = take_away(&scene.world, fs, lack);
        let closed = !lacks && lack == Lack::ReadOnly && scene.closed();
        if !lacks && !closed {
            println!("{fs:?} | {lack:?} | {via:?} | the host has no such limit");
            scene.end(Ending::Term);
            return;
        }
        if lacks {
            scene.traffic();
            if turn == 0 {
                scene.operations();
            }
            scene.end(*ending);
        }
        let as_flushed = scene.afterwards();
        right &= as_flushed;
        if !as_flushed {
            bad.push(format!("{fs:?} {lack:?} {via:?} {ending:?}: the data is not right"));
        }
        bad.extend(scene.bad());
        rows.append(&mut scene.rows);
        if closed {
            break;
        }
    }
    lines.push(line(fs, lack, via, &rows, right));
}

/// A line of the table.
fn line(fs: Fs, lack: Lack, via: Via, rows: &[Row], right: bool) -> String {
    let cell = |action: &str| {
        let row = rows.iter().find(|row| row.action == action);
        row.map_or("-".to_owned(), |row| {
            let result = row.result.split(" (").next().unwrap_or_default();
            format!("{}, {:.1} s", result.trim_start_matches("exit "), row.time.as_secs_f64())
        })
    };
    let cells: Vec<_> = ASKED.iter().map(|action| cell(action)).collect();
    let closed = if rows.iter().any(|row| row.action == "open --ro") { " (closed)" } else { "" };
    let right = if right { "right" } else { "WRONG" };
    format!("| {fs:?} | {lack:?}{closed} | {via:?} | {} | {right} |", cells.join(" | "))
}

#[test]
fn nothing_hangs_and_nothing_is_lost_on_a_host_that_lacks_something() {
    if !can_attach() || !have(&["mkfs.ext4", "chattr", "qemu-img"]) {
        return;
    }
    let words = std::env::var(CELLS).unwrap_or_else(|_| "tmpfs-blocks-nbd".into());
    let wanted = |name: &str| words.split(',').any(|word| word == "all" || name.contains(word));
    println!("host | lacks | way | asked | result | time");
    let (mut lines, mut bad) = (Vec::new(), Vec::new());
    for fs in [Fs::Ext4, Fs::Xfs, Fs::XfsReflink, Fs::Btrfs, Fs::Tmpfs] {
        for lack in [Lack::Blocks, Lack::Inodes, Lack::ReadOnly, Lack::Immutable] {
            for via in [Via::Nbd, Via::Vhost, Via::Loop] {
                if wanted(&format!("{fs:?}-{lack:?}-{via:?}").to_lowercase()) {
                    run(fs, lack, via, &mut lines, &mut bad);
                }
            }
        }
    }
    println!("\n| host | lacks | way | {} | data |", ASKED.join(" | "));
    println!("|{}", "---|".repeat(ASKED.len() + 4));
    lines.iter().for_each(|line| println!("{line}"));
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
