//! Bundles as people name, move, copy and damage them; hints are followed to the letter.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;
use common::{Said, World};
use std::fs;

fn new(world: &World, home: &str, name: &str) -> String {
    fs::create_dir(world.path(home)).unwrap();
    let image = world.text(&format!("{home}/{name}"));
    world.ok(&["init", "-s", "16M", "-b", "128", "-t", "none", &image]);
    image
}

fn edit(world: &World, home: &str, from: &str, to: &str) {
    let path = world.path(&format!("{home}/DiskDescriptor.xml"));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn refused(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{said:?}");
    assert!(words.iter().all(|word| said.err.contains(word)), "{words:?} in {said:?}");
}

#[test]
fn the_placeholder_stands_for_the_disk() {
    let world = World::new();
    new(&world, "e.hdd", "e.hds");
    let name = world.text("e.hdd/e.hdd");
    fs::write(&name, "").unwrap();
    let said = world.ok(&["info", "-s", &name]);
    assert!(said.out.starts_with("size:\t\t32768\n"), "{said:?}");
    world.ok(&["snapshot", &name]);
    world.ok(&["check", "-f", &name]);
    let server = world.serve(&[&name, "--nbd", &format!("unix:{}", world.text("s"))], 1);
    world.ok(&["stat", &name]);
    world.ok(&["snapshot-merge", &name]);
    assert_eq!(server.end("-TERM"), 0);
    // What is neither is told from the disk beside it, and no command is named that fails.
    fs::write(world.path("e.hdd/e.drh"), vec![1; 65_536]).unwrap();
    refused(
        &world.run(&["info", "-s", &world.text("e.hdd/e.drh")]),
        11,
        &["the disk beside it is"],
    );
    fs::remove_file(world.path("e.hdd/DiskDescriptor.xml")).unwrap();
    let said = world.run(&["info", "-s", &name]);
    refused(&said, 11, &["is empty"]);
    assert!(!said.err.contains("restore-descriptor"), "{said:?}");
}

#[test]
fn the_hint_for_a_raw_file_works() {
    let world = World::new();
    fs::create_dir(world.path("raw")).unwrap();
    let image = world.text("raw/disk.img");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    let said = world.run(&["info", "-s", &image]);
    let command = said.err.split("ploop restore-descriptor").nth(1).unwrap();
    let words = [&["restore-descriptor"], &command.split_whitespace().collect::<Vec<_>>()[..]];
    world.ok(&words.concat());
    world.ok(&["info", "-s", &image]);
}

#[test]
fn a_virtual_machine_is_not_its_disk() {
    let world = World::new();
    fs::create_dir(world.path("vm.pvm")).unwrap();
    new(&world, "vm.pvm/harddisk.hdd", "h.hds");
    let said = world.run(&["info", "-s", &world.text("vm.pvm")]);
    refused(&said, 39, &["vm.pvm/harddisk.hdd holds a disk"]);
}

#[test]
fn an_unusable_descriptor_is_not_taken_for_none() {
    let world = World::new();
    let base = new(&world, "a", "root.hds");
    let json = world.ok(&["--json", "snapshot", &world.text("a")]).json();
    let top = json["image"].as_str().unwrap();
    fs::copy(world.path("a/DiskDescriptor.xml"), world.path("a/DiskDescriptor.xml.Backup"))
        .unwrap();
    edit(&world, "a", "</Storage>", "");
    let before: Vec<_> = [&base[..], top].map(|path| fs::read(path).unwrap()).into();
    let socket = format!("unix:{}", world.text("s"));
    for image in [&base[..], top] {
        for verb in [
            &["serve", "--ro", "--nbd", &socket][..],
            &["serve", "--nbd", &socket],
            &["grow", "-s", "32M"],
            &["info", "-s"],
            &["map"],
            &["snapshot"],
            &["snapshot-merge"],
            &["snapshot-list"],
        ] {
            let said = world.run(&[verb, &[image]].concat());
            let code = if verb[0] == "snapshot-list" { 1 } else { 39 };
            refused(
                &said,
                code,
                &["may be a part of the disk beside it", "DiskDescriptor.xml.Backup"],
            );
        }
        // The file itself can be looked at.
        world.ok(&["check", "-f", image]);
    }
    assert_eq!([&base[..], top].map(|path| fs::read(path).unwrap()), before[..]);
    // What the hint says.
    fs::copy(world.path("a/DiskDescriptor.xml.Backup"), world.path("a/DiskDescriptor.xml"))
        .unwrap();
    world.ok(&["info", "-s", top]);
    // Without another copy: in a directory of its own.
    fs::remove_file(world.path("a/DiskDescriptor.xml.Backup")).unwrap();
    edit(&world, "a", "</Storage>", "");
    refused(&world.run(&["info", "-s", &base]), 39, &["in a directory of its own"]);
    // One that lies on another would read as zeros there.
    let said = world.run(&["info", "-s", top]);
    refused(&said, 39, &["what", "lies on", "ploop check -f"]);
    assert!(!said.err.contains("directory of its own"), "{said:?}");
    world.ok(&["check", "-f", top]);
    fs::create_dir(world.path("b")).unwrap();
    fs::rename(&base, world.path("b/root.hds")).unwrap();
    world.ok(&["info", "-s", &world.text("b/root.hds")]);
}

#[test]
fn the_other_copy_of_the_descriptor_is_never_used_unasked() {
    let world = World::new();
    new(&world, "a", "root.hds");
    let backup = world.path("a/DiskDescriptor.xml.Backup");
    fs::rename(world.path("a/DiskDescriptor.xml"), &backup).unwrap();
    let word = ["DiskDescriptor.xml.Backup"];
    refused(&world.run(&["info", "-s", &world.text("a")]), 39, &word);
    let said = world.run(&["info", "-s", &backup.display().to_string()]);
    refused(&said, 11, &["the other copy of", "which is missing"]);
    fs::copy(&backup, world.path("a/DiskDescriptor.xml")).unwrap();
    let said = world.run(&["info", "-s", &backup.display().to_string()]);
    refused(&said, 11, &["the disk beside it is"]);
}

#[test]
fn a_bundle_that_was_moved_uses_its_own_files() {
    let world = World::new();
    let image = new(&world, "a", "root.hds");
    edit(&world, "a", "<File>root.hds<", &format!("<File>{image}<"));
    world.ok(&["info", "-s", &world.text("a")]);
    fs::rename(world.path("a"), world.path("b")).unwrap();
    let said = world.ok(&["check", &world.text("b")]);
    assert!(said.out.contains("is not there") && said.out.contains("b/root.hds"), "{said:?}");
    let said = world.ok(&["snapshot", &world.text("b")]);
    assert!(said.err.contains("is used"), "{said:?}");
    // From now on the descriptor names what is there.
    let text = fs::read_to_string(world.path("b/DiskDescriptor.xml")).unwrap();
    assert!(text.contains("<File>root.hds<") && !text.contains(&image), "{text}");
    assert_eq!(world.ok(&["snapshot-merge", &world.text("b")]).err, "");
}

#[test]
fn a_copied_bundle_whose_original_is_there_is_refused() {
    let world = World::new();
    let image = new(&world, "a", "root.hds");
    edit(&world, "a", "<File>root.hds<", &format!("<File>{image}<"));
    fs::create_dir(world.path("b")).unwrap();
    for name in ["root.hds", "DiskDescriptor.xml"] {
        fs::copy(world.path(&format!("a/{name}")), world.path(&format!("b/{name}"))).unwrap();
    }
    let words = ["a/root.hds", "b/root.hds", "nobody can tell"];
    refused(&world.run(&["snapshot", &world.text("b")]), 39, &words);
    refused(&world.run(&["info", "-s", &world.text("b/root.hds")]), 39, &words);
    world.ok(&["info", "-s", &world.text("a")]);
    // What the hint says.
    edit(&world, "b", &format!("<File>{image}<"), "<File>root.hds<");
    world.ok(&["snapshot", &world.text("b")]);
}

#[test]
fn an_encrypted_bundle_is_only_looked_at() {
    let world = World::new();
    let image = new(&world, "a", "root.hds");
    let engine = "<Engine>{8b3f9e6c-1111-4a2b-9c3d-0123456789ab}</Engine><Data>AAEC</Data>";
    let inner = format!("<Padding>0</Padding><Encryption>{engine}</Encryption>");
    edit(&world, "a", "<Padding>0</Padding>", &inner);
    let before = fs::read(&image).unwrap();
    let socket = format!("unix:{}", world.text("s"));
    for disk in [&world.text("a"), &image] {
        for verb in [
            &["serve", "--nbd", &socket][..],
            &["serve", "--ro", "--nbd", &socket],
            &["snapshot"],
            &["grow", "-s", "32M"],
            &["map"],
            &["bench", "--count", "1"],
        ] {
            refused(&world.run(&[verb, &[disk]].concat()), 45, &["encrypted", "8b3f9e6c"]);
        }
        world.ok(&["info", "-s", disk]);
    }
    let said = world.ok(&["check", "-f", &world.text("a")]);
    assert!(said.out.contains("the content is encrypted"), "{said:?}");
    assert_eq!(
        world.ok(&["--json", "check", &world.text("a")]).json()["findings"][0]["kind"],
        "encrypted"
    );
    assert_eq!(fs::read(&image).unwrap(), before);
    assert!(!world.path("a/DiskDescriptor.xml.lck").exists());
    edit(
        &world,
        "a",
        "8b3f9e6c-1111-4a2b-9c3d-0123456789ab",
        "00000000-0000-0000-0000-000000000000",
    );
    world.ok(&["snapshot", &world.text("a")]);
}

#[test]
fn an_operation_named_by_the_image_that_goes_ends_well() {
    let world = World::new();
    new(&world, "a", "root.hds");
    let snapshot = || {
        let json = world.ok(&["--json", "snapshot", &world.text("a")]).json();
        let text = |key: &str| json[key].as_str().unwrap().to_owned();
        (text("uuid"), text("image"))
    };
    let (_, top) = snapshot();
    world.ok(&["snapshot-merge", &top]);
    let (uuid, top) = snapshot();
    world.ok(&["snapshot-switch", "-u", &uuid, &top]);
    assert!(!std::path::Path::new(&top).exists());
    let (uuid, top) = snapshot();
    world.ok(&["snapshot-delete", "-u", &uuid, &top]);
    world.ok(&["check", "-f", &world.text("a")]);
}
