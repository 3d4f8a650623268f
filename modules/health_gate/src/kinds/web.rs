//! HTTP requests of the kinds http, prometheus and alerts.

use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use probe::http::{self, Answer, Request, Url};
use serde_json::{Map, Value};
use std::net::SocketAddr;
use std::time::Duration;

/// `url`, and how to get there: headers, authorities, another place to connect to.
pub fn request(given: &mut ProbeOptions) -> Result<Request, Failure> {
    let url: Url = given.need("url")?;
    let mut request = Request::get(url);
    let headers: Map<String, Value> = given.take("headers")?.unwrap_or_default();
    request.headers = headers.into_iter().map(|(name, value)| (name, text_of(value))).collect();
    http::check_headers(&request.headers).map_err(|why| given.bad("headers", why))?;
    request.tls.ca_file = given.absolute("ca_file")?;
    request.tls.insecure = given.take("insecure")?.unwrap_or_default();
    if request.tls.insecure && request.tls.ca_file.is_some() {
        return Err(given.bad("insecure", "with it ca_file would not be looked at; give one"));
    }
    if request.tls.insecure {
        given.warnings.push(format!(
            "probe {}: insecure: the certificate is not checked, so anyone on the way can answer",
            given.name
        ));
    }
    let place: Option<String> = given.take("connect_to")?;
    request.connect_to = match place.map(|place| place.parse::<SocketAddr>()) {
        None => None,
        Some(Ok(address)) => Some(address),
        Some(Err(_)) => {
            let expected = "expected an address and a port, such as 127.0.0.1:8443";
            return Err(given.bad("connect_to", expected));
        }
    };
    Ok(request)
}

pub fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

pub fn ask(request: &Request, span: Duration) -> Result<Answer, String> {
    http::ask(request, span).map_err(|why| why.to_string())
}
