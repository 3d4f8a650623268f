//! The proxies through which requests leave a network that has no other way out: what `http_proxy`, `https_proxy` and `no_proxy` say.
//!
//! Invariants: nothing that is asked on this machine itself goes through a proxy. The password of a proxy is sent to that proxy alone, and
//! is in no message. A value that cannot be read is an error, and never bypasses the proxy.

use std::fmt;
use std::net::IpAddr;

use super::Url;

/// Where to send requests of each scheme, and to which hosts directly.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    except: Vec<Exception>,
}

#[derive(Clone)]
pub(super) struct Proxy {
    /// Of it, host and port are used.
    pub url: Url,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<String>,
    /// The name of the variable that it is from.
    pub variable: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    All,
    /// A name with all names below it, or an address; perhaps a port.
    Host(String, Option<u16>),
    /// Addresses of which the first so many bits are these.
    Network(IpAddr, u8),
}

impl Proxies {
    /// Reads the variables of this process, which are those of the task's `environment`. The error names a variable, and not its value.
    pub fn of_environment() -> Result<Proxies, String> {
        Proxies::of(|name| std::env::var(name).ok())
    }

    /// `HTTP_PROXY` is left out, as by curl: where a program answers for a web server, whoever asks it sets that variable.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Proxies, String> {
        let first = |names: &[&'static str]| {
            let set = names.iter().map(|name| (*name, variable(name).unwrap_or_default()));
            let set = set.map(|(name, value)| (name, value.trim().to_owned()));
            set.into_iter().find(|(_, value)| !value.is_empty())
        };
        let proxy = |names| first(names).map(|(name, value)| Proxy::of(name, &value)).transpose();
        let except = first(&["no_proxy", "NO_PROXY"]).map(|(_, value)| value).unwrap_or_default();
        Ok(Proxies {
            http: proxy(&["http_proxy"])?,
            https: proxy(&["https_proxy", "HTTPS_PROXY"])?,
            except: except.split([',', ' ']).filter_map(Exception::of).collect(),
        })
    }

    /// The proxy that a request to this URL goes to.
    pub(super) fn of_url(&self, url: &Url) -> Option<&Proxy> {
        let proxy = if url.is_https() { self.https.as_ref() } else { self.http.as_ref() }?;
        let here = match url.host().parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => url.host() == "localhost" || url.host().ends_with(".localhost"),
        };
        let direct = here || self.except.iter().any(|except| except.holds(url));
        (!direct).then_some(proxy)
    }
}

impl Proxy {
    fn of(variable: &'static str, value: &str) -> Result<Proxy, String> {
        let refuse = |why: &str| format!("the variable {variable} names no proxy: {why}");
        let rest = match value.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(refuse("it must be http://[user:password@]host:port")),
            None => value,
        };
        let rest = rest.trim_end_matches('/');
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let url: Url = format!("http://{place}/").parse().map_err(|why: String| refuse(&why))?;
        let authorization = match user {
            Some(user) => {
                let plain = decoded(user).ok_or_else(|| refuse("its password has a bad %"))?;
                Some(format!("Basic {}", host::base64(&plain)))
            }
            None => None,
        };
        Ok(Proxy { url, authorization, variable })
    }
}

/// Where it is, and by what: for messages.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy {} ({})", self.url.authority(), self.variable)
    }
}

impl Exception {
    fn of(text: &str) -> Option<Exception> {
        let text =
            text.trim().trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Exception::All);
        }
        if let Some((address, bits)) = text.split_once('/') {
            return Some(Exception::Network(address.parse().ok()?, bits.parse().ok()?));
        }
        let bare = |host: &str| host.trim_matches(['[', ']']).to_owned();
        Some(match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                Exception::Host(bare(host), Some(port.parse().ok()?))
            }
            _ => Exception::Host(bare(&text), None),
        })
    }

    fn holds(&self, url: &Url) -> bool {
        let host = url.host();
        match self {
            Exception::All => true,
            Exception::Host(name, port) => {
                let below =
                    host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                let named = host == name || (below && host.parse::<IpAddr>().is_err());
                named && port.is_none_or(|port| port == url.port())
            }
            Exception::Network(network, bits) => match (host.parse(), network) {
                (Ok(IpAddr::V4(host)), IpAddr::V4(network)) => {
                    same_bits(u32::from(host).into(), u32::from(*network).into(), 32, *bits)
                }
                (Ok(IpAddr::V6(host)), IpAddr::V6(network)) => {
                    same_bits(host.into(), (*network).into(), 128, *bits)
                }
                _ => false,
            },
        }
    }
}

fn same_bits(a: u128, b: u128, width: u32, bits: u8) -> bool {
    let ignored = width.saturating_sub(bits.into());
    (a ^ b).checked_shr(ignored).unwrap_or(0) == 0
}

/// `%40` and the like in a user's name or password.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            plain.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            plain.push(byte);
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(set: &[(&str, &str)]) -> Result<Proxies, String> {
        let find = |name: &str| set.iter().find(|(other, _)| *other == name);
        Proxies::of(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    fn goes_by(set: &[(&str, &str)], url: &str) -> Option<String> {
        let url = url.parse().unwrap();
        proxies(set).unwrap().of_url(&url).map(ToString::to_string)
    }

    #[test]
    fn each_scheme_has_its_own() {
        let set = [("http_proxy", "http://a:1"), ("HTTPS_PROXY", "b:2/"), ("HTTP_PROXY", "c:3")];
        let by = |url| goes_by(&set, url);
        assert_eq!(by("http://x.example").unwrap(), "the proxy a:1 (http_proxy)");
        assert_eq!(by("https://x.example").unwrap(), "the proxy b:2 (HTTPS_PROXY)");
        assert_eq!(goes_by(&[("HTTP_PROXY", "c:3")], "http://x.example"), None);
        for here in ["http://127.0.0.1", "https://localhost:3000", "https://[::1]"] {
            assert_eq!(by(here), None, "{here}");
        }
    }

    #[test]
    fn what_is_asked_directly() {
        let except = ".corp.example, forge.example:3000,10.0.0.0/8 fd00::/8,192.0.2.7";
        let set = [("https_proxy", "http://a:1"), ("no_proxy", except)];
        for direct in [
            "https://corp.example",
            "https://a.b.corp.example:8443",
            "https://forge.example:3000",
            "https://10.9.8.7",
            "https://[fd12::1]",
            "https://192.0.2.7",
        ] {
            assert_eq!(goes_by(&set, direct), None, "{direct}");
        }
        for proxied in [
            "https://xcorp.example",
            "https://forge.example",
            "https://11.0.0.1",
            "https://1.192.0.2.7.example",
        ] {
            assert!(goes_by(&set, proxied).is_some(), "{proxied}");
        }
        assert_eq!(goes_by(&[("https_proxy", "a:1"), ("NO_PROXY", "*")], "https://x"), None);
    }

    #[test]
    fn a_password_is_sent_and_never_shown() {
        let found = proxies(&[("http_proxy", "http://me:pa%40ss@a:1")]).unwrap().http.unwrap();
        assert_eq!(found.authorization.as_deref(), Some("Basic bWU6cGFAc3M="));
        assert_eq!(found.to_string(), "the proxy a:1 (http_proxy)");
        for wrong in ["socks5://me:secret@a:1", "http://me:secret@a:port", "http://me:secret%@a:1"]
        {
            let error = proxies(&[("https_proxy", wrong)]).err().unwrap();
            assert!(error.contains("https_proxy") && !error.contains("secret"), "{error}");
        }
    }
}
