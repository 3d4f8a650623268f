//! `http`: a URL gives the expected answer, fast enough.

use super::web;
use crate::bounds::Bounds;
use crate::observation::{Ask, Observation, Try};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use probe::expect::Expect;
use probe::http::Request;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// More redirects than this count as a loop.
const MAX_REDIRECTS: u64 = 20;

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
    pub fn parse(options: &mut ProbeOptions) -> Result<Http, Failure> {
        let mut request = web::request(options)?;
        request.socket = options.absolute("socket")?;
        if request.socket.is_some() && request.connect_to.is_some() {
            return Err(
                options.bad("socket", "socket and connect_to exclude each other: give one of them")
            );
        }
        let redirects = options.integer("redirects", 0)?.unwrap_or_default();
        if redirects > MAX_REDIRECTS {
            return Err(options.bad("redirects", format!("{MAX_REDIRECTS} at most")));
        }
        request.redirects = redirects as u32;
        let status: Vec<u16> = options.take("status")?.unwrap_or_default();
        if let Some(odd) = status.iter().find(|status| !(100..=599).contains(*status)) {
            return Err(options.bad("status", format!("{odd} is not an HTTP status")));
        }
        let release = options.text("release")?;
        let (field, header) = (options.text("release_field")?, options.text("release_header")?);
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut fields: Vec<(String, Value)> = Vec::new();
        match (release, field, header) {
            (None, None, None) => {}
            (Some(_), None, None) => {
                let msg =
                    "release needs release_field or release_header, where the answer states it";
                return Err(options.refuse(msg.to_owned()));
            }
            (None, ..) => {
                return Err(options.refuse("release_field and release_header need release".into()));
            }
            (Some(release), field, header) => {
                fields.extend(field.map(|field| (field, json!(release))));
                headers.extend(header.map(|header| (header, release)));
            }
        }
        let more: Map<String, Value> = options.take("response_headers")?.unwrap_or_default();
        headers.extend(more.into_iter().map(|(name, value)| (name, web::to_text(value))));
        let more: Map<String, Value> = options.take("json")?.unwrap_or_default();
        fields.extend(more);
        let text = options.text("text")?;
        let mut expect = vec![Expect { status: status.clone(), text, ..Expect::default() }];
        let one = || Expect { status: status.clone(), ..Expect::default() };
        expect.extend(headers.into_iter().map(|header| Expect { header: Some(header), ..one() }));
        expect.extend(fields.into_iter().map(|json| Expect { json: Some(json), ..one() }));
        let returns_content = options.take("return_content")?.unwrap_or_default();
        Ok(Http { request, expect, bounds: Bounds::parse_upper(options)?, returns_content })
    }
}

impl Ask for Http {
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        let asked = Instant::now();
        let answer = web::ask(&self.request, now.span())?;
        let took = (asked.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
        let more = if answer.truncated { " and more" } else { "" };
        let said = format!("status {}, {} bytes{more}", answer.status, answer.body.len());
        let body = || String::from_utf8_lossy(&answer.body).into_owned();
        let seen = Observation::new(said).content(self.returns_content.then(body));
        if let Err(why) = self.expect.iter().try_for_each(|expect| expect.holds(&answer)) {
            // A failed answer has no value: its time must not become a baseline.
            return Ok(seen.judged(Err(why)));
        }
        let in_time = self.bounds.hold(took, now.before);
        Ok(seen.value(took).judged(in_time.map_err(|why| format!("milliseconds: {why}"))))
    }
}
