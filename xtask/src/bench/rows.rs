//! The comparisons: for each row, how our number and the peer's come about.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::lab::{Figure, Lab, Place};
use super::{peers, served, vhost};

/// One side of a comparison.
pub type Side = Box<dyn Fn(&Lab) -> Result<Figure>>;

pub struct Row {
    pub name: String,
    pub ours: Side,
    /// None: the target is a number of its own.
    pub peer: Option<Side>,
}

pub fn row<O, P>(name: impl Into<String>, ours: O, peer: P) -> Row
where
    O: Fn(&Lab) -> Result<Figure> + 'static,
    P: Fn(&Lab) -> Result<Figure> + 'static,
{
    Row { name: name.into(), ours: Box::new(ours), peer: Some(Box::new(peer)) }
}

pub fn alone(name: &str, ours: impl Fn(&Lab) -> Result<Figure> + 'static) -> Row {
    Row { name: name.into(), ours: Box::new(ours), peer: None }
}

pub fn all() -> Vec<Row> {
    let mut rows = mapped();
    rows.extend(null());
    rows.extend(served::rows());
    rows.extend(vhost::rows());
    rows.extend(allocating());
    rows.extend(lanes());
    rows.extend(chains());
    rows.extend(opening());
    rows
}

fn mapped() -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, word) in [(Place::Disk, "disk"), (Place::Shm, "shm")] {
        for rw in ["randread", "randwrite"] {
            let ours =
                move |lab: &Lab| lab.figure(&lab.mapped(place)?, &["--rw", rw, "--warm"], "iops");
            let raw = move |lab: &Lab| {
                // The image file itself, its data area; the same blocks under both.
                let file = lab.mapped(place)?.join("root.hds");
                lab.figure(
                    &file,
                    &["--raw", "--rw", rw, "--offset", "1M", "--range", "511M"],
                    "iops",
                )
            };
            rows.push(row(format!("mapped {rw}, {word}, vs raw"), ours, raw));
            if place == Place::Disk {
                let fio =
                    move |lab: &Lab| peers::fio_file(lab, &lab.mapped(place)?.join("root.hds"), rw);
                rows.push(row(format!("mapped {rw}, {word}, vs fio"), ours, fio));
            }
        }
    }
    rows.push(row("2 jobs / 1 job, shm, vs raw", gain(false), gain(true)));
    rows
}

/// What a second queue brings.
fn gain(raw: bool) -> impl Fn(&Lab) -> Result<Figure> {
    move |lab| {
        let (target, first) =
            if raw { (lab.raw(Place::Shm)?, "--raw") } else { (lab.mapped(Place::Shm)?, "--warm") };
        let one = lab.figure(&target, &[first, "--queues", "1"], "iops")?;
        let two = lab.figure(&target, &[first, "--queues", "2"], "iops")?;
        Ok(Figure { value: two.value / one.value, ..two })
    }
}

/// The processor time of another side, as its number.
pub fn cpu_of(side: impl Fn(&Lab) -> Result<Figure>) -> impl Fn(&Lab) -> Result<Figure> {
    move |lab| {
        let cpu = side(lab)?.cpu;
        Ok(Figure { value: cpu.context("the processor time is not known")?, cpu, disk: None })
    }
}

fn null() -> Vec<Row> {
    let cpu = |lab: &Lab| {
        let disk = lab.mapped(Place::Shm)?;
        lab.figure(&disk, &["--io", "null", "--warm"], "cpu_us_per_io")
    };
    let mut rows = vec![alone("mapped randread, null: cpu", cpu)];
    for rw in ["randread", "randwrite"] {
        let side = move |queues: &'static str| {
            move |lab: &Lab| {
                let words = ["--io", "null", "--warm", "--rw", rw, "--queues", queues];
                lab.figure(&lab.mapped(Place::Shm)?, &words, "iops")
            }
        };
        rows.push(row(format!("{rw}, null, 2 queues vs 1"), side("2"), side("1")));
    }
    let side = |queues: &'static str| {
        move |lab: &Lab| {
            let disk = lab.empty(Place::Shm, "new", "64G", 64)?;
            let words = ["--io", "null", "--rw", "randwrite", "--count", "400000"];
            lab.figure(&disk, &[&words[..], &["--queues", queues]].concat(), "iops")
        }
    };
    rows.push(row("allocating, null, 2 queues vs 1", side("2"), side("1")));
    rows
}

fn allocating() -> Vec<Row> {
    // As many as the disk has room for: what is preallocated is not given back before the end.
    const SMALL: &[&str] = &["--rw", "randwrite", "--count", "100000"];
    const SPARSE: &[&str] = &["--rw", "randwrite", "--count", "10000"];
    const LARGE: &[&str] = &["--rw", "randwrite", "--bs", "64K", "--count", "100000"];
    const STREAM: &[&str] = &["--rw", "write", "--bs", "1M", "--count", "6000"];
    let ours = |cluster: u32, words: &'static [&'static str]| {
        move |lab: &Lab| {
            let disk = lab.empty(Place::Disk, "new", "64G", cluster)?;
            let json = lab.bench(&disk, words)?;
            let touched = json["allocated_clusters"].as_f64().unwrap_or(0.0);
            ensure!(touched < 32768.0 * 1024.0 / f64::from(cluster), "half of the disk is touched");
            std::fs::remove_dir_all(&disk)?;
            let value = json["iops_with_close"].as_f64().unwrap_or(0.0);
            Ok(Figure { value, cpu: json["cpu_us_per_io"].as_f64(), disk: None })
        }
    };
    let raw = |words: &'static [&'static str]| {
        move |lab: &Lab| {
            let file = lab.preallocated("12G")?;
            let all = [&["--raw"], words].concat();
            let figure = lab.figure(&file, &all, "iops_with_close");
            std::fs::remove_file(&file)?;
            figure
        }
    };
    let beyond = |lab: &Lab| {
        let disk = lab.empty(Place::Disk, "new", "64G", 64)?;
        let json = lab.bench(&disk, SMALL)?;
        let number = |key: &str| json[key].as_f64().unwrap_or(0.0);
        let grown = number("allocated_after_bytes") - number("allocated_before_bytes");
        let touched = number("allocated_clusters") * number("cluster_bytes");
        std::fs::remove_dir_all(&disk)?;
        Ok(Figure { value: (grown - touched) / 1_048_576.0, ..Figure::default() })
    };
    vec![
        row("allocating 4K, cluster 64K, vs raw", ours(64, SMALL), raw(SMALL)),
        row("allocating 4K, cluster 1M, vs raw", ours(1024, SPARSE), raw(SPARSE)),
        alone("allocating 4K: space beyond touched clusters", beyond),
        row("allocating 64K, vs raw", ours(64, LARGE), raw(LARGE)),
        row("allocating 1M sequential, vs raw", ours(1024, STREAM), raw(STREAM)),
    ]
}

