//! The coordinator of a group whose brokers share an etcd cluster.
//!
//! | key | value |
//! | --- | --- |
//! | `/sluice/<cluster>/<group>/state` | the object, as JSON |
//! | `/sluice/<cluster>/<group>/lease` | the lease, as JSON |
//!
//! Both names are percent-encoded, so no group's keys are another's.
#![allow(clippy::disallowed_methods, reason = "etcd is only there on a real network, whose clock is the runtime's")]

mod members;
mod messages;

use super::{Coordinator, CoordinatorError, Lease, Swapped};
use members::{Members, Unanswered};
use messages::{Compare, KeyValue, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse};
use serde::{Serialize, de::DeserializeOwned};
use sluice_env::sync::Mutex;
use sluice_replication::{GroupState, Version, Versioned};
use std::time::Duration;
use tokio::{runtime::Handle, time::Instant};
use tonic::transport::Endpoint;

/// Keeps the object in etcd. Connects when it is first asked something, and again after failures.
///
/// A version is the revision of the object's last change and the object's text. The revision alone would not do: an etcd that was set back to an older copy counts on
/// from there, and gives a revision that was given before to another object.
///
/// Its methods block; called by a task of a runtime they panic.
pub struct EtcdCoordinator {
    runtime: Handle,
    members: Members,
    place: String,
    state_key: Vec<u8>,
    lease_key: Vec<u8>,
    /// The object as it was last answered; what a renewal rests on.
    last: Mutex<Option<Versioned>>,
}

/// An endpoint that can't be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoints {
    /// There is none.
    #[error("no endpoint of etcd is given; write at least one, such as http://10.0.0.1:2379")]
    Missing,
    /// This one is none.
    #[error("{endpoint:?} is no endpoint of etcd: {why}; write it like http://10.0.0.1:2379")]
    Wrong {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
}

impl EtcdCoordinator {
    /// The group's object in the etcd cluster that has these members. The runtime has to be one of several threads and to outlive this.
    pub fn new(runtime: Handle, endpoints: &[String], cluster: &str, group: &str) -> Result<Self, BadEndpoints> {
        let members = endpoints.iter().map(|text| endpoint(text)).collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            return Err(BadEndpoints::Missing);
        }
        let prefix = format!("/sluice/{}/{}", encoded(cluster), encoded(group));
        Ok(Self {
            runtime,
            members: Members::new(members),
            place: format!("{}{prefix}", endpoints.join(",")),
            state_key: format!("{prefix}/state").into_bytes(),
            lease_key: format!("{prefix}/lease").into_bytes(),
            last: Mutex::default(),
        })
    }

    fn get(&self, key: &[u8], deadline: Instant) -> Result<Option<KeyValue>, CoordinatorError> {
        let request = RangeRequest { key: key.to_vec() };
        let asked = self.members.ask(messages::RANGE, &request, Unanswered::AskAgain, deadline);
        let answer: RangeResponse = self.runtime.block_on(asked).map_err(|why| self.away(why))?;
        answer.header.as_ref().ok_or_else(|| self.away("its answer is empty".to_owned()))?;
        Ok(answer.kvs.into_iter().next())
    }

    fn get_object(&self, deadline: Instant) -> Result<Option<Versioned>, CoordinatorError> {
        let found = self.get(&self.state_key, deadline)?;
        self.object(found)
    }

    /// Writes if the object is still the one of that version, and gives the revision of what was written; else what the object is.
    fn put_if(
        &self,
        from: Vec<Compare>,
        put: RequestOp,
        unanswered: Unanswered,
        deadline: Instant,
    ) -> Result<Result<i64, Option<Versioned>>, CoordinatorError> {
        let request = TxnRequest { compare: from, success: vec![put], failure: vec![RequestOp::range(&self.state_key)] };
        let asked = self.members.ask(messages::TXN, &request, unanswered, deadline);
        let TxnResponse { header, succeeded, responses } = self.runtime.block_on(asked).map_err(|why| self.away(why))?;
        let range = responses.into_iter().next().and_then(|response| response.range);
        match (succeeded, header, range) {
            (true, Some(header), _) => Ok(Ok(header.revision)),
            (false, _, Some(range)) => self.object(range.kvs.into_iter().next()).map(Err),
            _ => Err(self.away("its answer lacks what it has to have".to_owned())),
        }
    }

    /// The object is the very one of that version; `None`: that is no version that this coordinator has ever given.
    fn is_still(&self, from: Option<&Version>) -> Option<Vec<Compare>> {
        let Some(version) = from else { return Some(vec![Compare::mod_revision(&self.state_key, 0)]) };
        let (revision, json) = version.0.split_once(' ')?;
        Some(vec![Compare::mod_revision(&self.state_key, revision.parse().ok()?), Compare::value(&self.state_key, json.as_bytes())])
    }

    fn object(&self, found: Option<KeyValue>) -> Result<Option<Versioned>, CoordinatorError> {
        let object = match found {
            None => None,
            Some(found) => {
                let json = String::from_utf8(found.value).map_err(|error| self.damaged("the state", &error.to_string()))?;
                let state = self.parsed("the state", json.as_bytes())?;
                Some(versioned(found.mod_revision, &json, state))
            }
        };
        self.last.lock().clone_from(&object);
        Ok(object)
    }

    fn parsed<T: DeserializeOwned>(&self, what: &str, json: &[u8]) -> Result<T, CoordinatorError> {
        serde_json::from_slice(json).map_err(|error| self.damaged(what, &error.to_string()))
    }

    fn json<T: Serialize>(&self, value: &T) -> Result<String, CoordinatorError> {
        serde_json::to_string(value).map_err(|error| self.damaged("what was to be written", &error.to_string()))
    }

    fn away(&self, why: String) -> CoordinatorError {
        CoordinatorError::Away { place: self.place.clone(), why }
    }

    fn damaged(&self, what: &str, why: &str) -> CoordinatorError {
        CoordinatorError::Damaged {
            place: self.place.clone(),
            why: format!("{what} can't be read ({why}); write the right one there, or restore etcd from a copy"),
        }
    }
}

