//! FUSE exports, ours and QEMU's, with fio on the mounted file; and the kernel's loop driver.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::lab::{Figure, Lab, Place};
use super::peers::{Load, blockdevs, cpu_of, end, fio_path};
use crate::sh;
use crate::vm::fetch::Store;

/// QEMU's tools of a suite whose FUSE export is sound, with the libraries they are linked with.
const SUITE: &str = "trixie";
const PACKAGES: &[&str] = &[
    "qemu-utils",
    "libc6",
    "libfuse3-4",
    "libzstd1",
    "zlib1g",
    "libaio1t64",
    "liburing2",
    "libnettle8t64",
    "libhogweed6t64",
    "libgmp10",
    "libnuma1",
    "libglib2.0-0t64",
    "libgnutls30t64",
    "libpcre2-8-0",
    "libp11-kit0",
    "libidn2-0",
    "libunistring5",
    "libtasn1-6",
    "libffi8",
    "libatomic1",
];

/// A server with a file mounted over `path`; ended by its pid.
pub struct Mounted {
    child: Child,
    path: PathBuf,
}

impl Mounted {
    /// Ours.
    pub fn ploop(lab: &Lab, disk: &Path) -> Result<Self> {
        let path = lab.path(Place::Disk, "ploop.fuse");
        let words = [disk.display().to_string(), path.display().to_string()];
        Self::start(lab.command(&["serve", &words[0], "--fuse", &words[1]]), path)
    }

    /// QEMU's storage daemon over one image.
    pub fn qemu(lab: &Lab, driver: &str, file: &Path, place: Place) -> Result<Self> {
        let path = lab.path(Place::Disk, "qemu.fuse");
        let mut command = daemon()?;
        let top = blockdevs(&mut command, &[(driver, file)], place);
        let export = format!("fuse,id=e,node-name={top},writable=on,mountpoint={}", path.display());
        command.args(["--export", &export]);
        Self::start(command, path)
    }

    fn start(mut command: Command, path: PathBuf) -> Result<Self> {
        std::fs::write(&path, "")?;
        let before = std::fs::metadata(&path)?.dev();
        let what = sh::words(&command);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start `{what}`"))?;
        let mut mounted = Self { child, path };
        let until = Instant::now() + Duration::from_secs(20);
        while std::fs::metadata(&mounted.path).is_ok_and(|is| is.dev() == before || is.len() == 0) {
            if let Some(status) = mounted.child.try_wait()? {
                bail!("`{what}` ended: {status}");
            }
            if Instant::now() > until {
                bail!("`{what}` does not mount {}", mounted.path.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(mounted)
    }

    pub fn load(&self, lab: &Lab, load: &Load<'_>) -> Result<Figure> {
        let before = cpu_of(&self.child);
        let (iops, ios) = fio_path(lab, &self.path, load)?;
        let after = cpu_of(&self.child);
        let cpu = before.zip(after).map(|(before, now)| (now - before) * 1e6 / ios.max(1.0));
        Ok(Figure { value: iops, cpu, disk: None })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        end(&mut self.child);
        // A server that was killed leaves its mount.
        let _ = Command::new("umount").arg("-l").arg(&self.path).stderr(Stdio::null()).status();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The newer daemon, by its own loader.
fn daemon() -> Result<Command> {
    let folder = Store::open()?.folder("peers", SUITE, PACKAGES)?;
    let libraries = folder.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(libraries).arg(folder.join("usr/bin/qemu-storage-daemon"));
    Ok(command)
}

/// The kernel's loop driver over a file, direct I/O where there is a disk; detached when dropped.
pub struct LoopDevice {
    device: PathBuf,
}

impl LoopDevice {
    pub fn new(file: &Path, place: Place) -> Result<Self> {
        let mut command = sh::program("losetup");
        command.args(["--find", "--show"]);
        if place == Place::Disk {
            command.arg("--direct-io=on");
        }
        let device = sh::text(command.arg(file))?;
        Ok(Self { device: device.trim().into() })
    }

    pub fn load(&self, lab: &Lab, load: &Load<'_>) -> Result<Figure> {
        Ok(Figure { value: fio_path(lab, &self.device, load)?.0, ..Figure::default() })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}
