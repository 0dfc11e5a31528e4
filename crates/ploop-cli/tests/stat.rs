//! `ploop stat` and `--metrics` against a running server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod common;
use common::{Server, World, can_attach, have, sh};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

fn disk(world: &World) -> String {
    let image = world.disk("a");
    world.ok(&["init", "-s", "64M", "-b", "128", "-t", "none", &image]);
    image
}

fn serve(world: &World, image: &str, more: &[&str], ready: usize) -> Server {
    let nbd = format!("unix:{}", world.text("s"));
    world.serve(&[&[image, "--queues", "1", "--nbd", &nbd], more].concat(), ready)
}

/// Writes and reads with known routes.
fn traffic(world: &World) {
    let uri = format!("nbd+unix:///?socket={}", world.text("s"));
    let commands = ["write -P 5 1M 64k", "write -P 6 1M 4k", "read 1M 64k", "read 8M 64k", "flush"];
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    sh("qemu-io", &["-f", "raw", &uri].into_iter().chain(commands).collect::<Vec<_>>());
}

fn class<'a>(json: &'a serde_json::Value, operation: &str, route: &str) -> &'a serde_json::Value {
    let classes = json["classes"].as_array().expect("classes");
    let same =
        |class: &&serde_json::Value| class["operation"] == operation && class["route"] == route;
    classes.iter().find(same).unwrap_or(&serde_json::Value::Null)
}

#[test]
fn json_has_every_route_with_its_latency() {
    if !have("qemu-io") {
        return;
    }
    let world = World::new();
    let image = disk(&world);
    let server = serve(&world, &image, &[], 1);
    traffic(&world);
    let json = world.ok(&["stat", "--json", &image]).json();
    for (operation, route) in
        [("write", "allocate"), ("write", "top"), ("read", "top"), ("flush", "flush")]
    {
        let class = class(&json, operation, route);
        assert!(class["requests"].as_u64() >= Some(1), "{operation} {route}: {json}");
        let ns = |key: &str| class["latency"][key].as_u64().unwrap();
        assert!(ns("p50_ns") <= ns("p99_ns") && ns("p99_ns") <= ns("p999_ns"), "{class}");
        assert!(ns("p999_ns") <= ns("max_ns") && ns("max_ns") <= ns("sum_ns"), "{class}");
        assert_eq!(ns("count"), class["requests"].as_u64().unwrap());
    }
    assert_eq!(class(&json, "write", "allocate")["total_bytes"], 65536);
    assert_eq!(class(&json, "write", "top")["total_bytes"], 4096);
    assert!(class(&json, "read", "hole")["total_bytes"].as_u64() >= Some(65536), "{json}");
    let counters = &json["counters"];
    assert_eq!(counters["clusters_allocated"], 1);
    assert_eq!(counters["pages_dirty"], 0, "after a flush");
    assert!(counters["pages_dirty_max"].as_u64() >= Some(1));
    assert!(counters["extensions"].as_u64() >= Some(1));
    assert_eq!(counters["write_bytes"], 65536 + 4096);
    assert!(json["sync_batches"]["count"].as_u64() >= Some(1));
    assert!(json["sync_latency"]["count"].as_u64() >= Some(1));
    assert_eq!(json["queues"].as_array().unwrap().len(), 1);
    assert_eq!(json["queues"][0]["classes"], json["classes"], "one queue is all queues");
    assert!(json["interval_ns"].as_u64() > Some(0));
    assert_eq!(server.end("-TERM"), 0);
}

#[test]
fn the_table_is_for_people() {
    if !have("qemu-io") {
        return;
    }
    let world = World::new();
    let image = disk(&world);
    let server = serve(&world, &image, &[], 1);
    traffic(&world);
    let said = world.ok(&["stat", &image]).out;
    let lines: Vec<&str> = said.lines().collect();
    let descriptor = world.text("a/DiskDescriptor.xml");
    assert!(lines[0].starts_with(&descriptor), "{said}");
    assert!(lines[0].contains("1 queue") && lines[0].contains("open for"), "{said}");
    let head = lines.iter().position(|line| line.starts_with("OPERATION")).unwrap();
    let row = lines.iter().find(|line| line.starts_with("write") && line.contains("allocate"));
    let row = row.unwrap_or_else(|| panic!("{said}"));
    let end = lines[head].find("REQUESTS").unwrap() + "REQUESTS".len();
    assert!(row[..end].ends_with(" 1"), "{said}");
    assert!(row.contains("64.0K"), "{said}");
    for words in ["QUEUE", "pages dirty", "clusters allocated  1", "answered together"] {
        assert!(said.contains(words), "{words}:\n{said}");
    }
    assert!(said.is_ascii());
    assert_eq!(server.end("-TERM"), 0);
}

