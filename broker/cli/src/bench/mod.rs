use crate::error::CliError;
#[derive(Debug, clap::Args)]
pub struct Args {}
pub(crate) fn run(_: Args) -> Result<(), CliError> {
    Ok(())
}
