//! The lines that a run prints while it lasts: the time since its start, and what happened.

use std::time::Instant;

#[derive(Clone, Copy)]
pub struct Narrator {
    began: Instant,
}

impl Narrator {
    /// The run begins now.
    pub fn new() -> Self {
        Self { began: Instant::now() }
    }

    pub fn began(&self) -> Instant {
        self.began
    }

    pub fn say(&self, what: &str) {
        println!("{:>7.1} s  {what}", self.began.elapsed().as_secs_f64());
    }
}

impl Default for Narrator {
    fn default() -> Self {
        Self::new()
    }
}
