//! `cargo xtask fuzz`: every target of `fuzz/` for its share of the time, and a table of what came
//! of it.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::{setup, sh};

/// For all targets together, the build included: what CI has.
const SECONDS: u64 = 240;
/// A target gets this much though the build took all of the time.
const LEAST: u64 = 5;
/// Start and end of a run take more than its time.
const SLACK: u64 = 2;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    time: Time,
    /// None: all.
    target: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Time {
    /// All together, the build included.
    Within(u64),
    /// All together, after the build.
    After(u64),
}

/// What came of one target.
struct Outcome {
    target: String,
    seconds: u64,
    tally: Tally,
    /// What libFuzzer said when it found something.
    found: Option<String>,
}

/// The last numbers libFuzzer printed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    executions: u64,
    edges: u64,
    corpus: u64,
}

pub fn run(args: &[String]) -> Result<()> {
    let plan = Plan::parse(args)?;
    let start = Instant::now();
    setup::ci()?;
    let mut targets = targets(Path::new("fuzz/fuzz_targets"))?;
    if let Some(wanted) = &plan.target {
        let list = targets.join(", ");
        targets.retain(|target| target == wanted);
        ensure!(!targets.is_empty(), "no target {wanted}; there are {list}");
    }
    ensure!(!targets.is_empty(), "fuzz/fuzz_targets has no target");
    sh::run(fuzz("build").args(["--sanitizer", "none"]))?;
    let built = start.elapsed();
    sh::say(&format!("fuzz: built in {} s", built.as_secs()));
    let mut outcomes = Vec::new();
    let mut waiting = targets.len() as u64;
    for target in targets {
        let share = plan.time.share(built, start.elapsed(), waiting);
        waiting -= 1;
        sh::say(&format!("fuzz: {target} for {share} s"));
        outcomes.push(one(target, share)?);
    }
    sh::say(&table(&outcomes));
    let found: Vec<_> = outcomes.iter().filter(|outcome| outcome.found.is_some()).collect();
    let Some(first) = found.first() else {
        sh::say(&format!("fuzz: {} targets, nothing found", outcomes.len()));
        return Ok(());
    };
    let said = first.found.as_deref().unwrap_or_default();
    bail!(
        "{} targets found something; inputs in fuzz/artifacts/. The first, {}:\n{said}",
        found.len(),
        first.target
    )
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self> {
        let number = |text: &String| {
            let number = text.parse::<u64>().ok().filter(|number| (1..100_000).contains(number));
            number.with_context(|| format!("`{text}` is no time"))
        };
        Ok(match args {
            [] => Self { time: Time::Within(SECONDS), target: None },
            [flag, minutes, rest @ ..] if flag == "--minutes" && rest.len() < 2 => {
                Self { time: Time::After(number(minutes)? * 60), target: rest.first().cloned() }
            }
            [seconds] => Self { time: Time::Within(number(seconds)?), target: None },
            _ => bail!("fuzz takes SECONDS, or --minutes M and maybe a TARGET"),
        })
    }
}

impl Time {
    /// Seconds for the next of the targets that wait: what one took too long the others lack.
    fn share(&self, built: Duration, now: Duration, waiting: u64) -> u64 {
        let end = match self {
            Self::Within(seconds) => *seconds,
            Self::After(seconds) => built.as_secs() + seconds,
        };
        let left = end.saturating_sub(now.as_secs());
        (left / waiting).saturating_sub(SLACK).max(LEAST)
    }
}

/// New inputs go to the target's corpus under `fuzz/corpus` (not in git); what is in git under
/// `fuzz/seeds` is read beside it.
fn one(target: String, seconds: u64) -> Result<Outcome> {
    let corpus = format!("fuzz/corpus/{target}");
    fs::create_dir_all(&corpus)?;
    let mut command = fuzz("run");
    command.args(["--sanitizer", "none", &target, &corpus]);
    let seeds = format!("fuzz/seeds/{target}");
    if Path::new(&seeds).is_dir() {
        command.arg(seeds);
    }
    let limit = format!("-max_total_time={seconds}");
    // libFuzzer talks on stderr whatever happens; only a failure shows all of it.
    let output = sh::output(command.args(["--", &limit, "-rss_limit_mb=2048", "-timeout=10"]))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let tally = Tally::read(&said);
    let found = (!output.status.success()).then(|| format!("{}\n{said}", output.status));
    sh::say(&format!(
        "  {} executions, {} edges{}",
        tally.executions,
        tally.edges,
        if found.is_some() { ", FOUND SOMETHING" } else { "" }
    ));
    Ok(Outcome { target, seconds, tally, found })
}

