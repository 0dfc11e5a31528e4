//! The block size of a disk is its own: it stays what it is when the files want larger blocks for
//! direct I/O, and what is smaller than those, or not aligned at all, is served.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use ploop_e2e::checks::{seed, wants_clean};
use ploop_e2e::device::can_mount;
use ploop_e2e::host::Small;
use ploop_e2e::nbd_client::{Client, Command};
use ploop_e2e::stamps::Ledger;
use ploop_e2e::world::Server;
use ploop_e2e::{World, can_attach, have, skip};
use std::fs::File;
use std::path::Path;

/// Bytes that the stamped sectors cover.
const ZONE: u64 = 8 << 20;

/// What direct I/O on a file wants of offsets; 0: the kernel does not tell.
fn alignment(path: &Path) -> u32 {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let file = File::open(path).unwrap();
    let told = statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).unwrap();
    told.stx_dio_offset_align
}

fn serve(world: &World, disk: &str) -> (Server, Client) {
    let socket = world.text("s");
    let nbd = format!("unix:{socket}");
    let server = world.serve(&[disk, "--queues", "2", "--nbd", &nbd], 1);
    (server, Client::connect(socket.as_ref()).unwrap())
}

/// Writes and reads back single bytes and odd ranges, each beside what it must not touch.
fn odd_ranges(client: &mut Client, from: u64) {
    client.write(from, &[7; 16384]).unwrap();
    client.write(from + 5001, b"abc").unwrap();
    assert_eq!(client.read(from + 5000, 5).unwrap(), *b"\x07abc\x07");
    client.call(Command::WriteZeroes, 1, from + 4000, 999, &[]).unwrap();
    assert_eq!(client.read(from + 3999, 2).unwrap(), [7, 0]);
    assert_eq!(client.read(from + 4998, 4).unwrap(), [0, 7, 7, b'a']);
    client.call(Command::Trim, 0, from + 8193, 7, &[]).unwrap();
    client.write(from + 100, &[]).unwrap();
    assert!(client.read(from + 100, 0).unwrap().is_empty());
    assert_eq!(client.read(from + 8190, 20).unwrap(), [7; 20]);
}

/// A copy that shares the blocks raises the alignment of the files under a running server.
#[test]
fn a_shared_copy_is_not_noticed_by_clients() {
    if !can_attach() || !have(&["mkfs.xfs"]) || !can_mount("xfs") {
        return;
    }
    let world = World::new("block-size-copy").unwrap();
    let host = world.small_host("host", Small::Xfs, 512);
    std::fs::create_dir(host.join("a")).unwrap();
    world.ploop_ok(&[
        "init",
        "-s",
        "64M",
        "-b",
        "128",
        "-t",
        "none",
        &world.text("host/a/root.hds"),
    ]);
    world.ploop_ok(&["snapshot", "host/a"]);
    let (server, mut client) = serve(&world, "host/a");
    let mut ledger = Ledger::new(ZONE, seed());
    assert!(ledger.traffic(&mut client, 500).unwrap());

    let before = alignment(&host.join("a/root.hds"));
    world.ok("cp", &["-a", "--reflink=always", "host/a", "host/b"]);
    let after = alignment(&host.join("a/root.hds"));
    if (before, after) != (512, 4096) {
        return skip(
            "a_shared_copy_is_not_noticed_by_clients",
            &format!("direct I/O on XFS wants {before} bytes, and {after} after a copy"),
        );
    }
    assert!(ledger.traffic(&mut client, 500).unwrap());
    odd_ranges(&mut client, ZONE);
    // The next device has the same files, and the next server opens them as they are now.
    world.ploop_ok(&["snapshot", "host/a"]);
    assert!(ledger.traffic(&mut client, 500).unwrap());
    world.ploop_ok(&["snapshot-merge", "-A", "host/a"]);
    assert!(ledger.traffic(&mut client, 500).unwrap());
    ledger.verify(&mut client).unwrap();
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);

    let device = world.attach(&["host/a"]);
    assert_eq!(world.ok("blockdev", &["--getss", &device.device]).trim(), "512");
    world.detach(&device);
    let (server, mut client) = serve(&world, "host/a");
    ledger.verify(&mut client).unwrap();
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "host/a/root.hds");
}

/// Gives a new disk a size that no tool of ours gives: whole sectors, but not whole pages.
fn shrink(image: &Path, size: u64) {
    use std::os::unix::fs::FileExt;
    let descriptor = image.with_file_name("DiskDescriptor.xml");
    let text = std::fs::read_to_string(&descriptor).unwrap();
    let (before, rest) = text.split_once("<Disk_size>").unwrap();
    let (_, after) = rest.split_once('<').unwrap();
    let sectors = size / 512;
    std::fs::write(&descriptor, format!("{before}<Disk_size>{sectors}<{after}")).unwrap();
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut magic = [0; 16];
    file.read_exact_at(&mut magic, 0).unwrap();
    match &magic {
        b"WithouFreSpacExt" => file.write_all_at(&sectors.to_le_bytes(), 36).unwrap(),
        _ => file.set_len(size).unwrap(),
    }
}

