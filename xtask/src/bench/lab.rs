//! Working folders on the disk and in memory, images in them, and `ploop bench` on those.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

/// One measured number, and the processor time for each request where it is known.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub value: f64,
    pub cpu: Option<f64>,
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
        let text = sh::text(&mut self.command(&all))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// The same, one number of it.
    pub fn figure(&self, target: &Path, words: &[&str], key: &str) -> Result<Figure> {
        let json = self.bench(target, words)?;
        let value = json[key].as_f64().with_context(|| format!("no {key} in {json}"))?;
        Ok(Figure { value, cpu: json["cpu_us_per_io"].as_f64() })
    }
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
