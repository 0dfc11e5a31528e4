//! Disks that lie on the base of another disk.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
use common::World;

/// A disk in `base/`, frozen once, and a disk in `clone/` that lies on what was frozen.
fn world() -> World {
    let world = World::new();
    for name in ["base", "clone"] {
        let image = world.disk(name);
        world.ok(&["init", "-s", "16M", "-b", "64", "-t", "none", &image]);
        world.ok(&["snapshot", &world.text(name)]);
    }
    std::fs::remove_file(world.path("clone/root.hds")).unwrap();
    let path = world.path("clone/DiskDescriptor.xml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("<File>root.hds<", "<File>../base/root.hds<")).unwrap();
    world
}

fn base(world: &World) -> Vec<u8> {
    std::fs::read(world.path("base/root.hds")).unwrap()
}

#[test]
fn every_verb_takes_the_option_that_its_hint_names() {
    let world = world();
    let clone = world.text("clone");
    let before = base(&world);
    let verbs: &[&[&str]] = &[
        &["check"],
        &["map"],
        &["info", "-s"],
        &["snapshot"],
        &["snapshot-merge"],
        &["grow", "-s", "32M"],
        &["bench", "--time", "0.01"],
    ];
    for verb in verbs {
        let said = world.run(&[&["--json"], *verb, &[&*clone]].concat());
        assert_eq!(said.code, 4, "{said:?}");
        let error = said.error();
        assert_eq!(error["kind"], "gate", "{error}");
        assert!(error["hint"].as_str().unwrap().contains("--allow-outside"), "{error}");
        world.ok(&[*verb, &["--allow-outside", &clone]].concat());
    }
    assert_eq!(base(&world), before);
    // Nothing but the base is below the top now.
    let merge = ["--json", "snapshot-merge", "--allow-outside", &clone];
    let said = world.run(&merge);
    assert_eq!((said.code, &said.error()["kind"]), (4, &"shared".into()), "{said:?}");
    assert!(said.error()["hint"].as_str().unwrap().contains("--change-shared"), "{said:?}");
    assert_eq!(base(&world), before);
    world.ok(&["snapshot-merge", "--change-shared", &clone]);
    assert_ne!(base(&world), before);
}

#[test]
fn the_bases_name_means_the_base_though_a_clone_is_open() {
    let world = world();
    let nbd = format!("unix:{}", world.text("s"));
    let server = world.serve(&[&world.text("clone"), "--allow-outside", "--nbd", &nbd], 1);
    let (name, before) = (world.text("base/root.hds"), base(&world));
    let said = world.run(&["grow", "-s", "32M", &name]);
    assert_eq!(said.code, 37, "the clone's server reads it: {said:?}");
    assert!(said.err.contains(&format!("pid {}", server.pid())), "{said:?}");
    assert_eq!(world.run(&["snapshot", &name]).code, 38, "it is frozen in its own disk");
    assert_eq!(world.run(&["jobs", &name]).code, 40);
    assert_eq!(world.run(&["detach", &name]).code, 40);
    // The base's own disk is not open: it can be, beside the clone.
    let other = format!("unix:{}", world.text("t"));
    let beside = world.serve(&[&world.text("base"), "--nbd", &other], 1);
    for merge in [&["snapshot-merge"][..], &["snapshot-merge", "-A"]] {
        let said = world.run(&[&["--json"], merge, &[&*world.text("clone")]].concat());
        assert_eq!(said.code, 4, "{said:?}");
        let error = said.error();
        assert!(error["message"].as_str().unwrap().contains("belong to others"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("--change-shared"), "{error}");
    }
    world.ok(&["snapshot", &world.text("clone")]);
    let names = std::fs::read_dir(world.path("base")).unwrap();
    let images =
        names.filter(|name| name.as_ref().unwrap().file_name() != "DiskDescriptor.xml.lck");
    assert_eq!(images.count(), 3, "the base's directory holds what it held");
    assert_eq!(base(&world), before);
    assert_eq!(world.ok(&["list"]).out.lines().count(), 2);
    assert_eq!((server.end("-TERM"), beside.end("-TERM")), (0, 0));
}

/// A refusal has one kind, whoever has the disk open.
#[test]
fn kinds_of_errors_are_those_of_a_closed_disk() {
    let world = world();
    let clone = world.text("clone");
    let refusals: &[&[&str]] = &[
        &["snapshot-merge"],
        &["snapshot-merge", "-A"],
        &["snapshot-delete", "-u", "{00000000-0000-4000-8000-000000000001}"],
        &["snapshot-merge", "-u", "{00000000-0000-4000-8000-000000000001}"],
        &["grow", "-s", "1M"],
        &["grow", "-s", "9000000T"],
    ];
    let told = |verb: &[&str], more: &[&str]| {
        let said = world.run(&[&["--json"], verb, more, &[&*clone]].concat());
        (said.code, said.error()["kind"].as_str().unwrap().to_owned())
    };
    let closed: Vec<_> = refusals.iter().map(|verb| told(verb, &["--allow-outside"])).collect();
    assert_eq!(closed[0], (4, "shared".to_owned()));
    let nbd = format!("unix:{}", world.text("s"));
    let server = world.serve(&[&clone, "--allow-outside", "--nbd", &nbd], 1);
    let open: Vec<_> = refusals.iter().map(|verb| told(verb, &[])).collect();
    assert_eq!(open, closed);
    assert_eq!(server.end("-TERM"), 0);
}
