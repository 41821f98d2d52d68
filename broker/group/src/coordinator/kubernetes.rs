//! The coordinator of a group whose brokers run in Kubernetes, or reach its API server.
//!
//! | resource | has |
//! | --- | --- |
//! | BrokerGroup `NAME`, its status | the object |
//! | Lease `NAME` (`coordination.k8s.io`) | the lease, so that renewals leave the object's resourceVersion as it is |
//!
//! No watch is kept: members look at an interval, as at any coordinator, with reads that the API server may not answer from an old copy.
#![allow(clippy::disallowed_methods, reason = "an API server is only there on a real network, whose clock is the runtime's")]

mod object;
mod server;

use super::{Coordinator, CoordinatorError, Lease, Swapped};
use kube::{Config, config::Kubeconfig};
use object::Found;
use server::{Failure, Server};
use sluice_env::sync::Mutex;
use sluice_replication::{GroupState, Version, Versioned};
use std::{path::PathBuf, time::Duration};
use tokio::{runtime::Handle, time::Instant};

/// For how long a broker that was not allowed to make the object waits for somebody else to, before it tries again itself.
const CREATE_AGAIN: Duration = Duration::from_secs(30);

/// Keeps the object in the status of a BrokerGroup. Connects when it is first asked something, and again after failures.
///
/// A version is the BrokerGroup's uid, its resourceVersion, and its status as it was read; a swap is one JSON patch that tests all three. The resourceVersion alone would not do: an
/// API server that was set back to an older copy counts on from there, and gives one that was given before to another object.
///
/// Its methods block; called by a task of a runtime they panic.
pub struct KubernetesCoordinator {
    runtime: Handle,
    server: Server,
    place: String,
    cluster: String,
    group: String,
    /// The Lease as it was last answered; what a renewal rests on.
    last: Mutex<Option<server::LeaseObject>>,
    /// When this broker was told that it may not make the object.
    may_not_create: Mutex<Option<Instant>>,
}

/// How the API server is reached, and who this broker is to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// By the files that `KUBECONFIG` names, if it is set; else by the service account of the Pod that this runs in.
    Environment,
    /// By that kubeconfig file.
    File(PathBuf),
}

/// The API server can't be looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no way to the API server of Kubernetes: {why}; run in a Pod with a service account, or set KUBECONFIG")]
pub struct NoAccess {
    why: String,
}

