//! What `--json` prints: one object for each verb, as its schema in `docs/json` says, and errors of
//! the documented kinds.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;
use common::{Said, World, can_attach, have};
use ploop_daemon::Code;
use serde_json::{Map, Value};
use std::fs;
use std::path::PathBuf;

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn schema(verb: &str) -> Value {
    let path = docs().join(format!("json/{verb}.schema.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("a type {other} in a schema"),
    }
}

/// The part of JSON Schema that ours use; where the value is not as the schema says.
fn wrong(at: &str, value: &Value, schema: &Value, found: &mut Vec<String>) {
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        kinds => kinds.as_array().unwrap().iter().map(|kind| kind.as_str().unwrap()).collect(),
    };
    if !kinds.iter().any(|kind| is(value, kind)) {
        return found.push(format!("{at}: {value} is no {kinds:?}"));
    }
    let none = Map::new();
    if let Some(object) = value.as_object() {
        let known = schema["properties"].as_object().unwrap_or(&none);
        for (key, value) in object {
            match (known.get(key), &schema["additionalProperties"]) {
                (Some(inner), _) => wrong(&format!("{at}.{key}"), value, inner, found),
                (None, more @ Value::Object(_)) => {
                    wrong(&format!("{at}.{key}"), value, more, found)
                }
                (None, _) => found.push(format!("{at}.{key} is not in the schema")),
            }
        }
        for key in schema["required"].as_array().into_iter().flatten() {
            if !object.contains_key(key.as_str().unwrap()) {
                found.push(format!("{at}.{key} is missing"));
            }
        }
    }
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        wrong(&format!("{at}[{n}]"), item, &schema["items"], found);
    }
}

fn validate(verb: &str, value: &Value) {
    let mut found = Vec::new();
    wrong(verb, value, &schema(verb), &mut found);
    assert!(found.is_empty(), "{found:#?}\n{value:#}");
}

/// Runs a verb with `--json`: one object on one line, as the schema says; only objects on stderr.
fn check(world: &World, args: &[&str]) -> Value {
    let said = world.run(&[&["--json"], args].concat());
    assert_eq!(said.out.lines().count(), 1, "{said:?}");
    let value = said.json();
    validate(args[0], &value);
    only_objects(&said);
    value
}

fn only_objects(said: &Said) {
    for line in said.err.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {said:?}"));
        assert!(value.is_object(), "{said:?}");
    }
}

#[test]
fn every_verb_has_a_schema() {
    let world = World::new();
    let help = world.ok(&["--help"]).out;
    let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs: Vec<_> = verbs
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.len() > 20, "{verbs:?}");
    for verb in verbs {
        assert_eq!(schema(verb)["type"], "object", "{verb}");
    }
}

#[test]
fn verbs_of_a_closed_disk() {
    let world = World::new();
    let image = world.disk("a");
    check(&world, &["init", "-s", "16M", "-t", "none", &image]);
    check(&world, &["info", "-s", "a"]);
    check(&world, &["check", "-f", "a"]);
    check(&world, &["check", &image]);
    let first = check(&world, &["snapshot", "a"])["uuid"].as_str().unwrap().to_owned();
    let second = check(&world, &["snapshot", "a"])["uuid"].as_str().unwrap().to_owned();
    let listed = check(&world, &["snapshot-list", "a"]);
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 3);
    check(&world, &["map", "a"]);
    check(&world, &["snapshot-delete", "-u", &second, "a"]);
    check(&world, &["grow", "-s", "32M", "a"]);
    check(&world, &["snapshot", "a"]);
    check(&world, &["snapshot-merge", "a"]);
    check(&world, &["snapshot-switch", "-D", "-u", &first, "a"]);
    check(&world, &["bench", "--time", "0.2", "a"]);
    check(&world, &["convert", "--one-piece", "a"]);
    check(&world, &["list"]);
    check(&world, &["generate", "completions", "bash"]);
    check(&world, &["generate", "man", &world.text("man")]);
    let lone = world.disk("b");
    world.ok(&["init", "-s", "16M", "-t", "none", &lone]);
    fs::remove_file(world.path("b/DiskDescriptor.xml")).unwrap();
    check(&world, &["restore-descriptor", "b", &lone]);
}

