//! Servers that are measured, ours and others', and fio as their client.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::lab::{Figure, Lab, Place};
use crate::sh;

/// A program with an NBD socket; ended by its pid.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    fn start(mut command: Command, socket: PathBuf) -> Result<Self> {
        let what = sh::words(&command);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start `{what}`"))?;
        let mut server = Self { child, socket };
        let until = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(&server.socket).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("`{what}` ended: {status}");
            }
            if Instant::now() > until {
                bail!("`{what}` does not answer on {}", server.socket.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Ours.
    pub fn ploop(lab: &Lab, disk: &Path) -> Result<Self> {
        let socket = lab.path(Place::Disk, "ploop.sock");
        let (disk, nbd) = (disk.display().to_string(), format!("unix:{}", socket.display()));
        Self::start(lab.command(&["serve", &disk, "--nbd", &nbd]), socket)
    }

    /// QEMU's storage daemon over a raw file, direct I/O where there is a disk.
    pub fn qemu_raw(lab: &Lab, file: &Path, place: Place) -> Result<Self> {
        let socket = lab.path(Place::Disk, "qemu.sock");
        let direct =
            if place == Place::Disk { "cache.direct=on,aio=io_uring" } else { "aio=threads" };
        let mut command = sh::program("qemu-storage-daemon");
        command.args([
            "--blockdev".into(),
            format!("file,node-name=f,filename={},{direct}", file.display()),
            "--blockdev".into(),
            "raw,node-name=d,file=f".into(),
            "--nbd-server".into(),
            format!("addr.type=unix,addr.path={},max-connections=0", socket.display()),
            "--export".into(),
            "nbd,id=e,node-name=d,name=,writable=on".to_owned(),
        ]);
        Self::start(command, socket)
    }

    /// nbdkit with its file plugin.
    pub fn nbdkit(lab: &Lab, file: &Path) -> Result<Self> {
        let socket = lab.path(Place::Disk, "nbdkit.sock");
        let mut command = sh::program("nbdkit");
        command.arg("-f").arg("-U").arg(&socket).arg("file").arg(file);
        Self::start(command, socket)
    }

    /// Processor time of all its threads, those that ended and the kernel's workers too, in
    /// seconds. The kernel counts it in hundredths.
    fn cpu(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some(ticks / 100.0)
    }

    /// fio over NBD, depth 32, one job.
    pub fn fio(&self, lab: &Lab, rw: &str, bs: &str) -> Result<Figure> {
        let before = self.cpu();
        let uri = format!("--uri=nbd+unix:///?socket={}", self.socket.display());
        let (iops, ios) = fio(lab, rw, bs, &["--ioengine=nbd", &uri])?;
        let cpu = before.zip(self.cpu()).map(|(before, now)| (now - before) * 1e6 / ios.max(1.0));
        Ok(Figure { value: iops, cpu })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let until = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// fio on a file by io_uring with registered buffers.
pub fn fio_file(lab: &Lab, file: &Path, rw: &str) -> Result<Figure> {
    let name = format!("--filename={}", file.display());
    let words = ["--ioengine=io_uring", "--fixedbufs=1", "--direct=1", &name];
    Ok(Figure { value: fio(lab, rw, "4k", &words)?.0, cpu: None })
}

/// Requests a second, and all.
fn fio(lab: &Lab, rw: &str, bs: &str, words: &[&str]) -> Result<(f64, f64)> {
    let mut command = sh::program("fio");
    command.args(["--name=b", "--iodepth=32", "--time_based", "--output-format=json"]);
    command.args([format!("--rw={rw}"), format!("--bs={bs}"), "--size=512M".into()]);
    command.arg(format!("--runtime={}", lab.seconds.ceil())).args(words);
    let text = sh::text(&mut command)?;
    let start = text.find('{').with_context(|| format!("fio said {text}"))?;
    let json: serde_json::Value = serde_json::from_str(&text[start..])?;
    let job = &json["jobs"][0];
    let sum = |key: &str| ["read", "write"].iter().filter_map(|way| job[way][key].as_f64()).sum();
    Ok((sum("iops"), sum("total_ios")))
}

/// Bytes a second through a pair of unix sockets, 1 MiB at a time, as blocks a second.
pub fn socketpair(lab: &Lab) -> Result<Figure> {
    use std::io::{Read, Write};
    let (mut from, mut to) = std::os::unix::net::UnixStream::pair()?;
    let limit = Duration::from_secs_f64(lab.seconds);
    let start = Instant::now();
    let sender = std::thread::spawn(move || {
        let block = vec![1; 1 << 20];
        while start.elapsed() < limit && from.write_all(&block).is_ok() {}
    });
    let (mut block, mut blocks) = (vec![0; 1 << 20], 0.0);
    while to.read_exact(&mut block).is_ok() {
        blocks += 1.0;
    }
    let seconds = start.elapsed().as_secs_f64();
    let _ = sender.join();
    Ok(Figure { value: blocks / seconds, cpu: None })
}
