//! Lines, files, functions and public items of a crate.

use std::fmt;

use crate::tidy::function::functions;
use crate::tidy::source::Source;

/// What is counted of a crate. Functions and items are those outside tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    files: usize,
    lines: usize,
    of_tests: usize,
    median_file: usize,
    largest_file: usize,
    functions: usize,
    median_function: usize,
    largest_function: usize,
    /// Items declared `pub`, whether the module they are in is public or not.
    public: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, lines, of_tests, median_file, largest_file, .. } = self;
        let Self { functions, median_function, largest_function, public, .. } = self;
        write!(f, "{files} | {lines} | {of_tests} | {median_file} | {largest_file} | ")?;
        write!(f, "{functions} | {median_function} | {largest_function} | {public}")
    }
}

pub fn of(files: &[&Source]) -> Counts {
    let mut sizes: Vec<usize> = files.iter().map(|file| file.raw.len()).collect();
    let of_tests = files.iter().flat_map(|file| &file.test).filter(|test| **test).count();
    let mut lengths: Vec<usize> = files.iter().flat_map(|file| lengths(file)).collect();
    let (median_file, largest_file) = middle_and_last(&mut sizes);
    let (median_function, largest_function) = middle_and_last(&mut lengths);
    Counts {
        files: files.len(),
        lines: sizes.iter().sum(),
        of_tests,
        median_file,
        largest_file,
        functions: lengths.len(),
        median_function,
        largest_function,
        public: files.iter().map(|file| public(file)).sum(),
    }
}

/// Lines of each function.
fn lengths(source: &Source) -> impl Iterator<Item = usize> {
    let code = functions(source).into_iter().filter(|(at, ..)| !source.test[*at]);
    code.map(|(.., lines)| lines)
}

fn middle_and_last(numbers: &mut [usize]) -> (usize, usize) {
    numbers.sort_unstable();
    let at = |n: usize| numbers.get(n).copied().unwrap_or_default();
    (at(numbers.len() / 2), at(numbers.len().saturating_sub(1)))
}

fn public(source: &Source) -> usize {
    let lines = source.code.iter().zip(&source.test).filter(|(_, test)| !**test);
    lines.filter(|(line, _)| line.trim_start().starts_with("pub ")).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn tests_count_as_lines_only() {
        let text = "//! x\npub fn a() {\n    b();\n}\nfn c() {}\npub(crate) fn d() {}\n\
                    #[cfg(test)]\nmod tests {\n    pub fn e() {}\n}\n";
        let (long, short) = (Source::new(Path::new("a.rs"), text), "//! x\n");
        let short = Source::new(Path::new("b.rs"), short);
        let counts = of(&[&long, &short]);
        assert_eq!(counts.to_string(), "2 | 11 | 4 | 10 | 10 | 3 | 1 | 3 | 1");
    }
}
