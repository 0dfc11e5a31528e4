//! What a person sees: when, which step, what was proved.

use std::time::Instant;

use crate::sh;

pub struct Timeline {
    start: Instant,
    proofs: usize,
}

impl Timeline {
    pub fn start() -> Self {
        sh::say("  time    step          what happened, and what it proves");
        Self { start: Instant::now(), proofs: 0 }
    }

    /// Something was done.
    pub fn step(&mut self, name: &str, what: &str) {
        let at = self.start.elapsed().as_secs_f64();
        for (nth, line) in what.lines().enumerate() {
            if nth == 0 {
                sh::say(&format!("{at:7.1} s  {name:<12}  {line}"));
            } else {
                sh::say(&format!("{:25}{line}", ""));
            }
        }
    }

    /// Something was compared and found right.
    pub fn proof(&mut self, name: &str, what: &str) {
        self.proofs += 1;
        self.step(name, &format!("{what}  [ok]"));
    }

    pub fn finish(&self) {
        let seconds = self.start.elapsed().as_secs_f64();
        sh::say(&format!("demo: {} checks held, {seconds:.1} seconds", self.proofs));
    }
}
