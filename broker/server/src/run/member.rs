//! A broker that is a member of a group: what it does as master, and as a replica.

use super::{
    RunError,
    broker::{advertised, delivery_options, local, publish, store_options},
    registration::Registration,
    stores::Places,
};
use crate::{
    config::{BrokerIdentity, Config},
    net::Net,
    processor::{BrokerProcessor, BrokerSide, Forwards, LocalBroker, Master, Pushes, Told},
};
use parking_lot::Mutex;
use sluice_delivery::{Delivery, DeliveryOptions, ReplicaReads};
use sluice_env::Env;
use sluice_group::runner::{GroupOptions, Member, Service};
use sluice_naming::RouteTable;
use sluice_replication::{Epoch, MemberId, Timing};
use sluice_store::{RecoveryProgress, Store};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How often a master looks which replicas can be read from.
const REPLICAS_EVERY: Duration = Duration::from_millis(500);
/// Longest time that a stop waits for another member to become master.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// Longest time that it waits then until it knows that member as master.
const SUCCESSOR_MAX: Duration = Duration::from_secs(1);
/// How much later others may come to know it.
const LEAVE_PAUSE: Duration = Duration::from_millis(100);

/// Everything that a master has and a replica has not, and how one becomes the other.
pub(super) struct Mastership {
    env: Env,
    options: DeliveryOptions,
    id: MemberId,
    identity: BrokerIdentity,
    advertised: SocketAddr,
    naming_addresses: Vec<String>,
    pushes: Arc<Pushes>,
    told: Arc<Told>,
    forwards: Arc<Forwards>,
    pub(super) side: Arc<BrokerSide>,
    /// Set if this member may be read from while it is a replica.
    reading: Option<Reading>,
    table: OnceLock<Arc<RouteTable>>,
    runtime: Handle,
    /// Of the master: its delivery, and what registers it elsewhere.
    tenure: Mutex<Option<Tenure>>,
}

struct Tenure {
    epoch: Epoch,
    delivery: Arc<Delivery>,
    registrations: Vec<JoinHandle<()>>,
    /// Registrations hold it to know when to end by themselves.
    _go_on: watch::Sender<bool>,
}

/// What a member has for those who read from it while it is a replica.
struct Reading {
    address: SocketAddr,
    reads: Arc<ReplicaReads>,
    told: Arc<Told>,
    /// Ends its registrations at name servers, which are there as long as it follows somebody.
    registered: Mutex<Option<watch::Sender<bool>>>,
}

impl Mastership {
    /// Opens the data directory, recovers, and takes part in the group. Blocks for as long as that takes.
    pub(super) fn start(
        config: &Config,
        net: &Arc<Net>,
        runtime: &Handle,
        places: &Places,
        progress: &RecoveryProgress,
    ) -> Result<(Arc<Self>, Arc<Member>), RunError> {
        let dir = &config.data_dir;
        let env = places.env(dir)?;
        let advertised = advertised(config);
        let forwards = Forwards::new(super::net_limits(config).frame, runtime.clone());
        let mastership = Arc::new(Self {
            options: delivery_options(config, advertised),
            id: MemberId(config.replication.member),
            identity: config.broker.clone(),
            advertised,
            naming_addresses: config.naming_addresses.clone(),
            pushes: Arc::new(Pushes::new(Arc::clone(net))),
            told: Told::new(config.naming_addresses.len(), runtime.clone()),
            side: BrokerSide::in_group(Arc::clone(&forwards), advertised),
            forwards,
            reading: config.replication.read_address.map(|address| Reading {
                address,
                reads: Arc::new(ReplicaReads::new(config.replication.member.into(), delivery_options(config, advertised), env.clock.clone())),
                told: Told::new(config.naming_addresses.len(), runtime.clone()),
                registered: Mutex::default(),
            }),
            table: OnceLock::new(),
            runtime: runtime.clone(),
            tenure: Mutex::default(),
            env: env.clone(),
        });
        let options = group_options(config);
        let coordinator = super::coordinator::open(&config.replication, runtime, &options.cluster, &options.group)?;
        let member = Member::start(env, options, coordinator, mastership.clone(), progress).map_err(|error| RunError::Group { source: Box::new(error) })?;
        mastership.side.set_member(&member);
        Ok((mastership, member))
    }

