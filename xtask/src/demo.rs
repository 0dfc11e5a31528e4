//! `cargo xtask demo`: the main job on a real file system, proved step by step.
//!
//! Everything lies in one temporary directory and goes away at the end, on an error and on Ctrl-C.
//!
//! | part | what |
//! |---|---|
//! | `steps` | the steps, in order |
//! | `tree` | a real tree of files, with hashes |
//! | `damage` | damage done on purpose, to a copy |
//! | `timeline` | what a person sees |
//! | `work` | the demo's directory, and everything that is taken down at the end |

mod damage;
mod steps;
mod timeline;
mod tree;
mod work;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::{setup, sh};
use timeline::Timeline;
use work::Work;

/// The `ploop` to show: `$PLOOP_BIN`, else a release build of this tree.
fn tool() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PLOOP_BIN") {
        return Ok(path.into());
    }
    sh::say("building ploop (release)");
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "--package", "ploop-cli"]))?;
    Ok(sh::target_dir()?.join("release/ploop"))
}

pub fn run() -> Result<()> {
    setup::for_demo()?;
    let root = std::fs::metadata("/proc/self")?.uid() == 0;
    ensure!(root, "the demo mounts file systems: run it as root");
    let mut work = Work::new(tool()?)?;
    let mut timeline = Timeline::start();
    let result = steps::all(&mut work, &mut timeline);
    let end = work.clean_up();
    match result {
        Ok(()) => {
            end?;
            timeline.step("clean up", "no mount, loop device, process or file left behind");
            timeline.finish();
            Ok(())
        }
        Err(error) => {
            timeline.step("FAILED", "see the last line");
            match end {
                Ok(()) => timeline.step("clean up", "everything was taken down"),
                Err(end) => timeline.step("clean up", &format!("{end:#}")),
            }
            Err(error)
        }
    }
}
