//! lego and uacme, of Debian's packages: one run of the program for each certificate, with an account that is registered before.
//!
//! Their hook hands the TXT value over to us and waits until we have published it, so that the moment of that is the same for all.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_tests::stack::Stack;
use countersign_tests::stack::folder;
use countersign_tests::stack::watchdog::Watchdog;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::rows::Algorithm;

const WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Lego,
    Uacme,
}

/// How long one certificate took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    /// From the call to the certificate.
    pub(crate) whole: Duration,
    /// From the moment at which its record was there.
    pub(crate) published: Duration,
}

/// An installed client with its account and its files.
pub(crate) struct OtherClient {
    client: Client,
    folder: PathBuf,
    directory: String,
    https_root: PathBuf,
    resolver: String,
    _watchdog: Watchdog,
}

impl Client {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lego => "lego",
            Self::Uacme => "uacme",
        }
    }

    /// Writes owner name and value to `asked`, and goes on when `published` says something.
    fn hook(self) -> &'static str {
        match self {
            Self::Lego => "[ \"$1\" = present ] || exit 0\necho \"$2 $3\" > asked\nread -r said < published\n",
            Self::Uacme => {
                "[ \"$1\" = begin ] || exit 0\n[ \"$2\" = dns-01 ] || exit 1\necho \"_acme-challenge.$3 $5\" > asked\n\
                 read -r said < published\n"
            }
        }
    }
}

impl OtherClient {
    /// With an account at the CA of a stack.
    pub(crate) async fn register(client: Client, stack: &Stack) -> Result<Self> {
        let folder = folder::temporary()?;
        let watchdog = Watchdog::start(&folder)?;
        let hook = folder.join("hook");
        fs::write(&hook, format!("#!/bin/sh\ncd '{}'\n{}", folder.display(), client.hook()))?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
        for pipe in ["asked", "published"] {
            rustix::fs::mkfifoat(rustix::fs::CWD, folder.join(pipe), rustix::fs::Mode::RWXU)?;
        }
        let https_root = stack.plan().pebble.https_root_file();
        let (directory, resolver) = (stack.ca().directory().to_owned(), stack.plan().resolver_address());
        let registered = Self { client, folder, directory, https_root, resolver, _watchdog: watchdog };
        if client == Client::Uacme {
            let output = registered.uacme(&["-y", "new"]).output().await.context("running uacme")?;
            ensure!(output.status.success(), "uacme new: {}", String::from_utf8_lossy(&output.stderr));
        }
        // lego registers with its first certificate.
        Ok(registered)
    }

    /// One certificate, from the start of the program to its end.
    pub(crate) async fn certificate(&self, stack: &Stack, name: &str, algorithm: Algorithm) -> Result<Took> {
        // Open for both directions, so that neither end waits for the other.
        let pipe = |name: &str| (pipe::OpenOptions::new(), self.folder.join(name));
        let ((mut options, asked), (mut others, published)) = (pipe("asked"), pipe("published"));
        let mut asked = BufReader::new(options.read_write(true).open_receiver(asked)?);
        let mut answer = others.read_write(true).open_sender(published)?;
        let began = Instant::now();
        let mut command = self.command(name, algorithm);
        let running = command.kill_on_drop(true).output();
        let publish = async {
            let mut line = String::new();
            asked.read_line(&mut line).await?;
            let (owner, value) = line.trim().split_once(' ').context("the hook says no value")?;
            stack.dns().set_txt(owner, value).await?;
            let at = Instant::now();
            answer.write_all(b"published\n").await?;
            anyhow::Ok(at)
        };
        let both = async { tokio::try_join!(async { Ok(running.await?) }, publish) };
        let (output, published_at) = tokio::time::timeout(WITHIN, both)
            .await
            .with_context(|| format!("{} did not end within {WITHIN:?}", self.client.name()))??;
        let took = Took { whole: began.elapsed(), published: published_at.elapsed() };
        ensure!(
            output.status.success() && self.certificate_file(name).is_file(),
            "{} has no certificate for {name}: {}{}",
            self.client.name(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        stack.dns().clear_txt(&format!("_acme-challenge.{name}")).await?;
        Ok(took)
    }

    fn certificate_file(&self, name: &str) -> PathBuf {
        match self.client {
            Client::Lego => self.files().join("certificates").join(format!("{name}.crt")),
            Client::Uacme => self.files().join(name).join("cert.pem"),
        }
    }

    fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    fn command(&self, name: &str, algorithm: Algorithm) -> Command {
        match (self.client, algorithm) {
            (Client::Lego, Algorithm::Ecdsa) => self.lego("ec256", name),
            (Client::Lego, Algorithm::Rsa) => self.lego("rsa2048", name),
            (Client::Uacme, Algorithm::Ecdsa) => self.uacme(&["-t", "EC", "-b", "256", "issue", name]),
            (Client::Uacme, Algorithm::Rsa) => self.uacme(&["-t", "RSA", "-b", "2048", "issue", name]),
        }
    }

    /// It does not wait for propagation, and does not sleep before it looks whether the record is there.
    fn lego(&self, key_type: &str, name: &str) -> Command {
        let mut command = Command::new("lego");
        command
            .env("LEGO_CA_CERTIFICATES", &self.https_root)
            .env("EXEC_PATH", self.folder.join("hook"))
            .env("EXEC_POLLING_INTERVAL", "0")
            .args(["--server", &self.directory, "--accept-tos", "--email", "operator@example.com"])
            .args(["--dns", "exec", "--dns.disable-cp", "--dns.resolvers", &self.resolver])
            .args(["--key-type", key_type, "--domains", name, "--path"])
            .arg(self.files())
            .arg("run");
        command
    }

    /// It trusts the system's roots and has no option for others: it is shown ours in their place.
    fn uacme(&self, arguments: &[&str]) -> Command {
        const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c"])
            .arg(format!("mount --bind \"$0\" {ROOTS} && exec uacme \"$@\""))
            .arg(&self.https_root)
            .args(["--acme-url", &self.directory, "--hook"])
            .arg(self.hook_file())
            .arg("--confdir")
            .arg(self.files())
            .args(arguments);
        command
    }

    fn hook_file(&self) -> PathBuf {
        Path::join(&self.folder, "hook")
    }
}
