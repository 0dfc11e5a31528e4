//! Words that are forbidden in some places: panics outside tests, blocking calls and clocks outside
//! the layers that own them, locks in the queues.

use std::path::Path;

use super::Finding;
use super::source::{Source, has_word};

/// A panic waiting for bad data. Programs that only developers run may have them.
const PANICS: &[&str] = &[".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!("];
const MAY_PANIC: &[&str] = &["xtask/", "crates/ploop-sim/", "fuzz/", "tests/", "benches/"];

/// Files, clocks and threads enter here by the traits of ploop-io (architecture, "contracts").
const PURE: &[&str] = &["crates/ploop-format/", "crates/ploop-engine/", "crates/ploop-image/"];
/// In a front end they belong to the modules that serve, not to its codec.
const CODECS: &[&str] = &["protocol", "handshake", "request", "reply", "options", "transfer"];
const OUTSIDE: &[&str] = &[
    "std::fs",
    "fs::File",
    "Instant::now",
    "SystemTime::now",
    "thread::spawn",
    "thread::sleep",
    "thread::scope",
    "thread::Builder",
];

/// A mapped read or write takes no lock.
const QUEUE: &[&str] = &["front", "split", "map", "grace", "route", "zero", "queue"];
const LOCKS: &[&str] = &["Mutex", "RwLock", "Condvar"];

pub fn check(source: &Source) -> Vec<Finding> {
    let mut found = panics(source);
    found.extend(outside(source));
    found.extend(locks(source));
    found.extend(safety(source));
    found.extend(ignored(source));
    found
}

fn starts(path: &Path, dirs: &[&str]) -> bool {
    dirs.iter().any(|dir| path.starts_with(dir))
}

/// Every line of code outside tests that has one of the words.
fn lines<'a>(
    source: &'a Source,
    words: &'a [&'a str],
    rule: &'a str,
) -> impl Iterator<Item = (usize, &'a str)> {
    source.code.iter().enumerate().flat_map(move |(at, line)| {
        words
            .iter()
            .filter(move |word| contains(line, word))
            .filter(move |_| !source.test[at] && !source.excused(at, rule))
            .map(move |word| (at + 1, *word))
    })
}

/// A word that begins or ends with a letter must do so in the line too.
fn contains(line: &str, word: &str) -> bool {
    let bare = word.trim_start_matches('.').trim_end_matches(['(', ')', '!']);
    line.contains(word) && has_word(line, bare)
}

fn panics(source: &Source) -> Vec<Finding> {
    if starts(&source.path, MAY_PANIC) {
        return Vec::new();
    }
    lines(source, PANICS, "panic")
        .map(|(at, word)| {
            let what = format!("`{word}` outside tests: return an error that carries the numbers");
            Finding::new(&source.path, at, what)
        })
        .collect()
}

fn outside(source: &Source) -> Vec<Finding> {
    let named = |name: &&str| source.path.with_extension("").iter().any(|part| part == *name);
    let codec = starts(&source.path, &["crates/ploop-nbd/", "crates/ploop-fuse/"])
        && CODECS.iter().any(named);
    if !codec && !starts(&source.path, PURE) {
        return Vec::new();
    }
    let mut found: Vec<Finding> = lines(source, OUTSIDE, "outside")
        .map(|(at, word)| {
            let what = format!("`{word}` here: use Dir, RawFile, Clock or Entropy of ploop-io");
            Finding::new(&source.path, at, what)
        })
        .collect();
    for (at, inside) in uses_of_std(source) {
        if has_word(&inside, "fs") && !source.test[at] && !source.excused(at, "outside") {
            found.push(Finding::new(&source.path, at + 1, "`std::fs` here: use Dir of ploop-io"));
        }
    }
    found
}

/// `use std::{...};`, which may take several lines: its first line and what is between the braces.
fn uses_of_std(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        if line.trim_start().starts_with("use std::{") {
            let whole = source.code[at..=source.end_of_item(at)].join(" ");
            found.push((at, whole));
        }
    }
    found
}

