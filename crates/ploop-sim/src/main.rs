//! `ploop-sim`: runs seeds until one fails, or the time is over; hunts planted bugs.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program's output")]

use ploop_sim::{Failure, Profile, Report, bugbase, profile, run, shrink};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const HELP: &str = "\
Crashes the engine over a simulated disk, one seed after the other.

Usage: ploop-sim [--seed S | --seeds N --from S] [--minutes M | --seconds S]
                 [--profile NAME[,NAME...]] [--set FIELD=VALUE] [--jobs J]
                 [--keep-going] [--quiet] [--no-shrink]
       ploop-sim planted|mutate [--seconds S] [--times N] [--jobs J] [--bug NAME]

Without --seeds and without a time it runs 200 seeds. A failing seed prints the command that
replays it and is made smaller; the exit code is then 1. `planted` hunts every planted bug N times
(5) from random seeds, S seconds (60) each; `mutate` every sync that is dropped or swapped.";

struct Options {
    seeds: Option<u64>,
    from: u64,
    time: Option<Duration>,
    profiles: Vec<String>,
    fields: Vec<(String, u64)>,
    jobs: usize,
    times: u64,
    bug: Option<String>,
    task: Option<String>,
    keep_going: bool,
    quiet: bool,
    shrink: bool,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut o = Options {
        seeds: None,
        from: 1,
        time: None,
        profiles: vec!["swarm".into()],
        fields: Vec::new(),
        jobs: 2,
        times: 5,
        bug: None,
        task: None,
        keep_going: false,
        quiet: false,
        shrink: true,
    };
    while let Some(arg) = args.next() {
        let mut text = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        let number = |text: String| -> Result<u64, String> {
            text.parse().map_err(|_| format!("a number, not {text:?}"))
        };
        match arg.as_str() {
            "--seeds" => o.seeds = Some(number(text()?)?),
            "--from" => o.from = number(text()?)?,
            "--seed" => (o.from, o.seeds) = (number(text()?)?, Some(1)),
            "--minutes" => o.time = Some(Duration::from_secs(number(text()?)? * 60)),
            "--seconds" => o.time = Some(Duration::from_secs(number(text()?)?)),
            "--jobs" => o.jobs = number(text()?)?.clamp(1, 64) as usize,
            "--times" => o.times = number(text()?)?.max(1),
            "--bug" => o.bug = Some(text()?),
            "--keep-going" => o.keep_going = true,
            "--quiet" => o.quiet = true,
            "--no-shrink" => o.shrink = false,
            "--profile" => o.profiles = profiles(&text()?)?,
            "--set" => {
                let text = text()?;
                let (field, value) = text.split_once('=').ok_or("--set wants FIELD=VALUE")?;
                o.fields.push((field.into(), number(value.into())?));
            }
            "planted" | "mutate" => o.task = Some(arg),
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("what is {other:?}? See --help")),
        }
    }
    Ok(Some(o))
}

fn profiles(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(',').map(str::to_owned).collect();
    match names.iter().find(|name| !profile::NAMES.contains(&name.as_str())) {
        Some(name) => Err(format!("no profile {name:?}: there are {:?}", profile::NAMES)),
        None => Ok(names),
    }
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => match &options.task {
            Some(task) => hunt(task, &options),
            None => work(&options),
        },
        Ok(None) => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ploop-sim: {error}");
            ExitCode::from(2)
        }
    }
}

/// What all workers share.
#[derive(Default)]
struct Shared {
    next: AtomicU64,
    stop: AtomicBool,
    total: Mutex<(Report, u64)>,
    failures: Mutex<Vec<(u64, Profile, Box<Failure>)>>,
}

fn work(options: &Options) -> ExitCode {
    let start = Instant::now();
    let seeds = options.seeds.unwrap_or(if options.time.is_some() { u64::MAX } else { 200 });
    let shared = Shared::default();
    // A panic of a run is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for job in 0..options.jobs {
            let shared = &shared;
            scope.spawn(move || worker(options, shared, start, seeds, job == 0));
        }
    });
    let (total, done) = shared.total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failures = shared.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", line(done, &total, start.elapsed()));
    table(&total);
    for (seed, profile, failure) in &failures {
        tell(options, *seed, profile, failure);
    }
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("{} of {done} seeds failed", failures.len());
        ExitCode::FAILURE
    }
}

fn worker(options: &Options, shared: &Shared, start: Instant, seeds: u64, tells: bool) {
    #[cfg(feature = "planted")]
    ploop_io::planted::choose(options.bug.as_deref().and_then(ploop_io::planted::Bug::named));
    let mut told = Instant::now();
    while !shared.stop.load(Ordering::Relaxed)
        && options.time.is_none_or(|time| start.elapsed() < time)
    {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= seeds {
            return;
        }
        let seed = options.from + number;
        let name = &options.profiles[number as usize % options.profiles.len()];
        let Some(mut profile) = Profile::named(name, seed) else { return };
        for (field, value) in &options.fields {
            profile.set(field, *value);
        }
        let ended = run(seed, &profile);
        let mut total = shared.total.lock().unwrap_or_else(PoisonError::into_inner);
        total.1 += 1;
        match ended {
            Ok(report) => total.0.add(&report),
            Err(failure) => {
                shared.stop.fetch_or(!options.keep_going, Ordering::Relaxed);
                let mut failures = shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push((seed, profile, failure));
            }
        }
        if tells && told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            eprintln!("{}", line(total.1, &total.0, start.elapsed()));
        }
    }
}

