//! `ploop generate`: man pages and completions, made of the same definitions that read the command
//! line.

use crate::args::{Cli, Generate, Generated};
use crate::show;
use clap::CommandFactory as _;
use ploop_daemon::failure::OrFail;
use ploop_daemon::{Code, Result};
use std::fs;
use std::path::Path;

/// Writes what was asked for.
pub fn run(args: &Generate) -> Result<()> {
    let mut command = Cli::command();
    match &args.what {
        Generated::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(*shell, &mut command, "ploop", &mut out);
            show::line(String::from_utf8_lossy(&out).trim_end());
            Ok(())
        }
        Generated::Man { dir } => {
            // Gives each verb its full name.
            command.build();
            fs::create_dir_all(dir).or_fail(Code::System, dir.display().to_string())?;
            page(&command, "ploop", dir)?;
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                page(verb, &format!("ploop-{}", verb.get_name()), dir)?;
            }
            Ok(())
        }
    }
}

fn page(command: &clap::Command, name: &str, dir: &Path) -> Result<()> {
    let path = dir.join(format!("{name}.1"));
    let mut out = Vec::new();
    let page = clap_mangen::Man::new(command.clone());
    page.render(&mut out)
        .and_then(|()| fs::write(&path, out))
        .or_fail(Code::System, path.display().to_string())
}
