//! The supported URLs: `http` or `https`, a name or an address, a port, a path and a query.
//!
//! Invariant: a parsed URL can be written unchanged into a request line, a `Host` header and a command
//! line. User and password are refused, and an error does not quote the URL: a secret in it would end up
//! in logs.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest URL that is accepted; most servers refuse longer ones.
const LONGEST: usize = 8 << 10;

/// A parsed URL without its fragment, which is never sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Url {
    secure: bool,
    /// The name in lower case, or the address without brackets.
    host: String,
    port: u16,
    /// Path and query, at least `/`.
    target: String,
}

impl Url {
    pub fn is_https(&self) -> bool {
        self.secure
    }

    /// Returns the name in lower case, or the address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns path and query as they are sent.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Returns `example.org`, `example.org:8080` or `[::1]:8080`: for `Host` headers and messages.
    pub fn authority(&self) -> String {
        let host = bracketed(&self.host);
        if self.port == default_port(self.secure) { host } else { format!("{host}:{}", self.port) }
    }

    pub(crate) fn same_origin(&self, other: &Url) -> bool {
        (self.secure, self.port) == (other.secure, other.port) && self.host == other.host
    }

    /// Resolves a `Location` header, a URL or a path, relative to this URL.
    pub(crate) fn join(&self, location: &str) -> Result<Url, String> {
        let scheme = if self.secure { "https" } else { "http" };
        let location = without_fragment(location);
        let path = self.target.split('?').next().unwrap_or("/");
        let target = if location.contains("://") && is_scheme(location) {
            return location.parse();
        } else if let Some(rest) = location.strip_prefix("//") {
            return format!("{scheme}://{rest}").parse();
        } else if location.is_empty() {
            self.target.clone()
        } else if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            let folder = path.rfind('/').map_or("/", |end| &path[..=end]);
            format!("{folder}{location}")
        };
        check_target(&target)?;
        Ok(Url { target: without_dots(&target), ..self.clone() })
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Url, String> {
        if text.len() > LONGEST {
            return Err(format!("a URL of more than {LONGEST} characters"));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("not a URL: http:// or https:// must be at its beginning")?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("not a supported URL: it must begin with http:// or https://".into()),
        };
        let rest = without_fragment(rest);
        let (authority, target) = rest.split_at(rest.find(['/', '?', '\\']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(
                "user and password in a URL would end up in logs: use a header instead".into()
            );
        }
        let (host, port) = split_port(authority)?;
        let target = if target.starts_with('/') { target.into() } else { format!("/{target}") };
        check_target(&target)?;
        let port = port.unwrap_or(default_port(secure));
        Ok(Url { secure, host: check_host(host)?, port, target })
    }
}

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Url, String> {
        text.parse()
    }
}

impl From<Url> for String {
    fn from(url: Url) -> String {
        url.to_string()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

/// Puts brackets around an IPv6 address, which it needs where a port may follow.
pub(crate) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

fn is_scheme(location: &str) -> bool {
    let scheme = location.split("://").next().unwrap_or_default();
    !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn without_fragment(text: &str) -> &str {
    text.split('#').next().unwrap_or_default()
}

/// Splits host (an address without its brackets) and port. By RFC 3986 the port may be empty after the
/// colon.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("the URL's [ has no ]")?;
            if address.parse::<Ipv6Addr>().is_err() {
                return Err("the text in [] in the URL is not an IPv6 address".into());
            }
            match port.strip_prefix(':') {
                Some(port) => (address, port),
                None if port.is_empty() => (address, ""),
                None => return Err("the URL contains something between ] and its path".into()),
            }
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    if port.is_empty() {
        return Ok((host, None));
    }
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|number| digits && *number > 0);
    number
        .map(|number| (host, Some(number)))
        .ok_or("the URL's port is not a number from 1 to 65535".into())
}

fn check_host(host: &str) -> Result<String, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    crate::name::check(host)?;
    Ok(host.to_ascii_lowercase())
}

/// Checks that the target can be written into a request line. Other characters must be percent-encoded.
fn check_target(target: &str) -> Result<(), String> {
    let fine = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\');
    if target.len() > LONGEST || !target.bytes().all(fine) {
        return Err(
            "the URL's path or query is too long, or contains a control character, a space or \
                    another character that must be written as %XX"
                .into(),
        );
    }
    Ok(())
}

/// Removes `.` and `..` from the path, which the client must do in a redirect.
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if matches!(path.rsplit('/').next(), Some("." | "..")) {
        parts.push("");
    }
    format!("/{}{query}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn reads_and_writes() {
        for (text, shown, host, port) in [
            ("http://a", "http://a/", "a", 80),
            ("HTTPS://Shop.Example:443/A?b#c", "https://shop.example/A?b", "shop.example", 443),
            ("http://shop:8080?x=1", "http://shop:8080/?x=1", "shop", 8080),
            ("http://shop:/", "http://shop/", "shop", 80),
            ("https://[::1]:8443/x", "https://[::1]:8443/x", "::1", 8443),
            ("http://[2001:DB8::0:1]", "http://[2001:db8::1]/", "2001:db8::1", 80),
            ("http://127.0.0.1/%20?q=a@b", "http://127.0.0.1/%20?q=a@b", "127.0.0.1", 80),
        ] {
            let parsed = url(text);
            assert_eq!(
                (parsed.to_string().as_str(), parsed.host(), parsed.port()),
                (shown, host, port)
            );
            assert_eq!(url(shown), parsed);
        }
        let json: Url = serde_json::from_str("\"http://a:81/b\"").unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), "\"http://a:81/b\"");
    }

    #[test]
    fn errors_do_not_quote_the_url() {
        for text in [
            "",
            "secret",
            "//secret/",
            "ftp://secret/",
            "http://",
            "http:///secret",
            "http://me:secret@a/",
            "http://secret@a",
            "http://a/sec ret",
            "http://a/\r\nX: secret",
            "http://a\r\nX: secret/",
            "http://a/sécret",
            "http://a:0/secret",
            "http://a:+80/secret",
            "http://a:99999/secret",
            "http://[::1/secret",
            "http://[::1]x/secret",
            "http://[secret]/",
            "http://::1/secret",
            "http://-a/secret",
            "http://127.1/secret",
            "http://a\\@b/secret",
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert!(!error.is_empty() && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn follows_locations() {
        let base = url("https://a:8443/x/y?q=1");
        for (location, joined) in [
            ("http://b/c", "http://b/c"),
            ("//b/c", "https://b/c"),
            ("/c?d#e", "https://a:8443/c?d"),
            ("c/./d/../e", "https://a:8443/x/c/e"),
            ("../../..", "https://a:8443/"),
            ("?r=2", "https://a:8443/x/y?r=2"),
            ("", "https://a:8443/x/y?q=1"),
            ("/to?next=http://b", "https://a:8443/to?next=http://b"),
            ("to?next=http://b", "https://a:8443/x/to?next=http://b"),
        ] {
            assert_eq!(base.join(location).map(|url| url.to_string()), Ok(joined.to_owned()));
        }
        assert!(base.join("/a b").is_err() && base.join("ftp://b/").is_err());
        assert!(url("http://a/x").same_origin(&url("http://a:80/y")));
        assert!(!url("http://a/").same_origin(&url("https://a/")));
    }
}
