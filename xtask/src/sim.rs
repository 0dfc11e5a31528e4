//! `cargo xtask sim`, `planted`, `mutate`: the simulator, and the proof that it finds what is
//! there to find.

use anyhow::{Result, bail};

use crate::sh;

/// A short run for CI, when the caller names none.
const PROFILES: &str = "swarm,crash,fault,layers,operations,exchange,merge,down,race,split";
const SHORT: &[&str] = &["--seconds", "120", "--profile", PROFILES];

/// Processor seconds until a planted bug must be found.
const BUDGET: &[&str] = &["--seconds", "300"];

/// Where syncs are made, and which lines make one.
const SOURCES: [&str; 2] = ["crates/ploop-engine/src", "crates/ploop-image/src"];
const SYNCS: [&str; 5] =
    [".sync()", ".sync_dir(", "OpKind::Datasync", "OpKind::Sync", "OpKind::WriteDsync"];

pub fn run(args: &[String]) -> Result<()> {
    start(&[], args, SHORT)
}

/// Hunts the planted bugs; fails when one is not found.
pub fn planted(args: &[String]) -> Result<()> {
    start(&["planted"], args, BUDGET)
}

/// Drops every sync, and swaps its neighbours; fails when one is not noticed. First: does every
/// sync of the sources have a mutation?
pub fn mutate(args: &[String]) -> Result<()> {
    let bare = bare_syncs()?;
    if !bare.is_empty() {
        bail!("syncs without a mutation in crates/ploop-io/src/planted.rs:\n{}", bare.join("\n"));
    }
    start(&["mutate"], args, BUDGET)
}

fn start(task: &[&str], args: &[String], default: &[&str]) -> Result<()> {
    let mut command = sh::cargo();
    command.args(["run", "--quiet", "--profile", "sim", "--package", "ploop-sim"]);
    command.args(["--features", "planted", "--"]).args(task);
    if args.is_empty() {
        command.args(default);
    }
    sh::run(command.args(args))
}

/// Lines that sync, with no drop of it named within two lines before.
fn bare_syncs() -> Result<Vec<String>> {
    let mut bare = Vec::new();
    let mut folders: Vec<_> = SOURCES.iter().map(std::path::PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path)?;
                let found = bare_lines(&text);
                bare.extend(found.iter().map(|line| format!("{}:{line}", path.display())));
            }
        }
    }
    Ok(bare)
}

fn bare_lines(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let bare = |n: &usize| {
        let near = lines[n.saturating_sub(2)..=*n].join("\n");
        let syncs = SYNCS.iter().any(|sync| code(lines[*n]).contains(sync));
        syncs && !near.contains("Bug::No")
    };
    (0..lines.len()).filter(bare).map(|n| n + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_without_a_mutation_is_found() {
        let text = "synced(Bug::NoSyncX, || file.sync())?;\n// .sync()\n\nfile.sync()?;\n";
        assert_eq!(bare_lines(text), [4]);
    }
}