fn locks(source: &Source) -> Vec<Finding> {
    let Ok(inside) = source.path.strip_prefix("crates/ploop-engine/src") else { return Vec::new() };
    let first = inside.components().next().map(|part| part.as_os_str().to_string_lossy());
    let first = first.unwrap_or_default().trim_end_matches(".rs").to_string();
    if !QUEUE.contains(&first.as_str()) {
        return Vec::new();
    }
    lines(source, LOCKS, "lock")
        .map(|(at, word)| {
            let what = format!("`{word}` in a queue module: mapped I/O takes no lock");
            Finding::new(&source.path, at, what)
        })
        .collect()
}

/// Clippy asks the same; this one also sees code that is not built here.
fn safety(source: &Source) -> Vec<Finding> {
    const ABOVE: usize = 12;
    let mut found = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        let opens = line.contains("unsafe {") || line.contains("unsafe impl");
        let said = |line: &String| line.contains("SAFETY:");
        if opens && !source.comments[at.saturating_sub(ABOVE)..=at].iter().any(said) {
            found.push(Finding::new(&source.path, at + 1, "unsafe without a `// SAFETY:` comment"));
        }
    }
    found
}

fn ignored(source: &Source) -> Vec<Finding> {
    let lines = source.code.iter().enumerate();
    lines
        .filter(|(_, line)| line.contains("#[ignore"))
        .map(|(at, _)| {
            let what = "an ignored test: let it run, or skip it with a reason (ploop_e2e::skip)";
            Finding::new(&source.path, at + 1, what)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, text: &str) -> Vec<usize> {
        check(&Source::new(Path::new(path), text)).into_iter().map(|f| f.line).collect()
    }

    #[test]
    fn panics_are_found_outside_tests_only() {
        let text = "//! x\nfn a() { b.unwrap() }\nfn c() { b.unwrap_or(1) }\n\
            fn d() { b.expect_err(e) }\nfn e() { f(\".unwrap()\") } // .unwrap()\n\
            #[cfg(test)]\nmod t { fn g() { h.unwrap() } }\n";
        assert_eq!(at("crates/ploop-nbd/src/x.rs", text), [2]);
        assert!(at("xtask/src/x.rs", text).is_empty());
        assert!(at("crates/ploop-nbd/tests/x.rs", text).is_empty());
    }

    #[test]
    fn a_reason_excuses_a_line() {
        let text =
            "// tidy: panic: a constant\nconst A: u8 = b.unwrap();\nconst C: u8 = b.unwrap();\n";
        assert_eq!(at("crates/ploop-io/src/x.rs", text), [3]);
    }

    #[test]
    fn files_and_clocks_stay_out_of_the_engine() {
        let text = "use std::fs;\nuse std::{\n  io,\n  fs::File,\n};\nlet a = Instant::now();\n\
            use std::io;\nlet d = Duration::ZERO;\n";
        assert_eq!(at("crates/ploop-engine/src/x.rs", text), [1, 4, 6, 2]);
        assert!(at("crates/ploop-io/src/x.rs", text).is_empty());
        assert!(at("crates/ploop-nbd/src/server.rs", text).is_empty());
        assert!(!at("crates/ploop-nbd/src/handshake.rs", text).is_empty());
    }

    #[test]
    fn queues_have_no_lock() {
        let text = "use std::sync::Mutex;\n";
        assert_eq!(at("crates/ploop-engine/src/map.rs", text), [1]);
        assert_eq!(at("crates/ploop-engine/src/map/page.rs", text), [1]);
        assert!(at("crates/ploop-engine/src/keeper/pool.rs", text).is_empty());
    }

    #[test]
    fn unsafe_and_ignore_need_words() {
        assert_eq!(at("crates/ploop-io/src/x.rs", "let a = unsafe { b() };\n"), [1]);
        assert!(
            at("crates/ploop-io/src/x.rs", "// SAFETY: b\nlet a = unsafe { b() };\n").is_empty()
        );
        assert_eq!(at("crates/ploop-io/tests/x.rs", "#[ignore]\nfn a() {}\n"), [1]);
    }
}
