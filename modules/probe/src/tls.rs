//! TLS: the trusted authorities, and the messages for failed handshakes.
//!
//! Invariant: without `insecure` nothing is sent to a server that has not proved its name by one of the
//! configured authorities. There is no fallback: authorities that cannot be read are an error.

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

/// How the certificate of a server is checked: by default by the authorities that this machine trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A PEM file with the authorities to trust instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// Whether to accept any certificate: expired, self-signed, for another name.
    pub insecure: bool,
}

pub(crate) use failed::sentence;

/// Where distributions keep the authorities that they trust, as one PEM file. The environment
/// (`SSL_CERT_FILE`) is ignored: the administrator of the machine decides which ones it trusts.
const BUNDLES: [&str; 6] = [
    // Debian, Ubuntu, Alpine, Arch
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora and RHEL: the path for programs, and the target of its link
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    // SUSE
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    // Alpine without the package of that name
    "/etc/ssl/cert.pem",
];

/// The largest file that is read; a distribution's bundle has a quarter of a MiB.
const LARGEST: u64 = 16 << 20;

/// Makes the configuration for all requests of one exchange.
pub(crate) fn config(tls: &Tls) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be used: {error}"))?;
    let mut config = if tls.insecure {
        let accept_any = Arc::new(insecure::AcceptAny::new(&provider));
        builder.dangerous().with_custom_certificate_verifier(accept_any).with_no_client_auth()
    } else {
        builder.with_root_certificates(authorities(tls.ca_file.as_deref())?).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Every connection must prove the certificate again.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Begins a connection to a server that must prove that it is `host`.
pub(crate) fn begin(config: Arc<ClientConfig>, host: &str) -> Result<ClientConnection, String> {
    let bare = host.strip_suffix('.').unwrap_or(host).to_owned();
    let name = ServerName::try_from(bare)
        .map_err(|_| format!("a certificate cannot have the name {host}"))?;
    ClientConnection::new(config, name).map_err(|error| sentence(&error, host))
}

fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(path) = ca_file else {
        let bundle = BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or(
            "this machine has no file of trusted authorities; install its ca-certificates, or give \
             such a file",
        )?;
        return trusted(&bundle, BadCertificate::Skip);
    };
    trusted(path, BadCertificate::Refuse)
}

/// What to do with a certificate that cannot be used as an authority.
#[derive(Clone, Copy, PartialEq)]
enum BadCertificate {
    /// For the bundle of a distribution, which has some that only other libraries understand.
    Skip,
    /// For a file that the user names, where it is a mistake.
    Refuse,
}

fn trusted(path: &Path, on_bad: BadCertificate) -> Result<RootCertStore, String> {
    let shown = path.display();
    let pem = regular::read(path, Links::Follow, LARGEST).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("the file of trusted authorities {shown} does not exist"),
        _ => format!("the file of trusted authorities {shown} cannot be read: {error}"),
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        // The errors are dropped: they may quote the file, which may be a private key by mistake.
        let added = certificate.is_ok_and(|certificate| roots.add(certificate).is_ok());
        if !added && on_bad == BadCertificate::Refuse {
            return Err(format!(
                "{shown} contains something that is not the certificate of an authority"
            ));
        }
    }
    if roots.is_empty() {
        return Err(format!("{shown} contains no certificate (PEM is expected)"));
    }
    Ok(roots)
}
