//! `cargo xtask hosts [WORD...]`: the table of `docs/hosts.md`, as root; all of it takes about a
//! quarter of an hour. A word chooses cells by their names, `xfs-inodes-loop` or a part of that.

use anyhow::Result;

use crate::sh;

pub fn run(words: &[String]) -> Result<()> {
    let mut build = sh::cargo();
    sh::run(build.args(["build", "--quiet", "--package", "ploop-cli"]))?;
    let mut command = sh::cargo();
    command.args(["test", "--quiet", "--package", "ploop-e2e", "--test", "hosts", "--"]);
    command.args(["--nocapture", "nothing_hangs"]);
    let cells = if words.is_empty() { "all".to_owned() } else { words.join(",") };
    sh::run(command.env("PLOOP_HOSTS", cells))
}
