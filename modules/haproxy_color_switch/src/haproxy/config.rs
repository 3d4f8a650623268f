//! The configuration of HAProxy, read as far as it says a colour: which backends follow the map,
//! which colour a configuration makes active, and where the stats socket is.
//!
//! Invariant: what it does not say is `None`, never a guess.

use crate::color::{Color, Pattern};
use crate::servers::Group;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A server line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub address: String,
    /// Taken by requests: neither `backup` nor `disabled`, with a weight.
    pub is_active: bool,
}

/// A configuration, as far as we read it.
#[derive(Clone, Debug, Default)]
pub struct Config {
    backends: BTreeMap<String, Vec<Server>>,
    /// Names after `use_backend` and `default_backend`, in order.
    routes: Vec<String>,
    stats_sockets: Vec<(String, bool)>,
    intervals: Vec<Duration>,
}

impl Config {
    pub fn parse(text: &str) -> Config {
        let mut config = Config::default();
        let mut section = (String::new(), String::new());
        for line in text.lines() {
            let words = words(line);
            let word = |at: usize| words.get(at).map(String::as_str).unwrap_or_default();
            let inter = words.windows(2).filter(|pair| pair[0] == "inter");
            config.intervals.extend(inter.filter_map(|pair| span(&pair[1])));
            match word(0) {
                "" => {}
                "global" | "defaults" | "frontend" | "listen" | "backend" | "peers"
                | "resolvers" | "userlist" | "mailers" | "program" | "cache" | "http-errors"
                | "ring" | "log-forward" | "fcgi-app" | "crt-store" | "traces" => {
                    section = (word(0).to_owned(), word(1).to_owned());
                    if is_backend(&section.0) {
                        config.backends.entry(section.1.clone()).or_default();
                    }
                }
                "server" if is_backend(&section.0) => {
                    let server = server(&words);
                    config.backends.entry(section.1.clone()).or_default().push(server);
                }
                "use_backend" | "default_backend" => config.routes.push(word(1).to_owned()),
                "stats" if section.0 == "global" && word(1) == "socket" => {
                    let admin = words.windows(2).any(|pair| pair == ["level", "admin"]);
                    config.stats_sockets.push((word(2).to_owned(), admin));
                }
                _ => {}
            }
        }
        config
    }

    /// The first stats socket that is a path, before all one with all rights.
    pub fn stats_socket(&self) -> Option<&str> {
        let bare = |name: &str| name.strip_prefix("unix@").unwrap_or(name).starts_with('/');
        let fit = || self.stats_sockets.iter().filter(|(name, _)| bare(name));
        let best = fit().find(|(_, admin)| *admin).or_else(|| fit().next());
        best.map(|(name, _)| name.as_str())
    }

    /// The longest time between two health checks that is written anywhere.
    pub fn longest_interval(&self) -> Option<Duration> {
        self.intervals.iter().max().copied()
    }

    pub fn has_backend(&self, name: &str) -> bool {
        self.backends.contains_key(name)
    }

    pub fn servers(&self, backend: &str) -> &[Server] {
        self.backends.get(backend).map(Vec::as_slice).unwrap_or_default()
    }

    /// The backends of the `use_backend` rules that ask this map for this key: the text before and
    /// after the question. `use_backend shop-%[str(shop-staging),map(/etc/haproxy/active.map)]`
    pub fn asking(&self, map: &str, key: &str) -> Vec<(String, String)> {
        let mut found = BTreeSet::new();
        for route in &self.routes {
            let Some((before, rest)) = route.split_once("%[") else { continue };
            let Some((question, after)) = rest.rsplit_once(']') else { continue };
            let asks_key = question.contains(&format!("str({key})"));
            let asks_map =
                question.contains(&format!("({map})")) || question.contains(&format!("({map},"));
            if asks_key && asks_map && !after.contains("%[") {
                found.insert((before.to_owned(), after.to_owned()));
            }
        }
        found.into_iter().collect()
    }

    /// Backends in pairs, such as `shop-blue` and `shop-green`, and backends with servers of both
    /// colours.
    pub fn colored(&self, server_name: &crate::servers::ServerName) -> Vec<Group> {
        let mut groups = Vec::new();
        for (name, servers) in &self.backends {
            if let Some((pattern, Color::Blue)) = Pattern::of(name) {
                if self.has_backend(&pattern.name(Color::Green)) {
                    groups.push(Group::OneEach(pattern));
                    continue;
                }
            }
            let has = |color| servers.iter().any(|s| server_name.color(&s.name) == Some(color));
            if has(Color::Blue) && has(Color::Green) {
                groups.push(Group::Shared(name.clone(), server_name.clone()));
            }
        }
        groups
    }

    /// Address and title of each server of a colour.
    pub fn addresses(&self, groups: &[Group], color: Color) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for group in groups {
            let (backend, name) = match group {
                Group::OneEach(pattern) => (pattern.name(color), None),
                Group::Shared(backend, name) => (backend.clone(), Some(name)),
            };
            let of_color =
                |server: &&Server| name.is_none_or(|name| name.color(&server.name) == Some(color));
            for server in self.servers(&backend).iter().filter(of_color) {
                found.insert((server.address.clone(), format!("{backend}/{}", server.name)));
            }
        }
        found
    }

    /// The colour that requests get by this configuration, for these backends; `None` when it does
    /// not say, or says both.
    pub fn color(&self, groups: &[Group]) -> Option<Color> {
        let mut said = BTreeSet::new();
        for group in groups {
            match group {
                Group::OneEach(pattern) => {
                    for color in Color::BOTH {
                        if self.routes.contains(&pattern.name(color)) {
                            said.insert(color);
                        }
                    }
                }
                Group::Shared(backend, name) => {
                    for server in self.servers(backend).iter().filter(|server| server.is_active) {
                        said.extend(name.color(&server.name));
                    }
                }
            }
        }
        match said.len() {
            1 => said.first().copied(),
            _ => None,
        }
    }
}

