//! `ploop-sim`: runs seeds until one fails, or the time is over.

use ploop_sim::{Profile, Report, profile, run};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const HELP: &str = "\
Crashes the engine over a simulated disk, one seed after the other.

Usage: ploop-sim [--seeds N] [--from S] [--minutes M | --seconds S] [--profile NAME]
                 [--keep-going] [--quiet]

Without --seeds and without a time it runs 200 seeds. A failing seed prints the command that
replays it; the exit code is then 1.";

struct Options {
    seeds: Option<u64>,
    from: u64,
    time: Option<Duration>,
    profile: String,
    keep_going: bool,
    quiet: bool,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        seeds: None,
        from: 1,
        time: None,
        profile: "swarm".into(),
        keep_going: false,
        quiet: false,
    };
    while let Some(arg) = args.next() {
        let mut number = || -> Result<u64, String> {
            let text = args.next().ok_or_else(|| format!("{arg} wants a number"))?;
            text.parse().map_err(|_| format!("{arg} wants a number, not {text:?}"))
        };
        match arg.as_str() {
            "--seeds" => options.seeds = Some(number()?),
            "--from" => options.from = number()?,
            "--minutes" => options.time = Some(Duration::from_secs(number()? * 60)),
            "--seconds" => options.time = Some(Duration::from_secs(number()?)),
            "--keep-going" => options.keep_going = true,
            "--quiet" => options.quiet = true,
            "--profile" => {
                let name = args.next().ok_or("--profile wants a name")?;
                if !profile::NAMES.contains(&name.as_str()) {
                    return Err(format!("no profile {name:?}: there are {:?}", profile::NAMES));
                }
                options.profile = name;
            }
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("what is {other:?}? See --help")),
        }
    }
    Ok(Some(options))
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a program's output")]
fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => work(&options),
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

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a program's output")]
fn work(options: &Options) -> ExitCode {
    let start = Instant::now();
    let seeds = options.seeds.unwrap_or(if options.time.is_some() { u64::MAX } else { 200 });
    let mut total = Report::default();
    let (mut done, mut failures) = (0u64, 0u64);
    let mut told = Instant::now();
    while done < seeds && options.time.is_none_or(|time| start.elapsed() < time) {
        let seed = options.from + done;
        done += 1;
        let Some(profile) = Profile::named(&options.profile, seed) else { break };
        match run(seed, &profile) {
            Ok(report) => total.add(&report),
            Err(failure) => {
                failures += 1;
                if options.quiet {
                    println!("seed {seed}: {}", failure.what);
                } else {
                    println!("{failure}");
                }
                if !options.keep_going {
                    break;
                }
            }
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            eprintln!("{}", line(done, &total, start.elapsed()));
        }
    }
    println!("{}", line(done, &total, start.elapsed()));
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        println!("{failures} of {done} seeds failed");
        ExitCode::FAILURE
    }
}

fn line(done: u64, total: &Report, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(0.001);
    format!(
        "{done} seeds in {seconds:.1} s ({:.1}/s): {} crash points ({:.0}/s), {} requests \
         ({} failed), {} kills, {} clean closes, {} disk operations, trace {:016x}",
        done as f64 / seconds,
        total.crash_points,
        total.crash_points as f64 / seconds,
        total.requests,
        total.failed,
        total.kills,
        total.closes,
        total.operations,
        total.trace,
    )
}
