//! What `countersignctl dns set` is given: flags for what may be seen, a file for what may not.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use countersign_shared::model::presenter::{
    PresenterSettings, Rfc2136Settings, Transport, TsigAlgorithm, WebhookSettings,
};
use countersign_shared::model::secret::Secret;

#[derive(Subcommand)]
pub(super) enum Given {
    /// The customer publishes
    Manual,
    /// Dynamic updates to the zone's primary, signed with a TSIG key
    Rfc2136 {
        /// The primary, as ip:port
        #[arg(long, value_name = "ADDRESS")]
        server: SocketAddr,

        /// Name of the TSIG key
        #[arg(long, value_name = "NAME")]
        key_name: String,

        /// hmac-sha256, hmac-sha384 or hmac-sha512
        #[arg(long, default_value = "hmac-sha256", value_parser = algorithm)]
        algorithm: TsigAlgorithm,

        /// File that holds the TSIG key in base64; - for the standard input
        #[arg(long, value_name = "PATH")]
        secret_file: PathBuf,

        /// The zone to update; found by its SOA when left out
        #[arg(long, value_name = "NAME")]
        zone: Option<String>,

        /// tcp or udp
        #[arg(long, default_value = "tcp", value_parser = transport)]
        transport: Transport,
    },
    /// POST to an HTTP service, in the shape of lego's httpreq
    Webhook {
        /// https://…; /present and /cleanup are appended
        #[arg(long)]
        url: String,

        /// For basic authentication; without it the secret is a bearer token
        #[arg(long, value_name = "NAME")]
        username: Option<String>,

        /// File that holds the password or token; - for the standard input
        #[arg(long, value_name = "PATH")]
        secret_file: Option<PathBuf>,

        /// A further header of every request, as name:value; not for secrets, it is shown
        #[arg(long = "header", value_name = "HEADER", value_parser = header)]
        headers: Vec<(String, String)>,
    },
}

impl Given {
    pub(super) fn read(&self) -> anyhow::Result<(PresenterSettings, Option<Secret>)> {
        Ok(match self {
            Self::Manual => (PresenterSettings::Manual {}, None),
            Self::Rfc2136 { server, key_name, algorithm, secret_file, zone, transport } => {
                let settings = Rfc2136Settings {
                    server: *server,
                    zone: zone.clone(),
                    key_name: key_name.clone(),
                    algorithm: *algorithm,
                    transport: *transport,
                };
                (PresenterSettings::Rfc2136(settings), Some(secret(secret_file)?))
            }
            Self::Webhook { url, username, secret_file, headers } => {
                let settings = WebhookSettings {
                    url: url.clone(),
                    username: username.clone(),
                    headers: headers.iter().cloned().collect(),
                };
                (PresenterSettings::Webhook(settings), secret_file.as_deref().map(secret).transpose()?)
            }
        })
    }
}

/// Without the line end that editors leave.
fn secret(path: &Path) -> anyhow::Result<Secret> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read the secret from the standard input")?;
        text
    } else {
        std::fs::read_to_string(path).with_context(|| format!("cannot read the secret in {}", path.display()))?
    };
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn algorithm(text: &str) -> Result<TsigAlgorithm, String> {
    text.parse().map_err(|_| "expected hmac-sha256, hmac-sha384 or hmac-sha512".to_owned())
}

fn transport(text: &str) -> Result<Transport, String> {
    text.parse().map_err(|_| "expected tcp or udp".to_owned())
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected name:value")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
