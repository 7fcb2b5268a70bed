//! Which addresses are not of the public internet. Nobody outside may make us talk to our own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Host;

/// `None` for a name that only resolution can judge.
pub fn is_inward_literal(host: &Host<&str>) -> Option<bool> {
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
pub fn is_inward(address: IpAddr) -> bool {
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
        || address.is_documentation()
        || matches!((a, b, c), (0, _, _) | (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _) | (240.., _, _))
}

fn is_inward_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = |high: u16, low: u16| is_inward_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match (a, b, c, d, e, f) {
        // Unspecified, loopback, IPv4-compatible, IPv4-mapped.
        (0, 0, 0, 0, 0, 0 | 0xffff) => f == 0 || embedded(g, h),
        (0, 0, 0, 0, 0xffff, 0) => embedded(g, h), // IPv4-translated, RFC 2765
        (0x64, 0xff9b, 0, 0, 0, 0) => embedded(g, h), // NAT64, RFC 6052
        (0x64, 0xff9b, 1, ..) => true,             // local NAT64, RFC 8215
        (0x100, 0, 0, 0, ..) => true,              // discarded, RFC 6666
        (0x2001, 0, ..) => true,                   // Teredo, RFC 4380: leads to whom it likes
        (0x2001, 0xdb8, ..) => true,               // documentation, RFC 3849
        (0x2002, ..) => embedded(b, c),            // 6to4, RFC 3056
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

    #[test]
    fn what_is_not_of_the_public_internet_is_inward_however_it_is_wrapped() {
        for inward in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::",
            "fc00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(is_inward(inward.parse().unwrap()), "{inward}");
        }
        for outward in [
            "93.184.215.14",
            "100.128.0.1",
            "198.51.101.1",
            "::ffff:93.184.215.14",
            "::ffff:0:93.184.215.14",
            "64:ff9b::93.184.215.14",
            "100:0:0:1::1",
            "2001:1::1",
            "2001:db9::1",
            "2002:5db8:d70e::",
            "2606:2800:21f::1",
        ] {
            assert!(!is_inward(outward.parse().unwrap()), "{outward}");
        }
    }
}
