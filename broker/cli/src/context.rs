//! What every command needs: where the cluster is and how to print.

use crate::{error::CliError, output::Format};
use sluice_client::{Admin, Client, ClientOptions};
use std::time::Duration;

/// Options that every command has.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// Name servers, host:port, several with semicolons between
    #[arg(long, global = true, env = "SLUICE_NAMESRV", default_value = "127.0.0.1:9876", value_name = "HOST:PORT")]
    pub namesrv: String,
    /// How to print
    #[arg(long, global = true, value_enum, default_value = "table")]
    pub output: Format,
    /// Longest wait for a server's answer, seconds
    #[arg(long, global = true, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

impl Global {
    pub(crate) fn options(&self) -> ClientOptions {
        let timeout = Duration::from_secs(self.timeout);
        ClientOptions { connect_timeout: timeout.min(Duration::from_secs(3)), request_timeout: timeout, ..ClientOptions::default() }
    }

    pub(crate) async fn client(&self) -> Result<Client, CliError> {
        Ok(Client::connect(&self.namesrv, self.options()).await?)
    }

    pub(crate) async fn admin(&self) -> Result<(Client, Admin), CliError> {
        let client = self.client().await?;
        Ok((client.clone(), Admin::new(client)))
    }
}
