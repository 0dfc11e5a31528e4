//! Comparisons over a transport: the same client against our server and another's.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::fuse::{LoopDevice, Mounted};
use super::lab::{Figure, Lab, Place};
use super::peers::{self, Load, Server};
use super::rows::{Row, cpu_of, row};
use crate::sh;

const PLACES: [(Place, &str); 2] = [(Place::Disk, "disk"), (Place::Shm, "shm")];

pub fn rows() -> Vec<Row> {
    let mut rows = nbd();
    rows.extend(images());
    rows.extend(fuse());
    rows.extend(allocating());
    rows
}

fn ours(place: Place, rw: &'static str, bs: &'static str) -> impl Fn(&Lab) -> Result<Figure> {
    move |lab| Server::ploop(lab, &lab.mapped(place)?)?.fio(lab, rw, bs)
}

fn nbd() -> Vec<Row> {
    let qemu = |place: Place, rw: &'static str| {
        move |lab: &Lab| Server::qemu_raw(lab, &lab.raw(place)?, place)?.fio(lab, rw, "4k")
    };
    let mut rows = Vec::new();
    for (place, rw, word) in [
        (Place::Disk, "randread", "disk"),
        (Place::Disk, "randwrite", "disk"),
        (Place::Shm, "randread", "shm"),
        (Place::Shm, "randwrite", "shm"),
    ] {
        let name = format!("NBD {rw}, {word}, vs qemu raw");
        rows.push(row(name, ours(place, rw, "4k"), qemu(place, rw)));
    }
    let (mine, theirs) = (ours(Place::Disk, "randread", "4k"), qemu(Place::Disk, "randread"));
    let name = "NBD randread, disk: server cpu vs qemu raw";
    rows.push(row(name, cpu_of(mine), cpu_of(theirs)));
    for rw in ["randread", "randwrite"] {
        let file = move |lab: &Lab| Server::nbdkit(lab, &lab.raw(Place::Shm)?)?.fio(lab, rw, "4k");
        let read = ours(Place::Shm, rw, "4k");
        rows.push(row(format!("NBD {rw}, shm, vs nbdkit file"), read, file));
    }
    let null = |lab: &Lab| Server::nbdkit_null(lab)?.fio(lab, "randread", "4k");
    rows.push(row("NBD randread, shm, vs a null server", ours(Place::Shm, "randread", "4k"), null));
    let blocks = ours(Place::Shm, "read", "1M");
    rows.push(row("NBD 1M read, shm, vs socketpair", blocks, peers::socketpair));
    rows
}

/// QEMU's formats: driver, options, name in the table.
pub const FORMATS: [(&str, &str, &str); 4] = [
    ("parallels", "cluster_size=1M", "parallels"),
    ("qcow2", "cluster_size=64k,lazy_refcounts=on", "qcow2"),
    ("qcow2", "cluster_size=1M,lazy_refcounts=on", "qcow2 1M"),
    ("qcow2", "cluster_size=64k,lazy_refcounts=on,extended_l2=on", "qcow2 ext_l2"),
];

/// An image of QEMU's with the content of the raw file, made once.
pub fn image(
    lab: &Lab,
    place: Place,
    (driver, options, name): (&str, &str, &str),
) -> Result<PathBuf> {
    let path = lab.path(place, &format!("mapped.{}", name.replace(' ', ".")));
    if !path.exists() {
        let raw = lab.raw(place)?;
        let mut command = sh::program("qemu-img");
        command.args(["convert", "-f", "raw", "-O", driver, "-o", options]);
        sh::text(command.arg(raw).arg(&path))?;
    }
    Ok(path)
}

/// Our exports beside QEMU's of its formats.
fn images() -> Vec<Row> {
    let mut rows = Vec::new();
    for (n, format) in FORMATS.into_iter().enumerate() {
        // Depth 1 says the same of all formats of a driver.
        for depth in if n < 2 { &[1, 32][..] } else { &[32] } {
            for rw in ["randread", "randwrite"] {
                let load = move || Load { rw, depth: *depth, ..Load::default() };
                let mine = move |lab: &Lab| {
                    Server::ploop(lab, &lab.mapped(Place::Disk)?)?.load(lab, &load())
                };
                let theirs = move |lab: &Lab| {
                    let path = image(lab, Place::Disk, format)?;
                    Server::qemu(lab, &[(format.0, &path)], Place::Disk)?.load(lab, &load())
                };
                let name = format!("NBD {rw}, disk, depth {depth}, vs qemu {}", format.2);
                rows.push(row(name, mine, theirs));
            }
        }
    }
    for (name, place, bs, jobs) in [
        ("NBD 64k randread, disk, vs qemu raw", Place::Disk, "64k", 1),
        ("NBD randread, 2 jobs, disk, vs qemu raw", Place::Disk, "4k", 2),
        ("NBD randread, 2 jobs, shm, vs qemu raw", Place::Shm, "4k", 2),
    ] {
        let load = move || Load { bs, jobs, ..Load::default() };
        let mine = move |lab: &Lab| Server::ploop(lab, &lab.mapped(place)?)?.load(lab, &load());
        let theirs =
            move |lab: &Lab| Server::qemu_raw(lab, &lab.raw(place)?, place)?.load(lab, &load());
        rows.push(row(name, mine, theirs));
    }
    rows
}

