//! `cargo xtask sim`: the simulator, which crashes the real engine over a simulated disk.

use anyhow::Result;

use crate::sh;

/// A short run for CI, when the caller names none.
const SHORT: &[&str] = &["--seconds", "120"];

pub fn run(args: &[String]) -> Result<()> {
    let mut command = sh::cargo();
    command.args(["run", "--quiet", "--release", "--package", "ploop-sim", "--"]);
    if args.is_empty() {
        command.args(SHORT);
    }
    sh::run(command.args(args))
}
