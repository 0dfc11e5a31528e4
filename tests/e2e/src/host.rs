//! A host that is short of something: space, memory, or `io_uring`.

use crate::World;
use crate::world::{test_name, wait_until};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What a small file system is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Small {
    /// ext4 on a loop device.
    Ext4,
    /// The same on one with sectors of 4096 bytes.
    Ext4k,
    /// XFS with shared blocks.
    Xfs,
    /// Btrfs, which never writes in place. At least 110 MiB.
    Btrfs,
    /// Memory.
    Tmpfs,
}

impl World {
    /// A file system of that many MiB mounted on the directory `name`; the world unmounts it.
    pub fn small_host(&self, name: &str, kind: Small, mib: u32) -> PathBuf {
        let (dir, text) = (self.path(name), self.text(name));
        let made = fs::create_dir(&dir);
        assert!(made.is_ok(), "{made:?}");
        match kind {
            Small::Tmpfs => {
                let size = format!("size={mib}M");
                self.ok("mount", &["-t", "tmpfs", "-o", &size, "small", &text]);
            }
            Small::Ext4 => {
                let file = self.text(&format!("{name}.fs"));
                self.ok("truncate", &["-s", &format!("{mib}M"), &file]);
                self.ok("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0", &file]);
                self.ok("mount", &["-o", "loop", &file, &text]);
            }
            Small::Ext4k => self.on_loop(&text, "mkfs.ext4", "4096", mib),
            Small::Xfs => self.on_loop(&text, "mkfs.xfs", "512", mib),
            Small::Btrfs => self.on_loop(&text, "mkfs.btrfs", "512", mib),
        }
        dir
    }

    /// A file system on a loop device with such sectors; the device goes with the mount.
    fn on_loop(&self, dir: &str, mkfs: &str, sector: &str, mib: u32) {
        let file = format!("{dir}.fs");
        self.ok("truncate", &["-s", &format!("{mib}M"), &file]);
        let device = self.ok("losetup", &["-f", "--show", "-b", sector, &file]);
        let device = device.trim();
        let mounted = self.run(mkfs, &["-q", device]).code == 0
            && self.run("mount", &[device, dir]).code == 0;
        self.ok("losetup", &["-d", device]);
        assert!(mounted, "{mkfs} and mount on {device}");
    }

    /// A method of the control socket of the only server of this world.
    ///
    /// # Errors
    /// No server, or it does not answer.
    pub fn control(&self, method: &str) -> io::Result<serde_json::Value> {
        self.control_client()?.call(method)
    }

    /// A connection to the control socket that stays open; a pause ends with it.
    ///
    /// # Errors
    /// No server has a socket here.
    pub fn control_client(&self) -> io::Result<ControlClient> {
        let sockets = fs::read_dir(self.path("run"))?.flatten().map(|entry| entry.path());
        let socket = sockets.into_iter().find(|path| path.extension().is_some_and(|e| e == "sock"));
        let socket = socket.ok_or_else(|| io::Error::other("no control socket"))?;
        let stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(ControlClient(io::BufReader::new(stream)))
    }

    /// One counter of the server.
    #[must_use]
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.control("Stat").ok()?["counters"][name].as_u64()
    }
}

/// One client of a control socket.
pub struct ControlClient(io::BufReader<std::os::unix::net::UnixStream>);

impl ControlClient {
    /// Calls a method without parameters; what it answers.
    ///
    /// # Errors
    /// The connection broke, or the answer is not JSON.
    pub fn call(&mut self, method: &str) -> io::Result<serde_json::Value> {
        use std::io::{BufRead, Write};
        let message = format!("{{\"method\":\"org.ploop.Disk.{method}\"}}\0");
        self.0.get_mut().write_all(message.as_bytes())?;
        let mut reply = Vec::new();
        self.0.read_until(0, &mut reply)?;
        reply.pop();
        let reply: serde_json::Value = serde_json::from_slice(&reply)?;
        Ok(reply["parameters"].clone())
    }
}

/// Makes `io_uring_setup` fail with EPERM in the command, as a container's filter does.
pub fn forbid_uring(command: &mut Command) {
    // SAFETY: the closure only makes system calls, on memory of its own stack.
    unsafe { command.pre_exec(filter_uring) };
}

fn filter_uring() -> io::Result<()> {
    const SETUP: u32 = 425; // the same number on every architecture
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let ret = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(load, 0, 0, 0), // the number of the call
        step(jump, 0, 1, SETUP),
        step(ret, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        step(ret, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: plain calls; the kernel copies the program, which outlives the call.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A control group with a limit of memory; removed when dropped, its processes ended before.
#[derive(Debug)]
pub struct MemoryGroup {
    dir: PathBuf,
}

impl MemoryGroup {
    /// The group `name` with at most `bytes`. `None`: not possible here, which is said.
    #[must_use]
    pub fn new(name: &str, bytes: u64) -> Option<Self> {
        let group = Self::make(name, bytes);
        if let Err(error) = &group {
            crate::skip(&test_name(), &format!("no control group for memory: {error}"));
        }
        group.ok()
    }

    fn make(name: &str, bytes: u64) -> io::Result<Self> {
        let (v2, v1) = (Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/memory"));
        let own = format!("ploop-e2e-{name}");
        let (dir, limit) = if v1.join("memory.limit_in_bytes").exists() {
            (v1.join(own), "memory.limit_in_bytes")
        } else {
            fs::write(v2.join("cgroup.subtree_control"), "+memory")?;
            (v2.join(own), "memory.max")
        };
        if !dir.exists() {
            fs::create_dir(&dir)?;
        }
        let group = Self { dir };
        fs::write(group.dir.join(limit), bytes.to_string())?;
        Ok(group)
    }

    /// A command that starts `program` in the group; arguments come behind it.
    #[must_use]
    pub fn command(&self, world: &World, program: &str) -> Command {
        let mut command = world.command("sh");
        let procs = self.dir.join("cgroup.procs").display().to_string();
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\"", &procs, program]);
        command
    }

    /// How often the limit was hit.
    #[must_use]
    pub fn hits(&self) -> u64 {
        let v1 = fs::read_to_string(self.dir.join("memory.failcnt"));
        let v2 = || fs::read_to_string(self.dir.join("memory.events"));
        let line = |text: String| {
            let max = text.lines().find(|line| line.starts_with("max ")).map(str::to_owned);
            max.and_then(|line| line[4..].trim().parse().ok())
        };
        v1.ok()
            .and_then(|text| text.trim().parse().ok())
            .or_else(|| v2().ok().and_then(line))
            .unwrap_or(0)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        wait_until(Duration::from_secs(10), || {
            for pid in fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default().lines()
            {
                let _ = Command::new("kill").args(["-KILL", pid]).status();
            }
            fs::remove_dir(&self.dir).is_ok()
        });
    }
}
