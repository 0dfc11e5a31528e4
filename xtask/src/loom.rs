//! `cargo xtask loom`: every model of the lock-free parts, under every interleaving and every legal
//! reordering.

use anyhow::Result;

use crate::sh;

/// Crate, model, what it proves.
const MODELS: &[(&str, &str, &str)] = &[
    ("ploop-engine", "loom_grace", "no I/O reaches a freed cluster (F9, I11)"),
    ("ploop-engine", "loom_map", "no mapping is taken for durable or missed (F3, I4, I15)"),
    ("ploop-engine", "loom_sync_slot", "one sync at a time, and none leaves a change out (I3, F5)"),
    ("ploop-io", "loom_wake", "no message is slept over (D6)"),
];

pub fn run() -> Result<()> {
    for (package, model, proves) in MODELS {
        sh::say(&format!("loom: {model}: {proves}"));
        let mut command = sh::cargo();
        command.args(["test", "--quiet", "--package", package, "--features", "loom"]);
        sh::run(command.args(["--test", model]))?;
    }
    Ok(())
}
