//! A disk that Parallels Desktop has split into pieces: opened, written, killed, its layers
//! changed, and read by a program that knows nothing of ours.
#![allow(clippy::unwrap_used, reason = "a test")]

use ploop_e2e::flat::{Flat, Kind, Shape};
use ploop_e2e::nbd_client::{Client, Command};
use ploop_e2e::split::{Bundle, digest, digest_of};
use ploop_e2e::stamps::Random;
use ploop_e2e::world::Server;
use ploop_e2e::{World, can_attach, have};
use std::fs;
use std::path::PathBuf;

/// Pieces of 1010 clusters of 32 KiB, whose BAT passes a page, and a short one that ends in a
/// cluster: 78 MiB.
const BUNDLE: Bundle =
    Bundle { version: 2, cluster: 64, piece: 1010 * 64, size: 160_012, levels: 2 };

/// A bundle, and what it holds.
struct Stage {
    world: World,
    bundle: Bundle,
    flat: Flat,
    random: Random,
    served: u32,
}

impl Stage {
    fn new(name: &str, bundle: Bundle) -> Option<Self> {
        if !have(&["python3", "sha256sum"]) {
            return None;
        }
        let world = World::new(name).unwrap();
        let mut random = Random::new(0x5b1d);
        let bytes = bundle.make(&world.path("d"), &mut random);
        let shape =
            Shape { size: bundle.size * 512, cluster: bundle.cluster * 512, longest: 1 << 20 };
        let mut flat = Flat::new(shape);
        flat.bytes = bytes;
        Some(Self { world, bundle, flat, random, served: 0 })
    }

    fn serve(&mut self, more: &[&str]) -> (Server, Client) {
        self.served += 1;
        let socket = self.world.text(&format!("nbd{}", self.served));
        let address = format!("unix:{socket}");
        let server = self.world.serve(&[&["d", "--nbd", &address], more].concat(), 1);
        (server, Client::connect(socket.as_ref()).unwrap())
    }

    /// Some writes, zeroes and flushes, a third of them around the border of the first two pieces.
    fn write(&mut self, client: &mut Client, count: usize) {
        let shape = Shape { size: self.bundle.size * 512, cluster: 32 << 10, longest: 1 << 20 };
        let mut done = 0;
        while done < count {
            let mut op = shape.op(&mut self.random);
            if matches!(op.kind, Kind::Discard | Kind::Reopen) {
                continue;
            }
            if done.is_multiple_of(3) && op.kind != Kind::Flush {
                let border = self.bundle.piece * 512;
                op.offset = border - self.random.below(128) * 512;
                op.len = op.len.min(1 << 20);
            }
            op.send(client, false).unwrap();
            self.flat.apply(&op);
            done += 1;
        }
    }

    fn verify(&self, client: &mut Client) {
        assert_eq!(client.size, self.bundle.size * 512);
        for (n, want) in self.flat.bytes.chunks(1 << 20).enumerate() {
            let (at, len) = ((n << 20) as u64, want.len() as u32);
            let got = client.call(Command::Read, 0, at, len, &[]).unwrap();
            assert!(got == want, "MiB {n}");
        }
    }

    /// What is on the host: whole for ours, for QEMU, and for the other reader.
    fn sound(&self) {
        self.world.ploop_ok(&["check", "-f", "-c", "d"]);
        if have(&["qemu-img"]) {
            for image in self.files() {
                let said = ploop_e2e::qemu::check(&self.world, image.to_str().unwrap());
                assert_eq!(said.code, 0, "{said:?}");
            }
        }
        assert_eq!(digest(&self.world, "d"), digest_of(&self.world, &self.flat.bytes));
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries =
            fs::read_dir(self.world.path("d")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|end| end == "hds")).collect();
        files.sort();
        files
    }

    fn descriptor(&self) -> String {
        fs::read_to_string(self.world.path("d/DiskDescriptor.xml")).unwrap()
    }
}

#[test]
fn a_split_disk_reads_as_one() {
    for (version, levels) in [(1, 1), (2, 3)] {
        let bundle = Bundle { version, levels, ..BUNDLE };
        let Some(mut stage) = Stage::new("split-read", bundle) else { return };
        let before: Vec<_> = stage.files().iter().map(|path| fs::read(path).unwrap()).collect();
        let (server, mut client) = stage.serve(&["--ro"]);
        stage.verify(&mut client);
        drop(client);
        assert_eq!(server.end("-TERM"), 0);
        let after: Vec<_> = stage.files().iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(before == after, "nothing was written");
        stage.sound();
        let info = stage.world.ploop_ok(&["info", "-s", "d"]).out;
        assert!(info.contains(&bundle.size.to_string()), "{info}");
        let map = stage.world.ploop_ok(&["map", "d"]).out;
        for file in stage.files() {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(map.contains(&name), "{name} holds something\n{map}");
        }
    }
}

