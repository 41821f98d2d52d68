//! `sluice broker …`

use crate::{Global, error::CliError, output};
use sluice_client::Admin;
use sluice_protocol::body::{EpochCache, EpochEntry, GroupStatus};

/// Members of replicating groups.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Role, epoch, log and replicas of each member asked; without an address the masters that the name server knows
    Status {
        /// Members, host:port
        #[arg(value_name = "HOST:PORT")]
        brokers: Vec<String>,
    },
    /// The epochs of a member's log
    Epochs {
        /// The member; without it the master, if there is just one
        #[arg(value_name = "HOST:PORT")]
        broker: Option<String>,
    },
    /// Make a member master that is not in the in-sync set: when no member of the set will come back
    Elect {
        /// The member
        #[arg(value_name = "HOST:PORT")]
        broker: String,
        /// What the set's members held and this one does not may be lost for ever, acknowledged or not
        #[arg(long, required = true)]
        unclean: bool,
    },
    /// Let a replica that is not in the in-sync set give up its log and take the master's whole
    Resync {
        /// The replica
        #[arg(value_name = "HOST:PORT")]
        broker: String,
        /// Do not ask
        #[arg(long, required = true)]
        yes: bool,
    },
    /// Let another member be master, without an error for clients
    Switchover {
        /// The master; without it the one that the name server knows, if there is just one
        #[arg(value_name = "HOST:PORT")]
        broker: Option<String>,
        /// The new master's number; without it the replica that has most of the log
        #[arg(long, value_name = "MEMBER")]
        to: Option<u32>,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let global = &args.global;
    let (_, admin) = global.admin().await?;
    match args.command {
        Command::Status { brokers } => {
            let brokers = if brokers.is_empty() { admin.masters(None).await? } else { brokers };
            let mut all = Vec::new();
            for broker in &brokers {
                all.push(admin.group_status(broker).await?);
            }
            output::show(global.output, &all, |all| all.iter().try_for_each(show))
        }
        Command::Epochs { broker } => {
            let epochs = admin.epochs(&the_one(&admin, broker).await?).await?;
            output::show(global.output, &epochs, |epochs: &EpochCache| {
                let cells = |e: &EpochEntry| vec![e.epoch.to_string(), e.start_offset.to_string(), e.end_offset.to_string()];
                output::table(&["epoch", "from", "to"], &["epoch", "from", "to"], epochs.epoch_list.iter().map(cells).collect())
            })
        }
        Command::Elect { broker, unclean: _ } => {
            admin.elect_unclean(&broker).await?;
            output::line("ordered; `sluice broker status` tells who is master")
        }
        Command::Resync { broker, yes: _ } => {
            admin.resync(&broker).await?;
            output::line("ordered; `sluice broker status` tells how far it is")
        }
        Command::Switchover { broker, to } => {
            let now = admin.switch_over(&the_one(&admin, broker).await?, to).await?;
            output::line(&now)
        }
    }
}

async fn the_one(admin: &Admin, broker: Option<String>) -> Result<String, CliError> {
    if let Some(broker) = broker {
        return Ok(broker);
    }
    let mut masters = admin.masters(None).await?;
    match (masters.pop(), masters.len()) {
        (Some(one), 0) => Ok(one),
        _ => Err(CliError::Usage("the name server knows several masters; name the one that is meant, host:port".to_owned())),
    }
}

fn show(status: &GroupStatus) -> Result<(), CliError> {
    let GroupStatus { cluster, group, member, role, epoch, .. } = status;
    output::line(&format!("{cluster}/{group}: member {member} is {role} in epoch {epoch}"))?;
    if let (Some(master), Some(place)) = (status.master, &status.master_place) {
        output::line(&format!("master: member {master} at {place}"))?;
    }
    let GroupStatus { min, appended, flushed, confirmed, .. } = status;
    output::line(&format!("log: from {min} to {appended}, flushed to {flushed}, confirmed to {confirmed}"))?;
    if let (Some(taken), Some(needed)) = (status.resync_taken, status.resync_needed) {
        output::line(&format!("taking the master's log whole: {taken} of {needed} bytes"))?;
    }
    if let Some(unclean) = status.unclean_elections.filter(|unclean| *unclean > 0) {
        output::line(&format!("unclean elections: {unclean}; acknowledged messages may be missing since"))?;
    }
    if status.lost_messages > 0 {
        let (up_to, messages, bytes) = (if status.lost_at_most { "up to " } else { "" }, status.lost_messages, status.lost_bytes);
        output::line(&format!(
            "lost: {up_to}{messages} messages ({bytes} bytes) that this member acknowledged as master before the others confirmed them, since it was started"
        ))?;
    }
    for trouble in &status.troubles {
        output::line(&format!("trouble: {trouble}"))?;
    }
    if status.replicas.is_empty() {
        return Ok(());
    }
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let rows = status.replicas.iter().map(|r| {
        let behind = appended.saturating_sub(r.received);
        vec![r.member.to_string(), yes(r.in_sync), yes(r.connected), r.received.to_string(), r.flushed.to_string(), behind.to_string()]
    });
    output::table(&["replica", "in sync", "connected", "received", "flushed", "behind"], &["replica", "received", "flushed", "behind"], rows.collect())
}
