//! Images that we wrote are QEMU's too, and the reverse: single deltas, both versions, several
//! cluster sizes, after writes, zeroes and discards.
//!
//! `PLOOP_E2E_SEED=N` replays the traffic of a run.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

use ploop_e2e::flat::{Flat, Kind, Op, Shape};
use ploop_e2e::nbd_client::Client;
use ploop_e2e::stamps::Random;
use ploop_e2e::{World, can_attach, have, qemu};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::{env, iter};

const LONGEST: u64 = 2 << 20;

fn seed() -> u64 {
    let seed = env::var("PLOOP_E2E_SEED").map_or(20_261, |text| text.parse().unwrap());
    println!("replay with PLOOP_E2E_SEED={seed}");
    seed
}

/// Random operations for one open.
fn some(shape: Shape, count: usize, random: &mut Random) -> Vec<Op> {
    let ops = iter::repeat_with(|| shape.op(random)).filter(|op| op.kind != Kind::Reopen);
    ops.take(count).collect()
}

/// Applies operations through our server, then reads all of it. Wrong bytes end the test.
fn write_ours(world: &World, disk: &str, ops: &[Op], flat: &mut Flat) {
    let socket = world.text("s");
    let server = world.serve(&[disk, "--nbd", &format!("unix:{socket}")], 1);
    let mut client = Client::connect(socket.as_ref()).unwrap();
    for (n, op) in ops.iter().enumerate() {
        op.send(&mut client, n % 7 == 0).unwrap_or_else(|error| panic!("{op:?}: {error}"));
        flat.apply(op);
    }
    compare(&mut client, flat);
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
}

fn read_ours(world: &World, target: &str, flat: &mut Flat) {
    let socket = world.text("s");
    let server = world.serve(&[target, "--ro", "--nbd", &format!("unix:{socket}")], 1);
    let mut client = Client::connect(socket.as_ref()).unwrap();
    compare(&mut client, flat);
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
}

fn compare(client: &mut Client, flat: &mut Flat) {
    assert_eq!(client.size, flat.bytes.len() as u64);
    let mut found = Vec::new();
    while found.len() < flat.bytes.len() {
        let len = (flat.bytes.len() - found.len()).min(4 << 20);
        found.extend(client.read(found.len() as u64, len as u32).unwrap());
    }
    assert_eq!(flat.differs(&found), None, "first wrong sector, read by us");
    flat.learn(&found);
}

/// After our close: QEMU finds nothing, leaks included, and reads the same.
fn wants_accepted(world: &World, image: &str, flat: &mut Flat) {
    let check = qemu::check(world, image);
    assert_eq!(check.code, 0, "{check:?}");
    assert!(check.out.contains("No errors were found"), "{check:?}");
    let found = qemu::read(world, image);
    assert_eq!(flat.differs(&found), None, "first wrong sector, read by QEMU");
    flat.learn(&found);
}

#[test]
fn what_we_write_over_nbd_qemu_accepts_and_reads() {
    if !have(&["qemu-img"]) {
        return;
    }
    let world = World::new("interop-ours").unwrap();
    let mut random = Random::new(seed());
    println!("version  cluster  sectors  file      qemu-img check  convert");
    for (n, (version, cluster)) in
        [(2, 64), (1, 64), (2, 128), (1, 128), (2, 512), (2, 2048), (1, 2048), (2, 8192)]
            .into_iter()
            .enumerate()
    {
        let size = cluster * (20_480_u64.div_ceil(cluster) + random.below(30));
        let disk = format!("d{n}");
        let image = world.disk(&disk).unwrap();
        let [v, s, b] = [version, size, cluster].map(|number: u64| number.to_string());
        world.ploop_ok(&["init", "-v", &v, "-s", &s, "-b", &b, "-t", "none", &image]);
        let shape = Shape { size: size * 512, cluster: cluster * 512, longest: LONGEST };
        let mut flat = Flat::new(shape);
        wants_accepted(&world, &image, &mut flat);
        for _ in 0..2 {
            let ops = some(shape, 60, &mut random);
            write_ours(&world, &disk, &ops, &mut flat);
            wants_accepted(&world, &image, &mut flat);
        }
        let len = fs::metadata(&image).unwrap().len();
        println!("{version:7}  {cluster:7}  {size:7}  {len:8}  0               equal");
        fs::remove_dir_all(world.path(&disk)).unwrap();
    }
}

#[test]
fn what_we_write_over_fuse_qemu_accepts_and_reads() {
    if !have(&["qemu-img"]) || !can_attach() {
        return;
    }
    let world = World::new("interop-fuse").unwrap();
    let mut random = Random::new(seed() ^ 0xf05e);
    for (version, cluster) in [("2", 128), ("1", 2048)] {
        let disk = format!("d{version}");
        let image = world.disk(&disk).unwrap();
        let b = cluster.to_string();
        world.ploop_ok(&["init", "-v", version, "-s", "24M", "-b", &b, "-t", "none", &image]);
        let shape = Shape { size: 24 << 20, cluster: cluster * 512, longest: LONGEST };
        let mut flat = Flat::new(shape);
        let file = world.text(&format!("{disk}.raw"));
        let server = world.serve(&[&disk, "--fuse", &file], 1);
        let device = File::options().read(true).write(true).open(&file).unwrap();
        for op in some(shape, 60, &mut random) {
            through_file(&device, &op);
            flat.apply(&op);
        }
        let mut found = vec![0; flat.bytes.len()];
        device.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(flat.differs(&found), None, "first wrong sector, read by FUSE");
        flat.learn(&found);
        drop(device);
        assert_eq!(server.end("-TERM"), 0);
        wants_accepted(&world, &image, &mut flat);
    }
}

