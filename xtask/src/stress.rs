//! `cargo xtask stress [SECONDS]`: many clients on many queues work on the same clusters.

use anyhow::{Context, Result};

use crate::sh;

const SECONDS: u64 = 180;

pub fn run(args: &[String]) -> Result<()> {
    let seconds = match args {
        [] => SECONDS,
        [text, ..] => text.parse().with_context(|| format!("{text} is no number of seconds"))?,
    };
    let mut command = sh::cargo();
    command.args(["test", "--quiet", "--release", "--package", "ploop-engine"]);
    command.args(["--test", "stress", "--", "--nocapture"]);
    sh::run(command.env("PLOOP_STRESS_SECONDS", seconds.to_string()))
}
