//! The usual NBD programs on a chain of five deltas: libnbd's, QEMU's, fio; two at once.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use ploop_e2e::flat::{Flat, Kind, Op, Shape};
use ploop_e2e::nbd_client::Client;
use ploop_e2e::stamps::{Random, SECTOR};
use ploop_e2e::world::Server;
use ploop_e2e::{World, have};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Stdio;

const SIZE: u64 = 48 << 20;
const CLUSTER: u64 = 128 << 10;
const LEVELS: usize = 5;

/// A chain of five deltas, each with its own data, and what the device holds.
struct Chain {
    world: World,
    flat: Flat,
    lower: BTreeMap<PathBuf, String>,
}

impl Chain {
    fn new(name: &str) -> Self {
        let world = World::new(name).unwrap();
        let image = world.disk("a").unwrap();
        world.ploop_ok(&["init", "-s", "48M", "-b", "256", "-t", "none", &image]);
        let shape = Shape { size: SIZE, cluster: CLUSTER, longest: 1 << 20 };
        let mut chain = Self { world, flat: Flat::new(shape), lower: BTreeMap::new() };
        let mut random = Random::new(0x5eed);
        for level in 0..LEVELS {
            if level > 0 {
                chain.world.ploop_ok(&["snapshot", "a"]);
            }
            let (server, address) = chain.serve(&format!("fill-{level}"), &[]);
            let mut client = Client::connect(address.as_ref()).unwrap();
            let ops = std::iter::repeat_with(|| shape.op(&mut random));
            for op in ops.filter(|op| matches!(op.kind, Kind::Write | Kind::Zeroes)).take(40) {
                // The last part stays empty.
                let op = Op { offset: op.offset / 2 / SECTOR as u64 * SECTOR as u64, ..op };
                op.send(&mut client, false).unwrap();
                chain.flat.apply(&op);
            }
            client.disconnect().unwrap();
            assert_eq!(server.end("-TERM"), 0);
        }
        let listed = chain.world.ploop_ok(&["snapshot-list", "-H", "-o", "fname", "a"]).out;
        assert_eq!(listed.lines().count(), LEVELS, "{listed}");
        chain.lower = chain.images();
        chain
    }

    /// Every image but the top, with its sum.
    fn images(&self) -> BTreeMap<PathBuf, String> {
        let top = self.top();
        let files = fs::read_dir(self.world.path("a")).unwrap().map(|entry| entry.unwrap().path());
        let images = files.filter(|path| {
            path.file_name().unwrap().to_str().unwrap().starts_with("root.hds") && *path != top
        });
        let sum = |path: &PathBuf| self.world.ok("sha256sum", &[path.to_str().unwrap()]);
        images.map(|path| (path.clone(), sum(&path))).collect()
    }

    fn top(&self) -> PathBuf {
        let listed = self.world.ploop_ok(&["snapshot-list", "-H", "-o", "current,fname", "a"]).out;
        let line = listed.lines().find(|line| line.starts_with('*')).unwrap();
        self.world.path("a").join(line.trim_start_matches('*').trim())
    }

    fn serve(&self, name: &str, more: &[&str]) -> (Server, String) {
        let socket = self.world.text(name);
        let address = format!("unix:{socket}");
        (self.world.serve(&[&["a", "--nbd", &address], more].concat(), 1), socket)
    }

    /// Stops, checks, and sees that the lower deltas are untouched (I6).
    fn end(&self, server: Server) {
        assert_eq!(server.end("-TERM"), 0);
        assert_eq!(self.images(), self.lower, "I6");
        let check = self.world.ploop_ok(&["check", "-f", "-c", "-r", "a"]);
        println!("ploop check: {}, {} lines", check.code, check.out.lines().count());
        for image in self.lower.keys().chain([&self.top()]) {
            let said = ploop_e2e::qemu::check(&self.world, image.to_str().unwrap());
            assert_eq!(said.code, 0, "{said:?}");
        }
        println!("qemu-img check: 0 on each of {LEVELS} deltas");
    }
}

fn uri(socket: &str) -> String {
    format!("nbd+unix:///?socket={socket}")
}

