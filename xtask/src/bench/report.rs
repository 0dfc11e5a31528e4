//! What is written down: JSON with everything, a table for people, a picture.
//!
//! Each row has the date, the commit and the machine of its own run: a run of some rows leaves the
//! others as they are, and one that is too short to say anything replaces none that was not.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::lab::Figure;
use super::stats::{Spread, spread};
use super::svg;
use super::targets::{ABSENT, Target, Want};

/// The pairs of one row, or why there are none.
pub struct Outcome {
    pub name: String,
    pub target: &'static Target,
    pub pairs: Vec<(Figure, Option<Figure>)>,
    pub failed: Option<String>,
    /// Long enough to count.
    pub seconds: f64,
}

impl Outcome {
    /// Ours over the peer's, or ours alone.
    fn numbers(&self) -> Option<Spread> {
        let one = |(ours, peer): &(Figure, Option<Figure>)| match peer {
            Some(peer) => ours.value / peer.value,
            None => ours.value,
        };
        spread(&self.pairs.iter().map(one).collect::<Vec<_>>())
    }

    /// Nine pairs of five seconds, and the median meets the target; else it is not known.
    fn reached(&self) -> Option<bool> {
        if self.pairs.len() < 9 || self.seconds < 5.0 {
            return None;
        }
        let median = self.numbers()?.median;
        Some(match self.target.want {
            Want::AtLeast => median >= self.target.value,
            Want::AtMost => median <= self.target.value,
            Want::Told => return None,
        })
    }

    fn median(&self, part: impl Fn(&(Figure, Option<Figure>)) -> Option<f64>) -> Option<f64> {
        Some(spread(&self.pairs.iter().filter_map(part).collect::<Vec<_>>())?.median)
    }

    fn json(&self) -> Value {
        let ratio = self.numbers();
        json!({
            "name": self.name,
            "ours": self.median(|(ours, _)| Some(ours.value)),
            "peer": self.median(|(_, peer)| peer.map(|peer| peer.value)),
            "unit": self.target.unit,
            "ratio": ratio.map(|r| r.median),
            "lower_quartile": ratio.map(|r| r.lower),
            "upper_quartile": ratio.map(|r| r.upper),
            "cpu_us_per_io": {
                "ours": self.median(|(ours, _)| ours.cpu),
                "peer": self.median(|(_, peer)| peer.and_then(|peer| peer.cpu)),
            },
            "disk_ops_per_io": {
                "ours": self.median(|(ours, _)| ours.disk),
                "peer": self.median(|(_, peer)| peer.and_then(|peer| peer.disk)),
            },
            "pairs": self.pairs.len(),
            "target": self.target.value,
            "target_is": match self.target.want {
                Want::AtLeast => "at least",
                Want::AtMost => "at most",
                Want::Told => "none",
            },
            "reached": self.reached(),
            "failed": self.failed,
        })
    }
}

fn number(value: &Value) -> String {
    value.as_f64().map_or_else(
        || "-".into(),
        |n| {
            if n.abs() >= 1000.0 { format!("{n:.0}") } else { format!("{n:.3}") }
        },
    )
}

fn machine() -> Result<Value> {
    let cpus = std::thread::available_parallelism()?.get();
    let info = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(json!({
        "cpus": cpus,
        "model": model.map(|m| m.trim_start_matches([' ', '\t', ':'])),
        "kernel": kernel.trim(),
    }))
}

/// When and of what a run is: in every row of it.
pub struct Run {
    pub date: String,
    /// With a `+` when the tree is not the commit's.
    pub commit: String,
    /// Long enough to replace the rows of another run.
    pub counts: bool,
}

/// The rows of a run below `dir`, among those of earlier ones; returns the table of the run's own.
pub fn write(dir: &Path, run: &Run, outcomes: &[Outcome]) -> Result<String> {
    std::fs::create_dir_all(dir)?;
    let machine = machine()?;
    let mut rows: Vec<Value> = outcomes.iter().map(Outcome::json).collect();
    for row in &mut rows {
        row["date"] = run.date.as_str().into();
        row["commit"] = run.commit.as_str().into();
        row["machine"] = machine.clone();
    }
    let own = table(&rows)?;
    let path = dir.join("latest.json");
    let before: Value = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => json!({ "rows": [] }),
    };
    let all = merged(before["rows"].as_array().map_or(&[], Vec::as_slice), rows, run.counts);
    let absent: Vec<Value> =
        ABSENT.iter().map(|(row, why)| json!({ "name": row, "why": why })).collect();
    let mut text = String::from("# Measured\n\n");
    for machine in machines(&all) {
        writeln!(text, "Machine: {machine}\n")?;
    }
    text += &table(&all)?;
    for (row, why) in ABSENT {
        writeln!(text, "| {row} | - | - | - | - | - | - | 0 | - | {why} | - |")?;
    }
    let all = json!({ "rows": all, "absent": absent });
    std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    std::fs::write(dir.join("latest.md"), &text)?;
    Ok(own)
}

