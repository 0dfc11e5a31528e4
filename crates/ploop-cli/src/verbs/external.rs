//! Verbs that are not ours: not built yet (T18), or `ploop-VERB` in PATH as the original.

use crate::args::NOT_YET;
use ploop_daemon::{Code, Failure};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs `ploop-VERB`; returns only when that failed.
pub fn run(words: &[OsString]) -> Failure {
    let Some((verb, rest)) = words.split_first() else {
        return Failure::new(Code::Parameter, "no verb");
    };
    let name = verb.to_string_lossy();
    if NOT_YET.contains(&&*name) {
        return Failure::new(Code::Parameter, format!("`{name}` is not available in this version"))
            .kind("not_available");
    }
    // A verb with a slash would run a program of the current directory.
    if name.contains('/') {
        return crate::unknown(&name);
    }
    let mut program = OsString::from("ploop-");
    program.push(verb);
    let error = Command::new(&program).args(rest).exec();
    if error.kind() == std::io::ErrorKind::NotFound {
        crate::unknown(&name)
    } else {
        Failure::io(Code::Parameter, format!("cannot run ploop-{name}"), &error)
    }
}
