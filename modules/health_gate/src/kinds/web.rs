//! HTTP requests of the kinds http, prometheus and alerts.

use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use probe::http::{self, Answer, Request, Url};
use serde_json::{Map, Value};
use std::net::SocketAddr;
use std::time::Duration;

/// Parses the options of a request: its URL, headers, authorities and the address to connect to.
pub fn request(options: &mut ProbeOptions) -> Result<Request, Failure> {
    let url: Url = options.need("url")?;
    let mut request = Request::get(url);
    let headers: Map<String, Value> = options.take("headers")?.unwrap_or_default();
    request.headers = headers.into_iter().map(|(name, value)| (name, to_text(value))).collect();
    http::check_headers(&request.headers).map_err(|why| options.bad("headers", why))?;
    request.tls.ca_file = options.absolute("ca_file")?;
    request.tls.insecure = options.take("insecure")?.unwrap_or_default();
    if request.tls.insecure && request.tls.ca_file.is_some() {
        return Err(
            options.bad("insecure", "insecure and ca_file exclude each other: give one of them")
        );
    }
    if request.tls.insecure {
        options.warnings.push(format!(
            "probe {}: insecure: the certificate is not checked, so anyone on the network path can answer",
            options.name
        ));
    }
    let place: Option<String> = options.take("connect_to")?;
    request.connect_to = match place.map(|place| place.parse::<SocketAddr>()) {
        None => None,
        Some(Ok(address)) => Some(address),
        Some(Err(_)) => {
            let expected = "expected an address and a port, such as 127.0.0.1:8443";
            return Err(options.bad("connect_to", expected));
        }
    };
    Ok(request)
}

pub fn to_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

pub fn ask(request: &Request, span: Duration) -> Result<Answer, String> {
    http::ask(request, span).map_err(|why| why.to_string())
}
