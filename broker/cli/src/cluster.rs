//! `sluice cluster …`

use crate::{Global, error::CliError, output};
use sluice_client::ClusterBroker;

/// Brokers.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the brokers the name server knows
    List,
    /// What brokers say of themselves
    Stats {
        /// Only this broker, host:port
        #[arg(value_name = "HOST:PORT")]
        broker: Option<String>,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let global = &args.global;
    let (client, admin) = global.admin().await?;
    match args.command {
        Command::List => {
            let cluster = client.cluster().await?;
            output::show(global.output, &cluster.brokers, |brokers| {
                let cells = |b: &ClusterBroker| vec![b.cluster.clone(), b.name.clone(), b.id.to_string(), b.addr.clone()];
                output::table(&["cluster", "broker", "id", "address"], &["id"], brokers.iter().map(cells).collect())
            })
        }
        Command::Stats { broker } => {
            let brokers = match broker {
                Some(broker) => vec![broker],
                None => admin.masters(None).await?,
            };
            let mut all = std::collections::BTreeMap::new();
            for broker in brokers {
                let stats = admin.broker_stats(&broker).await?;
                all.insert(broker, stats.into_iter().collect::<std::collections::BTreeMap<_, _>>());
            }
            output::show(global.output, &all, |all| {
                let rows = all.iter().flat_map(|(broker, stats)| stats.iter().map(move |(n, v)| vec![broker.clone(), n.clone(), v.clone()]));
                output::table(&["broker", "name", "value"], &[], rows.collect())
            })
        }
    }
}
