//! Asks the registry whether it has a release, and interprets its answers.
//!
//! Invariant: no message contains the token, or the path or the query of a URL, which may contain one. The
//! token is sent to the URL's own host and to no other.

use crate::names::ReleaseSha;
use crate::sums::{self, Sum};
use ansible_module::Failure;
use anyhow::{Error, Result};
use host::deadline::seconds;
use probe::http::{self, Answer as Response, Kind, Method, Patience, Request, Unanswered, Url};
use serde_json::{Value, json};
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);
const MAX_SUMS: usize = 4 << 20;

/// Where a release is fetched from.
#[derive(Debug)]
pub struct Source {
    /// A GET request, with the token if there is one.
    pub request: Request,
    pub sums_url: Option<Url>,
    pub sha256: Option<Sum>,
    pub has_token: bool,
    pub tries: u32,
    /// The maximum time without data, and the deadline of the task.
    pub patience: Patience,
}

impl Source {
    /// Returns host and port, the only part of the URL that may be shown.
    pub fn place(&self) -> String {
        self.request.url.authority()
    }

    /// Sends a request, with the time that remains.
    pub fn ask(&self, request: &Request) -> Result<Response, Unanswered> {
        http::ask(request, self.patience.pause.min(self.patience.whole.remaining()))
    }

    pub fn file_name(&self) -> &str {
        let path = self.request.url.target().split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

/// Why a try failed, and whether to try again.
#[derive(Debug)]
pub enum TryError {
    Temporary(Failure),
    Final(Error),
}

impl From<Failure> for TryError {
    fn from(failure: Failure) -> TryError {
        TryError::Final(failure.into())
    }
}

impl From<Error> for TryError {
    fn from(error: Error) -> TryError {
        TryError::Final(error)
    }
}

/// Tries again when there was no answer, since a server may restart, but not after a wrong certificate.
impl From<Unanswered> for TryError {
    fn from(why: Unanswered) -> TryError {
        let failure = Failure::new(why.reason(), why.msg);
        match why.kind {
            Kind::Refused | Kind::Unreachable | Kind::Timeout | Kind::Closed | Kind::Name => {
                TryError::Temporary(failure)
            }
            Kind::Tls | Kind::Protocol | Kind::Redirects | Kind::Interrupted => {
                TryError::Final(failure.into())
            }
        }
    }
}

/// Tries again after temporary errors, with growing pauses, until the deadline of the task. `trial` gets the
/// number of failed tries, and may reset it to 0 when it made progress.
pub fn retry<T>(
    source: &Source,
    mut trial: impl FnMut(&mut u32) -> Result<T, TryError>,
) -> Result<T> {
    let deadline = source.patience.whole;
    let mut failures = 0;
    loop {
        match trial(&mut failures) {
            Ok(done) => return Ok(done),
            Err(TryError::Final(error)) => return Err(error),
            Err(TryError::Temporary(mut failure)) => {
                failures += 1;
                if failures < source.tries {
                    deadline.sleep(pause_after(failures))?;
                }
                if deadline.passed() {
                    let span = seconds(deadline.span());
                    let msg = format!(
                        "{}; it was not done within {span}: raise deadline if it may take longer",
                        tried(&failure.msg, failures)
                    );
                    return Err(Failure::new("timed_out", msg).into());
                }
                if failures >= source.tries {
                    failure.msg = tried(&failure.msg, failures);
                    return Err(failure.into());
                }
            }
        }
    }
}

/// Returns the pause after a failed try, which doubles each time.
fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << (failures.saturating_sub(1)).min(16)).min(MAX_PAUSE)
}

fn tried(msg: &str, times: u32) -> String {
    match times {
        1 => msg.to_owned(),
        times => format!("{msg} (tried {times} times)"),
    }
}

