//! HTTPS with certificates made here: the good one, and all that must not pass.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use crate::common::*;
use probe::http::{Kind, Request, Tls};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

const BODY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

struct Authority {
    certificate: rcgen::Certificate,
    key: KeyPair,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Authority {
        Authority::called("one authority")
    }

    fn called(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Authority { certificate, key, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn sign(&self, params: &CertificateParams) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = params.clone();
        (params.signed_by(&key, &self.certificate, &self.key).unwrap(), key)
    }
}

fn named(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn expired(names: &[&str]) -> CertificateParams {
    let mut params = named(names);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 2, 1);
    params
}

fn https_of(
    versions: &[&'static SupportedProtocolVersion],
    (certificate, key): (rcgen::Certificate, KeyPair),
    behave: fn(StreamOwned<ServerConnection, TcpStream>),
) -> SocketAddr {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    serve(move |stream| {
        behave(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream));
    })
}

fn https(pair: (rcgen::Certificate, KeyPair)) -> SocketAddr {
    https_of(&[&TLS13, &TLS12], pair, |mut stream| {
        request_of(&mut stream);
        let _ = stream.write_all(BODY.as_bytes());
    })
}

/// Asks `host` at an address, trusting nobody but this authority.
fn shop(host: &str, address: SocketAddr, authority: &Authority) -> Request {
    Request {
        connect_to: Some(address),
        tls: Tls { ca_file: Some(authority.file()), insecure: false },
        ..get(&format!("https://{host}/secret"))
    }
}

fn insecure(request: &Request) -> Request {
    Request { tls: Tls { ca_file: None, insecure: true }, ..request.clone() }
}

#[test]
fn an_authority_of_our_own() {
    let authority = Authority::new();
    let pair = || authority.sign(&named(&["shop.example", "*.wild.example", "127.0.0.1"]));
    for versions in [&TLS13, &TLS12] {
        let address = https_of(&[versions], pair(), |mut stream| {
            let request = request_of(&mut stream);
            assert_eq!(stream.conn.alpn_protocol(), None, "this server knows none");
            let name = stream.conn.server_name().unwrap_or("no name");
            let body = format!("{name} {}", request.split_whitespace().nth(4).unwrap());
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        });
        for (host, heard) in [
            ("shop.example", "shop.example shop.example"),
            ("Shop.Example.", "shop.example shop.example."),
            ("a.wild.example:8443", "a.wild.example a.wild.example:8443"),
            ("127.0.0.1", "no name 127.0.0.1"),
        ] {
            let answer = answered(&shop(host, address, &authority));
            assert_eq!(String::from_utf8(answer.body).unwrap(), heard);
        }
    }
}

#[test]
fn certificates_that_prove_nothing() {
    let (authority, other) = (Authority::new(), Authority::called("another"));
    let made_anew = Authority::new();
    let mut future = named(&["shop.example"]);
    (future.not_before, future.not_after) = (date_time_ymd(3000, 1, 1), date_time_ymd(3001, 1, 1));
    let mut client = named(&["shop.example"]);
    client.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let own = KeyPair::generate().unwrap();
    let self_signed = (named(&["shop.example"]).self_signed(&own).unwrap(), own);
    let own = KeyPair::generate().unwrap();
    let mut params = named(&["shop.example"]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let of_an_authority = (params.self_signed(&own).unwrap(), own);
    for (pair, sentence) in [
        (
            authority.sign(&named(&["a.example", "192.0.2.1"])),
            "is for another name: a.example, 192.0.2.1",
        ),
        (authority.sign(&named(&["example"])), "is for another name: example"),
        (authority.sign(&named(&[])), "is for no name at all"),
        (authority.sign(&expired(&["shop.example"])), "has expired on 2020-02-01T00:00:00Z"),
        (authority.sign(&future), "is not valid before 3000-01-01T00:00:00Z"),
        (authority.sign(&client), "is not meant for a server"),
        (
            other.sign(&named(&["shop.example"])),
            "is not signed by an authority that is trusted here",
        ),
        (made_anew.sign(&named(&["shop.example"])), "is not signed by its key"),
        (self_signed, "is not signed by an authority that is trusted here"),
        (of_an_authority, "is one of an authority, not of a server"),
    ] {
        let address = https(pair);
        let request = shop("shop.example", address, &authority);
        let error = refused(&request, Kind::Tls, sentence);
        assert!(error.msg.starts_with("the certificate of shop.example "), "{error}");
        assert_eq!(answered(&insecure(&request)).body, b"ok", "{sentence}");
    }
    // The machine's own authorities know nothing of ours, and what it has of them can be read.
    let address = https(authority.sign(&named(&["shop.example"])));
    let request = Request { tls: Tls::default(), ..shop("shop.example", address, &authority) };
    refused(&request, Kind::Tls, "");
}

#[test]
fn names_out_of_a_certificate_are_escaped_and_few() {
    let authority = Authority::new();
    let names = ["a.example", "b.example", "c.example", "d.example", "secret.example"];
    let address = https(authority.sign(&named(&names)));
    let sentence = "a.example, b.example, c.example, d.example, ...";
    refused(&shop("shop.example", address, &authority), Kind::Tls, sentence);
}

#[test]
fn files_that_hold_no_authority() {
    let authority = Authority::new();
    let nobody = Nobody::new();
    let mut request = shop("shop.example", nobody.address(), &authority);
    let write = |name: &str, content: &str| {
        let path = authority.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let good = authority.certificate.pem();
    let broken = "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n";
    for (path, sentence) in [
        (authority.folder.path().join("none.pem"), "none.pem does not exist"),
        (authority.folder.path().to_owned(), "cannot be read: "),
        (write("empty.pem", ""), "empty.pem contains no certificate (PEM is expected)"),
        (write("text.pem", "secret\n"), "text.pem contains no certificate"),
        (write("key.pem", &authority.key.serialize_pem()), "key.pem contains no certificate"),
        (
            write("broken.pem", broken),
            "contains something that is not the certificate of an authority",
        ),
        (
            write("both.pem", &format!("{good}{broken}")),
            "contains something that is not the certificate",
        ),
    ] {
        request.tls.ca_file = Some(path);
        refused(&request, Kind::Tls, sentence);
    }
    nobody.was_asked();
}

#[test]
fn plain_http_and_tls_do_not_meet() {
    let authority = Authority::new();
    let plain = answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    // Reads until an empty line, as HTTP servers do, and our hello may hold none: so it speaks first.
    let talks = serve(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        hang(stream);
    });
    let request = shop("shop.example", talks, &authority);
    refused(&request, Kind::Tls, "shop.example does not speak TLS; is it plain HTTP?");
    let request = insecure(&shop("shop.example", talks, &authority));
    refused(&request, Kind::Tls, "shop.example does not speak TLS");
    timed_out(&shop("shop.example", plain, &authority), "during the TLS handshake");
    let secure = https(authority.sign(&named(&["shop.example"])));
    refused(&at(secure), Kind::Protocol, "speaks TLS, not plain HTTP; is its URL https?");
}

#[test]
fn handshakes_that_come_to_nothing() {
    let authority = Authority::new();
    timed_out(&shop("shop.example", serve(hang), &authority), "during the TLS handshake");
    timed_out(
        &insecure(&shop("shop.example", serve(hang), &authority)),
        "during the TLS handshake",
    );
    // A record that is announced, and comes a byte at a time.
    let slow = serve(|mut stream| {
        let _ = stream.write_all(&[22, 3, 3, 32, 0]);
        drip(&mut stream);
    });
    timed_out(&shop("shop.example", slow, &authority), "during the TLS handshake");
    let closes = serve(drop);
    refused(&shop("shop.example", closes, &authority), Kind::Closed, "during the TLS handshake");
    let alert = serve(|mut stream| {
        let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 40]);
        hang(stream);
    });
    let sentence = "shop.example refused the TLS handshake: HandshakeFailure";
    refused(&shop("shop.example", alert, &authority), Kind::Tls, sentence);
}

