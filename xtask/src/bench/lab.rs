//! Working folders on the disk and in memory, images in them, and `ploop bench` on those.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

/// One measured number, and the processor time for each request where it is known.
#[derive(Clone, Copy, Default, Debug)]
pub struct Figure {
    pub value: f64,
    pub cpu: Option<f64>,
    /// Operations that the disk did for each request, by its own count.
    pub disk: Option<f64>,
}

/// Where files lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Disk,
    Shm,
}

pub struct Lab {
    pub seconds: f64,
    pub ploop: PathBuf,
    disk: PathBuf,
    shm: PathBuf,
}

/// Bytes of the area that mapped loads work on.
pub const AREA: &str = "512M";

impl Lab {
    /// Builds `ploop`, makes the folders.
    pub fn new(seconds: f64) -> Result<Self> {
        sh::run(sh::cargo().args(["build", "--quiet", "--release", "-p", "ploop-cli"]))?;
        let target = sh::target_dir()?;
        let name = format!("ploop-bench-{}", std::process::id());
        let (disk, shm) = (target.join(&name), Path::new("/dev/shm").join(&name));
        let lab = Self { seconds, ploop: target.join("release/ploop"), disk, shm };
        std::fs::create_dir_all(&lab.disk)?;
        std::fs::create_dir_all(&lab.shm)?;
        Ok(lab)
    }

    pub fn path(&self, place: Place, name: &str) -> PathBuf {
        match place {
            Place::Disk => self.disk.join(name),
            Place::Shm => self.shm.join(name),
        }
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.ploop);
        command.args(words).env("PLOOP_RUN_DIR", self.disk.join("run"));
        command
    }

    /// An empty disk without a file system, made anew; clusters in KiB.
    pub fn empty(&self, place: Place, name: &str, size: &str, cluster: u32) -> Result<PathBuf> {
        let dir = self.path(place, name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir)?;
        let image = dir.join("root.hds").display().to_string();
        let sectors = (cluster * 2).to_string();
        let words = ["init", "-s", size, "-t", "none", "-b", &sectors, &image];
        sh::text(&mut self.command(&words))?;
        Ok(dir)
    }

    /// A disk of which all is mapped, made once.
    pub fn mapped(&self, place: Place) -> Result<PathBuf> {
        let dir = self.path(place, "mapped");
        if !dir.exists() {
            self.empty(place, "mapped", AREA, 1024)?;
            self.fill(&dir, &[])?;
        }
        Ok(dir)
    }

    /// Writes all of a disk or file.
    fn fill(&self, target: &Path, more: &[&str]) -> Result<()> {
        let target = target.display().to_string();
        let words = ["bench", "--rw", "write", "--bs", "1M", "--count", "512", "--destroy"];
        sh::text(&mut self.command(&[&words, more, &[&target]].concat())).map(drop)
    }

    /// A plain file of the area's size, written once.
    pub fn raw(&self, place: Place) -> Result<PathBuf> {
        let path = self.path(place, "raw");
        if !path.exists() {
            std::fs::File::create(&path)?.set_len(512 << 20)?;
            self.fill(&path, &["--raw"])?;
        }
        Ok(path)
    }

    /// `ploop bench` for the set time.
    pub fn bench(&self, target: &Path, words: &[&str]) -> Result<Value> {
        let (target, time) = (target.display().to_string(), self.seconds.to_string());
        let all = [&["--json", "bench", "--destroy", "--time", &time], words, &[&target]].concat();
        let before = disk_operations(&self.disk)?;
        let text = sh::text(&mut self.command(&all))?;
        let mut json: Value =
            serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
        let done = disk_operations(&self.disk)?.zip(before).map(|(now, before)| now - before);
        let asked = ["reads", "writes"].iter().filter_map(|key| json[key].as_f64()).sum::<f64>();
        if let Some(done) = done.filter(|_| target.starts_with(&*self.disk.to_string_lossy())) {
            json["disk_ops_per_io"] = (done / asked.max(1.0)).into();
        }
        Ok(json)
    }

    /// The same, one number of it.
    pub fn figure(&self, target: &Path, words: &[&str], key: &str) -> Result<Figure> {
        let json = self.bench(target, words)?;
        let value = json[key].as_f64().with_context(|| format!("no {key} in {json}"))?;
        Ok(Figure {
            value,
            cpu: json["cpu_us_per_io"].as_f64(),
            disk: json["disk_ops_per_io"].as_f64(),
        })
    }

    /// A plain file with space of its own that was never written.
    pub fn preallocated(&self, size: &str) -> Result<PathBuf> {
        let path = self.path(Place::Disk, "preallocated");
        let _ = std::fs::remove_file(&path);
        sh::text(sh::program("fallocate").args(["-l", size]).arg(&path))?;
        Ok(path)
    }

    /// A disk of 16 TiB with so many clusters of 1 MiB, spread over all of its block table, made
    /// once; the clusters are holes of the file.
    pub fn spread(&self, name: &str, mapped: u32) -> Result<PathBuf> {
        let dir = self.path(Place::Disk, name);
        if dir.exists() {
            return Ok(dir);
        }
        self.empty(Place::Disk, name, "16T", 1024)?;
        let file = std::fs::File::options().read(true).write(true).open(dir.join("root.hds"))?;
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0)?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| header[at + n]));
        let (entries, first) = (word(32), word(48) / 2048);
        let mut table = vec![0; entries as usize * 4];
        for n in 0..mapped {
            let at = (entries / mapped * n) as usize * 4;
            table[at..at + 4].copy_from_slice(&(first + n).to_le_bytes());
        }
        file.write_all_at(&table, 64)?;
        file.set_len(u64::from(first + mapped) << 20)?;
        file.sync_all()?;
        Ok(dir)
    }
}

/// Reads and writes that the block device below a folder has completed; `None` when there is none.
fn disk_operations(dir: &Path) -> Result<Option<f64>> {
    let device = std::fs::metadata(dir)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = std::fs::read_to_string("/proc/diskstats")?;
    let fields = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| {
        let is = |n: usize, number: u32| fields.get(n).is_some_and(|f| *f == number.to_string());
        is(0, major) && is(1, minor)
    });
    let count = |n: usize| found.as_ref()?.get(n)?.parse::<f64>().ok();
    Ok(count(3).zip(count(7)).map(|(reads, writes)| reads + writes))
}

impl Drop for Lab {
    fn drop(&mut self) {
        for dir in [&self.disk, &self.shm] {
            if let Err(error) = std::fs::remove_dir_all(dir) {
                sh::complain(&format!("bench: {} is left behind: {error}", dir.display()));
            }
        }
    }
}
