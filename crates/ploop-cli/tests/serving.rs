//! `ploop serve` as a process: ready lines, clients, signals, crashes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
use common::{World, can_attach, have, sh};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

fn disk(world: &World) -> String {
    let image = world.disk("a");
    world.ok(&["init", "-s", "64M", "-b", "128", "-t", "none", &image]);
    image
}

fn uri(world: &World) -> String {
    format!("nbd+unix:///?socket={}", world.text("s"))
}

#[test]
fn a_client_writes_and_another_tool_reads_it_back() {
    if !have("qemu-io") || !have("qemu-img") {
        return;
    }
    let world = World::new();
    let image = disk(&world);
    let nbd = format!("unix:{}", world.text("s"));
    let server = world.serve(&[&image, "--nbd", &nbd, "--nbd", "tcp:127.0.0.1:0"], 2);
    assert_eq!(server.ready[0], format!("ready nbd {nbd}"));
    assert!(server.ready[1].starts_with("ready nbd tcp:127.0.0.1:"), "{:?}", server.ready);
    sh("qemu-io", &["-f", "raw", &uri(&world), "-c", "write -P 0x5a 1M 200k"]);
    // Not yet on disk, but the server knows.
    let json = world.ok(&["--json", "map", &image]).json();
    let stored: Vec<_> =
        json["extents"].as_array().unwrap().iter().filter(|e| e["zero"] == false).collect();
    assert_eq!(stored.len(), 1, "{json}");
    assert_eq!(stored[0]["offset_bytes"], 1 << 20);
    assert_eq!(stored[0]["length_bytes"], 4 * 65536);
    assert_eq!(stored[0]["depth"], 0);
    assert_eq!(server.end("-TERM"), 0);
    assert!(!world.path("s").exists());
    assert_eq!(world.ok(&["list"]).out, "");
    sh("qemu-img", &["check", "-f", "parallels", &image]);
    let read = ["-r", "-f", "parallels", &image, "-c", "read -P 0x5a 1M 200k"];
    assert!(!sh("qemu-io", &read).contains("failed"));
    world.ok(&["check", &image]);
}

#[test]
fn a_second_writer_is_told_who_has_it() {
    let world = World::new();
    let image = disk(&world);
    let nbd = format!("unix:{}", world.text("s"));
    let server = world.serve(&[&image, "--nbd", &nbd], 1);
    let other = format!("unix:{}", world.text("t"));
    let said = world.run(&["--json", "serve", &image, "--nbd", &other]);
    assert_eq!(said.code, 37, "{said:?}");
    let message = said.error()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&format!("pid {}", server.pid())), "{message}");
    let top = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
    for verb in [&["snapshot-switch", "-u", top, &image][..], &["check", "-f", &image]] {
        let said = world.run(verb);
        assert_eq!(said.code, 37, "{said:?}");
    }
    assert_eq!(world.run(&["detach", &image]).code, 40);
    let listed = world.ok(&["list"]).out;
    assert_eq!(listed, format!("-\t{image}\n"));
    assert_eq!(server.end("-INT"), 0);
    world.ok(&["snapshot", &image]);
}

#[test]
fn readers_share() {
    let world = World::new();
    let image = disk(&world);
    let one = world.serve(&[&image, "--ro", "--nbd", &format!("unix:{}", world.text("s"))], 1);
    let two = world.serve(&[&image, "--ro", "--nbd", &format!("unix:{}", world.text("t"))], 1);
    assert_eq!(world.ok(&["list"]).out.lines().count(), 2);
    let said = world.run(&["serve", &image, "--nbd", &format!("unix:{}", world.text("u"))]);
    assert_eq!(said.code, 37, "{said:?}");
    assert_eq!(one.end("-TERM"), 0);
    assert_eq!(two.end("-HUP"), 0);
}

#[test]
fn a_killed_server_loses_nothing_flushed_and_the_disk_opens_again() {
    if !have("qemu-io") {
        return;
    }
    let world = World::new();
    let image = disk(&world);
    let nbd = format!("unix:{}", world.text("s"));
    let server = world.serve(&[&image, "--nbd", &nbd], 1);
    sh("qemu-io", &["-f", "raw", &uri(&world), "-c", "write -P 7 3M 64k", "-c", "flush"]);
    assert_eq!(server.end("-KILL"), -1);
    let said = world.run(&["check", "-f", &image]);
    assert_eq!(said.code, 37, "{said:?}");
    assert!(!said.out.contains("error"), "{said:?}");
    assert_eq!(world.ok(&["list"]).out, "", "the dead server's entry goes");
    let server = world.serve(&[&image, "--nbd", &nbd], 1);
    let read = sh("qemu-io", &["-f", "raw", &uri(&world), "-c", "read -P 7 3M 64k"]);
    assert!(!read.contains("failed"), "{read}");
    assert_eq!(server.end("-TERM"), 0);
    world.ok(&["check", "-f", &image]);
}

