//! What a webhook may be: where events go, what they are signed with, how often delivery is tried.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use url::Url;
use zeroize::Zeroizing;

/// Attempts of one delivery, all told.
pub const MOST_ATTEMPTS: i32 = 10;
/// From the event to the last attempt; one is made however late it is.
pub const ATTEMPTS_WITHIN: Duration = Duration::from_secs(2 * 3600);
/// So many failed attempts in a row, and nothing is sent any more.
pub const SUPPRESS_AFTER: i32 = 15;
/// Time for one attempt, from the look-up of the name to the last byte that is read.
pub const ATTEMPT_WITHIN: Duration = Duration::from_secs(10);
const LONGEST_URL: usize = 2048;

/// The target of a webhook; an error in words that go behind the field's name.
pub fn target(text: &str) -> Result<Url, &'static str> {
    if text.trim().is_empty() {
        return Err("can't be blank");
    }
    if text.len() > LONGEST_URL {
        return Err("is longer than 2048 characters");
    }
    // The parser would leave these out, and mean another URL than was written.
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("must be a URL");
    }
    // The parser would take `https:host` and `https:\\host` for the same.
    if !text.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://")) {
        return Err("must begin with https://");
    }
    let url = Url::parse(text).map_err(|_| "must be a URL")?;
    if url.host().is_none() {
        return Err("must be a URL");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or a password");
    }
    Ok(url)
}

/// The key of a Standard Webhooks secret: `whsec_` and the base64 of 24 to 64 bytes.
pub fn signing_key(secret: &str) -> Option<Zeroizing<Vec<u8>>> {
    let key = Zeroizing::new(BASE64_STANDARD.decode(secret.strip_prefix("whsec_")?).ok()?);
    (24..=64).contains(&key.len()).then_some(key)
}

/// Pause after the `failed`th attempt of a delivery (from 1): 12 s, doubling, give or take a tenth, so that 10 attempts fit
/// into 2 hours. None when no further attempt is made. `jitter` is a random number in `[0, 1)`.
pub fn pause_after(failed: i32, jitter: f64) -> Option<Duration> {
    if failed >= MOST_ATTEMPTS {
        return None;
    }
    let seconds = 12.0 * 2f64.powi(failed.max(1) - 1);
    Some(Duration::from_secs_f64(seconds * (0.9 + 0.2 * jitter.clamp(0.0, 1.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_urls_without_a_login_are_targets() {
        for good in ["https://shop.example/hook?key=1", "HTTPS://shop.example:8443", "https://93.184.215.14/"] {
            assert!(target(good).is_ok(), "{good}");
        }
        assert_eq!(target(" \t"), Err("can't be blank"));
        for bad in
            ["http://shop.example/", "ftp://shop.example/", "shop.example", "//shop.example", "javascript:alert(1)"]
        {
            assert!(target(bad).is_err(), "{bad}");
        }
        for bad in [
            "https:shop.example/",
            "https:/shop.example/",
            r"https:\\shop.example/",
            r"https:/\shop.example/",
            "https:",
        ] {
            assert_eq!(target(bad), Err("must begin with https://"), "{bad}");
        }
        for bad in [
            "https://",
            "https://u@shop.example/",
            "https://:p@shop.example/",
            "https://shop.example/\n",
            "https:// x/",
        ] {
            assert!(target(bad).is_err(), "{bad:?}");
        }
        assert!(target(&format!("https://shop.example/{}", "x".repeat(2048))).is_err());
    }

    #[test]
    fn a_secret_is_24_to_64_bytes_in_base64_behind_its_prefix() {
        for (bytes, is_good) in [(0, false), (23, false), (24, true), (64, true), (65, false)] {
            let secret = format!("whsec_{}", BASE64_STANDARD.encode(vec![7; bytes]));
            assert_eq!(signing_key(&secret).map(|key| key.len()), is_good.then_some(bytes), "{bytes}");
        }
        let encoded = BASE64_STANDARD.encode([7; 24]);
        for bad in [encoded.as_str(), "whsec_", "whsec_!!", &format!("whsec_ {encoded}")] {
            assert_eq!(signing_key(bad), None, "{bad}");
        }
    }

    #[test]
    fn ten_attempts_fit_into_two_hours_however_the_dice_fall() {
        for jitter in [0.0, 0.5, 0.999] {
            let pauses: Vec<Duration> = (1..).map_while(|failed| pause_after(failed, jitter)).collect();
            assert_eq!(pauses.len() as i32, MOST_ATTEMPTS - 1);
            assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
            let all: Duration = pauses.iter().sum();
            assert!(all + ATTEMPT_WITHIN * 10 < ATTEMPTS_WITHIN, "{all:?}");
        }
    }
}
