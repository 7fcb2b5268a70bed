//! Which URLs of the CA are followed. A CA (or whoever speaks for it) must not make us talk to our own network.
//!
//! Every URL must be https without userinfo, and may lead to an inward address (private, loopback, link-local, CGNAT and
//! the like) only when the configured directory itself does. Address literals are judged before the request, names when
//! they are resolved, so that a name cannot change its mind between the check and the connection.

use std::net::SocketAddr;
use std::sync::OnceLock;

use countersign_shared::model::address::{is_inward, is_inward_literal};
use url::Url;

use crate::outward::{Admits, UrlRefused, https_host, outward_only};

/// One per directory.
pub(super) struct UrlPolicy {
    directory_host: String,
    /// Whether the directory is at an inward address. Known at once for a literal, for a name after its first resolution;
    /// never changed afterwards.
    directory_is_inward: OnceLock<bool>,
}

impl UrlPolicy {
    pub(super) fn new(directory: &Url) -> Result<Self, UrlRefused> {
        let host = https_host(directory)?;
        let directory_is_inward = OnceLock::new();
        if let Some(inward) = is_inward_literal(&host) {
            // Just made, so it is empty.
            let _ = directory_is_inward.set(inward);
        }
        Ok(UrlPolicy { directory_host: host.to_string(), directory_is_inward })
    }

    pub(super) fn check(&self, url: &str) -> Result<Url, UrlRefused> {
        let shown = || url.chars().filter(|c| !c.is_control()).take(200).collect();
        let parsed = Url::parse(url).map_err(|_| UrlRefused::NotAUrl(shown()))?;
        let host = https_host(&parsed)?;
        if is_inward_literal(&host) == Some(true) && !self.allows_inward() {
            return Err(UrlRefused::Inward(host.to_string()));
        }
        Ok(parsed)
    }

    fn allows_inward(&self) -> bool {
        self.directory_is_inward.get().copied().unwrap_or(false)
    }
}

impl Admits for UrlPolicy {
    fn admitted(&self, name: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, UrlRefused> {
        if name.eq_ignore_ascii_case(&self.directory_host) && !addresses.is_empty() {
            self.directory_is_inward.get_or_init(|| addresses.iter().all(|address| is_inward(address.ip())));
        }
        if self.allows_inward() { Ok(addresses) } else { outward_only(name, addresses) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use reqwest::dns::Resolve as _;

    use super::*;
    use crate::outward::JudgingResolver;

    fn policy(directory: &str) -> UrlPolicy {
        UrlPolicy::new(&Url::parse(directory).unwrap()).unwrap()
    }

    #[test]
    fn a_directory_must_be_https_without_userinfo() {
        for refused in ["http://ca.example/dir", "https://a@ca.example/dir", "https://:b@ca.example/dir", "data:x"] {
            assert!(UrlPolicy::new(&Url::parse(refused).unwrap()).is_err(), "{refused}");
        }
    }

    #[test]
    fn urls_of_a_public_directory() {
        let policy = policy("https://ca.example/dir");
        for (url, followed) in [
            ("https://ca.example/order/1", true),
            ("https://elsewhere.example:8443/x", true),
            ("https://93.184.215.14/x", true),
            ("https://[2606:2800:21f::1]/x", true),
            ("http://ca.example/order/1", false),
            ("ftp://ca.example/", false),
            ("file:///etc/passwd", false),
            ("/order/1", false),
            ("", false),
            ("https://user@ca.example/", false),
            ("https://user:secret@ca.example/", false),
            ("https://127.0.0.1/", false),
            ("https://127.1/", false),
            ("https://0x7f000001/", false),
            ("https://2130706433/", false),
            ("https://0.0.0.0/", false),
            ("https://10.1.2.3/", false),
            ("https://172.16.0.1/", false),
            ("https://172.32.0.1/", true),
            ("https://192.168.0.1/", false),
            ("https://169.254.169.254/latest/meta-data", false),
            ("https://100.64.0.1/", false),
            ("https://100.128.0.1/", true),
            ("https://198.18.0.1/", false),
            ("https://224.0.0.1/", false),
            ("https://255.255.255.255/", false),
            ("https://[::]/", false),
            ("https://[::1]/", false),
            ("https://[::ffff:10.0.0.1]/", false),
            ("https://[::ffff:93.184.215.14]/", true),
            ("https://[fd00::1]/", false),
            ("https://[fe80::1]/", false),
            ("https://[fec0::1]/", false),
            ("https://[ff02::1]/", false),
            ("https://[64:ff9b::7f00:1]/", false),
            ("https://[64:ff9b:1::1]/", false),
            ("https://[2002:a00:1::1]/", false),
            ("https://localhost/", false),
            ("https://LOCALHOST./", false),
            ("https://ca.localhost/", false),
        ] {
            assert_eq!(policy.check(url).is_ok(), followed, "{url}");
        }
    }

    #[test]
    fn an_inward_directory_may_name_inward_urls_but_only_https() {
        for directory in ["https://localhost:14000/dir", "https://127.0.0.1/dir", "https://[fd00::1]/dir"] {
            let policy = policy(directory);
            assert!(policy.check("https://10.0.0.1/order/1").is_ok(), "{directory}");
            assert!(policy.check("http://10.0.0.1/order/1").is_err(), "{directory}");
        }
    }

    #[test]
    fn names_are_judged_by_their_addresses() {
        let (public, private) = ("93.184.215.14:443".parse().unwrap(), "10.0.0.1:443".parse().unwrap());
        let public_ca = policy("https://ca.example/dir");
        assert_eq!(public_ca.admitted("CA.example", vec![public]).unwrap(), [public]);
        assert!(public_ca.admitted("evil.example", vec![private]).is_err());
        assert_eq!(public_ca.admitted("evil.example", vec![private, public]).unwrap(), [public]);
        // Rebinding: what the directory was at first is what counts.
        assert!(public_ca.admitted("ca.example", vec![private]).is_err());

        let private_ca = policy("https://pebble:14000/dir");
        assert!(private_ca.admitted("other", vec![private]).is_err());
        assert!(private_ca.check("https://10.0.0.1/").is_err());
        assert_eq!(private_ca.admitted("pebble", vec![private]).unwrap(), [private]);
        assert_eq!(private_ca.admitted("other", vec![private]).unwrap(), [private]);
        assert!(private_ca.check("https://10.0.0.1/").is_ok());
    }

    #[tokio::test]
    async fn the_resolver_refuses_localhost_to_a_public_directory() {
        let resolver = JudgingResolver::new(Arc::new(policy("https://ca.example/dir")));
        let resolved = resolver.resolve("localhost".parse().unwrap()).await;
        assert!(resolved.is_err_and(|error| error.is::<UrlRefused>()));
        let resolver = JudgingResolver::new(Arc::new(policy("https://localhost/dir")));
        assert!(resolver.resolve("localhost".parse().unwrap()).await.is_ok());
    }
}
