//! I2, F6, T5, D3, P1, C4 in a comment must exist in docs/, and every invariant claimed there must
//! have a test file of its own, `i2_*.rs`; the licences must be there.

use std::collections::BTreeSet;
use std::path::Path;

use super::source::Source;
use super::{Finding, TextFile};

/// The letter of a family and the document whose table has one row per member.
const FAMILIES: &[(char, &str)] = &[
    ('I', "docs/invariants.md"),
    ('F', "docs/hazards.md"),
    ('D', "docs/hazards.md"),
    ('P', "docs/hazards.md"),
    ('C', "docs/hazards.md"),
    ('T', "docs/decisions.md"),
];

const MUST_EXIST: &[&str] = &["LICENSE-MIT", "LICENSE-APACHE", "README.md", "ARCHITECTURE.md"];

/// What an invariant's row says when nothing in the code keeps it yet.
const NOT_CLAIMED: &str = "not claimed";

pub fn check(files: &[TextFile], sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for name in MUST_EXIST {
        if !files.iter().any(|file| file.path == Path::new(name)) {
            found.push(Finding::new(Path::new(name), 0, "is missing"));
        }
    }
    for (letter, document) in FAMILIES {
        let text = files.iter().find(|file| file.path == Path::new(document));
        let Some(text) = text else {
            found.push(Finding::new(Path::new(document), 0, "is missing"));
            continue;
        };
        let rows = rows(&text.text, *letter);
        for source in sources {
            found.extend(unknown(source, *letter, &rows, document));
        }
        if *letter == 'I' {
            found.extend(untested(&rows, sources, document));
        }
    }
    found
}

/// A row of the table: its number, and whether the project claims to keep it.
type Row = (u32, bool);

/// The rows `| I7 | ...`.
fn rows(text: &str, letter: char) -> BTreeSet<Row> {
    let row = |line: &str| {
        let cell = line.strip_prefix("| ")?.split([' ', '|']).next()?;
        let number = cell.strip_prefix(letter)?.parse().ok()?;
        Some((number, !line.contains(NOT_CLAIMED)))
    };
    text.lines().filter_map(row).collect()
}

/// The numbers cited in a line: `letter` and one or two digits, standing alone.
fn cited(line: &str, letter: char) -> Vec<u32> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in line.match_indices(letter) {
        let rest = &line[at + 1..];
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let alone = !line[..at].ends_with(part) && !rest[digits.len()..].starts_with(part);
        if alone && matches!(digits.len(), 1 | 2) {
            found.extend(digits.parse::<u32>());
        }
    }
    found
}

fn unknown(source: &Source, letter: char, rows: &BTreeSet<Row>, document: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, line) in source.comments.iter().enumerate() {
        for number in cited(line, letter) {
            if !rows.iter().any(|(known, _)| *known == number) {
                let what = format!("{letter}{number} is not in {document}");
                found.push(Finding::new(&source.path, at + 1, what));
            }
        }
    }
    found
}

fn untested(rows: &BTreeSet<Row>, sources: &[Source], document: &str) -> Vec<Finding> {
    let has = |number: u32| {
        let prefix = format!("i{number}_");
        sources.iter().any(|source| {
            source.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        })
    };
    rows.iter()
        .filter(|(number, claimed)| *claimed && !has(*number))
        .map(|(number, _)| {
            let what = format!("I{number} is claimed but has no test file i{number}_*.rs");
            Finding::new(Path::new(document), 0, what)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.into(), text: text.into() }
    }

    #[test]
    fn citations_stand_alone() {
        assert_eq!(cited("I2, (I18) and I5-I7", 'I'), [2, 18, 5, 7]);
        assert!(cited("I/O 0xI2 PI3 I2x I234 I", 'I').is_empty());
    }

    #[test]
    fn rows_are_read_from_the_table() {
        let text = "| # | x |\n| I1 | kept |\n| I14 | not claimed yet |\nI3 in words\n";
        assert_eq!(rows(text, 'I').into_iter().collect::<Vec<_>>(), [(1, true), (14, false)]);
    }

    #[test]
    fn unknown_and_untested_are_found() {
        let mut files: Vec<TextFile> = MUST_EXIST.iter().map(|name| file(name, "")).collect();
        files.push(file("docs/invariants.md", "| I1 | a |\n| I2 | b |\n| I14 | not claimed |\n"));
        files.push(file("docs/hazards.md", "| F1 | a |\n"));
        files.push(file("docs/decisions.md", ""));
        let sources = [
            Source::new(Path::new("tests/i1_whole.rs"), "// I1, F1\n"),
            Source::new(Path::new("src/a.rs"), "// I3\nlet i = \"I4\"; // F2\n"),
        ];
        let found: Vec<String> = check(&files, &sources).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "src/a.rs:1: I3 is not in docs/invariants.md",
                "docs/invariants.md:0: I2 is claimed but has no test file i2_*.rs",
                "src/a.rs:2: F2 is not in docs/hazards.md",
            ]
        );
    }
}
