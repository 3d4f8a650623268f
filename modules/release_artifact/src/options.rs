//! The options as typed values, with the checks that a spec cannot express.

use crate::bounds::Bounds;
use crate::folder::Folder;
use crate::names::ReleaseSha;
use crate::owner::Owner;
use crate::registry::Source;
use crate::sums::Sum;
use ansible_module::{Failure, Options as RawOptions};
use host::deadline::Deadline;
use host::deploy_id::DeployId;
use probe::http::{Patience, Proxies, Request, Tls, Url, check_headers};
use std::path::PathBuf;
use std::time::Duration;

/// One redirect is usual for a forge whose storage is elsewhere.
const MAX_REDIRECTS: u32 = 5;
const PLACEHOLDERS: [&str; 5] = ["owner", "package", "component", "sha", "env"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Available,
    Present,
    Current,
    Absent,
    Pushed(PathBuf),
}

/// The typed options of the module.
#[derive(Debug)]
pub struct Task {
    pub wanted: Wanted,
    pub sha: ReleaseSha,
    pub folder: Option<Folder>,
    pub source: Option<Source>,
    pub owner: Owner,
    pub umask: u32,
    pub bounds: Bounds,
    pub retain: Option<usize>,
    pub keep: Vec<ReleaseSha>,
    /// The id of the run, and the folder of its fence.
    pub fence: Option<(DeployId, PathBuf)>,
    pub lock_timeout: Duration,
}

impl Task {
    pub fn parse(raw: &RawOptions) -> Result<Task, Failure> {
        let sha: ReleaseSha = raw.get("sha")?;
        let state: String = raw.get("state")?;
        let src: Option<PathBuf> = raw.get("src")?;
        let wanted = match (state.as_str(), src) {
            ("available", _) => Wanted::Available,
            ("present", _) => Wanted::Present,
            ("current", _) => Wanted::Current,
            ("absent", _) => Wanted::Absent,
            (_, Some(src)) => Wanted::Pushed(src),
            (_, None) => {
                return Err(Failure::bad_option("src", "state: pushed needs the archive to push"));
            }
        };
        let (owner, group): (Option<String>, Option<String>) =
            (raw.get("file_owner")?, raw.get("file_group")?);
        let umask: String = raw.get("umask")?;
        let umask = (u32::from_str_radix(&umask, 8).ok()).filter(|umask| *umask <= 0o777);
        let retain: Option<i64> = raw.get("retain")?;
        let template = Template::parse(raw)?;
        Ok(Task {
            source: template.as_ref().map(|template| template.source(&sha)).transpose()?,
            owner: Owner::of(owner.as_deref(), group.as_deref())?,
            umask: umask.ok_or_else(|| {
                Failure::bad_option(
                    "umask",
                    "expected octal digits in quotes, such as \"022\"".to_owned(),
                )
            })?,
            retain: match retain {
                Some(retain) if retain < 1 => {
                    let msg =
                        format!("expected how many releases to keep, 1 or more, got {retain}");
                    return Err(Failure::bad_option("retain", msg));
                }
                retain => retain.and_then(|retain| usize::try_from(retain).ok()),
            },
            bounds: Bounds { unpacked: raw.get("max_unpacked")?, files: raw.get("max_files")? },
            keep: raw.get("keep")?,
            folder: folder(raw)?,
            fence: fence(raw)?,
            lock_timeout: raw.seconds("lock_timeout")?,
            wanted,
            sha,
        })
    }

    /// Makes a task with default options.
    #[cfg(test)]
    pub fn of(wanted: Wanted, sha: ReleaseSha) -> Task {
        Task {
            wanted,
            sha,
            folder: None,
            source: None,
            owner: Owner::default(),
            umask: 0o022,
            bounds: Bounds { unpacked: 0, files: 0 },
            retain: None,
            keep: Vec::new(),
            fence: None,
            lock_timeout: Duration::ZERO,
        }
    }