#[test]
fn nbdinfo_tells_the_truth() {
    if !have(&["nbdinfo", "qemu-img"]) {
        return;
    }
    let chain = Chain::new("nbdinfo");
    let (server, socket) = chain.serve("s", &[]);
    let said = chain.world.ok("nbdinfo", &["--json", &uri(&socket)]);
    let json: Value = serde_json::from_str(&said).unwrap();
    let export = &json["exports"][0];
    assert_eq!(export["export-size"], SIZE, "{said}");
    assert_eq!(json["structured"], true, "{said}");
    for (key, wanted) in [
        ("is_read_only", false),
        ("can_flush", true),
        ("can_fua", true),
        ("can_trim", true),
        ("can_zero", true),
        ("can_multi_conn", true),
    ] {
        assert_eq!(export[key], wanted, "{key}: {said}");
    }
    println!("{}", chain.world.ok("nbdinfo", &[&uri(&socket)]).trim_end());
    let map = chain.world.ok("nbdinfo", &["--map", "--json", &uri(&socket)]);
    map_tells_the_truth(&chain.flat, &map);
    println!("{}", chain.world.ok("nbdinfo", &["--map", "--totals", &uri(&socket)]).trim_end());
    chain.end(server);
    let (server, socket) = chain.serve("ro", &["--ro"]);
    let said = chain.world.ok("nbdinfo", &["--json", &uri(&socket)]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["exports"][0]["is_read_only"], true, "{said}");
    chain.end(server);
}

/// Extents join without gaps to the whole device; what is called zero is zero; what holds data is
/// not called zero.
fn map_tells_the_truth(flat: &Flat, map: &str) {
    let extents: Vec<Value> = serde_json::from_str(map).unwrap();
    let (mut at, mut holes) = (0, 0);
    for extent in &extents {
        let [offset, length, kind] = ["offset", "length", "type"].map(|key| &extent[key]);
        let (length, kind) = (length.as_u64().unwrap(), kind.as_u64().unwrap());
        assert_eq!(*offset, at, "{map}");
        let bytes = &flat.bytes[at as usize..(at + length) as usize];
        let zero = bytes.iter().all(|byte| *byte == 0);
        assert!(zero || kind & 2 == 0, "called zero: {extent}");
        holes += (kind & 1) * length;
        at += length;
    }
    assert_eq!(at, SIZE);
    assert!(holes >= SIZE / 4, "half of the device was never written: {holes} bytes of holes");
    println!(
        "nbdinfo --map: {} extents, {holes} bytes of holes, none of them wrong",
        extents.len()
    );
}

#[test]
fn nbdcopy_goes_both_ways() {
    if !have(&["nbdcopy", "qemu-img"]) {
        return;
    }
    let mut chain = Chain::new("nbdcopy");
    let (server, socket) = chain.serve("s", &[]);
    let out = chain.world.text("out.raw");
    chain.world.ok("nbdcopy", &[&uri(&socket), &out]);
    assert_eq!(chain.flat.differs(&fs::read(&out).unwrap()), None, "first wrong sector");
    println!("nbdcopy out: {SIZE} bytes equal");
    // Another content with holes goes in: what is zero there must hide what lies below (F11).
    let mut other = vec![0; SIZE as usize];
    let data = Op { kind: Kind::Write, offset: 0, len: 1 << 20, value: 77 }.data();
    for part in other.chunks_mut(3 << 20) {
        part[..1 << 20].copy_from_slice(&data);
    }
    let input = chain.world.text("in.raw");
    fs::write(&input, &other).unwrap();
    chain.world.ok("cp", &["--sparse=always", &input, &chain.world.text("sparse.raw")]);
    chain.world.ok("nbdcopy", &["--flush", &chain.world.text("sparse.raw"), &uri(&socket)]);
    chain.flat.learn(&other);
    chain.world.ok("nbdcopy", &[&uri(&socket), &out]);
    assert_eq!(chain.flat.differs(&fs::read(&out).unwrap()), None, "first wrong sector");
    println!("nbdcopy in and out again: {SIZE} bytes equal");
    chain.end(server);
}

#[test]
fn qemu_io_patterns_hold() {
    if !have(&["qemu-io", "qemu-img"]) {
        return;
    }
    let chain = Chain::new("qemu-io");
    let (server, socket) = chain.serve("s", &[]);
    let uri = uri(&socket);
    let io = |commands: &[&str]| {
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        let args: Vec<_> = ["-f", "raw", "-d", "unmap"]
            .into_iter()
            .chain(commands)
            .chain([uri.as_str()])
            .collect();
        let said = chain.world.ok("qemu-io", &args);
        assert!(!said.contains("failed"), "{said}");
        said
    };
    let said = io(&[
        "write -P 0x11 0 1M",
        "write -P 0x22 65024 1024",
        "write -f -P 0x33 131072 131072",
        "write -z 262144 131072",
        "write -z -u 393216 262144",
        "write -P 0x44 48758784 1572864",
        "aio_write -P 0x55 2M 300k",
        "aio_write -P 0x66 3M 700k",
        "aio_flush",
        "discard 2M 128k",
        "flush",
        "read -P 0x11 0 65024",
        "read -P 0x22 65024 1024",
        "read -P 0x11 66048 65024",
        "read -P 0x33 131072 131072",
        "read -P 0 262144 393216",
        "read -P 0x11 655360 393216",
        "read -P 0x44 48758784 1572864",
        "read -P 0x55 2228224 176128",
        "read -P 0x66 3M 700k",
    ]);
    println!("{}", said.trim_end());
    io(&["read -P 0x33 131072 131072", "read -P 0x66 3M 700k", "read -P 0 262144 393216"]);
    chain.end(server);
}