#[test]
fn bad_servers_behind_tls() {
    let authority = Authority::new();
    let pair = || authority.sign(&named(&["shop.example"]));
    let start = |behave| shop("shop.example", https_of(&[&TLS13], pair(), behave), &authority);
    timed_out(&start(hang), "during the TLS handshake");
    timed_out(
        &start(|mut stream| {
            request_of(&mut stream);
            hang(stream);
        }),
        "before the headers of its answer",
    );
    timed_out(
        &start(|mut stream| {
            request_of(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n");
            drip(&mut stream);
        }),
        "bytes of the body",
    );
    // Without a farewell nobody knows that nothing was cut off, and with one it is the end.
    let cut = start(|mut stream| {
        request_of(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nabc");
    });
    refused(&cut, Kind::Closed, "closed the connection after 3 bytes of the body");
    let ended = start(|mut stream| {
        request_of(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nabc");
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    assert_eq!(answered(&ended).body, b"abc");
    let mut big = start(|mut stream| {
        request_of(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    big.most_body = 1000;
    let answer = answered(&big);
    assert_eq!((answer.body.len(), answer.truncated), (1000, true));
}

#[test]
fn redirects_do_not_leave_tls() {
    let authority = Authority::new();
    let address = https_of(&[&TLS13], authority.sign(&named(&["shop.example"])), |mut stream| {
        let to = match request_of(&mut stream).split(' ').nth(1).unwrap() {
            "/again" => "/end",
            "/end" => return drop(stream.write_all(BODY.as_bytes())),
            _ => "http://shop.example/end",
        };
        let _ = write!(stream, "HTTP/1.1 307 x\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    });
    let mut request = Request { redirects: 3, ..shop("shop.example", address, &authority) };
    refused(&request, Kind::Redirects, "from https to http");
    request.url = "https://shop.example/again".parse().unwrap();
    assert_eq!(answered(&request).body, b"ok");
}