/// A time as HAProxy writes it: milliseconds, or with a unit.
fn span(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "" | "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

/// The text as a diff may show it: of a line that speaks of passwords or tokens, its first word.
pub fn without_secrets(text: &[u8]) -> String {
    const SECRET: &[&str] =
        &["password", "passwd", "secret", "token", "auth", "authorization", "key "];
    let mut shown = String::new();
    for line in String::from_utf8_lossy(text).lines() {
        let lower = line.to_ascii_lowercase();
        if SECRET.iter().any(|word| lower.contains(word)) {
            let indent = &line[..line.len() - line.trim_start().len()];
            let first = line.split_whitespace().next().unwrap_or_default();
            shown.push_str(&format!("{indent}{first} (hidden)\n"));
        } else {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    shown
}

fn is_backend(section: &str) -> bool {
    matches!(section, "backend" | "listen")
}

/// `server <name> <address> [options]`
fn server(words: &[String]) -> Server {
    let word = |at: usize| words.get(at).cloned().unwrap_or_default();
    let off = words.iter().skip(3).any(|word| word == "backup" || word == "disabled");
    let weightless = words.windows(2).any(|pair| pair == ["weight", "0"]);
    Server { name: word(1), address: word(2), is_active: !off && !weightless }
}

/// The words of a line: quotes and backslashes as HAProxy reads them, a comment left out.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut inside) = (Vec::new(), None::<String>, None::<char>);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (inside, c) {
            (Some('\''), '\'') | (Some('"'), '"') => inside = None,
            (None, '\'' | '"') => {
                inside = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, '#') => break,
            (None, c) if c.is_ascii_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::ServerName;

    const BY_MAP: &str = r#"
global
    stats socket ipv4@127.0.0.1:9 level admin
    stats socket /run/weak.sock mode 600
    stats socket /run/haproxy.sock mode 600 level admin # the one
frontend edge
    use_backend shop-api-%[str(shop-staging),map(/etc/haproxy/active.map,missing)] if { path /api }
    use_backend "shop-web-%[str(shop-staging),map(/etc/haproxy/active.map,missing)]"
    use_backend blog-%[str(blog-staging),map(/etc/haproxy/active.map,missing)]
backend shop-api-blue
    server one 127.0.0.1:1 check
backend shop-api-green
    server one 127.0.0.1:2 check
"#;

    const BY_BACKUP: &str = "
backend api
    server api-blue 127.0.0.1:1 check backup
    server api-green 127.0.0.1:2 check # blue was backup
backend web
    server web-blue 127.0.0.1:3 check disabled
    server web-green 127.0.0.1:4 check
";

    #[test]
    fn the_map_leads_to_its_backends() {
        let config = Config::parse(BY_MAP);
        assert_eq!(config.stats_socket(), Some("/run/haproxy.sock"));
        let asking = config.asking("/etc/haproxy/active.map", "shop-staging");
        let expected = ["shop-api-", "shop-web-"].map(|name| (name.to_owned(), String::new()));
        assert_eq!(asking, expected);
        assert_eq!(config.asking("/etc/haproxy/active.map", "shop"), vec![]);
        assert_eq!(config.asking("/etc/haproxy/active", "shop-staging"), vec![]);
    }

    #[test]
    fn the_active_servers_say_the_colour() {
        let name = ServerName::parse("{component}-{color}").expect("a pattern");
        let config = Config::parse(BY_BACKUP);
        let groups = config.colored(&name);
        assert_eq!(groups.len(), 2);
        assert_eq!(config.color(&groups), Some(Color::Green));
        let both = Config::parse(&BY_BACKUP.replace(" backup", ""));
        assert_eq!(both.color(&both.colored(&name)), None);
        assert_eq!(Config::parse("").color(&[]), None);
    }

    #[test]
    fn the_routes_say_the_colour() {
        let text =
            "frontend f\n default_backend shop-green\nbackend shop-blue\nbackend shop-green\n";
        let config = Config::parse(text);
        let groups = config.colored(&ServerName::parse("{color}").expect("a pattern"));
        assert_eq!(config.color(&groups), Some(Color::Green));
        let both = Config::parse(&format!("{text}frontend g\n use_backend shop-blue if TRUE\n"));
        assert_eq!(both.color(&groups), None);
    }

    #[test]
    fn intervals_have_units() {
        let config = Config::parse(
            "backend a\n server b 127.0.0.1:1 check inter 500\n default-server inter 3s\n",
        );
        assert_eq!(config.longest_interval(), Some(Duration::from_secs(3)));
        assert_eq!(span("1x"), None);
        assert_eq!(span(""), None);
    }

    #[test]
    fn words_are_split_as_haproxy_does() {
        assert_eq!(words(r#" a "b c" d\ e 'f"#), ["a", "b c", "d e", "f"]);
        assert_eq!(words("a # b"), ["a"]);
        assert_eq!(words(r"a \# b"), ["a", "#", "b"]);
        assert!(words("  # only a comment").is_empty());
    }
}
