//! The `ploop` command: said ([`args`]) -> meant ([`plan`]) -> done ([`verbs`]) -> shown
//! ([`show`]).
//!
//! | part | what |
//! |---|---|
//! | `args` | the command line |
//! | `layer_args` | the command line of the verbs that change layers |
//! | `plan` | the command line, checked and turned into what the libraries take |
//! | `host` | the host around a disk: mounts, partition tables, other programs, servers |
//! | `verbs` | one file for each verb |
//! | `show` | output for people and for programs |
//! | `helper` | `mount.ploop` and `umount.ploop` |

mod args;
mod helper;
mod host;
mod layer_args;
mod plan;
mod show;
mod verbs;

use args::{Cli, Verb};
use clap::{CommandFactory, Parser};
use ploop_daemon::{Code, Failure, Result, background};
use show::Output;
use std::ffi::OsString;
use std::process::ExitCode;

/// Verbosity without any `-v`, as in the original.
const VERBOSITY: u8 = 3;

fn main() -> ExitCode {
    ploop_io::file_limit_is_an_error();
    let all: Vec<OsString> = std::env::args_os().collect();
    let (all, misused) = match helper::words(&all) {
        None => (all, None),
        Some(Ok(Some(words))) => (words, None),
        Some(Ok(None)) => return ExitCode::SUCCESS,
        Some(Err(failure)) => (all, Some(failure)),
    };
    let (verbosity, words) = split_verbosity(all);
    // Before clap knows: its own errors are JSON too.
    let json = words.iter().any(|word| word == "--json");
    start_log(verbosity, json);
    let output = Output { json, verbosity };
    if let Some(failure) = misused {
        return ExitCode::from(show::failure(&failure, output));
    }
    let code = match parse(words) {
        Ok(cli) => match run(cli.verb, output) {
            Ok(code) => code,
            Err(failure) => show::failure(&failure, output),
        },
        Err(Parsed::Text(error)) => {
            show::put(&error.render().to_string());
            0
        }
        Err(Parsed::Bad(failure)) => show::failure(&failure, output),
    };
    let code = match show::lost() {
        Some(lost) if code == 0 => show::failure(&lost, output),
        _ => code,
    };
    ExitCode::from(code)
}

enum Parsed {
    /// Help or version was asked for.
    Text(clap::Error),
    Bad(Failure),
}

fn parse(words: Vec<OsString>) -> Result<Cli, Parsed> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion, MissingSubcommand};
    Cli::try_parse_from(words).map_err(|error| match error.kind() {
        DisplayHelp | DisplayVersion => Parsed::Text(error),
        // clap exits with 2 where getopt users expect 38.
        MissingSubcommand | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Parsed::Bad(Failure::parameter("no verb").hint(first_words()))
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            let (message, hint) = text.split_once("\n\n").unwrap_or((text, ""));
            let failure = Failure::parameter(message);
            Parsed::Bad(if hint.is_empty() { failure } else { failure.hint(hint) })
        }
    })
}

/// The verbs there are, for those who named none or another.
fn first_words() -> String {
    let command = Cli::command();
    let verbs: Vec<_> = command
        .get_subcommands()
        .filter(|c| !c.is_hide_set())
        .map(clap::Command::get_name)
        .collect();
    format!("one of {}; `ploop --help` says more", verbs.join(", "))
}

fn run(verb: Verb, output: Output) -> Result<u8> {
    match verb {
        Verb::Init(args) => verbs::init::run(&args, output),
        Verb::Serve(args) => verbs::serve::run(&args, output),
        Verb::Export(args) => verbs::export::run(&args, output),
        Verb::Attach(args) => verbs::attach::run(&args, output),
        Verb::Udev { device } => verbs::list::udev(&device),
        Verb::Detach(args) => verbs::detach::run(&args, output),
        Verb::Mount(args) => verbs::mount::run(&args, output),
        Verb::Umount(args) => verbs::umount::run(&args, output),
        Verb::Info(args) => verbs::info::run(&args, output),
        Verb::Stat(args) => verbs::stat::run(&args, output),
        Verb::List(args) => verbs::list::run(&args, output),
        Verb::Snapshot(args) => verbs::snapshot::run(&args, output),
        Verb::SnapshotSwitch(args) => verbs::layers::switch_to(&args, output),
        Verb::SnapshotDelete(args) => verbs::layers::remove(&args, output),
        Verb::SnapshotMerge(args) => verbs::layers::merge_levels(&args, output),
        Verb::Jobs(args) => verbs::online::jobs(&args, output),
        Verb::Tsnapshot(args) => verbs::tsnapshot::run(args, output),
        Verb::Resize(args) => verbs::resize::run(&args, output),
        Verb::Grow(args) => verbs::layers::larger(&args, output),
        Verb::Convert(args) => verbs::convert::run(&args, output),
        Verb::SnapshotList(args) => verbs::snapshot_list::run(&args, output),
        Verb::Check(args) => return verbs::check::run(&args, output),
        Verb::RestoreDescriptor(args) => verbs::restore_descriptor::run(&args, output),
        Verb::Map(args) => verbs::map::run(&args, output),
        Verb::Bench(args) => verbs::bench::run(&args, output),
        Verb::Generate(args) => verbs::generate::run(&args, output),
        Verb::FreezeWatch { device, mounts } => host::freeze::watch(&device, &mounts),
        Verb::ServeInBackground => return Ok(background::run()),
        Verb::External(words) => return Err(verbs::external::run(&words)),
    }
    .map(|()| 0)
}

