//! The process that clears up after a stack however its owner ends: return, panic, Ctrl-C or SIGKILL.
//!
//! It reads a pipe whose other end only the owner holds, so end of file means that the owner is gone. Then it kills whatever carries
//! the stack's mark in its environment. Going by the mark and not by pid files, it cannot hit a recycled pid, and it also finds a child
//! that was started a moment before the owner died.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::processes::MARK;

/// Arguments: the mark with its value, then the folders to remove. Postgres gets SIGQUIT, because only then it frees its shared memory.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
cat >/dev/null
mark=$1
shift
round=0
while [ "$round" -lt 100 ]; do
    pids=$(grep -lzxF -e "$mark" /proc/[0-9]*/environ 2>/dev/null | tr -cd '0-9\n')
    [ -n "$pids" ] || break
    for pid in $pids; do
        signal=KILL
        if [ "$round" -lt 50 ] && grep -qx postgres "/proc/$pid/comm" 2>/dev/null; then signal=QUIT; fi
        kill -s "$signal" "$pid" 2>/dev/null
    done
    round=$((round + 1))
    sleep 0.1
done
rm -rf -- "$@"
"#;

pub struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Watches this process from now on, for the stack whose folder is `folder`.
    pub fn start(folder: &Path) -> Result<Self> {
        let mut mark = std::ffi::OsString::from(format!("{MARK}="));
        mark.push(folder);
        // A session of its own: neither Ctrl-C on the terminal nor a signal to our process group reaches it.
        let shell = Command::new("setsid")
            .args(["sh", "-c", SCRIPT, "countersign-watchdog"])
            .arg(mark)
            .arg(folder)
            .env_remove(MARK)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the watchdog (needs `setsid` and `sh`)")?;
        Ok(Self { shell })
    }
}

impl Drop for Watchdog {
    /// Lets it clear up now, and waits until everything is gone.
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
