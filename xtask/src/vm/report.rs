//! What the suite said, as a table and a verdict.

use anyhow::{Result, bail, ensure};

use crate::sh;

/// What became of a step.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Ok,
    Failed,
    Skipped,
}

/// A line of the suite.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    end: End,
    name: String,
    /// Seconds, or why.
    rest: String,
}

/// The steps in a console's text, and whether the suite came to its end.
fn steps(console: &str) -> (Vec<Step>, bool) {
    let mut found = Vec::new();
    let mut whole = false;
    for line in console.lines() {
        let line = line.trim();
        let kinds = [("ok ", End::Ok), ("not ok ", End::Failed), ("skip ", End::Skipped)];
        for (word, end) in kinds {
            if let Some(rest) = line.strip_prefix(word) {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                found.push(Step { end, name: name.to_owned(), rest: rest.to_owned() });
                break;
            }
        }
        whole |= line == "suite done";
    }
    (found, whole)
}

/// Whether a step of the suite was heard of.
pub fn has_begun(console: &str) -> bool {
    let (steps, whole) = steps(console);
    whole || !steps.is_empty()
}

/// Prints the table; an error when a step failed or the suite did not come to its end.
pub fn show(kernel: &str, console: &str) -> Result<()> {
    let (steps, whole) = steps(console);
    for Step { end, name, rest } in &steps {
        let word = match end {
            End::Ok => "ok",
            End::Failed => "FAILED",
            End::Skipped => "skipped",
        };
        sh::say(&format!("{kernel:<8} {word:<8} {name:<20} {rest}"));
    }
    let failed: Vec<_> =
        steps.iter().filter(|s| s.end == End::Failed).map(|s| s.name.as_str()).collect();
    if !failed.is_empty() {
        bail!("kernel {kernel}: failed: {}", failed.join(", "));
    }
    let last = steps.last().map_or("nothing", |step| step.name.as_str());
    ensure!(whole, "kernel {kernel}: the suite did not come to its end; last was {last}");
    ensure!(steps.iter().any(|s| s.end == End::Ok), "kernel {kernel}: no step ran");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_suite() {
        let text = "noise\r\nok boot 3.1 6.12\r\nskip ublk no module\r\nsuite done\r\n";
        let (found, whole) = steps(text);
        assert!(whole);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name.as_str(), found[0].rest.as_str()), ("boot", "3.1 6.12"));
        show("6.12", text).unwrap();
    }

    #[test]
    fn failures_and_silence_are_errors() {
        let failed = show("x", "ok a 1\nnot ok b 2 why\nsuite done\n").unwrap_err();
        assert!(failed.to_string().contains("failed: b"), "{failed}");
        let cut = show("x", "ok a 1\n").unwrap_err();
        assert!(cut.to_string().contains("last was a"), "{cut}");
        assert!(show("x", "suite done\n").is_err());
        assert!(show("x", "skip a why\nsuite done\n").is_err());
    }
}
