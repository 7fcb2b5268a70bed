//! Nothing of a stack outlives its owner.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::processes::MARK;
use super::{Stack, folder, waiting};

/// Run by the tests below in a process of its own: starts a stack without our binaries, says where it is, and waits to be killed.
#[tokio::test]
#[ignore = "only the owner that other tests kill"]
async fn owner() {
    let stack = Stack::builder().apis(0).workers(0).start().await;
    println!("\nfolder={}", stack.plan().folder.display());
    // Ends by itself when somebody runs the ignored tests.
    waiting::poll(Duration::from_secs(30), async || None::<()>).await;
}

#[test]
fn killing_the_owner_of_a_stack_leaves_no_process_behind() {
    leaves_nothing_behind("KILL");
}

#[test]
fn interrupting_the_owner_of_a_stack_leaves_no_process_behind() {
    leaves_nothing_behind("INT");
}

#[tokio::test]
async fn dropping_a_stack_leaves_no_process_behind() {
    let stack = Stack::builder().apis(0).workers(0).start().await;
    let folder = stack.plan().folder.clone();
    assert_eq!(marked(&folder).len(), 3, "postgres, pebble and the DNS server are marked");
    stack.pause("dns");
    drop(stack);
    assert_eq!(marked(&folder), Vec::<PathBuf>::new());
    assert!(!folder.exists());
}

fn leaves_nothing_behind(signal: &str) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "stack::cleanup_tests::owner"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let folder = lines.map(|line| line.unwrap()).find_map(|line| line.strip_prefix("folder=").map(PathBuf::from));
    let folder = folder.expect("the owner starts a stack");
    assert!(marked(&folder).len() >= 3, "postgres, pebble and the DNS server are marked");
    let status = Command::new("sh").args(["-c", &format!("kill -s {signal} {}", owner.id())]).status().unwrap();
    assert!(status.success());
    owner.wait().unwrap();
    let gone = || marked(&folder).is_empty() && !folder.exists();
    assert!(
        waiting::poll_blocking(Duration::from_secs(20), gone),
        "still there: {:?} in {}",
        marked(&folder),
        folder.display()
    );
}

/// The `/proc` entries that carry the mark of the stack in `folder`. Ours would too if the folder were inherited.
fn marked(folder: &Path) -> Vec<PathBuf> {
    let mark = format!("{MARK}={}", folder.display());
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_marked = |entry: &PathBuf| {
        let environment = std::fs::read(entry.join("environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    };
    entries.filter(is_marked).collect()
}

#[test]
fn the_folder_is_short_enough_for_a_socket() {
    let folder = folder::temporary().unwrap();
    assert!(folder.join("postgres/.s.PGSQL.65535.lock").as_os_str().len() <= 107);
    std::fs::remove_dir(folder).unwrap();
}