#[test]
fn verbs_of_an_open_disk() {
    let world = World::new();
    for disk in ["a", "b"] {
        let image = world.disk(disk);
        world.ok(&["init", "-s", "16M", "-t", "none", &image]);
    }
    let nbd = |name: &str| format!("unix:{}", world.text(name));
    let server = world.serve(&["a", "--json", "--nbd", &nbd("a.sock")], 1);
    let ready: Value = serde_json::from_str(&server.ready[0]).unwrap();
    validate("serve", &ready);
    assert_eq!(ready["pid"], server.pid());
    let other = world.serve(&["b", "--nbd", &nbd("b.sock")], 1);
    check(&world, &["list"]);
    check(&world, &["stat", "-d", "a"]);
    check(&world, &["stat", "-d", "a", "--prometheus"]);
    check(&world, &["stat", "-d", "a", "--watch", "0.1", "--count", "1"]);
    check(&world, &["export", "a", &nbd("more.sock")]);
    check(&world, &["export", "--remove", "a", &nbd("more.sock")]);
    check(&world, &["map", "a"]);
    let group = check(&world, &["snapshot", "a", "b"]);
    assert_eq!(group["snapshots"].as_array().unwrap().len(), 2);
    check(&world, &["snapshot", "a"]);
    check(&world, &["snapshot-merge", "a"]);
    let uuid = check(&world, &["snapshot", "a"])["uuid"].as_str().unwrap().to_owned();
    check(&world, &["snapshot-delete", "-u", &uuid, "a"]);
    let jobs = check(&world, &["jobs", "a"]);
    assert!(!jobs["jobs"].as_array().unwrap().is_empty());
    check(&world, &["grow", "-s", "32M", "a"]);
    assert_eq!((server.end("-TERM"), other.end("-TERM")), (0, 0));
}

#[test]
fn verbs_of_devices_and_mounts() {
    if !can_attach() || !have("mkfs.ext4") || !have("resize2fs") {
        return;
    }
    let world = World::new();
    let image = world.disk("a");
    let (at, beside) = (world.text("mnt"), world.text("mnt-t"));
    fs::create_dir(&at).unwrap();
    fs::create_dir(&beside).unwrap();
    check(&world, &["init", "-s", "64M", &image]);
    check(&world, &["attach", "--via", "loop", "a"]);
    check(&world, &["info", "-d", "a"]);
    check(&world, &["detach", "a"]);
    check(&world, &["mount", "-m", &at, "a"]);
    check(&world, &["info", "a"]);
    check(&world, &["tsnapshot", "-m", &beside, "a"]);
    check(&world, &["umount", "-m", &beside]);
    let gone = check(&world, &["umount", "-m", &at]);
    assert_eq!(gone["mountpoints"][0], fs::canonicalize(&at).unwrap().display().to_string());
    check(&world, &["resize", "-s", "96M", "a"]);
}

/// The table of kinds is the one of the program, and an error is an object as documented.
#[test]
fn errors_have_the_documented_kinds() {
    let text = fs::read_to_string(docs().join("json.md")).unwrap();
    let line = |code: u8| {
        let start = format!("| {code} | ");
        text.lines().find(|line| line.starts_with(&start)).map(str::to_owned)
    };
    for code in Code::ALL {
        let line = line(code.number()).unwrap_or_else(|| panic!("{code:?} is not in the table"));
        assert!(line.contains(&format!("| `{}`", code.kind())), "{code:?}: {line}");
    }
    for kind in ploop_image::ErrorKind::ALL {
        let line = line(kind.exit_code()).unwrap();
        assert!(line.contains(&format!("`{}`", kind.name())), "{kind:?}: {line}");
    }
    for kind in kinds_in_the_source() {
        assert!(text.contains(&format!("`{kind}`")), "{kind} is not in the table");
    }
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "16M", "-t", "none", &image]);
    for (args, kind, code) in [
        (&["check", "nothing"][..], "open", 4),
        (&["info"], "parameter", 38),
        (&["detach", "a"], "not_mounted", 40),
        (
            &["snapshot-delete", "-u", "{00000000-0000-4000-8000-000000000001}", "a"],
            "no_snapshot",
            43,
        ),
        (&["init", "-s", "1G", "-t", "none", &image], "descriptor_exists", 17),
        (&["replace", "a"], "not_available", 38),
        (&["grow", "-s", "1M", "a"], "parameter", 38),
    ] {
        let said = world.run(&[&["--json"], args].concat());
        assert_eq!((said.code, &*said.out), (code, ""), "{said:?}");
        only_objects(&said);
        let last: Value = serde_json::from_str(said.err.lines().last().unwrap()).unwrap();
        validate("error", &last);
        assert_eq!((&last["error"]["kind"], &last["error"]["code"]), (&kind.into(), &code.into()));
    }
}

/// The words that the tool and its servers give to errors of their own.
fn kinds_in_the_source() -> Vec<String> {
    fn below(dir: &std::path::Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { below(&path, found) } else { found.push(path) }
        }
    }
    let mut files = Vec::new();
    for crate_dir in ["ploop-cli/src", "ploop-daemon/src"] {
        below(&docs().join("../crates").join(crate_dir), &mut files);
    }
    let texts = files.iter().map(|path| fs::read_to_string(path).unwrap_or_default());
    let in_text = |text: String| {
        let words = text.split(".kind(\"").skip(1).filter_map(|rest| rest.split('"').next());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let kinds: Vec<_> = texts.flat_map(in_text).collect();
    assert!(kinds.len() > 4, "{kinds:?}");
    kinds
}
