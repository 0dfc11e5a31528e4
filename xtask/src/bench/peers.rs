//! Servers that are measured, ours and others', and fio as their client.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::lab::{Figure, Lab, Place};
use crate::sh;

/// A program with a socket; ended by its pid.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts a program that will answer on a socket.
    pub fn start(mut command: Command, socket: PathBuf) -> Result<Self> {
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
        Self::qemu(lab, &[("raw", file)], place)
    }

    /// QEMU's storage daemon over images, the base first, each with its driver.
    pub fn qemu(lab: &Lab, images: &[(&str, &Path)], place: Place) -> Result<Self> {
        let socket = lab.path(Place::Disk, "qemu.sock");
        let mut command = sh::program("qemu-storage-daemon");
        let top = blockdevs(&mut command, images, place);
        command.args([
            "--nbd-server".into(),
            format!("addr.type=unix,addr.path={},max-connections=0", socket.display()),
            "--export".into(),
            format!("nbd,id=e,node-name={top},name=,writable=on"),
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

    /// nbdkit without a disk: what client and protocol cost by themselves.
    pub fn nbdkit_null(lab: &Lab) -> Result<Self> {
        let socket = lab.path(Place::Disk, "nbdkit.sock");
        let mut command = sh::program("nbdkit");
        command.arg("-f").arg("-U").arg(&socket).args(["null", "512M"]);
        Self::start(command, socket)
    }

    /// Processor time of all its threads, those that ended and the kernel's workers too, in
    /// seconds. The kernel counts it in hundredths.
    pub fn cpu(&self) -> Option<f64> {
        cpu_of(&self.child)
    }

    /// Where it answers.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// fio over NBD, depth 32, one job.
    pub fn fio(&self, lab: &Lab, rw: &str, bs: &str) -> Result<Figure> {
        self.load(lab, &Load { rw, bs, ..Load::default() })
    }

    /// fio over NBD.
    pub fn load(&self, lab: &Lab, load: &Load<'_>) -> Result<Figure> {
        let before = self.cpu();
        let uri = format!("--uri=nbd+unix:///?socket={}", self.socket.display());
        let (iops, ios) = fio(lab, load, &["--ioengine=nbd", &uri])?;
        let cpu = before.zip(self.cpu()).map(|(before, now)| (now - before) * 1e6 / ios.max(1.0));
        Ok(Figure { value: iops, cpu, disk: None })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// SIGTERM by pid, then SIGKILL after ten seconds.
pub fn end(child: &mut Child) {
    let pid = child.id().to_string();
    let _ = Command::new("kill").args(["-TERM", &pid]).status();
    let until = Instant::now() + Duration::from_secs(10);
    while child.try_wait().is_ok_and(|status| status.is_none()) {
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processor time of a process, its threads and what the kernel did for them, in seconds.
pub fn cpu_of(child: &Child) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// Names the images of a chain to QEMU, the base first; returns the name of the top's node.
pub fn blockdevs(command: &mut Command, images: &[(&str, &Path)], place: Place) -> String {
    let direct = if place == Place::Disk { "cache.direct=on,aio=io_uring" } else { "aio=threads" };
    for (n, (driver, path)) in images.iter().enumerate() {
        let file = format!("file,node-name=f{n},filename={},{direct}", path.display());
        let backing = match n.checked_sub(1) {
            Some(below) => format!(",backing=d{below}"),
            None => String::new(),
        };
        let image = format!("{driver},node-name=d{n},file=f{n}{backing}");
        command.args(["--blockdev", &file, "--blockdev", &image]);
    }
    format!("d{}", images.len().saturating_sub(1))
}

/// What fio does.
pub struct Load<'a> {
    pub rw: &'a str,
    pub bs: &'a str,
    pub depth: u32,
    pub jobs: u32,
    /// Bytes worked on.
    pub area: &'a str,
    /// Where they begin.
    pub offset: &'a str,
    /// A flush after every write.
    pub flush: bool,
    /// Ends after so many requests, whatever time it takes; 0: by time.
    pub count: u32,
}

impl Default for Load<'_> {
    fn default() -> Self {
        let (rw, bs, area) = ("randread", "4k", "512M");
        Self { rw, bs, depth: 32, jobs: 1, area, offset: "0", flush: false, count: 0 }
    }
}

/// fio on the data area of an image, by io_uring with registered buffers.
pub fn fio_file(lab: &Lab, image: &Path, rw: &str) -> Result<Figure> {
    let load = Load { rw, area: "511M", offset: "1M", ..Load::default() };
    Ok(Figure { value: fio_path(lab, image, &load)?.0, ..Figure::default() })
}

/// fio on a file or device by its path: requests a second, and all.
pub fn fio_path(lab: &Lab, file: &Path, load: &Load<'_>) -> Result<(f64, f64)> {
    let name = format!("--filename={}", file.display());
    fio(lab, load, &["--ioengine=io_uring", "--fixedbufs=1", "--direct=1", &name])
}

/// Requests a second, and all.
fn fio(lab: &Lab, load: &Load<'_>, words: &[&str]) -> Result<(f64, f64)> {
    let mut command = sh::program("fio");
    command.args(["--name=b", "--group_reporting", "--norandommap", "--output-format=json"]);
    command.args([format!("--rw={}", load.rw), format!("--bs={}", load.bs)]);
    command.args([format!("--size={}", load.area), format!("--iodepth={}", load.depth)]);
    command.args([format!("--numjobs={}", load.jobs), format!("--fsync={}", u8::from(load.flush))]);
    command.arg(format!("--offset={}", load.offset)).args(words);
    if load.count > 0 {
        command.arg(format!("--number_ios={}", load.count));
    } else {
        command.args(["--time_based".into(), format!("--runtime={}", lab.seconds.ceil())]);
    }
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
    Ok(Figure { value: blocks / seconds, ..Figure::default() })
}
