//! Packages from the machine's own Debian mirror, kept under `target/vm`.
//!
//! An apt of its own (configuration, lists, state) sees suites this machine does not use, so
//! nothing is installed and the system's apt hears of nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::plan::{self, Kernel, Plan};
use crate::sh;

/// The cache.
pub struct Store {
    root: PathBuf,
    plan: Plan,
    /// The lists were fetched in this run.
    updated: bool,
}

impl Store {
    pub fn open() -> Result<Self> {
        let root = sh::target_dir()?.join("vm");
        fs::create_dir_all(&root)?;
        Ok(Self { root, plan: plan::plan(&codename()?)?, updated: false })
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Fetches what is not there: qemu, the tools.
    pub fn programs(&mut self) -> Result<()> {
        for n in 0..self.plan.unpack.len() {
            let one = &self.plan.unpack[n];
            let into = self.root.join(&one.directory);
            let mark = into.join(format!(".fetched-{n}"));
            let wanted = format!("{} {}", one.suite, one.packages.join(" "));
            if fs::read_to_string(&mark).is_ok_and(|there| there == wanted) {
                continue;
            }
            let packages: Vec<_> =
                one.packages.iter().map(|name| format!("{name}/{}", one.suite)).collect();
            self.update()?;
            self.unpack(&packages, &into)?;
            fs::write(&mark, wanted)?;
        }
        Ok(())
    }

    /// Packages of one suite with all they need, libraries and loader, unpacked in a folder of
    /// their own: programs newer than this system's.
    pub fn folder(&mut self, name: &str, suite: &str, packages: &[&str]) -> Result<PathBuf> {
        let into = self.root.join(name);
        let (mark, wanted) = (into.join(".fetched"), format!("{suite} {}", packages.join(" ")));
        if fs::read_to_string(&mark).is_ok_and(|there| there == wanted) {
            return Ok(into);
        }
        self.update()?;
        let packages: Vec<_> = packages.iter().map(|name| format!("{name}/{suite}")).collect();
        self.unpack(&packages, &into)?;
        fs::write(&mark, wanted)?;
        Ok(into)
    }

    /// A kernel's directory, fetched when it is not there.
    pub fn kernel(&mut self, kernel: &Kernel) -> Result<PathBuf> {
        let into = self.root.join("kernel").join(&kernel.series);
        let mark = into.join(".fetched");
        if mark.is_file() {
            return Ok(into);
        }
        self.update()?;
        let listed = sh::text(self.apt("apt-cache").args(["pkgnames", "linux-"]))?;
        let image = plan::newest(listed.lines(), &kernel.series)
            .with_context(|| format!("no kernel of series {} on the mirror", kernel.series))?;
        let version = plan::version(image).unwrap_or_default();
        // Newer kernels come in parts.
        let part = |part: &str| format!("linux-{part}-{version}-cloud-amd64");
        let parts = [part("image"), part("binary"), part("modules")];
        let packages: Vec<_> =
            parts.into_iter().filter(|name| listed.lines().any(|line| line == name)).collect();
        self.unpack(&packages, &into)?;
        fs::write(&mark, version)?;
        Ok(into)
    }

    fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        sh::say(&format!("vm: fetching {}", packages.join(" ")));
        let debs = self.root.join("debs");
        let _ = fs::remove_dir_all(&debs);
        fs::create_dir_all(&debs)?;
        fs::create_dir_all(into)?;
        sh::text(self.apt("apt-get").arg("download").args(packages).current_dir(&debs))?;
        for entry in fs::read_dir(&debs)? {
            sh::text(sh::program("dpkg").arg("-x").arg(entry?.path()).arg(into))?;
        }
        fs::remove_dir_all(&debs)?;
        Ok(())
    }

