//! `kubectl`, called with paths of the API (`--raw`), whose answers do not depend on its version. kubectl does the login.
//!
//! Invariant: the context is always named; the current one of a kubeconfig is never used.

use crate::command::Command;
use crate::program;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The deadline of one call; the program that logs in for kubectl may be slow.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest answer, for lists.
const MAX_ANSWER: usize = 64 << 20;
/// Variables for proxies and for the programs that log in for kubectl.
const PASSED_ON: &[&str] = &[
    "KUBECONFIG",
    "XDG_CONFIG_HOME",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "CLOUDSDK_CONFIG",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_CONFIG_DIR",
];
/// Such variables whose values are secret.
const SECRETS: &[&str] = &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// How the cluster is reached: the context names the cluster and the account.
#[derive(Clone, Debug)]
pub struct Access {
    /// The program; `None` to find it on `PATH`.
    pub kubectl: Option<PathBuf>,
    /// The kubeconfig; `None` for the account's own.
    pub kubeconfig: Option<PathBuf>,
    pub context: String,
}

impl Access {
    pub fn program(&self) -> Result<PathBuf> {
        match &self.kubectl {
            Some(path) => Ok(path.clone()),
            None => program::find("kubectl"),
        }
    }

    /// Returns a call of `kubectl <verb> --raw <path>`.
    pub fn command(&self, program: &Path, verb: &str, path: &str) -> Command {
        let mut command = Command::new(program).cwd("/").inherit_env(PASSED_ON);
        for name in SECRETS {
            if let Some(value) = std::env::var_os(name) {
                command = command.secret_env(name, value);
            }
        }
        if let Some(kubeconfig) = &self.kubeconfig {
            command = command.arg("--kubeconfig").arg(kubeconfig);
        }
        command
            .args(["--context", &self.context, verb, "--raw", path])
            .deadline(CALL_TIMEOUT)
            .output_limit(MAX_ANSWER)
    }
}
