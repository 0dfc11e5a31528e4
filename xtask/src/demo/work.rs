//! The demo's directory, and everything that must be taken down again.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, bail, ensure};

use super::tree::Manifest;
use crate::sh;

/// No step of the demo needs longer, even on a slow disk.
const LIMIT: Duration = Duration::from_secs(120);

pub struct Work {
    pub dir: PathBuf,
    pub mount_point: PathBuf,
    tool: PathBuf,
    mounted: bool,
    attached: Vec<PathBuf>,
    interrupted: Arc<AtomicBool>,
}

impl Work {
    pub fn new(tool: PathBuf) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        // Not /tmp when it can be helped: it is often in memory, where no direct I/O is.
        let base = Path::new("/var/tmp");
        let base = if base.is_dir() { base.to_path_buf() } else { env::temp_dir() };
        let dir = base.join(format!("ploop-demo-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mount_point = dir.join("mnt");
        fs::create_dir(&mount_point)?;
        Ok(Self { dir, mount_point, tool, mounted: false, attached: Vec::new(), interrupted })
    }

    /// The `ploop` just built.
    pub fn ploop(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.tool);
        command.args(args);
        command
    }

    /// Runs a command that must succeed, unless it hangs or the person wants to stop.
    pub fn text(&self, command: &mut Command) -> Result<String> {
        sh::text_within(command, LIMIT, &self.interrupted)
    }

    /// The same for a command that may fail.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        sh::within(command, LIMIT, &self.interrupted)
    }

    /// Hashes a tree, unless the person wants to stop.
    pub fn manifest(&self, tree: &Path) -> Result<Manifest> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Manifest::of(tree, &self.dir)
    }

    /// Attaches a disk; the device path.
    pub fn attach(&mut self, disk: &Path) -> Result<String> {
        self.attached.push(disk.to_path_buf());
        let device = self.text(self.ploop(&["attach"]).arg(disk))?;
        ensure!(
            device.starts_with("/dev/") && device.lines().count() == 1,
            "attach said: {device}"
        );
        Ok(device)
    }

    pub fn detach(&mut self, disk: &Path) -> Result<()> {
        self.text(self.ploop(&["detach"]).arg(disk))?;
        self.attached.retain(|attached| attached != disk);
        Ok(())
    }

    /// Mounts a device that is attached already, by mount(8).
    pub fn mount_device(&mut self, device: &str) -> Result<()> {
        self.mounted = true;
        self.text(sh::program("mount").arg(device).arg(&self.mount_point))?;
        Ok(())
    }

    pub fn umount_device(&mut self) -> Result<()> {
        self.text(sh::program("umount").arg(&self.mount_point))?;
        self.mounted = false;
        Ok(())
    }

    /// Attaches and mounts in one go: `ploop mount`.
    pub fn mount(&mut self, disk: &Path, read_only: bool) -> Result<String> {
        self.mounted = true;
        self.attached.push(disk.to_path_buf());
        let mut command = self.ploop(&["mount"]);
        if read_only {
            command.arg("-r");
        }
        self.text(command.arg("-m").arg(&self.mount_point).arg(disk))
    }

    pub fn umount(&mut self) -> Result<()> {
        self.text(self.ploop(&["umount", "-m"]).arg(&self.mount_point))?;
        self.mounted = false;
        self.attached.pop();
        Ok(())
    }

    /// Takes everything down and looks whether it is gone. Safe to call at any point.
    pub fn clean_up(&mut self) -> Result<()> {
        if self.mounted {
            if quietly(self.ploop(&["umount", "-m"]).arg(&self.mount_point)).is_err() {
                let _ = quietly(sh::program("umount").arg("--lazy").arg(&self.mount_point));
            }
            self.mounted = false;
        }
        for disk in std::mem::take(&mut self.attached) {
            let _ = quietly(self.ploop(&["detach"]).arg(disk));
        }
        self.end_servers()?;
        let left = self.left()?;
        ensure!(left.is_empty(), "left behind: {}", left.join("; "));
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)?;
        }
        Ok(())
    }

    /// Servers of our disks that are still there, by the pid the registry names (T7): asked
    /// nicely, then killed.
    fn end_servers(&self) -> Result<()> {
        for signal in ["-TERM", "-KILL"] {
            for pid in self.servers() {
                let _ = quietly(sh::program("kill").args([signal, &pid.to_string()]));
            }
            let start = Instant::now();
            while !self.servers().is_empty() && start.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(50));
            }
        }
        let left = self.servers();
        if !left.is_empty() {
            bail!("servers do not end: {left:?}");
        }
        Ok(())
    }

    /// The living servers of disks below our directory.
    fn servers(&self) -> Vec<u64> {
        let run = env::var_os("PLOOP_RUN_DIR").map_or_else(|| "/run/ploop".into(), PathBuf::from);
        let Ok(entries) = fs::read_dir(run) else { return Vec::new() };
        let ours = |path: PathBuf| {
            let text = fs::read_to_string(path).ok()?;
            let entry: serde_json::Value = serde_json::from_str(&text).ok()?;
            let disk = entry.get("disk")?.as_str()?;
            let pid = entry.get("pid")?.as_u64()?;
            let lives = Path::new("/proc").join(pid.to_string()).exists();
            (Path::new(disk).starts_with(&self.dir) && lives).then_some(pid)
        };
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
            .filter_map(ours)
            .collect()
    }

    /// Mounts and loop devices that name our directory.
    fn left(&self) -> Result<Vec<String>> {
        let dir = self.dir.to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/mounts")?;
        let mut left: Vec<String> =
            mounts.lines().filter(|line| line.contains(&dir)).map(str::to_string).collect();
        for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
            if backing.is_ok_and(|file| file.contains(&dir)) {
                left.push(entry.path().display().to_string());
            }
        }
        Ok(left)
    }
}

/// A command of the clean-up: it runs although the person wants to stop, but not for ever.
fn quietly(command: &mut Command) -> Result<String> {
    sh::text_within(command, Duration::from_secs(20), &AtomicBool::new(false))
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.dir.exists()
            && let Err(error) = self.clean_up()
        {
            sh::complain(&format!("demo: {error:#}"));
        }
    }
}
