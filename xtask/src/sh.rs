//! Running programs and talking to the person who waits.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};

/// Writes a line on stdout, at once.
#[allow(clippy::print_stdout)]
pub fn say(line: &str) {
    println!("{line}");
}

/// Writes a line on stderr.
#[allow(clippy::print_stderr)]
pub fn complain(line: &str) {
    eprintln!("{line}");
}

/// The repository's root.
pub fn root() -> Result<PathBuf> {
    let here = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    Ok(here.parent().context("xtask lies in no directory")?.to_path_buf())
}

/// Where cargo puts what it builds.
pub fn target_dir() -> Result<PathBuf> {
    let dir = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), Into::into);
    std::fs::create_dir_all(&dir)?;
    Ok(dir.canonicalize()?)
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// Where `program` lies: in PATH or in the directories of the system's own tools, which a user's
/// PATH often lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A command for a program found by [`find`].
pub fn program(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| PathBuf::from(name)))
}

/// The command as a person would type it.
pub fn words(command: &Command) -> String {
    let mut text = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args() {
        let _ = write!(text, " {}", arg.to_string_lossy());
    }
    text
}

/// Runs a command that talks for itself; anything but exit code 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{}`", words(command)))?;
    ensure!(status.success(), "`{}` failed: {status}", words(command));
    Ok(())
}

/// Runs a command and keeps what it says.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", words(command)))
}

/// Runs a command that must succeed; its stdout, trimmed. A failure shows what it said.
pub fn text(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        bail!("`{}` failed: {}\n{}", words(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// Like [`text`], but gives up (and kills the program, by its pid) after `limit` or when `stop`
/// says so. A program stuck in the kernel is left behind rather than waited for.
pub fn text_within(command: &mut Command, limit: Duration, stop: &AtomicBool) -> Result<String> {
    let output = within(command, limit, stop)?;
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(
        output.status.success(),
        "`{}` failed: {}\n{}",
        words(command),
        output.status,
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// Runs a command and keeps what it says, unless `limit` passes or `stop` is set.
pub fn within(command: &mut Command, limit: Duration, stop: &AtomicBool) -> Result<Output> {
    ensure!(!stop.load(Ordering::Relaxed), "interrupted");
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", words(command)))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    loop {
        if let Some(status) = child.try_wait()? {
            // A server it left in the background may hold the pipes: what is there must do.
            let wait = Duration::from_secs(1);
            let stdout = stdout.recv_timeout(wait).unwrap_or_default();
            let stderr = stderr.recv_timeout(wait).unwrap_or_default();
            return Ok(Output { status, stdout, stderr });
        }
        let late = start.elapsed() > limit;
        if late || stop.load(Ordering::Relaxed) {
            let _ = child.kill();
            let why = if late { "took too long" } else { "interrupted" };
            bail!("`{}`: {why}, after {} s", words(command), start.elapsed().as_secs());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Reads a pipe to its end on a thread of its own.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = send.send(bytes);
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_show_the_name_not_the_path() {
        assert_eq!(words(Command::new("/usr/bin/env").arg("-x").arg("y z")), "env -x y z");
    }

    #[test]
    fn a_program_that_hangs_is_left() {
        let (stop, start) = (AtomicBool::new(false), Instant::now());
        let limit = Duration::from_millis(100);
        let error = text_within(Command::new("sleep").arg("60"), limit, &stop).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
        stop.store(true, Ordering::Relaxed);
        assert!(within(Command::new("sleep").arg("60"), limit, &stop).is_err());
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn much_output_does_not_block() {
        let stop = AtomicBool::new(false);
        let mut command = Command::new("seq");
        let said = text_within(command.arg("200000"), Duration::from_secs(60), &stop).unwrap();
        assert_eq!(said.lines().count(), 200_000);
    }

    #[test]
    fn a_failure_carries_code_and_words() {
        let error = text(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("why") && error.contains('3'), "{error}");
    }
}
