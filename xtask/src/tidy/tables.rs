//! A module that has many others names each of them in its header, and no header names a file that
//! is not there; README.md names every document.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::source::Source;
use super::{Finding, TextFile};

/// A module with so many of its own needs a table of them.
const MANY: usize = 5;

pub fn check(files: &[TextFile], sources: &[Source]) -> Vec<Finding> {
    let known: BTreeSet<&Path> = files.iter().map(|file| file.path.as_path()).collect();
    let of_crates = sources.iter().filter(|source| !source.test.iter().all(|test| *test));
    let mut found: Vec<Finding> = of_crates
        .flat_map(|source| {
            let mut found = unnamed(source);
            found.extend(absent(source, &known));
            found
        })
        .collect();
    let readme = files.iter().find(|file| file.path == Path::new("README.md"));
    found.extend(readme.into_iter().flat_map(|readme| unlisted(readme, &known)));
    found
}

/// The lines of a module's header.
fn header(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let text = |(at, line)| Some((at, str::strip_prefix(line, "//!")?));
    source.raw.iter().map(String::as_str).enumerate().filter_map(text)
}

/// What a line has in backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Its own modules that the header of a source does not name.
fn unnamed(source: &Source) -> Vec<Finding> {
    let modules: Vec<(usize, &str)> = modules(source).collect();
    if modules.len() < MANY {
        return Vec::new();
    }
    let mut named = BTreeSet::new();
    for (_, line) in header(source) {
        for word in quoted(line) {
            let word = word.trim_start_matches("mod@").trim_end_matches("()");
            let first = word.split(['/', '.', ':']).next().unwrap_or(word);
            named.insert(first);
        }
    }
    let missing = modules.into_iter().filter(|(_, name)| !named.contains(name));
    missing
        .map(|(at, name)| {
            let what = format!("the header does not say what `{name}` is for");
            Finding::new(&source.path, at + 1, what)
        })
        .collect()
}

/// `mod name;` outside tests.
fn modules(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source.code.iter().enumerate().filter(|(at, _)| !source.test[*at]).filter_map(|(at, line)| {
        let line = line.trim();
        let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub ")).unwrap_or(line);
        Some((at, line.strip_prefix("mod ")?.strip_suffix(';')?))
    })
}

/// Rust files in a header that are neither beside the source, nor in its folder, nor in the crate.
fn absent(source: &Source, known: &BTreeSet<&Path>) -> Vec<Finding> {
    let beside = source.path.parent().unwrap_or(Path::new(""));
    let mut places: Vec<PathBuf> = vec![beside.to_owned(), source.path.with_extension("")];
    for src in beside.ancestors().filter(|dir| dir.ends_with("src")) {
        places.extend([src.to_owned(), src.with_file_name("")]);
    }
    places.push(PathBuf::new());
    let there = |name: &str| places.iter().any(|dir| known.contains(dir.join(name).as_path()));
    let mut found = Vec::new();
    for (at, line) in header(source) {
        let plain = |name: &&str| name.ends_with(".rs") && !name.contains(['*', ' ', '<']);
        for name in quoted(line).filter(plain).filter(|name| !there(name)) {
            found.push(Finding::new(&source.path, at + 1, format!("there is no `{name}`")));
        }
    }
    found
}

/// Documents that README.md has no link to.
fn unlisted(readme: &TextFile, known: &BTreeSet<&Path>) -> Vec<Finding> {
    let document = |path: &&&Path| {
        path.parent() == Some(Path::new("docs")) && path.extension().is_some_and(|ext| ext == "md")
    };
    let linked = |path: &Path| readme.text.contains(&format!("]({})", path.display()));
    let missing = known.iter().filter(document).filter(|path| !linked(path));
    missing
        .map(|path| Finding::new(&readme.path, 0, format!("no link to {}", path.display())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: &str = "mod a;\npub mod b;\npub(crate) mod c;\nmod d;\nmod e;\n\
                           #[cfg(test)]\nmod tests;\n";

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.into(), text: text.into() }
    }

    fn whats(files: &[TextFile], path: &str, text: &str) -> Vec<String> {
        let found = check(files, &[Source::new(Path::new(path), text)]);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_module_with_many_names_each() {
        let text = format!("//! x\n//! | [`a`], `b.rs` | y |\n//! | [`mod@c`], `d/` |\n{MODULES}");
        let said = "src/lib.rs:8: the header does not say what `e` is for";
        let files = [file("src/b.rs", "")];
        assert_eq!(whats(&files, "src/lib.rs", &text), [said]);
        assert!(whats(&[], "src/lib.rs", "//! x\nmod a;\nmod b;\n").is_empty());
    }

    #[test]
    fn a_named_file_exists() {
        let files = [file("c/src/keeper/pages.rs", ""), file("c/src/map.rs", "")];
        let text = "//! `pages.rs` of `map.rs`, not `gone.rs`; tests are `i2_*.rs`\n";
        let found = whats(&files, "c/src/keeper/mod.rs", text);
        assert_eq!(found, ["c/src/keeper/mod.rs:1: there is no `gone.rs`"]);
    }

    #[test]
    fn readme_has_a_link_to_each_document() {
        let readme = file("README.md", "[a](docs/a.md)\n");
        let files = [readme, file("docs/a.md", ""), file("docs/b.md", ""), file("docs/x.json", "")];
        assert_eq!(whats(&files, "a.rs", ""), ["README.md:0: no link to docs/b.md"]);
    }
}