fn tell(options: &Options, seed: u64, profile: &Profile, failure: &Failure) {
    if options.quiet {
        println!("seed {seed}: {}", failure.what);
        return;
    }
    println!("{failure}");
    if options.shrink {
        #[cfg(feature = "planted")]
        ploop_io::planted::choose(options.bug.as_deref().and_then(ploop_io::planted::Bug::named));
        let small = shrink::shrink(seed, profile, Box::new(failure.clone()), 80);
        let text = bugbase::text(&small.failure.what, &profile.name, seed, &small.profile);
        println!("smaller, for crates/ploop-sim/bugbase/{}-{seed}.txt:\n{text}", profile.name);
    }
}

/// Crash points by what ran, and what was covered.
fn table(total: &Report) {
    for (name, count) in &total.points {
        let share = *count as f64 * 100.0 / total.crash_points.max(1) as f64;
        println!("{name:24} {count:10} points {share:5.1} %");
    }
    if !total.cover.is_empty() {
        println!("{}", total.cover.table());
    }
}

fn line(done: u64, total: &Report, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(0.001);
    format!(
        "{done} seeds in {seconds:.1} s ({:.1}/s): {} crash points ({:.0}/s, {:.0} per processor \
         second), {} requests ({} failed), {} kills, {} clean closes, {} disk operations, \
         trace {:016x}",
        done as f64 / seconds,
        total.crash_points,
        total.crash_points as f64 / seconds,
        total.crash_points as f64 / processor_seconds(),
        total.requests,
        total.failed,
        total.kills,
        total.closes,
        total.operations,
        total.trace,
    )
}

/// What the program has used; other work on the machine does not count.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
    (ticks / 100.0).max(0.01)
}

#[cfg(not(feature = "planted"))]
fn hunt(task: &str, _options: &Options) -> ExitCode {
    eprintln!("ploop-sim: {task} needs a build with the feature `planted`");
    ExitCode::from(2)
}

#[cfg(feature = "planted")]
fn hunt(task: &str, options: &Options) -> ExitCode {
    use ploop_io::planted::{Bug, Group};
    use ploop_sim::hunt::{Hunt, hunt_all, of_group};
    std::panic::set_hook(Box::new(|_| {}));
    let syncs = |group| matches!(group, Group::Drop | Group::LayerDrop | Group::Swap);
    let bugs = match &options.bug {
        Some(name) => Bug::named(name).into_iter().collect(),
        None if task == "planted" => of_group(|group| !syncs(group) && group != Group::Equal),
        None => of_group(syncs),
    };
    let budget = options.time.unwrap_or(Duration::from_secs(60));
    let start = Instant::now();
    let told = |hunt: &Hunt| {
        if !options.quiet {
            let what = hunt.found.as_ref().map_or("NOT FOUND", |failure| &failure.what);
            let (bug, time) = (hunt.bug.name(), hunt.time.as_secs_f64());
            eprintln!("{bug}: {time:.2} s, {} runs: {what:.160}", hunt.runs);
        }
    };
    let name = &options.profiles[0];
    let hunts = hunt_all(&bugs, name, options.times, options.jobs, budget, &told);
    println!("{:20} {:>5} {:>9} {:>9} {:>6}  what", "bug", "found", "median s", "worst s", "runs");
    let mut killed = 0;
    for bug in &bugs {
        let mut of: Vec<&Hunt> = hunts.iter().filter(|hunt| hunt.bug == *bug).collect();
        of.sort_by_key(|hunt| hunt.time);
        let found = of.iter().filter(|hunt| hunt.found.is_some()).count();
        killed += usize::from(found == of.len());
        let time = |hunt: Option<&&Hunt>| hunt.map_or(0.0, |hunt| hunt.time.as_secs_f64());
        let runs = of.iter().map(|hunt| hunt.runs).max().unwrap_or(0);
        println!(
            "{:20} {:>5} {:>9.2} {:>9.2} {:>6}  {}",
            bug.name(),
            format!("{found}/{}", of.len()),
            time(of.get(of.len() / 2)),
            time(of.last()),
            runs,
            bug.what(),
        );
    }
    if task == "mutate" {
        for bug in of_group(|group| group == Group::Equal) {
            println!("{:20} not hunted: {}", bug.name(), bug.what());
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{killed} of {} found every time, {seconds:.0} s", bugs.len());
    if killed == bugs.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
