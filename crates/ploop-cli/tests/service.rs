//! What a service manager and udev see of a server: the notification socket, names, the unit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;
use common::{World, can_attach};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What a service manager listens on.
fn manager(world: &World) -> UnixDatagram {
    let socket = UnixDatagram::bind(world.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket
}

fn heard(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    let n = socket.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..n]).into_owned()
}

fn start(world: &World, args: &[&str]) -> (Child, String) {
    let mut command = world.command(args);
    command.env("NOTIFY_SOCKET", world.path("notify")).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim_end().to_owned())
}

fn ends(mut child: Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_manager_hears_when_a_server_is_ready_and_when_it_stops() {
    let world = World::new();
    let socket = manager(&world);
    let image = world.disk("a");
    world.ok(&["init", "-s", "64M", "-t", "none", &image]);
    let address = format!("unix:{}", world.text("s"));
    let (child, ready) = start(&world, &["serve", "a", "--nbd", &address]);
    assert!(ready.starts_with("ready nbd"), "{ready}");
    let said = heard(&socket);
    assert!(said.lines().any(|line| line == "READY=1"), "{said}");
    assert!(said.contains("STATUS=serving ") && said.contains("DiskDescriptor.xml"), "{said}");
    ends(child);
    assert!(heard(&socket).contains("STOPPING=1"));
    world.ok(&["check", "-f", &image]);
}

#[test]
fn a_device_in_the_foreground_has_a_name_until_it_ends() {
    if !can_attach() {
        return;
    }
    let world = World::new();
    let socket = manager(&world);
    let name = format!("test-{}", std::process::id());
    let image = world.disk("a");
    world.ok(&["init", "-s", "64M", "-t", "none", &image]);
    let named = format!("--name={name}");
    let attach = ["attach", "--foreground", "--via", "loop", &named, "a"];
    let (child, device) = start(&world, &attach);
    assert!(device.starts_with("/dev/loop"), "{device}");
    assert!(heard(&socket).contains("READY=1"));
    let link = Path::new("/dev/ploop").join(&name);
    assert_eq!(std::fs::read_link(&link).unwrap(), Path::new(&device));
    let properties = world.ok(&["udev", &device]).out;
    assert!(properties.lines().any(|line| line == format!("PLOOP_NAME={name}")), "{properties}");
    assert_eq!(world.ok(&["udev", "/dev/null"]).out, "");
    let disk = &world.ok(&["--json", "list"]).json()["disks"][0];
    assert_eq!((disk["name"].as_str(), disk["in_flight"].as_u64()), (Some(&*name), Some(0)));
    assert!(disk["queues"].as_u64().unwrap() >= 1 && disk["transport"] == "loop", "{disk}");
    let long = world.ok(&["list", "--long"]).out;
    assert!(long.contains("IN FLIGHT") && long.contains(" loop "), "{long}");
    // Another disk cannot take it.
    let other = world.disk("b");
    world.ok(&["init", "-s", "64M", "-t", "none", &other]);
    let refused = world.run(&["attach", "--via", "loop", &named, &other]);
    assert!(refused.code != 0 && refused.err.contains(&name), "{refused:?}");
    world.ok(&["check", "-f", &other]);
    ends(child);
    assert!(heard(&socket).contains("STOPPING=1"));
    assert!(std::fs::read_link(&link).is_err());
    let bad = world.run(&["attach", "--via", "loop", "--name=a/b", "a"]);
    assert!(bad.code != 0 && bad.err.contains("`a/b` cannot be the name"), "{bad:?}");
}

/// `systemd-analyze` of this machine reads the unit, with the program where it is here.
#[test]
fn the_unit_is_one_that_systemd_takes() {
    let world = World::new();
    let unit = include_str!("../../../packaging/ploop@.service");
    let program = env!("CARGO_BIN_EXE_ploop");
    assert!(unit.contains("ExecStart=/usr/bin/ploop attach --foreground --name %f"));
    let here = unit.replace("/usr/bin/ploop", program);
    let path = world.path("ploop@.service");
    std::fs::write(&path, here).unwrap();
    let instance = world.path("ploop@vz-disk.service");
    std::os::unix::fs::symlink(&path, &instance).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&instance)
        .output();
    let Ok(output) = output else {
        return ploop_e2e::skip("the_unit", "no systemd-analyze on this machine");
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("ploop@"), "{said}");
}
