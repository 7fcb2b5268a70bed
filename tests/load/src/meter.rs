//! What processes use, as the kernel counts it: CPU time and memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use countersign_tests::stack::Stack;
use rustix::param::clock_ticks_per_second;
use rustix::process::Pid;

/// A process, or one with all its children: Postgres is many.
#[derive(Clone, Copy)]
pub(crate) struct Meter {
    pid: i32,
    with_children: bool,
}

/// As read at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time so far, that of ended children included.
    pub(crate) cpu: Duration,
    /// Resident, in bytes; of several processes without what they share.
    pub(crate) memory: u64,
}

impl Meter {
    pub(crate) fn of(pid: Pid) -> Self {
        Self { pid: pid.as_raw_nonzero().get(), with_children: false }
    }

    /// A running process of a stack.
    pub(crate) fn of_stack(stack: &Stack, name: &str) -> Result<Self> {
        let pid = stack.pid(name).with_context(|| format!("{name} is not running"))?;
        Ok(Self { with_children: name == "postgres", ..Self::of(pid) })
    }

    pub(crate) fn read(self) -> Result<Usage> {
        let own = || read(self.pid).with_context(|| format!("process {} has gone", self.pid));
        if !self.with_children {
            return Ok(own()?.usage);
        }
        // Again where a child ended meanwhile: its time may be in neither, or in both.
        loop {
            let before = own()?;
            let mut usage = before.usage;
            let entries = fs::read_dir("/proc")?.flatten();
            let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            for child in pids.filter_map(read).filter(|process| process.parent == self.pid) {
                usage.cpu += child.usage.cpu;
                usage.memory += child.usage.memory;
            }
            if own()?.of_ended_children == before.of_ended_children {
                return Ok(usage);
            }
        }
    }
}

struct Process {
    parent: i32,
    /// Clock ticks.
    of_ended_children: u64,
    usage: Usage,
}

/// proc(5), `/proc/pid/stat` and `/proc/pid/status`.
fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may have anything in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let of_ended_children = number(16)? + number(17)?;
    let ticks = number(14)? + number(15)? + of_ended_children;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = |title: &str| {
        status.lines().find_map(|line| line.strip_prefix(title)?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
    };
    let shared = kilobytes("RssShmem:").unwrap_or_default();
    Some(Process {
        parent: number(4)?.try_into().ok()?,
        of_ended_children,
        usage: Usage {
            cpu: Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64),
            memory: 1024 * kilobytes("VmRSS:").unwrap_or_default().saturating_sub(shared),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_time() {
        let meter = Meter::of(rustix::process::getpid());
        let before = meter.read().unwrap();
        assert!(before.memory > 1_000_000);
        let mut number: u64 = 1;
        while meter.read().unwrap().cpu < before.cpu + Duration::from_millis(50) {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
    }
}