/// Takes `-v`, `-vvv` and `-v5` before the verb out of the words: behind it `-v` is the verb's own.
fn split_verbosity(words: Vec<OsString>) -> (u8, Vec<OsString>) {
    let mut level = VERBOSITY;
    let mut rest = Vec::with_capacity(words.len());
    let mut words = words.into_iter();
    rest.extend(words.next());
    for word in words.by_ref() {
        let text = word.to_str().and_then(|word| word.strip_prefix("-v"));
        match text {
            Some(vs) if vs.bytes().all(|byte| byte == b'v') => {
                level = level.saturating_add(u8::try_from(vs.len() + 1).unwrap_or(u8::MAX));
            }
            Some(number) if number.parse::<u8>().is_ok() => {
                level = number.parse().unwrap_or(level);
            }
            _ => {
                let option = word.to_str().is_some_and(|word| word.starts_with('-'));
                rest.push(word);
                if !option {
                    break;
                }
            }
        }
    }
    rest.extend(words);
    (level, rest)
}

/// Log lines go to stderr; `PLOOP_LOG` sets a filter of its own.
fn start_log(verbosity: u8, json: bool) {
    use tracing_subscriber::EnvFilter;
    let level = match verbosity {
        0 => "off",
        1 | 2 => "error",
        3 => "warn",
        4 => "info",
        5 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("PLOOP_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| background::LogWriter)
        .with_ansi(false)
        .with_target(verbosity > VERBOSITY);
    if json {
        log.event_format(show::log::JsonLine).init();
    } else if verbosity > VERBOSITY {
        log.init();
    } else {
        log.without_time().init();
    }
}

/// A verb nobody knows.
fn unknown(verb: &str) -> Failure {
    Failure::new(Code::Parameter, format!("unknown verb `{verb}`")).hint(first_words())
}

#[cfg(test)]
mod tests {
    use super::split_verbosity;
    use crate::args::Cli;
    use clap::CommandFactory;
    use std::ffi::OsString;

    fn split(words: &[&str]) -> (u8, Vec<String>) {
        let (level, rest) = split_verbosity(words.iter().map(OsString::from).collect());
        (level, rest.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn v_is_verbosity_only_before_the_verb() {
        assert_eq!(split(&["ploop", "init", "-v", "1"]).0, 3);
        assert_eq!(split(&["ploop", "-v", "init", "-v", "1"]).0, 4);
        assert_eq!(split(&["ploop", "-vvv", "init"]).0, 6);
        assert_eq!(split(&["ploop", "-v1", "--json", "-v", "init"]).0, 2);
        assert_eq!(split(&["ploop", "-v", "init", "-v", "1"]).1, ["ploop", "init", "-v", "1"]);
    }

    #[test]
    fn the_options_make_sense() {
        Cli::command().debug_assert();
    }

    /// Verbs that a help line may begin with.
    const IMPERATIVES: &[&str] = &[
        "Accept",
        "Accepted",
        "Allow",
        "Also",
        "Attach",
        "Begin",
        "Cancel",
        "Change",
        "Check",
        "Close",
        "Convert",
        "Copy",
        "Create",
        "Delete",
        "Detach",
        "Do",
        "Drop",
        "Exclude",
        "Export",
        "Force",
        "Grow",
        "Increase",
        "Initialize",
        "Issue",
        "Join",
        "Keep",
        "Let",
        "Limit",
        "Link",
        "List",
        "Load",
        "Look",
        "Make",
        "Measure",
        "Merge",
        "Mount",
        "Omit",
        "Open",
        "Pass",
        "Preallocate",
        "Print",
        "Put",
        "Remove",
        "Repeat",
        "Resize",
        "Run",
        "Select",
        "Serve",
        "Set",
        "Show",
        "Stop",
        "Switch",
        "Take",
        "Unmount",
        "Use",
        "Write",
    ];

    #[test]
    fn the_help_of_a_verb_and_of_an_option_says_what_to_do() {
        fn look(command: &clap::Command, found: &mut Vec<String>) {
            let options =
                command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set());
            let helps = options.map(|arg| (arg.get_id().to_string(), arg.get_help()));
            let about = (String::new(), command.get_about());
            for (name, help) in helps.chain([about]).filter(|(name, _)| name != "help") {
                let help = help.map(ToString::to_string).unwrap_or_default();
                let first = help.split([' ', ',']).next().unwrap_or_default();
                if !IMPERATIVES.contains(&first) {
                    found.push(format!("{} {name}: {help}", command.get_name()));
                }
            }
            let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
            verbs.for_each(|verb| look(verb, found));
        }
        let mut found = Vec::new();
        look(&Cli::command(), &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }
}
