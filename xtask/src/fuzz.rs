//! `cargo xtask fuzz`: every target of `fuzz/` for its share of the time.

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::{setup, sh};

const SECONDS: u64 = 240;

pub fn run(args: &[String]) -> Result<()> {
    let seconds = match args.first() {
        Some(text) => text.parse().with_context(|| format!("`{text}` is no number of seconds"))?,
        None => SECONDS,
    };
    setup::ci()?;
    let targets = targets(Path::new("fuzz/fuzz_targets"))?;
    ensure!(!targets.is_empty(), "fuzz/fuzz_targets has no target");
    sh::run(fuzz("build").args(["--sanitizer", "none"]))?;
    let share = (seconds / targets.len() as u64).max(1);
    for target in &targets {
        sh::say(&format!("fuzz: {target} for {share} s"));
        one(target, share)?;
    }
    sh::say(&format!("fuzz: {} targets, nothing found", targets.len()));
    Ok(())
}

/// New inputs go to the target's corpus under `fuzz/corpus` (not in git); what is in git under
/// `fuzz/seeds` is read beside it.
fn one(target: &str, seconds: u64) -> Result<()> {
    let corpus = format!("fuzz/corpus/{target}");
    fs::create_dir_all(&corpus)?;
    let mut command = fuzz("run");
    command.args(["--sanitizer", "none", target, &corpus]);
    let seeds = format!("fuzz/seeds/{target}");
    if Path::new(&seeds).is_dir() {
        command.arg(seeds);
    }
    let limit = format!("-max_total_time={seconds}");
    // libFuzzer talks on stderr whatever happens; only a failure shows all of it.
    let output = sh::output(command.args(["--", &limit, "-rss_limit_mb=2048", "-timeout=10"]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("target {target}: {}; input in fuzz/artifacts/{target}\n{said}", output.status);
    }
    let done = said.lines().rfind(|line| line.starts_with("Done ")).unwrap_or("Done");
    sh::say(&format!("  {done}"));
    Ok(())
}

/// cargo-fuzz passes flags of the nightly compiler; this lets the stable one take them.
fn fuzz(verb: &str) -> std::process::Command {
    let mut command = sh::cargo();
    command.args(["fuzz", verb]).env("RUSTC_BOOTSTRAP", "1");
    if let Some(home) = env::var_os("CARGO_HOME") {
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs = env::split_paths(&path).chain([Path::new(&home).join("bin")]);
        command.env("PATH", env::join_paths(dirs).unwrap_or(path));
    }
    command
}

fn targets(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}
