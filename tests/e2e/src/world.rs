//! A test's own corner: a directory, a registry, and everything the test started.
//!
//! The directory has the test's name, so that the next run finds what a killed run left behind:
//! processes (each carries `MARK` in its environment), mounts, loop devices, files.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use std::{env, io, thread};

/// The environment variable by which processes of a test are known; its value is the directory.
const MARK: &str = "PLOOP_E2E_WORLD";
/// Set to keep the directories of tests that end.
const KEEP: &str = "PLOOP_E2E_KEEP";
/// How long a server may take to answer or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// One test's directory and programs. Dropping it ends, unmounts and removes all of them.
#[derive(Debug)]
pub struct World {
    dir: PathBuf,
    _lock: File,
}

impl World {
    /// The corner of the test `name`, emptied. Waits while another process runs the same test.
    ///
    /// # Errors
    /// The directory cannot be made or locked.
    pub fn new(name: &str) -> io::Result<Self> {
        let top = env::temp_dir().join("ploop-e2e");
        fs::create_dir_all(&top)?;
        let lock = File::create(top.join(format!("{name}.lock")))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            lock.lock()?;
        }
        let world = Self { dir: top.join(name), _lock: lock };
        world.sweep();
        fs::create_dir(&world.dir)?;
        Ok(world)
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A path in the directory, as text.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Makes a directory for a disk; returns the path of its image.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn disk(&self, name: &str) -> io::Result<String> {
        fs::create_dir(self.path(name))?;
        Ok(self.text(&format!("{name}/root.hds")))
    }

