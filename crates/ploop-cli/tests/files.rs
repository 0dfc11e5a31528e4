//! The verbs that need nothing but files.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
use common::{World, have, sh};

#[test]
fn init_info_check_and_again() {
    let world = World::new();
    let image = world.disk("a");
    let said = world.ok(&["init", "-s", "64M", "-t", "none", &image]);
    assert!(said.out.contains("bs=2048 size=131072 sectors v2"), "{said:?}");
    let said = world.ok(&["info", "-s", &world.text("a")]);
    assert_eq!(said.out, "size:\t\t131072\nblocksize:\t2048\nfmt_version:\t2\n");
    let json = world.ok(&["--json", "info", "-s", &image]).json();
    assert_eq!(json["size"]["size_bytes"], 64 << 20);
    world.ok(&["check", "-f", &world.text("a/DiskDescriptor.xml")]);
    let said = world.run(&["init", "-s", "64M", "-t", "none", &world.text("a/other.hds")]);
    assert_eq!(said.code, 17, "a directory holds one disk: {said:?}");
    std::fs::remove_file(world.path("a/DiskDescriptor.xml")).unwrap();
    let said = world.run(&["init", "-s", "64M", "-t", "none", &image]);
    assert_eq!(said.code, 38, "the image exists: {said:?}");
    if have("qemu-img") {
        sh("qemu-img", &["check", "-f", "parallels", &image]);
    }
}

#[test]
fn formats_versions_and_cluster_sizes() {
    let world = World::new();
    let cases =
        [("raw", "2", "raw", 0), ("preallocated", "2", "pre", 2), ("ploop1", "1", "old", 1)];
    for (format, version, name, shown) in cases {
        let image = world.disk(name);
        world.ok(&[
            "init", "-s", "16M", "-f", format, "-v", version, "-b", "128", "-t", "none", &image,
        ]);
        let said = world.ok(&["info", "-s", &world.text(name)]);
        let want = format!("size:\t\t32768\nblocksize:\t128\nfmt_version:\t{shown}\n");
        assert_eq!(said.out, want, "{name}");
        world.ok(&["check", "-f", &world.text(name)]);
    }
    assert_eq!(std::fs::metadata(world.path("raw/root.hds")).unwrap().len(), 16 << 20);
    // A file without a BAT reads as one piece; a preallocated image has every cluster.
    let json = world.ok(&["--json", "map", &world.text("pre")]).json();
    assert_eq!(json["extents"][0]["length_bytes"], 16 << 20, "{json}");
    assert_eq!(json["extents"][0]["level"], 0);
}

#[test]
fn snapshots_and_their_list() {
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "16M", "-t", "none", &image]);
    let uuid = "1d0b7a52-3c1e-4d0f-9a75-0c2f4be1a001";
    world.ok(&["snapshot", "-u", uuid, &world.text("a")]);
    let json = world.ok(&["--json", "snapshot", &world.text("a")]).json();
    let second = json["uuid"].as_str().unwrap().to_owned();
    assert_eq!(second.len(), 38);
    let said = world.ok(&["snapshot-list", &world.text("a")]);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 4, "{said:?}");
    assert!(lines[0].starts_with("PARENT_UUID"), "{said:?}");
    assert!(lines[0].ends_with(" C UUID                                   FNAME"));
    assert_eq!(said.out.matches(" * ").count(), 1);
    let said = world.ok(&["snapshot-list", "-H", "-s", "-o", "current,uuid", &image]);
    assert_eq!(said.out, format!("  {{{uuid}}}\n* {second}\n"));
    let said = world.ok(&["snapshot-list", "-H", "-o", "uuid", "-u", uuid, &image]);
    assert_eq!(said.out, format!("{{{uuid}}}\n"));
    let said = world.run(&["snapshot", "-u", uuid, &image]);
    assert_ne!(said.code, 0, "the name is taken: {said:?}");
    assert_eq!(world.run(&["snapshot-list", &world.text("none")]).code, 1);
    world.ok(&["check", "-f", &world.text("a")]);
}

#[test]
fn a_descriptor_comes_back() {
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "16M", "-t", "none", &image]);
    let xml = world.path("a/DiskDescriptor.xml");
    let said = world.run(&["restore-descriptor", &world.text("a"), &image]);
    assert_eq!(said.code, 17, "it is there: {said:?}");
    std::fs::remove_file(&xml).unwrap();
    world.ok(&["restore-descriptor", &world.text("a"), &image]);
    assert!(xml.exists());
    let said = world.ok(&["info", "-s", &world.text("a")]);
    assert!(said.out.starts_with("size:\t\t32768\n"), "{said:?}");
}

#[test]
fn check_tells_what_is_wrong_and_writes_nothing() {
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "16M", "-b", "128", "-t", "none", &image]);
    let mut bytes = std::fs::read(&image).unwrap();
    // Entries 3 and 4 point behind the end of the file.
    bytes[64 + 12] = 200;
    bytes[64 + 16] = 201;
    std::fs::write(&image, &bytes).unwrap();
    let said = world.run(&["check", "-f", &image]);
    assert_eq!(said.code, 11, "{said:?}");
    assert_eq!(said.out.matches("error: ").count(), 2, "{said:?}");
    let said = world.run(&["--json", "check", "-f", &image]);
    assert_eq!((said.json()["code"].as_i64(), said.code), (Some(11), 11));
    assert_eq!(said.json()["images"][0]["findings"].as_array().unwrap().len(), 2);
    assert!(world.run(&["check", "-f", "-s", &image]).out.is_empty());
    assert_eq!(std::fs::read(&image).unwrap(), bytes);
    // A writable open refuses it, with the numbers.
    let said = world.run(&["serve", &image, "--nbd", &format!("unix:{}", world.text("s"))]);
    assert_eq!(said.code, 11, "{said:?}");
    assert_eq!(std::fs::read(&image).unwrap(), bytes);
}