impl Tally {
    /// Lines like `#4096  pulse  cov: 312 ft: 901 corp: 77/12Kb exec/s: 2048 rss: 41Mb`, and
    /// `Done 4096 runs in 2 second(s)` at the end.
    fn read(said: &str) -> Self {
        let mut tally = Self::default();
        for line in said.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let number = |text: &str| {
                let digits = text.split('/').next().unwrap_or_default();
                digits.trim_start_matches('#').parse().ok()
            };
            let after = |word: &str| {
                let at = words.iter().position(|found| *found == word)?;
                number(words.get(at + 1)?)
            };
            let runs = match words.as_slice() {
                ["Done", runs, "runs", ..] => number(runs),
                [count, ..] if count.starts_with('#') => number(count),
                _ => None,
            };
            tally.executions = runs.unwrap_or(0).max(tally.executions);
            if runs.is_some() {
                tally.edges = after("cov:").unwrap_or(tally.edges);
                tally.corpus = after("corp:").unwrap_or(tally.corpus);
            }
        }
        tally
    }
}

fn table(outcomes: &[Outcome]) -> String {
    let mut lines = vec![format!(
        "{:16} {:>7} {:>12} {:>7} {:>7}  {}",
        "target", "seconds", "executions", "edges", "corpus", "findings"
    )];
    lines.extend(outcomes.iter().map(|outcome| {
        let Tally { executions, edges, corpus } = outcome.tally;
        let findings = u8::from(outcome.found.is_some());
        let (target, seconds) = (&outcome.target, outcome.seconds);
        format!("{target:16} {seconds:7} {executions:12} {edges:7} {corpus:7}  {findings}")
    }));
    lines.join("\n")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str]) -> Option<Plan> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        Plan::parse(&words).ok()
    }

    #[test]
    fn words_of_the_command_line() {
        let all = |time| Some(Plan { time, target: None });
        assert_eq!(plan(&[]), all(Time::Within(SECONDS)));
        assert_eq!(plan(&["60"]), all(Time::Within(60)));
        assert_eq!(plan(&["--minutes", "3"]), all(Time::After(180)));
        let one = Plan { time: Time::After(60), target: Some("bat".into()) };
        assert_eq!(plan(&["--minutes", "1", "bat"]), Some(one));
        for bad in [&["x"][..], &["0"], &["--minutes"], &["--minutes", "x"], &["1", "bat"]] {
            assert_eq!(plan(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_build_belongs_to_the_time_of_ci() {
        let seconds = Duration::from_secs;
        assert_eq!(Time::Within(240).share(seconds(80), seconds(80), 8), 18);
        assert_eq!(Time::Within(240).share(seconds(80), seconds(230), 1), 8);
        assert_eq!(Time::Within(240).share(seconds(500), seconds(500), 8), LEAST);
        assert_eq!(Time::After(600).share(seconds(500), seconds(500), 2), 298);
    }

    #[test]
    fn numbers_of_a_run_that_ended_and_of_one_that_broke_off() {
        let pulse = "#4096\tpulse  cov: 312 ft: 901 corp: 77/12Kb lim: 43 exec/s: 2048 rss: 41Mb";
        let broken = Tally { executions: 4096, edges: 312, corpus: 77 };
        assert_eq!(Tally::read(&format!("INFO: x\n{pulse}\npanicked")), broken);
        let ended = Tally { executions: 5000, ..broken };
        assert_eq!(Tally::read(&format!("{pulse}\nDone 5000 runs in 3 second(s)")), ended);
    }
}