    /// The name server in this process, which learns of the master's topics.
    pub(super) fn set_table(&self, table: &Arc<RouteTable>) {
        // There is one.
        let _ = self.table.set(Arc::clone(table));
        if let Some(tenure) = &*self.tenure.lock()
            && let Err(error) = self.publish(&tenure.delivery)
        {
            tracing::error!(%error, "the master is missing in this process's name server");
        }
    }

    /// What it delivers, as long as it is master.
    pub(super) fn delivery(&self) -> Option<Arc<Delivery>> {
        self.tenure.lock().as_ref().map(|tenure| Arc::clone(&tenure.delivery))
    }

    /// Clients are told that this is the group, whoever is master.
    fn local(&self) -> LocalBroker {
        local(&BrokerIdentity { id: 0, ..self.identity.clone() }, self.advertised)
    }

    fn publish(&self, delivery: &Arc<Delivery>) -> Result<(), String> {
        publish(&self.local(), delivery, &self.told, self.table.get()).map_err(|error| error.to_string())
    }

    fn register(&self, delivery: &Arc<Delivery>, go_on: &watch::Sender<bool>) -> Vec<JoinHandle<()>> {
        let one = |(number, address): (usize, &String)| {
            let registration = Registration {
                identity: BrokerIdentity { id: 0, ..self.identity.clone() },
                advertised: self.advertised,
                delivery: Some(Arc::clone(delivery)),
                of_group: true,
                told: Arc::clone(&self.told),
                name_server: address.clone(),
                number,
            };
            self.runtime.spawn(registration.run(go_on.subscribe()))
        };
        self.naming_addresses.iter().enumerate().map(one).collect()
    }

    /// What it gives to read while it is a replica.
    pub(super) fn reads(&self) -> Option<&Arc<ReplicaReads>> {
        self.reading.as_ref().map(|reading| &reading.reads)
    }

    /// Makes it known where this member can be read from, under its own number, or that it can't be any more.
    fn register_to_read(&self, is_replica: bool) {
        let Some(reading) = &self.reading else { return };
        let mut registered = reading.registered.lock();
        if !is_replica {
            if let Some(end) = registered.take() {
                end.send_replace(true);
            }
            return;
        }
        if registered.is_some() {
            return;
        }
        let end = watch::Sender::new(false);
        for (number, name_server) in self.naming_addresses.iter().enumerate() {
            let registration = Registration {
                identity: BrokerIdentity { id: u64::from(self.id.0), ..self.identity.clone() },
                advertised: reading.address,
                delivery: None,
                of_group: true,
                told: Arc::clone(&reading.told),
                name_server: name_server.clone(),
                number,
            };
            self.runtime.spawn(registration.run(end.subscribe()));
        }
        *registered = Some(end);
    }

