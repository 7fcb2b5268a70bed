//! Which URLs of the CA are followed. A CA (or whoever speaks for it) must not make us talk to our own network.
//!
//! Every URL must be https without userinfo, and may lead to an inward address (private, loopback, link-local, CGNAT and
//! the like) only when the configured directory itself does. Address literals are judged before the request, names when
//! they are resolved, so that a name cannot change its mind between the check and the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

#[derive(Debug, thiserror::Error)]
pub enum UrlRefused {
    #[error("not a URL: `{0}`")]
    NotAUrl(String),
    #[error("not https: `{0}`")]
    NotHttps(String),
    #[error("user name or password in a URL of `{0}`")]
    Userinfo(String),
    #[error("`{0}` is inside our network and the directory is not")]
    Inward(String),
}

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

    /// The addresses of `name` that may be connected to.
    fn admitted(&self, name: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, UrlRefused> {
        if name.eq_ignore_ascii_case(&self.directory_host) && !addresses.is_empty() {
            self.directory_is_inward.get_or_init(|| addresses.iter().all(|address| is_inward(address.ip())));
        }
        if self.allows_inward() {
            return Ok(addresses);
        }
        let outward: Vec<_> = addresses.into_iter().filter(|address| !is_inward(address.ip())).collect();
        match outward.is_empty() {
            true => Err(UrlRefused::Inward(name.to_owned())),
            false => Ok(outward),
        }
    }
}

/// The policy as reqwest's resolver.
pub(super) struct PolicedResolver(pub(super) Arc<UrlPolicy>);

impl Resolve for PolicedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let admitted = policy.admitted(name.as_str(), addresses)?;
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

fn https_host(url: &Url) -> Result<Host<&str>, UrlRefused> {
    let host = url.host().ok_or_else(|| UrlRefused::NotAUrl(url.scheme().to_owned()))?;
    if url.scheme() != "https" {
        return Err(UrlRefused::NotHttps(host.to_string()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlRefused::Userinfo(host.to_string()));
    }
    Ok(host)
}

/// `None` for a name that only resolution can judge.
fn is_inward_literal(host: &Host<&str>) -> Option<bool> {
    match host {
        Host::Ipv4(address) => Some(is_inward((*address).into())),
        Host::Ipv6(address) => Some(is_inward((*address).into())),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            (name == "localhost" || name.ends_with(".localhost")).then_some(true)
        }
    }
}

/// Whether an address is not of the public internet (the IANA special-purpose registries).
fn is_inward(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_inward_v4(v4),
        IpAddr::V6(v6) => is_inward_v6(v6),
    }
}

fn is_inward_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || matches!((a, b, c), (0, _, _) | (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _) | (240.., _, _))
}

fn is_inward_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = |high: u16, low: u16| is_inward_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match (a, b, c, d, e, f) {
        // Unspecified, loopback, IPv4-compatible, IPv4-mapped.
        (0, 0, 0, 0, 0, 0 | 0xffff) => f == 0 || embedded(g, h),
        (0x64, 0xff9b, 0, 0, 0, 0) => embedded(g, h), // NAT64, RFC 6052
        (0x64, 0xff9b, 1, ..) => true,                // local NAT64, RFC 8215
        (0x2002, ..) => embedded(b, c),               // 6to4, RFC 3056
        _ => {
            address.is_unique_local()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || a & 0xffc0 == 0xfec0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let resolver = PolicedResolver(Arc::new(policy("https://ca.example/dir")));
        let resolved = resolver.resolve("localhost".parse().unwrap()).await;
        assert!(resolved.is_err_and(|error| error.is::<UrlRefused>()));
        let resolver = PolicedResolver(Arc::new(policy("https://localhost/dir")));
        assert!(resolver.resolve("localhost".parse().unwrap()).await.is_ok());
    }
}
