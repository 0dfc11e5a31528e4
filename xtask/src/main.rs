//! The project's tasks: `cargo xtask demo`, `test`, `tidy` and the rest of [`USAGE`].
//!
//! | part | what |
//! |---|---|
//! | `setup` | what tests and demo need from outside |
//! | `test` | `cargo xtask test` |
//! | `demo` | `cargo xtask demo` |
//! | `tidy` | `cargo xtask tidy`: rules that no other tool checks |
//! | `sim` | `cargo xtask sim`, `planted`, `mutate` |
//! | `loom` | `cargo xtask loom`: models of the lock-free parts |
//! | `fuzz` | `cargo xtask fuzz` |
//! | `stress` | `cargo xtask stress` |
//! | `hosts` | `cargo xtask hosts`: full and read-only hosts |
//! | `vm` | `cargo xtask vm`: kernels with ublk, nbd and device-mapper |
//! | `bench` | `cargo xtask bench` |
//! | `shape` | `cargo xtask shape`: the structure of the code in numbers |
//! | `sh` | running programs, and talking to the person who waits |

mod bench;
mod demo;
mod fuzz;
mod hosts;
mod loom;
mod setup;
mod sh;
mod shape;
mod sim;
mod stress;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask TASK
  demo                 a real file system on a ploop disk, from init to the proof (3 minutes)
  test [FILTER...]     set-up, then all tests; FILTER goes to cargo nextest
  tidy                 the house rules a compiler does not check
  shape                the structure of the code in numbers, to compare two commits
  setup [--ci]         install what the tests need; --ci: also cargo-deny and cargo-fuzz
  sim [ARG...]         the simulator; without ARG a short run
  planted [ARG...]     bugs planted on purpose, each of which the simulator must find
  mutate [ARG...]      every sync dropped, or swapped with its neighbour: is it noticed?
  loom                 models of the lock-free parts, every interleaving
  stress [SECONDS]     contention on real threads and files (default 180)
  hosts [WORD...]      hosts that lack space, inodes, rights: nothing hangs or is lost
  fuzz [SECONDS]       every fuzz target, SECONDS in all with the build (default 240)
  fuzz --minutes M [TARGET]
                       a long run of all targets together, or of one
  bench [--quick] [--only 'PART;PART'] [--seconds S] [--pairs N] | --profile
                       our numbers beside others'; --profile: instructions per read
  vm [--all | --kernel SERIES | --fetch] [--steps A,B]
     [--steps A,B] [--points N]
                       a suite under other kernels, in software emulation
  full                 tidy, sim, planted, mutate, loom, stress, fuzz, demo, test";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let task = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match run(&task, &rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            sh::complain(&format!("xtask {task}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: &str, rest: &[String]) -> Result<()> {
    std::env::set_current_dir(sh::root()?)?;
    match task {
        "demo" => demo::run(),
        "test" => test::run(rest),
        "tidy" => tidy::run(),
        "shape" => shape::run(),
        "setup" => match rest {
            [] => setup::tests(),
            [flag] if flag == "--ci" => setup::tests().and_then(|()| setup::ci()),
            _ => bail!("setup takes nothing or --ci\n{USAGE}"),
        },
        "sim" => sim::run(rest),
        "planted" => sim::planted(rest),
        "mutate" => sim::mutate(rest),
        "loom" => loom::run(),
        "stress" => stress::run(rest),
        "hosts" => hosts::run(rest),
        "fuzz" => fuzz::run(rest),
        "bench" => bench::run(rest),
        "vm" => vm::run(rest),
        "full" => {
            tidy::run()?;
            sim::run(&[])?;
            sim::planted(&[])?;
            sim::mutate(&[])?;
            loom::run()?;
            stress::run(&[])?;
            bench::run(&["--profile".to_owned()])?;
            fuzz::run(&[])?;
            demo::run()?;
            test::run(&[])
        }
        "help" | "--help" | "-h" => {
            sh::say(USAGE);
            Ok(())
        }
        "" => bail!("no task\n{USAGE}"),
        other => bail!("no task named {other}\n{USAGE}"),
    }
}