fn versioned(revision: i64, json: &str, state: GroupState) -> Versioned {
    Versioned { version: Version(format!("{revision} {json}")), state }
}

fn endpoint(text: &str) -> Result<Endpoint, BadEndpoints> {
    let wrong = |why: &str| BadEndpoints::Wrong { endpoint: text.to_owned(), why: why.to_owned() };
    let endpoint = Endpoint::from_shared(text.to_owned()).map_err(|error| wrong(&error.to_string()))?;
    let uri = endpoint.uri();
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(wrong("TLS is not spoken")),
        _ => return Err(wrong("it does not begin with http://")),
    }
    let named = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if named || uri.port().is_none() || uri.path() != "/" || uri.query().is_some() {
        return Err(wrong("it is not a host and a port"));
    }
    Ok(endpoint)
}

/// All but letters, digits and what is usual in names.
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

impl Coordinator for EtcdCoordinator {
    fn read(&self, timeout: Duration) -> Result<Option<Versioned>, CoordinatorError> {
        self.get_object(Instant::now() + timeout)
    }

    fn swap(&self, from: Option<&Version>, to: &GroupState, timeout: Duration) -> Result<Swapped, CoordinatorError> {
        let deadline = Instant::now() + timeout;
        let Some(from) = self.is_still(from) else { return self.get_object(deadline).map(Swapped::Other) };
        let json = self.json(to)?;
        let put = RequestOp::put(&self.state_key, json.as_bytes());
        // Asked twice, the second would be told that the object is another one, made so by the first.
        match self.put_if(from, put, Unanswered::GiveUp, deadline)? {
            Ok(revision) => {
                let now = versioned(revision, &json, to.clone());
                *self.last.lock() = Some(now.clone());
                Ok(Swapped::Done(now))
            }
            Err(now) => Ok(Swapped::Other(now)),
        }
    }

    fn renew(&self, lease: Lease, timeout: Duration) -> Result<Option<Versioned>, CoordinatorError> {
        let deadline = Instant::now() + timeout;
        let put = RequestOp::put(&self.lease_key, self.json(&lease)?.as_bytes());
        let of_that_epoch = |now: &Versioned| now.state.epoch == lease.epoch;
        let last = self.last.lock().clone().filter(of_that_epoch);
        let mut now = if last.is_some() { last } else { self.get_object(deadline)? };
        // Again only if somebody has changed the object meanwhile, and not its epoch.
        while let Some(known) = now.clone().filter(of_that_epoch)
            && let Some(still) = self.is_still(Some(&known.version))
        {
            match self.put_if(still, put.clone(), Unanswered::AskAgain, deadline)? {
                Ok(_) => break,
                Err(other) => now = other,
            }
        }
        Ok(now)
    }

    fn lease(&self, timeout: Duration) -> Result<Option<Lease>, CoordinatorError> {
        let found = self.get(&self.lease_key, Instant::now() + timeout)?;
        found.map(|found| self.parsed("the lease", &found.value)).transpose()
    }

    fn describe(&self) -> String {
        self.place.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_names_of_one_group_make_anothers_keys() {
        let keys = |cluster, group| format!("{}/{}", encoded(cluster), encoded(group));
        assert_eq!(keys("prod-1", "broker_a.b"), "prod-1/broker_a.b");
        let names =
            [("a", "b"), ("a/b", ""), ("", "a/b"), ("a%2Fb", ""), ("a", "b/state"), ("a/", "b"), ("a", "/b"), ("a", "%62"), ("a", "é"), ("a", "%C3%A9")];
        let mut all: Vec<_> = names.iter().map(|(cluster, group)| keys(cluster, group)).collect();
        assert!(all.iter().all(|key| key.is_ascii() && key.split('/').count() == 2), "{all:?}");
        all.sort();
        all.dedup();
        assert_eq!(all.len(), names.len(), "{all:?}");
    }

    #[test]
    fn what_can_be_no_endpoint_is_refused_with_the_reason() {
        for (text, why) in [
            ("10.0.0.1:2379", "http://"),
            ("https://10.0.0.1:2379", "TLS"),
            ("http://10.0.0.1", "a port"),
            ("http://10.0.0.1:2379/v3", "a port"),
            ("ftp://10.0.0.1:2379", "http://"),
            ("unix:/run/etcd", "http://"),
            ("http://", "URI"),
            ("http://name:word@10.0.0.1:2379", "a port"),
            ("", "URI"),
        ] {
            let error = endpoint(text).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("write it like"), "{text}: {error}");
        }
        assert_eq!(endpoint("http://[::1]:2379").unwrap().uri().port_u16(), Some(2379));
    }
}
