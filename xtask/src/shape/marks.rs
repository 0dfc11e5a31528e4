//! Patterns and words that the style wants to be rid of, counted outside tests.

use std::path::Path;

use crate::tidy::source::{Source, has_word};

/// Words that this project gave meanings of its own, several each.
const WORDS: &[&str] =
    &["settle", "turn", "frozen", "stage", "clean", "raise", "record", "stock", "lent"];

/// A row of the report for each mark.
pub fn of(sources: &[Source]) -> Vec<String> {
    let keeper = |source: &Source| source.path.starts_with("crates/ploop-engine/src/keeper");
    let bare = count(sources, keeper, |source, at| bare_numbers(&source.code[at]));
    let everywhere = |source: &Source| source.path.starts_with(Path::new("crates"));
    let bools = count(sources, everywhere, |source, at| usize::from(match_on_bool(source, at)));
    let tuples = count(sources, everywhere, |source, at| usize::from(tuple_let(&source.code[at])));
    let mut rows = vec![
        format!("u64 in fields and parameters of the keeper: {bare}"),
        format!("match on a bool: {bools}"),
        format!("let of a tuple written out: {tuples}"),
    ];
    for word in WORDS {
        let code = count(sources, everywhere, |source, at| parts(&source.code[at], word));
        let said = count(sources, everywhere, |source, at| {
            usize::from(has_word(&source.comments[at], word))
        });
        rows.push(format!("`{word}`: {code} times in names, {said} lines of comments"));
    }
    rows
}

fn count(
    sources: &[Source],
    wanted: impl Fn(&Source) -> bool,
    look: impl Fn(&Source, usize) -> usize,
) -> usize {
    let lines = sources.iter().filter(|source| wanted(source)).flat_map(|source| {
        (0..source.code.len()).filter(|at| !source.test[*at]).map(move |at| (source, at))
    });
    lines.map(|(source, at)| look(source, at)).sum()
}

/// Fields and parameters of the type `u64`.
fn bare_numbers(line: &str) -> usize {
    line.match_indices(": u64").count()
}

/// `match x {` with an arm `true` or `false` on one of the next two lines.
fn match_on_bool(source: &Source, at: usize) -> bool {
    let opens = has_word(&source.code[at], "match") && source.code[at].trim_end().ends_with('{');
    let next = source.code.get(at + 1).map(|line| line.trim_start()).unwrap_or_default();
    opens && (next.starts_with("true =>") || next.starts_with("false =>"))
}

/// `let (a, b) = (x, y);`
fn tuple_let(line: &str) -> bool {
    let Some(rest) = line.trim_start().strip_prefix("let (") else { return false };
    rest.split_once(") = (").is_some_and(|(names, _)| !names.contains('('))
}

/// How often a word is a part of a name, as `turn` is of `turn_top` and `TurnUndo`.
fn parts(line: &str, word: &str) -> usize {
    let names = line.split(|c: char| !c.is_alphanumeric());
    names.flat_map(humps).filter(|part| part.eq_ignore_ascii_case(word)).count()
}

/// `TurnUndo` is `Turn` and `Undo`.
fn humps(name: &str) -> Vec<&str> {
    let starts = name.char_indices().filter(|(at, c)| *at > 0 && c.is_uppercase());
    let mut bounds: Vec<usize> = std::iter::once(0).chain(starts.map(|(at, _)| at)).collect();
    bounds.push(name.len());
    bounds.windows(2).map(|ends| &name[ends[0]..ends[1]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted() {
        let text = "//! x\nfn turn_top(a: u64) {\n    match a.is_set() {\n        true => Turn,\n\
                    \x20       false => Return,\n    }\n    let (a, b) = (1, 2);\n}\n// a turn\n";
        let path = Path::new("crates/ploop-engine/src/keeper/x.rs");
        let rows = of(&[Source::new(path, text)]);
        assert_eq!(rows[0], "u64 in fields and parameters of the keeper: 1");
        assert_eq!(rows[1], "match on a bool: 1");
        assert_eq!(rows[2], "let of a tuple written out: 1");
        assert!(rows.contains(&"`turn`: 2 times in names, 1 lines of comments".to_owned()));
    }
}