    /// Lets the master know all the time which replicas can be read from: those of the in-sync set, which hold all that is confirmed.
    fn watch_replicas(&self, delivery: &Arc<Delivery>, go_on: &watch::Sender<bool>) {
        if self.reading.is_none() {
            return;
        }
        let (side, delivery, mut stop) = (Arc::clone(&self.side), Arc::downgrade(delivery), go_on.subscribe());
        self.runtime.spawn(async move {
            loop {
                let asked = side.member().cloned();
                // It may wait for a disk.
                let Ok(status) = tokio::task::spawn_blocking(move || asked.map(|member| member.status())).await else { return };
                let Some(delivery) = delivery.upgrade() else { return };
                let replicas = status.into_iter().flat_map(|status| status.replicas);
                let mut in_sync: Vec<_> =
                    replicas.filter(|replica| replica.is_in_sync && replica.is_connected).map(|replica| replica.member.id.0.into()).collect();
                in_sync.sort_unstable();
                delivery.set_replicas_to_read(in_sync);
                drop(delivery);
                tokio::select! {
                    () = sleep(REPLICAS_EVERY) => {}
                    // The sender gone is a stop too.
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        });
    }

    /// Ends what a master has, with everything written that has to be: for a stop.
    pub(super) fn close_delivery(&self) {
        self.register_to_read(false);
        if let Some(tenure) = self.end() {
            tenure.delivery.close();
        }
    }

    /// Before a stop: lets another member be master, if one has what it takes, so that clients do not have to wait for a lease. Comes back when this broker and so, most
    /// likely, the other members know where to hand on what they get: what is under way when connections end has no answer.
    pub(super) fn leave(&self, member: &Member) {
        if member.status().master_of.is_none() {
            return;
        }
        match member.hand_over(None, HAND_OVER_MAX) {
            Ok(to) => tracing::info!(%to, "the role of master was handed over"),
            Err(why) => return tracing::warn!(why, "the role of master is not handed over; the group elects another one"),
        }
        self.runtime.block_on(async {
            // Then clients are told to send again.
            let _ = timeout(SUCCESSOR_MAX, self.forwards.another()).await;
            sleep(LEAVE_PAUSE).await;
        });
        self.forwards.give_all_back();
    }

    /// Takes the role away from clients' eyes; comes back with what it was done with.
    fn end(&self) -> Option<Tenure> {
        self.forwards.end_here();
        self.side.end();
        let tenure = self.tenure.lock().take()?;
        if let Some(table) = self.table.get() {
            self.local().lost(table);
        }
        // Without a word to the name servers: the next master has the same name and address there, and an unregistration could come after its registration.
        tenure.registrations.iter().for_each(JoinHandle::abort);
        (0..self.naming_addresses.len()).for_each(|number| self.told.away(number));
        Some(tenure)
    }
}

impl Service for Mastership {
    fn open(&self, epoch: Epoch, store: &Arc<Store>) -> Result<(), String> {
        let runtime = self.runtime.clone();
        let work = Arc::new(move |work: Box<dyn FnOnce() + Send>| drop(runtime.spawn(async move { work() })));
        let delivery =
            Delivery::open(Arc::clone(store), self.env.clone(), self.options.clone(), self.pushes.clone(), work).map_err(|error| error.to_string())?;
        self.publish(&delivery).inspect_err(|_| delivery.abandon())?;
        let go_on = watch::Sender::new(false);
        let registrations = self.register(&delivery, &go_on);
        self.watch_replicas(&delivery, &go_on);
        self.side.begin(Arc::new(BrokerProcessor::new(Arc::clone(&delivery), self.local(), Arc::clone(&self.told))));
        *self.tenure.lock() = Some(Tenure { epoch, delivery, registrations, _go_on: go_on });
        Ok(())
    }

    fn close(&self, epoch: Epoch) {
        if let Some(tenure) = self.end() {
            debug_assert_eq!(tenure.epoch, epoch, "one tenure at a time");
            tenure.delivery.abandon();
        }
    }

    fn hand_over(&self, _: Epoch) {
        self.close_delivery();
    }

    fn master_is(&self, master: Option<&(MemberId, String)>) {
        // Without a master it stays what it was: what it gives to read is right whoever comes next.
        if let Some((id, _)) = master {
            self.register_to_read(*id != self.id);
        }
        self.forwards.set_master(match master {
            Some((id, _)) if *id == self.id => Master::Here,
            Some((_, place)) => Master::There(place.clone()),
            None => Master::Unknown,
        });
    }
}

fn group_options(config: &Config) -> GroupOptions {
    let replication = &config.replication;
    let (host, port) = replication.own_address().unwrap_or_default();
    GroupOptions {
        cluster: config.broker.cluster.clone(),
        group: config.broker.name.clone(),
        id: MemberId(replication.member),
        members: replication.members.iter().map(|(id, address)| (MemberId(*id), address.clone())).collect(),
        listen: SocketAddr::new(config.listen.address, port).to_string(),
        place: format!("{host}:{}", config.listen.broker_port),
        min_in_sync: replication.min_in_sync,
        timing: Timing::new(replication.lease),
        store: store_options(config),
    }
}
