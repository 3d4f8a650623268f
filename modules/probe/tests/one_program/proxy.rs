//! Requests that leave by a proxy: what the proxy sees, and what is said when it opens no way. No name of a server is resolved here.

use probe::http::{Kind, Proxies, Request, Unanswered, ask};

use crate::common::{AMPLE, Nobody, answering, replying};

fn through(proxy: &str, url: &str) -> Result<String, Unanswered> {
    let mut request = Request::get(url.parse().unwrap());
    request.headers = vec![("X-Token".to_owned(), "abc".to_owned())];
    let set = |name: &str| ["http_proxy", "https_proxy"].contains(&name).then(|| proxy.to_owned());
    request.proxies = Proxies::of(set).unwrap();
    ask(&request, AMPLE).map(|answer| String::from_utf8(answer.body).unwrap())
}

#[test]
fn plain_http_names_the_whole_url() {
    let proxy = replying(|request| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len())
    });
    let seen =
        through(&format!("http://me:secret@{proxy}"), "http://forge.invalid:3000/a?b").unwrap();
    assert!(seen.starts_with("GET http://forge.invalid:3000/a?b HTTP/1.1\r\n"), "{seen}");
    for header in
        ["Host: forge.invalid:3000", "X-Token: abc", "Proxy-Authorization: Basic bWU6c2VjcmV0"]
    {
        assert!(seen.contains(&format!("\r\n{header}\r\n")), "{header} in {seen}");
    }
}

#[test]
fn a_tunnel_is_asked_for_by_name_and_without_the_servers_headers() {
    let (sender, seen) = std::sync::mpsc::channel();
    let proxy = replying(move |request| {
        sender.send(request.to_owned()).unwrap();
        "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n".to_owned()
    });
    let error = through(&proxy.to_string(), "https://forge.invalid/a").unwrap_err();
    let expected = format!(
        "the proxy {proxy} (https_proxy) answered 407 to a request for forge.invalid:443: it wants a user and a password"
    );
    assert!(error.msg.starts_with(&expected), "{error}");
    let request = seen.recv().unwrap();
    assert_eq!(request, "CONNECT forge.invalid:443 HTTP/1.1\r\nHost: forge.invalid:443\r\n\r\n");
}

#[test]
fn a_proxy_that_is_none_is_named() {
    let odd = answering("SSH-2.0-OpenSSH_9.2p1\r\n");
    let error = through(&odd.to_string(), "https://forge.invalid/").unwrap_err();
    assert_eq!(error.msg, format!("the proxy {odd} (https_proxy) does not speak HTTP"));
    // After a tunnel nothing is sent that TLS does not protect.
    let open = answering("HTTP/1.1 200 Connection established\r\n\r\n");
    let error = through(&open.to_string(), "https://forge.invalid/").unwrap_err();
    assert!(matches!(error.kind, Kind::Closed | Kind::Tls), "{error}");
}

#[test]
fn this_machine_is_asked_directly() {
    let server = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Nobody::new();
    assert_eq!(through(&proxy.address().to_string(), &format!("http://{server}/")).unwrap(), "ok");
}
