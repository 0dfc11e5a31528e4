//! `ploop bench`: every mode runs, nothing is written unasked, figures have their names.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;
use common::World;

/// An empty disk of 64 MiB with clusters of 64 KiB.
fn disk(world: &World) -> String {
    let image = world.disk("disk");
    world.ok(&["init", "-s", "64M", "-t", "none", "-b", "128", &image]);
    world.text("disk")
}

fn file(world: &World) -> String {
    let path = world.path("file");
    std::fs::write(&path, vec![7; 4 << 20]).unwrap();
    world.text("file")
}

#[test]
fn every_mode_on_a_disk_and_on_a_file_with_all_keys() {
    let world = World::new();
    let (disk, file) = (disk(&world), file(&world));
    for rw in ["write", "read", "randread", "randwrite", "randrw"] {
        for target in [&[disk.as_str()][..], &["--raw", file.as_str()]] {
            let common = ["--json", "bench", "--rw", rw, "--count", "500", "--depth", "8"];
            let args = [&common[..], &["--queues", "2", "--destroy"], target].concat();
            let json = world.ok(&args).json();
            assert_eq!(json["reads"].as_u64().unwrap() + json["writes"].as_u64().unwrap(), 500);
            for key in [
                "iops",
                "mb_per_s",
                "cpu_us_per_io",
                "syncs",
                "close_ms",
                "iops_with_close",
                "allocated_after_bytes",
            ] {
                assert!(json[key].is_number(), "{key}: {json}");
            }
            for key in ["p50", "p99", "p999", "max"] {
                assert!(json["lat_us"][key].as_f64().unwrap() > 0.0, "{key}: {json}");
            }
            assert_eq!(json["target"], if target.len() == 1 { "disk" } else { "raw" });
            assert_eq!(json["rw"], rw);
            assert_eq!(json["errors"], 0);
        }
    }
    world.ok(&["check", "-f", &disk]);
}

#[test]
fn every_engine_and_reads_of_holes_come_to_an_end() {
    let world = World::new();
    let (disk, file) = (disk(&world), file(&world));
    for io in ["auto", "threads", "null"] {
        for target in [&[disk.as_str()][..], &["--raw", file.as_str()]] {
            let args = [&["--json", "bench", "--io", io, "--count", "1000", "--warm"], target];
            let json = world.ok(&args.concat()).json();
            assert_eq!(json["reads"], 1000, "{io}: {json}");
        }
    }
}

#[test]
fn time_ends_a_load() {
    let world = World::new();
    let disk = disk(&world);
    let json = world.ok(&["--json", "bench", "--time", "0.2", &disk]).json();
    let seconds = json["seconds"].as_f64().unwrap();
    assert!(seconds >= 0.15 && json["reads"].as_u64().unwrap() > 0, "{json}");
}

#[test]
fn each_write_of_a_lane_is_flushed_and_lanes_share_syncs() {
    let world = World::new();
    let disk = disk(&world);
    let common = ["--json", "bench", "--rw", "randwrite", "--destroy", "--count", "320"];
    let json = world.ok(&[&common[..], &["--lanes", "16", &disk]].concat()).json();
    assert_eq!((&json["writes"], &json["flushes"]), (&320.into(), &320.into()));
    assert!(json["syncs"].as_u64().unwrap() > 0, "{json}");
    assert_eq!(json["depth"], 16);
}

/// T15.
#[test]
fn nothing_is_written_without_destroy() {
    let world = World::new();
    let (disk, file) = (disk(&world), file(&world));
    for rw in ["write", "randwrite", "randrw"] {
        for args in [&["bench", "--rw", rw, &disk][..], &["bench", "--rw", rw, "--raw", &file]] {
            let said = world.run(args);
            assert_eq!(said.code, 38, "{said:?}");
            assert!(said.err.contains("--destroy"), "{said:?}");
        }
    }
    assert_eq!(std::fs::read(world.path("file")).unwrap(), vec![7; 4 << 20]);
    let image = world.path("disk/root.hds");
    let before = std::fs::read(&image).unwrap();
    world.ok(&["bench", "--rw", "randread", "--count", "100", &disk]);
    assert!(std::fs::read(&image).unwrap() == before, "reading changed the image");
}

#[test]
fn a_raw_load_wants_a_file_that_nobody_uses() {
    let world = World::new();
    let said = world.run(&["bench", "--raw", "/dev/null"]);
    assert_eq!(said.code, 38, "{said:?}");
    assert!(said.err.contains("not a regular file"), "{said:?}");
    let disk = disk(&world);
    let image = world.text("disk/root.hds");
    let socket = format!("unix:{}", world.text("sock"));
    let server = world.serve(&[&disk, "--nbd", &socket], 1);
    for rw in ["randread", "randwrite"] {
        let said = world.run(&["bench", "--raw", "--rw", rw, "--destroy", &image]);
        assert_eq!(said.code, 37, "{said:?}");
        assert!(said.err.contains("in use"), "{said:?}");
    }
    assert_eq!(server.end("-TERM"), 0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let world = World::new();
    let disk = disk(&world);
    for bad in [
        &["--rw", "trim"][..],
        &["--bs", "100"],
        &["--bs", "0"],
        &["--depth", "0"],
        &["--depth", "129"],
        &["--queues", "0"],
        &["--offset", "65M"],
        &["--range", "65M"],
        &["--range", "4K", "--queues", "2"],
        &["--time", "-1"],
        &["--io", "magic"],
    ] {
        let said = world.run(&[&["bench"], bad, &[disk.as_str()]].concat());
        assert_eq!(said.code, 38, "{said:?}");
    }
}