fn through_file(device: &File, op: &Op) {
    use rustix::fs::{FallocateFlags, fallocate};
    let give_back = |flags| fallocate(device, flags | FallocateFlags::KEEP_SIZE, op.offset, op.len);
    match op.kind {
        Kind::Write => device.write_all_at(&op.data(), op.offset).unwrap(),
        Kind::Zeroes => give_back(FallocateFlags::ZERO_RANGE).unwrap(),
        Kind::Discard => give_back(FallocateFlags::PUNCH_HOLE).unwrap(),
        Kind::Flush | Kind::Reopen => device.sync_all().unwrap(),
    }
}

/// Applies operations with `qemu-io`.
fn write_theirs(world: &World, image: &str, ops: &[Op], flat: &mut Flat) {
    let commands = ops.iter().enumerate().map(|(n, op)| {
        flat.apply(op);
        qemu::command(op, &world.path(&format!("data-{n}")))
    });
    let commands: Vec<_> = commands.collect();
    qemu::io(world, image, &commands);
    let found = qemu::read(world, image);
    assert_eq!(flat.differs(&found), None, "first wrong sector of QEMU's own");
    flat.learn(&found);
}

/// QEMU's image: read alone, given a descriptor, written by both in turn.
fn take_over(world: &World, disk: &str, shape: Shape, flat: &mut Flat, random: &mut Random) {
    let image = world.text(&format!("{disk}/root.hds"));
    read_ours(world, &image, flat);
    let check = world.ploop(&["check", "-f", "-c", "-r", &image]);
    assert_eq!(check.code, 0, "{check:?}");
    world.ploop_ok(&["restore-descriptor", disk, &image]);
    read_ours(world, disk, flat);
    let check = world.ploop(&["check", "-f", "-c", "-r", disk]);
    assert_eq!(check.code, 0, "{check:?}");
    for _ in 0..2 {
        write_ours(world, disk, &some(shape, 40, random), flat);
        wants_accepted(world, &image, flat);
        write_theirs(world, &image, &some(shape, 25, random), flat);
        read_ours(world, disk, flat);
    }
    write_ours(world, disk, &[], flat);
    wants_accepted(world, &image, flat);
}

#[test]
fn what_qemu_makes_and_writes_we_read_write_and_give_back() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let world = World::new("interop-theirs").unwrap();
    let mut random = Random::new(seed() ^ 0x9e3);
    // The last two end inside a cluster.
    for (n, (cluster, size)) in
        [(32, 8192), (64, 16_384), (1024, 24_576), (64, 9999), (1024, 20_500)]
            .into_iter()
            .enumerate()
    {
        let disk = format!("d{n}");
        let image = world.disk(&disk).unwrap();
        let (cluster, size) = (cluster << 10, size * 1024_u64);
        let options = format!("cluster_size={cluster}");
        let create = ["create", "-f", "parallels", "-o", &options, &image, &size.to_string()];
        world.ok("qemu-img", &create);
        let shape = Shape { size, cluster, longest: LONGEST };
        let mut flat = Flat::lenient(shape);
        write_theirs(&world, &image, &some(shape, 40, &mut random), &mut flat);
        take_over(&world, &disk, shape, &mut flat, &mut random);
        println!("created by qemu-img, cluster {cluster}, {size} bytes: equal, accepted");
        fs::remove_dir_all(world.path(&disk)).unwrap();
    }
}

#[test]
fn what_qemu_converts_we_read_write_and_give_back() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let world = World::new("interop-convert").unwrap();
    let mut random = Random::new(seed() ^ 0xc0);
    for (n, cluster) in [64 << 10, 1 << 20].into_iter().enumerate() {
        // Too large for these writes to map all of it: that would be a preallocated disk (C8).
        let shape = Shape { size: 40 << 20, cluster, longest: LONGEST };
        let mut flat = Flat::lenient(shape);
        let writes = some(shape, 30, &mut random);
        writes.iter().filter(|op| op.kind == Kind::Write).for_each(|op| flat.apply(op));
        let raw = world.text("in.raw");
        fs::write(&raw, &flat.bytes).unwrap();
        let disk = format!("d{n}");
        let image = world.disk(&disk).unwrap();
        let options = format!("cluster_size={cluster}");
        let convert = ["convert", "-f", "raw", "-O", "parallels", "-o", &options, &raw, &image];
        world.ok("qemu-img", &convert);
        take_over(&world, &disk, shape, &mut flat, &mut random);
        println!("converted by qemu-img, cluster {cluster}: equal, accepted");
    }
}

#[test]
fn cluster_sizes_that_ploop_never_had_are_refused() {
    if !have(&["qemu-img"]) {
        return;
    }
    let world = World::new("interop-odd").unwrap();
    for cluster in [512, 16_384, 96 << 10] {
        let image = world.text(&format!("odd-{cluster}"));
        let options = format!("cluster_size={cluster}");
        world.ok("qemu-img", &["create", "-f", "parallels", "-o", &options, &image, "8M"]);
        let before = fs::read(&image).unwrap();
        let check = world.ploop(&["check", "-f", &image]);
        assert_eq!(check.code, 11, "{check:?}");
        let serve = world.ploop(&["serve", "--ro", &image, "--nbd", "unix:never"]);
        assert_eq!(serve.code, 11, "{serve:?}");
        assert!(!Path::new("never").exists());
        assert_eq!(fs::read(&image).unwrap(), before);
    }
}
