//! The requests to a server before the flip (`probe`), and through HAProxy after it (`prove`).

use ansible_module::{Failure, Options as RawOptions};
use host::deadline;
use probe::expect::Expect;
use probe::http::{self, Request, Tls, Url};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug)]
pub struct Question {
    asked: Destination,
    headers: Vec<(String, String)>,
    status: Vec<u16>,
    release_field: Option<String>,
    release_header: Option<String>,
    text: Option<String>,
    tries: u32,
    delay: Duration,
    timeout: Duration,
}

#[derive(Debug)]
enum Destination {
    Url(Url, Tls),
    Server { scheme: String, path: String, port: Option<u16> },
}

/// A request that got the expected answer.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    pub tries: u32,
    pub status: u16,
    pub took: Duration,
}

impl Proof {
    pub fn to_json(self) -> Value {
        let milliseconds = (self.took.as_secs_f64() * 10_000.0).round() / 10.0;
        json!({ "tries": self.tries, "status": self.status, "milliseconds": milliseconds })
    }
}

/// The options of `probe` and of `prove`.
#[derive(Deserialize)]
struct Common {
    headers: Option<Map<String, Value>>,
    status: Vec<u16>,
    release_field: Option<String>,
    release_header: Option<String>,
    text: Option<String>,
    tries: u32,
    delay: f64,
    timeout: f64,
}

impl Question {
    pub fn parse_probe(
        options: &RawOptions,
        release: Option<&str>,
    ) -> Result<Option<Question>, Failure> {
        #[derive(Deserialize)]
        struct Raw {
            path: String,
            port: Option<u16>,
            scheme: String,
            #[serde(flatten)]
            common: Common,
        }
        let Some(raw) = options.get::<Option<Raw>>("probe")? else { return Ok(None) };
        if !raw.path.starts_with('/') {
            return Err(Failure::bad_option(
                "probe.path",
                format!("expected a path that begins with /, got {:?}", raw.path),
            ));
        }
        let asked = Destination::Server { scheme: raw.scheme, path: raw.path, port: raw.port };
        Question::new("probe", asked, raw.common, options, release).map(Some)
    }

    pub fn parse_prove(
        options: &RawOptions,
        release: Option<&str>,
    ) -> Result<Option<Question>, Failure> {
        #[derive(Deserialize)]
        struct Raw {
            url: Url,
            ca_file: Option<PathBuf>,
            insecure: bool,
            #[serde(flatten)]
            common: Common,
        }
        let Some(raw) = options.get::<Option<Raw>>("prove")? else { return Ok(None) };
        let tls = Tls { ca_file: raw.ca_file, insecure: raw.insecure };
        Question::new("prove", Destination::Url(raw.url, tls), raw.common, options, release)
            .map(Some)
    }

    fn new(
        name: &str,
        asked: Destination,
        common: Common,
        options: &RawOptions,
        release: Option<&str>,
    ) -> Result<Question, Failure> {
        let asks_release = common.release_field.is_some() || common.release_header.is_some();
        // For `previous` it is taken from the history.
        if asks_release && release.is_none() && options.get::<String>("color")? != "previous" {
            let msg = "release_field and release_header need the option release".to_owned();
            return Err(Failure::bad_option(name, msg));
        }
        if common.tries == 0 {
            return Err(Failure::bad_option(
                &format!("{name}.tries"),
                "expected 1 or more".to_owned(),
            ));
        }
        let text_of = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let headers = common.headers.unwrap_or_default().into_iter();
        let headers: Vec<(String, String)> =
            headers.map(|(header, value)| (header, text_of(value))).collect();
        http::check_headers(&headers)
            .map_err(|why| Failure::bad_option(&format!("{name}.headers"), why))?;
        Ok(Question {
            asked,
            headers,
            status: common.status,
            release_field: common.release_field,
            release_header: common.release_header,
            text: common.text,
            tries: common.tries,
            delay: Duration::from_secs_f64(common.delay),
            timeout: Duration::from_secs_f64(common.timeout),
        })
    }

    /// The text for messages.
    pub fn title(&self) -> String {
        match &self.asked {
            Destination::Url(url, _) => url.to_string(),
            Destination::Server { scheme, path, .. } => format!("{scheme}://<server>{path}"),
        }
    }

    pub fn is_insecure(&self) -> bool {
        matches!(&self.asked, Destination::Url(_, tls) if tls.insecure)
    }

    pub fn asks_release(&self) -> bool {
        self.release_field.is_some() || self.release_header.is_some()
    }

    /// Asks until the answer is right or the tries are used up, and then returns the last problem.
    pub fn ask(&self, address: Option<&str>, release: Option<&str>) -> Result<Proof, String> {
        let mut last = String::new();
        for tries in 1..=self.tries {
            match self.ask_once(address, release) {
                Ok((status, took)) => return Ok(Proof { tries, status, took }),
                Err(why) => last = why,
            }
            if tries < self.tries && deadline::sleep(self.delay).is_err() {
                return Err(format!("interrupted; the last try: {last}"));
            }
        }
        match self.tries {
            1 => Err(last),
            tries => Err(format!("asked {tries} times; the last try: {last}")),
        }
    }

    pub fn ask_once(
        &self,
        address: Option<&str>,
        release: Option<&str>,
    ) -> Result<(u16, Duration), String> {
        let mut request = Request::get(self.url(address)?);
        request.headers.clone_from(&self.headers);
        if let Destination::Url(_, tls) = &self.asked {
            request.tls = tls.clone();
        } else {
            request.tls.insecure = true;
        }
        let answer = http::ask(&request, self.timeout).map_err(|why| why.to_string())?;
        self.expectation(release)?.holds(&answer)?;
        Ok((answer.status, answer.took))
    }

    fn expectation(&self, release: Option<&str>) -> Result<Expect, String> {
        if self.asks_release() && release.is_none() {
            return Err("the history has no release: give it as an option".to_owned());
        }
        let release = release.unwrap_or_default();
        Ok(Expect {
            status: self.status.clone(),
            header: self.release_header.as_ref().map(|name| (name.clone(), release.to_owned())),
            json: self.release_field.as_ref().map(|path| (path.clone(), json!(release))),
            text: self.text.clone(),
        })
    }

    fn url(&self, address: Option<&str>) -> Result<Url, String> {
        match (&self.asked, address) {
            (Destination::Url(url, _), _) => Ok(url.clone()),
            (Destination::Server { scheme, path, port }, Some(address)) => {
                let (host, own) = address
                    .rsplit_once(':')
                    .ok_or_else(|| format!("its address {address:?} cannot be asked by HTTP"))?;
                let port = port.map_or(own.to_owned(), |port| port.to_string());
                let host = match host.contains(':') && !host.starts_with('[') {
                    true => format!("[{host}]"),
                    false => host.to_owned(),
                };
                Url::try_from(format!("{scheme}://{host}:{port}{path}"))
                    .map_err(|why| why.to_string())
            }
            (Destination::Server { .. }, None) => Err("HAProxy has no address for it".to_owned()),
        }
    }
}