fn fuse() -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, word) in PLACES {
        for rw in ["randread", "randwrite"] {
            let load = move || Load { rw, ..Load::default() };
            let mine =
                move |lab: &Lab| Mounted::ploop(lab, &lab.mapped(place)?)?.load(lab, &load());
            let theirs = move |lab: &Lab| {
                Mounted::qemu(lab, "raw", &lab.raw(place)?, place)?.load(lab, &load())
            };
            rows.push(row(format!("FUSE {rw}, {word}, vs qemu raw"), mine, theirs));
        }
        let mine =
            move |lab: &Lab| Mounted::ploop(lab, &lab.mapped(place)?)?.load(lab, &Load::default());
        let kernel =
            move |lab: &Lab| LoopDevice::new(&lab.raw(place)?, place)?.load(lab, &Load::default());
        rows.push(row(format!("FUSE randread, {word}, vs kernel loop on raw"), mine, kernel));
    }
    rows
}

fn allocating() -> Vec<Row> {
    let flushed = || Load {
        rw: "randwrite",
        depth: 1,
        area: "64G",
        flush: true,
        count: 4000,
        ..Load::default()
    };
    let mine = move |lab: &Lab| {
        let disk = lab.empty(Place::Disk, "flushed", "64G", 64)?;
        Server::ploop(lab, &disk)?.load(lab, &flushed())
    };
    let theirs = move |lab: &Lab| {
        let path = lab.path(Place::Disk, "flushed.qcow2");
        let mut command = sh::program("qemu-img");
        command.args(["create", "-f", "qcow2", "-o", "cluster_size=64k,lazy_refcounts=on"]);
        sh::text(command.arg(&path).arg("64G"))?;
        Server::qemu(lab, &[("qcow2", &path)], Place::Disk)?.load(lab, &flushed())
    };
    let mut rows = vec![row("write + flush, allocating, NBD, vs qcow2", mine, theirs)];
    for bs in ["64k", "4k"] {
        let load = move || Load { rw: "randwrite", bs, area: "2G", count: 2000, ..Load::default() };
        let mine = move |lab: &Lab| Server::ploop(lab, &fresh_top(lab)?)?.load(lab, &load());
        let theirs = move |lab: &Lab| {
            let (base, top) = overlay(lab)?;
            Server::qemu(lab, &[("qcow2", &base), ("qcow2", &top)], Place::Disk)?.load(lab, &load())
        };
        rows.push(row(format!("copy-up {bs}, NBD, vs qcow2 1M"), mine, theirs));
    }
    rows
}

/// A disk of which the base has all and the top nothing: the base is made once, the two small
/// files that writes change are put back.
fn fresh_top(lab: &Lab) -> Result<PathBuf> {
    let kept = lab.path(Place::Disk, "copyup.kept");
    let disk = lab.path(Place::Disk, "copyup");
    if !kept.exists() {
        lab.empty(Place::Disk, "copyup", "2G", 1024)?;
        let words = ["--rw", "write", "--bs", "1M", "--count", "2048"];
        lab.bench(&disk, &words)?;
        let before = files(&disk)?;
        sh::text(&mut lab.command(&["snapshot", &disk.display().to_string()]))?;
        std::fs::create_dir_all(&kept)?;
        let old = |path: &Path| before.iter().any(|b| b == path) && !is_descriptor(path);
        for path in files(&disk)?.iter().filter(|path| !old(path)) {
            std::fs::copy(path, kept.join(path.file_name().unwrap_or_default()))?;
        }
    }
    for path in files(&kept)? {
        std::fs::copy(&path, disk.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(disk)
}

fn is_descriptor(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "xml")
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(entries.filter(|path| path.is_file()).collect())
}

/// The same of QEMU's: base and an empty overlay.
fn overlay(lab: &Lab) -> Result<(PathBuf, PathBuf)> {
    let (base, top) = (lab.path(Place::Disk, "base.qcow2"), lab.path(Place::Disk, "top.qcow2"));
    let create = |more: &[&str], path: &Path| {
        let mut command = sh::program("qemu-img");
        command.args(["create", "-f", "qcow2", "-o", "cluster_size=1M,lazy_refcounts=on"]);
        sh::text(command.args(more).arg(path).arg("2G")).map(drop)
    };
    if !base.exists() {
        create(&[], &base)?;
        let all = Load { rw: "write", bs: "1M", area: "2G", count: 2048, ..Load::default() };
        Server::qemu(lab, &[("qcow2", &base)], Place::Disk)?.load(lab, &all)?;
    }
    let _ = std::fs::remove_file(&top);
    create(&["-b", &base.display().to_string(), "-F", "qcow2"], &top)?;
    Ok((base, top))
}
