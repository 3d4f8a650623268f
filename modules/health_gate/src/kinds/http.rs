//! `http`: a URL gives the expected answer, fast enough.

use super::web;
use crate::bounds::Bounds;
use crate::probe_options::ProbeOptions;
use crate::seen::{Ask, Seen, Try};
use ansible_module::Failure;
use probe::expect::Expect;
use probe::http::Request;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// More redirects than this count as a loop.
const MOST_REDIRECTS: u64 = 20;

pub struct Http {
    request: Request,
    /// All expectations must be met.
    expect: Vec<Expect>,
    /// Bounds for the milliseconds that the answer took.
    bounds: Bounds,
    /// Whether to return the body of the last answer.
    returns_content: bool,
}

impl Http {
    pub fn parse(given: &mut ProbeOptions) -> Result<Http, Failure> {
        let mut request = web::request(given)?;
        request.socket = given.absolute("socket")?;
        if request.socket.is_some() && request.connect_to.is_some() {
            return Err(given.bad("socket", "with it connect_to would not be looked at; give one"));
        }
        let redirects = given.whole("redirects", 0)?.unwrap_or_default();
        if redirects > MOST_REDIRECTS {
            return Err(given.bad("redirects", format!("{MOST_REDIRECTS} at most")));
        }
        request.redirects = redirects as u32;
        let status: Vec<u16> = given.take("status")?.unwrap_or_default();
        if let Some(odd) = status.iter().find(|status| !(100..=599).contains(*status)) {
            return Err(given.bad("status", format!("{odd} is no status of HTTP")));
        }
        let release = given.text("release")?;
        let (field, header) = (given.text("release_field")?, given.text("release_header")?);
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut fields: Vec<(String, Value)> = Vec::new();
        match (release, field, header) {
            (None, None, None) => {}
            (Some(_), None, None) => {
                let msg = "release needs release_field or release_header, to know where to look";
                return Err(given.refuse(msg.to_owned()));
            }
            (None, ..) => {
                return Err(given.refuse("release_field and release_header need release".into()));
            }
            (Some(release), field, header) => {
                fields.extend(field.map(|field| (field, json!(release))));
                headers.extend(header.map(|header| (header, release)));
            }
        }
        let more: Map<String, Value> = given.take("response_headers")?.unwrap_or_default();
        headers.extend(more.into_iter().map(|(name, value)| (name, web::text_of(value))));
        let more: Map<String, Value> = given.take("json")?.unwrap_or_default();
        fields.extend(more);
        let text = given.text("text")?;
        let mut expect = vec![Expect { status: status.clone(), text, ..Expect::default() }];
        let one = || Expect { status: status.clone(), ..Expect::default() };
        expect.extend(headers.into_iter().map(|header| Expect { header: Some(header), ..one() }));
        expect.extend(fields.into_iter().map(|json| Expect { json: Some(json), ..one() }));
        let returns_content = given.take("return_content")?.unwrap_or_default();
        Ok(Http { request, expect, bounds: Bounds::upward(given)?, returns_content })
    }
}

impl Ask for Http {
    fn ask(&self, now: &Try<'_>) -> Result<Seen, String> {
        let asked = Instant::now();
        let answer = web::ask(&self.request, now.span())?;
        let took = (asked.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
        let more = if answer.truncated { " and more" } else { "" };
        let said = format!("status {}, {} bytes{more}", answer.status, answer.body.len());
        let body = || String::from_utf8_lossy(&answer.body).into_owned();
        let seen = Seen::new(said).content(self.returns_content.then(body));
        if let Err(why) = self.expect.iter().try_for_each(|expect| expect.holds(&answer)) {
            // The time of a wrong answer is no value to compare with.
            return Ok(seen.judged(Err(why)));
        }
        let in_time = self.bounds.hold(took, now.before);
        Ok(seen.value(took).judged(in_time.map_err(|why| format!("milliseconds: {why}"))))
    }
}
