//! BIND and Knot, of Debian's packages: where they are installed, and how one process of theirs is set up on a loopback
//! port.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::aloud;
use crate::stack::environment;
use crate::stack::processes::Launch;

/// Base64, as a customer has it.
pub const SECRET: &str = "bm8gc2VjcmV0IGF0IGFsbCwgYnV0IGxvbmcgZW5vdWdoIQ==";
pub const KEY_NAME: &str = "countersign-key.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    Bind,
    Knot,
}

/// Its text is in the server's folder, as `<apex>zone`.
pub struct Served<'a> {
    /// With the final dot, or without.
    pub apex: &'a str,
    /// Whether it takes updates that are signed with [`KEY_NAME`]; another one is read anew at SIGHUP.
    pub is_dynamic: bool,
}

/// What one process is to be.
pub struct Server<'a> {
    /// Its own.
    pub folder: &'a Path,
    /// On 127.0.0.1.
    pub port: u16,
    pub zones: &'a [Served<'a>],
}

pub fn zone_file(folder: &Path, apex: &str) -> PathBuf {
    folder.join(format!("{apex}zone"))
}

impl Software {
    fn program(self) -> &'static str {
        match self {
            Self::Bind => "named",
            Self::Knot => "knotd",
        }
    }

    fn path(self) -> Result<PathBuf> {
        let folders = environment::program_folders().into_iter().chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        let path = folders.map(|folder| folder.join(self.program())).find(|path| path.is_file());
        path.with_context(|| format!("{} is not installed: sh tests/prepare all", self.program()))
    }

    pub fn is_installed(self) -> Result<()> {
        self.path().map(drop)
    }

    /// None, with the reason on the standard error, where it is not installed; under `CI` that fails when it is
    /// started.
    pub fn if_installed(self) -> Option<Self> {
        match self.path() {
            Err(reason) if !environment::is_ci() => {
                aloud::say(&format!("skipped: {reason:#}"));
                None
            }
            _ => Some(self),
        }
    }

    /// The process `name` that serves these zones and nothing else.
    pub fn authoritative(self, name: &str, server: &Server<'_>) -> Result<Launch> {
        match self {
            Self::Bind => bind(name, server, "recursion no; dnssec-validation no; allow-query { any; };", ""),
            Self::Knot => knot(name, server),
        }
    }
}

/// BIND, with these options and further statements besides.
pub fn bind(name: &str, server: &Server<'_>, options: &str, rest: &str) -> Result<Launch> {
    let Server { folder, port, zones } = server;
    let mut text = format!(
        "options {{ directory \"{0}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; pid-file none; \
         session-keyfile \"{0}/session.key\"; managed-keys-directory \"{0}\"; empty-zones-enable no; notify no; {options} }};\n\
         controls {{ }};\n\
         key \"{KEY_NAME}\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
         {rest}",
        folder.display()
    );
    for Served { apex, is_dynamic } in *zones {
        let file = zone_file(folder, apex);
        let update = if *is_dynamic { format!("key \"{KEY_NAME}\";") } else { "none;".to_owned() };
        let _ = writeln!(
            text,
            "zone \"{apex}\" {{ type primary; file \"{}\"; allow-update {{ {update} }}; }};",
            file.display()
        );
    }
    let file = folder.join("named.conf");
    fs::write(&file, text)?;
    Ok(Launch::new(name, Software::Bind.path()?).args(["-g", "-n", "1", "-c"]).args([&file]))
}

fn knot(name: &str, server: &Server<'_>) -> Result<Launch> {
    let Server { folder, port, zones } = server;
    fs::create_dir_all(folder.join("db"))?;
    let mut text = format!(
        "server:\n  rundir: {0}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         log:\n  - target: stderr\n    any: info\n\
         database:\n  storage: {0}/db\n\
         key:\n  - id: {KEY_NAME}\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
         acl:\n  - id: updates\n    key: {KEY_NAME}\n    action: update\n\
         zone:\n",
        folder.display()
    );
    for Served { apex, is_dynamic } in *zones {
        let rest = if *is_dynamic {
            "    acl: updates\n"
        } else {
            "    zonefile-sync: -1\n    zonefile-load: whole\n    journal-content: none\n"
        };
        let _ = write!(text, "  - domain: {apex}\n    file: {}\n{rest}", zone_file(folder, apex).display());
    }
    let file = folder.join("knot.conf");
    fs::write(&file, text)?;
    Ok(Launch::new(name, Software::Knot.path()?).args(["-c"]).args([&file]))
}