/// A merge under a client, whose last cluster goes to the last bytes of a plain file.
fn into_raw_base(world: &World, disk: &str, size: u64, ledger: &mut Ledger) {
    world.ploop_ok(&["snapshot", disk]);
    let (server, mut client) = serve(world, disk);
    assert!(ledger.traffic(&mut client, 300).unwrap());
    client.write(size - 700, &[5; 700]).unwrap();
    world.ploop_ok(&["snapshot-merge", disk]);
    assert!(ledger.traffic(&mut client, 300).unwrap());
    ledger.verify(&mut client).unwrap();
    assert_eq!(client.read(size - 700, 700).unwrap(), [5; 700]);
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
}

/// Storage with 4096-byte sectors: a disk of an odd number of 512-byte sectors, raw or not.
#[test]
fn storage_of_4096_bytes_serves_sectors_of_512() {
    if !can_attach() || !have(&["mkfs.ext4", "qemu-img"]) || !can_mount("ext4") {
        return;
    }
    let world = World::new("block-size-4k").unwrap();
    let host = world.small_host("host", Small::Ext4k, 256);
    let size: u64 = (16 << 20) + 512;
    for (name, format) in [("a", "expanded"), ("r", "raw")] {
        let image = host.join(name).join("root.hds");
        std::fs::create_dir(host.join(name)).unwrap();
        let sectors = (size / 512).to_string();
        let init = ["init", "-s", &sectors, "-b", "128", "-t", "none", "-f", format];
        world.ploop_ok(&[&init[..], &[image.to_str().unwrap()]].concat());
        shrink(&image, size);
        assert_eq!(alignment(&image), 4096, "the premise");
        let disk = format!("host/{name}");
        let mut ledger = Ledger::new(ZONE, seed());
        for _ in 0..2 {
            let (server, mut client) = serve(&world, &disk);
            assert!(ledger.traffic(&mut client, 500).unwrap());
            odd_ranges(&mut client, ZONE);
            client.write(size - 512, &[9; 512]).unwrap();
            client.write(size - 1, b"!").unwrap();
            assert_eq!(client.read(size - 3, 3).unwrap(), *b"\x09\x09!");
            assert!(client.read(size - 3, 4).is_err(), "past the end");
            ledger.verify(&mut client).unwrap();
            client.disconnect().unwrap();
            assert_eq!(server.end("-TERM"), 0);
        }
        if format == "raw" {
            assert_eq!(image.metadata().unwrap().len(), size, "a raw image keeps its length");
            into_raw_base(&world, &disk, size, &mut ledger);
            assert_eq!(image.metadata().unwrap().len(), size, "also after a merge into it");
        } else {
            wants_clean(&world, image.to_str().unwrap());
        }
        let device = world.attach(&[&disk]);
        let shown = world.ok("blockdev", &["--getss", "--getsize64", &device.device]);
        assert_eq!(shown, format!("512\n{size}\n"));
        world.detach(&device);
    }
}

/// The descriptor's sector size is what clients see.
#[test]
fn a_descriptor_that_names_4096_bytes_is_obeyed() {
    if !can_attach() {
        return;
    }
    let world = World::new("block-size-named").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
    let descriptor = world.path("a/DiskDescriptor.xml");
    let text = std::fs::read_to_string(&descriptor).unwrap();
    let named = |size: &str| {
        let new = format!("<LogicSectorSize>{size}</LogicSectorSize><Padding>");
        std::fs::write(&descriptor, text.replacen("<Padding>", &new, 1)).unwrap();
    };
    named("4096");
    let device = world.attach(&["a"]);
    assert_eq!(world.ok("blockdev", &["--getss", &device.device]).trim(), "4096");
    world.detach(&device);
    world.ploop_ok(&["snapshot", "a"]);
    let kept = std::fs::read_to_string(&descriptor).unwrap();
    assert!(kept.contains("<LogicSectorSize>4096</LogicSectorSize>"), "{kept}");
    named("520");
    let refused = world.ploop(&["serve", "a", "--nbd", "unix:s"]);
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("`LogicSectorSize` is 520"), "{refused:?}");
}

/// libnbd's shell, which asks for bytes anywhere unless the server forbids it.
#[test]
fn the_nbd_shell_reads_eight_bytes() {
    if !have(&["nbdsh"]) {
        return;
    }
    let world = World::new("block-size-shell").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
    let (server, client) = serve(&world, "a");
    client.disconnect().unwrap();
    let uri = format!("nbd+unix:///?socket={}", world.text("s"));
    let ask = "assert h.pread(8, 8) == bytearray(8); h.pwrite(b'abc', 12345); \
               assert h.pread(5, 12344) == b'\\0abc\\0'; h.zero(1, 12346); h.trim(7, 12000); \
               assert h.pread(3, 12345) == b'a\\0c'";
    // Its Python is the system's.
    let mut shell = world.command("nbdsh");
    shell.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["-u", &uri, "-c", ask]);
    let out = shell.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(server.end("-TERM"), 0);
}
