//! `cargo xtask tidy`: the house rules of STYLE.md that neither rustc, rustfmt nor clippy checks.
//!
//! A finding reads `path:line: what`. A line that has a reason to break a rule carries it:
//! `// tidy: RULE: reason` on the line itself or on the one above.
//!
//! | part | what |
//! |---|---|
//! | `source` | a Rust file as code without comments, and as comments |
//! | `function` | sizes of functions, lines and files |
//! | `words` | words that are forbidden in some places |
//! | `crates` | which crate may use which |
//! | `citations` | numbers of invariants, hazards and decisions exist in docs/ |
//! | `tables` | headers name each module; README.md names each document |
//! | `text` | ASCII, no blanks at the end of a line, nothing of one machine |
//! | `commits` | titles of commits |

mod citations;
mod commits;
mod crates;
pub mod function;
pub mod source;
mod tables;
mod text;
mod words;

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context, Result, bail};

use crate::sh;
use source::Source;

/// Every Rust file of the repository, read.
pub fn rust() -> Result<Vec<Source>> {
    files().map(|(files, _)| sources(&files))
}

/// One broken rule at one place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    path: PathBuf,
    /// From 1; 0 = the whole file.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &Path, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_path_buf(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

/// A text file of the repository.
pub struct TextFile {
    path: PathBuf,
    text: String,
}

pub fn run() -> Result<()> {
    let (files, mut found) = files()?;
    let sources = sources(&files);
    for file in &files {
        found.extend(text::check(file, &text::Here::of_this_machine()?));
    }
    for source in &sources {
        found.extend(function::check(source));
        found.extend(words::check(source));
    }
    found.extend(citations::check(&files, &sources));
    found.extend(crates::check(&files));
    found.extend(tables::check(&files, &sources));
    found.extend(commits::check()?);
    found.sort();
    found.dedup();
    found.iter().for_each(|finding| sh::complain(&finding.to_string()));
    if !found.is_empty() {
        bail!("{} findings", found.len());
    }
    sh::say(&format!("tidy: {} files, {} of them Rust, nothing found", files.len(), sources.len()));
    Ok(())
}

/// Where files that are not text may lie.
const BINARY: &[&str] = &["tests/samples", "fuzz"];

/// Every text file that is in the repository or would be added to it; what is not text and lies
/// where only text belongs is found.
fn files() -> Result<(Vec<TextFile>, Vec<Finding>)> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let listing = sh::text(sh::program("git").args(args)).context("tidy needs a git clone")?;
    let (mut files, mut found) = (Vec::new(), Vec::new());
    for name in listing.split('\0').filter(|name| !name.is_empty()) {
        // A name listed but gone is being deleted.
        let Ok(bytes) = fs::read(name) else { continue };
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => files.push(TextFile { path: name.into(), text }),
            _ if BINARY.iter().any(|dir| Path::new(name).starts_with(dir)) => {}
            _ => found.push(Finding::new(Path::new(name), 0, "not text: was it left behind?")),
        }
    }
    Ok((files, found))
}

/// The Rust files, read; `#[cfg(test)] mod name;` makes the file of `name` a test file.
fn sources(files: &[TextFile]) -> Vec<Source> {
    let rust = |file: &&TextFile| file.path.extension().is_some_and(|ext| ext == "rs");
    let mut sources: Vec<Source> =
        files.iter().filter(rust).map(|file| Source::new(&file.path, &file.text)).collect();
    let of_tests: Vec<PathBuf> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        if of_tests.iter().any(|path| source.path.starts_with(path.with_extension("")))
            || of_tests.contains(&source.path)
        {
            source.mark_as_test();
        }
    }
    sources
}
