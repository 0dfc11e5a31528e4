//! A Rust file in two views of the same shape: its code without comments and literals, and its
//! comments alone. Rules look for words in one of them and cannot be fooled by the other.

use std::path::{Path, PathBuf};

/// A Rust file, line by line.
pub struct Source {
    pub path: PathBuf,
    pub raw: Vec<String>,
    /// Comments and the insides of literals are blanks here.
    pub code: Vec<String>,
    /// Everything but comments is blank here.
    pub comments: Vec<String>,
    /// Lines of tests.
    pub test: Vec<bool>,
}

impl Source {
    pub fn new(path: &Path, text: &str) -> Self {
        let (code, comments) = split(text);
        let lines = |text: &str| text.lines().map(str::to_string).collect::<Vec<_>>();
        let (raw, code, comments) = (lines(text), lines(&code), lines(&comments));
        let everything = is_test_path(path);
        let mut source = Self {
            path: path.to_path_buf(),
            test: vec![everything; raw.len()],
            raw,
            code,
            comments,
        };
        source.mark_test_items();
        source
    }

    pub fn mark_as_test(&mut self) {
        self.test.fill(true);
    }

    /// Whether line `at` (from 0) carries `// tidy: RULE: reason`, on itself or just above.
    pub fn excused(&self, at: usize, rule: &str) -> bool {
        let mark = format!("tidy: {rule}: ");
        let has = |at: usize| self.comments.get(at).is_some_and(|line| line.contains(&mark));
        has(at) || (at > 0 && has(at - 1))
    }

    /// The files named by `#[cfg(test)] mod name;`.
    pub fn test_modules(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for (at, line) in self.code.iter().enumerate() {
            let line = line.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let name = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
            if let Some(name) = name
                && self.test[at]
            {
                let dir = self.module_dir();
                found.push(dir.join(format!("{name}.rs")));
                found.push(dir.join(name).join("mod.rs"));
            }
        }
        found
    }

    /// Where the files of this module's own modules lie.
    fn module_dir(&self) -> PathBuf {
        let name = self.path.file_stem().unwrap_or_default();
        let dir = self.path.parent().unwrap_or(Path::new(""));
        if name == "lib" || name == "main" || name == "mod" {
            dir.to_path_buf()
        } else {
            dir.join(name)
        }
    }

    /// Marks the item behind each `#[cfg(test)]` and `#[test]`.
    fn mark_test_items(&mut self) {
        for at in 0..self.code.len() {
            if is_test_attribute(self.code[at].trim()) {
                let end = self.end_of_item(at);
                self.test[at..=end].fill(true);
            }
        }
    }

    /// The line where the item that starts at line `from` ends: at its closing brace, or at a `;`
    /// that comes before any brace.
    pub fn end_of_item(&self, from: usize) -> usize {
        let mut depth = 0_usize;
        let mut brackets = 0_usize;
        for (at, line) in self.code.iter().enumerate().skip(from) {
            for c in line.chars() {
                match c {
                    '(' | '[' => brackets += 1,
                    ')' | ']' => brackets = brackets.saturating_sub(1),
                    '{' => depth += 1,
                    '}' => {
                        depth = depth.saturating_sub(1);
                        if depth == 0 && brackets == 0 {
                            return at;
                        }
                    }
                    ';' if depth == 0 && brackets == 0 => return at,
                    _ => {}
                }
            }
        }
        self.code.len().saturating_sub(1)
    }
}

/// `#[test]`, `#[cfg(test)]`, `#[cfg(all(test, loom))]`, but not `#[cfg(not(test))]`.
fn is_test_attribute(line: &str) -> bool {
    if line.starts_with("#[test]") {
        return true;
    }
    let Some(inside) = line.strip_prefix("#[cfg(") else { return false };
    let inside = inside.split(']').next().unwrap_or_default();
    !inside.contains("not(") && has_word(inside, "test")
}

/// Whether `word` stands in `text` with no letter, digit or `_` on either side.
pub fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

