//! The list of what the test machine is made of, `packages.txt`, read into values.

use anyhow::{Result, bail, ensure};

/// The list itself.
const LIST: &str = include_str!("packages.txt");

/// Packages unpacked into one directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Unpack {
    pub directory: String,
    pub suite: String,
    pub packages: Vec<String>,
}

/// A series of kernels.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// `6.12`, or `newest`.
    pub series: String,
    /// One of those that take turns.
    pub ci: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub suites: Vec<String>,
    pub unpack: Vec<Unpack>,
    pub kernels: Vec<Kernel>,
}

/// The list, for a machine that runs `host`.
pub fn plan(host: &str) -> Result<Plan> {
    parse(LIST, host)
}

fn parse(text: &str, host: &str) -> Result<Plan> {
    let mut plan = Plan::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let line = line.replace("HOST", host);
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => {}
            ["suites", ..] => plan.suites.extend_from_slice(&words[1..]),
            ["unpack", directory, suite, _, ..] => plan.unpack.push(Unpack {
                directory: (*directory).to_owned(),
                suite: (*suite).to_owned(),
                packages: words[3..].to_vec(),
            }),
            ["kernel", series, when @ ("ci" | "hand")] => {
                plan.kernels.push(Kernel { series: (*series).to_owned(), ci: *when == "ci" });
            }
            _ => bail!("packages.txt: cannot read `{line}`"),
        }
    }
    ensure!(plan.kernels.iter().any(|kernel| kernel.ci), "packages.txt: no kernel for CI");
    Ok(plan)
}

/// The newest of these package names that belong to `series`, compared by their numbers.
pub fn newest<'a>(names: impl Iterator<Item = &'a str>, series: &str) -> Option<&'a str> {
    names.filter(|name| belongs(name, series)).max_by_key(|name| numbers(name))
}

/// `linux-image-6.12.107+deb13-cloud-amd64` belongs to 6.12, its `-dbg` to none.
fn belongs(name: &str, series: &str) -> bool {
    let Some(version) = version(name) else { return false };
    series == "newest" || version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))
}

/// The version in a package's name.
pub fn version(name: &str) -> Option<&str> {
    let version = name.strip_prefix("linux-image-")?.strip_suffix("-cloud-amd64")?;
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read() {
        let plan = plan("bookworm").unwrap();
        assert_eq!(plan.suites[..2], ["bookworm", "bookworm-backports"]);
        let ci: Vec<_> = plan.kernels.iter().filter(|k| k.ci).map(|k| &k.series).collect();
        assert_eq!(ci, ["6.12", "6.18"]);
        assert!(plan.unpack.iter().all(|unpack| !unpack.suite.contains("HOST")));
        assert!(parse("kernel 6.12", "x").is_err());
        assert!(parse("suites a b", "x").is_err(), "no kernel");
    }

    #[test]
    fn the_newest_of_a_series_by_number() {
        let names = [
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.95+deb12-cloud-amd64",
            "linux-image-6.12.117+deb13-cloud-amd64-dbg",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.18.9+deb13-cloud-amd64",
            "linux-image-6.18.15+deb13-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-image-7.3.4+deb13-amd64",
        ];
        let of = |series| newest(names.into_iter(), series);
        assert_eq!(of("6.12"), Some(names[0]));
        assert_eq!(of("6.1"), Some(names[3]));
        assert_eq!(of("6.18"), Some(names[5]));
        assert_eq!(of("newest"), Some(names[5]));
        assert_eq!(of("5.10"), None);
    }
}