/// The rows of a run in the places of those before, new ones behind. `counts`: it was long enough
/// to replace a row that says whether its target is reached.
fn merged(before: &[Value], mut run: Vec<Value>, counts: bool) -> Vec<Value> {
    let mut all = Vec::new();
    for old in before {
        let new = run.iter().position(|new| new["name"] == old["name"]);
        let new = new.map(|at| run.remove(at)).filter(|_| counts);
        all.push(new.unwrap_or_else(|| old.clone()));
    }
    all.extend(run);
    all
}

/// Each machine that rows were measured on, with its dates.
fn machines(rows: &[Value]) -> Vec<String> {
    let mut found: Vec<(&Value, Vec<&str>)> = Vec::new();
    for row in rows {
        let date = row["date"].as_str().unwrap_or_default();
        match found.iter_mut().find(|(machine, _)| *machine == &row["machine"]) {
            Some((_, dates)) if dates.contains(&date) => {}
            Some((_, dates)) => dates.push(date),
            None => found.push((&row["machine"], vec![date])),
        }
    }
    found.iter().map(|(machine, dates)| format!("{machine}, {}", dates.join(", "))).collect()
}

/// A table for people.
fn table(rows: &[Value]) -> Result<String> {
    let mut text = String::from(
        "| row | ours | peer | unit | ratio (quartiles) | cpu us/io ours, peer \
         | disk operations per request ours, peer | pairs | target | reached | measured |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let cell = |key: &str| number(&row[key]);
        let word = |key: &str| row[key].as_str().unwrap_or_default();
        let (cpu, disk) = (&row["cpu_us_per_io"], &row["disk_ops_per_io"]);
        let (name, unit, target) = (word("name"), word("unit"), word("target_is"));
        let ratio =
            format!("{} ({}, {})", cell("ratio"), cell("lower_quartile"), cell("upper_quartile"));
        let cpu = format!("{}, {}", number(&cpu["ours"]), number(&cpu["peer"]));
        let disk = format!("{}, {}", number(&disk["ours"]), number(&disk["peer"]));
        write!(text, "| {name} | {} | {} | {unit} | {ratio} ", cell("ours"), cell("peer"))?;
        write!(text, "| {cpu} | {disk} | {} | {target} {} ", row["pairs"], row["target"])?;
        writeln!(text, "| {} | {} {} |", reached(row), word("date"), word("commit"))?;
    }
    Ok(text)
}

fn reached(row: &Value) -> &str {
    match (row["failed"].as_str(), row["reached"].as_bool()) {
        (Some(why), _) => why.lines().next().unwrap_or("failed"),
        (None, Some(true)) => "yes",
        (None, Some(false)) => "no",
        (None, None) if row["target_is"] == "none" => "-",
        (None, None) => "too short to say",
    }
}

/// Writes a picture of two curves.
pub fn picture(
    dir: &Path,
    file: &str,
    title: &str,
    names: [&str; 2],
    points: &[(f64, f64, f64)],
) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    Ok(std::fs::write(dir.join(file), svg::curves(title, names, points))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, date: &str) -> Value {
        json!({ "name": name, "date": date, "machine": { "cpus": 2 } })
    }

    fn names(rows: &[Value]) -> Vec<String> {
        rows.iter().map(|row| format!("{} {}", row["name"], row["date"])).collect()
    }

    #[test]
    fn a_run_of_some_rows_keeps_the_others() {
        let before = [row("a", "old"), row("b", "old")];
        let run = || vec![row("b", "new"), row("c", "new")];
        let all = merged(&before, run(), true);
        assert_eq!(names(&all), ["\"a\" \"old\"", "\"b\" \"new\"", "\"c\" \"new\""]);
        // Too short to say: what is known stays.
        let all = merged(&before, run(), false);
        assert_eq!(names(&all), ["\"a\" \"old\"", "\"b\" \"old\"", "\"c\" \"new\""]);
        assert_eq!(machines(&all), ["{\"cpus\":2}, old, new"]);
    }

    #[test]
    fn a_row_of_the_table_has_its_date_and_commit() {
        let mut row = row("a", "2026-11-25");
        row["commit"] = "8e67ec0".into();
        let text = table(&[row]).unwrap();
        assert!(text.ends_with("too short to say | 2026-11-25 8e67ec0 |\n"), "{text}");
        let columns: Vec<usize> = text.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [12, 12, 12]);
    }
}