/// A few bytes of file that claim the longest BAT there is: nobody walks it entry by entry.
#[test]
fn a_sparse_giant_is_told_at_once() {
    let world = World::new();
    let image = world.text("giant.hds");
    let (entries, sectors) = (u32::MAX, 2048_u32);
    let size = u64::from(entries) * u64::from(sectors);
    let data = ((u64::from(entries) + 16) * 4).next_multiple_of(u64::from(sectors) << 9);
    let mut header = [0; 64];
    header[..16].copy_from_slice(b"WithouFreSpacExt");
    for (at, word) in [(16, 2), (28, sectors), (32, entries), (48, (data >> 9) as u32)] {
        header[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    header[36..44].copy_from_slice(&size.to_le_bytes());
    std::fs::write(&image, header).unwrap();
    let cut = world.run(&["map", &image]);
    assert_eq!(cut.code, 11, "{cut:?}");
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    if let Err(error) = file.set_len(data) {
        ploop_e2e::skip("a_sparse_giant_is_told_at_once", &format!("no file so long: {error}"));
        return;
    }
    let map = world.ok(&["--json", "map", &image]).json();
    assert_eq!(map["extents"].as_array().unwrap().len(), 1, "{map}");
    assert_eq!(map["extents"][0]["length_bytes"], size << 9, "{map}");
    world.ok(&["check", "-f", &image]);
    assert!(world.ok(&["info", "-s", &image]).out.contains(&format!("{size}\n")));
}

#[test]
fn list_without_servers_is_empty() {
    let world = World::new();
    assert_eq!(world.ok(&["list"]).out, "");
    assert_eq!(world.ok(&["--json", "list"]).out, "{\"disks\":[]}\n");
    assert_eq!(world.run(&["detach", "/dev/loop4000"]).code, 40);
    assert_eq!(world.run(&["umount", "-d", "/dev/loop4000"]).code, 40);
}

#[test]
fn the_stamp_of_another_program_stays_until_something_is_written() {
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-v", "1", "-s", "16M", "-b", "128", "-t", "none", &image]);
    let word = |new: Option<&[u8; 4]>| {
        let mut bytes = std::fs::read(&image).unwrap();
        if let Some(new) = new {
            bytes[44..48].copy_from_slice(new);
            std::fs::write(&image, &bytes).unwrap();
        }
        bytes[44..48].to_vec()
    };
    word(Some(b"pd22"));
    assert_eq!(world.ok(&["check", &world.text("a")]).err, "");
    let bench = |args: &[&str]| {
        let common = ["bench", "--count", "4000", "--rw"];
        world.ok(&[&common[..], args, &[&world.text("a")]].concat());
    };
    bench(&["randread"]);
    assert_eq!(word(None), b"pd22");
    bench(&["randwrite", "--destroy"]);
    assert_eq!(word(None), [0; 4]);
    word(Some(b"pd22"));
    // Every cluster is mapped now: only data changes.
    bench(&["randwrite", "--destroy"]);
    assert_eq!(word(None), [0; 4]);
}

#[test]
fn an_init_that_is_interrupted_leaves_nothing() {
    let world = World::new();
    for signal in ["-INT", "-TERM", "-HUP"] {
        let image = world.disk(&format!("a{signal}"));
        // Zeros are written, which takes longer than the signal.
        let args = ["init", "-s", "64G", "-f", "raw", "-t", "none", &image];
        let mut child = world.command(&args).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::fs::metadata(&image).map_or(0, |meta| meta.len()) == 0 {
            assert!(std::time::Instant::now() < until, "no image");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        sh("kill", &[signal, &child.id().to_string()]);
        assert_eq!(child.wait().unwrap().code(), Some(29));
        let left = std::fs::read_dir(world.path(&format!("a{signal}"))).unwrap().count();
        assert_eq!(left, 0, "{signal}");
    }
    // What was there before stays.
    let image = world.disk("b");
    std::fs::write(&image, b"mine").unwrap();
    assert_eq!(world.run(&["init", "-s", "16M", "-t", "none", &image]).code, 38);
    assert_eq!(std::fs::read(&image).unwrap(), b"mine");
}

#[test]
fn a_disk_that_a_running_server_has_is_refused_at_once() {
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "16M", "-t", "none", &image]);
    let serve = |socket: &str| {
        world.command(&["serve", &image, "--nbd", &format!("unix:{}", world.text(socket))])
    };
    let server = world.serve(&[&image, "--nbd", &format!("unix:{}", world.text("s"))], 1);
    let begin = std::time::Instant::now();
    let output = serve("t").output().unwrap();
    let (took, text) = (begin.elapsed(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(output.status.code(), Some(37), "{text}");
    assert!(text.contains(&format!("pid {}", server.pid())), "{text}");
    // A debug build on a busy machine; the locks were tried for three seconds before.
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    // One that is about to end is waited for.
    server.signal("-TERM");
    let listed = || -> String {
        let files = std::fs::read_dir(world.path("run")).unwrap().flatten();
        let entries = files.filter(|file| file.path().extension().is_some_and(|e| e == "json"));
        entries.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect()
    };
    while listed().contains(&format!("\"pid\": {}", server.pid())) {
        if listed().contains("\"stopping\": true") {
            break;
        }
    }
    let mut next = serve("t").stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let out = next.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    let _ = next.kill();
    let _ = next.wait();
    assert!(line.starts_with("ready nbd"), "{line}");
}