    fn update(&mut self) -> Result<()> {
        if self.updated {
            return Ok(());
        }
        let apt = self.root.join("apt");
        for dir in ["state/lists/partial", "cache/archives/partial", "etc/parts"] {
            fs::create_dir_all(apt.join(dir))?;
        }
        fs::write(apt.join("state/status"), "")?;
        let mirror = mirror()?;
        let mut sources = String::new();
        for suite in &self.plan.suites {
            let Mirror { uri, options } = &mirror;
            writeln!(sources, "deb {options}{uri} {suite} main")?;
        }
        fs::write(apt.join("etc/sources.list"), sources)?;
        let dir = apt.display();
        let text = format!(
            "Dir \"{dir}\";\nDir::State \"{dir}/state\";\n\
             Dir::State::status \"{dir}/state/status\";\nDir::Cache \"{dir}/cache\";\n\
             Dir::Etc \"{dir}/etc\";\nDir::Etc::parts \"{dir}/etc/parts\";\n\
             Dir::Etc::sourceparts \"{dir}/etc/parts\";\n\
             Dir::Etc::trustedparts \"/etc/apt/trusted.gpg.d\";\n\
             APT::Sandbox::User \"\";\nAcquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n"
        );
        fs::write(apt.join("apt.conf"), text)?;
        sh::text(self.apt("apt-get").args(["--quiet=2", "update"]))?;
        self.updated = true;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = sh::program(program);
        command.env("APT_CONFIG", self.root.join("apt/apt.conf"));
        command
    }
}

/// What the machine's own sources say.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    uri: String,
    /// `[signed-by=...] ` or nothing.
    options: String,
}

/// The mirror that the machine's Debian came from.
fn mirror() -> Result<Mirror> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let suite = codename()?;
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let found = match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => in_stanzas(&text, &suite),
            Some("list") => in_lines(&text, &suite),
            _ => None,
        };
        if let Some(mirror) = found {
            return Ok(mirror);
        }
    }
    bail!("no source in /etc/apt has the suite {suite}")
}

/// `deb [options] URI suite main`.
fn in_lines(text: &str, suite: &str) -> Option<Mirror> {
    text.lines().find_map(|line| {
        let line = line.trim().strip_prefix("deb ")?.trim();
        let (options, rest) = match line.strip_prefix('[').and_then(|l| l.split_once(']')) {
            Some((options, rest)) => (format!("[{options}] "), rest),
            None => (String::new(), line),
        };
        let mut words = rest.split_whitespace();
        let uri = words.next()?;
        let is = words.next()? == suite && words.any(|word| word == "main");
        is.then(|| Mirror { uri: uri.to_owned(), options })
    })
}

/// Paragraphs of `Key: value`.
fn in_stanzas(text: &str, suite: &str) -> Option<Mirror> {
    text.split("\n\n").find_map(|stanza| {
        let get = |key: &str| {
            let line = stanza.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.strip_prefix(':')?.trim())
        };
        let has = |key, word| get(key).is_some_and(|v| v.split_whitespace().any(|w| w == word));
        if !has("Types", "deb") || !has("Suites", suite) || !has("Components", "main") {
            return None;
        }
        let uri = get("URIs")?.split_whitespace().next()?.to_owned();
        let signed = get("Signed-By").filter(|value| value.starts_with('/'));
        let options = signed.map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
        Some(Mirror { uri, options })
    })
}

/// The suite this machine runs.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.unwrap_or_default().trim_matches('"').to_owned();
    ensure!(!name.is_empty(), "/etc/os-release names no suite: this wants Debian");
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sources() {
        let mirror = |uri: &str, options: &str| {
            Some(Mirror { uri: uri.to_owned(), options: options.to_owned() })
        };
        let lines = "# deb ftp://a/x suite main\ndeb [signed-by=/k] ftp://b/x suite main\n";
        assert_eq!(in_lines(lines, "suite"), mirror("ftp://b/x", "[signed-by=/k] "));
        assert_eq!(in_lines("deb ftp://b/x other main", "suite"), None);
        let stanzas = "Types: deb\n# note\nURIs: ftp://s/x\nSuites: suite-security\n\
             Components: main\n\nTypes: deb\nURIs: ftp://c/x\nSuites: suite suite-updates\n\
             Components: main\nSigned-By: /usr/k.gpg\n";
        assert_eq!(in_stanzas(stanzas, "suite"), mirror("ftp://c/x", "[signed-by=/usr/k.gpg] "));
    }
}