fn is_test_path(path: &Path) -> bool {
    let dir = |name: &str| path.components().any(|part| part.as_os_str() == name);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    dir("tests") || dir("benches") || dir("fuzz") || stem == "tests" || stem.ends_with("_tests")
}

/// The code and the comments of `text`, each with the other replaced by blanks.
fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut comments = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let (length, kind) = token(&chars[at..], at.checked_sub(1).map(|before| chars[before]));
        for (nth, c) in chars[at..at + length].iter().enumerate() {
            let blank = if *c == '\n' { '\n' } else { ' ' };
            let edge = nth == 0 || nth + 1 == length;
            let in_code = kind == Kind::Code || (kind == Kind::Literal && edge);
            code.push(if in_code { *c } else { blank });
            comments.push(if kind == Kind::Comment { *c } else { blank });
        }
        at += length;
    }
    (code, comments)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// How many of the characters at the start belong together, and as what.
fn token(rest: &[char], before: Option<char>) -> (usize, Kind) {
    match (rest[0], rest.get(1)) {
        ('/', Some('/')) => (line_end(rest), Kind::Comment),
        ('/', Some('*')) => (block_comment(rest), Kind::Comment),
        ('"', _) => (string(rest), Kind::Literal),
        ('r', Some('"' | '#')) if !before.is_some_and(is_ident) || before == Some('b') => {
            raw_string(rest).map_or((1, Kind::Code), |length| (length, Kind::Literal))
        }
        ('\'', _) => char_literal(rest).map_or((1, Kind::Code), |length| (length, Kind::Literal)),
        _ => (1, Kind::Code),
    }
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_end(rest: &[char]) -> usize {
    rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at.min(rest.len());
        }
    }
    rest.len()
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#`; `None` for a raw identifier such as `r#type`.
fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let body = 2 + hashes;
    let end = (body..rest.len()).find(|at| {
        rest[*at] == '"'
            && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    });
    Some(end.map_or(rest.len(), |end| end + 1 + hashes))
}

/// `'a'`, `'\n'`, `'\u{2500}'`; `None` for a lifetime.
fn char_literal(rest: &[char]) -> Option<usize> {
    if rest.get(1) == Some(&'\\') {
        let end = rest.iter().skip(3).position(|c| *c == '\'')?;
        return Some(3 + end + 1);
    }
    (rest.get(2) == Some(&'\'')).then_some(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        split(text).0
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(code("a /* b /* c */ d */ e"), "a                   e");
        assert_eq!(code(r#"f("x \" // y", 'z')"#), "f(\"         \", ' ')");
        assert_eq!(code("r#\"a\"b\"# c br\"d\""), "r      # c br  \"");
        assert_eq!(code("fn f<'a>(x: &'a str) { '\\'' }"), "fn f<'a>(x: &'a str) { '  ' }");
        assert_eq!(code("let r#type = 1;"), "let r#type = 1;");
    }

    #[test]
    fn comments_keep_their_place() {
        assert_eq!(split("a // I2\n\"// I3\"").1, "  // I2\n       ");
    }

    #[test]
    fn test_items_are_found_to_their_end() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n\
            #[cfg(not(test))]\nfn d() {}\n#[test]\nfn e()\n{\n}\nfn g() {}";
        let source = Source::new(Path::new("src/x.rs"), text);
        let lines: Vec<usize> = (0..source.test.len()).filter(|at| source.test[*at]).collect();
        assert_eq!(lines, [1, 2, 3, 4, 8, 9, 10, 11]);
    }

    #[test]
    fn a_test_module_in_its_own_file_is_named() {
        let source =
            Source::new(Path::new("c/src/map.rs"), "#[cfg(test)]\nmod model;\nmod page;\n");
        assert_eq!(
            source.test_modules(),
            [Path::new("c/src/map/model.rs"), Path::new("c/src/map/model/mod.rs")]
        );
    }

    #[test]
    fn words_end_where_letters_end() {
        assert!(has_word("(test, x)", "test") && !has_word("testing latest", "test"));
    }
}
