//! Where a stack keeps its files, and as whom Postgres may own some of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The longest path a Unix socket may have is 107 bytes; what Postgres appends to its socket folder has to fit too.
const LONGEST_FOLDER: usize = 107 - "/postgres/.s.PGSQL.65535.lock".len();

/// A user without privileges: Postgres refuses to run as root.
#[derive(Clone, Copy, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// As whom Postgres runs: `None` when we are not root and it runs as ourselves.
pub fn database_user() -> Result<Option<User>> {
    if !is_root() {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd").context("reading the list of users")?;
    let find = |name: &str| {
        let fields: Vec<&str> =
            accounts.lines().map(|line| line.split(':').collect()).find(|fields: &Vec<&str>| fields[0] == name)?;
        Some(User { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
    };
    let user = find("postgres").or_else(|| find("nobody"));
    Ok(Some(user.context("neither `postgres` nor `nobody` exists, and Postgres does not run as root")?))
}

/// A new empty folder with a short path that other users may traverse but not list.
pub fn temporary() -> Result<PathBuf> {
    let candidates = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    let base = candidates
        .iter()
        .find(|base| base.as_os_str().len() + "/countersign-XXXXXX".len() <= LONGEST_FOLDER && is_reachable(base));
    let base = base.context("no temporary folder has a path short enough for a Unix socket")?;
    let folder = tempfile::Builder::new().prefix("countersign-").tempdir_in(base)?.keep();
    ensure!(folder.is_absolute(), "the temporary folder {} is not absolute", base.display());
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o711))?;
    Ok(folder)
}

/// Gives a folder, and nothing below it, to `user`.
pub fn hand_over(folder: &Path, user: Option<User>) -> Result<()> {
    if let Some(User { uid, gid }) = user {
        std::os::unix::fs::chown(folder, Some(uid), Some(gid))
            .with_context(|| format!("handing over {}", folder.display()))?;
    }
    Ok(())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether an unprivileged user gets there, where that matters.
fn is_reachable(folder: &Path) -> bool {
    folder.is_dir()
        && (!is_root() || folder.ancestors().all(|part| part.metadata().is_ok_and(|found| found.mode() & 0o001 != 0)))
}
