//! Finds the servers of a colour.

use crate::color::{Color, Pattern};
use anyhow::Result;
use haproxy::socket::Socket;
use haproxy::stat::{self, Count, Server};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Pattern of the name of a colour's server in a backend with servers of both: `{component}-{color}`.
#[derive(Clone, Debug)]
pub struct ServerName(Pattern);

impl ServerName {
    const ANY: &'static str = "{component}";

    pub fn parse(text: &str) -> Result<ServerName, String> {
        let sound = Pattern::parse(text).filter(|_| text.matches(Self::ANY).count() <= 1);
        sound.map(ServerName).ok_or_else(|| {
            format!(
                "expected a pattern that holds {{color}} once and {{component}} at most once, such \
                 as {{component}}-{{color}}, got {text:?}"
            )
        })
    }

    /// The colour whose pattern the name matches, if it is exactly one; a number may follow.
    pub fn color(&self, name: &str) -> Option<Color> {
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let fits = |color: &Color| {
            let form = self.0.name(*color);
            let form = form.trim_end_matches(|c: char| c.is_ascii_digit());
            match form.split_once(Self::ANY) {
                None => name == form,
                Some((before, after)) => (name.strip_prefix(before))
                    .and_then(|rest| rest.strip_suffix(after))
                    .is_some_and(|component| !component.is_empty()),
            }
        };
        let mut fit = Color::BOTH.into_iter().filter(fits);
        match (fit.next(), fit.next()) {
            (Some(color), None) => Some(color),
            _ => None,
        }
    }
}

/// The backends of a component.
#[derive(Clone, Debug)]
pub enum Group {
    /// A backend for each colour.
    OneEach(Pattern),
    /// One backend with servers of both.
    Shared(String, ServerName),
}

impl Group {
    pub fn title(&self) -> String {
        match self {
            Group::OneEach(pattern) => pattern.to_string(),
            Group::Shared(backend, _) => backend.clone(),
        }
    }

    /// All backends that may have servers of a colour; a shared one is asked once for both.
    fn all_servers(&self, socket: &Socket) -> Result<[Vec<Server>; 2]> {
        match self {
            Group::OneEach(_) => {
                Ok([self.servers(Color::Blue, socket)?, self.servers(Color::Green, socket)?])
            }
            Group::Shared(backend, name) => {
                let mut sorted = [Vec::new(), Vec::new()];
                for server in stat::servers(socket, Some(backend))? {
                    match name.color(&server.name) {
                        Some(Color::Blue) => sorted[0].push(server),
                        Some(Color::Green) => sorted[1].push(server),
                        None => {}
                    }
                }
                Ok(sorted)
            }
        }
    }

    fn servers(&self, color: Color, socket: &Socket) -> Result<Vec<Server>> {
        match self {
            Group::OneEach(pattern) => stat::servers(socket, Some(&pattern.name(color))),
            Group::Shared(backend, name) => {
                let mut servers = stat::servers(socket, Some(backend))?;
                servers.retain(|server| name.color(&server.name) == Some(color));
                Ok(servers)
            }
        }
    }
}

/// The servers of one colour: of each component, at each HAProxy.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    title: String,
    socket: usize,
    servers: Vec<Server>,
}

impl Fleet {
    /// Observes the servers of blue and of green.
    pub fn both(groups: &[Group], sockets: &[Socket]) -> Result<[Fleet; 2]> {
        let mut fleets = [Fleet::default(), Fleet::default()];
        for (at, socket) in sockets.iter().enumerate() {
            for group in groups {
                for (fleet, servers) in fleets.iter_mut().zip(group.all_servers(socket)?) {
                    fleet.parts.push(Part { title: group.title(), socket: at, servers });
                }
            }
        }
        Ok(fleets)
    }

