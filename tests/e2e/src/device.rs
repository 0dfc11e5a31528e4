//! Block devices of a test: attach, detach, what lies on them, how much of the host they take.

use crate::world::{Said, World, test_name, wait_until};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

/// How long a killed server's device may take to vanish.
const VANISH: Duration = Duration::from_secs(20);

/// A disk attached by a server in the background; the world ends it, whatever the test does.
#[derive(Debug, Clone)]
pub struct Attached {
    /// `/dev/loopN`.
    pub device: String,
    /// Its first partition, if there is one.
    pub partition: Option<String>,
    /// The server.
    pub pid: u32,
}

impl World {
    /// `ploop attach` with these arguments.
    pub fn attach(&self, args: &[&str]) -> Attached {
        self.attach_by(self.ploop_command(&[&["--json", "attach"], args].concat()))
    }

    /// The same with a command made elsewhere.
    #[allow(clippy::panic, reason = "a helper of tests")]
    pub fn attach_by(&self, mut command: Command) -> Attached {
        let said = Said::of("ploop attach", &[], command.output());
        assert_eq!(said.code, 0, "{said:?}");
        let json = said.json();
        let text = |key: &str| json[key].as_str().map(str::to_owned);
        let pid = json["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        let (Some(device), Some(pid)) = (text("device"), pid) else { panic!("{said:?}") };
        Attached { device, partition: text("partition"), pid }
    }

    /// `ploop detach`; the device is gone after it.
    pub fn detach(&self, attached: &Attached) {
        self.ploop_ok(&["detach", &attached.device]);
        assert!(!is_configured(&attached.device), "{attached:?} is still there");
        let over = wait_until(VANISH, || !is_running(attached.pid));
        assert!(over, "the server of {attached:?} stays");
    }

    /// The log of an attached server.
    #[must_use]
    pub fn log_of(&self, pid: u32) -> String {
        let entries = fs::read_dir(self.path("run")).into_iter().flatten().flatten();
        let paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        let is = |path: &&PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            json["pid"].as_u64() == Some(pid.into())
        };
        let json = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "json");
        let entry = paths.iter().filter(json).find(is);
        entry
            .and_then(|path| fs::read_to_string(path.with_extension("log")).ok())
            .unwrap_or_default()
    }

    /// Runs fio on a file or device with `extra` options, in this directory. Panics when it fails
    /// or does not find what it wrote.
    pub fn fio(&self, on: &str, extra: &[&str]) {
        let said = Said::of("fio", extra, self.fio_command(on, extra).output());
        assert_eq!(said.code, 0, "fio {extra:?} on {on}: {}\n{}", said.out, said.err);
    }

    /// Starts fio in the background; its output comes with [`finish_fio`].
    ///
    /// # Errors
    /// No fio.
    pub fn start_fio(&self, on: &str, extra: &[&str]) -> std::io::Result<Child> {
        let mut command = self.fio_command(on, extra);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()
    }

    fn fio_command(&self, on: &str, extra: &[&str]) -> Command {
        let mut command = self.command("fio");
        let fixed = ["--name=job", "--randseed=7", "--fallocate=none", "--verify_state_save=0"];
        let name = if on.starts_with("nbd+") { "--uri" } else { "--filename" };
        // An option of the I/O engine must come after its name.
        command.args(fixed).args(extra).arg(format!("{name}={on}"));
        command
    }

    /// The sha256 of a whole device or file, read past the page cache.
    pub fn sum(&self, path: &str) -> String {
        let script = "dd if=\"$0\" bs=1M iflag=direct status=none | sha256sum";
        let sum = self.ok("sh", &["-c", script, path]);
        sum.split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// The sha256 of all files below a directory and of their names.
    pub fn tree_sum(&self, dir: &str) -> String {
        let script =
            "cd \"$0\" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum";
        self.ok("sh", &["-c", script, dir])
    }

    /// Bytes the host holds for a file.
    #[must_use]
    pub fn held(&self, file: &str) -> u64 {
        fs::metadata(file).map_or(0, |data| data.blocks() * 512)
    }
}

/// fio's end; wants success.
pub fn finish_fio(child: Child) {
    let output = child.wait_with_output();
    let code = output.as_ref().ok().and_then(|output| output.status.code());
    let said = |output: Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(code, Some(0), "{}", output.map(said).unwrap_or_default());
}

/// Whether a process runs: a zombie does not, though its parent may be long in asking for it.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Whether something lies below the loop device.
#[must_use]
pub fn is_configured(device: &str) -> bool {
    let name = device.trim_start_matches("/dev/");
    Path::new("/sys/block").join(name).join("loop/backing_file").exists()
}

/// Whether the kernel knows a file system; says so when not.
#[must_use]
pub fn can_mount(kind: &str) -> bool {
    let known = || {
        let list = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        list.lines().any(|line| line.split_whitespace().last() == Some(kind))
    };
    let load = || Command::new("/sbin/modprobe").args(["-q", kind]).status();
    let known = known() || (load().is_ok() && known());
    if !known {
        crate::skip(&test_name(), &format!("this kernel has no {kind}"));
    }
    known
}
