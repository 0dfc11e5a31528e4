//! A server in a process of its own, which outlives the tool that started it.
//!
//! The tool runs itself again with a hidden verb (no fork of a threaded process). The child gets
//! its [`ServeSpec`] as JSON on stdin and reports on stdout, one JSON object a line, until it is
//! ready or has failed; then it lets go of the tool's terminal.

use crate::failure::{OrFail, WireFailure};
use crate::registry::Entry;
use crate::runtime::ServeSpec;
use crate::{Code, Failure, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The hidden verb of the tool that calls [`run`].
pub const VERB: &str = "serve-in-background";
/// Longest specification taken on stdin.
const MAX_SPEC: u64 = 1 << 20;

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    /// Every export answers.
    Up(Box<Entry>),
    /// It came to nothing.
    Failed(WireFailure),
}

/// A server started by [`start`].
#[derive(Debug)]
pub struct Background {
    /// Its entry in the registry when it was ready.
    pub entry: Entry,
    child: Child,
}

impl Background {
    /// Waits until the server's process is gone.
    ///
    /// # Errors
    /// It ended with another exit code than 0.
    pub fn wait(mut self) -> Result<()> {
        let status = self.child.wait().or_fail(Code::System, "waiting for the server")?;
        if status.success() {
            return Ok(());
        }
        let code = status.code().and_then(|code| u64::try_from(code).ok());
        let code = code.and_then(Code::from_number).unwrap_or(Code::Internal);
        Err(Failure::new(code, format!("the server of {} ended: {status}", self.entry.id)))
    }
}

/// Starts a server and waits until it is ready.
///
/// # Errors
/// The server's own, or it died without a word.
pub fn start(spec: &ServeSpec, options: &[String]) -> Result<Background> {
    let me = std::env::current_exe().or_fail(Code::System, "cannot find the own program")?;
    let mut child = Command::new(me)
        .args(options)
        .arg(VERB)
        // A service manager waits for the process it started.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .or_fail(Code::System, "cannot start the server process")?;
    let text = serde_json::to_vec(spec).or_fail(Code::Internal, "the specification as JSON")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that died early says why on its stdout.
        let _ = stdin.write_all(&text);
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let read = BufReader::new(stdout).read_line(&mut line);
        read.or_fail(Code::Read, "reading the server's report")?;
    }
    match serde_json::from_str(&line) {
        Ok(Report::Up(entry)) => Ok(Background { entry: *entry, child }),
        Ok(Report::Failed(failure)) => {
            let _ = child.wait();
            Err(failure.into())
        }
        Err(_) => {
            let status = child.wait().or_fail(Code::System, "waiting for the server")?;
            let message = format!("the server process ended before it was ready: {status}");
            Err(Failure::new(Code::Internal, message))
        }
    }
}

/// What the child keeps of its parent's until it is ready.
static PARENT: Mutex<Option<Parent>> = Mutex::new(None);

struct Parent {
    /// Where reports go.
    stdout: File,
    /// Where the log goes.
    stderr: File,
}

/// Where log lines go: to stderr, or, in a server that is not ready yet, to its parent's.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match parent().as_mut() {
            Some(parent) => parent.stderr.write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn parent() -> MutexGuard<'static, Option<Parent>> {
    PARENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The child's side: reads its specification, serves until it is stopped, returns the exit code.
#[must_use]
pub fn run() -> u8 {
    let served = read_spec().and_then(|spec| {
        leave_terminal().or_fail(Code::System, "cannot leave the terminal")?;
        crate::runtime::serve(&spec, &mut up)
    });
    match served {
        Ok(()) => 0,
        Err(failure) => {
            let parent = parent().take();
            match parent {
                Some(mut parent) => {
                    // Its own message when it is gone.
                    let _ = report(&mut parent.stdout, &Report::Failed(failure.to_wire()));
                }
                None => tracing::error!(code = failure.code.number(), "{failure}"),
            }
            failure.code.number()
        }
    }
}

fn read_spec() -> Result<ServeSpec> {
    let mut text = Vec::new();
    let read = io::stdin().take(MAX_SPEC).read_to_end(&mut text);
    read.or_fail(Code::Read, "cannot read the specification from stdin")?;
    serde_json::from_slice(&text).or_fail(Code::Parameter, "not a specification on stdin")
}

/// Nothing of the parent's may stay open in a process that outlives it: somebody may wait for the
/// end of a pipe. The two descriptors that are needed until the server is ready get high numbers,
/// which a thread with a descriptor table of its own does not keep; all others go.
fn leave_terminal() -> io::Result<()> {
    rustix::process::setsid().or_else(|error| match error {
        rustix::io::Errno::PERM => rustix::process::getsid(None),
        other => Err(other),
    })?;
    // SAFETY: called before anything was opened: whatever is there is the parent's.
    let closed =
        unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, 0) };
    if closed != 0 {
        return Err(io::Error::last_os_error());
    }
    let keep = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).map(File::from);
    let stdout = keep(rustix::stdio::stdout())?;
    let stderr = keep(rustix::stdio::stderr())?;
    *parent() = Some(Parent { stdout, stderr });
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    rustix::stdio::dup2_stderr(null.as_fd())?;
    Ok(())
}

/// Called when every export answers. When the tool is gone by now, nobody will ever stop this
/// server: an error, which stops it.
fn up(entry: &Entry, log: &Path) -> Result<()> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.or_fail(Code::Open, log.display().to_string())?;
    rustix::stdio::dup2_stderr(file.as_fd()).or_fail(Code::System, "the log as stderr")?;
    std::env::set_current_dir("/").or_fail(Code::System, "cannot change to /")?;
    let Some(mut parent) = parent().take() else { return Ok(()) };
    let told = report(&mut parent.stdout, &Report::Up(Box::new(entry.clone())));
    told.or_fail(Code::System, "the tool is gone")
}

fn report(stdout: &mut File, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    stdout.write_all(&line)
}
