//! What a way to reach a disk needs of this host and of this user: looked at before anything is
//! made, so that who lacks it hears of it in one sentence.

use super::session::Session;
use super::spec::{Export, ServeSpec};
use crate::{Code, Failure, Result};
use std::fs::File;
use std::io::ErrorKind;

/// The kind of a failure for want of means.
pub const UNAVAILABLE: &str = "unavailable";

/// A file over FUSE, and a loop device on it if there is to be one.
///
/// # Errors
/// The host has none, or not for this user.
pub fn of_a_file(with_loop: bool) -> Result<()> {
    // First the one that takes more rights.
    if with_loop {
        open("/dev/loop-control", Code::Device, "a loop device", "loop")?;
    }
    open("/dev/fuse", Code::Mount, "a file over FUSE", "fuse")
}

fn open(path: &str, code: Code, what: &str, module: &str) -> Result<()> {
    let error = match File::options().read(true).write(true).open(path) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let (why, hint) = match error.kind() {
        ErrorKind::PermissionDenied => ("this user may not open it".to_owned(), RIGHTS.to_owned()),
        ErrorKind::NotFound => {
            ("it is not there".to_owned(), format!("modprobe {module}; {WITHOUT}"))
        }
        _ => (error.to_string(), format!("modprobe {module}; {WITHOUT}")),
    };
    let failure = Failure::new(code, format!("{what} needs {path}: {why}"));
    Err(failure.kind(UNAVAILABLE).hint(hint))
}

const RIGHTS: &str = "run it as root; `ploop serve DISK --nbd unix:PATH` needs no rights";
const WITHOUT: &str = "`ploop serve DISK --nbd unix:PATH` needs no device";

/// What to do where one kind of block device cannot be had.
#[must_use]
pub fn another_device() -> &'static str {
    match rustix::process::geteuid().is_root() {
        true => "--via loop works with FUSE and loop devices",
        false => RIGHTS,
    }
}

/// Says what a server goes without, once, when that matters to those who use the disk.
pub(super) fn tell(spec: &ServeSpec, session: &Session, memory: Option<String>) {
    // Only pages that this host's kernel holds for the disk can wait for its server.
    let cached = |export: &Export| !matches!(export, Export::Nbd { .. } | Export::VhostUser { .. });
    let stalls = !spec.read_only && spec.exports.iter().any(cached);
    let lacks = session.lacks().map(str::to_owned);
    let all: Vec<String> = lacks.into_iter().chain(memory.filter(|_| stalls)).collect();
    if all.is_empty() {
        return;
    }
    let all = all.join("; ");
    match spec.for_a_moment {
        true => tracing::info!("{all}"),
        false => tracing::warn!("{all}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{UNAVAILABLE, open};
    use crate::Code;

    #[test]
    fn what_is_missing_is_named_with_a_way_out() {
        let missing = open("/dev/no-such-device", Code::Device, "a thing", "thing").unwrap_err();
        assert_eq!(missing.message, "a thing needs /dev/no-such-device: it is not there");
        assert_eq!((&*missing.kind, missing.code), (UNAVAILABLE, Code::Device));
        assert!(missing.hint.unwrap().starts_with("modprobe thing; "));
        assert!(open("/dev/null", Code::Device, "a thing", "thing").is_ok());
    }
}