    /// Any program, in the directory and marked as ours.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = env::var("PATH").unwrap_or_default();
        command
            .env(MARK, &self.dir)
            .env("PLOOP_RUN_DIR", self.path("run"))
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .stdin(Stdio::null())
            .current_dir(&self.dir);
        command
    }

    /// `ploop` with these arguments. Panics when it was not built.
    #[must_use]
    #[allow(clippy::panic, reason = "a helper of tests")]
    pub fn ploop_command(&self, args: &[&str]) -> Command {
        let Some(path) = crate::ploop_path() else {
            panic!("no ploop binary: set {}, or `cargo build -p ploop-cli`", crate::bin::BIN)
        };
        let mut command = self.command(&path.display().to_string());
        command.args(args);
        command
    }

    /// Runs `ploop`; whatever it says, it must not panic.
    #[allow(clippy::panic, reason = "a helper of tests")]
    pub fn ploop(&self, args: &[&str]) -> Said {
        let said = Said::of("ploop", args, self.ploop_command(args).output());
        assert!(!said.err.contains("panicked"), "{said:?}");
        said
    }

    /// Runs `ploop` and wants exit code 0.
    pub fn ploop_ok(&self, args: &[&str]) -> Said {
        let said = self.ploop(args);
        assert_eq!(said.code, 0, "{said:?}");
        said
    }

    /// Runs another program.
    pub fn run(&self, program: &str, args: &[&str]) -> Said {
        Said::of(program, args, self.command(program).args(args).output())
    }

    /// Runs another program and wants exit code 0. Returns its stdout.
    pub fn ok(&self, program: &str, args: &[&str]) -> String {
        let said = self.run(program, args);
        assert_eq!(said.code, 0, "{said:?}");
        said.out
    }

    /// Starts `ploop serve` with these arguments and waits for that many ready lines.
    #[allow(clippy::panic, reason = "a helper of tests")]
    pub fn serve(&self, args: &[&str], ready: usize) -> Server {
        self.serve_command(self.ploop_command(&[&["serve"], args].concat()), ready)
    }

    /// The same with a command made elsewhere.
    #[allow(clippy::panic, reason = "a helper of tests")]
    pub fn serve_command(&self, command: Command, ready: usize) -> Server {
        match self.try_serve(command, ready) {
            Ok(server) => server,
            Err(error) => panic!("ploop serve: {error}"),
        }
    }

    fn try_serve(&self, mut command: Command, ready: usize) -> io::Result<Server> {
        let log = (0..).map(|n| self.path(&format!("serve-{n}.err"))).find(|path| !path.exists());
        let log = log.ok_or_else(|| io::Error::other("no name for a log"))?;
        let child = command.stdout(Stdio::piped()).stderr(File::create(&log)?).spawn()?;
        let (sender, lines) = channel();
        let mut server = Server { child, lines, ready: Vec::new(), log };
        let stdout = server.child.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.for_each(|line| drop(sender.send(line)));
        });
        for _ in 0..ready {
            let line = server.lines.recv_timeout(PATIENCE);
            let line = line.map_err(|_| io::Error::other(format!("not ready:\n{}", server.said())));
            server.ready.push(line?);
        }
        Ok(server)
    }

    /// Ends, unmounts, detaches and removes whatever belongs to the directory. Says nothing: most
    /// of it is not there most of the time.
    fn sweep(&self) {
        for _ in 0..3 {
            self.unmount_all();
            self.detach_all();
            for pid in self.processes() {
                let _ = quiet("kill", &["-KILL", &pid]);
                wait_until(Duration::from_secs(5), || !Path::new("/proc").join(&pid).exists());
            }
            self.abort_fuse();
            self.unmount_all();
            if self.mounts().is_empty() && self.loops().is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        // A mount that stayed must not be emptied.
        if self.mounts().is_empty() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    /// Living processes that carry our mark; a zombie has no environment any more.
    fn processes(&self) -> Vec<String> {
        let mark = format!("{MARK}={}", self.dir.display());
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
            .filter(|pid| {
                let text = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                text.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
            })
            .collect()
    }

    /// Mount points below the directory, and those of our loop devices, last mounted first.
    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let loops = self.loops();
        let ours = |line: &&str| {
            let mut words = line.split(' ');
            let (device, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            Path::new(target).starts_with(&self.dir) || loops.iter().any(|l| device.starts_with(l))
        };
        let lines = table.lines().filter(ours).filter_map(|line| line.split(' ').nth(1));
        let mut targets: Vec<_> = lines.map(str::to_owned).collect();
        targets.reverse();
        targets
    }

    /// Loop devices over files of the directory.
    fn loops(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let ours = |name: &String| {
            let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
            file.is_ok_and(|file| file.starts_with(&format!("{}/", self.dir.display())))
        };
        names.filter(ours).map(|name| format!("/dev/{name}")).collect()
    }

    /// Ends the FUSE connections of servers that cannot even be killed, as they wait for their own
    /// file.
    fn abort_fuse(&self) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let numbers: Vec<_> = table
            .lines()
            .filter_map(|line| {
                let words: Vec<_> = line.split(' ').collect();
                let ours =
                    line.contains(" - fuse.ploop ") && Path::new(words[4]).starts_with(&self.dir);
                ours.then(|| words[2].trim_start_matches("0:").to_owned())
            })
            .collect();
        let control = self.path("fusectl");
        let Some(at) = control.to_str().filter(|_| !numbers.is_empty()) else { return };
        let _ = fs::create_dir(&control);
        if quiet("mount", &["-t", "fusectl", "none", at]) {
            for number in numbers {
                let _ = fs::write(control.join(number).join("abort"), "1");
            }
            let _ = quiet("umount", &[at]);
        }
    }

    fn unmount_all(&self) {
        for target in self.mounts() {
            if !quiet("timeout", &["-k", "1", "20", "umount", &target]) {
                // Behind a lazy unmount nobody finds the connection any more.
                self.abort_fuse();
                let _ = quiet("umount", &["--lazy", &target]);
            }
        }
    }

    /// Asks our background servers to go, then takes away loop devices nobody serves.
    fn detach_all(&self) {
        for entry in fs::read_dir(self.path("run")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let (Some(device), Some(_)) = (json["device"].as_str(), crate::ploop_path()) else {
                continue;
            };
            // A server that hangs is killed later.
            let path = crate::ploop_path().unwrap_or_default().display().to_string();
            let mut detach = self.command("timeout");
            let _ = detach.args(["-k", "1", "20", &path, "detach", "--force", device]).output();
        }
        for device in self.loops() {
            let _ = quiet("losetup", &["-d", &device]);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if env::var_os(KEEP).is_none() {
            self.sweep();
        }
    }
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The exit code, -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// What a command said. Panics when it could not be started.
    #[must_use]
    #[allow(clippy::panic, reason = "a helper of tests")]
    pub fn of(program: &str, args: &[&str], output: io::Result<Output>) -> Self {
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        Self {
            args: [&[program], args].concat().into_iter().map(str::to_owned).collect(),
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output as JSON.
    #[must_use]
    #[allow(clippy::panic, reason = "a helper of tests")]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A running `ploop serve`. Dropping it kills it; what it said is shown when the test fails.
#[derive(Debug)]
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
    /// The ready lines.
    pub ready: Vec<String>,
}

impl Server {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said on stderr so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal, `-TERM` say.
    pub fn signal(&self, name: &str) {
        assert!(quiet("kill", &[name, &self.pid().to_string()]), "kill {name}");
    }

    /// The exit code after a signal, -1 when the signal ended it.
    #[must_use]
    pub fn end(self, signal: &str) -> i32 {
        self.signal(signal);
        self.wait()
    }

    /// The exit code, once it ends by itself.
    #[must_use]
    #[allow(clippy::panic, reason = "a helper of tests")]
    pub fn wait(mut self) -> i32 {
        let mut code = None;
        wait_until(PATIENCE, || {
            code = self.child.try_wait().ok().flatten();
            code.is_some()
        });
        let said = self.said();
        assert!(!said.contains("panicked"), "{said}");
        let Some(code) = code else { panic!("the server does not stop: {said}") };
        code.code().unwrap_or(-1)
    }
}

impl Drop for Server {
    #[allow(clippy::print_stderr, reason = "a helper of tests")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let said = self.said();
        if thread::panicking() && !said.is_empty() {
            eprintln!("the server said:\n{said}");
        }
    }
}

/// Asks until the answer is yes or the time is over; returns the last answer.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn quiet(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether all these programs are installed; says which is not.
#[must_use]
pub fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let find = format!("PATH=$PATH:/usr/sbin:/sbin command -v {program}");
        !quiet("sh", &["-c", &find])
    });
    if let Some(program) = missing {
        crate::skip(&test_name(), &format!("{program} is not installed"));
    }
    missing.is_none()
}

/// Whether block devices can be made here; says so when not.
#[must_use]
pub fn can_attach() -> bool {
    let root = rustix::process::geteuid().is_root();
    let there = ["/dev/fuse", "/dev/loop-control"].iter().all(|path| Path::new(path).exists());
    if !(root && there) {
        crate::skip(&test_name(), "needs root, /dev/fuse and /dev/loop-control");
    }
    root && there
}

/// The test harness names its threads after the tests.
#[must_use]
pub fn test_name() -> String {
    thread::current().name().unwrap_or("main").to_owned()
}