/// Returns the error for an answer with another status than expected.
pub fn refusal(status: u16, source: &Source, sha: &ReleaseSha) -> TryError {
    let place = source.place();
    let (reason, msg) = match status {
        404 | 410 => ("not_in_registry", missing(source, sha)),
        401 | 403 if source.has_token => (
            "token_refused",
            format!(
                "{place} refuses the token (status {status}): give one with the rights for the package of its owner"
            ),
        ),
        401 | 403 => (
            "token_refused",
            format!(
                "{place} requires a token (status {status}): give one with the rights for the package of its owner"
            ),
        ),
        status => ("registry_answer", format!("{place} answers with status {status}")),
    };
    let failure = Failure::new(reason, msg).with("status", status);
    match status {
        408 | 425 | 429 | 500..=599 => TryError::Temporary(failure),
        _ => TryError::Final(failure.into()),
    }
}

fn missing(source: &Source, sha: &ReleaseSha) -> String {
    format!(
        "{} does not have {} of release {sha}; it was never published, or was pruned there: rebuild and push it, or choose a release that it has",
        source.place(),
        source.file_name()
    )
}

/// Whether the registry has a release, by its answer.
#[derive(Clone, Debug)]
pub struct Availability {
    pub available: bool,
    pub place: String,
    pub status: u16,
    pub bytes: Option<u64>,
    /// Its own sum, and the name of the header.
    pub sum: Option<(String, Sum)>,
}

impl Availability {
    pub fn to_json(&self) -> Value {
        json!({
            "available": self.available,
            "registry": self.place,
            "status": self.status,
            "bytes": self.bytes,
            "sha256": self.sum.as_ref().map(|(_, sum)| sum.to_string()),
        })
    }
}

/// Asks whether the registry has the release. A missing release is an answer, not an error.
pub fn availability(source: &Source, sha: &ReleaseSha) -> Result<Availability> {
    let mut request = source.request.clone();
    request.method = Method::Head;
    retry(source, |_| {
        let answer = source.ask(&request)?;
        let (status, headers) = match answer.status {
            // Some registries do not answer HEAD, and a storage behind one may sign each method separately.
            400 | 401 | 403 | 405 | 501 => {
                let fetched = http::fetch(&source.request, 0, source.patience)?;
                (fetched.status, fetched.headers)
            }
            status => (status, answer.headers),
        };
        let available = match status {
            200 => true,
            404 | 410 => false,
            status => return Err(refusal(status, source, sha)),
        };
        let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        Ok(Availability {
            available,
            place: source.place(),
            status,
            bytes: length.filter(|_| available).and_then(|(_, value)| value.trim().parse().ok()),
            sum: sums::in_headers(&headers).map(|(name, sum)| (name.to_owned(), sum)),
        })
    })
}

/// Asks like [`availability`], but a missing release is an error.
pub fn must_have(source: &Source, sha: &ReleaseSha) -> Result<Availability> {
    let answer = availability(source, sha)?;
    if !answer.available {
        let failure = Failure::new("not_in_registry", missing(source, sha));
        return Err(failure.with("registry", answer.to_json()).into());
    }
    Ok(answer)
}

/// Fetches the sum in the file of sums.
pub fn published_sum(source: &Source, url: &Url, sha: &ReleaseSha) -> Result<Sum> {
    let mut request = source.request.clone();
    if (url.is_https(), url.authority()) != (request.url.is_https(), request.url.authority()) {
        request.headers.clear();
    }
    request.url = url.clone();
    request.most_body = MAX_SUMS;
    let place = format!("the file of sums at {}", url.authority());
    let no_sum = |why: String| Failure::new("no_sum", format!("{place}: {why}"));
    retry(source, |_| {
        let answer = source.ask(&request)?;
        match answer.status {
            200 if answer.truncated => {
                Err(no_sum(format!("it is over {} MiB", MAX_SUMS >> 20)).into())
            }
            200 => Ok(sums::in_file(&String::from_utf8_lossy(&answer.body), source.file_name())
                .map_err(no_sum)?),
            404 | 410 => Err(no_sum(format!("it does not exist for release {sha}")).into()),
            status => Err(refusal(status, source, sha)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let millis = |failures| pause_after(failures).as_millis();
        assert_eq!([1, 2, 3, 6, 7, 99].map(millis), [500, 1000, 2000, 16_000, 30_000, 30_000]);
    }
}
