//! Man pages, completions, and the words of mount(8).
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use std::process::{Command, Stdio};

fn ploop() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ploop"))
}

#[test]
fn every_verb_has_a_page_that_names_its_options() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("man1");
    let done = ploop().args(["generate", "man"]).arg(&to).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    let text = |name: &str| std::fs::read_to_string(to.join(name)).unwrap();
    assert!(text("ploop.1").contains(".TH ploop 1"));
    assert!(text("ploop-mount.1").contains("Pass options to mount(8)"));
    let verbs = ["init", "serve", "attach", "snapshot", "check", "generate"];
    assert!(verbs.iter().all(|verb| to.join(format!("ploop-{verb}.1")).is_file()));
    let hidden = std::fs::read_dir(&to)
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    assert!(!hidden.into_iter().any(|name| name.contains("background")));
}

#[test]
fn completions_know_verbs_and_options() {
    for shell in ["bash", "zsh", "fish"] {
        let done = ploop().args(["generate", "completions", shell]).output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        assert!(done.status.success() && text.contains("snapshot-list"), "{shell}: {text}");
        assert!(text.contains("metadata-delay"), "{shell}");
    }
}

/// As mount(8) calls it; the same as `ploop mount` up to here, where the disk is missing.
#[test]
fn the_helper_of_mount_speaks_as_ploop_does() {
    let dir = tempfile::tempdir().unwrap();
    let helper = dir.path().join("mount.ploop");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ploop"), &helper).unwrap();
    let call = |words: &[&str]| {
        let mut command = Command::new(&helper);
        command.args(words).current_dir(dir.path()).stdin(Stdio::null());
        let done = command.env("PLOOP_RUN_DIR", dir.path()).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, said) = call(&["missing.xml", "."]);
    assert!(code != Some(0) && said.contains("missing.xml"), "{code:?} {said}");
    let (code, said) = call(&["missing.xml", ".", "-x"]);
    assert!(code == Some(38) && said.contains("unknown option -x"), "{code:?} {said}");
    assert_eq!(call(&["missing.xml", ".", "-f", "-o", "ro"]).0, Some(0));
}
