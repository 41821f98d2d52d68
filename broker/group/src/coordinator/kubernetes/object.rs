//! What the API server keeps, as replication's state and back.

use super::{Lease, server::LeaseObject};
use k8s_openapi::{
    api::coordination::v1::LeaseSpec,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
    jiff::Timestamp,
};
use kube::Resource;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_crd::{BrokerGroup, BrokerGroupSpec, BrokerGroupStatus, InSyncMember};
use sluice_replication::{Epoch, GroupState, Incarnation, Member, MemberId, Version, Versioned};

/// Where the Lease says what brokers go by; its other fields are for people.
const LEASE: &str = "mq.sluice.io/lease";

const REPAIR: &str = "write the right one there, or restore it from a copy";

/// A BrokerGroup as it was answered.
pub(super) struct Found {
    rests: Rests,
}

/// What a swap rests on: the very object, nothing of it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rests {
    uid: String,
    resource_version: String,
    /// As it is there, also what this broker does not know. `None`: not founded.
    status: Option<Value>,
}

impl Rests {
    /// `None`: that is none.
    pub(super) fn on(version: &Version) -> Option<Self> {
        let mut parts = version.0.splitn(3, ' ');
        let (uid, resource_version, status) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { uid: uid.to_owned(), resource_version: resource_version.to_owned(), status: Some(serde_json::from_str(status).ok()?) })
    }

    fn version(&self, status: &Value) -> Version {
        Version(format!("{} {} {status}", self.uid, self.resource_version))
    }
}

impl Found {
    /// Refuses one that is another group's, by mistake.
    pub(super) fn new(resource: Value, cluster: &str, group: &str) -> Result<Self, String> {
        let spec = BrokerGroupSpec::deserialize(&resource["spec"]).map_err(|error| format!("the spec can't be read ({error}); {REPAIR}"))?;
        if (spec.cluster.as_str(), spec.group.as_str()) != (cluster, group) {
            return Err(format!(
                "it is of the group {:?} of the cluster {:?}, and this broker is of {group:?} of {cluster:?}: name another one in replication.coordinator",
                spec.group, spec.cluster
            ));
        }
        let text = |name: &str| resource["metadata"][name].as_str().map(str::to_owned).ok_or_else(|| format!("its metadata have no {name}"));
        let (uid, resource_version) = (text("uid")?, text("resourceVersion")?);
        let status = resource.get("status").filter(|status| !status.is_null()).cloned();
        Ok(Self { rests: Rests { uid, resource_version, status } })
    }

    pub(super) fn uid(&self) -> &str {
        &self.rests.uid
    }

    pub(super) fn rests(&self) -> Rests {
        self.rests.clone()
    }

    pub(super) fn is_founded(&self) -> bool {
        self.rests.status.is_some()
    }

    /// `None`: the group is not founded.
    pub(super) fn versioned(&self) -> Result<Option<Versioned>, String> {
        let Some(status) = &self.rests.status else { return Ok(None) };
        let state = state(status).map_err(|why| format!("the status can't be read ({why}); {REPAIR}"))?;
        Ok(Some(Versioned { version: self.rests.version(status), state }))
    }
}

fn state(status: &Value) -> Result<GroupState, String> {
    let status: BrokerGroupStatus = serde_json::from_value(status.clone()).map_err(|error| error.to_string())?;
    let number = |name: &str, value: i64| u64::try_from(value).map_err(|_| format!("{name} is {value}"));
    let id = |value: i64| u32::try_from(value).map(MemberId).map_err(|_| format!("{value} is no member's number"));
    let member = |member: &InSyncMember| {
        let store = u128::from_str_radix(&member.store, 16).map_err(|_| format!("{:?} is no life of a store", member.store))?;
        Ok(Member { id: id(member.id)?, store: Incarnation(store) })
    };
    Ok(GroupState {
        epoch: Epoch(number("epoch", status.epoch)?),
        master: id(status.master)?,
        in_sync: status.in_sync.iter().map(member).collect::<Result<_, String>>()?,
        revision: number("revision", status.revision)?,
        unclean: number("unclean", status.unclean)?,
        since: number("since", status.since)?,
    })
}

fn status(state: &GroupState) -> Result<BrokerGroupStatus, String> {
    let number = |value: u64| i64::try_from(value).map_err(|_| format!("{value} is more than Kubernetes can keep"));
    let member = |member: &Member| InSyncMember { id: i64::from(member.id.0), store: member.store.to_string() };
    let ids: Vec<_> = state.in_sync.iter().map(|member| member.id.to_string()).collect();
    Ok(BrokerGroupStatus {
        epoch: number(state.epoch.0)?,
        master: i64::from(state.master.0),
        in_sync: state.in_sync.iter().map(member).collect(),
        in_sync_members: ids.join(","),
        revision: number(state.revision)?,
        since: number(state.since)?,
        unclean: number(state.unclean)?,
    })
}

