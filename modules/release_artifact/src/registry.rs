//! Asking the registry: whether it has a release, and what its answers mean.
//!
//! Invariant: no sentence holds the token, nor the path or the query of a URL, in which one may
//! stand. The token goes to the URL's own host and to no other.

use crate::names::ReleaseSha;
use crate::sums::{self, Sum};
use ansible_module::Failure;
use anyhow::{Error, Result};
use host::deadline::seconds;
use probe::http::{self, Answer as Asked, Kind, Method, Patience, Request, Unanswered, Url};
use serde_json::{Value, json};
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const MOST_SUMS: usize = 4 << 20;

/// Where a release is available.
#[derive(Debug)]
pub struct Source {
    /// A GET with the token, if there is one.
    pub request: Request,
    pub sums_url: Option<Url>,
    pub sha256: Option<Sum>,
    pub has_token: bool,
    pub tries: u32,
    /// How long a pause may be in which nothing comes, and when the task must be done.
    pub patience: Patience,
}

impl Source {
    /// Host and port: all of the URL that may be shown.
    pub fn place(&self) -> String {
        self.request.url.authority()
    }

    /// Asks, in the time that is left.
    pub fn ask(&self, request: &Request) -> Result<Asked, Unanswered> {
        http::ask(request, self.patience.pause.min(self.patience.whole.remaining()))
    }

    pub fn file_name(&self) -> &str {
        let path = self.request.url.target().split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

/// Why a try failed, and whether another one makes sense.
#[derive(Debug)]
pub enum Trouble {
    Passing(Failure),
    Final(Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Final(failure.into())
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Final(error)
    }
}

/// No answer: a server that restarts comes back, a wrong certificate does not.
impl From<Unanswered> for Trouble {
    fn from(why: Unanswered) -> Trouble {
        let failure = Failure::new(why.reason(), why.msg);
        match why.kind {
            Kind::Refused | Kind::Unreachable | Kind::Timeout | Kind::Closed | Kind::Name => {
                Trouble::Passing(failure)
            }
            Kind::Tls | Kind::Protocol | Kind::Redirects | Kind::Interrupted => {
                Trouble::Final(failure.into())
            }
        }
    }
}

/// Tries again after trouble that passes, with pauses that grow. `trial` says how often it was
/// already in vain, and may count again from 0 when it came further. Nothing goes on past the
/// deadline of the task.
pub fn persist<T>(
    source: &Source,
    mut trial: impl FnMut(&mut u32) -> Result<T, Trouble>,
) -> Result<T> {
    let whole = source.patience.whole;
    let mut in_vain = 0;
    loop {
        match trial(&mut in_vain) {
            Ok(done) => return Ok(done),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(mut failure)) => {
                in_vain += 1;
                if in_vain < source.tries {
                    whole.sleep(pause_after(in_vain))?;
                }
                if whole.passed() {
                    let span = seconds(whole.span());
                    let msg = format!(
                        "{}; all of it was not done within {span}: raise deadline if it may take longer",
                        tried(&failure.msg, in_vain)
                    );
                    return Err(Failure::new("timed_out", msg).into());
                }
                if in_vain >= source.tries {
                    failure.msg = tried(&failure.msg, in_vain);
                    return Err(failure.into());
                }
            }
        }
    }
}

/// Twice as long each time.
fn pause_after(in_vain: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << (in_vain.saturating_sub(1)).min(16)).min(LONGEST_PAUSE)
}

fn tried(msg: &str, times: u32) -> String {
    match times {
        1 => msg.to_owned(),
        times => format!("{msg} (tried {times} times)"),
    }
}

/// What an answer means that is not what was asked for.
pub fn refusal(status: u16, source: &Source, sha: &ReleaseSha) -> Trouble {
    let place = source.place();
    let (reason, msg) = match status {
        404 | 410 => ("not_in_registry", missing(source, sha)),
        401 | 403 if source.has_token => (
            "token_refused",
            format!(
                "{place} refuses the token (status {status}): give one that may do this with the package of its owner"
            ),
        ),
        401 | 403 => (
            "token_refused",
            format!(
                "{place} wants a token (status {status}): give one that may do this with the package of its owner"
            ),
        ),
        status => ("registry_answer", format!("{place} answers with status {status}")),
    };
    let failure = Failure::new(reason, msg).with("status", status);
    match status {
        408 | 425 | 429 | 500..=599 => Trouble::Passing(failure),
        _ => Trouble::Final(failure.into()),
    }
}

fn missing(source: &Source, sha: &ReleaseSha) -> String {
    format!(
        "{} does not have {} of release {sha}; it was never published, or was pruned there: rebuild and push it, or choose a release that it has",
        source.place(),
        source.file_name()
    )
}

/// What the registry says of a release.
#[derive(Clone, Debug)]
pub struct Answer {
    pub available: bool,
    pub place: String,
    pub status: u16,
    pub bytes: Option<u64>,
    /// Its own sum, and the header that it stood in.
    pub sum: Option<(String, Sum)>,
}

impl Answer {
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

/// Whether the registry has the release now. That it has not is an answer, not an error.
pub fn look(source: &Source, sha: &ReleaseSha) -> Result<Answer> {
    let mut request = source.request.clone();
    request.method = Method::Head;
    persist(source, |_| {
        let answer = source.ask(&request)?;
        let (status, headers) = match answer.status {
            // Not every registry answers HEAD, and a storage behind it signs each method apart.
            400 | 401 | 403 | 405 | 501 => {
                let begun = http::fetch(&source.request, 0, source.patience)?;
                (begun.status, begun.headers)
            }
            status => (status, answer.headers),
        };
        let available = match status {
            200 => true,
            404 | 410 => false,
            status => return Err(refusal(status, source, sha)),
        };
        let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        Ok(Answer {
            available,
            place: source.place(),
            status,
            bytes: length.filter(|_| available).and_then(|(_, value)| value.trim().parse().ok()),
            sum: sums::in_headers(&headers).map(|(name, sum)| (name.to_owned(), sum)),
        })
    })
}

/// As [`look`], and a release that is missing is a failure.
pub fn must_have(source: &Source, sha: &ReleaseSha) -> Result<Answer> {
    let answer = look(source, sha)?;
    if !answer.available {
        let failure = Failure::new("not_in_registry", missing(source, sha));
        return Err(failure.with("registry", answer.to_json()).into());
    }
    Ok(answer)
}

/// The sum in the file of sums.
pub fn published_sum(source: &Source, url: &Url, sha: &ReleaseSha) -> Result<Sum> {
    let mut request = source.request.clone();
    if (url.is_https(), url.authority()) != (request.url.is_https(), request.url.authority()) {
        request.headers.clear();
    }
    request.url = url.clone();
    request.most_body = MOST_SUMS;
    let place = format!("the file of sums at {}", url.authority());
    let no = |why: String| Failure::new("no_sum", format!("{place}: {why}"));
    persist(source, |_| {
        let answer = source.ask(&request)?;
        match answer.status {
            200 if answer.truncated => {
                Err(no(format!("it is over {} MiB", MOST_SUMS >> 20)).into())
            }
            200 => Ok(sums::in_file(&String::from_utf8_lossy(&answer.body), source.file_name())
                .map_err(no)?),
            404 | 410 => Err(no(format!("it does not exist for release {sha}")).into()),
            status => Err(refusal(status, source, sha)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_an_end() {
        let millis = |in_vain| pause_after(in_vain).as_millis();
        assert_eq!([1, 2, 3, 6, 7, 99].map(millis), [500, 1000, 2000, 16_000, 30_000, 30_000]);
    }
}
