//! Reads from HAProxy's configuration which backends follow the map, which colour it makes active, and
//! where the stats socket is.
//!
//! Invariant: what the configuration does not say is `None`; nothing is guessed.

use crate::color::{Color, Pattern};
use crate::servers::Group;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A server line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub address: String,
    /// Whether it gets requests: neither `backup` nor `disabled`, with a weight above 0.
    pub is_active: bool,
}

/// Parts of a backend's name: the text before the map lookup, the lookup, and the text after it.
type Lookup<'a> = (&'a str, &'a str, &'a str);

/// The arguments of `use_backend` or `default_backend`.
#[derive(Clone, Debug)]
struct Route {
    /// Its section.
    frontend: String,
    backend: String,
    is_default: bool,
}

/// The parts of a configuration that we need.
#[derive(Clone, Debug, Default)]
pub struct Config {
    backends: BTreeMap<String, Vec<Server>>,
    routes: Vec<Route>,
    /// Conditions with a map lookup, and their frontends.
    conditions: Vec<(String, String)>,
    stats_sockets: Vec<(String, bool)>,
    intervals: Vec<Duration>,
}

impl Config {
    pub fn parse(text: &str) -> Config {
        let mut config = Config::default();
        let mut section = (String::new(), String::new());
        for line in text.lines() {
            let words = words(line);
            let is_route = words.first().is_some_and(|word| word == "use_backend");
            let condition = words.get(if is_route { 2 } else { 1 }..).unwrap_or_default().join(" ");
            if condition.contains("map(") {
                config.conditions.push((section.1.clone(), condition));
            }
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
                keyword @ ("use_backend" | "default_backend") => config.routes.push(Route {
                    frontend: section.1.clone(),
                    backend: word(1).to_owned(),
                    is_default: keyword == "default_backend",
                }),
                "stats" if section.0 == "global" && word(1) == "socket" => {
                    let admin = words.windows(2).any(|pair| pair == ["level", "admin"]);
                    config.stats_sockets.push((word(2).to_owned(), admin));
                }
                _ => {}
            }
        }
        config
    }

    /// The first stats socket that is a path, preferably with `level admin`.
    pub fn stats_socket(&self) -> Option<&str> {
        let bare = |name: &str| name.strip_prefix("unix@").unwrap_or(name).starts_with('/');
        let fit = || self.stats_sockets.iter().filter(|(name, _)| bare(name));
        let best = fit().find(|(_, admin)| *admin).or_else(|| fit().next());
        best.map(|(name, _)| name.as_str())
    }

    /// The longest interval between health checks in the configuration.
    pub fn longest_interval(&self) -> Option<Duration> {
        self.intervals.iter().max().copied()
    }

    pub fn has_backend(&self, name: &str) -> bool {
        self.backends.contains_key(name)
    }

    pub fn servers(&self, backend: &str) -> &[Server] {
        self.backends.get(backend).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the backends of the `use_backend` rules that look this key up in this map: the text before and
    /// after the lookup. `use_backend shop-%[str(shop-staging),map(/etc/haproxy/active.map)]`
    pub fn backends_for(&self, map: &str, key: &str) -> Vec<(String, String)> {
        let asks_key = format!("str({key})");
        let found: BTreeSet<_> = (self.lookups(map))
            .filter(|(_, question, after)| question.contains(&asks_key) && !after.contains("%["))
            .map(|(before, _, after)| (before.to_owned(), after.to_owned()))
            .collect();
        found.into_iter().collect()
    }

    /// The constant keys that `use_backend` rules look up in this map.
    pub fn looked_up_keys(&self, map: &str) -> Vec<&str> {
        let found: BTreeSet<&str> = (self.lookups(map))
            .filter_map(|(_, question, _)| question.split_once("str(")?.1.split_once(')'))
            .map(|(key, _)| key)
            .collect();
        found.into_iter().collect()
    }

    /// Lookups of `use_backend` rules in this map, with the text before and after them.
    fn lookups<'a>(&'a self, map: &str) -> impl Iterator<Item = Lookup<'a>> {
        self.frontend_lookups(map).map(|(_, question)| question)
    }

    /// Returns the lookups with the frontends of the rules.
    fn frontend_lookups<'a>(&'a self, map: &str) -> impl Iterator<Item = (&'a str, Lookup<'a>)> {
        let frontend_lookups = [format!("({map})"), format!("({map},")];
        self.routes.iter().filter_map(move |route| {
            let (before, rest) = route.backend.split_once("%[")?;
            let (question, after) = rest.rsplit_once(']')?;
            let asks_map = frontend_lookups.iter().any(|words| question.contains(words));
            asks_map.then_some((route.frontend.as_str(), (before, question, after)))
        })
    }

    /// Returns the backend of requests for this key while the map has no colour for it: HAProxy uses the
    /// `default_backend` when the backend of the rule does not exist. A frontend with a condition on this key
    /// is trusted to handle them before.
    pub fn fallback(&self, map: &str, key: &str) -> Option<&str> {
        let asks_key = format!("str({key})");
        self.frontend_lookups(map)
            .filter(|(_, (_, question, _))| question.contains(&asks_key))
            .find_map(|(frontend, (before, question, after))| {
                let unknown = question.rsplit_once(&format!("({map},")).map(|(_, rest)| rest);
                let value = unknown.and_then(|rest| rest.split_once(')')).map(|(value, _)| value);
                let leads_nowhere =
                    value.is_none_or(|value| !self.has_backend(&format!("{before}{value}{after}")));
                let default =
                    self.routes.iter().find(|route| route.is_default && route.frontend == frontend);
                let is_caught = self.conditions.iter().any(|(section, text)| {
                    section == frontend && text.contains(&asks_key) && text.contains(map)
                });
                default.filter(|_| leads_nowhere && !is_caught).map(|route| route.backend.as_str())
            })
    }

    /// Backends in pairs, such as `shop-blue` and `shop-green`, and backends with servers of both
    /// colours.
    pub fn colored_groups(&self, server_name: &crate::servers::ServerName) -> Vec<Group> {
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
                        if self.routes.iter().any(|route| route.backend == pattern.name(color)) {
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

/// Parses a time of HAProxy: milliseconds, or a number with a unit.
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

/// The text for a diff: of a line about passwords or tokens only the first word is shown.
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

/// Splits a line into words with HAProxy's rules for quotes, backslashes and comments.
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
    fn the_backends_of_a_map_are_found() {
        let config = Config::parse(BY_MAP);
        assert_eq!(config.stats_socket(), Some("/run/haproxy.sock"));
        let backends_for = config.backends_for("/etc/haproxy/active.map", "shop-staging");
        let expected = ["shop-api-", "shop-web-"].map(|name| (name.to_owned(), String::new()));
        assert_eq!(backends_for, expected);
        assert_eq!(config.backends_for("/etc/haproxy/active.map", "shop"), vec![]);
        assert_eq!(
            config.looked_up_keys("/etc/haproxy/active.map"),
            ["blog-staging", "shop-staging"]
        );
        assert!(config.looked_up_keys("/etc/haproxy/active").is_empty());
        assert_eq!(config.backends_for("/etc/haproxy/active", "shop-staging"), vec![]);
    }

    #[test]
    fn a_key_without_a_colour_falls_back_to_the_default_backend() {
        let map = "/etc/haproxy/active.map";
        assert_eq!(Config::parse(BY_MAP).fallback(map, "shop-staging"), None);
        let other = BY_MAP
            .replace("backend shop-api-blue", " default_backend other\nbackend shop-api-blue");
        assert_eq!(Config::parse(&other).fallback(map, "shop-staging"), Some("other"));
        let api = "backend shop-api-missing\n";
        let web = "backend shop-web-missing\n";
        assert_eq!(
            Config::parse(&format!("{other}{api}")).fallback(map, "shop-staging"),
            Some("other")
        );
        assert_eq!(
            Config::parse(&format!("{other}{api}{web}")).fallback(map, "shop-staging"),
            None
        );
        let caught = other.replace(
            " default_backend",
            " use_backend no-color unless { str(shop-staging),map(/etc/haproxy/active.map) -m found }\n default_backend",
        );
        assert_eq!(Config::parse(&caught).fallback(map, "shop-staging"), None);
        assert_eq!(Config::parse(&caught).fallback(map, "blog-staging"), Some("other"));
        let not_running = other.replace(",missing", "");
        assert_eq!(
            Config::parse(&format!("{not_running}{api}{web}")).fallback(map, "shop-staging"),
            Some("other")
        );
    }

    #[test]
    fn the_active_servers_determine_the_colour() {
        let name = ServerName::parse("{component}-{color}").expect("a pattern");
        let config = Config::parse(BY_BACKUP);
        let groups = config.colored_groups(&name);
        assert_eq!(groups.len(), 2);
        assert_eq!(config.color(&groups), Some(Color::Green));
        let both = Config::parse(&BY_BACKUP.replace(" backup", ""));
        assert_eq!(both.color(&both.colored_groups(&name)), None);
        assert_eq!(Config::parse("").color(&[]), None);
    }

    #[test]
    fn the_routes_determine_the_colour() {
        let text =
            "frontend f\n default_backend shop-green\nbackend shop-blue\nbackend shop-green\n";
        let config = Config::parse(text);
        let groups = config.colored_groups(&ServerName::parse("{color}").expect("a pattern"));
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
