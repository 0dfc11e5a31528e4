//! Users who are not root: what they lack is one sentence, and whose disks who sees in `list`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;
use common::{World, have};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

const USER: u32 = 4242;
const GROUP: u32 = 4343;

/// A world whose directory `home` is the user's, with the program where they may run it.
fn world(name: &str) -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        ploop_e2e::skip(name, "needs root, to be somebody else");
        return None;
    }
    if !["setpriv", "unshare", "mount"].iter().all(|program| have(program)) {
        return None;
    }
    let world = World::new();
    for (dir, mode) in [("", 0o711), ("bin", 0o755), ("home", 0o700), ("tmp", 0o1777)] {
        let path = world.path(dir);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    chown(world.path("home"), Some(USER), Some(USER)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_ploop"), world.path("bin/ploop")).unwrap();
    Some(world)
}

/// A script as root, where `/run/ploop` is empty and nobody else's; `$AS` runs as the user.
fn script(world: &World, text: &str) -> (i32, String, String) {
    let head = format!(
        "set -e; trap 'kill $a $b $u $s 2>/dev/null || true' EXIT
         mkdir -p /run/ploop; mount -t tmpfs none /run/ploop; chmod 755 /run/ploop
         unset PLOOP_RUN_DIR XDG_RUNTIME_DIR; export TMPDIR={tmp} PATH={bin}:$PATH; cd {home}
         AS='setpriv --reuid={USER} --regid={USER} --clear-groups --inh-caps=-all'
         MEMBER='setpriv --reuid={USER} --regid={GROUP} --clear-groups --inh-caps=-all'
         ready() {{ until grep -q ready $1; do kill -0 $2; sleep 0.05; done; }}\n",
        tmp = world.text("tmp"),
        bin = world.text("bin"),
        home = world.text("home"),
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &(head + text)]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn what_a_user_lacks_is_one_sentence_with_a_way_out() {
    let Some(world) = world("what_a_user_lacks_is_one_sentence_with_a_way_out") else { return };
    let (code, _, err) = script(&world, "$AS ploop init -s 64M -t none d/root.hds");
    assert_eq!(code, 0, "{err}");
    for (verb, hint) in [
        ("init -s 64M e/root.hds", "-t none"),
        ("info d", "info -s"),
        ("resize -s 96M d", "ploop grow"),
        ("attach d", "serve DISK --nbd"),
        ("attach --via loop d", "serve DISK --nbd"),
        ("mount -m mnt d", "serve DISK --nbd"),
    ] {
        // With little memory that may be locked, too.
        let (code, out, err) =
            script(&world, &format!("ulimit -l 64; mkdir -p mnt; $AS ploop {verb}"));
        let lines: Vec<&str> = err.lines().collect();
        assert_eq!((code, &*out, lines.len()), (2, "", 2), "{verb}: {err}");
        assert!(lines[0].starts_with("ploop: unavailable: "), "{verb}: {err}");
        assert!(lines[0].contains("this user may not open it"), "{verb}: {err}");
        assert!(lines[1].contains(hint), "{verb}: {err}");
    }
    assert!(!world.path("home/e/root.hds").exists());
    // What the hints name works, and without a word about what does not matter there.
    let (code, _, err) = script(
        &world,
        "$AS ploop init -s 64M -t none e/root.hds; $AS ploop info -s d >out; $AS ploop map d >out
         $AS ploop grow -s 96M d; $AS ploop serve d --nbd unix:n.sock >served & s=$!
         ready served $s; $AS ploop info d && exit 1
         kill $s; wait $s",
    );
    let lines: Vec<&str> = err.lines().filter(|line| !line.contains("io_uring")).collect();
    assert_eq!((code, lines.len()), (0, 2), "{err}");
    assert!(lines[0].contains("not as a block device (nbd unix:"), "{err}");
    assert!(lines[1].contains("info -s"), "{err}");
}

#[test]
fn whose_disks_who_sees() {
    let Some(world) = world("whose_disks_who_sees") else { return };
    let (code, out, err) = script(
        &world,
        &format!(
            "for d in a b; do ploop init -s 16M -t none {dir}/$d/root.hds; done
             $AS ploop init -s 16M -t none u/root.hds
             ploop serve {dir}/a --visible-to {GROUP} --nbd unix:{dir}/a.sock >{dir}/1 & a=$!
             ploop serve {dir}/b --nbd unix:{dir}/b.sock >{dir}/2 & b=$!
             $AS ploop serve u --nbd unix:u.sock >served & u=$!
             ready {dir}/1 $a; ready {dir}/2 $b; ready served $u
             for who in '' \"$AS\" \"$MEMBER\"; do $who ploop list; echo --; done
             $MEMBER ploop --json list; $MEMBER ploop grow -s 32M {dir}/a && exit 1
             stat -c '%a %u %g' /run/ploop/*.sock | sort -u
             $AS ploop serve u --visible-to {GROUP} --nbd unix:v.sock && exit 1
             ploop serve {dir}/b --visible-to nobody-of-that-name --nbd unix:v.sock && exit 1
             kill $a $b $u; wait",
            dir = world.text(""),
        ),
    );
    assert_eq!(code, 0, "{out}{err}");
    let shown: Vec<Vec<&str>> = out
        .split("--\n")
        .take(3)
        .map(|part| {
            let disks = ["a/root.hds", "b/root.hds", "u/root.hds"];
            disks.into_iter().filter(|disk| part.contains(*disk)).map(|disk| &disk[..1]).collect()
        })
        .collect();
    let (root, user, member) = (vec!["a", "b", "u"], vec!["u"], vec!["a", "u"]);
    assert_eq!(shown, [root, user, member], "{out}{err}");
    let json = out.lines().find(|line| line.starts_with('{')).unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let disks = json["disks"].as_array().unwrap();
    let of_root = disks.iter().find(|disk| disk["uid"] == 0).unwrap();
    assert_eq!(of_root["visible_to"], GROUP, "{json}");
    assert!(out.ends_with("600 0 0\n"), "only the entry is theirs: {out}");
    assert!(err.contains("closed to others"), "{err}");
    assert!(err.contains("there is no group `nobody-of-that-name`"), "{err}");
}