fn lanes() -> Vec<Row> {
    let ours = |lanes: &'static str| {
        move |lab: &Lab| {
            let words = ["--rw", "randwrite", "--lanes", lanes];
            lab.figure(&lab.mapped(Place::Disk)?, &words, "iops")
        }
    };
    let raw = |lanes: &'static str| {
        move |lab: &Lab| {
            let words = ["--raw", "--rw", "randwrite", "--lanes", lanes];
            lab.figure(&lab.raw(Place::Disk)?, &words, "iops")
        }
    };
    let syncs = |lab: &Lab| {
        let words = ["--rw", "randwrite", "--lanes", "16"];
        let json = lab.bench(&lab.mapped(Place::Disk)?, &words)?;
        let number = |key: &str| json[key].as_f64().unwrap_or(0.0);
        Ok(Figure { value: number("syncs") / number("writes").max(1.0), ..Figure::default() })
    };
    vec![
        row("write + flush, 1 lane, mapped, vs raw", ours("1"), raw("1")),
        row("write + flush, 16 lanes, mapped, vs raw", ours("16"), raw("16")),
        alone("write + flush, 16 lanes: syncs per write", syncs),
    ]
}

/// A disk of so many deltas, made once: between two snapshots some clusters are written at random,
/// and the base has all of them.
fn chain(lab: &Lab, deltas: usize) -> Result<PathBuf> {
    let name = format!("chain{deltas}");
    let dir = lab.path(Place::Disk, &name);
    if dir.exists() {
        return Ok(dir);
    }
    lab.empty(Place::Disk, &name, "512M", 64)?;
    let disk = dir.display().to_string();
    lab.bench(&dir, &["--rw", "write", "--bs", "64K", "--count", "8192"])?;
    let each = (8192 / deltas).to_string();
    for level in 1..deltas {
        crate::sh::text(&mut lab.command(&["snapshot", &disk]))?;
        let seed = level.to_string();
        let words = ["--rw", "randwrite", "--bs", "64K", "--count", &each, "--seed", &seed];
        lab.bench(&dir, &words)?;
    }
    Ok(dir)
}

fn chains() -> Vec<Row> {
    let side = |deltas: usize, warm: bool| {
        move |lab: &Lab| {
            let words: &[&str] = if warm { &["--warm"] } else { &["--count", "20000"] };
            lab.figure(&chain(lab, deltas)?, words, "iops")
        }
    };
    let mut rows = Vec::new();
    for deltas in [8, 32, 128] {
        for (warm, word) in [(true, "warm"), (false, "cold")] {
            let name = format!("random read, {deltas} deltas, {word}, vs 1");
            rows.push(row(name, side(deltas, warm), side(1, warm)));
        }
    }
    rows
}

fn opening() -> Vec<Row> {
    // The second open in a row; one write makes it a writable one.
    const ONE: &[&str] = &["--rw", "randwrite", "--count", "1"];
    const MANY: &[&str] = &["--count", "100000"];
    let empty = |lab: &Lab| lab.empty(Place::Disk, "huge", "16T", 1024);
    let spread = |lab: &Lab| lab.spread("spread", 1_000_000);
    fn second<D>(disk: D, words: &'static [&'static str], key: &'static str) -> Side
    where
        D: Fn(&Lab) -> Result<PathBuf> + 'static,
    {
        Box::new(move |lab| {
            let disk = disk(lab)?;
            lab.bench(&disk, ONE)?;
            let value = lab.figure(&disk, words, key)?.value;
            let scale = if key.ends_with("bytes") { 1_048_576.0 } else { 1.0 };
            Ok(Figure { value: value / scale, ..Figure::default() })
        })
    }
    let (time, memory) = ("open_ms", "peak_rss_bytes");
    vec![
        alone("open 16 TiB, empty: time", second(empty, ONE, time)),
        alone("open 16 TiB, empty: memory", second(empty, ONE, memory)),
        alone("open 16 TiB, 1,000,000 entries: time", second(spread, ONE, time)),
        alone("open 16 TiB, 1,000,000 entries: memory", second(spread, ONE, memory)),
        alone("16 TiB, 1,000,000 entries, 100k reads: memory", second(spread, MANY, memory)),
    ]
}

#[cfg(test)]
mod tests {
    use crate::bench::targets::{TARGETS, of};

    #[test]
    fn rows_and_targets_name_each_other() {
        let rows = super::all();
        assert!(rows.iter().all(|row| of(&row.name).is_some()));
        assert_eq!(rows.len(), TARGETS.len());
    }
}
