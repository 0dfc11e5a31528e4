//! The machine's second disk: a ploop disk of this host, over vhost-user-blk. The machine asks for
//! its server to be killed, or the disk to be made larger, as a line on its console.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::sh;

/// What the machine says when it wants its server dead.
const KILL: &str = "host: kill";
/// And when it wants 128 MiB more.
const GROW: &str = "host: grow";

/// A disk with its server.
pub struct Served {
    ploop: PathBuf,
    dir: PathBuf,
    server: Child,
    kills: usize,
    grows: usize,
}

impl Served {
    /// Makes a disk in an empty directory and serves it.
    pub fn start(ploop: &Path, dir: &Path) -> Result<Self> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir.join("disk"))?;
        fs::create_dir_all(dir.join("run"))?;
        let mut command = in_dir(ploop, dir);
        sh::run(command.args(["init", "-s", "512M", "-t", "none", "disk/root.hds"]))?;
        let server = serve(ploop, dir)?;
        Ok(Self { ploop: ploop.to_owned(), dir: dir.to_owned(), server, kills: 0, grows: 0 })
    }

    /// Where the machine connects to.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("vm")
    }

    /// Where its control socket is.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Does what is wished for on the console: kills the server and starts another, or makes the
    /// disk larger.
    pub fn look_at(&mut self, console: &Path) -> Result<()> {
        let text = fs::read(console)?;
        let text = String::from_utf8_lossy(&text);
        let wishes = |wish: &str| text.lines().filter(|line| line.trim() == wish).count();
        while self.kills < wishes(KILL) {
            self.kills += 1;
            self.server.kill()?;
            self.server.wait()?;
            self.server = serve(&self.ploop, &self.dir)?;
        }
        while self.grows < wishes(GROW) {
            self.grows += 1;
            let size = format!("{}M", 512 + 128 * self.grows);
            sh::run(in_dir(&self.ploop, &self.dir).args(["grow", "-s", &size, "disk"]))?;
        }
        Ok(())
    }

    /// Ends the server and checks the disk. Says how many requests were done again.
    pub fn end(mut self) -> Result<String> {
        sh::run(Command::new("kill").args(["-TERM", &self.server.id().to_string()]))?;
        let status = self.server.wait()?;
        let said = fs::read_to_string(self.dir.join("log"))?;
        ensure!(status.success(), "the vhost-user server ended with {status}: {said}");
        sh::run(in_dir(&self.ploop, &self.dir).args(["check", "-f", "disk"]))?;
        let lines = said.lines().filter(|line| line.contains("are done again"));
        let counts = lines.filter_map(|line| {
            line.split("again=").nth(1)?.split_whitespace().next()?.parse::<usize>().ok()
        });
        let again: usize = counts.sum();
        let kills = self.kills;
        fs::remove_dir_all(&self.dir)?;
        Ok(format!("{kills} kills of the server, {again} requests done again, the disk is clean"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn in_dir(ploop: &Path, dir: &Path) -> Command {
    let mut command = Command::new(ploop);
    command.current_dir(dir).env("PLOOP_RUN_DIR", dir.join("run"));
    command
}

/// Starts a server and waits for its ready line.
fn serve(ploop: &Path, dir: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    let mut command = in_dir(ploop, dir);
    command.args(["-v", "serve", "disk", "--queues", "2", "--vhost-user", "vm"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", ploop.display()))?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    ensure!(line.starts_with("ready vhost-user"), "the vhost-user server said {line:?}");
    Ok(child)
}