#[test]
fn varlink_clients_are_served_and_can_stop_it() {
    let world = World::new();
    let image = disk(&world);
    let server = world.serve(&[&image, "--nbd", &format!("unix:{}", world.text("s"))], 1);
    let json = world.ok(&["--json", "list"]).json();
    let id = json["disks"][0]["id"].as_str().unwrap().to_owned();
    let ask = |method: &str| {
        let mut stream = UnixStream::connect(world.path(&format!("run/{id}.sock"))).unwrap();
        stream
            .write_all(format!("{{\"method\":\"org.ploop.Disk.{method}\"}}\0").as_bytes())
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        serde_json::from_str::<serde_json::Value>(text.trim_end_matches('\0')).unwrap()
    };
    let state = &ask("Info")["parameters"]["state"];
    assert_eq!(state["size_bytes"], 64 << 20);
    assert_eq!(state["pid"], server.pid());
    assert!(ask("Stat")["parameters"]["counters"]["write_requests"].is_u64());
    assert_eq!(ask("Stop"), serde_json::json!({"parameters": {}}));
    // The reply came after the close: the lock is free.
    world.ok(&["snapshot", &image]);
}

#[test]
fn a_fuse_file_is_made_and_goes() {
    if !can_attach() {
        return;
    }
    let world = World::new();
    let image = disk(&world);
    let file = world.text("disk.raw");
    let server = world.serve(&[&image, "--fuse", &file], 1);
    assert_eq!(server.ready[0], format!("ready fuse {file}"));
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 64 << 20);
    std::fs::write(world.path("pattern"), vec![0xa5; 1 << 20]).unwrap();
    let (from, to) = (format!("if={}", world.text("pattern")), format!("of={file}"));
    sh("dd", &[&from, &to, "bs=64k", "seek=16", "conv=notrunc,fsync", "status=none"]);
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes[1 << 20..2 << 20].iter().all(|&byte| byte == 0xa5));
    assert!(bytes[..1 << 20].iter().all(|&byte| byte == 0));
    assert_eq!(server.end("-TERM"), 0);
    assert!(!world.path("disk.raw").exists());
    world.ok(&["check", "-f", &image]);
}

#[test]
fn a_disk_in_use_gets_an_address_and_loses_it_again() {
    let world = World::new();
    let image = disk(&world);
    let first = format!("unix:{}", world.text("s"));
    let server = world.serve(&[&image, "--nbd", &first, "--queues", "2"], 1);
    let write = |socket: &str, what: &str| {
        let uri = format!("nbd+unix:///?socket={}", world.text(socket));
        let output = std::process::Command::new("qemu-io")
            .args(["-f", "raw", &uri, "-c", what])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    assert!(write("s", "write -P 3 1M 64k").0);
    let second = format!("unix:{}", world.text("t"));
    let ready = world.ok(&["export", "a", &second, "--ro"]).out;
    assert_eq!(ready, format!("ready nbd {second}\n"));
    assert_eq!(world.run(&["export", "a", &second]).code, 17, "the address is taken");
    let (good, said) = write("t", "write -P 4 1M 64k");
    assert!(!good || said.contains("read-only") || said.contains("Permission"), "{said}");
    let reads = ["-r", "-f", "raw", &format!("nbd+unix:///?socket={}", world.text("t"))];
    let read = |what| sh("qemu-io", &[&reads[..], &["-c", what]].concat());
    let said = read("read -P 3 1M 64k");
    assert!(!said.contains("failed"), "{said}");
    // What comes at the one is seen at the other; both know a snapshot, which gets one too.
    assert!(write("s", "write -P 5 2M 64k").0);
    assert!(!read("read -P 5 2M 64k").contains("failed"));
    let taken = world.ok(&["--json", "snapshot", "a"]).json();
    let uuid = taken["uuid"].as_str().unwrap().to_owned();
    assert!(write("s", "write -P 6 2M 64k").0);
    let third = format!("unix:{}", world.text("u"));
    world.ok(&["export", "a", &third, "-u", &uuid]);
    let old = format!("nbd+unix:///?socket={}", world.text("u"));
    let said = sh("qemu-io", &["-r", "-f", "raw", &old, "-c", "read -P 5 2M 64k"]);
    assert!(!said.contains("failed"), "{said}");
    let listed = world.ok(&["list", "--long"]).out;
    assert!([&first, &second, &third].iter().all(|a| listed.contains(*a)), "{listed}");
    // A client keeps it, unless it is taken by force; the others notice nothing.
    let client = UnixStream::connect(world.path("t")).unwrap();
    let tick = std::time::Duration::from_millis(50);
    while !world.run(&["export", "--remove", "a", &second]).err.contains("has 1 clients") {
        std::thread::sleep(tick);
    }
    world.ok(&["export", "--remove", "--force", "a", &second]);
    drop(client);
    assert!(!world.path("t").exists());
    assert_eq!(world.run(&["export", "--remove", "a", &second]).code, 40);
    assert_eq!(world.run(&["export", "--remove", "a", &first]).code, 40, "not one that was added");
    world.ok(&["export", "--remove", "a", &third]);
    assert!(!write("s", "read -P 6 2M 64k").1.contains("failed"));
    // And again, in the place of the one that is gone.
    world.ok(&["export", "a", &second]);
    assert!(write("t", "write -P 7 3M 64k").0);
    assert!(!write("s", "read -P 7 3M 64k").1.contains("failed"));
    assert_eq!(server.end("-TERM"), 0);
    world.ok(&["check", "-f", &image]);
}
