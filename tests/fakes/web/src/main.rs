//! `web`: what stands behind and before a load balancer in the tests; never shipped. `web serve` is
//! a small fast web app that misbehaves as it is told to, `web load` is the load that judges what
//! it sees. Neither knows the other: they meet only through HTTP.

mod args;
mod client;
mod control;
mod http;
mod load;
mod report;
mod server;
mod websocket;

use anyhow::{Result, bail};
use std::io::{self, Write};
use std::process::ExitCode;

const USAGE: &str = "\
usage: web serve --port P --colour C --release R [--listen ADDRESS] [--health PATH] [--control SOCKET]
       web load --url URL --connections N (--seconds S | --requests N) [--fresh-share 0.5]
                [--header 'Name: value'] [--method GET] [--timeout 5] [--pause MS]
                [--ws] [--report FILE]
";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nobody left to tell when this fails.
            let _ = writeln!(io::stderr(), "web: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: Vec<String>) -> Result<()> {
    match words.first().map(String::as_str) {
        Some("serve") => server::run(&words[1..]),
        Some("load") => load::run(&words[1..]),
        _ => bail!("{USAGE}"),
    }
}
