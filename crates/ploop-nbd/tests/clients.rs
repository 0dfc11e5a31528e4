//! Programs other people wrote, against a device in memory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod common;

use common::programs::{have, must, run, text};
use common::{Setup, TestServer, limits, noise};

fn serve(queues: usize, tcp: bool) -> TestServer {
    Setup { queues, tcp, limits: limits(24 << 20), ..Setup::default() }.serve()
}

#[test]
fn nbdinfo_sees_everything_offered() {
    if !have("nbdinfo") {
        return;
    }
    for tcp in [false, true] {
        let mut server = serve(1, tcp);
        let uri = server.addr.uri("");
        let told = must("nbdinfo", &[&uri]);
        for line in [
            "newstyle-fixed without TLS, using structured packets",
            "export-size: 25165824 (24M)",
            "base:allocation",
            "can_cache: true",
            "can_df: true",
            "can_fast_zero: true",
            "can_flush: true",
            "can_fua: true",
            "can_multi_conn: true",
            "can_trim: true",
            "can_zero: true",
            "is_read_only: false",
            "block_size_minimum: 1",
            "block_size_preferred: 4096",
            "block_size_maximum: 33554432",
        ] {
            assert!(told.contains(line), "no `{line}` in\n{told}");
        }
        let list = must("nbdinfo", &["--list", &uri]);
        assert!(list.contains("export=\"\""), "{list}");
        assert!(list.contains("a disk of the tests"), "{list}");
        assert!(!run("nbdinfo", &[&server.addr.uri("other")]).status.success());
        server.stop();
    }
}

#[test]
fn a_named_export_is_found_by_its_name_only() {
    if !have("nbdinfo") {
        return;
    }
    let server = Setup { name: "vm disk/1", read_only: true, ..Setup::default() }.serve();
    let told = must("nbdinfo", &[&server.addr.uri("vm disk/1")]);
    assert!(told.contains("is_read_only: true"), "{told}");
    assert!(told.contains("can_trim: false"), "{told}");
    assert!(!run("nbdinfo", &[&server.addr.uri("")]).status.success());
}

#[test]
fn nbdinfo_maps_holes() {
    if !have("nbdinfo") {
        return;
    }
    let server = serve(1, false);
    server.device.bytes.lock().unwrap()[1 << 20..2 << 20].copy_from_slice(&noise(1 << 20, 2));
    let map = must("nbdinfo", &["--map", &server.addr.uri("")]);
    let rows: Vec<Vec<&str>> = map.lines().map(|l| l.split_whitespace().collect()).collect();
    let expect = [
        vec!["0", "1048576", "3", "hole,zero"],
        vec!["1048576", "1048576", "0", "data"],
        vec!["2097152", "23068672", "3", "hole,zero"],
    ];
    assert_eq!(rows, expect);
}

#[test]
fn nbdcopy_both_ways_with_four_connections() {
    if !have("nbdcopy") {
        return;
    }
    for (queues, tcp) in [(1, false), (2, false), (2, true)] {
        let mut server = serve(queues, tcp);
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let mut data = noise(24 << 20, 11);
        data[3 << 20..9 << 20].fill(0);
        std::fs::write(&from, &data).unwrap();
        let uri = server.addr.uri("");
        let options = ["--connections=4", "--flush"];
        must("nbdcopy", &[options[0], options[1], text(&from), &uri]);
        assert!(*server.device.bytes.lock().unwrap() == data);
        must("nbdcopy", &[options[0], &uri, text(&to)]);
        assert!(std::fs::read(&to).unwrap() == data);
        // With requests as long as they may be.
        must("nbdcopy", &["--request-size=33554432", "--synchronous", &uri, text(&to)]);
        assert!(std::fs::read(&to).unwrap() == data);
        let fronts = server.stop();
        assert!(fronts.iter().all(|f| f.copied_bytes() == 0), "payloads were copied");
    }
}

#[test]
fn qemu_io_patterns() {
    if !have("qemu-io") {
        return;
    }
    let server = serve(1, false);
    let uri = server.addr.uri("");
    let uri = uri.as_str();
    let told = must(
        "qemu-io",
        &[
            "-f",
            "raw",
            uri,
            "-c",
            "write -P 0xaa 0 1M",
            "-c",
            "write -P 0xbb -f 64k 4k",
            "-c",
            "write -z 128k 64k",
            "-c",
            "write -z -u 256k 64k",
            "-c",
            "discard 512k 128k",
            "-c",
            "flush",
            "-c",
            "read -P 0xaa 0 64k",
            "-c",
            "read -P 0xbb 64k 4k",
            "-c",
            "read -P 0 128k 64k",
            "-c",
            "read -P 0 256k 64k",
            "-c",
            "read -P 0xaa 700k 300k",
            // Not a multiple of the block: the client pads.
            "-c",
            "write -P 0xcc 2000001 12345",
            "-c",
            "read -P 0xcc 2000001 12345",
        ],
    );
    assert!(!told.contains("failed") && !told.contains("error"), "{told}");
    let bytes = server.device.bytes.lock().unwrap();
    assert!(bytes[2_000_001..2_012_346].iter().all(|b| *b == 0xcc));
    assert_eq!((bytes[2_000_000], bytes[2_012_346]), (0, 0));
}

#[test]
fn qemu_img_compares_and_converts() {
    if !have("qemu-img") {
        return;
    }
    let server = serve(2, false);
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let mut data = noise(24 << 20, 21);
    data[1 << 20..20 << 20].fill(0);
    std::fs::write(&from, &data).unwrap();
    let uri = server.addr.uri("");
    must("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", text(&from), &uri]);
    must("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&from), &uri]);
    must("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, text(&to)]);
    assert!(std::fs::read(&to).unwrap() == data);
}

#[test]
fn fio_verifies_random_writes_and_trims() {
    if !have("fio") {
        return;
    }
    if !run("fio", &["--enghelp=nbd"]).status.success() {
        println!("skip: fio has no nbd engine");
        return;
    }
    let mut server = serve(2, false);
    let uri = format!("--uri={}", server.addr.uri(""));
    let dir = tempfile::tempdir().unwrap();
    let aux = format!("--aux-path={}", text(dir.path()));
    let common = [
        "--ioengine=nbd",
        "--iodepth=32",
        "--size=24m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--bsrange=512-128k",
        "--bs_unaligned=0",
        "--thread",
        uri.as_str(),
        aux.as_str(),
    ];
    must("fio", &[&["--name=write", "--rw=randwrite"][..], &common].concat());
    must("fio", &[&["--name=mixed", "--rw=randrw", "--fsync=20"][..], &common].concat());
    let trims = ["--name=trim", "--rw=randtrimwrite", "--bs=64k", "--ioengine=nbd"];
    must("fio", &[&trims[..], &["--iodepth=8", "--size=24m", "--thread", &uri, &aux]].concat());
    server.stop();
}
