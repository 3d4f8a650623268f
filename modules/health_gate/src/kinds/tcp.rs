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
        Ok(Tcp { host, port: given.port()? })
    }
}

impl Ask for Tcp {
    fn ask(&self, now: &Try<'_>) -> Result<Seen, String> {
        tcp::connect(&self.host, self.port, now.span())
            .map(|_| Seen::new("connected"))
            .map_err(|why| why.to_string())
    }
}
