//! `ploop generate`: man pages and completions, made of the same definitions that read the command
//! line.

use crate::args::{Cli, Generate, Generated};
use crate::show::{self, Output, json};
use clap::CommandFactory as _;
use ploop_daemon::failure::OrFail;
use ploop_daemon::{Code, Result};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes what was asked for.
pub fn run(args: &Generate, output: Output) -> Result<()> {
    let mut command = Cli::command();
    match &args.what {
        Generated::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(*shell, &mut command, "ploop", &mut out);
            let script = String::from_utf8_lossy(&out);
            if output.json {
                json::print(&Script { script: &script });
            } else {
                show::line(script.trim_end());
            }
            Ok(())
        }
        Generated::Man { dir } => {
            // Gives each verb its full name.
            command.build();
            fs::create_dir_all(dir).or_fail(Code::System, dir.display().to_string())?;
            let mut pages = vec![page(&command, "ploop", dir)?];
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                pages.push(page(verb, &format!("ploop-{}", verb.get_name()), dir)?);
            }
            if output.json {
                json::print(&Pages { pages });
            }
            Ok(())
        }
    }
}

#[derive(Serialize)]
struct Script<'a> {
    script: &'a str,
}

#[derive(Serialize)]
struct Pages {
    pages: Vec<PathBuf>,
}

fn page(command: &clap::Command, name: &str, dir: &Path) -> Result<PathBuf> {
    let path = dir.join(format!("{name}.1"));
    let mut out = Vec::new();
    let page = clap_mangen::Man::new(command.clone());
    page.render(&mut out)
        .and_then(|()| fs::write(&path, out))
        .or_fail(Code::System, path.display().to_string())?;
    Ok(path)
}
