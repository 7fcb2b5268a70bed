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
