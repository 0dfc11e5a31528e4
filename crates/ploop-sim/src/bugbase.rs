//! Failing seeds, kept as text: every one is replayed for ever.
//!
//! ```text
//! # what it was, and what became of it
//! profile swarm
//! seed 17
//! requests 4
//! ...
//! ```
//! A line `bug NAME` plants that bug: then the run must fail.

use crate::profile::Profile;
use std::fmt::Write;

/// One kept run.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The seed.
    pub seed: u64,
    /// What it runs.
    pub profile: Profile,
    /// The name of the bug that is planted.
    pub bug: Option<String>,
}

/// Reads an entry.
///
/// # Errors
/// A line that says nothing known.
pub fn parse(text: &str) -> Result<Entry, String> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let pairs: Vec<(&str, &str)> = lines
        .map(|line| line.split_once(' ').ok_or_else(|| format!("no value in {line:?}")))
        .collect::<Result<_, _>>()?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("no number: {text:?}"));
    let value = |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let seed = number(value("seed").ok_or("no seed")?)?;
    let name = value("profile").unwrap_or("swarm");
    let mut profile = Profile::named(name, seed).ok_or_else(|| format!("no profile {name:?}"))?;
    // An entry that is older than these has them not.
    for newer in ["quota", "too_big", "stuck"] {
        profile.set(newer, 0);
    }
    for (key, value) in &pairs {
        if !matches!(*key, "seed" | "profile" | "bug") && !profile.set(key, number(value)?) {
            return Err(format!("no field {key:?}"));
        }
    }
    Ok(Entry { seed, profile, bug: value("bug").map(str::to_owned) })
}

/// The text of an entry: the whole profile, so that it stays what it is when its name comes to mean
/// another mix.
#[must_use]
pub fn text(what: &str, name: &str, seed: u64, profile: &Profile) -> String {
    let mut out = String::new();
    for line in what.lines() {
        let _ = writeln!(out, "# {line}");
    }
    let _ = writeln!(out, "profile {name}\nseed {seed}");
    for (field, value) in profile.fields() {
        let _ = writeln!(out, "{field} {value}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for seed in 0..40 {
            // Written under a name that means something else.
            let profile = Profile::swarm(seed);
            let entry = parse(&text("a\nb", "chain", seed, &profile)).unwrap();
            assert_eq!(entry.seed, seed);
            let kept = Profile { name: profile.name.clone(), ..entry.profile };
            assert_eq!(format!("{kept:?}"), format!("{profile:?}"));
        }
        assert!(parse("seed 7\nwhatever 3").is_err());
        assert!(parse("requests 7").is_err());
    }
}
