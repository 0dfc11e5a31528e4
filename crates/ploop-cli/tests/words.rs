//! What the tool says to those who ask, and to those who ask wrongly.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
use common::World;
use std::os::unix::fs::PermissionsExt;

#[test]
fn help_has_every_verb_and_every_verb_has_examples() {
    let world = World::new();
    let help = world.ok(&["--help"]);
    for verb in [
        "init",
        "serve",
        "attach",
        "detach",
        "mount",
        "umount",
        "info",
        "stat",
        "list",
        "snapshot",
        "snapshot-list",
        "check",
        "restore-descriptor",
        "map",
        "bench",
    ] {
        assert!(help.out.contains(&format!("  {verb} ")), "{verb} is missing:\n{}", help.out);
        let of_verb = world.ok(&[verb, "--help"]);
        assert!(of_verb.out.contains("Examples:"), "{verb}: {}", of_verb.out);
        assert!(of_verb.err.is_empty());
    }
    assert!(!help.out.contains("serve-in-background"));
    assert!(world.ok(&["--version"]).out.starts_with("ploop "));
}

#[test]
fn bad_options_are_38_as_with_getopt() {
    let world = World::new();
    let image = world.text("root.hds");
    for args in [
        &["init"][..],
        &["init", "-s", "10X", &image],
        &["init", "-s", "0", &image],
        &["init", "-s", "1G", "-b", "100", &image],
        &["init", "-s", "1G", "-v", "3", &image],
        &["init", "-s", "1G", "-f", "qcow2", &image],
        &["init", "-s", "1G", "-t", "ntfs", &image],
        &["init", "-s", "1G", "-S", &image],
        &["init", "--nonsense"],
        &["serve", &image],
        &["serve", &image, "--nbd", "tcp:0.0.0.0"],
        &["serve", &image, "--nbd", "unix:/x", "--queues", "0"],
        &["serve", &image, "--nbd", "unix:/x", "--metrics", "tcp:0.0.0.0:9100"],
        &["serve", &image, "--nbd", "unix:/x", "--metrics", "9100"],
        &["attach", "--via", "carrier-pigeon", &image],
        &["attach", "--metrics", "tcp:0.0.0.0:9100", &image],
        &["stat"],
        &["stat", &image, "--watch", "0"],
        &["stat", &image, "--count", "3"],
        &["stat", &image, "--prometheus", "--watch"],
        &["stat", "-d", "/dev/loop0", &image],
        &["umount"],
        &["umount", "-m", "/a", "-d", "b"],
        &["snapshot", "-u", "123", &image],
        &["snapshot-list", "-o", "nonsense", &image],
        &[],
        &["-x"],
    ] {
        let said = world.run(args);
        assert_eq!(said.code, 38, "{said:?}");
        assert!(said.out.is_empty(), "{said:?}");
        assert!(said.err.starts_with("ploop: parameter: "), "{said:?}");
    }
}

#[test]
fn verbs_and_options_not_built_say_so() {
    let world = World::new();
    for verb in ["replace", "balloon-like", "copy", "tg-init"] {
        let said = world.run(&[verb, "x"]);
        assert_eq!(said.code, 38, "{said:?}");
    }
    let said = world.run(&["replace", "-i", "raw", "x"]);
    assert!(said.err.contains("`replace` is not available in this version"), "{said:?}");
    let said = world.run(&["convert", "-f", "raw", "x"]);
    assert!(said.err.contains("option `-f` of `convert` is not available"), "{said:?}");
    let said = world.run(&["convert", "x"]);
    assert!(said.code == 38 && said.err.contains("--one-piece"), "{said:?}");
    let said = world.run(&["init", "-s", "1G", "-k", "key", "x.hds"]);
    assert!(said.err.contains("option `-k` of `init` is not available"), "{said:?}");
    let said = world.run(&["attach", "--via", "pigeon", "x.hds"]);
    assert_eq!(said.code, 38, "{said:?}");
    assert!(said.err.contains("auto, ublk, nbd or loop"), "{said:?}");
}

#[test]
fn errors_are_json_when_asked_wherever_json_stands() {
    let world = World::new();
    for args in [
        &["--json", "info", "/nowhere"][..],
        &["info", "--json", "/nowhere"],
        &["info", "/nowhere", "--json"],
    ] {
        let said = world.run(args);
        let error = said.error();
        assert_eq!(error["code"], said.code, "{said:?}");
        assert!(error["message"].as_str().unwrap().contains("/nowhere"), "{said:?}");
        assert!(error["kind"].is_string());
        assert!(said.out.is_empty());
    }
    let said = world.run(&["init", "--json"]);
    assert_eq!((said.error()["code"].as_i64(), said.code), (Some(38), 38));
}

#[test]
fn unknown_verbs_are_programs_in_the_path() {
    let world = World::new();
    let program = world.path("ploop-hello");
    std::fs::write(&program, "#!/bin/sh\necho hello \"$@\"\nexit 5\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/bin:/usr/bin", world.text(""));
    let output = world.command(&["hello", "-x", "y"]).env("PATH", path).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(output.stdout, b"hello -x y\n");
    let said = world.run(&["nobody-has-this"]);
    assert_eq!(said.code, 38);
    assert!(said.err.contains("unknown verb `nobody-has-this`"), "{said:?}");
}

#[test]
fn verbosity_is_before_the_verb_version_behind_it() {
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["-v5", "init", "-s", "16M", "-t", "none", "-v", "1", &image]);
    let said = world.ok(&["-vv", "info", "-s", &image]);
    assert!(said.out.contains("fmt_version:\t1"), "{said:?}");
    let said = world.run(&["-v0", "info", "/nowhere"]);
    assert!(said.err.is_empty() && said.code != 0, "{said:?}");
}