/// Arguments of fio on a part of the device, each block verified when it is read again. `rw` is
/// `randrw`, or `randtrimwrite`: trims, each followed by a write of the same block. (Trims among
/// the others, `trim_percentage`, end fio 3.33 in an assertion of its own.) A trim and the write
/// of its block must not be in flight together: either may win. With an offset it only trims.
fn fio(socket: &str, rw: &str, range: Range<u64>, seed: u64) -> Vec<String> {
    let options = [
        format!("--name={rw}"),
        "--ioengine=nbd".to_owned(),
        format!("--uri={}", uri(socket)),
        format!("--rw={rw}"),
        "--bsrange=4k-192k".to_owned(),
        format!("--offset={}", range.start),
        format!("--size={}", range.end - range.start),
        "--iodepth=16".to_owned(),
        "--verify=crc32c".to_owned(),
        "--verify_fatal=1".to_owned(),
        "--serialize_overlap=1".to_owned(),
        "--fsync=40".to_owned(),
        format!("--randseed={seed}"),
        "--output-format=json".to_owned(),
    ];
    options.to_vec()
}

/// What fio says it did: no error, and all of the range was read back.
fn shown(out: &str) {
    let json: Value = serde_json::from_str(&out[out.find('{').unwrap()..]).unwrap();
    let job = &json["jobs"][0];
    let [name, error] = ["jobname", "error"].map(|key| &job[key]);
    let count = |kind: &str| job[kind]["total_ios"].as_u64().unwrap();
    let (reads, writes, trims) = (count("read"), count("write"), count("trim"));
    println!("fio {name}: error {error}, {reads} reads, {writes} writes, {trims} trims");
    assert_eq!(*error, 0, "{out}");
    if name != "randtrim" {
        assert!(reads >= writes && writes > 100, "{out}");
    }
    assert!((trims > 100) == (name != "randrw"), "{out}");
}

#[test]
fn fio_verifies_what_it_wrote() {
    if !have(&["fio", "qemu-img"]) {
        return;
    }
    let chain = Chain::new("nbd-fio");
    let (server, socket) = chain.serve("s", &[]);
    let jobs = [
        ("randrw", 4 << 20..24 << 20),
        ("randtrimwrite", 0..20 << 20),
        ("randrw", 16 << 20..SIZE),
        ("randtrim", 8 << 20..SIZE),
        ("randrw", 0..24 << 20),
    ];
    for (rw, range) in jobs {
        let args = fio(&socket, rw, range, 11);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        shown(&chain.world.ok("fio", &args));
    }
    chain.end(server);
}

#[test]
fn two_clients_on_two_ranges() {
    if !have(&["fio", "nbdcopy", "qemu-img"]) {
        return;
    }
    let chain = Chain::new("nbd-two");
    let (server, socket) = chain.serve("s", &[]);
    // The border lies inside a cluster that both may copy up.
    let (border, end) = ((20 << 20) + CLUSTER / 2, 40 << 20);
    let start = |rw: &str, range: Range<u64>, seed: u64| {
        let mut command = chain.world.command("fio");
        command.args(fio(&socket, rw, range, seed));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let pair = [start("randtrimwrite", 0..border, 21), start("randrw", border..end, 22)];
    for output in pair.map(|child| child.wait_with_output().unwrap()) {
        assert!(output.status.success(), "{output:?}");
        shown(std::str::from_utf8(&output.stdout).unwrap());
    }
    // Nothing behind the two ranges moved (I5).
    let out = chain.world.text("out.raw");
    chain.world.ok("nbdcopy", &[&uri(&socket), &out]);
    let (found, end) = (fs::read(&out).unwrap(), end as usize);
    assert!(found[end..] == chain.flat.bytes[end..]);
    chain.end(server);
}