    pub fn observe(groups: &[Group], color: Color, sockets: &[Socket]) -> Result<Fleet> {
        let mut parts = Vec::new();
        for (at, socket) in sockets.iter().enumerate() {
            for group in groups {
                let servers = group.servers(color, socket)?;
                parts.push(Part { title: group.title(), socket: at, servers });
            }
        }
        Ok(Fleet { parts })
    }

    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.parts.iter().flat_map(|part| &part.servers)
    }

    /// Each server, with the index of the HAProxy that reported it.
    pub fn each(&self) -> impl Iterator<Item = (usize, &Server)> {
        self.parts.iter().flat_map(|part| part.servers.iter().map(|server| (part.socket, server)))
    }

    /// Returns why the colour cannot serve requests. Each component needs a server, and all servers that are not
    /// in maintenance must be up by a check.
    pub fn troubles(&self, color: Color) -> Vec<String> {
        let mut troubles = Vec::new();
        for part in &self.parts {
            let mut in_service =
                part.servers.iter().filter(|server| !server.is_maintenance()).peekable();
            if part.servers.is_empty() {
                troubles.push(format!("{} has no {color} server", part.title));
            } else if in_service.peek().is_none() {
                let title = part.servers[0].title();
                troubles.push(format!(
                    "{title} is in maintenance (`set server {title} state ready` takes it out)"
                ));
            }
            troubles.extend(in_service.filter(|server| !server.is_up()).map(trouble));
        }
        troubles.sort();
        troubles.dedup();
        troubles
    }

    /// Returns the first component without a server that takes requests.
    pub fn lost(&self) -> Option<&str> {
        let lost = |part: &&Part| !part.servers.iter().any(Server::takes_requests);
        self.parts.iter().find(lost).map(|part| part.title.as_str())
    }

    /// Returns address and title of each server that is in service.
    pub fn addresses(&self) -> BTreeSet<(String, String)> {
        (self.servers().filter(|server| !server.is_maintenance()))
            .map(|server| (server.address.clone(), server.title()))
            .collect()
    }

    /// Returns the components whose servers HAProxy does not check yet, because the new configuration adds them
    /// or takes them out of maintenance.
    pub fn unchecked(&self) -> Vec<&str> {
        let unchecked = |part: &&Part| part.servers.iter().all(Server::is_maintenance);
        self.parts.iter().filter(unchecked).map(|part| part.title.as_str()).collect()
    }

    /// The components whose servers HAProxy checks.
    pub fn checked(self) -> Fleet {
        let checked = |part: &Part| !part.servers.iter().all(Server::is_maintenance);
        Fleet { parts: self.parts.into_iter().filter(checked).collect() }
    }

    pub fn sessions(&self) -> u64 {
        self.servers().map(|server| server.sessions).sum()
    }

    /// Counts requests since an earlier observation. A reload or a person may have reset the counters.
    pub fn since(&self, then: &Fleet) -> Count {
        let key = |part: &Part, server: &Server| (part.socket, server.title());
        let before: BTreeMap<_, Count> = (then.parts.iter())
            .flat_map(|part| part.servers.iter().map(|server| (key(part, server), server.count)))
            .collect();
        let mut sum = Count::default();
        for part in &self.parts {
            for server in &part.servers {
                let old = before.get(&key(part, server)).copied().unwrap_or_default();
                let more = server.count.since(old).unwrap_or(server.count);
                sum.requests += more.requests;
                sum.failed += more.failed;
            }
        }
        sum
    }

    pub fn to_json(&self, color: Color) -> Value {
        let servers: Vec<Value> = (self.servers())
            .map(|server| {
                json!({
                    "backend": server.backend,
                    "server": server.name,
                    "address": Some(&server.address).filter(|address| !address.is_empty()),
                    "status": server.status,
                    "check": server.check,
                    "sessions": server.sessions,
                })
            })
            .collect();
        json!({ "up": self.troubles(color).is_empty(), "sessions": self.sessions(), "servers": servers })
    }
}

fn trouble(server: &Server) -> String {
    let check = match (server.status.as_str(), server.check.as_str()) {
        ("no check", _) => " (give it a health check: `check`)".to_owned(),
        (_, "" | "INI") => ", and no check of it has passed yet".to_owned(),
        (_, check) => format!(" ({check})"),
    };
    format!("{} is {}{check}", server.title(), server.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, status: &str, requests: u64, failed: u64) -> Server {
        Server {
            backend: "api".into(),
            name: name.into(),
            status: status.into(),
            check: "L7OK".into(),
            count: Count { requests, failed },
            ..Server::default()
        }
    }

    fn fleet(servers: Vec<Server>) -> Fleet {
        Fleet { parts: vec![Part { title: "api".into(), socket: 0, servers }] }
    }

    #[test]
    fn the_colour_of_a_server_is_in_its_name() {
        let name = ServerName::parse("{component}-{color}").expect("a pattern");
        assert_eq!(name.color("web-blue"), Some(Color::Blue));
        assert_eq!(name.color("web-green2"), Some(Color::Green));
        assert_eq!(name.color("blue"), None);
        assert_eq!(name.color("web-bluish"), None);
        let plain = ServerName::parse("{color}").expect("a pattern");
        assert_eq!(plain.color("blue12"), Some(Color::Blue));
        assert_eq!(plain.color("darkblue"), None);
        assert!(ServerName::parse("web").is_err());
    }

    #[test]
    fn only_a_passed_check_is_up() {
        let troubles = |servers| fleet(servers).troubles(Color::Blue);
        assert_eq!(troubles(vec![server("b", "UP", 0, 0)]), Vec::<String>::new());
        assert_eq!(troubles(vec![]), ["api has no blue server"]);
        assert_eq!(troubles(vec![server("b", "UP 1/3", 0, 0)]), ["api/b is UP 1/3 (L7OK)"]);
        assert!(
            troubles(vec![server("b", "no check", 0, 0)])[0].contains("give it a health check")
        );
        assert!(troubles(vec![server("b", "MAINT", 0, 0)])[0].contains("is in maintenance"));
        let rest = vec![server("b", "MAINT", 0, 0), server("c", "UP", 0, 0)];
        assert_eq!(troubles(rest), Vec::<String>::new());
        let unchecked = Server { check: String::new(), ..server("b", "UP", 0, 0) };
        assert!(troubles(vec![unchecked])[0].contains("no check of it has passed yet"));
    }

    #[test]
    fn reset_counters_begin_at_zero() {
        let then = fleet(vec![server("b", "UP", 100, 5)]);
        let later = fleet(vec![server("b", "UP", 130, 6)]).since(&then);
        assert_eq!(later, Count { requests: 30, failed: 1 });
        let reset = fleet(vec![server("b", "UP", 10, 1)]).since(&then);
        assert_eq!(reset, Count { requests: 10, failed: 1 });
    }
}
