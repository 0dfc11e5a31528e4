//! Which module of a crate uses which other, and circles of modules that use each other.
//!
//! A module and those inside it count as one when they are compared with their neighbours, so a
//! circle is always one of modules side by side. A module and the one that contains it are no
//! circle: that is how a type is spread over several files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::tidy::source::Source;

/// A module by the names on its way: `[]` is the crate, `["queue", "start"]` a file in a folder.
type Module = Vec<String>;

/// The uses inside a crate, each with the place of one of them.
pub struct Graph {
    modules: BTreeSet<Module>,
    uses: BTreeMap<(Module, Module), String>,
}

/// Modules that use each other, and their uses of each other.
#[derive(Debug)]
pub struct Circle {
    modules: BTreeSet<Module>,
    uses: BTreeMap<(Module, Module), String>,
}

impl Graph {
    /// Of the files of one crate that are no tests.
    pub fn of(name: &str, files: &[&Source]) -> Self {
        let root = Path::new("crates").join(name).join("src");
        let mut sources: BTreeMap<Module, &Source> = BTreeMap::new();
        for file in files.iter().filter(|file| !file.test.iter().all(|test| *test)) {
            if let Ok(path) = file.path.strip_prefix(&root) {
                sources.insert(module(path), file);
            }
        }
        let modules: BTreeSet<Module> = sources.keys().cloned().collect();
        let mut uses = BTreeMap::new();
        for (from, source) in &sources {
            for (at, path) in paths(source) {
                let Some(to) = resolve(from, &path, &modules) else { continue };
                let Some(edge) = beside(from, &to) else { continue };
                let place = format!("{}:{}", source.path.display(), at + 1);
                uses.entry(edge).or_insert(place);
            }
        }
        Self { modules, uses }
    }

    /// Groups of modules of which each reaches each.
    pub fn circles(&self) -> Vec<Circle> {
        let mut nodes: BTreeSet<&Module> = self.modules.iter().collect();
        nodes.extend(self.uses.keys().flat_map(|(from, to)| [from, to]));
        let mut left = nodes.clone();
        let mut found = Vec::new();
        while let Some(first) = left.pop_first() {
            let ahead = self.reach(first, |(from, to)| (from, to));
            let behind = self.reach(first, |(from, to)| (to, from));
            let members: BTreeSet<Module> = ahead.intersection(&behind).cloned().collect();
            left.retain(|node| !members.contains(*node));
            if members.len() > 1 {
                found.push(self.circle(members));
            }
        }
        found
    }

    fn reach<'a>(
        &'a self,
        start: &'a Module,
        turn: impl Fn((&'a Module, &'a Module)) -> (&'a Module, &'a Module),
    ) -> BTreeSet<Module> {
        let mut seen = BTreeSet::from([start.clone()]);
        let mut todo = vec![start];
        while let Some(node) = todo.pop() {
            for (from, to) in self.uses.keys().map(|(from, to)| turn((from, to))) {
                if from == node && seen.insert(to.clone()) {
                    todo.push(to);
                }
            }
        }
        seen
    }

    fn circle(&self, modules: BTreeSet<Module>) -> Circle {
        let inside = |(from, to): &(Module, Module)| modules.contains(from) && modules.contains(to);
        let uses = self.uses.iter().filter(|(edge, _)| inside(edge));
        let uses = uses.map(|(edge, place)| (edge.clone(), place.clone())).collect();
        Circle { modules, uses }
    }
}

impl Circle {
    /// Uses that must go for an order of the modules to exist, by taking again and again the
    /// module that fewest of the others use.
    pub fn against(&self) -> usize {
        let mut left = self.modules.clone();
        let mut against = 0;
        while left.len() > 1 {
            let users = |node: &Module| {
                self.uses.keys().filter(|(from, to)| to == node && left.contains(from)).count()
            };
            let Some(top) = left.iter().min_by_key(|node| users(node)).cloned() else { break };
            against += users(&top);
            left.remove(&top);
        }
        against
    }
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.modules.iter().map(|module| module.join("::")).collect();
        write!(f, "{}", names.join(", "))?;
        for ((from, to), place) in &self.uses {
            write!(f, "\n    {} -> {} at {place}", from.join("::"), to.join("::"))?;
        }
        Ok(())
    }
}