#[test]
fn watching_shows_what_happens_in_each_interval() {
    if !have("qemu-io") {
        return;
    }
    let world = World::new();
    let image = disk(&world);
    let server = serve(&world, &image, &[], 1);
    traffic(&world);
    let quiet = world.ok(&["stat", &image, "--watch", "0.1", "--count", "1"]).out;
    assert!(quiet.contains("REQ/S") && !quiet.contains("write"), "{quiet}");
    let mut child = world
        .command(&["stat", "--json", "--watch", "3", "--count", "1", &image])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Within the three seconds, unless the host is very busy: then it is in no interval at all.
    let began = std::time::Instant::now();
    std::thread::sleep(std::time::Duration::from_millis(500));
    traffic(&world);
    let in_time = began.elapsed() < std::time::Duration::from_millis(2500);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(child.wait().unwrap().success());
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    let interval = json["interval_ns"].as_u64().unwrap();
    assert!((2_500_000_000..60_000_000_000).contains(&interval), "{interval}");
    if in_time {
        let writes = class(&json, "write", "top")["total_bytes"].as_u64();
        assert_eq!(writes, Some(65536 + 4096), "the second time nothing is allocated: {json}");
        assert_eq!(json["counters"]["clusters_allocated"], 0);
    }
    assert_eq!(server.end("-TERM"), 0);
}

#[test]
fn watching_ends_with_the_disk() {
    let world = World::new();
    let image = disk(&world);
    let server = serve(&world, &image, &[], 1);
    let child = world
        .command(&["--json", "stat", "--watch", "0.1", &image])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(server.end("-TERM"), 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(40));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is not open any more"), "{said}");
}

#[test]
fn watching_ends_with_its_reader() {
    let world = World::new();
    let image = disk(&world);
    let server = serve(&world, &image, &[], 1);
    let mut child =
        world.command(&["stat", "--watch", "0.1", &image]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(server.end("-TERM"), 0);
}

#[test]
fn a_disk_that_is_not_open_is_told_with_40() {
    let world = World::new();
    let image = disk(&world);
    for args in [
        &["--json", "stat", &image][..],
        &["--json", "stat", "-d", "/dev/loop4711"],
        &["--json", "stat", "--watch", &image],
        &["--json", "stat", "--prometheus", "/nowhere"],
    ] {
        let said = world.run(args);
        assert_eq!(said.code, 40, "{said:?}");
        let message = said.error()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("is not open"), "{message}");
        assert!(said.out.is_empty());
    }
}

#[test]
fn a_device_is_as_good_as_its_disk() {
    if !can_attach() {
        return;
    }
    let world = World::new();
    let image = disk(&world);
    let metrics = format!("unix:{}", world.text("m"));
    let device = world.ok(&["attach", &image, "--metrics", &metrics]).out.trim().to_owned();
    let by_device = world.ok(&["stat", "-d", &device]).out;
    assert!(by_device.lines().next().unwrap().contains(&device), "{by_device}");
    let dir = world.text("a");
    for target in [&device, &image, &dir] {
        let json = world.ok(&["stat", "--json", target]).json();
        assert!(json["counters"]["read_requests"].is_u64(), "{json}");
    }
    assert!(world.path("m").exists());
    world.ok(&["detach", &device]);
    assert!(!world.path("m").exists());
}

fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    body.to_owned()
}

/// Lines of a metrics text without those that time alone changes.
fn steady(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with("ploop_uptime")).collect()
}

#[test]
fn prometheus_reads_the_same_over_http_and_from_the_tool() {
    if !have("qemu-io") {
        return;
    }
    let world = World::new();
    let image = disk(&world);
    let server = serve(&world, &image, &["--metrics", "tcp:127.0.0.1:0"], 2);
    let address = server.ready[1].strip_prefix("ready metrics tcp:").unwrap().to_owned();
    traffic(&world);
    let body = scrape(&address);
    let line = r#"ploop_request_bytes_total{queue="0",op="write",route="allocate"} 65536"#;
    assert!(body.contains(line), "{body}");
    assert!(body.contains("\nploop_clusters_allocated_total 1\n"), "{body}");
    // Unless the keeper made clusters clean in between.
    let same = (0..20).any(|_| {
        let said = world.ok(&["stat", "--prometheus", &image]).out;
        steady(&said) == steady(&scrape(&address))
    });
    assert!(same);
    // Taken by a living server.
    let other = world.disk("b");
    world.ok(&["init", "-s", "16M", "-t", "none", &other]);
    let nbd = format!("unix:{}", world.text("t"));
    let taken = format!("tcp:{address}");
    let refused = world.run(&["serve", &other, "--nbd", &nbd, "--metrics", &taken]);
    assert_eq!(refused.code, 17, "{refused:?}");
    world.ok(&["check", &other]);
    assert_eq!(server.end("-TERM"), 0);
}
