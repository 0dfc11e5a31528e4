//! What is written down: JSON with everything, a table for people, a picture.

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

/// Writes everything below `dir`; returns the table.
pub fn write(dir: &Path, date: &str, outcomes: &[Outcome]) -> Result<String> {
    std::fs::create_dir_all(dir)?;
    let rows: Vec<Value> = outcomes.iter().map(Outcome::json).collect();
    let absent: Vec<Value> =
        ABSENT.iter().map(|(row, why)| json!({ "name": row, "why": why })).collect();
    let machine = machine()?;
    let all = json!({ "date": date, "machine": machine, "rows": rows, "absent": absent });
    std::fs::write(dir.join(format!("{date}.json")), serde_json::to_string_pretty(&all)? + "\n")?;
    let mut text = format!("# Measured on {date}\n\nMachine: {machine}\n\n");
    text += "| row | ours | peer | unit | ratio (quartiles) | cpu us/io ours, peer \
             | disk operations per request ours, peer | pairs | target | reached |\n\
             |---|---|---|---|---|---|---|---|---|---|\n";
    for row in &rows {
        let cell = |key: &str| number(&row[key]);
        let (cpu, disk) = (&row["cpu_us_per_io"], &row["disk_ops_per_io"]);
        let reached = match (row["failed"].as_str(), row["reached"].as_bool()) {
            (Some(why), _) => why.lines().next().unwrap_or("failed").to_owned(),
            (None, Some(true)) => "yes".into(),
            (None, Some(false)) => "no".into(),
            (None, None) if row["target_is"] == "none" => "-".into(),
            (None, None) => "too short to say".into(),
        };
        writeln!(
            text,
            "| {} | {} | {} | {} | {} ({}, {}) | {}, {} | {}, {} | {} | {} {} | {reached} |",
            row["name"].as_str().unwrap_or_default(),
            cell("ours"),
            cell("peer"),
            row["unit"].as_str().unwrap_or_default(),
            cell("ratio"),
            cell("lower_quartile"),
            cell("upper_quartile"),
            number(&cpu["ours"]),
            number(&cpu["peer"]),
            number(&disk["ours"]),
            number(&disk["peer"]),
            row["pairs"],
            row["target_is"].as_str().unwrap_or_default(),
            row["target"],
        )?;
    }
    for (row, why) in ABSENT {
        writeln!(text, "| {row} | - | - | - | - | - | - | 0 | - | {why} |")?;
    }
    std::fs::write(dir.join("latest.md"), &text)?;
    Ok(text)
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
