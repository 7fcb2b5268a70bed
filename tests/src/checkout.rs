//! Where this checkout and its built binaries are, found at run time so that no path is baked into a binary.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The workspace's root: the nearest folder above the current one, or else above the running program, that has our `migrations`.
pub fn root() -> Result<PathBuf> {
    let places = [std::env::current_dir()?, std::env::current_exe()?];
    let mut above = places.iter().flat_map(|place| place.ancestors());
    let root = above.find(|folder| folder.join("migrations").is_dir() && folder.join("tests/Cargo.toml").is_file());
    root.map(ToOwned::to_owned).context("this is not inside a checkout of Countersign")
}

/// One of our binaries, built in the same profile as the running program.
pub fn binary(name: &str) -> Result<PathBuf> {
    let running = std::env::current_exe()?;
    // Tests run from `target/<profile>/deps`.
    for folder in running.ancestors().skip(1).take(2) {
        let binary = folder.join(name);
        if binary.is_file() {
            return Ok(binary);
        }
    }
    bail!("{name} is not built beside {}; run `cargo build --workspace --bins` first", running.display())
}