#[test]
fn a_split_disk_is_written_as_one() {
    for version in [1, 2] {
        let Some(mut stage) = Stage::new("split-write", Bundle { version, ..BUNDLE }) else {
            return;
        };
        let descriptor = stage.descriptor();
        for _ in 0..2 {
            let (server, mut client) = stage.serve(&[]);
            stage.write(&mut client, 150);
            stage.verify(&mut client);
            drop(client);
            assert_eq!(server.end("-TERM"), 0);
            stage.sound();
        }
        assert_eq!(stage.descriptor(), descriptor, "byte for byte");
    }
}

#[test]
fn a_killed_server_of_a_split_disk_loses_nothing() {
    let Some(mut stage) = Stage::new("split-kill", BUNDLE) else { return };
    for round in 0..4 {
        let (server, mut client) = stage.serve(&[]);
        stage.write(&mut client, 60);
        client.flush().unwrap();
        // I14: acknowledged and not flushed.
        stage.write(&mut client, 40);
        assert_ne!(server.end("-KILL"), 0);
        let said = stage.world.ploop(&["check", "d"]);
        assert_eq!(said.code, 37, "{said:?}");
        let (server, mut client) = stage.serve(&[]);
        stage.verify(&mut client);
        drop(client);
        assert_eq!(server.end("-TERM"), 0, "round {round}");
        stage.sound();
    }
}

#[test]
fn a_piece_is_not_a_disk() {
    let Some(stage) = Stage::new("split-piece", BUNDLE) else { return };
    let piece = stage.files()[3].display().to_string();
    for args in [
        &["serve", &piece, "--nbd", "unix:never"][..],
        &["snapshot", &piece],
        &["grow", "-s", "200M", &piece],
    ] {
        let said = stage.world.ploop(args);
        assert_eq!(said.code, 38, "{said:?}");
        assert!(said.err.contains("DiskDescriptor.xml"), "{said:?}");
    }
    let descriptor = stage.world.path("d/DiskDescriptor.xml");
    let odd = stage.descriptor().replacen("<End>64640<", "<End>64704<", 1);
    fs::write(&descriptor, odd).unwrap();
    let said = stage.world.ploop(&["serve", "d", "--ro", "--nbd", "unix:never"]);
    assert!(
        said.code == 39 && said.err.contains("begins at sector 64640, expected 64704"),
        "{said:?}"
    );
}