impl KubernetesCoordinator {
    /// The object of that cluster's group in that namespace, under that name. The runtime has to be one of several threads and to outlive this.
    pub fn new(runtime: Handle, access: &Access, namespace: &str, name: &str, cluster: &str, group: &str) -> Result<Self, NoAccess> {
        let no_access = |error: &(dyn std::error::Error + 'static)| NoAccess { why: super::causes(error) };
        let kubeconfig = match access {
            Access::Environment => Kubeconfig::from_env().map_err(|error| no_access(&error))?,
            Access::File(file) => Some(Kubeconfig::read_from(file).map_err(|error| no_access(&error))?),
        };
        let mut config = match kubeconfig {
            Some(found) => runtime.block_on(Config::from_custom_kubeconfig(found, &Default::default())).map_err(|error| no_access(&error))?,
            None => Config::incluster().map_err(|error| no_access(&error))?,
        };
        // A swap that is sent twice is told by the second answer that the object is another one, made so by the first; and a timeout of the server's counts as one to repeat here.
        config.default_retry = false;
        let server = {
            let _entered = runtime.enter();
            Server::new(config, namespace, name).map_err(|error| no_access(&error))?
        };
        Ok(Self {
            runtime,
            server,
            place: format!("kubernetes://{namespace}/{name}"),
            cluster: cluster.to_owned(),
            group: group.to_owned(),
            last: Mutex::default(),
            may_not_create: Mutex::default(),
        })
    }

    fn wait<T>(&self, deadline: Instant, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        self.runtime.block_on(async { tokio::time::timeout_at(deadline, asked).await.unwrap_or_else(|_| Err(Failure::Away("no answer in time".to_owned()))) })
    }

    /// The resource; `None`: there is none, and this broker may make it as far as it knows.
    fn get(&self, deadline: Instant) -> Result<Option<Found>, CoordinatorError> {
        let found = self.wait(deadline, self.server.get()).map_err(|failure| self.error(failure))?;
        let Some(resource) = found else {
            let told = *self.may_not_create.lock();
            return if told.is_some_and(|at| at.elapsed() < CREATE_AGAIN) { Err(self.error(self.missing())) } else { Ok(None) };
        };
        self.checked(resource).map(Some)
    }

    fn checked(&self, resource: serde_json::Value) -> Result<Found, CoordinatorError> {
        Found::new(resource, &self.cluster, &self.group).map_err(|why| self.error(Failure::Damaged(why)))
    }

    /// There is no resource: it is made, if this broker may, else waited for.
    fn create(&self, deadline: Instant) -> Result<Found, CoordinatorError> {
        let made = self.wait(deadline, self.server.create(&self.cluster, &self.group));
        match made {
            Ok(resource) => self.checked(resource),
            // Somebody else was quicker.
            Err(Failure::Other(_)) => self.get(deadline)?.ok_or_else(|| self.error(Failure::Away("the BrokerGroup comes and goes".to_owned()))),
            Err(Failure::Forbidden(_)) => {
                *self.may_not_create.lock() = Some(Instant::now());
                Err(self.error(self.missing()))
            }
            Err(failure) => Err(self.error(failure)),
        }
    }

    fn missing(&self) -> Failure {
        Failure::Refused(format!(
            "there is no BrokerGroup {} in the namespace {}, and this broker may not make it: the operator has to, or a person with `kubectl apply` (spec: cluster {:?}, \
             group {:?}); the group is founded when it is there",
            self.server.name, self.server.namespace, self.cluster, self.group
        ))
    }

    /// Replaces the status of what was found, or says what is there now.
    fn put_if(&self, from: &object::Rests, to: &GroupState, deadline: Instant) -> Result<Swapped, CoordinatorError> {
        let patch = object::patch(from, to).map_err(|why| self.error(Failure::Damaged(why)))?;
        let refused = match self.wait(deadline, self.server.patch_status(&patch)) {
            Ok(resource) => return self.done(resource, to),
            Err(Failure::Gone) => return Ok(Swapped::Other(None)),
            Err(Failure::Other(why)) => why,
            Err(failure) => return Err(self.error(failure)),
        };
        let now = self.get(deadline)?;
        match now {
            Some(found) if found.rests() == *from => Err(self.error(Failure::Refused(format!("the API server does not take the change: {refused}")))),
            other => self.state(other).map(Swapped::Other),
        }
    }

    fn done(&self, resource: serde_json::Value, to: &GroupState) -> Result<Swapped, CoordinatorError> {
        let now = self.state(Some(self.checked(resource)?))?;
        match now {
            Some(now) if now.state == *to => Ok(Swapped::Done(now)),
            _ => Err(self.error(Failure::Damaged(
                "a part of the state is not kept: the BrokerGroup resource that is installed is older than this broker; apply crds/ anew".into(),
            ))),
        }
    }

    fn state(&self, found: Option<Found>) -> Result<Option<Versioned>, CoordinatorError> {
        let versioned = found.map(|found| found.versioned()).transpose();
        versioned.map(Option::flatten).map_err(|why| self.error(Failure::Damaged(why)))
    }

    /// Writes the Lease if it is still as this broker knows it; whether it was. Somebody else's change is looked at first.
    fn put_lease(&self, lease: Lease, owner: &str, deadline: Instant) -> Result<bool, CoordinatorError> {
        let mut known = self.last.lock().take();
        if known.is_none() {
            known = self.wait(deadline, self.server.get_lease()).map_err(|failure| self.error(failure))?;
        }
        let next = object::renewed(known, lease, owner).map_err(|why| self.error(Failure::Damaged(why)))?;
        match self.wait(deadline, self.server.put_lease(next)) {
            Ok(written) => {
                *self.last.lock() = Some(written);
                Ok(true)
            }
            Err(Failure::Other(_) | Failure::Gone) => Ok(false),
            Err(failure) => Err(self.error(failure)),
        }
    }

    fn error(&self, failure: Failure) -> CoordinatorError {
        let place = self.place.clone();
        match failure {
            Failure::Away(why) => CoordinatorError::Away { place, why },
            Failure::Damaged(why) => CoordinatorError::Damaged { place, why },
            Failure::Refused(why) | Failure::Forbidden(why) => CoordinatorError::Refused { place, why },
            Failure::Other(why) => CoordinatorError::Away { place, why },
            Failure::Gone => CoordinatorError::Away { place, why: "what was there is gone".to_owned() },
        }
    }
}

impl Coordinator for KubernetesCoordinator {
    fn read(&self, timeout: Duration) -> Result<Option<Versioned>, CoordinatorError> {
        let found = self.get(Instant::now() + timeout)?;
        self.state(found)
    }

    fn swap(&self, from: Option<&Version>, to: &GroupState, timeout: Duration) -> Result<Swapped, CoordinatorError> {
        let deadline = Instant::now() + timeout;
        if let Some(version) = from {
            return match object::Rests::on(version) {
                Some(rests) => self.put_if(&rests, to, deadline),
                // That is no version that this coordinator has ever given.
                None => self.get(deadline).and_then(|found| self.state(found)).map(Swapped::Other),
            };
        }
        let found = match self.get(deadline)? {
            Some(found) => found,
            None => self.create(deadline)?,
        };
        if found.is_founded() { self.state(Some(found)).map(Swapped::Other) } else { self.put_if(&found.rests(), to, deadline) }
    }

    /// The object and the Lease can't be compared and written in one: a renewal that meets another master's election may be written though the object has just changed. Then those
    /// who look see a sign of life too many, and the next renewal of the new master's is one of theirs that they have not seen.
    fn renew(&self, lease: Lease, timeout: Duration) -> Result<Option<Versioned>, CoordinatorError> {
        let deadline = Instant::now() + timeout;
        loop {
            let Some(found) = self.get(deadline)? else { return Ok(None) };
            let owner = found.uid().to_owned();
            let now = self.state(Some(found))?;
            let is_of_that_epoch = now.as_ref().is_some_and(|now| now.state.epoch == lease.epoch);
            // Again only if somebody has changed the Lease meanwhile.
            if !is_of_that_epoch || self.put_lease(lease, &owner, deadline)? {
                return Ok(now);
            }
        }
    }

    fn lease(&self, timeout: Duration) -> Result<Option<Lease>, CoordinatorError> {
        let found = self.wait(Instant::now() + timeout, self.server.get_lease()).map_err(|failure| self.error(failure))?;
        found.map(|found| object::lease(&found)).transpose().map_err(|why| self.error(Failure::Damaged(why)))
    }

    fn describe(&self) -> String {
        self.place.clone()
    }
}
