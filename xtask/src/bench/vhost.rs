//! A virtual machine's disk, without the machine: one client against our vhost-user-blk server and
//! QEMU's.

use anyhow::{Context, Result};
use serde_json::Value;

use super::lab::{Figure, Lab, Place};
use super::peers::{Server, blockdevs};
use super::rows::{Row, cpu_of, row};
use super::served::{FORMATS, image};
use crate::sh;

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, word) in [(Place::Shm, "shm"), (Place::Disk, "disk")] {
        for rw in ["randread", "randwrite"] {
            let name = format!("vhost-user {rw}, {word}, vs qemu parallels");
            rows.push(row(name, ours(place, rw), qemu(place, rw)));
        }
    }
    for rw in ["randread", "randwrite"] {
        let name = format!("vhost-user {rw}, shm: server cpu vs qemu parallels");
        let (mine, theirs) = (ours(Place::Shm, rw), qemu(Place::Shm, rw));
        rows.push(row(name, cpu_of(mine), cpu_of(theirs)));
        let raw = move |lab: &Lab| {
            let file = lab.mapped(Place::Disk)?.join("root.hds");
            let words = ["--raw", "--rw", rw, "--offset", "1M", "--range", "511M"];
            lab.figure(&file, &words, "iops")
        };
        let name = format!("vhost-user {rw}, disk, vs the raw file");
        rows.push(row(name, ours(Place::Disk, rw), raw));
    }
    rows
}

fn ours(place: Place, rw: &'static str) -> impl Fn(&Lab) -> Result<Figure> {
    move |lab| {
        let (socket, disk) = (lab.path(Place::Disk, "ploop.vhost"), lab.mapped(place)?);
        let (disk, path) = (disk.display().to_string(), socket.display().to_string());
        let command = lab.command(&["serve", &disk, "--vhost-user", &path]);
        load(lab, &Server::start(command, socket)?, rw)
    }
}

fn qemu(place: Place, rw: &'static str) -> impl Fn(&Lab) -> Result<Figure> {
    move |lab| {
        let socket = lab.path(Place::Disk, "qemu.vhost");
        let path = image(lab, place, FORMATS[0])?;
        let mut command = sh::program("qemu-storage-daemon");
        let node = blockdevs(&mut command, &[("parallels", &path)], place);
        let at = format!("addr.type=unix,addr.path={}", socket.display());
        let export = format!("vhost-user-blk,id=e,node-name={node},{at},writable=on");
        command.args(["--export", &export]);
        load(lab, &Server::start(command, socket)?, rw)
    }
}

/// The client, depth 32, one ring.
fn load(lab: &Lab, server: &Server, rw: &str) -> Result<Figure> {
    let peer = sh::target_dir()?.join("release/vhost-peer");
    let mut command = std::process::Command::new(peer);
    command.arg(server.socket()).args(["--rw", rw, "--seconds", &lab.seconds.to_string()]);
    let before = server.cpu();
    let text = sh::text(&mut command)?;
    let json: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
    let number = |key: &str| json[key].as_f64().with_context(|| format!("no {key} in {json}"));
    let (value, done) = (number("iops")?, number("done")?);
    let spent = before.zip(server.cpu()).map(|(before, now)| now - before);
    Ok(Figure { value, cpu: spent.map(|spent| spent * 1e6 / done.max(1.0)), disk: None })
}

/// Where the client is: built with the tool.
pub fn build() -> Result<()> {
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "-p", "vhost-peer"]))
}
