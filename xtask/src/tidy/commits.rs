//! Titles of commits: `part: what it does`, short enough for every list of them.

use anyhow::Result;
use std::path::Path;

use super::Finding;
use crate::sh;

const COLUMNS: usize = 72;
/// Commits before this one were made before the rule was checked.
const SINCE: &str = "2026-12-01T16:30:00Z";

pub fn check() -> Result<Vec<Finding>> {
    let args = ["log", "--no-merges", "--format=%h %s", "--since", SINCE];
    let listing = sh::text(sh::program("git").args(args))?;
    Ok(listing.lines().filter_map(fault).collect())
}

fn fault(line: &str) -> Option<Finding> {
    let (commit, title) = line.split_once(' ')?;
    let say = |what: String| Some(Finding::new(Path::new(commit), 0, what));
    let columns = title.chars().count();
    if columns > COLUMNS {
        return say(format!("the title has {columns} columns, the limit is {COLUMNS}"));
    }
    match title.split_once(": ") {
        Some((part, what)) if !part.is_empty() && !what.is_empty() => None,
        _ => say(format!("the title does not begin with the part that changes: {title}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Option<String> {
        fault(line).map(|finding| finding.to_string())
    }

    #[test]
    fn a_title_names_its_part_and_is_short() {
        assert_eq!(said("abc engine: write-back: wait for the page generation on FUA"), None);
        let long = format!("abc engine: {}", "x".repeat(65));
        let limit = "abc:0: the title has 73 columns, the limit is 72";
        assert_eq!(said(&long).as_deref(), Some(limit));
        assert!(said("abc Mend things").unwrap().contains("does not begin"));
    }
}
