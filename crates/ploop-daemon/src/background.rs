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
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

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

/// The child's side: reads its specification, serves until it is stopped, returns the exit code.
#[must_use]
pub fn run() -> u8 {
    // The tool's terminal must not stop or end this process.
    let _ = rustix::process::setsid();
    match read_spec().and_then(|spec| crate::runtime::serve(&spec, &mut up)) {
        Ok(()) => 0,
        Err(failure) => {
            tracing::error!(code = failure.code.number(), "{failure}");
            // Nobody reads this when the server had been ready: stdout is /dev/null then.
            let _ = report(&Report::Failed(failure.to_wire()));
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

/// Called when every export answers. When the tool is gone by now, nobody will ever stop this
/// server: an error, which stops it.
fn up(entry: &Entry, log: &Path) -> Result<()> {
    report(&Report::Up(Box::new(entry.clone()))).or_fail(Code::System, "the tool is gone")?;
    let detach = || -> io::Result<()> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let log = File::options().create(true).append(true).open(log)?;
        rustix::stdio::dup2_stdin(null.as_fd())?;
        rustix::stdio::dup2_stdout(null.as_fd())?;
        rustix::stdio::dup2_stderr(log.as_fd())?;
        std::env::set_current_dir("/")
    };
    detach().or_fail(Code::System, "cannot leave the terminal")
}

fn report(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}
