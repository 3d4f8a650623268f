//! `tcp`: a port takes connections.

use crate::probe_options::ProbeOptions;
use crate::seen::{Ask, Seen, Try};
use ansible_module::Failure;
use probe::tcp;

pub struct Tcp {
    host: String,
    port: u16,
}

impl Tcp {
    pub fn parse(given: &mut ProbeOptions) -> Result<Tcp, Failure> {
        let host: String = given.need("host")?;
        let port = given.whole("port", 1)?;
        let port = port.ok_or_else(|| given.refuse("kind tcp needs port".to_owned()))?;
        match u16::try_from(port) {
            Ok(port) => Ok(Tcp { host, port }),
            Err(_) => Err(given.bad("port", format!("expected 1 to 65535, got {port}"))),
        }
    }
}

impl Ask for Tcp {
    fn ask(&self, now: &Try<'_>) -> Result<Seen, String> {
        tcp::connect(&self.host, self.port, now.span())
            .map(|_| Seen::new("connected"))
            .map_err(|why| why.to_string())
    }
}