/// A JSON patch that replaces the status, and that only of the very object that it rests on.
pub(super) fn patch(from: &Rests, to: &GroupState) -> Result<Value, String> {
    let status = serde_json::to_value(status(to)?).map_err(|error| error.to_string())?;
    let is = |path: &str, value: &Value| json!({ "op": "test", "path": path, "value": value });
    let mut steps = vec![is("/metadata/uid", &from.uid.clone().into()), is("/metadata/resourceVersion", &from.resource_version.clone().into())];
    steps.extend(from.status.as_ref().map(|status| is("/status", status)));
    steps.push(json!({ "op": "add", "path": "/status", "value": status }));
    Ok(steps.into())
}

/// The Lease as the next renewal leaves it. It goes with the BrokerGroup of that uid.
pub(super) fn renewed(known: Option<LeaseObject>, lease: Lease, owner: &str) -> Result<LeaseObject, String> {
    let text = serde_json::to_string(&lease).map_err(|error| error.to_string())?;
    let is_new = known.is_none();
    let mut next = known.unwrap_or_default();
    let annotations = next.metadata.annotations.get_or_insert_default();
    if !is_new && !annotations.contains_key(LEASE) {
        return Err(foreign());
    }
    annotations.insert(LEASE.to_owned(), text);
    let spec = next.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(format!("member {} in epoch {}", lease.master, lease.epoch));
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    Ok(LeaseObject { metadata: owned(next.metadata, owner), ..next })
}

/// Who deletes the BrokerGroup deletes the Lease with it.
fn owned(metadata: ObjectMeta, owner: &str) -> ObjectMeta {
    let reference = OwnerReference {
        api_version: BrokerGroup::api_version(&()).into_owned(),
        kind: BrokerGroup::kind(&()).into_owned(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: owner.to_owned(),
        ..OwnerReference::default()
    };
    ObjectMeta { owner_references: Some(vec![reference]), ..metadata }
}

pub(super) fn lease(found: &LeaseObject) -> Result<Lease, String> {
    let text = found.metadata.annotations.iter().flatten().find_map(|(name, text)| (name == LEASE).then_some(text)).ok_or_else(foreign)?;
    serde_json::from_str(text).map_err(|error| format!("the lease can't be read ({error}); delete it, and the master writes another one"))
}

fn foreign() -> String {
    format!("the Lease of its name is not the group's: it has no annotation {LEASE}; name another BrokerGroup, or delete the Lease")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn rests(status: Option<Value>) -> Rests {
        Rests { uid: "u".into(), resource_version: "7".into(), status }
    }

    #[test]
    fn every_state_that_a_group_can_have_is_the_same_when_it_is_read_again() {
        let first = GroupState::first(Member { id: MemberId(0), store: Incarnation(0) });
        let widest = GroupState {
            epoch: Epoch(i64::MAX as u64),
            master: MemberId(u32::MAX),
            in_sync: BTreeSet::from([u128::MAX, 1].map(|store| Member { id: MemberId(u32::MAX), store: Incarnation(store) })),
            revision: i64::MAX as u64,
            unclean: 3,
            since: 1 << 60,
        };
        for state in [first, widest] {
            let written = serde_json::to_value(status(&state).unwrap()).unwrap();
            assert_eq!(super::state(&written), Ok(state.clone()), "{written}");
            // The text of a version leads to the same test of the same object.
            let rests = rests(Some(written.clone()));
            assert_eq!(Rests::on(&rests.version(&written)), Some(rests));
        }
        let too_many = GroupState { revision: u64::MAX, ..GroupState::first(Member { id: MemberId(1), store: Incarnation(1) }) };
        assert!(patch(&rests(None), &too_many).is_err());
    }

    #[test]
    fn a_status_that_says_too_little_too_much_or_something_else_is_no_state() {
        let whole = serde_json::to_value(status(&GroupState::first(Member { id: MemberId(1), store: Incarnation(1) })).unwrap()).unwrap();
        assert!(state(&whole).is_ok());
        for field in ["epoch", "master", "inSync", "revision", "since"] {
            for wrong in [Value::Null, json!(-1), json!("x"), json!([{ "id": 1, "store": "x" }])] {
                let mut other = whole.clone();
                other[field] = wrong;
                assert!(state(&other).is_err(), "{other}");
            }
        }
    }
}