    pub fn folder(&self) -> Result<&Folder, Failure> {
        self.folder
            .as_ref()
            .ok_or_else(|| Failure::bad_option("dest", "it is needed for this state"))
    }

    pub fn source(&self) -> Result<&Source, Failure> {
        self.source
            .as_ref()
            .ok_or_else(|| Failure::bad_option("url", "it is needed for this state"))
    }

    pub fn warnings(&self) -> Vec<String> {
        let fetches = matches!(self.wanted, Wanted::Present | Wanted::Current);
        self.source.as_ref().map_or_else(Vec::new, |source| warnings(source, fetches))
    }
}

fn warnings(source: &Source, fetches: bool) -> Vec<String> {
    let (url, place) = (&source.request.url, source.place());
    let mut warnings = Vec::new();
    if source.request.tls.insecure {
        warnings.push(format!(
            "insecure: anyone on the network path can pretend to be {place} and read the token"
        ));
    }
    if is_unencrypted(url) && source.has_token {
        warnings.push(format!(
            "the token is sent to {place} without TLS: anyone on the network path can read it"
        ));
    }
    // A sum from the playbook cannot be replaced on the network path.
    if fetches && is_unencrypted(url) && source.sha256.is_none() {
        warnings.push(format!(
            "the archive is fetched from {place} without TLS: anyone on the network path can send another one; give sha256, or a url with https"
        ));
    }
    warnings
}

/// Whether the URL is fetched without TLS over a network.
fn is_unencrypted(url: &Url) -> bool {
    let loopback = url.host() == "localhost"
        || url.host().parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    !url.is_https() && !loopback
}

/// The typed options of `release_artifact_info`.
#[derive(Debug)]
pub struct InfoTask {
    pub folders: Vec<Folder>,
    /// Whether `dest` was given, and not `dests`: then the facts of the folder are those of the result.
    pub is_one: bool,
    pub sha: Option<ReleaseSha>,
    pub template: Option<Template>,
    pub verify: bool,
}

impl InfoTask {
    pub fn parse(raw: &RawOptions) -> Result<InfoTask, Failure> {
        let one = folder(raw)?;
        let several: Vec<PathBuf> = raw.get::<Option<_>>("dests")?.unwrap_or_default();
        Ok(InfoTask {
            is_one: one.is_some(),
            folders: match one {
                Some(folder) => vec![folder],
                None => several.into_iter().map(|dest| Folder { dest }).collect(),
            },
            sha: raw.get("sha")?,
            template: Template::parse(raw)?,
            verify: raw.get("verify")?,
        })
    }
}

/// The URLs of releases with their placeholders.
#[derive(Debug)]
pub struct Template {
    url: String,
    sums_url: Option<String>,
    values: Vec<(&'static str, String)>,
    token: Option<String>,
    token_header: String,
    tls: Tls,
    sha256: Option<Sum>,
    tries: u32,
    patience: Patience,
}

impl Template {
    /// Returns `None` without a URL.
    fn parse(raw: &RawOptions) -> Result<Option<Template>, Failure> {
        let Some(url) = raw.get::<Option<String>>("url")? else { return Ok(None) };
        let mut values = Vec::new();
        for name in PLACEHOLDERS.into_iter().filter(|name| *name != "sha") {
            let Some(value) = raw.get::<Option<String>>(name)? else { continue };
            let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
            if value.is_empty() || value.starts_with('.') || !value.bytes().all(sound) {
                let msg = format!(
                    "expected letters, digits and any of . _ + -, not beginning with a dot, got {value:?}"
                );
                return Err(Failure::bad_option(name, msg));
            }
            values.push((name, value));
        }
        let sha256: Option<String> = raw.get("sha256")?;
        let sha256 = sha256.filter(|sum| !sum.is_empty()).map(|sum| sum.parse::<Sum>()).transpose();
        let token: Option<String> = raw.get("token")?;
        Ok(Some(Template {
            url,
            sums_url: raw.get("sums_url")?,
            values,
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            token_header: raw.get("token_header")?,
            tls: Tls { ca_file: raw.get("ca_file")?, insecure: raw.get("insecure")? },
            sha256: sha256.map_err(|why| Failure::bad_option("sha256", why))?,
            tries: u32::try_from(raw.get::<u64>("tries")?).unwrap_or(u32::MAX),
            patience: Patience {
                pause: raw.seconds("timeout")?,
                whole: Deadline::after(raw.seconds("deadline")?),
            },
        }))
    }