/// The names of the snapshots, the top's left out.
fn snapshots(stage: &Stage) -> Vec<String> {
    let listed = stage.world.ploop_ok(&["snapshot-list", "-H", "-o", "current,uuid", "d"]).out;
    let frozen = listed.lines().filter(|line| !line.starts_with('*'));
    frozen.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn layers_of_a_split_disk_change_in_all_pieces() {
    for version in [1, 2] {
        let Some(mut stage) = Stage::new("split-layers", Bundle { version, ..BUNDLE }) else {
            return;
        };
        let change = |stage: &mut Stage| {
            let (server, mut client) = stage.serve(&[]);
            stage.write(&mut client, 60);
            drop(client);
            assert_eq!(server.end("-TERM"), 0);
            stage.sound();
        };
        stage.world.ploop_ok(&["snapshot", "d"]);
        assert_eq!(stage.files().len(), 3 * 3, "a new image in each piece");
        change(&mut stage);
        let (frozen, at) = (snapshots(&stage).pop().unwrap(), stage.flat.bytes.clone());
        stage.world.ploop_ok(&["snapshot", "d"]);
        change(&mut stage);
        // The frozen one goes into what it lies on, then the top into that.
        stage.world.ploop_ok(&["snapshot-merge", "-u", &frozen, "d"]);
        stage.sound();
        stage.world.ploop_ok(&["snapshot-merge", "d"]);
        stage.sound();
        assert_eq!(stage.files().len(), 2 * 3);
        let named = stage.descriptor();
        assert!(named.contains("<PhysicalSectorSize>4096</PhysicalSectorSize>"));
        assert!(named.contains("<LogicSectorSize>512</LogicSectorSize>"));
        // Back to a snapshot, which drops what came later.
        stage.world.ploop_ok(&["snapshot", "d"]);
        let (kept, before) = (snapshots(&stage).pop().unwrap(), stage.flat.bytes.clone());
        change(&mut stage);
        stage.world.ploop_ok(&["snapshot-switch", "-u", &kept, "d"]);
        stage.flat.bytes = before;
        stage.sound();
        stage.world.ploop_ok(&["snapshot-delete", "-u", &kept, "d"]);
        stage.sound();
        stage.world.ploop_ok(&["snapshot-merge", "-A", "d"]);
        stage.sound();
        assert_eq!(stage.files().len(), 3, "one image in each piece");
        assert_ne!(at, stage.flat.bytes);
    }
}

#[test]
fn layers_of_a_split_disk_in_use() {
    let Some(mut stage) = Stage::new("split-online", BUNDLE) else { return };
    let (server, mut client) = stage.serve(&[]);
    for _ in 0..3 {
        stage.write(&mut client, 40);
        stage.world.ploop_ok(&["snapshot", "d"]);
    }
    stage.write(&mut client, 40);
    assert_eq!(stage.files().len(), 5 * 3);
    let frozen = snapshots(&stage).pop().unwrap();
    stage.world.ploop_ok(&["snapshot-merge", "-u", &frozen, "d"]);
    stage.write(&mut client, 40);
    stage.world.ploop_ok(&["snapshot-merge", "d"]);
    stage.write(&mut client, 40);
    stage.verify(&mut client);
    stage.world.ploop_ok(&["snapshot-merge", "-A", "d"]);
    stage.verify(&mut client);
    assert_eq!(stage.files().len(), 3);
    // The last piece grows; the new end reads as zeros.
    let sectors = stage.bundle.size + 64 * 100;
    stage.world.ploop_ok(&["grow", "-s", &sectors.to_string(), "d"]);
    drop(client);
    assert_eq!(server.end("-TERM"), 0);
    let end = stage.world.ploop_ok(&["info", "-s", "d"]).out;
    let end: u64 = end.lines().next().unwrap().trim_start_matches("size:").trim().parse().unwrap();
    assert!(end >= sectors, "{end} {sectors}");
    stage.bundle.size = end;
    let mut bytes = std::mem::take(&mut stage.flat.bytes);
    bytes.resize(end as usize * 512, 0);
    let shape = Shape { size: end * 512, cluster: 32 << 10, longest: 1 << 20 };
    stage.flat = Flat::new(shape);
    stage.flat.bytes = bytes;
    stage.sound();
    assert!(stage.descriptor().contains(&format!("<End>{end}</End>")));
    let (server, mut client) = stage.serve(&[]);
    stage.write(&mut client, 60);
    stage.verify(&mut client);
    drop(client);
    assert_eq!(server.end("-TERM"), 0);
    stage.sound();
}

#[test]
fn a_killed_merge_of_a_split_disk_leaves_a_whole_disk() {
    let Some(mut stage) = Stage::new("split-merge-kill", BUNDLE) else { return };
    for wait in [20, 60, 120] {
        let (server, mut client) = stage.serve(&[]);
        stage.world.ploop_ok(&["snapshot", "d"]);
        stage.write(&mut client, 120);
        client.flush().unwrap();
        let mut merge = stage.world.ploop_command(&["snapshot-merge", "d"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        assert_ne!(server.end("-KILL"), 0);
        let _ = merge.wait().unwrap();
        drop(client);
        let (server, mut client) = stage.serve(&[]);
        stage.verify(&mut client);
        stage.write(&mut client, 20);
        drop(client);
        assert_eq!(server.end("-TERM"), 0);
        stage.world.ploop_ok(&["snapshot-merge", "-A", "d"]);
        stage.sound();
        // The next round needs something below the top again.
        stage.world.ploop_ok(&["snapshot", "d"]);
    }
}

/// What a client reads from an address.
fn read_all(socket: &str) -> Vec<u8> {
    let mut client = Client::connect(socket.as_ref()).unwrap();
    let mut bytes = Vec::new();
    for at in (0..client.size).step_by(1 << 20) {
        let len = (client.size - at).min(1 << 20) as u32;
        bytes.extend(client.call(Command::Read, 0, at, len, &[]).unwrap());
    }
    bytes
}

#[test]
fn a_snapshot_of_a_split_disk_is_opened_by_itself() {
    let Some(mut stage) = Stage::new("split-snapshot", BUNDLE) else { return };
    let (server, mut client) = stage.serve(&[]);
    stage.write(&mut client, 60);
    stage.world.ploop_ok(&["snapshot", "d"]);
    let (frozen, then) = (snapshots(&stage).pop().unwrap(), stage.flat.bytes.clone());
    stage.write(&mut client, 60);
    assert_ne!(then, stage.flat.bytes);
    // Levels are those of the disk, not the files of all its pieces.
    let told = stage.world.ploop_ok(&["--json", "list"]).out;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let disk = &told["disks"][0];
    assert_eq!((disk["levels"].as_u64(), disk["pieces"].as_u64()), (Some(3), Some(3)), "{disk}");
    let long = stage.world.ploop_ok(&["list", "--long"]).out;
    assert!(long.contains("PIECES"), "{long}");
    let info = stage.world.ploop_ok(&["info", "-s", "d"]).out;
    assert!(info.contains("pieces:\t\t3") && info.contains("levels:\t\t3"), "{info}");
    let socket = stage.world.text("snapshot.sock");
    let address = format!("unix:{socket}");
    stage.world.ploop_ok(&["export", "d", &address, "-u", &frozen]);
    assert!(read_all(&socket) == then, "the snapshot, beside its disk in use");
    stage.world.ploop_ok(&["export", "--remove", "d", &address]);
    drop(client);
    assert_eq!(server.end("-TERM"), 0);
    if can_attach() {
        let said = stage.world.ploop_ok(&["mount", "-r", "-u", &frozen, "d"]).out;
        let device = said.split("dev=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        assert!(fs::read(device).unwrap() == then, "{said}");
        stage.world.ploop_ok(&["umount", "-d", device]);
    }
    stage.sound();
}

#[test]
fn a_split_disk_becomes_one_in_one_piece() {
    for version in [1, 2] {
        let Some(mut stage) = Stage::new("split-join", Bundle { version, ..BUNDLE }) else {
            return;
        };
        let (server, mut client) = stage.serve(&[]);
        stage.write(&mut client, 60);
        let refused = stage.world.ploop(&["convert", "--one-piece", "d"]);
        assert!(refused.code == 37 && refused.err.contains("in use"), "{refused:?}");
        drop(client);
        assert_eq!(server.end("-TERM"), 0);
        stage.world.ploop_ok(&["snapshot", "d"]);
        let names = snapshots(&stage);
        let (server, mut client) = stage.serve(&[]);
        stage.write(&mut client, 60);
        drop(client);
        assert_eq!(server.end("-TERM"), 0);
        let listed = stage.world.ploop_ok(&["snapshot-list", "-H", "-o", "uuid,parent_uuid", "d"]);
        let said = stage.world.ploop_ok(&["--json", "convert", "--one-piece", "d"]);
        let told: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!((told["pieces"].as_u64(), told["levels"].as_u64()), (Some(3), Some(3)));
        assert!(told["copied_bytes"].as_u64().unwrap() > 1 << 20, "{told}");
        assert_eq!(stage.files().len(), 3, "one image for each level");
        let after = stage.world.ploop_ok(&["snapshot-list", "-H", "-o", "uuid,parent_uuid", "d"]);
        assert_eq!(after.out, listed.out, "every snapshot has its name");
        stage.sound();
        let text = stage.descriptor();
        assert_eq!(text.matches("<Storage>").count(), 1);
        assert!(text.contains("<PhysicalSectorSize>4096</PhysicalSectorSize>"));
        // It is a disk like any other.
        let (server, mut client) = stage.serve(&[]);
        stage.write(&mut client, 60);
        stage.verify(&mut client);
        drop(client);
        assert_eq!(server.end("-TERM"), 0);
        stage.world.ploop_ok(&["snapshot-merge", "-u", names.last().unwrap(), "d"]);
        stage.sound();
        let again = stage.world.ploop_ok(&["convert", "--one-piece", "d"]);
        assert!(again.err.contains("is in one piece already"), "{again:?}");
    }
}

#[test]
fn a_killed_or_cancelled_convert_leaves_the_split_disk() {
    let Some(stage) = Stage::new("split-join-kill", BUNDLE) else { return };
    let text = stage.descriptor();
    let images = stage.files().len();
    for (signal, code) in [("-INT", 29), ("-TERM", 29), ("-KILL", 137)] {
        // Slow enough to be in the middle.
        let slow = ["convert", "--one-piece", "--rate", "1M", "d"];
        let mut convert = stage.world.ploop_command(&slow).spawn().unwrap();
        while stage.files().len() == images {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let pid = convert.id().to_string();
        stage.world.ok("kill", &[signal, &pid]);
        let ended = convert.wait().unwrap();
        assert_eq!(ended.code().unwrap_or(137), code, "{signal}");
        assert_eq!(stage.descriptor(), text, "{signal}");
        if signal != "-KILL" {
            assert_eq!(stage.files().len(), images, "{signal}: nothing stays");
        }
    }
    // What a killed one has left is named by check, and in nobody's way.
    let found = stage.world.ploop(&["check", "-f", "d"]);
    assert!(found.out.contains("belongs to no snapshot"), "{found:?}");
    assert_eq!(digest(&stage.world, "d"), digest_of(&stage.world, &stage.flat.bytes));
    stage.world.ploop_ok(&["convert", "--one-piece", "d"]);
    assert_eq!(digest(&stage.world, "d"), digest_of(&stage.world, &stage.flat.bytes));
}
