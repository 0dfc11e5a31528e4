//! Statistics for people: tables of what happened, or of what happens per second.

use super::table;
use ploop_daemon::control::types::{StatReply, State};
use ploop_daemon::stats::{Batches, Class, Latency};

/// What the numbers are about.
#[derive(Clone, Debug)]
pub struct Heading {
    disk: String,
    device: Option<String>,
    engine: String,
    queues: u64,
}

impl Heading {
    /// Of an answer of Info.
    pub fn of(state: &State) -> Self {
        Self {
            disk: state.disk.clone(),
            device: state.device.clone(),
            engine: state.engine.clone(),
            queues: state.queues,
        }
    }

    fn line(&self, what: &str) -> String {
        let device = self.device.as_deref().unwrap_or("no device");
        let queues = if self.queues == 1 { "queue" } else { "queues" };
        format!("{}  {device}  {} {queues}  {}  {what}", self.disk, self.queues, self.engine)
    }
}

/// Everything since the disk was opened.
pub fn report(heading: &Heading, stat: &StatReply) -> Vec<String> {
    let mut lines = vec![heading.line(&format!("open for {}", span(stat.interval_ns)))];
    lines.push(String::new());
    let rows = stat.classes.iter().map(|class| {
        let mut row = class_name(class);
        row.extend([class.requests.to_string(), bytes(class.total_bytes as f64)]);
        row.extend(times(&class.latency));
        row
    });
    let header = ["OPERATION", "ROUTE", "REQUESTS", "BYTES", "MEAN", "P50", "P99", "P99.9", "MAX"];
    lines.extend(table::lines(&header, &[2, 3, 4, 5, 6, 7, 8], rows.collect()));
    lines.push(String::new());
    lines.extend(queues(stat));
    lines.push(String::new());
    lines.extend(keeper(stat));
    lines
}

/// What happens per second.
pub fn frame(heading: &Heading, stat: &StatReply) -> Vec<String> {
    let seconds = (stat.interval_ns as f64 / 1e9).max(1e-9);
    let mut lines = vec![heading.line(&format!("for {seconds:.1} s"))];
    let rows = stat.classes.iter().map(|class| {
        let mut row = class_name(class);
        let rate = class.requests as f64 / seconds;
        row.extend([number(rate), bytes(class.total_bytes as f64 / seconds)]);
        row.extend(times(&class.latency));
        row
    });
    let header = ["OPERATION", "ROUTE", "REQ/S", "BYTES/S", "MEAN", "P50", "P99", "P99.9", "MAX"];
    lines.extend(table::lines(&header, &[2, 3, 4, 5, 6, 7, 8], rows.collect()));
    let get = |name: &str| stat.counters.get(name).copied().unwrap_or(0);
    let rate = |name: &str| number(get(name) as f64 / seconds);
    lines.push(format!(
        "in flight {}  held {}  errors/s {}  syncs/s {}  sync p99 {}  pages written/s {}  dirty {}",
        get("in_flight"),
        get("parked"),
        rate("errors"),
        rate("syncs"),
        p99(&stat.sync_latency),
        rate("pages_written"),
        get("pages_dirty"),
    ));
    lines.push(String::new());
    lines
}

fn class_name(class: &Class) -> Vec<String> {
    vec![class.operation.clone(), class.route.clone()]
}

fn times(latency: &Latency) -> [String; 5] {
    let mean = latency.mean_ns();
    [mean, latency.p50_ns, latency.p99_ns, latency.p999_ns, latency.max_ns].map(time)
}

fn queues(stat: &StatReply) -> Vec<String> {
    let rows = stat.queues.iter().map(|queue| {
        let get = |name: &str| queue.counters.get(name).copied().unwrap_or(0).to_string();
        let requests: u64 = queue.classes.iter().map(|class| class.requests).sum();
        let errors: u64 = queue.errors.values().sum();
        vec![
            queue.queue.to_string(),
            get("in_flight"),
            requests.to_string(),
            errors.to_string(),
            get("parked"),
            get("held"),
            get("full_episodes"),
        ]
    });
    let header = ["QUEUE", "IN FLIGHT", "REQUESTS", "ERRORS", "PARKED", "EVER HELD", "TIMES FULL"];
    table::lines(&header, &[0, 1, 2, 3, 4, 5, 6], rows.collect())
}

/// Name and value, by twos.
fn keeper(stat: &StatReply) -> Vec<String> {
    let get = |name: &str| stat.counters.get(name).copied().unwrap_or(0);
    let dirty = format!("{} (most {})", get("pages_dirty"), get("pages_dirty_max"));
    let grown = format!("{} (by {} clusters)", get("extensions"), get("clusters_added"));
    let syncs = &stat.sync_latency;
    let took = if syncs.count == 0 {
        "-".to_owned()
    } else {
        let [mean, p99, max] = [syncs.mean_ns(), syncs.p99_ns, syncs.max_ns].map(time);
        format!("mean {mean}, p99 {p99}, max {max}")
    };
    let joined = get("page_changes_joined").to_string();
    let count = |name: &str| get(name).to_string();
    let mut lines = vec![
        two("pages dirty", dirty, "clusters allocated", count("clusters_allocated")),
        two("pages written", count("pages_written"), "copied up", count("clusters_copied_up")),
        two("changes joined", joined, "being copied", count("clusters_copying_up")),
        two("pages loaded", count("pages_loaded"), "unmapped", count("clusters_unmapped")),
        two(
            "in memory",
            count("pages_in_memory"),
            "in quarantine",
            count("clusters_in_quarantine"),
        ),
        two("syncs", count("syncs"), "clean and ready", count("clusters_clean")),
        two("flushes", count("flushes"), "extensions", grown),
        two(
            "answered together",
            batches(&stat.sync_batches),
            "refused",
            count("extensions_refused"),
        ),
        two(
            "failed",
            if get("failed") == 0 { "no" } else { "yes" }.to_owned(),
            "given back",
            count("clusters_given_back"),
        ),
        format!("{:<19}{took}", "sync time"),
    ];
    if get("failed") != 0 {
        lines.push("FAILED: a sync failed or metadata cannot be written; flushes fail".to_owned());
    }
    lines
}

