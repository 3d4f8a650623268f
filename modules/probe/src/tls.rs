//! TLS: whom we trust, and the sentence for a handshake that failed.
//!
//! Invariant: without `insecure` nothing is sent to a server that has not proved its name to the
//! authorities that were asked for. There is no falling back: authorities that cannot be read are
//! an error, and never none.

mod failed;
mod insecure;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host::regular::{self, Links};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// How a server proves who it is. By default to the authorities that this machine trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM: the authorities to trust in place of the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Any certificate will do: expired, self-signed, for another name.
    pub insecure: bool,
}

pub(crate) use failed::sentence;

/// Where distributions keep the authorities that they trust, as one PEM file. The environment
/// (`SSL_CERT_FILE`) has no say: the machine's root decides whom it trusts.
const BUNDLES: [&str; 6] = [
    // Debian, Ubuntu, Alpine, Arch
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora and RHEL: the place for programs, and what it links to
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    // SUSE
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    // Alpine without the package of that name
    "/etc/ssl/cert.pem",
];

/// All authorities of the world are a quarter of a MiB.
const LARGEST: u64 = 16 << 20;

/// How to talk to a server, for all the requests of one asking.
pub(crate) fn config(tls: &Tls) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used: {error}"))?;
    let mut config = if tls.insecure {
        let anyone = Arc::new(insecure::Anyone::new(&provider));
        builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth()
    } else {
        builder.with_root_certificates(authorities(tls.ca_file.as_deref())?).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Every connection is to prove everything.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The beginning of a connection to a server that must prove that it is `host`.
pub(crate) fn begin(config: Arc<ClientConfig>, host: &str) -> Result<ClientConnection, String> {
    let bare = host.strip_suffix('.').unwrap_or(host).to_owned();
    let name = ServerName::try_from(bare)
        .map_err(|_| format!("no certificate can be for the name {host}"))?;
    ClientConnection::new(config, name).map_err(|error| sentence(&error, host))
}

fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(path) = ca_file else {
        let bundle = BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or(
            "this machine has no file of trusted authorities; install its ca-certificates, or give \
             a file of your own",
        )?;
        return trusted(&bundle, Unfit::PassedOver);
    };
    trusted(path, Unfit::Refused)
}

/// What becomes of a certificate that cannot be used as an authority.
#[derive(Clone, Copy, PartialEq)]
enum Unfit {
    /// In a distribution's bundle there are some that only others understand.
    PassedOver,
    /// In a file that somebody wrote for this very purpose it is a mistake.
    Refused,
}

fn trusted(path: &Path, unfit: Unfit) -> Result<RootCertStore, String> {
    let shown = path.display();
    let pem = regular::read(path, Links::Follow, LARGEST).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("the file of trusted authorities {shown} does not exist"),
        _ => format!("the file of trusted authorities {shown} cannot be read: {error}"),
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        // An error of either may quote the file, which may be a private key by mistake.
        let added = certificate.is_ok_and(|certificate| roots.add(certificate).is_ok());
        if !added && unfit == Unfit::Refused {
            return Err(format!("{shown} holds something that is no certificate of an authority"));
        }
    }
    if roots.is_empty() {
        return Err(format!("{shown} holds no certificate (PEM is expected)"));
    }
    Ok(roots)
}
