//! `cargo xtask shape`: the structure of the code in numbers, for a comparison of two commits.
//!
//! | part | what |
//! |---|---|
//! | `counts` | lines, files, functions and public items of a crate |
//! | `modules` | which module uses which, and circles of them |
//! | `marks` | patterns and words that the style wants to be rid of |

mod counts;
mod marks;
mod modules;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::sh;
use crate::tidy::source::Source;

pub fn run() -> Result<()> {
    let sources = crate::tidy::rust()?;
    let crates = by_crate(&sources);
    let columns = "| crate | files | lines | of tests | median file | largest | functions | \
                   median | largest | public items | circles | uses against the order |";
    sh::say(columns);
    sh::say(&"|---".repeat(12));
    let mut circles = Vec::new();
    for (name, files) in &crates {
        let counts = counts::of(files);
        let graph = modules::Graph::of(name, files);
        let found = graph.circles();
        let against: usize = found.iter().map(modules::Circle::against).sum();
        sh::say(&format!("| {name} | {counts} | {} | {against} |", found.len()));
        circles.extend(found.into_iter().map(|circle| format!("{name}: {circle}")));
    }
    sh::say("\nCircles of modules side by side in one folder, and a use of each:");
    circles.iter().for_each(|circle| sh::say(circle));
    sh::say("");
    marks::of(&sources).iter().for_each(|line| sh::say(line));
    Ok(())
}

/// The sources of each crate, by its folder under `crates/`; `xtask` and the rest by their own.
fn by_crate(sources: &[Source]) -> BTreeMap<String, Vec<&Source>> {
    let mut crates: BTreeMap<String, Vec<&Source>> = BTreeMap::new();
    for source in sources {
        let mut parts = source.path.components().map(|part| part.as_os_str().to_string_lossy());
        let name = match parts.next() {
            Some(first) if first == "crates" || first == "tests" => parts.next(),
            first => first,
        };
        crates.entry(name.unwrap_or_default().into_owned()).or_default().push(source);
    }
    crates.retain(|_, files| files.iter().any(|file| file.path.starts_with(Path::new("crates"))));
    crates
}
