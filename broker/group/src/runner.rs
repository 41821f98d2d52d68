//! One broker of a group, running: [`Core`] says what it may do, [`Pace`] when it tries; here it is done. Nothing is decided here.
//!
//! | thread | does |
//! | --- | --- |
//! | `group-pace` | lets the wishes of [`Pace`] come true, twice a beat |
//! | `group-coordinator` | asks the coordinator, one thing at a time |
//! | `group-tenure` | opens and closes what a master does with its log; opens the store again where it has to be |
//! | `group-follow` | follows the master |
//! | `group-own` | tells how far the own log has come |
//! | `group-disk` | tries whether the disk takes writes |
//! | `group-listen`, and one for each connection | serves replicas, answers other members |
//! | `group-ask`, one for each other member | asks what it knows |

mod asking;
mod desk;
mod follow;
mod resync;
mod serve;
mod shared;
mod state;
mod tenure;
mod watch;

pub use state::{ReplicaStatus, Status};

use crate::{KeptError, coordinator::Coordinator};
use shared::Shared;
use sluice_env::{Env, JoinHandle, sync::Mutex};
use sluice_replication::{Epoch, MemberId, Timing};
use sluice_store::{OpenError, RecoveryProgress, Store, StoreOptions};
use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

/// Which broker of which group this is, and where the others are.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// The cluster's name.
    pub cluster: String,
    /// The group's name.
    pub group: String,
    /// This broker's number in it.
    pub id: MemberId,
    /// Where other members reach each member (`host:port`), this one included.
    pub members: BTreeMap<MemberId, String>,
    /// Where this one listens for them (`host:port`).
    pub listen: String,
    /// Where this one serves clients (`host:port`).
    pub place: String,
    /// Fewer members than that are never left in the in-sync set.
    pub min_in_sync: usize,
    /// How patient the group is.
    pub timing: Timing,
    /// The store's. `replicated` is set here.
    pub store: StoreOptions,
}

/// What a master does with its log.
pub trait Service: Send + Sync {
    /// This broker is master: serve clients from that store. Everything in it is confirmed.
    fn open(&self, epoch: Epoch, store: &Arc<Store>) -> Result<(), String>;

    /// It is not any more: answer nobody as master from now on, write nothing, and let go of the store.
    fn close(&self, epoch: Epoch);

    /// It hands its role over: answer what is under way, write what has to be, let nothing new in, and let go of the store.
    fn hand_over(&self, epoch: Epoch);

    /// Who serves clients now, and where; `None`: nobody that is known of.
    fn master_is(&self, master: Option<&(MemberId, String)>);
}

/// Why a broker of a group was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its number is missing among the members.
    #[error("this broker is member {0}, but the group's members are {1}; list it too, under the address that the others reach it at")]
    NotListed(MemberId, String),
    /// Others can't reach it.
    #[error("listening for the other members at {0} failed: {1}")]
    Listen(String, io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// What is kept beside it.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// A thread.
    #[error("the thread {0} could not be started: {1}")]
    Thread(String, io::Error),
}

/// A broker of a group.
pub struct Member {
    shared: Arc<Shared>,
    threads: Mutex<Vec<Box<dyn JoinHandle>>>,
}

impl Member {
    /// Opens the store and takes part. Blocks for as long as recovery takes.
    pub fn start(
        env: Env,
        options: GroupOptions,
        coordinator: Arc<dyn Coordinator>,
        service: Arc<dyn Service>,
        progress: &RecoveryProgress,
    ) -> Result<Arc<Self>, StartError> {
        if !options.members.contains_key(&options.id) {
            let listed = options.members.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(StartError::NotListed(options.id, listed));
        }
        let listener = env.net.listen(&options.listen).map_err(|error| StartError::Listen(options.listen.clone(), error))?;
        let shared = Arc::new(Shared::open(env, options, coordinator, service, progress)?);
        let member = Arc::new(Self { shared, threads: Mutex::default() });
        member.start_threads(listener).inspect_err(|_| member.stop())?;
        Ok(member)
    }

    fn start_threads(&self, listener: Box<dyn sluice_env::Listener>) -> Result<(), StartError> {
        self.thread("group-tenure".to_owned(), |shared| tenure::run(&shared))?;
        self.thread("group-coordinator".to_owned(), |shared| desk::run(&shared))?;
        self.thread("group-disk".to_owned(), |shared| watch::disk(&shared))?;
        self.thread("group-own".to_owned(), |shared| watch::own_log(&shared))?;
        self.thread("group-follow".to_owned(), |shared| follow::run(&shared))?;
        self.thread("group-listen".to_owned(), move |shared| serve::run(&shared, &*listener))?;
        for (id, address) in self.shared.options.members.clone().into_iter().filter(|(id, _)| *id != self.shared.options.id) {
            self.thread(format!("group-ask-{id}"), move |shared| asking::run(&shared, id, &address))?;
        }
        self.thread("group-pace".to_owned(), |shared| watch::pace(&shared))
    }

    fn thread(&self, name: String, body: impl FnOnce(Arc<Shared>) + Send + 'static) -> Result<(), StartError> {
        let shared = self.shared.clone();
        let thread = self.shared.env.spawn.thread(&name, Box::new(move || body(shared))).map_err(|error| StartError::Thread(name, error))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Which broker of which group it is.
    #[must_use]
    pub fn options(&self) -> &GroupOptions {
        &self.shared.options
    }

    /// Its store; `None` while it is opened again.
    #[must_use]
    pub fn store(&self) -> Option<Arc<Store>> {
        self.shared.store()
    }

    /// The epoch that it serves clients in as master, at this moment: to be asked again after whatever took time.
    #[must_use]
    pub fn serves(&self) -> Option<Epoch> {
        self.shared.serves()
    }

    /// Hands the role of master over to that member of the in-sync set, or to the one that has most of the log. Comes back when the other one is master, or with what
    /// speaks against it; then this one goes on.
    pub fn hand_over(&self, to: Option<MemberId>, deadline: Duration) -> Result<MemberId, String> {
        tenure::hand_over(&self.shared, to, deadline)
    }

    /// Makes this member master though it is not in the in-sync set: what the set's members held and this one does not is lost. Comes back when it was asked for.
    pub fn stand_unclean(&self) -> Result<(), String> {
        self.shared.stand_unclean()
    }

    /// Gives this replica's log up and takes the master's whole. Comes back when it was ordered.
    pub fn resync(&self) -> Result<(), String> {
        self.shared.resync()
    }

    /// Takes part no more and closes the store. A master should hand over before.
    pub fn stop(&self) {
        self.shared.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if let Err(what) = thread.join() {
                tracing::error!(what, "a thread of the group had failed");
            }
        }
        self.shared.close_store();
    }
}
