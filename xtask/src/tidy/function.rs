//! Sizes: functions, lines, files; and the first line of a module.

use super::Finding;
use super::source::Source;

const FUNCTION_LINES: usize = 70;
const COLUMNS: usize = 100;
pub const FILE_LINES: usize = 800;

pub fn check(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say = |line: usize, what: String| found.push(Finding::new(&source.path, line, what));
    if source.raw.len() > FILE_LINES {
        say(0, too_long(source.raw.len()));
    }
    match source.raw.iter().find(|line| !line.trim().is_empty() && !line.starts_with("#![")) {
        Some(line) if line.starts_with("//! To be filled") => say(1, "nothing here yet".into()),
        Some(line) if line.starts_with("//!") => {}
        _ => say(1, "the module does not say its role: begin with `//!`".into()),
    }
    for (at, line) in source.raw.iter().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS && !source.excused(at, "columns") {
            say(at + 1, format!("{columns} columns, the limit is {COLUMNS}"));
        }
    }
    for (at, name, lines) in functions(source) {
        if lines > FUNCTION_LINES {
            say(at + 1, format!("fn {name} has {lines} lines, the limit is {FUNCTION_LINES}"));
        }
    }
    found
}

/// What is said of a file with too many lines.
pub fn too_long(lines: usize) -> String {
    format!("{lines} lines, the limit is {FILE_LINES}")
}

/// Every function with a body: its first line (from 0), name and number of lines.
pub fn functions(source: &Source) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        let Some(name) = name_of_function(line) else { continue };
        found.push((at, name, source.end_of_item(at) - at + 1));
    }
    found
}

/// `pub(crate) unsafe fn name<T>(` -> `name`; not `x: fn(u32)`, nor `Fn(u32)`.
fn name_of_function(line: &str) -> Option<String> {
    let line = line.trim_start();
    let words = line.split("fn ").next()?;
    let before = ["pub", "(", ")", "crate", "super", "in", "const", "async", "unsafe", "extern"];
    let known = |word: &str| before.contains(&word) || word.starts_with('"');
    let spaced = words.replace('(', " ( ").replace(')', " ) ");
    if !spaced.split_whitespace().all(known) {
        return None;
    }
    let rest = line.get(words.len()..)?.strip_prefix("fn ")?;
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn findings(text: &str) -> Vec<String> {
        let source = Source::new(Path::new("src/x.rs"), text);
        check(&source).into_iter().map(|finding| finding.what).collect()
    }

    fn function(lines: usize) -> String {
        format!("//! x\npub fn long() {{\n{}}}\nfn next() {{}}\n", "    a();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_may_have_70_lines_and_no_more() {
        assert!(findings(&function(70)).is_empty());
        assert_eq!(findings(&function(71)), ["fn long has 71 lines, the limit is 70"]);
    }

    #[test]
    fn braces_in_literals_and_comments_do_not_count() {
        let text = "//! x\nfn a() {\n  f(\"}\"); // }\n  g('}');\n}\n";
        let source = Source::new(Path::new("x.rs"), text);
        assert_eq!(functions(&source), [(1, "a".to_string(), 4)]);
    }

    #[test]
    fn declarations_and_pointers_are_no_bodies() {
        assert_eq!(name_of_function("let f: fn (u32) = g;"), None);
        assert_eq!(name_of_function("impl Fn for X {"), None);
        assert_eq!(name_of_function("pub(crate) const unsafe fn a<T>() {"), Some("a".into()));
        let text = "//! x\ntrait T {\n fn a(&self, x: [u8; 3]);\n fn b(&self) {\n }\n}\n";
        let source = Source::new(Path::new("x.rs"), text);
        assert_eq!(functions(&source), [(2, "a".to_string(), 1), (3, "b".to_string(), 2)]);
    }

    #[test]
    fn a_module_says_its_role() {
        assert!(findings("#![no_std]\n//! Roles.\n").is_empty());
        assert_eq!(findings("use a::b;\n").len(), 1);
        assert_eq!(findings("").len(), 1);
    }

    #[test]
    fn long_lines_and_long_files_are_found() {
        assert!(findings(&format!("//! {}\n", "x".repeat(96))).is_empty());
        assert_eq!(findings(&format!("//! {}\n", "x".repeat(97))).len(), 1);
        assert_eq!(findings(&format!("//! x\n{}", "\n".repeat(800))).len(), 1);
    }
}
