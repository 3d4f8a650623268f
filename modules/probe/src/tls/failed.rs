//! The messages for failed TLS handshakes, for whoever runs the servers.
//!
//! Invariant: names in a certificate are shown escaped, and at most [`MOST_NAMES`] of them: a server may
//! present any.

use host::clock::Utc;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

const MOST_NAMES: usize = 4;

/// Explains a failed handshake with `peer`.
pub(crate) fn sentence(error: &Error, peer: &str) -> String {
    match error {
        Error::InvalidCertificate(why) => {
            format!("the certificate of {peer} {}", certificate(why))
        }
        // The first bytes of a server that speaks another protocol cannot be read as a record.
        Error::InvalidMessage(_) => {
            format!("{peer} does not speak TLS; is it plain HTTP?")
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            format!("{peer} requires a client certificate, which is not supported")
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            format!("{peer} has no certificate for this name")
        }
        Error::AlertReceived(alert) => format!("{peer} refused the TLS handshake: {alert:?}"),
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => {
            format!("{peer} supports no TLS version or cipher that is supported here: {error}")
        }
        other => format!("the TLS handshake with {peer} failed: {other}"),
    }
}

/// Completes "the certificate of shop.example ...".
fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired => "has expired".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("has expired on {}", date(not_after))
        }
        CertificateError::NotValidYet => "is not valid yet".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}", date(not_before))
        }
        CertificateError::UnknownIssuer => {
            "is not signed by an authority that is trusted here; give the file of its authority"
                .into()
        }
        CertificateError::NotValidForName => "is for another name".into(),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "is for no name at all".into()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names = presented.iter().take(MOST_NAMES).map(|name| bare(name));
            let more = if presented.len() > MOST_NAMES { ", ..." } else { "" };
            format!("is for another name: {}{more}", host::joined(names))
        }
        CertificateError::Revoked => "is revoked".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not meant for a server".into()
        }
        // A recreated authority has the same name and another key.
        CertificateError::BadSignature => {
            "names an authority that is trusted here, and is not signed by its key".into()
        }
        // Errors that the library has no variant for are named as in its verifier.
        CertificateError::Other(other) => match other.to_string().as_str() {
            "CaUsedAsEndEntity" => "is one of an authority, not of a server; self-signed, perhaps",
            "UnsupportedCertVersion" => "is of an old version, which has no names",
            other => return format!("cannot be accepted: {other}"),
        }
        .into(),
        other => format!("cannot be accepted: {other}"),
    }
}

/// Extracts the name from `DnsName("a.example")` or `IpAddress(192.0.2.1)`, as the library formats it.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    let inner = inner.unwrap_or(name).trim_matches('"');
    inner.chars().take(100).flat_map(char::escape_default).collect()
}

fn date(time: &UnixTime) -> String {
    let utc = i64::try_from(time.as_secs()).ok().and_then(Utc::from_unix);
    utc.map_or_else(|| "an unknown day".into(), |utc| utc.to_string())
}
