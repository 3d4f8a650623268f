//! `tcp`: a port takes connections.

use crate::observation::{Ask, Observation, Try};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use probe::tcp;

pub struct Tcp {
    host: String,
    port: u16,
}

impl Tcp {
    pub fn parse(options: &mut ProbeOptions) -> Result<Tcp, Failure> {
        let host: String = options.need("host")?;
        Ok(Tcp { host, port: options.port()? })
    }
}

impl Ask for Tcp {
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        tcp::connect(&self.host, self.port, now.span())
            .map(|_| Observation::new("connected"))
            .map_err(|why| why.to_string())
    }
}