    pub fn source(&self, sha: &ReleaseSha) -> Result<Source, Failure> {
        let url = self.filled("url", &self.url, sha)?;
        let mut request = Request::get(url);
        request.tls = self.tls.clone();
        request.redirects = MAX_REDIRECTS;
        request.proxies =
            Proxies::of_environment().map_err(|why| Failure::bad_option("url", why))?;
        if let Some(token) = &self.token {
            let header =
                self.token_header.split_once(':').filter(|(_, value)| value.contains("{token}"));
            let (name, value) = header.ok_or_else(|| {
                Failure::bad_option(
                    "token_header",
                    "expected a header such as \"Authorization: token {token}\"".to_owned(),
                )
            })?;
            request.headers =
                vec![(name.trim().to_owned(), value.trim().replace("{token}", token))];
            check_headers(&request.headers).map_err(|why| Failure::bad_option("token", why))?;
        }
        let source = Source {
            sums_url: match &self.sums_url {
                Some(template) => Some(self.filled("sums_url", template, sha)?),
                None => None,
            },
            sha256: self.sha256,
            has_token: self.token.is_some(),
            tries: self.tries,
            patience: self.patience,
            request,
        };
        if source.file_name().is_empty() {
            return Err(Failure::bad_option("url", "its path must end with the name of a file"));
        }
        Ok(source)
    }

    /// Fills the placeholders of a URL. Messages do not quote it, since its query may contain a secret.
    fn filled(&self, option: &str, template: &str, sha: &ReleaseSha) -> Result<Url, Failure> {
        let mut text = template.replace("{sha}", sha.as_str());
        for (name, value) in &self.values {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        for name in PLACEHOLDERS {
            if text.contains(&format!("{{{name}}}")) {
                return Err(Failure::bad_option(
                    option,
                    format!("it has the placeholder {{{name}}}, but the option {name} is missing"),
                ));
            }
        }
        if text.contains(['{', '}']) {
            let known = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(", ");
            return Err(Failure::bad_option(
                option,
                format!("it has a placeholder that is none of {known}"),
            ));
        }
        text.parse().map_err(|why| Failure::bad_option(option, why))
    }
}

fn folder(raw: &RawOptions) -> Result<Option<Folder>, Failure> {
    let dest: Option<PathBuf> = raw.get("dest")?;
    Ok(dest.map(|dest| Folder { dest }))
}

/// Returns the id and the folder of the fence; without an id there is no fence.
fn fence(raw: &RawOptions) -> Result<Option<(DeployId, PathBuf)>, Failure> {
    let Some(id) = raw.get::<Option<DeployId>>("deploy_id")? else { return Ok(None) };
    let state_dir: Option<PathBuf> = raw.get("state_dir")?;
    let (package, env): (Option<String>, Option<String>) = (raw.get("package")?, raw.get("env")?);
    let state_dir = match (state_dir, package, env) {
        (Some(state_dir), ..) => state_dir,
        (None, Some(package), Some(env)) => format!("/var/lib/reversible/{package}-{env}").into(),
        (None, Some(package), None) => format!("/var/lib/reversible/{package}").into(),
        (None, None, _) => {
            return Err(Failure::bad_option(
                "state_dir",
                "deploy_id needs state_dir, or package for its default",
            ));
        }
    };
    Ok(Some((id, state_dir)))
}
