//! The stack's processes: starting, signalling and reaping them by name, with one log and one pid file each.
//!
//! Every process carries the stack's folder in its environment ([`MARK`]). A pid counts as ours only while it still does, so a pid that
//! was recycled by the system is never signalled. What is started, and with which settings, is said elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use super::environment;
use super::folder::User;
use super::waiting;

/// The environment variable every process of a stack carries; its value is the stack's folder.
pub const MARK: &str = "COUNTERSIGN_STACK";

/// One process to be.
pub struct Launch {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(String, String)>,
    pub user: Option<User>,
}

impl Launch {
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), program: program.into(), args: Vec::new(), env: Vec::new(), user: None }
    }

    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    fn command(&self, program: &Path, mark: &Path) -> Command {
        let mut command = Command::new(program);
        // The checkout may be where an unprivileged user cannot go, so nothing runs in the current folder.
        command.current_dir("/").env_clear().env(MARK, mark).stdin(Stdio::null());
        command.envs(environment::inherited());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// Whether the processes end with their owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    Owned,
    Detached,
}

pub struct Processes {
    folder: PathBuf,
    lifetime: Lifetime,
    children: Mutex<BTreeMap<String, Child>>,
}

impl Processes {
    /// The processes of the stack in `folder`, of which some may be running if they are detached.
    pub fn new(folder: &Path, lifetime: Lifetime) -> Result<Self> {
        for part in ["logs", "pids"] {
            fs::create_dir_all(folder.join(part)).with_context(|| format!("creating {}/{part}", folder.display()))?;
        }
        Ok(Self { folder: folder.to_owned(), lifetime, children: Mutex::default() })
    }

    /// Starts one in the background; it is up to the caller to wait until it serves.
    pub fn start(&self, launch: &Launch) -> Result<()> {
        if self.pid(&launch.name).is_some() {
            bail!("{} is running already", launch.name);
        }
        if let Some(mut ended) = self.children().remove(&launch.name) {
            ended.wait()?;
        }
        let mut command = match self.lifetime {
            // A process group of its own, so that Ctrl-C on the terminal reaches the owner only.
            Lifetime::Owned => launch.command(&launch.program, &self.folder),
            Lifetime::Detached => launch.command(Path::new("setsid"), &self.folder),
        };
        match self.lifetime {
            Lifetime::Owned => drop(command.process_group(0)),
            Lifetime::Detached => drop(command.arg(&launch.program)),
        }
        let log = fs::File::options().create(true).append(true).open(self.log_file(&launch.name))?;
        let child = command.args(&launch.args).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.with_context(|| format!("starting {} ({})", launch.name, launch.program.display()))?;
        fs::write(self.pid_file(&launch.name), format!("{}\n", child.id()))?;
        self.children().insert(launch.name.clone(), child);
        Ok(())
    }

    /// Runs one to its end; its output goes to its log.
    pub fn run(&self, launch: &Launch) -> Result<()> {
        let path = self.log_file(&launch.name);
        let log = fs::File::options().create(true).append(true).open(&path)?;
        let mut command = launch.command(&launch.program, &self.folder);
        let status = command.args(&launch.args).stdout(log.try_clone()?).stderr(log).status();
        let status = status.with_context(|| format!("starting {}", launch.program.display()))?;
        if !status.success() {
            bail!(
                "{} ended with {status}; {} ends with:\n{}",
                launch.name,
                path.display(),
                self.log_tail(&launch.name, 30)
            );
        }
        Ok(())
    }

    /// The pid of a process of this name that is alive (running or paused) and certainly ours.
    pub fn pid(&self, name: &str) -> Option<Pid> {
        if let Some(child) = self.children().get_mut(name) {
            // Nobody else's: the system keeps the pid of a child until it is waited for. Its mark may not be there yet.
            return matches!(child.try_wait(), Ok(None)).then(|| Pid::from_child(child));
        }
        self.marked(fs::read_to_string(self.pid_file(name)).ok()?.trim())
    }

    /// SIGKILL to every process of this stack, also one whose pid file is lost, and waits until they are gone.
    pub async fn kill_marked(&self) {
        let none_left = waiting::poll(Duration::from_secs(5), async || {
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
            let marked: Vec<Pid> = entries.filter_map(|entry| self.marked(entry.file_name().to_str()?)).collect();
            for &pid in &marked {
                let _ = kill_process(pid, Signal::KILL);
            }
            marked.is_empty().then_some(())
        });
        none_left.await;
    }

    fn marked(&self, pid: &str) -> Option<Pid> {
        let pid = Pid::from_raw(pid.parse().ok()?)?;
        let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
        let mark = format!("{MARK}={}", self.folder.display());
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes()).then_some(pid)
    }

    /// The names that have a pid file, dead or alive.
    pub fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.folder.join("pids")).into_iter().flatten().flatten();
        let mut names: Vec<String> = files.filter_map(|file| file.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Fails if it is not running.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let pid = self.pid(name).with_context(|| format!("{name} is not running"))?;
        kill_process(pid, signal).with_context(|| format!("signalling {name}"))
    }

    /// SIGKILL, and waits until it is gone. Nothing happens if it is gone already.
    pub fn kill(&self, name: &str) {
        let _ = self.signal(name, Signal::KILL);
        self.wait_blocking(name, Duration::from_secs(10));
    }

    /// Waits for the end of a process; `None` as its status if it is not our child.
    pub async fn ended(&self, name: &str, within: Duration) -> Result<Option<ExitStatus>> {
        let ended = waiting::poll(within, async || self.pid(name).is_none().then_some(())).await;
        ended.with_context(|| {
            format!("{name} did not end within {within:?}; its log ends with:\n{}", self.log_tail(name, 30))
        })?;
        let _ = fs::remove_file(self.pid_file(name));
        Ok(match self.children().remove(name) {
            Some(mut child) => Some(child.wait()?),
            None => None,
        })
    }

    /// The same from `Drop`: whether it has ended.
    pub fn wait_blocking(&self, name: &str, within: Duration) -> bool {
        let ended = waiting::poll_blocking(within, || self.pid(name).is_none());
        if ended {
            self.children().remove(name);
            let _ = fs::remove_file(self.pid_file(name));
        }
        ended
    }

    pub fn log_file(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(name)
    }

    pub fn log_tail(&self, name: &str, lines: usize) -> String {
        let log = fs::read(self.log_file(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let mut tail: Vec<&str> = log.lines().rev().take(lines).collect();
        tail.reverse();
        tail.join("\n")
    }

    /// The ends of all logs, for the message of a failure.
    pub fn log_tails(&self, lines: usize) -> String {
        let files = fs::read_dir(self.folder.join("logs")).into_iter().flatten().flatten();
        let mut names: Vec<String> = files.filter_map(|file| file.file_name().into_string().ok()).collect();
        names.sort();
        names.iter().map(|name| format!("--- {name} ---\n{}\n", self.log_tail(name, lines))).collect()
    }

    fn children(&self) -> MutexGuard<'_, BTreeMap<String, Child>> {
        self.children.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.folder.join("pids").join(name)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Detached {
            return;
        }
        // Postgres frees its shared memory on SIGQUIT only, and goes last so that the others' last words are not about it.
        let (database, others): (Vec<_>, Vec<_>) = self.names().into_iter().partition(|name| name == "postgres");
        others.iter().for_each(|name| self.kill(name));
        for name in database {
            let _ = self.signal(&name, Signal::QUIT);
            if !self.wait_blocking(&name, Duration::from_secs(5)) {
                self.kill(&name);
            }
        }
    }
}
