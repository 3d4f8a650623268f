//! Why a handshake failed, in words for whoever runs the servers.
//!
//! Invariant: names out of a certificate are shown escaped, and no more than [`MOST_NAMES`] of
//! them: a server may present any.

use host::clock::Utc;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

const MOST_NAMES: usize = 4;

/// `place` is whom we asked.
pub(crate) fn sentence(error: &Error, place: &str) -> String {
    match error {
        Error::InvalidCertificate(why) => {
            format!("the certificate of {place} {}", certificate(why))
        }
        // What comes first from a server that speaks something else cannot be read as a record.
        Error::InvalidMessage(_) => {
            format!("{place} does not speak TLS; is it plain HTTP?")
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            format!("{place} wants a client's certificate, and there is none to give")
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            format!("{place} has no certificate for this name")
        }
        Error::AlertReceived(alert) => format!("{place} refused the TLS handshake: {alert:?}"),
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => {
            format!("{place} has no version or cipher of TLS in common with us: {error}")
        }
        other => format!("the TLS handshake with {place} failed: {other}"),
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
            "is signed by no authority that is trusted here; give the file of its authority".into()
        }
        CertificateError::NotValidForName => "is for another name".into(),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "is for no name at all".into()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names = presented.iter().take(MOST_NAMES).map(|name| bare(name));
            let more = if presented.len() > MOST_NAMES { ", ..." } else { "" };
            format!("is for another name: {}{more}", names.collect::<Vec<_>>().join(", "))
        }
        CertificateError::Revoked => "is revoked".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not meant for a server".into()
        }
        // An authority that was recreated has its old name and another key.
        CertificateError::BadSignature => {
            "names an authority that is trusted here, and is not signed by its key".into()
        }
        // What the library has no word of its own for, it calls by the name inside of its verifier.
        CertificateError::Other(other) => match other.to_string().as_str() {
            "CaUsedAsEndEntity" => "is one of an authority, not of a server; self-signed, perhaps",
            "UnsupportedCertVersion" => "is of an old version, which holds no names",
            other => return format!("cannot be accepted: {other}"),
        }
        .into(),
        other => format!("cannot be accepted: {other}"),
    }
}

/// `DnsName("a.example")` and `IpAddress(192.0.2.1)` are how the library shows what a certificate
/// is for.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    let inner = inner.unwrap_or(name).trim_matches('"');
    inner.chars().take(100).flat_map(char::escape_default).collect()
}

fn date(time: &UnixTime) -> String {
    let utc = i64::try_from(time.as_secs()).ok().and_then(Utc::from_unix);
    utc.map_or_else(|| "an unknown day".into(), |utc| utc.to_string())
}