fn p99(latency: &Latency) -> String {
    if latency.count == 0 { "-".to_owned() } else { time(latency.p99_ns) }
}

fn two(left: &str, a: String, right: &str, b: String) -> String {
    format!("{left:<19}{a:<23}{right:<20}{b}")
}

fn batches(all: &Batches) -> String {
    if all.count == 0 {
        return "-".to_owned();
    }
    format!("mean {:.1}, most {}", all.sum as f64 / all.count as f64, all.max)
}

/// `0`, `850`, `12.3k`
fn number(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G"])
}

/// `512`, `1.5K`, `20.0G`
fn bytes(value: f64) -> String {
    scaled(value, 1024.0, &["", "K", "M", "G", "T", "P", "E"])
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    // What rounds up to a step is one.
    while value >= step - 0.05 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = usize::from(unit > 0 || (value > 0.0 && value < 10.0 && value.fract() != 0.0));
    format!("{value:.digits$}{}", units[unit])
}

/// `<1us`, `1.5us`, `250us`, `3.2ms`, `12.0s`; what ended within its turn is 0.
fn time(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_024 => return "<1us".to_owned(),
        1_024..1_000_000 => (nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    let digits = usize::from(value < 100.0);
    format!("{value:.digits$}{unit}")
}

/// `45 s`, `12 min`, `3 h 7 min`, `2 d 4 h`
fn span(nanos: u64) -> String {
    let seconds = nanos / 1_000_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ploop_daemon::stats::{Bucket, QueueStat};

    #[test]
    fn numbers_are_short() {
        let said: Vec<_> = [0, 1023, 1024, 1500, 99_940, 250_000, 3_200_000, 12_000_000_000]
            .into_iter()
            .map(time)
            .collect();
        assert_eq!(said, ["<1us", "<1us", "1.0us", "1.5us", "99.9us", "250us", "3.2ms", "12.0s"]);
        let said: Vec<_> =
            [0.0, 512.0, 1024.0, 1536.0, 1_048_575.0, 2e10].into_iter().map(bytes).collect();
        assert_eq!(said, ["0", "512", "1.0K", "1.5K", "1.0M", "18.6G"]);
        let said: Vec<_> = [0.0, 0.25, 850.0, 12_345.0].into_iter().map(number).collect();
        assert_eq!(said, ["0", "0.2", "850", "12.3k"]);
        let said: Vec<_> = [45, 600, 11_220, 187_200].map(|s| span(s * 1_000_000_000)).to_vec();
        assert_eq!(said, ["45 s", "10 min", "3 h 7 min", "2 d 4 h"]);
    }

    fn stat() -> (Heading, StatReply) {
        let heading = Heading {
            disk: "/d/DiskDescriptor.xml".into(),
            device: None,
            engine: "uring".into(),
            queues: 1,
        };
        let buckets = vec![Bucket { below_ns: Some(20_480), count: 40 }];
        let class = Class {
            operation: "write_zeroes".into(),
            route: "copy_up".into(),
            requests: 40,
            total_bytes: 40 << 20,
            latency: Latency::new(buckets, 600_000, 20_000),
        };
        let queue = QueueStat { queue: 0, classes: vec![class.clone()], ..QueueStat::default() };
        let stat = StatReply {
            interval_ns: 4_000_000_000,
            counters: [("syncs".to_owned(), 8), ("failed".to_owned(), 1)].into(),
            classes: vec![class],
            queues: vec![queue],
            ..StatReply::default()
        };
        (heading, stat)
    }

    #[test]
    fn columns_stand_under_their_heads() {
        let (heading, stat) = stat();
        let lines = report(&heading, &stat);
        assert!(lines[0].ends_with("no device  1 queue  uring  open for 4 s"), "{}", lines[0]);
        let (head, row) = (&lines[2], &lines[3]);
        assert!(row.starts_with("write_zeroes  copy_up"), "{row}");
        for (name, value) in
            [("REQUESTS", "40"), ("BYTES", "40.0M"), ("MEAN", "15.0us"), ("MAX", "20.0us")]
        {
            let end = head.find(name).unwrap() + name.len();
            assert!(row[..end].ends_with(value), "{name}:\n{head}\n{row}");
        }
        assert!(lines.iter().all(|line| line.is_ascii() && !line.ends_with(' ')), "{lines:#?}");
        assert!(lines.last().unwrap().starts_with("FAILED"), "{lines:#?}");
    }

    #[test]
    fn rates_are_per_second() {
        let (heading, stat) = stat();
        let lines = frame(&heading, &stat);
        assert!(lines[1].contains("REQ/S") && lines[1].contains("BYTES/S"), "{lines:#?}");
        let row: Vec<_> = lines[2].split_whitespace().collect();
        assert_eq!(row[..4], ["write_zeroes", "copy_up", "10", "10.0M"]);
        assert!(lines[3].contains("syncs/s 2  "), "{lines:#?}");
    }
}