/// `queue/mod.rs` and `queue.rs` are `queue`; `lib.rs` and `main.rs` are the crate itself.
fn module(path: &Path) -> Module {
    let text = path.with_extension("").to_string_lossy().into_owned();
    let mut parts: Module = text.split('/').map(str::to_owned).collect();
    let whole = ["mod", "lib", "main"];
    if parts.last().is_some_and(|last| whole.contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// The neighbours that a use connects: the first names that differ. `None` when one contains the
/// other.
fn beside(from: &Module, to: &Module) -> Option<(Module, Module)> {
    let same = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    let (a, b) = (from.get(..=same)?, to.get(..=same)?);
    Some((a.to_vec(), b.to_vec()))
}

/// The module that a path means, seen from another: the longest beginning that is one.
fn resolve(from: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let mut at: Module = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" => from.clone(),
        "super" => from.get(..from.len().checked_sub(1)?)?.to_vec(),
        _ => return None,
    };
    for name in &path[1..] {
        if name == "super" {
            at.pop()?;
            continue;
        }
        at.push(name.clone());
        if !modules.contains(&at) {
            at.pop();
            break;
        }
    }
    Some(at)
}

/// Every path that begins with `crate`, `self` or `super`, with its line; braces are spread out.
fn paths(source: &Source) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < source.code.len() {
        let line = &source.code[at];
        if source.test[at] {
            at += 1;
            continue;
        }
        let end = match statement(line) {
            true => source.end_of_item(at),
            false => at,
        };
        let text = source.code[at..=end].join(" ");
        found.extend(spread(&text).into_iter().map(|path| (at, path)));
        at = end + 1;
    }
    found
}

/// Whether a line begins a `use` statement.
fn statement(line: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub ")).unwrap_or(line);
    line.starts_with("use ")
}

/// The paths in a text: `crate::{a::b, c}` is `crate::a::b` and `crate::c`.
fn spread(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            if !text[..at].ends_with(part) {
                walk(&text[at..], &mut Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Reads one path with what it has in braces; returns what follows it.
fn walk<'a>(text: &'a str, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let depth = path.len();
    let mut rest = text.trim_start();
    loop {
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        rest = &rest[name.len()..];
        if !name.is_empty() {
            path.push(name);
        }
        let Some(next) = rest.strip_prefix("::") else { break };
        rest = next.trim_start();
        let Some(mut inner) = rest.strip_prefix('{') else { continue };
        loop {
            inner = walk(inner, path, found);
            inner = inner.trim_start();
            match inner.strip_prefix(',') {
                Some(next) => inner = next,
                None => break,
            }
        }
        path.truncate(depth);
        return inner.strip_prefix('}').unwrap_or(inner);
    }
    if path.len() > depth {
        found.push(path.clone());
    }
    path.truncate(depth);
    // `name as other`
    rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == ' ' || c == '_' || c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let source = |(path, text): &(&str, &str)| {
            Source::new(&Path::new("crates/x/src").join(path), &format!("//! x\n{text}"))
        };
        let sources: Vec<Source> = files.iter().map(source).collect();
        let graph = Graph::of("x", &sources.iter().collect::<Vec<_>>());
        let circles = graph.circles();
        circles.iter().map(|circle| format!("{} {circle}", circle.against())).collect()
    }

    #[test]
    fn braces_are_spread_out() {
        let paths = spread("pub use crate::{a::{self, B as C}, d::*, e}; super::f::g(h)");
        let paths: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
        assert_eq!(paths, ["crate::a::self", "crate::a::B", "crate::d", "crate::e", "super::f::g"]);
    }

    #[test]
    fn modules_side_by_side_that_use_each_other_are_a_circle() {
        let a = ("a.rs", "use crate::b::c::D;\n");
        let b = ("b/mod.rs", "mod c;\n");
        let c = ("b/c.rs", "fn f() { crate::a::g() }\n");
        let said = "1 a, b\n    a -> b at crates/x/src/a.rs:2\n    b -> a at crates/x/src/b/c.rs:2";
        assert_eq!(circles(&[a, b, c]), [said]);
        assert!(circles(&[a, b]).is_empty());
    }

    #[test]
    fn what_contains_a_module_and_tests_do_not_count() {
        let inside = ("b/c.rs", "use super::T;\n#[cfg(test)]\nmod tests {\n use crate::a::X;\n}\n");
        let files = [("b/mod.rs", "mod c;\nuse c::U;\n"), inside, ("a.rs", "use crate::b::T;\n")];
        assert!(circles(&files).is_empty());
    }
}
